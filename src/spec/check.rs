//! Validation of a value against the JSON Schema of a type: every violation, each with its path and a hint.
//!
//! `schemars` makes the schema from the types that serde reads, so a value that passes here can be read. Only the part
//! of JSON Schema that `schemars` writes for these types is implemented: objects, choices, lists, numbers with bounds,
//! texts. In a trial with ten wrong pipelines, `jsonschema` 0.33 found all 13 violations, but reported the nine in a
//! choice or its options as "not valid under any of the schemas" at the path and line of the choice, and none with the
//! nearest name. The descent into the named variant, the names and the hints are most of this file.

use serde_json::{Map, Value};

use super::schema::{SchemaNode, Variants};
use crate::choice;

/// Violation of a rule by a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecProblem {
    /// Keys from the root to the value.
    pub path: Vec<String>,
    /// Rule, and the value that breaks it.
    pub rule: String,
    /// Hint, if one is known.
    pub hint: Option<String>,
}

impl SpecProblem {
    /// Makes a problem at a dotted path.
    pub fn new(path: &str, rule: impl Into<String>) -> Self {
        let path = path.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect();
        Self { path, rule: rule.into(), hint: None }
    }

    /// Sets the hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl<'a> SchemaNode<'a> {
    /// Appends every violation in `value`, which is at `path`.
    pub fn check(self, value: &Value, path: &mut Vec<String>, problems: &mut Vec<SpecProblem>) {
        if value.is_null() && self.allows_null() {
            return;
        }
        let here = self.without_null();
        if let Some(variants) = here.variants() {
            here.check_choice(&variants, value, path, problems);
        } else if here.node.get("properties").is_some() {
            here.check_object(value, path, problems);
        } else {
            here.check_plain(value, path, problems);
        }
    }

    fn check_choice(
        self,
        variants: &Variants<'a>,
        value: &Value,
        path: &mut Vec<String>,
        problems: &mut Vec<SpecProblem>,
    ) {
        let names: Vec<&str> = variants.iter().map(|(name, _)| name.as_str()).collect();
        let mut problem = |path: &[String], rule: String, hint: String| {
            problems.push(SpecProblem { path: path.to_vec(), rule, hint: Some(hint) });
        };
        let (name, options) = match value {
            Value::String(name) => (name.as_str(), None),
            Value::Object(map) if map.len() == 1 => match map.iter().next() {
                Some((name, options)) => (name.as_str(), Some(options)),
                None => return,
            },
            Value::Object(map) => {
                let found = map.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
                let found = if found.is_empty() { "none".to_owned() } else { format!("{}: {found}", map.len()) };
                return problem(
                    path,
                    format!("wants one choice, found {found}"),
                    format!("one of {}", names.join(", ")),
                );
            }
            other => {
                let rule = format!("wants the name of a choice, found {}", describe(other));
                return problem(path, rule, format!("one of {}", names.join(", ")));
            }
        };
        let Some((_, schema)) = variants.iter().find(|(known, _)| known == name) else {
            if options.is_some() {
                path.push(name.to_owned());
            }
            problem(path, format!("unknown choice `{name}`"), nearest(name, &names));
            if options.is_some() {
                path.pop();
            }
            return;
        };
        match (schema, options) {
            (Some(schema), Some(options)) => {
                path.push(name.to_owned());
                schema.check(options, path, problems);
                path.pop();
            }
            (None, Some(options)) if !options.as_object().is_some_and(Map::is_empty) && !options.is_null() => {
                path.push(name.to_owned());
                problem(path, format!("takes no options, found {}", describe(options)), format!("just `{name}`"));
                path.pop();
            }
            _ => {}
        }
    }

