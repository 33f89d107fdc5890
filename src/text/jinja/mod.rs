//! Jinja renderer of chat templates, as transformers runs them: `minijinja` with Python's methods, and transformers'
//! own functions.
//!
//! A template is untrusted code. It has a fixed amount of fuel, charged for instructions and for the text that they
//! make, a fixed recursion depth, and values of a bounded size ([`bounds`]). It is compiled and rendered on its own
//! thread with a large stack and a deadline of one second. A thread that misses the deadline cannot be stopped: it runs
//! until it finishes or the process ends.

mod bounds;
mod json;

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use regex::Regex;

use crate::error;

/// Fuel, in instructions or units of 64 bytes of text. A template of a model uses some thousands.
const FUEL: u64 = 1_000_000;
/// Recursion depth of calls.
const DEPTH: usize = 64;
/// Largest length of a template, in bytes. Released ones have up to 20 KB.
const MAX_LENGTH: usize = 64 << 10;
/// Time limit to compile and render. A model's template takes a few milliseconds.
const DEADLINE: Duration = Duration::from_secs(1);
/// Stack size of the thread: the compiler recurses into an operator's operand, which may nest as deeply as the template
/// is long.
const STACK: usize = 512 << 20;

/// Tags `{% generation %}`, which mark an assistant's text and change no text.
static GENERATION: LazyLock<Result<Regex, regex::Error>> =
    LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}"));

/// Failure of a template to render.
#[derive(Debug)]
pub(super) enum RenderFailure {
    /// The template refused its input itself, with `raise_exception`.
    Refused(error::Error),
    /// The template is malformed, does not fit its input, or does not end.
    Broken(error::Error),
    /// The template missed the deadline, and will miss it with any input.
    TimedOut(error::Error),
}

/// Renders a template.
///
/// # Errors
/// [`RenderFailure`].
pub(super) fn render(source: &str, context: Value) -> Result<String, RenderFailure> {
    if source.len() > MAX_LENGTH {
        return Err(broken(format!("it has {} bytes, over the limit of {MAX_LENGTH}", source.len())));
    }
    let source = source.to_owned();
    let (sender, receiver) = mpsc::sync_channel(1);
    let work = move || {
        // After the deadline there is no receiver.
        let _ = sender.send(render_here(&source, context));
    };
    let thread = thread::Builder::new().name("chat template".to_owned()).stack_size(STACK).spawn(work);
    thread.map_err(|error| broken(format!("no thread to render it: {error}")))?;
    receiver.recv_timeout(DEADLINE).unwrap_or_else(|error| match error {
        mpsc::RecvTimeoutError::Timeout => Err(RenderFailure::TimedOut(error::Error::invalid(ENDLESS))),
        mpsc::RecvTimeoutError::Disconnected => Err(broken("its renderer panicked")),
    })
}

const ENDLESS: &str = "it does not end, or its text has no end";

fn broken(rule: impl Into<Cow<'static, str>>) -> RenderFailure {
    RenderFailure::Broken(error::Error::invalid(rule))
}

fn render_here(source: &str, context: Value) -> Result<String, RenderFailure> {
    let marks = GENERATION.as_ref().map_err(|error| broken(error.to_string()))?;
    let source = marks.replace_all(source, "{%$1 ${2}with $3%}");
    let source = bounds::checked_assignments(&source);
    let environment = environment()?;
    Ok(environment.template_from_named_str("template", &source)?.render(context)?)
}

fn environment<'s>() -> Result<Environment<'s>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH);
    bounds::install(&mut environment);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", json::tojson);
    Ok(environment)
}

impl From<Error> for RenderFailure {
    fn from(error: Error) -> Self {
        let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
        match (error.kind(), error.detail()) {
            (ErrorKind::OutOfFuel, _) => broken(ENDLESS),
            (_, Some(detail)) if detail.starts_with(REFUSES) => {
                Self::Refused(error::Error::invalid(format!("{detail}{line}")))
            }
            (kind, Some(detail)) => broken(format!("{kind}: {detail}{line}")),
            (kind, None) => broken(format!("{kind}{line}")),
        }
    }
}

