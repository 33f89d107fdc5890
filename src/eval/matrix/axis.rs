//! Axes of a matrix: a key of the pipeline with its values, or named sets of several keys.

use serde_json::{Map, Value};

use crate::choice;
use crate::error::Error;
use crate::spec::{Assignment, Document, SpecProblem, check_key};

/// Axis and variant key of the number of frames, as the flag `--frames` sets it for any sampling rule.
pub(super) const FRAMES: &str = "frames";
/// Keys of a variant.
const LABEL: &str = "label";
const SET: &str = "set";
/// Limit of a label, of which the names of directories are made.
const MAX_LABEL: usize = 60;

/// Axis with the labels of its values.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixAxis {
    /// Name: a dotted key of the pipeline, `frames`, or any name for an axis of variants.
    pub name: String,
    /// Labels of the values, which differ.
    pub labels: Vec<String>,
    pub(super) values: Vec<AxisValue>,
}

/// Value of an axis: what it sets in the pipeline.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct AxisValue {
    pub(super) assignments: Vec<Assignment>,
    /// Number of frames, as `--frames` sets it.
    pub(super) frames: Option<usize>,
}

/// Makes a problem at a path whose keys may contain dots.
pub(super) fn problem(path: &[&str], rule: impl Into<String>) -> SpecProblem {
    let path = path.iter().map(|key| (*key).to_owned()).collect();
    SpecProblem { path, ..SpecProblem::new("", rule) }
}

fn problem_of(path: &[&str], error: &Error) -> SpecProblem {
    SpecProblem { hint: error.hint().map(str::to_owned), ..problem(path, error.statement()) }
}

/// Reads the axes of a document, and appends the problems of those that cannot be read.
pub(super) fn read_axes(document: &Document, problems: &mut Vec<SpecProblem>) -> Vec<MatrixAxis> {
    let Some(matrix) = document.value.get("matrix").and_then(Value::as_object) else { return Vec::new() };
    if matrix.is_empty() {
        problems.push(problem(&["matrix"], "has no axis"));
    }
    let mut axes = Vec::new();
    for (name, values) in matrix {
        let mut reader = AxisReader { document, name, problems };
        axes.extend(reader.read(values));
    }
    check_overlaps(&axes, problems);
    axes
}

/// Reader of one axis.
struct AxisReader<'r> {
    document: &'r Document,
    name: &'r str,
    problems: &'r mut Vec<SpecProblem>,
}

impl AxisReader<'_> {
    fn read(&mut self, values: &Value) -> Option<MatrixAxis> {
        let path = ["matrix", self.name];
        if !is_safe(self.name) {
            self.problems.push(problem(&path, "the name of an axis has letters, digits and . _ - only"));
            return None;
        }
        let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
            self.problems.push(problem(&path, "wants a list of values").hint("[concat, temporal_mean]"));
            return None;
        };
        let has_plain = values.iter().any(|value| !is_variant(value));
        if has_plain
            && self.name != FRAMES
            && let Err(error) = check_key(self.name)
        {
            let found = problem_of(&path, &error);
            let rule = format!("{}, of a pipeline", found.rule);
            let hint = found.hint.map_or_else(String::new, |hint| format!("{hint} "));
            let hint = format!("{hint}or values {{ label: x, set: {{ key: value }} }}");
            self.problems.push(SpecProblem { rule, hint: Some(hint), ..found });
            return None;
        }
        let (mut labels, mut read): (Vec<String>, Vec<AxisValue>) = (Vec::new(), Vec::new());
        for (index, value) in values.iter().enumerate() {
            let index = index.to_string();
            let path = ["matrix", self.name, &index];
            let Some((label, value)) = self.value(value, &path) else { continue };
            // Some file systems do not tell upper and lower case apart.
            if labels.iter().any(|known| known.eq_ignore_ascii_case(&label)) {
                let hint = "{ label: x, set: { key: value } }";
                self.problems.push(problem(&path, format!("the label `{label}` comes twice")).hint(hint));
            }
            labels.push(label);
            read.push(value);
        }
        Some(MatrixAxis { name: self.name.to_owned(), labels, values: read })
    }

    /// Reads a value with its label.
    fn value(&mut self, value: &Value, path: &[&str]) -> Option<(String, AxisValue)> {
        let Some(variant) = value.as_object().filter(|_| is_variant(value)) else {
            let mut read = AxisValue::default();
            self.set(&mut read, (self.name, value), path);
            return Some((label_of(value), read));
        };
        for key in variant.keys().filter(|key| ![LABEL, SET].contains(&key.as_str())) {
            let path = [path, &[key.as_str()]].concat();
            let hint = choice::nearest(key, &[LABEL, SET]).unwrap_or("label, set").to_owned();
            self.problems.push(problem(&path, format!("unknown key `{key}`")).hint(hint));
        }
        let label = variant.get(LABEL).filter(|label| !label.is_object() && !label.is_array()).map(scalar_text);
        let Some(label) = label.filter(|label| is_safe(label) && label.len() <= MAX_LABEL) else {
            let path = [path, &[LABEL]].concat();
            let rule = format!("wants letters, digits and . _ - only, at most {MAX_LABEL} of them");
            self.problems.push(problem(&path, rule));
            return None;
        };
        let Some(sets) = variant.get(SET).and_then(Value::as_object) else {
            self.problems
                .push(problem(&[path, &[SET]].concat(), "wants keys and values").hint("set: { model: org/x }"));
            return None;
        };
        let mut read = AxisValue::default();
        for (key, value) in sets {
            let path = [path, &[SET, key.as_str()]].concat();
            match check_key(key) {
                Err(error) if key != FRAMES => self.problems.push(problem_of(&path, &error)),
                _ => self.set(&mut read, (key, value), &path),
            }
        }
        Some((label, read))
    }

    /// Adds the assignment of a key to a value.
    fn set(&mut self, to: &mut AxisValue, (key, value): (&str, &Value), path: &[&str]) {
        if key != FRAMES {
            let place = self.document.place(&path.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
            let place = place.unwrap_or_else(|| path.join("."));
            to.assignments.push(Assignment { key: key.to_owned(), value: value.clone(), place });
            return;
        }
        match value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0) {
            Some(frames) => to.frames = Some(frames),
            None => self.problems.push(problem(path, "wants a whole number from 1")),
        }
    }
}