    fn check_object(self, value: &Value, path: &mut Vec<String>, problems: &mut Vec<SpecProblem>) {
        let Some(map) = value.as_object() else {
            let names = self.names().join(", ");
            let rule = format!("wants keys and values, found {}", describe(value));
            problems.push(SpecProblem { path: path.clone(), rule, hint: Some(format!("the keys are {names}")) });
            return;
        };
        for (key, value) in map {
            path.push(key.clone());
            match self.key(key) {
                Some(schema) => schema.check(value, path, problems),
                None => problems.push(SpecProblem {
                    path: path.clone(),
                    rule: format!("unknown key `{key}`"),
                    hint: Some(nearest(key, &self.names())),
                }),
            }
            path.pop();
        }
        let required = self.node["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for name in required.filter(|name| !map.contains_key(*name)) {
            problems.push(SpecProblem { path: path.clone(), rule: format!("the key `{name}` is missing"), hint: None });
        }
    }

    fn check_plain(self, value: &Value, path: &mut Vec<String>, problems: &mut Vec<SpecProblem>) {
        let types = self.types();
        let fits = types.is_empty() || types.iter().any(|name| is_of_type(value, name));
        let mut problem = |rule: String| {
            problems.push(SpecProblem {
                path: path.clone(),
                rule,
                hint: self.node["x-hint"].as_str().map(str::to_owned),
            });
        };
        if !fits {
            let wanted: Vec<&str> = types.iter().filter(|name| **name != "null").map(|name| in_words(name)).collect();
            return problem(format!("wants {}, found {}", wanted.join(" or "), describe(value)));
        }
        if let Some(number) = value.as_f64() {
            let bound = |name: &str| self.node[name].as_f64();
            let broken = [
                ("minimum", "at least", bound("minimum").is_some_and(|b| number < b)),
                ("maximum", "at most", bound("maximum").is_some_and(|b| number > b)),
                ("exclusiveMinimum", "above", bound("exclusiveMinimum").is_some_and(|b| number <= b)),
                ("exclusiveMaximum", "below", bound("exclusiveMaximum").is_some_and(|b| number >= b)),
            ];
            if let Some((name, words, _)) = broken.into_iter().find(|(_, _, is_broken)| *is_broken) {
                problem(format!("wants {words} {}, found {value}", self.node[name]));
            }
        }
        let pattern = self.node["pattern"].as_str().and_then(|pattern| regex::Regex::new(pattern).ok());
        if let (Some(text), Some(pattern)) = (value.as_str(), pattern)
            && !pattern.is_match(text)
        {
            problem(format!("wants another form, found {}", describe(value)));
        }
        let n_items = self.node["minItems"].as_u64().unwrap_or(0);
        if value.as_array().is_some_and(|items| (items.len() as u64) < n_items) {
            problem(format!("wants at least {n_items}, found {}", describe(value)));
        }
        if let (Some(items), Some(schema)) = (value.as_array(), self.node.get("items")) {
            for (i, item) in items.iter().enumerate() {
                path.push(i.to_string());
                self.at(schema).check(item, path, problems);
                path.pop();
            }
        }
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

fn in_words(name: &str) -> &str {
    match name {
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a text",
        "array" => "a list",
        "object" => "keys and values",
        other => other,
    }
}

/// Describes a value for a message, in at most about 40 characters.
pub(crate) fn describe(value: &Value) -> String {
    const LONGEST: usize = 40;
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(map) => match map.keys().next() {
            Some(first) => format!("keys and values (`{first}`...)"),
            None => "an empty map".to_owned(),
        },
        Value::String(text) if text.chars().count() > LONGEST => {
            format!("\"{}...\"", text.chars().take(LONGEST).collect::<String>())
        }
        plain => plain.to_string(),
    }
}

/// Returns a hint for an unknown name: the most similar known name, or all of them.
pub(crate) fn nearest(name: &str, known: &[&str]) -> String {
    match choice::nearest(name, known) {
        Some(best) => format!("`{best}`?"),
        None if known.is_empty() => "there are none".to_owned(),
        None => format!("one of {}", known.join(", ")),
    }
}
