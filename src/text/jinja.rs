//! Jinja as transformers runs chat templates: `minijinja` with Python's methods, and transformers' own functions.
//!
//! A template is foreign code. It gets a fixed amount of fuel, which instructions and the text that they make both
//! burn, and a fixed depth: an endless loop or a text without end fails in well under a second.

use std::fmt::Write;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use regex::Regex;

/// Instructions, or 64 bytes of text each. A template of a model uses some thousands.
const FUEL: u64 = 1_000_000;
/// Depth of calls.
const DEPTH: usize = 64;
/// The longest template, in bytes.
const MAX_LENGTH: usize = 1 << 20;

/// `{% generation %}` marks what an assistant wrote and changes no text.
static GENERATION: LazyLock<Result<Regex, regex::Error>> =
    LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}"));

/// Why a template gives no text, in words.
#[derive(Debug)]
pub(super) enum Failure {
    /// It refuses its input itself, with `raise_exception`.
    Refused(String),
    /// It is malformed, does not fit its input, or does not end.
    Broken(String),
}

/// Renders a template.
///
/// # Errors
/// [`Failure`].
pub(super) fn render(source: &str, context: Value) -> Result<String, Failure> {
    if source.len() > MAX_LENGTH {
        return Err(Failure::Broken(format!("it has {} bytes, over the limit of {MAX_LENGTH}", source.len())));
    }
    let marks = GENERATION.as_ref().map_err(|error| Failure::Broken(error.to_string()))?;
    let source = marks.replace_all(source, "{%$1 ${2}with $3%}");
    let environment = environment()?;
    Ok(environment.template_from_named_str("template", &source)?.render(context)?)
}

fn environment<'s>() -> Result<Environment<'s>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    Ok(environment)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
        match (error.kind(), error.detail()) {
            (ErrorKind::OutOfFuel, _) => Self::Broken("it does not end, or its text has no end".to_owned()),
            (_, Some(detail)) if detail.starts_with(REFUSES) => Self::Refused(format!("{detail}{line}")),
            (kind, Some(detail)) => Self::Broken(format!("{kind}: {detail}{line}")),
            (kind, None) => Self::Broken(format!("{kind}{line}")),
        }
    }
}

const REFUSES: &str = "it refuses the conversation: ";

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSES}{message}")))
}

/// The time of day in a format of `strftime`. A template that prints it makes another prompt each day.
fn strftime_now(format: String) -> Result<String, Error> {
    let mut text = String::new();
    let wrong = |_| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: unknown format {format:?}"));
    write!(text, "{}", chrono::Local::now().format(&format)).map_err(wrong)?;
    Ok(text)
}

/// A value as Python's `json.dumps` writes it, with `ensure_ascii=False` unless it is asked for.
fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let wrong = |words: String| Error::new(ErrorKind::InvalidOperation, format!("tojson: {words}"));
    let value = serde_json::to_value(&value).map_err(|error| wrong(error.to_string()))?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(wrong("separators: expected two texts".to_owned())),
    };
    let is_ascii = ensure_ascii.unwrap_or(false);
    let dump = Dump { item, key, indent, is_ascii, is_sorted: sort_keys.unwrap_or(false) };
    let mut text = String::new();
    dump.write(&value, 0, &mut text);
    Ok(text)
}

/// How JSON is laid out.
struct Dump<'o> {
    item: &'o str,
    key: &'o str,
    indent: Option<usize>,
    is_ascii: bool,
    is_sorted: bool,
}

impl Dump<'_> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn rendered(source: &str) -> Result<String, String> {
        let context = context! { messages => [context! { role => "user", content => "a" }] };
        render(source, context).map_err(|failure| match failure {
            Failure::Refused(cause) | Failure::Broken(cause) => cause,
        })
    }

    #[test]
    fn blocks_are_trimmed_and_marks_of_generation_are_ignored() {
        let source = "{% for m in messages %}\n  {% generation %}\n{{ m.role.upper() }}\n  {% endgeneration %}\n{% endfor %}\nend\n";
        // As jinja2 3.1 with trim_blocks and lstrip_blocks.
        assert_eq!(rendered(source).expect("a good template"), "USER\nend");
    }

    #[test]
    fn values_print_as_python_prints_them() {
        let source = "{{ true }} {{ none }} {{ 1.0 }} {{ 'a' ~ 1 }} {{ messages | tojson }}";
        let expected = "True None 1.0 a1 [{\"role\": \"user\", \"content\": \"a\"}]";
        assert_eq!(rendered(source).expect("a good template"), expected);
        let source = "{{ {'b': ['é', 1], 'a': {}} | tojson(indent=2, sort_keys=true, ensure_ascii=true) }}";
        let expected = "{\n  \"a\": {},\n  \"b\": [\n    \"\\u00e9\",\n    1\n  ]\n}";
        assert_eq!(rendered(source).expect("a good template"), expected);
        assert_eq!(rendered("{{ [1, 2] | tojson(separators=[',', ':']) }}").expect("a good template"), "[1,2]");
    }

    #[test]
    fn loops_can_be_left() {
        let source = "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}";
        assert_eq!(rendered(source).expect("a good template"), "02");
    }

    #[test]
    fn hostile_templates_end_with_an_error() {
        let endless = "it does not end, or its text has no end";
        let cases = [
            ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", endless),
            (
                "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
                endless,
            ),
            ("{% for a in range(99999) %}{{ 'a' * 10000 }}{% endfor %}", endless),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit exceeded"),
            ("{{ messages[0]['absent']['key'] }}", "undefined value"),
            ("{{ messages[0].content.no_such_method() }}", "unknown method"),
            ("{{ messages + 'a' }}", "invalid operation"),
            ("{% if %}", "syntax error"),
            ("{% include 'x' %}", "syntax error"),
            (
                "{{ raise_exception('Roles must alternate') }}",
                "it refuses the conversation: Roles must alternate (line 1)",
            ),
            ("{{ strftime_now('%!') }}", "strftime_now: unknown format"),
        ];
        for (source, expected) in cases {
            let error = rendered(source).expect_err(source);
            assert!(error.contains(expected), "{source}: {error}");
        }
        assert!(rendered(&"{{ 1 }}".repeat(1 << 18)).is_err());
    }
}
