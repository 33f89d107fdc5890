//! Pipeline document: the merged values of a file, of the files it extends and of `--set` assignments.
//!
//! A file overrides the file that it extends, and `--set` overrides both. Maps are merged key by key; a different
//! choice replaces the earlier choice together with its options. The document keeps its sources, so every problem is
//! printed with file, line and column. Types are checked by `check.rs` and `parse.rs`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::check::SpecProblem;
use super::locate::{TextPosition, depth, locate};
use super::schema::SchemaNode;
use super::yaml::{SyntaxError, parse_values};
use crate::error::Error;
use crate::files;

/// Limit of the chain of files that extend each other.
const MAX_DEPTH: usize = 16;
/// Limit of a pipeline file's size, far above any real file.
const MAX_BYTES: u64 = 1 << 20;
/// Limit of the problems that are printed.
const MAX_PRINTED: usize = 50;
/// Hint of a `--set` that is no assignment.
const EXAMPLE: &str = "temporal.max_pool.stride=4";
const EXTENDS: &str = "extends";

/// Merged values of a pipeline, and their sources.
#[derive(Debug, Clone)]
pub struct Document {
    /// Keys and values.
    pub value: Value,
    /// Sources of the values, the one that overrides the others first.
    sources: Vec<DocumentSource>,
}

/// Source of values: a file or a `--set` assignment.
#[derive(Debug, Clone)]
enum DocumentSource {
    File {
        path: PathBuf,
        text: String,
    },
    Set {
        text: String,
        path: Vec<String>,
    },
    /// Value of another file, such as a matrix; `place` is its position there.
    Given {
        place: String,
        path: Vec<String>,
    },
}

/// Value for a dotted key of a pipeline, with the position of the file that sets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Dotted path of the key.
    pub key: String,
    /// Value, as YAML has it.
    pub value: Value,
    /// Position: `file:line:column`.
    pub place: String,
}

impl Document {
    /// Reads a file and the files that it extends.
    ///
    /// # Errors
    /// [`Error`] when a file cannot be read, is not YAML, or extends itself.
    pub fn read(path: &Path, schema: SchemaNode<'_>) -> Result<Self, Error> {
        let mut document = Self { value: Value::Object(Map::new()), sources: Vec::new() };
        let (mut next, mut values) = (Some(path.to_owned()), Vec::new());
        while let Some(path) = next.take() {
            let (text, mut map) = read_map(&path).map_err(|error| document.in_base(error))?;
            if document.files().any(|(seen, _)| same_file(seen, &path)) || values.len() == MAX_DEPTH {
                let place = position_suffix(locate(&text, &[EXTENDS.to_owned()]));
                let rule = "the files extend each other in a cycle, or more than 16 deep";
                return Err(Error::invalid(rule).about(EXTENDS).about(format!("{}{place}", path.display())));
            }
            let base = map.remove(EXTENDS);
            document.sources.push(DocumentSource::File { path: path.clone(), text });
            next = match base {
                None | Some(Value::Null) => None,
                Some(Value::String(base)) => Some(path.parent().unwrap_or(Path::new("")).join(base)),
                Some(other) => {
                    let rule = format!("wants the path of a pipeline, found {}", super::check::describe(&other));
                    return Err(document.error(&[SpecProblem::new(EXTENDS, rule)]));
                }
            };
            values.push(Value::Object(map));
        }
        for value in values.into_iter().rev() {
            merge(&mut document.value, schema.normalize(value), Some(schema));
        }
        Ok(document)
    }

    /// Reads a text that is a part of the program, without `extends`; messages name it by `name`.
    ///
    /// # Errors
    /// [`Error`] for a text that is not YAML.
    pub fn of_text(name: &str, text: &str, schema: SchemaNode<'_>) -> Result<Self, Error> {
        let map = parse_map(Path::new(name), text)?;
        let source = DocumentSource::File { path: name.into(), text: text.to_owned() };
        Ok(Self { value: schema.normalize(Value::Object(map)), sources: vec![source] })
    }

    /// Makes an empty document: every choice has its default.
    pub fn empty() -> Self {
        Self { value: Value::Object(Map::new()), sources: Vec::new() }
    }

