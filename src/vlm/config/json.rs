//! Typed access to the keys of a JSON file: every error names file, key, value and rule.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Kind};

/// JSON object, with the path of its file and the keys of the objects around it.
#[derive(Debug, Clone)]
pub struct JsonFile {
    path: PathBuf,
    prefix: String,
    json: Value,
}

impl JsonFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When the file cannot be read or is not a JSON object.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = crate::files::read(path).map_err(Error::io(path))?;
        let not_json = |cause: String| Error::new(Kind::Model, format!("not JSON: {cause}")).about(path);
        let json: Value = serde_json::from_slice(&bytes).map_err(|error| not_json(error.to_string()))?;
        if !json.is_object() {
            return Err(not_json("expected an object".to_owned()));
        }
        Ok(Self { path: path.to_owned(), prefix: String::new(), json })
    }

    /// Returns the JSON value.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a key's value; `null` is the same as no key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// Returns the object at a key.
    ///
    /// # Errors
    /// When the key is missing or its value is not an object.
    pub fn section(&self, key: &str) -> Result<Self, Error> {
        let json = self.get(key).filter(|value| value.is_object()).cloned();
        let json = json.ok_or_else(|| self.wrong(key, "expected an object"))?;
        Ok(Self { path: self.path.clone(), prefix: format!("{}{key}.", self.prefix), json })
    }

    /// Returns the object at a key like [`Self::section`], or an empty object without the key.
    ///
    /// # Errors
    /// When the value is not an object.
    pub(crate) fn section_or_empty(&self, key: &str) -> Result<Self, Error> {
        match self.get(key) {
            Some(_) => self.section(key),
            None => {
                let (path, prefix) = (self.path.clone(), format!("{}{key}.", self.prefix));
                Ok(Self { path, prefix, json: Value::Object(serde_json::Map::new()) })
            }
        }
    }

    /// Returns an object with other contents under the same path and prefix.
    pub(super) fn with(&self, json: Value) -> Self {
        Self { json, ..self.clone() }
    }

    /// Returns whether a key is present with the value `null`, which some classes distinguish from an absent key.
    pub fn is_null(&self, key: &str) -> bool {
        self.json.get(key).is_some_and(Value::is_null)
    }

    /// Returns the key with a prefix of the keys of the objects around it.
    pub(crate) fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Makes the error of a key that breaks a rule.
    pub fn wrong(&self, key: &str, rule: &str) -> Error {
        self.unusable(key, Error::invalid(rule.to_owned()))
    }

    /// Makes the error of a key whose value is unusable for the reason and with the hint of `error`.
    pub(crate) fn unusable(&self, key: &str, error: Error) -> Error {
        let value = self.json.get(key).map_or("nothing".to_owned(), Value::to_string);
        let error = error.reworded(|rule| format!("{value} is not usable; {rule}"));
        error.with_kind(Kind::Model).about(self.full_key(key)).about(&self.path)
    }

    /// Returns the text at a key.
    ///
    /// # Errors
    /// When the value is not a text.
    pub fn string(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "expected a text", Value::as_str)
    }

    /// Returns the boolean at a key.
    ///
    /// # Errors
    /// When the value is not a boolean.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "expected true or false", Value::as_bool)
    }

    /// Returns the integer at a key.
    ///
    /// # Errors
    /// When the value is not an integer.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, Error> {
        self.typed(key, "expected a whole number", Value::as_i64)
    }

    /// Returns the positive, finite number at a key.
    ///
    /// # Errors
    /// When the value is not such a number.
    pub fn positive(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "expected a number above 0", |value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0))
    }

    /// Returns the integer within a range at a key.
    ///
    /// # Errors
    /// When the value is not an integer of the range.
    pub fn count(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, Error> {
        let rule = format!("expected a whole number from {} to {}", range.start(), range.end());
        self.typed(key, &rule, |value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n))
        })
    }

    /// Returns the token id or the list of token ids at a key; empty when the key is missing.
    ///
    /// # Errors
    /// When the value is neither.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>, Error> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.typed(key, "expected a token id, or a list of token ids", |value| match value {
            Value::Array(list) => list.iter().map(id).collect(),
            single => id(single).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        rule: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.get(key).map(|value| read(value).ok_or_else(|| self.wrong(key, rule))).transpose()
    }
}
