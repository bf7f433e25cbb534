//! Checked JSON text and the typed views on it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::str::FromStr;

use super::scan::{Cursor, unquote};
use super::{Error, compact, nearest};

/// One JSON value: its own text, not yet taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    raw: &'a str,
    path: Cow<'a, str>,
}

/// A JSON object, read as Go reads one into a struct. Keys keep their order,
/// spelling and repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object<'a> {
    path: Cow<'a, str>,
    entries: Vec<(Cow<'a, str>, Value<'a>)>,
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
    let mut cursor = Cursor::new(text);
    let raw = cursor.value()?;
    cursor.end()?;
    Ok(Value { raw, path: Cow::Borrowed("") })
}

// === impl Value ===

impl<'a> Value<'a> {
    /// The text as it was written, without white space around it.
    #[must_use]
    pub const fn raw(&self) -> &'a str {
        self.raw
    }

    /// Where the value is, for messages: `Backend.VNI`, `ranges[0][1]`.
    #[must_use]
    pub fn path(&self) -> &str {
        if self.path.is_empty() { "the document" } else { &self.path }
    }

    /// The text as Go writes a raw value: see [`compact`].
    #[must_use]
    pub fn compact(&self) -> String {
        compact(self.raw)
    }

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.raw == "null"
    }

    /// The value as a bool.
    ///
    /// # Errors
    /// [`Error::Type`] when it is none.
    pub fn bool(&self) -> Result<bool, Error> {
        match self.raw {
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
        self.raw.parse().map_err(|_| self.mismatch(T::RANGE))
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
        if !self.raw.starts_with('"') {
            return Err(self.mismatch("a string"));
        }
        Ok(unquote(self.raw))
    }

    /// The value's elements.
    ///
    /// # Errors
    /// [`Error::Type`] when it is no array.
    pub fn array(&self) -> Result<Vec<Self>, Error> {
        let mut cursor = Cursor::new(self.raw);
        if !cursor.eat(b'[') {
            return Err(self.mismatch("a list"));
        }
        let mut out = Vec::new();
        cursor.skip_space();
        while cursor.peek() != Some(b']') {
            let path = format!("{}[{}]", self.path, out.len()).into();
            out.push(Value { raw: cursor.value()?, path });
            cursor.skip_space();
            cursor.eat(b',');
        }
        Ok(out)
    }

    /// The value as an object.
    ///
    /// # Errors
    /// [`Error::Type`] when it is none.
    pub fn object(&self) -> Result<Object<'a>, Error> {
        let mut cursor = Cursor::new(self.raw);
        if cursor.peek() != Some(b'{') {
            return Err(self.mismatch("an object"));
        }
        let entries = members(&mut cursor, &self.path)?;
        Ok(Object { path: self.path.clone(), entries })
    }

    /// An error that says what should be here instead.
    #[must_use]
    pub fn mismatch(&self, want: impl Into<String>) -> Error {
        const SHOWN: usize = 60;
        let mut got: String = self.raw.chars().take(SHOWN).collect();
        if got.len() < self.raw.len() {
            got.push('…');
        }
        Error::Type { path: self.path().to_owned(), got, want: want.into() }
    }
}

// === impl Object ===

impl<'a> Object<'a> {
    /// Reads a text that is one object. `null` reads as an empty object.
    ///
    /// # Errors
    /// [`Error`] when the text is not JSON, or is something else.
    pub fn parse(text: &'a str) -> Result<Self, Error> {
        // What a whole cluster publishes is read this way: in one go.
        let mut cursor = Cursor::new(text);
        cursor.skip_space();
        if cursor.peek() == Some(b'{') {
            let entries = members(&mut cursor, "")?;
            cursor.end()?;
            return Ok(Self { path: Cow::Borrowed(""), entries });
        }
        let value = parse(text)?;
        if value.is_null() {
            return Ok(Self::default());
        }
        value.object()
    }

    /// The members in their order, repetitions included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.entries.iter().map(|(k, v)| (k.as_ref(), v))
    }

    /// The last value of `name` as it is: `Some(null)` when it is `null`.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<Value<'a>> {
        self.all(name).last().cloned()
    }

    /// The value of `name`, `null` being as good as nothing.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Value<'a>> {
        self.all(name).rfind(|v| !v.is_null()).cloned()
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
        for value in self.all(name).filter(|v| !v.is_null()) {
            let object = value.object()?;
            match &mut merged {
                Some(first) => first.entries.extend(object.entries),
                None => merged = Some(object),
            }
        }
        Ok(merged)
    }

    /// The keys that match none of `known`, each once, with the known key
    /// that was probably meant.
    #[must_use]
    pub fn unknown(&self, known: &[&'static str]) -> Vec<UnknownKey> {
        let mut out = Vec::new();
        let mut seen = BTreeSet::new();
        for (key, value) in &self.entries {
            let is_known = known.iter().any(|name| same_key(key, name));
            if !is_known && seen.insert(key) {
                out.push(UnknownKey {
                    path: value.path.to_string(),
                    key: key.to_string(),
                    nearest: nearest(key, known),
                });
            }
        }
        out
    }

    /// Where the member `name` is or would be, for messages.
    #[must_use]
    pub fn path_of(&self, name: &str) -> String {
        join(&self.path, &Cow::Borrowed(name)).into_owned()
    }

    fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &Value<'a>> {
        self.entries
            .iter()
            .filter(move |(key, _)| same_key(key, name))
            .map(|(_, value)| value)
    }

    fn read<T>(
        &self,
        name: &str,
        read: impl Fn(&Value<'a>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let mut out = None;
        for value in self.all(name).filter(|v| !v.is_null()) {
            out = Some(read(value)?);
        }
        Ok(out)
    }
}

/// The members of the object that the cursor stands before.
fn members<'a>(
    cursor: &mut Cursor<'a>,
    path: &str,
) -> Result<Vec<(Cow<'a, str>, Value<'a>)>, Error> {
    let mut entries = Vec::new();
    cursor.expect(b'{', "before members")?;
    cursor.skip_space();
    if cursor.eat(b'}') {
        return Ok(entries);
    }
    loop {
        let key = unquote(cursor.key()?);
        let path = join(path, &key);
        entries.push((key, Value { raw: cursor.value_in(1)?, path }));
        cursor.skip_space();
        if cursor.eat(b'}') {
            return Ok(entries);
        }
        cursor.expect(b',', "between two values")?;
        cursor.skip_space();
    }
}

fn join<'a>(path: &str, key: &Cow<'a, str>) -> Cow<'a, str> {
    if path.is_empty() { key.clone() } else { [path, ".", key].concat().into() }
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
