//! Navigation of the JSON Schema that `schemars` makes: references, keys, choices.
//!
//! Only the part of JSON Schema that `schemars` writes for the types of a plan is known. `check.rs` validates values by
//! it, and `document.rs` merges them.

use serde_json::{Map, Value};

/// Node of a schema, with the root that its references point into.
#[derive(Clone, Copy)]
pub struct SchemaNode<'a> {
    pub(super) node: &'a Value,
    root: &'a Value,
}

/// Names of a choice, each with the schema of its options if it has any.
pub(super) type Variants<'a> = Vec<(String, Option<SchemaNode<'a>>)>;

impl<'a> SchemaNode<'a> {
    /// Returns the root node of a schema.
    pub fn root(schema: &'a Value) -> Self {
        Self { node: schema, root: schema }.resolved()
    }

    /// Returns another node of the same schema.
    pub(super) fn at(self, node: &'a Value) -> Self {
        Self { node, root: self.root }.resolved()
    }

    /// Follows references.
    fn resolved(self) -> Self {
        let reference = self.node.get("$ref").and_then(Value::as_str);
        match reference.and_then(|name| self.root.pointer(name.trim_start_matches('#'))) {
            Some(node) => Self { node, root: self.root }.resolved(),
            None => self,
        }
    }

    /// Returns the schema of a key of an object or of a choice.
    pub fn key(self, key: &str) -> Option<Self> {
        let here = self.without_null();
        match here.variants() {
            Some(variants) => variants.into_iter().find(|(name, _)| name == key).and_then(|(_, options)| options),
            None => here.node.get("properties")?.get(key).map(|node| here.at(node)),
        }
    }

    /// Returns the schema other than null of `anyOf`, or the node itself.
    pub(super) fn without_null(self) -> Self {
        let any = self.node.get("anyOf").and_then(Value::as_array);
        let real = any.and_then(|any| any.iter().find(|node| node["type"] != "null"));
        real.map_or(self, |node| self.at(node))
    }

    /// Returns whether null is valid.
    pub(super) fn allows_null(self) -> bool {
        let is_null = |node: &Value| node["type"] == "null";
        self.node["anyOf"].as_array().is_some_and(|any| any.iter().any(is_null)) || self.types().contains(&"null")
    }

    /// Returns the names of the valid types.
    pub(super) fn types(self) -> Vec<&'a str> {
        match &self.node["type"] {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the names of a choice and their options; `None` for a node that is not a choice.
    pub(super) fn variants(self) -> Option<Variants<'a>> {
        let here = self.without_null();
        if let Some(names) = here.node.get("enum").and_then(Value::as_array) {
            return Some(names.iter().filter_map(|name| Some((name.as_str()?.to_owned(), None))).collect());
        }
        let of = |node: &'a Value| -> Variants<'a> {
            if let Some(name) = node["const"].as_str() {
                return vec![(name.to_owned(), None)];
            }
            if let Some(names) = node["enum"].as_array() {
                return names.iter().filter_map(|name| Some((name.as_str()?.to_owned(), None))).collect();
            }
            let properties = node["properties"].as_object().into_iter().flatten();
            properties.map(|(name, options)| (name.clone(), Some(here.at(options)))).collect()
        };
        here.node.get("oneOf").and_then(Value::as_array).map(|all| all.iter().flat_map(of).collect())
    }

    /// Normalizes a value to the form that the types read: a choice without options as its name, a choice with options
    /// as a map of one key.
    pub(crate) fn normalize(self, value: Value) -> Value {
        let here = self.without_null();
        if let Some(variants) = here.variants() {
            let options = |name: &str| variants.iter().find(|(known, _)| known == name).map(|(_, options)| *options);
            return match value {
                Value::String(name) if matches!(options(&name), Some(Some(_))) => {
                    Value::Object(Map::from_iter([(name, Value::Object(Map::new()))]))
                }
                Value::Object(map) if map.len() == 1 => {
                    let (name, inner) = map.into_iter().next().unwrap_or_default();
                    let is_empty = inner.is_null() || inner.as_object().is_some_and(Map::is_empty);
                    match options(&name) {
                        Some(None) if is_empty => Value::String(name),
                        Some(Some(_)) if inner.is_null() => {
                            Value::Object(Map::from_iter([(name, Value::Object(Map::new()))]))
                        }
                        Some(Some(schema)) => Value::Object(Map::from_iter([(name, schema.normalize(inner))])),
                        _ => Value::Object(Map::from_iter([(name, inner)])),
                    }
                }
                other => other,
            };
        }
        match value {
            Value::Object(map) => {
                let normalize = |(key, value): (String, Value)| match here.key(&key) {
                    Some(schema) => (key, schema.normalize(value)),
                    None => (key, value),
                };
                Value::Object(map.into_iter().map(normalize).collect())
            }
            other => other,
        }
    }

    /// Returns the keys of an object.
    pub(super) fn names(self) -> Vec<&'a str> {
        self.node["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
    }
}
