//! The grammar: where a value ends, and what a string literal says.

use std::borrow::Cow;

use super::Error;

/// Nesting beyond this is an error, as in Go.
const MAX_DEPTH: usize = 10_000;

/// A position in JSON text.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    pos: usize,
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, pos: 0 }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    pub(super) fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.pos += 1;
        }
    }

    /// Steps over `byte` if it is next.
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    pub(super) fn expect(
        &mut self,
        byte: u8,
        after: &str,
    ) -> Result<(), Error> {
        if self.eat(byte) {
            return Ok(());
        }
        Err(self
            .unexpected(&format!("{:?} is needed {after}", char::from(byte))))
    }

    /// Steps over one value of any kind and returns its text.
    pub(super) fn value(&mut self) -> Result<&'a str, Error> {
        self.value_in(0)
    }

    /// The same for a value that is inside `depth` others.
    pub(super) fn value_in(&mut self, depth: usize) -> Result<&'a str, Error> {
        self.skip_space();
        let start = self.pos;
        let mut open = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                Some(b'{') => {
                    self.pos += 1;
                    self.skip_space();
                    open.push(b'}');
                    if self.peek() != Some(b'}') {
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.pos += 1;
                    self.skip_space();
                    open.push(b']');
                    if self.peek() != Some(b']') {
                        if depth + open.len() > MAX_DEPTH {
                            return Err(self.error("nested too deeply"));
                        }
                        continue;
                    }
                }
                Some(b'"') => drop(self.string()?),
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                _ => return Err(self.unexpected("a value is needed")),
            }
            if depth + open.len() > MAX_DEPTH {
                return Err(self.error("nested too deeply"));
            }
            // after a value: close what ends here, or go on to the next one
            loop {
                let Some(&close) = open.last() else {
                    return Ok(self.since(start));
                };
                self.skip_space();
                if self.eat(close) {
                    open.pop();
                    continue;
                }
                self.expect(b',', "between two values")?;
                self.skip_space();
                if close == b'}' {
                    self.key()?;
                }
                break;
            }
        }
    }

    /// Steps over `"key":` and returns the key's literal.
    pub(super) fn key(&mut self) -> Result<&'a str, Error> {
        let literal = self.string()?;
        self.skip_space();
        self.expect(b':', "after a key")?;
        Ok(literal)
    }

    /// Steps over a string literal and returns it with its quotes.
    fn string(&mut self) -> Result<&'a str, Error> {
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
                    return Ok(self.since(start));
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
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.skip_space();
        if self.peek().is_none() {
            return Ok(());
        }
        Err(self.unexpected("nothing may follow the value"))
    }

    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.pos).unwrap_or_default()
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
