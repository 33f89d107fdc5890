//! Filter `tojson` of chat templates as transformers defines it: Python's `json.dumps`.

use std::fmt::Write;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, State, Value};

use super::bounds;

/// Largest indent, in spaces. A larger one would make unbounded text.
const MAX_INDENT: usize = 32;

/// Formats a value like Python's `json.dumps`, by default with `ensure_ascii=False`.
pub(super) fn tojson(state: &State, value: Value, options: Kwargs) -> Result<String, Error> {
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let wrong = |words: String| Error::new(ErrorKind::InvalidOperation, format!("tojson: {words}"));
    if let Some(wide) = indent.filter(|&indent| indent > MAX_INDENT) {
        return Err(wrong(format!("indent: {wide} is over the limit of {MAX_INDENT}")));
    }
    bounds::check_size(state, &value)?;
    let value = serde_json::to_value(&value).map_err(|error| wrong(error.to_string()))?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(wrong("separators: expected two texts".to_owned())),
    };
    let is_ascii = ensure_ascii.unwrap_or(false);
    let layout = JsonLayout { item, key, indent, is_ascii, is_sorted: sort_keys.unwrap_or(false) };
    let mut text = String::new();
    layout.write(&value, 0, &mut text);
    Ok(text)
}

/// Layout options of JSON.
struct JsonLayout<'o> {
    item: &'o str,
    key: &'o str,
    indent: Option<usize>,
    is_ascii: bool,
    is_sorted: bool,
}

impl JsonLayout<'_> {
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        match value {
            serde_json::Value::Array(items) if !items.is_empty() => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.begin_item(i, depth + 1, out);
                    self.write(item, depth + 1, out);
                }
                self.end_items(depth, out);
                out.push(']');
            }
            serde_json::Value::Object(map) if !map.is_empty() => {
                out.push('{');
                let mut entries: Vec<_> = map.iter().collect();
                if self.is_sorted {
                    entries.sort_by_key(|&(key, _)| key);
                }
                for (i, (key, item)) in entries.into_iter().enumerate() {
                    self.begin_item(i, depth + 1, out);
                    self.write_string(key, out);
                    out.push_str(self.key);
                    self.write(item, depth + 1, out);
                }
                self.end_items(depth, out);
                out.push('}');
            }
            serde_json::Value::String(text) => self.write_string(text, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn begin_item(&self, index: usize, depth: usize, out: &mut String) {
        if index > 0 {
            out.push_str(self.item);
        }
        self.break_line(depth, out);
    }

    fn end_items(&self, depth: usize, out: &mut String) {
        self.break_line(depth, out);
    }

    fn break_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn write_string(&self, text: &str, out: &mut String) {
        let quoted = serde_json::Value::from(text).to_string();
        for c in quoted.chars() {
            if self.is_ascii && !c.is_ascii() {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|unit| {
                    let _ = write!(out, "\\u{unit:04x}");
                });
            } else {
                out.push(c);
            }
        }
    }
}
