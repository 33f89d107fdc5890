//! Bounds on the values of a template that the fuel of `minijinja` does not cover: lists that double by `+` are lazy
//! and cost no fuel until they are walked, texts made of a container's items are not charged per item, and a namespace
//! that contains itself is printed without end.
//!
//! Assignments are rewritten so that each value is checked: `{% set x = y %}` to `{% set x = check((y)) %}`.

use std::sync::LazyLock;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter, filters};
use minijinja_contrib::pycompat;
use regex::Regex;

/// Bytes of text per unit of fuel, as in `minijinja`.
const BYTES_PER_FUEL: usize = 64;
/// Largest nesting depth of lists and dictionaries.
const MAX_DEPTH: usize = 48;
/// Functions that check a value assigned to a variable, or to an attribute of a namespace.
const CHECK_VARIABLE: &str = "_check_variable";
const CHECK_ATTRIBUTE: &str = "_check_attribute";
/// Name of `minijinja`'s own filter `join`.
const JOIN: &str = "_join";

/// Head of an assignment after `{%`: `set`, the targets, and `=`.
static ASSIGNMENT: LazyLock<Result<Regex, regex::Error>> =
    LazyLock::new(|| Regex::new(r"^[-+]?\s*set\s+(?<targets>[\w\s.,()]+?)\s*=[^=]"));
static END_RAW: LazyLock<Result<Regex, regex::Error>> = LazyLock::new(|| Regex::new(r"\{%[-+]?\s*endraw\s*[-+]?%\}"));
static RAW: LazyLock<Result<Regex, regex::Error>> = LazyLock::new(|| Regex::new(r"^[-+]?\s*raw\s*[-+]?%\}"));

/// Adds the checks, and filters and methods that charge fuel for their texts beforehand.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_function(CHECK_VARIABLE, |state: &State, value: Value| check_size(state, &value).map(|()| value));
    environment.add_function(CHECK_ATTRIBUTE, |state: &State, value: Value| {
        SizeWalk { state, target: AssignmentTarget::Namespace }.visit(&value, 0).map(|()| value)
    });
    environment.set_formatter(|out, state, value| {
        check_size(state, value)?;
        escape_formatter(out, state, value)
    });
    environment.add_filter(JOIN, filters::join);
    environment.add_filter("join", join);
    environment.set_unknown_method_callback(|state, value, method, args| {
        if method == "join" {
            args.iter().try_for_each(|items| check_size(state, items))?;
        }
        pycompat::unknown_method_callback(state, value, method, args)
    });
}

fn join(state: &mut State, value: Value, options: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    check_size(state, &value)?;
    let args: Vec<Value> = std::iter::once(value).chain(options.0).chain([named.into()]).collect();
    state.apply_filter(JOIN, &args)
}

/// Charges fuel for a value: one unit per item, and one per 64 bytes of text.
///
/// # Errors
/// When the fuel runs out, or the value is nested too deeply.
pub(super) fn check_size(state: &State, value: &Value) -> Result<(), Error> {
    SizeWalk { state, target: AssignmentTarget::Variable }.visit(value, 0)
}

/// Target of an assignment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AssignmentTarget {
    Variable,
    Namespace,
}

/// Recursive walk through a value.
struct SizeWalk<'s, 'a, 'e> {
    state: &'s State<'a, 'e>,
    target: AssignmentTarget,
}

impl SizeWalk<'_, '_, '_> {
    fn visit(&self, value: &Value, depth: usize) -> Result<(), Error> {
        let wrong = |rule: String| Error::new(ErrorKind::InvalidOperation, rule);
        if depth > MAX_DEPTH {
            return Err(wrong(format!("a value is nested deeper than {MAX_DEPTH} levels")));
        }
        let name = value.as_object().map_or("", |object| object.type_name());
        let mutable = ["namespace", "loop"]
            .into_iter()
            .find(|kind| name.rsplit("::").next().is_some_and(|name| name.eq_ignore_ascii_case(kind)));
        if let Some(kind) = mutable {
            // Both are mutable, so a namespace could come to contain itself.
            return match self.target {
                AssignmentTarget::Namespace => Err(wrong(format!("a namespace cannot contain a {kind}"))),
                AssignmentTarget::Variable => Ok(()),
            };
        }
        if depth > 0 {
            let bytes = value.as_str().map_or(0, str::len);
            self.state.consume_fuel(1 + (bytes / BYTES_PER_FUEL) as u64)?;
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|item| self.visit(&item, depth + 1)),
            ValueKind::Map => value.try_iter()?.try_for_each(|key| {
                self.visit(&key, depth + 1)?;
                self.visit(&value.get_item(&key)?, depth + 1)
            }),
            _ => Ok(()),
        }
    }
}

/// Rewrites a source with a check around each value that `set` assigns. Line numbers stay.
pub(super) fn checked_assignments(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut rest = source;
    while let Some(start) = rest.find("{").filter(|&start| start + 1 < rest.len()) {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let end = match tag.as_bytes()[1] {
            b'#' => tag.find("#}").map_or(tag.len(), |end| end + 2),
            b'{' => end_of_code(tag, "}}"),
            b'%' => end_of_block(tag),
            _ => 1,
        };
        let (tag, behind) = tag.split_at(end);
        push_tag(tag, &mut out);
        rest = behind;
    }
    out + rest
}

/// Returns the end of a block's tag; a raw block ends after its text.
fn end_of_block(tag: &str) -> usize {
    let is_raw = RAW.as_ref().is_ok_and(|raw| raw.is_match(&tag[2..]));
    let end_raw = END_RAW.as_ref().ok().filter(|_| is_raw).and_then(|end| end.find(tag));
    end_raw.map_or_else(|| end_of_code(tag, "%}"), |found| found.end())
}

/// Returns the end of code, skipping strings.
fn end_of_code(tag: &str, end: &str) -> usize {
    let mut quote = None;
    let mut is_escaped = false;
    for (i, c) in tag.char_indices().skip(2) {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if tag[i..].starts_with(end) => return i + end.len(),
            None => {}
        }
    }
    tag.len()
}

fn push_tag(tag: &str, out: &mut String) {
    let inner = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}"));
    let head = inner.and_then(|inner| ASSIGNMENT.as_ref().ok()?.captures(inner));
    let (Some(inner), Some(head)) = (inner, head) else { return out.push_str(tag) };
    let check = if head["targets"].contains('.') { CHECK_ATTRIBUTE } else { CHECK_VARIABLE };
    // The head ends with the first character of the value.
    let last = head[0].chars().next_back().map_or(0, char::len_utf8);
    let (head, value) = inner.split_at(head[0].len() - last);
    let (value, mark) = value.strip_suffix(['-', '+']).map_or((value, ""), |value| (value, &inner[inner.len() - 1..]));
    out.push_str(&format!("{{%{head} {check}(({value})) {mark}%}}"));
}
