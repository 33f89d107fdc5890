//! JSON in which no object has a key twice: parsers of JSON keep the last value of such a key without a word, and which
//! one was meant is unknown.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::map::Entry;
use serde_json::{Map, Value};

/// A JSON value. A key that comes twice in an object, at any depth, is an error that names it.
pub(crate) struct UniqueJson(pub(crate) Value);

impl<'de> Deserialize<'de> for UniqueJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(Self)
    }
}

/// Returns the error of a key that comes twice.
fn twice<E: serde::de::Error>(key: &str) -> E {
    E::custom(format_args!("the key `{key}` comes twice"))
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(UniqueJson(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            match map.entry(key) {
                Entry::Occupied(known) => return Err(twice(known.key())),
                Entry::Vacant(new) => new.insert(object.next_value::<UniqueJson>()?.0),
            };
        }
        Ok(map.into())
    }
}

/// A map of which no key comes twice; such a key is an error that names it.
#[derive(Debug)]
pub(crate) struct UniqueMap<V>(pub(crate) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

/// Deserializes the map of a field as [`UniqueMap`].
///
/// # Errors
/// A key that comes twice, by name.
pub(crate) fn unique_map<'de, V, D>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    UniqueMap::deserialize(deserializer).map(|map| map.0)
}

struct MapVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for MapVisitor<V> {
    type Value = UniqueMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<UniqueMap<V>, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = object.next_entry::<String, V>()? {
            if map.contains_key(&key) {
                return Err(twice(&key));
            }
            map.insert(key, value);
        }
        Ok(UniqueMap(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_those_of_the_parser() {
        let text =
            r#"{"z": [1, -2, 0.5, 1e300, 18446744073709551615, true, null, "\u00e9\n"], "a": {"z": {}, "a": []}}"#;
        let UniqueJson(value) = serde_json::from_str(text).expect("no key twice");
        assert_eq!(value, serde_json::from_str::<Value>(text).expect("JSON"));
        assert_eq!(value.to_string(), serde_json::from_str::<Value>(text).expect("JSON").to_string(), "keys in order");
    }

    #[test]
    fn a_key_that_comes_twice_is_an_error_with_its_position() {
        let error = |text| serde_json::from_str::<UniqueJson>(text).err().expect("refused").to_string();
        assert_eq!(error("{\"a\": 1,\n \"a\": 1}"), "the key `a` comes twice at line 2 column 4");
        assert!(error(r#"[{"b": [{"c": 1, "d": 2, "c": 3}]}]"#).starts_with("the key `c` comes twice at line 1 "));
        // The same key by an escape.
        assert!(error(r#"{"a": 1, "\u0061": 2}"#).starts_with("the key `a` comes twice"));
    }

    #[test]
    fn a_map_has_each_key_once() {
        #[derive(Debug, Deserialize)]
        struct Scored {
            #[serde(deserialize_with = "unique_map")]
            scores: BTreeMap<String, f64>,
        }
        let read = |text| serde_json::from_str::<Scored>(text).map(|scored| scored.scores);
        assert_eq!(json!(read(r#"{"scores": {"b": 1, "a": 0.5}}"#).expect("two")), json!({ "a": 0.5, "b": 1.0 }));
        let error = read(r#"{"scores": {"b": 1, "b": 0}}"#).expect_err("twice").to_string();
        assert!(error.starts_with("the key `b` comes twice at line 1 column "), "{error}");
    }
}
