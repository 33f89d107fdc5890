//! YAML: pipelines are read as values and printed, other files are read as types. No other file uses `serde_yaml`.

use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::{self, DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::locate::{TextPosition, locate_duplicate};
use crate::error::{About, Error};
use crate::files;

/// Limit of a file's size, far above any real file.
const MAX_BYTES: u64 = 16 << 20;

/// Reads a file as a type.
///
/// # Errors
/// [`Error`] naming the file, and the line where there is one.
pub(crate) fn read_yaml<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let read = || {
        let bytes = files::read_bounded(path, MAX_BYTES)?;
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
    };
    let text = read().map_err(Error::io(path))?;
    parse_yaml(&text).about(path)
}

/// Error of a YAML text: its position, where it is known, and the rule.
pub(super) struct SyntaxError {
    pub(super) position: Option<TextPosition>,
    pub(super) rule: String,
}

/// Parses a text of any keys and values, and refuses a second occurrence of a key.
///
/// # Errors
/// [`SyntaxError`] with the parser's message.
pub(super) fn parse_values(text: &str) -> Result<Value, SyntaxError> {
    serde_yaml::from_str::<Strict>(text).map(|strict| strict.0).map_err(|error| {
        let rule = error.to_string();
        let Some(location) = error.location() else {
            // Errors of `StrictVisitor` have no position of their own.
            return SyntaxError { position: locate_duplicate(text), rule };
        };
        let position = TextPosition { line: location.line(), column: location.column() };
        let suffix = format!(" at line {} column {}", position.line, position.column);
        let position = if rule.contains(DUPLICATE) { locate_duplicate(text).unwrap_or(position) } else { position };
        SyntaxError { position: Some(position), rule: rule.replacen(&suffix, "", 1) }
    })
}

/// End of the message of a key's second occurrence.
const DUPLICATE: &str = "` comes twice";

/// Value whose maps contain each key once.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain YAML without tags")
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Err(E::custom(format!("the number {value} is too large")))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Err(E::custom(format!("the number {value} is too large")))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        if value.is_finite() { Ok(value.into()) } else { Err(E::custom(format!("invalid number `{value}`"))) }
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{key}{DUPLICATE}")));
            }
            let Strict(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Parses a text as a type.
///
/// # Errors
/// [`Error`] with the parser's message: key, rule, line.
pub(crate) fn parse_yaml<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_yaml::from_str(text).map_err(|error| Error::invalid(error.to_string()))
}
/// Prints a value as YAML; a variant with options is a map of one key.
///
/// # Errors
/// [`Error`] for a map whose keys are not texts.
pub(crate) fn print_yaml(value: &impl Serialize) -> Result<String, Error> {
    let mut bytes = Vec::new();
    serde_yaml::with::singleton_map_recursive::serialize(value, &mut serde_yaml::Serializer::new(&mut bytes))
        .map_err(|error| Error::invalid(error.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
