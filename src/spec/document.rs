//! A pipeline as it is written: a file, what it extends, and what the command line sets over it.
//!
//! Later words win: a file's over those of the file it extends, `--set` over both. Maps are merged key by key; where another
//! choice is made, its options replace those of the first.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::check::{Problem, SchemaNode};
use super::locate::{depth, locate};
use super::yaml::parse_values;
use crate::files;

/// Files that may extend each other.
const MAX_DEPTH: usize = 16;
/// Bytes of a pipeline file: no real one comes near.
const MAX_BYTES: u64 = 1 << 20;
/// Problems that are told one by one; nobody reads more.
const MAX_TOLD: usize = 50;
const EXTENDS: &str = "extends";

/// All that was written, merged.
#[derive(Debug, Clone)]
pub struct Document {
    /// The keys and values.
    pub value: Value,
    /// Where they come from, the last word first.
    sources: Vec<Source>,
}

#[derive(Debug, Clone)]
enum Source {
    File { path: PathBuf, text: String },
    Set { text: String, path: Vec<String> },
}

/// Everything that is wrong with a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines.join("\n"))]
pub struct SpecError {
    /// One line a problem: the place, the path, the rule, the hint.
    pub lines: Vec<String>,
}

impl SpecError {
    fn one(line: String) -> Self {
        Self { lines: vec![line] }
    }
}

impl Document {
    /// Reads a file and what it extends.
    ///
    /// # Errors
    /// [`SpecError`] when a file cannot be read, is no YAML, or extends itself.
    pub fn read(path: &Path, schema: SchemaNode<'_>) -> Result<Self, SpecError> {
        let mut document = Self { value: Value::Object(Map::new()), sources: Vec::new() };
        let (mut next, mut values) = (Some(path.to_owned()), Vec::new());
        while let Some(path) = next.take() {
            let (text, mut map) = read_map(&path).map_err(|error| document.in_base(error))?;
            if document.files().any(|(seen, _)| same_file(seen, &path)) || values.len() == MAX_DEPTH {
                let place =
                    locate(&text, &[EXTENDS.to_owned()]).map_or(String::new(), |p| format!(":{}:{}", p.line, p.column));
                let rule = "the files extend each other in a ring, or more than 16 deep";
                return Err(SpecError::one(format!("{}{place}: {EXTENDS}: {rule}", path.display())));
            }
            let base = map.remove(EXTENDS);
            document.sources.push(Source::File { path: path.clone(), text });
            next = match base {
                None | Some(Value::Null) => None,
                Some(Value::String(base)) => Some(path.parent().unwrap_or(Path::new("")).join(base)),
                Some(other) => {
                    let rule = format!("wants the path of a pipeline, found {}", super::check::describe(&other));
                    return Err(document.error(&[Problem::new(EXTENDS, rule)]));
                }
            };
            values.push(Value::Object(map));
        }
        for value in values.into_iter().rev() {
            merge(&mut document.value, schema.normal(value), Some(schema));
        }
        Ok(document)
    }

    /// A document of nothing but defaults.
    pub fn empty() -> Self {
        Self { value: Value::Object(Map::new()), sources: Vec::new() }
    }

