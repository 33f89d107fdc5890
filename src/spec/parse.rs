//! Reading of a pipeline file into a plan, with every error at once.
//!
//! The document is checked against the schema first, so that errors carry positions and hints instead of serde's
//! messages. Called by the commands `run`, `batch` and `inspect`.

use std::path::Path;

use schemars::{Schema, schema_for};
use serde_json::Value;

use super::Plan;
use super::check::{SpecProblem, nearest};
use super::document::{Assignment, Document};
use super::schema::SchemaNode;
use crate::error::Error;

/// Returns the JSON Schema of a pipeline file.
pub(crate) fn schema() -> Schema {
    schema_for!(Plan)
}

/// Reads a pipeline file, with `--set` assignments over it.
///
/// # Errors
/// [`Error`] with every error that is known without the model's files.
pub fn read_plan(path: &Path, sets: &[String]) -> Result<(Plan, Document), Error> {
    let document = read_document(Some(path), sets)?;
    Ok((plan_of(&document)?, document))
}

/// Reads a pipeline file, or begins with no values, with `--set` assignments over it: a document that [`assign`]
/// extends and [`plan_of`] reads.
///
/// # Errors
/// A file that cannot be read, or a text that is no assignment.
pub fn read_document(path: Option<&Path>, sets: &[String]) -> Result<Document, Error> {
    let schema = schema().to_value();
    let root = SchemaNode::root(&schema);
    let mut document = path.map_or(Ok(Document::empty()), |path| Document::read(path, root))?;
    sets.iter().try_for_each(|set| document.set(set, root))?;
    Ok(document)
}

/// Returns a document with further values over its own.
#[must_use]
pub fn assign(document: &Document, assignments: &[Assignment]) -> Document {
    let schema = schema().to_value();
    let root = SchemaNode::root(&schema);
    let mut document = document.clone();
    assignments.iter().for_each(|assignment| document.assign(assignment, root));
    document
}

/// Returns the plan of a document.
///
/// # Errors
/// Every error that is known without the model's files.
pub fn plan_of(document: &Document) -> Result<Plan, Error> {
    let schema = schema().to_value();
    resolve(document, SchemaNode::root(&schema))
}

/// Checks that a dotted path is that of a key of a pipeline.
///
/// # Errors
/// The first unknown key, with the nearest known one as hint.
pub fn check_key(path: &str) -> Result<(), Error> {
    let schema = schema().to_value();
    let mut node = SchemaNode::root(&schema);
    for key in path.split('.') {
        let here = node.without_null();
        let names = match here.variants() {
            Some(variants) => variants.iter().map(|(name, _)| name.clone()).collect(),
            None => here.names().into_iter().map(str::to_owned).collect::<Vec<_>>(),
        };
        match node.key(key) {
            Some(next) => node = next,
            None => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                return Err(Error::invalid(format!("unknown key `{key}`")).with_hint(nearest(key, &names)));
            }
        }
    }
    Ok(())
}

fn resolve(document: &Document, root: SchemaNode<'_>) -> Result<Plan, Error> {
    let mut problems = Vec::new();
    root.check(&document.value, &mut Vec::new(), &mut problems);
    // Rules between fields are checked in the same pass: values that are wrong already count as absent.
    let mut rest = document.value.clone();
    problems.iter().for_each(|problem| remove(&mut rest, &problem.path));
    match serde_json::from_value::<Plan>(rest) {
        Ok(plan) => {
            problems.extend(plan.problems());
            if problems.is_empty() { Ok(plan) } else { Err(document.error(&problems)) }
        }
        Err(error) => {
            if problems.is_empty() {
                problems.push(SpecProblem::new("", error.to_string()));
            }
            Err(document.error(&problems))
        }
    }
}

/// Removes the value at a path, and the maps that become empty.
fn remove(value: &mut Value, path: &[String]) {
    let (Some(map), Some((first, rest))) = (value.as_object_mut(), path.split_first()) else { return };
    let Some(inner) = map.get_mut(first) else { return };
    if !rest.is_empty() && inner.is_object() {
        remove(inner, rest);
    }
    if rest.is_empty() || !inner.is_object() || inner.as_object().is_some_and(serde_json::Map::is_empty) {
        map.shift_remove(first);
    }
}

/// Returns the schema for editors, in which a choice is a name or a map of one key.
pub fn editor_schema() -> Value {
    let mut schema = schema().to_value();
    widen(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        let extends = serde_json::json!({
            "description": "Pipeline whose values apply where this file sets none; its path is relative to this file.",
            "type": "string",
        });
        if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert("extends".to_owned(), extends);
        }
    }
    schema
}

fn widen(node: &mut Value) {
    match node {
        Value::Array(items) => items.iter_mut().for_each(widen),
        Value::Object(map) => {
            map.values_mut().for_each(widen);
            let Some(Value::Array(variants)) = map.get_mut("oneOf") else { return };
            let named = |node: &Value| -> Vec<Value> {
                let describe = |mut made: Value| {
                    if let Some(text) = node.get("description") {
                        made["description"] = text.clone();
                    }
                    made
                };
                if let Some(name) = node["const"].as_str() {
                    let empty = serde_json::json!({ "type": ["object", "null"], "maxProperties": 0 });
                    return vec![describe(one_key(name, empty))];
                }
                let names = node["properties"].as_object().into_iter().flatten();
                names.map(|(name, _)| describe(serde_json::json!({ "const": name }))).collect()
            };
            let more: Vec<Value> = variants.iter().flat_map(named).collect();
            variants.extend(more);
        }
        _ => {}
    }
}

fn one_key(name: &str, inner: Value) -> Value {
    serde_json::json!({ "type": "object", "properties": { name: inner }, "required": [name], "additionalProperties": false })
}
