//! Search for the chat template of a checkpoint. Files and their order are those of transformers 5
//! (`ProcessorMixin.get_processor_dict`, then the tokenizer's).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};
use crate::files;

/// Directory of templates beside `chat_template.jinja`.
const ADDITIONAL: &str = "additional_chat_templates";

/// Jinja source of a template, and the file and key where it was found.
pub(super) struct TemplateSource {
    pub(super) origin: String,
    pub(super) source: Result<String>,
}

impl TemplateSource {
    fn new(origin: impl Into<String>, source: Result<String>) -> Self {
        Self { origin: origin.into(), source }
    }
}

/// Finds the template of transformers' processor, if there is one.
pub(super) fn of_processor(dir: &Path) -> Option<TemplateSource> {
    let key = |name: &str| match object(dir, name)? {
        Ok(mut map) => {
            let value = map.remove("chat_template").filter(|value| !value.is_null())?;
            Some(TemplateSource::new(format!("{name}: chat_template"), named_default(&value)))
        }
        Err(cause) => Some(TemplateSource::new(name, Err(cause))),
    };
    if let Some(found) = key("processor_config.json") {
        return Some(found);
    }
    let mut named = additional(dir);
    if let Some(found) = key("chat_template.json") {
        let both =
            || Error::invalid(format!("{ADDITIONAL} exists beside it, which goes with chat_template.jinja only"));
        return Some(if named.is_empty() { found } else { TemplateSource { source: Err(both()), ..found } });
    }
    if let Some(default) = text(dir, "chat_template.jinja") {
        return Some(TemplateSource::new("chat_template.jinja", default));
    }
    if named.is_empty() {
        return None;
    }
    let source = named.remove("default").unwrap_or_else(|| Err(no_default(named.keys())));
    Some(TemplateSource::new(ADDITIONAL, source))
}

/// Reads the templates in the directory beside `chat_template.jinja`, by name.
fn additional(dir: &Path) -> BTreeMap<String, Result<String>> {
    let Ok(entries) = std::fs::read_dir(dir.join(ADDITIONAL)) else { return BTreeMap::new() };
    let named = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?.strip_suffix(".jinja")?.to_owned();
        let source = text(dir, &format!("{ADDITIONAL}/{name}.jinja"))?;
        Some((name, source))
    });
    named.collect()
}

/// Returns a template, or the template `default` of a list or a map of named ones.
///
/// # Errors
/// When the value is neither, or no template is named `default`.
pub(super) fn named_default(value: &Value) -> Result<String> {
    let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    let named: Vec<(String, &Value)> = match value {
        Value::String(source) => return Ok(source.clone()),
        Value::Object(map) => map.iter().map(|(name, source)| (name.clone(), source)).collect(),
        Value::Array(list) => list.iter().filter_map(|item| Some((name(item)?, item.get("template")?))).collect(),
        _ => return Err(Error::invalid("expected a text, or named texts")),
    };
    let default = named.iter().find(|(name, _)| name == "default").and_then(|(_, source)| source.as_str());
    default.map(str::to_owned).ok_or_else(|| no_default(named.iter().map(|(name, _)| name)))
}

fn no_default<'n>(names: impl Iterator<Item = &'n String>) -> Error {
    let names: Vec<&str> = names.map(String::as_str).collect();
    Error::invalid(format!("none of the named templates is `default`: {}", names.join(", ")))
}

/// Reads the JSON object of a file, if there is such a file.
fn object(dir: &Path, name: &str) -> Option<Result<Map<String, Value>>> {
    let parse = |text: String| match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::invalid("not a JSON object")),
        Err(error) => Err(Error::invalid(format!("not JSON: {error}"))),
    };
    text(dir, name).map(|text| text.and_then(parse))
}

/// Reads the text of a file, if there is such a file.
fn text(dir: &Path, name: &str) -> Option<Result<String>> {
    let path = dir.join(name);
    let read = || {
        let bytes = files::read(&path).map_err(|error| Error::from(error).with_kind(Kind::Invalid))?;
        String::from_utf8(bytes.into_owned()).map_err(|_| Error::invalid("not UTF-8"))
    };
    files::is_file(&path).then(read)
}
