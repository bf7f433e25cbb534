//! Checked JSON text and the typed views on it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::rc::Rc;
use std::str::FromStr;

use super::scan::{self, Node, unquote};
use super::{Error, compact, nearest};

/// A text that is one JSON value, checked once. The default has no members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    text: String,
    nodes: Rc<Vec<Node>>,
}

/// One JSON value: a part of a checked text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    text: &'a str,
    nodes: Rc<Vec<Node>>,
    /// Its number among them.
    number: usize,
}

/// A JSON object, read as Go reads one into a struct. Keys keep their order,
/// spelling and repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object<'a> {
    /// `None` has no members.
    first: Option<Value<'a>>,
    /// Those of a repeated key, which are read over the first.
    more: Vec<Value<'a>>,
}

/// A key that nobody reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// The key as written, after the path of its object: `Backend.Vni2`.
    pub path: String,
    /// The key as written.
    pub key: String,
    /// The known key that was probably meant.
    pub nearest: Option<&'static str>,
}

/// An integer type that a JSON number can be read into.
pub trait Integer: FromStr {
    /// The accepted values, for an error message.
    const RANGE: &'static str;
}

macro_rules! integer {
    ($($type:ty: $range:literal,)*) => {$(
        impl Integer for $type {
            const RANGE: &'static str = $range;
        }
    )*};
}

integer! {
    u8: "a whole number from 0 to 255",
    u16: "a whole number from 0 to 65535",
    u32: "a whole number from 0 to 4294967295",
    u64: "a whole number of 0 or more",
    usize: "a whole number of 0 or more",
    i32: "a whole number from -2147483648 to 2147483647",
    i64: "a whole number of 64 bits",
}

/// Checks that `text` is one JSON value.
///
/// # Errors
/// [`Error::Syntax`], also for anything but white space after the value.
pub fn parse(text: &str) -> Result<Value<'_>, Error> {
    let nodes = Rc::new(scan::nodes(text)?);
    Ok(Value { text, nodes, number: 0 })
}

// === impl Document ===

impl Document {
    /// As [`parse`], for a text that is read more than once.
    ///
    /// # Errors
    /// [`Error::Syntax`].
    pub fn new(text: String) -> Result<Self, Error> {
        let nodes = Rc::new(scan::nodes(&text)?);
        Ok(Self { text, nodes })
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// As [`Object::parse`].
    ///
    /// # Errors
    /// [`Error::Type`] when the text is something else.
    pub fn object(&self) -> Result<Object<'_>, Error> {
        let nodes = Rc::clone(&self.nodes);
        Object::of(Value { text: &self.text, nodes, number: 0 })
    }
}

// === impl Value ===

