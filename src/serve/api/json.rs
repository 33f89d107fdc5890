//! Strict JSON: a duplicate key and deep nesting are errors, and every error has the path at which it occurred.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::ApiError;
use crate::error::Error;

/// Depth of arrays and objects at most. A request has 7.
const MAX_DEPTH: usize = 32;
/// Values of a body at most: a value takes more memory than its text.
const MAX_VALUES: usize = 200_000;
/// Characters of a client's name in a message at most.
const MAX_SHOWN: usize = 64;

/// Parses a body.
///
/// # Errors
/// Anything that is not one JSON value; duplicate keys; nesting over the limit.
pub(super) fn parse(body: &[u8]) -> Result<Value, ApiError> {
    let (path, n_values) = (RefCell::new(String::new()), Cell::new(0));
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = StrictValue { path: &path, n_values: &n_values, depth: 0 }.deserialize(&mut deserializer);
    parsed.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        let path = path.into_inner();
        let rule = Error::invalid(format!("invalid JSON: {error}"));
        if path.is_empty() { ApiError::from(rule) } else { ApiError::of_value(path, rule) }
    })
}

/// Returns a client's name as it stands in a message: at most [`MAX_SHOWN`] characters.
pub(super) fn shown(name: &str) -> String {
    match name.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

/// Returns the path of a member of an object.
pub(super) fn member(path: &str, key: &str) -> String {
    if path.is_empty() { shown(key) } else { format!("{path}.{}", shown(key)) }
}

/// Returns the path of an element of an array.
pub(super) fn element(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Value that is being parsed, and its path, which is left at the failure.
#[derive(Clone, Copy)]
struct StrictValue<'p> {
    path: &'p RefCell<String>,
    n_values: &'p Cell<usize>,
    depth: usize,
}

impl StrictValue<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format!("nested over {MAX_DEPTH} deep")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    /// Goes to a path, and back after success.
    fn at<T, E>(self, to: String, parse: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let from = self.path.replace(to);
        let parsed = parse()?;
        self.path.replace(from);
        Ok(parsed)
    }
}

impl<'de> DeserializeSeed<'de> for StrictValue<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.n_values.set(self.n_values.get() + 1);
        if self.n_values.get() > MAX_VALUES {
            return Err(D::Error::custom(format!("over {MAX_VALUES} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
        let (seed, mut values) = (self.deeper()?, Vec::new());
        loop {
            let path = element(&self.path.borrow(), values.len());
            let Some(value) = seed.at(path, || array.next_element_seed(seed))? else { return Ok(Value::Array(values)) };
            values.push(value);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let (seed, mut members) = (self.deeper()?, Map::new());
        while let Some(key) = object.next_key::<String>()? {
            if members.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate key `{}`", shown(&key))));
            }
            let path = member(&self.path.borrow(), &key);
            let value = seed.at(path, || object.next_value_seed(seed))?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_as_serde_json_reads_it() {
        let text = r#" {"a": [1, -2, 2.5e3, true, null, "\u00e4\n"], "b": {}, "": 18446744073709551615} "#;
        assert_eq!(parse(text.as_bytes()).expect("valid"), serde_json::from_str::<Value>(text).expect("valid"));
    }

    #[test]
    fn errors_have_the_path_at_which_they_occurred() {
        let deep = format!("{}{}", "[".repeat(33), "]".repeat(33));
        for (text, param, expected) in [
            (r#"{"a": 1, "a": 1}"#, None, "invalid JSON: duplicate key `a` at line 1 column 12"),
            (r#"{"a": [{}, {"b": 1, "b": 2}]}"#, Some("a[1]"), "a[1]: invalid JSON: duplicate key `b` at line 1"),
            (r#"{"a": NaN}"#, Some("a"), "a: invalid JSON: expected value at line 1"),
            (r#"{"a": {"b": 1e400}}"#, Some("a.b"), "a.b: invalid JSON: number out of range"),
            (r#"{"a": 1} x"#, None, "invalid JSON: trailing characters"),
            ("", None, "invalid JSON: EOF while parsing a value"),
            (r#"{"a": "\ud800"}"#, Some("a"), "a: invalid JSON: "),
            (&deep, Some(&format!("{}[0]", "[0]".repeat(31))), "[0][0]"),
        ] {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(error.message.starts_with(expected), "{}, not {expected}", error.message);
            assert_eq!(error.param.as_deref(), param, "{text}");
        }
        assert!(parse(b"{\"a\": \"\xff\"}").is_err());
        let many = format!("[0{}]", ",0".repeat(MAX_VALUES));
        assert!(parse(many.as_bytes()).expect_err("many").message.contains("over 200000 values"));
        let long = format!("{{\"{0}\": 1, \"{0}\": 1}}", "k".repeat(1000));
        assert!(parse(long.as_bytes()).expect_err("duplicate").message.len() < 200);
    }
}