/// Refuses keys that two axes set: the one would silently override the other.
fn check_overlaps(axes: &[MatrixAxis], problems: &mut Vec<SpecProblem>) {
    for (index, axis) in axes.iter().enumerate() {
        for earlier in &axes[..index] {
            let clash = axis.keys().find_map(|key| Some((key, earlier.keys().find(|other| overlap(key, other))?)));
            if let Some((key, other)) = clash {
                let rule = format!("sets `{key}`, and the axis `{}` sets `{other}`", earlier.name);
                problems.push(problem(&["matrix", &axis.name], rule));
            }
        }
    }
}

impl MatrixAxis {
    /// Keys that the axis sets.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.iter().flat_map(|value| {
            let frames = value.frames.map(|_| FRAMES);
            value.assignments.iter().map(|assignment| assignment.key.as_str()).chain(frames)
        })
    }
}

/// Returns whether one of two dotted paths is the other or lies below it. The number of frames is in the options of the
/// sampling rule.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    let is_below = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let is_frames = |a: &str, b: &str| a == FRAMES && b.starts_with("sample.");
    is_below(a, b) || is_below(b, a) || is_frames(a, b) || is_frames(b, a)
}

fn is_variant(value: &Value) -> bool {
    value.as_object().is_some_and(|map| map.contains_key(SET) || map.contains_key(LABEL))
}

/// Returns the label of a value: its keys and scalars, joined by `-`.
pub(super) fn label_of(value: &Value) -> String {
    let mut parts = Vec::new();
    flatten(value, &mut parts);
    let text: String = parts.join("-").chars().map(|c| if is_safe_char(c) { c } else { '-' }).collect();
    let text = text.trim_matches('-');
    let text: String = text.chars().take(MAX_LABEL).collect();
    if text.is_empty() { "empty".to_owned() } else { text }
}

fn flatten(value: &Value, parts: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            parts.push(key.clone());
            let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
            if !is_empty {
                flatten(value, parts);
            }
        }),
        Value::Array(items) => items.iter().for_each(|item| flatten(item, parts)),
        scalar => parts.push(scalar_text(scalar)),
    }
}

fn scalar_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_safe(text: &str) -> bool {
    !text.is_empty() && !text.starts_with(['.', '-']) && text.chars().all(is_safe_char)
}

fn is_safe_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_are_safe_names_of_directories() {
        for (value, label) in [
            (json!("concat"), "concat"),
            (json!(8), "8"),
            (json!({ "max_pool": { "stride": 2 } }), "max_pool-stride-2"),
            (json!({ "dci": {} }), "dci"),
            (json!("org/model name"), "org-model-name"),
            (json!("../.."), "..-.."),
            (json!(null), "null"),
            (json!([]), "empty"),
        ] {
            assert_eq!(label_of(&value), label);
        }
        assert!(!is_safe("a/b") && !is_safe("") && !is_safe("..") && !is_safe("a b") && is_safe("S1_8.x-y"));
    }

    #[test]
    fn keys_overlap_where_one_contains_the_other() {
        assert!(overlap("temporal", "temporal.max_pool.stride") && overlap("model", "model"));
        assert!(overlap("sample.uniform.frames", FRAMES) && !overlap("sample", FRAMES));
        assert!(!overlap("temporal", "temporal_x") && !overlap("model", "vision_tower"));
    }
}