impl<'a> Value<'a> {
    /// The text as it was written, without white space around it.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        let node = self.nodes.get(self.number);
        let text = node.and_then(|node| self.text.get(node.value.clone()));
        text.unwrap_or_default()
    }

    /// Where the value is, for messages: `Backend.VNI`, `ranges[0][1]`.
    #[must_use]
    pub fn path(&self) -> String {
        let mut path = String::new();
        let mut around = self.at(0);
        while around.number != self.number {
            let before = around
                .inside()
                .enumerate()
                .take_while(|(_, (number, _))| *number <= self.number);
            let Some((place, (number, node))) = before.last() else { break };
            if around.raw().starts_with('[') {
                path.push_str(&format!("[{place}]"));
            } else {
                let dot = if path.is_empty() { "" } else { "." };
                path.push_str(&format!("{dot}{}", around.key(node)));
            }
            around = self.at(number);
        }
        match path.is_empty() {
            true => "the document".to_owned(),
            false => path,
        }
    }

    /// What is directly inside a list or object, with its numbers.
    fn inside(&self) -> impl Iterator<Item = (usize, &Node)> {
        let end = self.nodes.get(self.number).map_or(0, |node| node.next);
        let mut next = self.number + 1;
        std::iter::from_fn(move || {
            let number = next;
            let node = self.nodes.get(number).filter(|_| number < end)?;
            next = node.next;
            Some((number, node))
        })
    }

    fn at(&self, number: usize) -> Self {
        Value { number, ..self.clone() }
    }

    /// A member's key as it is written.
    fn literal(&self, member: &Node) -> &'a str {
        self.text.get(member.key.clone()).unwrap_or_default()
    }

    /// A member's key.
    fn key(&self, member: &Node) -> Cow<'a, str> {
        unquote(self.literal(member))
    }

    /// The text as Go writes a raw value: see [`compact`].
    #[must_use]
    pub fn compact(&self) -> String {
        compact(self.raw())
    }

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.raw() == "null"
    }

    /// The value as a bool.
    ///
    /// # Errors
    /// [`Error::Type`] when it is none.
    pub fn bool(&self) -> Result<bool, Error> {
        match self.raw() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.mismatch("true or false")),
        }
    }

    /// The value as an integer.
    ///
    /// # Errors
    /// [`Error::Type`] when it is no number, has a fraction or an exponent,
    /// or does not fit.
    pub fn integer<T: Integer>(&self) -> Result<T, Error> {
        // a quoted number fails as well: the quotes are part of `raw`
        self.raw().parse().map_err(|_| self.mismatch(T::RANGE))
    }

    /// The value as a string.
    ///
    /// # Errors
    /// [`Error::Type`] when it is none.
    pub fn string(&self) -> Result<String, Error> {
        self.text().map(Cow::into_owned)
    }

    /// The same, as a part of the document unless there are escapes in it.
    ///
    /// # Errors
    /// [`Error::Type`] when it is none.
    pub fn text(&self) -> Result<Cow<'a, str>, Error> {
        let raw = self.raw();
        if !raw.starts_with('"') {
            return Err(self.mismatch("a string"));
        }
        Ok(unquote(raw))
    }

    /// The value's elements.
    ///
    /// # Errors
    /// [`Error::Type`] when it is no array.
    pub fn array(&self) -> Result<Vec<Self>, Error> {
        if !self.raw().starts_with('[') {
            return Err(self.mismatch("a list"));
        }
        Ok(self.inside().map(|(number, _)| self.at(number)).collect())
    }

    /// The value as an object.
    ///
    /// # Errors
    /// [`Error::Type`] when it is none.
    pub fn object(&self) -> Result<Object<'a>, Error> {
        if !self.raw().starts_with('{') {
            return Err(self.mismatch("an object"));
        }
        Ok(Object { first: Some(self.clone()), more: Vec::new() })
    }

    /// An error that says what should be here instead.
    #[must_use]
    pub fn mismatch(&self, want: impl Into<String>) -> Error {
        const SHOWN: usize = 60;
        let raw = self.raw();
        let mut got: String = raw.chars().take(SHOWN).collect();
        if got.len() < raw.len() {
            got.push('…');
        }
        Error::Type { path: self.path(), got, want: want.into() }
    }
}

// === impl Object ===

impl<'a> Object<'a> {
    /// Reads a text that is one object. `null` reads as an empty object.
    ///
    /// # Errors
    /// [`Error`] when the text is not JSON, or is something else.
    pub fn parse(text: &'a str) -> Result<Self, Error> {
        Self::of(parse(text)?)
    }

    fn of(document: Value<'a>) -> Result<Self, Error> {
        if document.is_null() || document.nodes.is_empty() {
            return Ok(Self::default());
        }
        document.object()
    }

