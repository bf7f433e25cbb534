//! The grammar: where each value begins and ends, and what a string literal
//! says.

use std::borrow::Cow;
use std::ops::Range;

use super::Error;

/// Nesting beyond this is an error, as in Go.
const MAX_DEPTH: usize = 10_000;

/// Bytes of text to a value, at the least, in what is read here: room for all
/// of a text's values is made at once.
const DENSITY: usize = 16;

/// One value of a text, in bytes from its beginning. The values are kept in
/// their order: what is inside one comes right after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// The literal of the key with its quotes; empty if there is none.
    pub(super) key: Range<usize>,
    /// The value's own text.
    pub(super) value: Range<usize>,
    /// The number of the first value after this one that is not inside it.
    pub(super) next: usize,
}

/// A position in JSON text.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    text: &'a str,
    pos: usize,
}

/// All values of `text`, which is one value.
pub(super) fn nodes(text: &str) -> Result<Vec<Node>, Error> {
    let mut cursor = Cursor { text, pos: 0 };
    let mut nodes = Vec::with_capacity(text.len() / DENSITY + 1);
    // the lists and objects around, each with what closes it
    let mut open: Vec<(usize, u8)> = Vec::new();
    let mut key = 0..0;
    loop {
        cursor.skip_space();
        let (this, start) = (nodes.len(), cursor.pos);
        nodes.push(Node { key, value: start..start, next: this + 1 });
        match cursor.peek() {
            Some(bracket @ (b'{' | b'[')) => {
                let close = if bracket == b'{' { b'}' } else { b']' };
                open.push((this, close));
                if open.len() > MAX_DEPTH {
                    return Err(cursor.error("nested too deeply"));
                }
                cursor.pos += 1;
                cursor.skip_space();
                if cursor.peek() != Some(close) {
                    key = cursor.key_in(close)?;
                    continue;
                }
            }
            Some(b'"') => {
                cursor.string()?;
            }
            Some(b'-' | b'0'..=b'9') => cursor.number()?,
            Some(b't') => cursor.word("true")?,
            Some(b'f') => cursor.word("false")?,
            Some(b'n') => cursor.word("null")?,
            _ => return Err(cursor.unexpected("a value is needed")),
        }
        let next = nodes.len();
        let mut ended = this;
        // after a value: close what ends here, or go on to the next one
        key = loop {
            if let Some(node) = nodes.get_mut(ended) {
                (node.value.end, node.next) = (cursor.pos, next);
            }
            cursor.skip_space();
            let Some(&(around, close)) = open.last() else {
                return cursor.end().map(|()| nodes);
            };
            if cursor.eat(close) {
                open.pop();
                ended = around;
                continue;
            }
            cursor.expect(b',', "between two values")?;
            cursor.skip_space();
            break cursor.key_in(close)?;
        };
    }
}

// === impl Cursor ===

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.pos += 1;
        }
    }

    /// Steps over `byte` if it is next.
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, after: &str) -> Result<(), Error> {
        if self.eat(byte) {
            return Ok(());
        }
        Err(self
            .unexpected(&format!("{:?} is needed {after}", char::from(byte))))
    }

    /// Steps over `"key":` and returns the key's literal, where members of
    /// what `close` ends have keys.
    fn key_in(&mut self, close: u8) -> Result<Range<usize>, Error> {
        if close != b'}' {
            return Ok(0..0);
        }
        let literal = self.string()?;
        self.skip_space();
        self.expect(b':', "after a key")?;
        Ok(literal)
    }

    /// Steps over a string literal and returns it with its quotes.
    fn string(&mut self) -> Result<Range<usize>, Error> {
        let start = self.pos;
        self.expect(b'"', "before a key")?;
        loop {
            let rest = self.text.as_bytes().get(self.pos..).unwrap_or_default();
            let plain = |b: &&u8| !matches!(b, 0..=0x1f | b'"' | b'\\');
            self.pos += rest.iter().take_while(plain).count();
            match self.peek() {
                None => return Err(self.error("the text ends in a string")),
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(start..self.pos);
                }
                Some(b'\\') => self.escape()?,
                Some(0..=0x1f) => {
                    return Err(
                        self.error("a control character inside a string")
                    );
                }
                Some(_) => self.pos += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<(), Error> {
        self.pos += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.pos += 1
            }
            Some(b'u') => {
                self.pos += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return Err(self.unexpected("\\u needs four digits"));
                    }
                    self.pos += 1;
                }
            }
            _ => return Err(self.unexpected("no escape of JSON")),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Error> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Error> {
        let start = self.pos;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.pos += 1;
        }
        if start == self.pos {
            return Err(self.unexpected("a digit is needed in a number"));
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), Error> {
        let rest = self.text.get(self.pos..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(self.unexpected(&format!("only {word} begins so")));
        }
        self.pos += word.len();
        Ok(())
    }

    /// Nothing but white space may be left.
    fn end(&mut self) -> Result<(), Error> {
        self.skip_space();
        if self.peek().is_none() {
            return Ok(());
        }
        Err(self.unexpected("nothing may follow the value"))
    }

    fn unexpected(&self, why: &str) -> Error {
        let rest = self.text.get(self.pos..).unwrap_or_default();
        match rest.chars().next() {
            Some(c) => self.error(&format!("{c:?} found, {why}")),
            None => self.error(&format!("the text ends, {why}")),
        }
    }

    fn error(&self, what: &str) -> Error {
        let before = self.text.get(..self.pos).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        Error::Syntax {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            what: what.to_owned(),
        }
    }
}

/// What a checked string literal (with its quotes) says. Half a surrogate
/// pair becomes U+FFFD, as in Go.
pub(super) fn unquote(literal: &str) -> Cow<'_, str> {
    let inner = literal
        .strip_prefix('"')
        .and_then(|l| l.strip_suffix('"'))
        .unwrap_or(literal);
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escape.chars();
        let Some(kind) = chars.next() else { break };
        rest = chars.as_str();
        match kind {
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => {
                let (c, after) = unicode(rest);
                out.push(c);
                rest = after;
            }
            other => out.push(other),
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The character of `XXXX` or `XXXX\uXXXX`, and what follows it.
fn unicode(text: &str) -> (char, &str) {
    let (first, rest) = hex4(text);
    if let Some(c) = char::from_u32(first) {
        return (c, rest);
    }
    if let Some(low) = rest.strip_prefix("\\u") {
        let (second, after) = hex4(low);
        let pair = [first, second].map(|u| u16::try_from(u).unwrap_or(0));
        if let Some(Ok(c)) = char::decode_utf16(pair).next() {
            return (c, after);
        }
    }
    (char::REPLACEMENT_CHARACTER, rest)
}

fn hex4(text: &str) -> (u32, &str) {
    let (digits, rest) = text.split_at_checked(4).unwrap_or((text, ""));
    (u32::from_str_radix(digits, 16).unwrap_or(0xfffd), rest)
}
