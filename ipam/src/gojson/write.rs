//! Writing as Go writes.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

/// JSON with Go's escapes, compact or laid out over several lines. A
/// [`RawValue`](serde_json::value::RawValue) is written as [`compact`] does.
#[derive(Clone, Copy, Debug, Default)]
struct GoFormatter {
    /// One step; `None` keeps all in one line.
    indent: Option<&'static str>,
    depth: usize,
    /// Whether the innermost list or object holds something.
    filled: bool,
}

/// Writes `value` as Go's `json.Marshal` would: no spaces, no newline at the
/// end, struct fields in their order.
///
/// # Errors
/// Whatever `value`'s own `Serialize` fails with (a map whose keys are no
/// strings, for example).
pub fn to_string<T: Serialize + ?Sized>(
    value: &T,
) -> Result<String, serde_json::Error> {
    // many are a word, and are kept as they are
    written(value, None, 32)
}

/// The same over several lines, as Go's `json.MarshalIndent` lays it out: one
/// step of `indent` per level, `{}` and `[]` left together. Raw values stay
/// in one line.
///
/// # Errors
/// As [`to_string`].
pub fn to_lines<T: Serialize + ?Sized>(
    value: &T,
    indent: &'static str,
) -> Result<String, serde_json::Error> {
    written(value, Some(indent), 1024)
}

fn written<T: Serialize + ?Sized>(
    value: &T,
    indent: Option<&'static str>,
    room: usize,
) -> Result<String, serde_json::Error> {
    let mut out = Vec::with_capacity(room);
    let form = GoFormatter { indent, ..GoFormatter::default() };
    let mut to = serde_json::Serializer::with_formatter(&mut out, form);
    value.serialize(&mut to)?;
    String::from_utf8(out).map_err(serde::ser::Error::custom)
}

/// JSON text without the white space between its parts and with Go's
/// escapes in its strings; the order of keys, repeated keys, the spelling of
/// numbers and other escapes stay. What Go does with a raw value it writes
/// (E-10 and its neighbours).
#[must_use]
pub fn compact(json: &str) -> String {
    if !json.bytes().any(|b| may_escape(b) || is_space(b.into())) {
        return json.to_owned();
    }
    let mut out = String::with_capacity(json.len());
    for (part, in_string) in Parts::new(json) {
        if in_string {
            push_escaped(&mut out, part);
        } else {
            out.extend(part.chars().filter(|c| !is_space(*c)));
        }
    }
    out
}

const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Whether a character that [`push_escaped`] changes may begin with this
/// byte: U+2028 and U+2029 begin with the last.
const fn may_escape(byte: u8) -> bool {
    matches!(byte, b'<' | b'>' | b'&' | 0xe2)
}

fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
}

/// JSON text cut into strings (with their quotes) and what is between.
struct Parts<'a> {
    rest: &'a str,
}

// === impl Parts ===

impl<'a> Parts<'a> {
    const fn new(rest: &'a str) -> Self {
        Self { rest }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = (&'a str, bool);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let in_string = self.rest.starts_with('"');
        let end = if in_string {
            let mut escaped = false;
            let closing = |(_, c): &(usize, char)| {
                let found = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                found
            };
            self.rest.char_indices().skip(1).find(closing).map(|(i, _)| i + 1)
        } else {
            self.rest.find('"')
        };
        let end = end.unwrap_or(self.rest.len());
        let (part, rest) =
            self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        Some((part, in_string))
    }
}

// === impl GoFormatter ===

impl GoFormatter {
    /// Where something of the innermost list or object begins, or its end.
    fn line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }

    fn open<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        bracket: &[u8],
    ) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        bracket: &[u8],
    ) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        if self.filled {
            self.line(writer)?;
        }
        // it is something of what is around it
        self.filled = true;
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        self.filled = true;
        self.line(writer)
    }
}

impl Formatter for GoFormatter {
    fn begin_array<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
    ) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
    ) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
    ) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
    ) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
    ) -> io::Result<()> {
        let colon: &[u8] = if self.indent.is_some() { b": " } else { b":" };
        writer.write_all(colon)
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !fragment.bytes().any(may_escape) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut out = String::with_capacity(fragment.len());
        push_escaped(&mut out, fragment);
        writer.write_all(out.as_bytes())
    }

    fn write_raw_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        writer.write_all(compact(fragment).as_bytes())
    }

    /// Shortest digits; an exponent only below 1e-6 and from 1e21.
    fn write_f64<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        value: f64,
    ) -> io::Result<()> {
        let size = value.abs();
        if size == 0.0 || (1e-6..1e21).contains(&size) {
            return write!(writer, "{value}");
        }
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((digits, power)) if !power.starts_with('-') => {
                write!(writer, "{digits}e+{power}")
            }
            _ => writer.write_all(text.as_bytes()),
        }
    }
}