    /// Sets `path.to.key=value` over what stands there; the value is read as YAML.
    ///
    /// # Errors
    /// [`SpecError`] when the text is no such assignment.
    pub fn set(&mut self, text: &str, schema: SchemaNode<'_>) -> Result<(), SpecError> {
        let wrong = |rule: &str| SpecError::one(format!("--set {text}: {rule}"));
        let (path, value) =
            text.split_once('=').ok_or_else(|| wrong("wants key=value; hint: temporal.max_pool.stride=4"))?;
        let path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) || path[0] == EXTENDS {
            return Err(wrong("wants the dotted path of a key; hint: temporal.max_pool.stride=4"));
        }
        let value = parse_values(value).map_err(|(_, cause)| wrong(&format!("its value: {cause}")))?;
        let nested = path.iter().rev().fold(value, |inner, key| Value::Object(Map::from_iter([(key.clone(), inner)])));
        merge(&mut self.value, schema.normal(nested), Some(schema));
        self.sources.insert(0, Source::Set { text: text.to_owned(), path });
        Ok(())
    }

    /// The problems in words, each with its place.
    pub fn error(&self, problems: &[Problem]) -> SpecError {
        let mut lines: Vec<String> = problems.iter().take(MAX_TOLD).map(|problem| self.line(problem)).collect();
        if problems.len() > MAX_TOLD {
            lines.push(format!("and {} more", problems.len() - MAX_TOLD));
        }
        SpecError { lines }
    }

    /// A problem in one line.
    pub fn line(&self, problem: &Problem) -> String {
        let mut line = self.place(&problem.path);
        if !problem.path.is_empty() {
            line += &format!("{}: ", problem.path.join("."));
        }
        line += &problem.rule;
        problem.hint.iter().for_each(|hint| line += &format!("; hint: {hint}"));
        line
    }

    /// `file:line:column: ` of the last word on a path, or `--set ...: `.
    fn place(&self, path: &[String]) -> String {
        let depth_of = |source: &Source| match source {
            Source::File { text, .. } => depth(text, path),
            Source::Set { path: set, .. } => set.iter().zip(path).take_while(|(a, b)| a == b).count(),
        };
        // Of equally good ones the first: its words are the last.
        let best = self.sources.iter().rev().max_by_key(|source| depth_of(source));
        match best {
            Some(Source::Set { text, .. }) => format!("--set {text}: "),
            Some(Source::File { path: file, text }) => match locate(text, path) {
                Some(place) => format!("{}:{}:{}: ", file.display(), place.line, place.column),
                None => format!("{}: ", file.display()),
            },
            None => String::new(),
        }
    }

    /// The error of a file that the last one read extends.
    fn in_base(&self, error: SpecError) -> SpecError {
        let extends = [EXTENDS.to_owned()];
        let Some(Source::File { path, text }) = self.sources.last() else { return error };
        let place = locate(text, &extends).map_or(String::new(), |place| format!(":{}:{}", place.line, place.column));
        SpecError {
            lines: error.lines.iter().map(|line| format!("{}{place}: {EXTENDS}: {line}", path.display())).collect(),
        }
    }

    fn files(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.sources.iter().filter_map(|source| match source {
            Source::File { path, text } => Some((path.as_path(), text.as_str())),
            Source::Set { .. } => None,
        })
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn read_map(path: &Path) -> Result<(String, Map<String, Value>), SpecError> {
    let wrong = |rule: String| SpecError::one(format!("{}: {rule}", path.display()));
    let bytes = files::read_bounded(path, MAX_BYTES).map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| wrong("no text; hint: the pipeline comes before the videos".to_owned()))?;
    let text = text.trim_start_matches('\u{feff}').to_owned();
    let at = |(place, cause): (Option<(usize, usize)>, String)| {
        let place = place.map_or(String::new(), |(line, column)| format!(":{line}:{column}"));
        SpecError::one(format!("{}{place}: {cause}", path.display()))
    };
    match parse_values(&text).map_err(at)? {
        Value::Object(map) => Ok((text, map)),
        Value::Null => Ok((text, Map::new())),
        other => {
            let found = super::check::describe(&other);
            Err(wrong(format!("wants keys and values, found {found}; hint: model: vidense-mini")))
        }
    }
}

/// Lays `over` over `under`.
fn merge(under: &mut Value, over: Value, schema: Option<SchemaNode<'_>>) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            let is_choice = schema.is_some_and(|schema| schema.variants().is_some());
            if is_choice && over.keys().any(|key| !under.contains_key(key)) {
                *under = over;
                return;
            }
            for (key, value) in over {
                let schema = schema.and_then(|schema| schema.key(&key));
                merge(under.entry(key).or_insert(Value::Null), value, schema);
            }
        }
        (under, over) => *under = over,
    }
}