    /// Applies the assignment `path.to.key=value`, whose value is parsed as YAML.
    ///
    /// # Errors
    /// [`Error`] when the text is not an assignment.
    pub fn set(&mut self, text: &str, schema: SchemaNode<'_>) -> Result<(), Error> {
        let wrong = |rule: &'static str| Error::invalid(rule).about(format!("--set {text}")).with_hint(EXAMPLE);
        let (path, value) = text.split_once('=').ok_or_else(|| wrong("wants key=value"))?;
        let path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) || path[0] == EXTENDS {
            return Err(wrong("wants the dotted path of a key"));
        }
        let value = parse_values(value)
            .map_err(|error| Error::invalid(error.rule).about("its value").about(format!("--set {text}")))?;
        let nested = path.iter().rev().fold(value, |inner, key| Value::Object(Map::from_iter([(key.clone(), inner)])));
        merge(&mut self.value, schema.normalize(nested), Some(schema));
        self.sources.insert(0, DocumentSource::Set { text: text.to_owned(), path });
        Ok(())
    }

    /// Applies a value of another file.
    pub fn assign(&mut self, assignment: &Assignment, schema: SchemaNode<'_>) {
        let path: Vec<String> = assignment.key.split('.').map(str::to_owned).collect();
        let nested = path
            .iter()
            .rev()
            .fold(assignment.value.clone(), |inner, key| Value::Object(Map::from_iter([(key.clone(), inner)])));
        merge(&mut self.value, schema.normalize(nested), Some(schema));
        self.sources.insert(0, DocumentSource::Given { place: assignment.place.clone(), path });
    }

    /// Makes the error of some problems, each with its position.
    pub fn error(&self, problems: &[SpecProblem]) -> Error {
        let more = problems.len().checked_sub(MAX_PRINTED).filter(|&n| n > 0);
        let more = more.map(|n| Error::invalid(format!("and {n} more")));
        let located = problems.iter().take(MAX_PRINTED).map(|problem| self.locate(problem));
        Error::all(located.chain(more)).unwrap_or_else(|| Error::invalid("no problem"))
    }

    /// Makes the error of one problem: its position, the path of its key, the rule and the hint.
    pub fn locate(&self, problem: &SpecProblem) -> Error {
        let mut error = Error::invalid(problem.rule.clone()).with_hint_if(problem.hint.clone());
        if !problem.path.is_empty() {
            error = error.about(problem.path.join("."));
        }
        match self.place(&problem.path) {
            Some(place) => error.about(place),
            None => error,
        }
    }

    /// Returns the name `file:line:column` or `--set ...` of the source that set a path.
    pub(crate) fn place(&self, path: &[String]) -> Option<String> {
        let depth_of = |source: &DocumentSource| match source {
            DocumentSource::File { text, .. } => depth(text, path),
            DocumentSource::Set { path: set, .. } | DocumentSource::Given { path: set, .. } => {
                set.iter().zip(path).take_while(|(a, b)| a == b).count()
            }
        };
        // Among equal depths the first source, which overrides the others.
        let best = self.sources.iter().rev().max_by_key(|source| depth_of(source))?;
        Some(match best {
            DocumentSource::Set { text, .. } => format!("--set {text}"),
            DocumentSource::Given { place, .. } => place.clone(),
            DocumentSource::File { path: file, text } => {
                format!("{}{}", file.display(), position_suffix(locate(text, path)))
            }
        })
    }

    /// Prefixes an error of a base file with the position of the `extends` that names the file.
    fn in_base(&self, error: Error) -> Error {
        let extends = [EXTENDS.to_owned()];
        let Some(DocumentSource::File { path, text }) = self.sources.last() else { return error };
        let place = position_suffix(locate(text, &extends));
        error.about(EXTENDS).about(format!("{}{place}", path.display()))
    }

    fn files(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.sources.iter().filter_map(|source| match source {
            DocumentSource::File { path, text } => Some((path.as_path(), text.as_str())),
            DocumentSource::Set { .. } | DocumentSource::Given { .. } => None,
        })
    }
}

/// Formats a position as it follows a path: `:line:column`.
fn position_suffix(position: Option<TextPosition>) -> String {
    position.map_or(String::new(), |TextPosition { line, column }| format!(":{line}:{column}"))
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn read_map(path: &Path) -> Result<(String, Map<String, Value>), Error> {
    let bytes = files::read_bounded(path, MAX_BYTES).map_err(Error::io(path))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::invalid("not a text").with_hint("the pipeline comes before the videos").about(path))?;
    let text = text.trim_start_matches('\u{feff}').to_owned();
    let map = parse_map(path, &text)?;
    Ok((text, map))
}

fn parse_map(path: &Path, text: &str) -> Result<Map<String, Value>, Error> {
    let located = |SyntaxError { position, rule }| {
        Error::invalid(rule).about(format!("{}{}", path.display(), position_suffix(position)))
    };
    match parse_values(text).map_err(located)? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => {
            let found = super::check::describe(&other);
            let error = Error::invalid(format!("wants keys and values, found {found}"));
            Err(error.with_hint("model: vidense-mini").about(path))
        }
    }
}

/// Merges `over` into `under`.
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
