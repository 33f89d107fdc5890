//! Jinja as transformers runs chat templates: `minijinja` with Python's methods, and transformers' own functions.
//!
//! A template is foreign code. It gets a fixed amount of fuel, which instructions and the text that they make both
//! burn, a fixed depth, and values of a bounded size ([`bounds`]). It is compiled and rendered on a thread of its own
//! with a large stack and a deadline of a second. A thread that misses the deadline is left behind: it cannot be
//! stopped, and it works until it is done or the process ends.

mod bounds;
mod json;

use std::fmt::Write;
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use regex::Regex;

/// Instructions, or 64 bytes of text each. A template of a model uses some thousands.
const FUEL: u64 = 1_000_000;
/// Depth of calls.
const DEPTH: usize = 64;
/// The longest template, in bytes. Released ones have up to 20 KB.
const MAX_LENGTH: usize = 64 << 10;
/// Time to compile and render. A model's template takes a few milliseconds.
const DEADLINE: Duration = Duration::from_secs(1);
/// Stack of the thread: the compiler recurses into an operator's operand, which may be nested as deeply as the template
/// is long.
const STACK: usize = 512 << 20;

/// `{% generation %}` marks what an assistant wrote and changes no text.
static GENERATION: LazyLock<Result<Regex, regex::Error>> =
    LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}"));

/// Why a template gives no text, in words.
#[derive(Debug)]
pub(super) enum Failure {
    /// A template that refuses its input itself, with `raise_exception`.
    Refused(String),
    /// A template that is malformed, does not fit its input, or does not end.
    Broken(String),
    /// A template that missed the deadline, and will miss it whatever its input is.
    Late(String),
}

/// Renders a template.
///
/// # Errors
/// [`Failure`].
pub(super) fn render(source: &str, context: Value) -> Result<String, Failure> {
    if source.len() > MAX_LENGTH {
        return Err(Failure::Broken(format!("it has {} bytes, over the limit of {MAX_LENGTH}", source.len())));
    }
    let source = source.to_owned();
    let (sender, receiver) = mpsc::sync_channel(1);
    let work = move || {
        // Nobody receives it after the deadline.
        let _ = sender.send(render_here(&source, context));
    };
    let thread = thread::Builder::new().name("chat template".to_owned()).stack_size(STACK).spawn(work);
    thread.map_err(|error| Failure::Broken(format!("no thread to render it: {error}")))?;
    receiver.recv_timeout(DEADLINE).unwrap_or_else(|error| match error {
        mpsc::RecvTimeoutError::Timeout => Err(Failure::Late(ENDLESS.to_owned())),
        mpsc::RecvTimeoutError::Disconnected => Err(Failure::Broken("its renderer panicked".to_owned())),
    })
}

const ENDLESS: &str = "it does not end, or its text has no end";

fn render_here(source: &str, context: Value) -> Result<String, Failure> {
    let marks = GENERATION.as_ref().map_err(|error| Failure::Broken(error.to_string()))?;
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

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
        match (error.kind(), error.detail()) {
            (ErrorKind::OutOfFuel, _) => Self::Broken(ENDLESS.to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn rendered(source: &str) -> Result<String, String> {
        let context = context! { messages => [context! { role => "user", content => "a" }] };
        render(source, context).map_err(|failure| match failure {
            Failure::Refused(cause) | Failure::Broken(cause) | Failure::Late(cause) => cause,
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
    fn what_is_assigned_is_what_is_written() {
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
            ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "a namespace cannot hold a namespace"),
            (
                "{% set ns = namespace() %}{% set ns.a, b = [ns], 2 %}{{ ns ~ '' }}",
                "a namespace cannot hold a namespace",
            ),
            (
                "{% set ns = namespace() %}{% for x in [1, 2, ns, 3] %}{% set ns.a = loop %}{{ ns }}{% endfor %}",
                "a namespace cannot hold a loop",
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
        // Whatever becomes of the deepest nesting that fits, the process lives.
        for (operator, operand) in [("not ", "1"), ("-", "1"), ("", "a"), ("[", ""), ("(", "1"), ("1 if 1 else ", "1")]
        {
            let suffix = if operator.is_empty() { ".b" } else { "" };
            let n = (MAX_LENGTH - 16) / (operator.len() + suffix.len());
            let _ = rendered(&format!("{{{{ {}{operand}{} }}}}", operator.repeat(n), suffix.repeat(n)));
        }
    }
}