    /// The members in their order, repetitions included.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, Value<'a>)> {
        self.parts().flat_map(|part| {
            part.inside()
                .map(|(number, node)| (part.key(node), part.at(number)))
        })
    }

    /// The last value of `name` as it is: `Some(null)` when it is `null`.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<Value<'a>> {
        self.last(name, |_| true)
    }

    /// The value of `name`, `null` being as good as nothing.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Value<'a>> {
        self.last(name, |value| !value.is_null())
    }

    /// A bool.
    ///
    /// # Errors
    /// [`Error::Type`] when the key holds anything else.
    pub fn bool(&self, name: &str) -> Result<Option<bool>, Error> {
        self.read(name, Value::bool)
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// [`Error::Type`] when the key holds anything else.
    pub fn uint(&self, name: &str) -> Result<Option<u64>, Error> {
        self.integer(name)
    }

    /// A signed integer.
    ///
    /// # Errors
    /// [`Error::Type`] when the key holds anything else.
    pub fn int(&self, name: &str) -> Result<Option<i64>, Error> {
        self.integer(name)
    }

    /// An integer of a given type.
    ///
    /// # Errors
    /// [`Error::Type`] when the key holds anything else, or it does not fit.
    pub fn integer<T: Integer>(&self, name: &str) -> Result<Option<T>, Error> {
        self.read(name, Value::integer)
    }

    /// A string.
    ///
    /// # Errors
    /// [`Error::Type`] when the key holds anything else.
    pub fn string(&self, name: &str) -> Result<Option<String>, Error> {
        self.read(name, Value::string)
    }

    /// See [`Value::text`].
    ///
    /// # Errors
    /// [`Error::Type`] when the key holds anything else.
    pub fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Error> {
        self.read(name, Value::text)
    }

    /// A list of strings; a `null` element reads as an empty string.
    ///
    /// # Errors
    /// [`Error::Type`] when the key holds anything else.
    pub fn strings(&self, name: &str) -> Result<Option<Vec<String>>, Error> {
        self.read(name, |value| {
            let text = |v: &Value<'_>| match v.is_null() {
                true => Ok(String::new()),
                false => v.string(),
            };
            value.array()?.iter().map(text).collect()
        })
    }

    /// A list.
    ///
    /// # Errors
    /// [`Error::Type`] when the key holds anything else.
    pub fn array(&self, name: &str) -> Result<Option<Vec<Value<'a>>>, Error> {
        self.read(name, Value::array)
    }

    /// An object. Under a repeated key the objects are read one over the
    /// other, as Go does with a struct or a map.
    ///
    /// # Errors
    /// [`Error::Type`] when the key holds anything else.
    pub fn object(&self, name: &str) -> Result<Option<Self>, Error> {
        let mut merged: Option<Self> = None;
        self.each(name, |value| {
            if value.is_null() {
                return Ok(());
            }
            let object = value.object()?;
            match &mut merged {
                Some(merged) => merged.more.push(value),
                None => merged = Some(object),
            }
            Ok(())
        })?;
        Ok(merged)
    }

    /// The keys that match none of `known`, each once, with the known key
    /// that was probably meant.
    #[must_use]
    pub fn unknown(&self, known: &[&'static str]) -> Vec<UnknownKey> {
        let mut out = Vec::new();
        let mut seen = BTreeSet::new();
        let around = self.path_of("");
        for (key, _) in self.iter() {
            let is_known = known.iter().any(|name| same_key(&key, name));
            if !is_known && seen.insert(key.clone()) {
                out.push(UnknownKey {
                    // not the value's own: to find that takes the longer the
                    // more there are before it
                    path: format!("{around}{key}"),
                    nearest: nearest(&key, known),
                    key: key.into_owned(),
                });
            }
        }
        out
    }

    /// Where the member `name` is or would be, for messages.
    #[must_use]
    pub fn path_of(&self, name: &str) -> String {
        let around = self.first.as_ref().filter(|first| first.number != 0);
        match around {
            Some(around) => format!("{}.{name}", around.path()),
            None => name.to_owned(),
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Value<'a>> {
        self.first.iter().chain(&self.more)
    }

    /// Hands over each value of `name`.
    fn each<E>(
        &self,
        name: &str,
        mut take: impl FnMut(Value<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        for part in self.parts() {
            for (number, node) in part.inside() {
                if is_key(part.literal(node), name) {
                    take(part.at(number))?;
                }
            }
        }
        Ok(())
    }

    fn last(
        &self,
        name: &str,
        counts: impl Fn(&Value<'a>) -> bool,
    ) -> Option<Value<'a>> {
        let mut last = None;
        let Ok(()) = self.each(name, |value| {
            if counts(&value) {
                last = Some(value);
            }
            Ok::<(), Infallible>(())
        });
        last
    }

    fn read<T>(
        &self,
        name: &str,
        read: impl Fn(&Value<'a>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let mut out = None;
        self.each(name, |value| {
            if !value.is_null() {
                out = Some(read(&value)?);
            }
            Ok(())
        })?;
        Ok(out)
    }
}

/// Whether two keys are one to Go. The names that are compared with are
/// ASCII, to which only two other characters fold.
fn same_key(a: &str, b: &str) -> bool {
    // those two take more bytes than what they fold to
    if a.len() <= b.len() || a.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    let fold = |c: char| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    a.chars().map(fold).eq(b.chars().map(fold))
}

/// The same for a key as it is written. Nearly all are told apart by their
/// length: whatever is escaped or folds is written with more bytes.
fn is_key(literal: &str, name: &str) -> bool {
    let inner = literal.as_bytes().get(1..).unwrap_or_default();
    let inner = inner.split_last().map_or(inner, |(_quote, inner)| inner);
    match inner.len().cmp(&name.len()) {
        Ordering::Less => false,
        Ordering::Equal => inner.eq_ignore_ascii_case(name.as_bytes()),
        Ordering::Greater => {
            inner.iter().any(|byte| *byte == b'\\' || !byte.is_ascii())
                && same_key(&unquote(literal), name)
        }
    }
}