const REFUSES: &str = "it refuses the conversation: ";

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSES}{message}")))
}

/// Formats the current time with `strftime`. A template that prints the date makes another prompt each day.
fn strftime_now(format: String) -> Result<String, Error> {
    let mut text = String::new();
    let wrong = |_| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: unknown format {format:?}"));
    write!(text, "{}", chrono::Local::now().format(&format)).map_err(wrong)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn rendered(source: &str) -> Result<String, String> {
        let context = context! { messages => [context! { role => "user", content => "a" }] };
        render(source, context).map_err(|failure| match failure {
            RenderFailure::Refused(cause) | RenderFailure::Broken(cause) | RenderFailure::TimedOut(cause) => {
                cause.to_string()
            }
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
    fn checked_assignments_keep_their_values() {
        let source = "{% set a, b = 1, 'x %} y' %}{% set ns = namespace(l=[], n=0) %}{% for m in messages %}\n\
            {%- set ns.l = ns.l + [m.role] -%}{%- set ns.n = ns.n + 1 if m else 5 -%}{% endfor %}\
            {% set c %}{% raw %}{% set ns.q = 1 %}{% endraw %}{% endset %}{# {% set ns.n = 9 %} #}\
            {{ a }}|{{ b }}|{{ ns.l | join(',') }}|{{ ns.n }}|{{ c }}|{{ '{% set ns.n = 1 %}' }}|{{ [1, 2] | join }}|\
            {{ '-'.join(['a', 'b']) }}|{{ messages | join('; ', attribute='role') }}";
        let expected = "1|x %} y|user|1|{% set ns.q = 1 %}|{% set ns.n = 1 %}|12|a-b|user";
        assert_eq!(rendered(source).expect("a good template"), expected);
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
            ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "a namespace cannot contain a namespace"),
            (
                "{% set ns = namespace() %}{% set ns.a, b = [ns], 2 %}{{ ns ~ '' }}",
                "a namespace cannot contain a namespace",
            ),
            (
                "{% set ns = namespace() %}{% for x in [1, 2, ns, 3] %}{% set ns.a = loop %}{{ ns }}{% endfor %}",
                "a namespace cannot contain a loop",
            ),
            (
                "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
                endless,
            ),
            ("{% macro f(x, n) %}{{ f(x+x+x+x+x+x+x+x, n - 1) if n else x }}{% endmacro %}{{ f([1], 10) }}", endless),
            ("{% set ns = namespace(l=1) %}{% for i in range(99) %}{% set ns.l = [ns.l] %}{% endfor %}", "nested"),
            ("{{ {'a': 1} | tojson(indent=9999999999) }}", "tojson: indent: 9999999999 is over the limit"),
            ("{% set x = 'a' * 100000 %}{{ ([x] * 100000) | join | length }}", endless),
            ("{% set x = 'a' * 100000 %}{{ ','.join([x] * 100000) | length }}", endless),
            ("{% set x = ['a' * 100000] * 9000 %}{{ x ~ '' }}", endless),
            ("{% set x = ['a' * 100000] * 9000 %}{{ x | tojson }}", endless),
        ];
        for (source, expected) in cases {
            let error = rendered(source).expect_err(source);
            assert!(error.contains(expected), "{source}: {error}");
        }
        let long = rendered(&"{{ 1 }}".repeat(1 << 18)).expect_err("over the limit");
        assert_eq!(long, "it has 1835008 bytes, over the limit of 65536");
        // The deepest nesting within the length limit may fail, but the process survives.
        for (operator, operand) in [("not ", "1"), ("-", "1"), ("", "a"), ("[", ""), ("(", "1"), ("1 if 1 else ", "1")]
        {
            let suffix = if operator.is_empty() { ".b" } else { "" };
            let n = (MAX_LENGTH - 16) / (operator.len() + suffix.len());
            let _ = rendered(&format!("{{{{ {}{operand}{} }}}}", operator.repeat(n), suffix.repeat(n)));
        }
    }
}
