//! Reader of an object's members: each is taken by its name and type, and what is left over is refused by name.
//!
//! `null` is an absent member, as clients send it.

use serde_json::{Map, Value};

use super::ApiError;
use super::json::{member, shown};
use crate::choice::nearest;
use crate::error::Error;

/// Members of an object that are not yet taken.
pub(super) struct Fields {
    path: String,
    members: Map<String, Value>,
    /// Names that were asked for, present or not.
    known: Vec<&'static str>,
}

impl Fields {
    /// Opens an object at a path, which is empty for the body itself.
    ///
    /// # Errors
    /// When the value is not an object.
    pub(super) fn of(value: Value, path: impl Into<String>) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(members) => Ok(Self { path, members, known: Vec::new() }),
            other if path.is_empty() => {
                Err(Error::invalid(format!("the body is {}, not an object", type_of(&other))).into())
            }
            other => Err(mismatch(&path, &other, "an object")),
        }
    }

    /// Path of a member.
    pub(super) fn path_of(&self, key: &str) -> String {
        member(&self.path, key)
    }

    /// Takes a member of any type; `None` where it is absent or `null`.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.members.remove(key).filter(|value| !value.is_null())
    }

    /// Takes a text.
    ///
    /// # Errors
    /// Another type.
    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>, ApiError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(mismatch(&self.path_of(key), &other, "a string")),
        }
    }

    /// Takes a text that must be present.
    ///
    /// # Errors
    /// An absent member, or another type.
    pub(super) fn required_text(&mut self, key: &'static str) -> Result<String, ApiError> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    /// Takes a flag.
    ///
    /// # Errors
    /// Another type.
    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, ApiError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(mismatch(&self.path_of(key), &other, "a boolean")),
        }
    }

    /// Takes a finite number.
    ///
    /// # Errors
    /// Another type.
    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| mismatch(&self.path_of(key), &value, "a number"))
    }

    /// Takes a whole number; `1.0` is one.
    ///
    /// # Errors
    /// Another type, a fraction, a number outside of 64 bits.
    pub(super) fn whole(&mut self, key: &'static str) -> Result<Option<i128>, ApiError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        if let Some(whole) = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from)) {
            return Ok(Some(whole));
        }
        // Integers over 64 bits are floats too.
        match value.as_f64().filter(|x| x.fract() == 0.0) {
            Some(x) if x.abs() < 2f64.powi(64) => Ok(Some(x as i128)),
            Some(_) => Err(self.invalid(key, Error::invalid("a whole number over 64 bits"))),
            None => Err(mismatch(&self.path_of(key), &value, "a whole number")),
        }
    }

    /// Takes a number of things, from 1.
    ///
    /// # Errors
    /// Another type, or a number below 1.
    pub(super) fn count(&mut self, key: &'static str) -> Result<Option<usize>, ApiError> {
        let Some(n) = self.whole(key)? else { return Ok(None) };
        match usize::try_from(n) {
            Ok(n) if n > 0 => Ok(Some(n)),
            _ => {
                Err(self.invalid(key, Error::invalid(format!("invalid number {n}")).with_hint("a whole number from 1")))
            }
        }
    }

    /// Takes a list.
    ///
    /// # Errors
    /// Another type.
    pub(super) fn list(&mut self, key: &'static str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(mismatch(&self.path_of(key), &other, "a list")),
        }
    }

    /// Takes an object.
    ///
    /// # Errors
    /// Another type.
    pub(super) fn object(&mut self, key: &'static str) -> Result<Option<Self>, ApiError> {
        let path = self.path_of(key);
        self.value(key).map(|value| Self::of(value, path)).transpose()
    }

    /// Takes a member that changes nothing at the value `is_neutral`, and is not carried out at any other.
    ///
    /// # Errors
    /// Any other value.
    pub(super) fn neutral(&mut self, key: &'static str, is_neutral: fn(&Value) -> bool) -> Result<(), ApiError> {
        match self.value(key) {
            Some(value) if !is_neutral(&value) => {
                let rule = format!("{} is not supported", described(&value));
                Err(self.invalid(key, Error::invalid(rule).with_hint(format!("leave `{key}` out"))))
            }
            _ => Ok(()),
        }
    }

    /// Takes labels, which change no answer.
    pub(super) fn labels(&mut self, keys: &[&'static str]) {
        keys.iter().for_each(|key| drop(self.value(key)));
    }

    /// Makes the error of a member.
    pub(super) fn invalid(&self, key: &str, error: Error) -> ApiError {
        ApiError::of_value(self.path_of(key), error)
    }

    /// Makes the error of an absent member.
    pub(super) fn missing(&self, key: &str) -> ApiError {
        self.invalid(key, Error::invalid("missing"))
    }

    /// Checks that every member was taken.
    ///
    /// # Errors
    /// The first that was not, with the nearest known name.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        let Some((key, _)) = self.members.iter().find(|(_, value)| !value.is_null()) else { return Ok(()) };
        let name = shown(key);
        let hint = match nearest(&name, &self.known) {
            Some(best) => format!("did you mean `{best}`?"),
            None => "leave it out".to_owned(),
        };
        let error = Error::invalid(format!("unknown key `{name}`")).with_hint(hint);
        let error = if self.path.is_empty() { error } else { error.about(self.path.clone()) };
        Err(ApiError::from(error).with_param(member(&self.path, key)))
    }
}

/// Makes the error of a value of another type.
pub(super) fn mismatch(path: &str, value: &Value, expected: &str) -> ApiError {
    ApiError::of_value(path, Error::invalid(format!("{}, not {expected}", type_of(value))))
}

/// Returns the type of a value in words.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Returns a value as a message shows it: short values as they are, others by their type.
fn described(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("`{}`", shown(text)),
        other => type_of(other).to_owned(),
    }
}
