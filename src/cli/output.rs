//! Everything that is printed. Names may hold any character, so texts for people are printed by [`printable`].

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::json;
use strum::{EnumString, VariantNames};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use vidense::batch::store::ResultRecord;
use vidense::batch::{Snapshot, Summary};
use vidense::choice;
use vidense::error::Error;
use vidense::spec::SpecError;

/// How standard error is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_log_format)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

fn unknown_log_format(name: &str) -> Error {
    choice::unknown_name("log format", name, LogFormat::VARIANTS)
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Sets how standard error is written from now on; the first call counts.
pub fn log_as(format: LogFormat) {
    if FORMAT.set(format).is_err() {
        return;
    }
    match format {
        LogFormat::Text => tracing_subscriber::registry().with(LibraryWarnings { tell: warning }).init(),
        LogFormat::Json => {
            let log = tracing_subscriber::fmt().json().flatten_event(true).with_target(false);
            log.with_max_level(tracing::Level::INFO).with_writer(std::io::stderr).init();
        }
    }
}

/// Prints the library's warnings, such as that a GPU runs without one of its kernels, as those of commands.
struct LibraryWarnings {
    tell: fn(&str),
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for LibraryWarnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() == tracing::Level::WARN && metadata.target().starts_with(env!("CARGO_PKG_NAME")) {
            event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                if field.name() == "message" {
                    (self.tell)(&format!("{value:?}"));
                }
            });
        }
    }
}

/// Whether standard error is written as JSON.
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Prints a line to standard output.
///
/// # Errors
/// When nobody reads it any more, or the disk is full.
pub fn line(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a part of a line to standard output, at once.
///
/// # Errors
/// As [`line`].
pub fn part(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints the path of a file that was written, byte by byte for a program, printable on a terminal.
///
/// # Errors
/// As [`line`].
pub fn path(path: &Path) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        writeln!(out, "{}", printable(&path.to_string_lossy()))?;
    } else {
        out.write_all(path.as_os_str().as_encoded_bytes())?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Prints an object as one line of JSON.
///
/// # Errors
/// As [`line`].
pub fn json(object: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string(object)?)?)
}

/// Tells what stopped the command.
pub fn error(error: &anyhow::Error) {
    match error.downcast_ref::<SpecError>() {
        // One problem a line.
        Some(SpecError { lines }) => told("error", "31", lines),
        None => told("error", "31", &[error.to_string()]),
    }
}

/// Tells of an item, or a question about it, that failed.
pub fn failure(record: &ResultRecord) {
    let Some(failure) = record.failure() else { return };
    if is_json() {
        let (video, question, hint) = (&record.video, record.question.as_deref(), failure.hint.as_deref());
        let (stage, kind, cause) = (&failure.stage, &failure.kind, &failure.cause);
        tracing::error!(video, question, stage, kind, cause, hint, "an item failed");
        return;
    }
    let question = record.question.as_ref().map_or(String::new(), |question| format!(" {question}"));
    let named = if failure.cause.contains(&record.video) { "" } else { &format!("{}:{question} ", record.video) };
    let hint = failure.hint.as_ref().map_or(String::new(), |hint| format!("; hint: {hint}"));
    told("error", "31", &[format!("{named}{} (in the stage {}){hint}", failure.cause, failure.stage)]);
}

/// A text whose control characters are written out, and those that turn the direction of writing. The end of a line
/// stays only where an indented line follows, as in a list of problems.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        match c {
            '\n' if text[at + 1..].starts_with("  ") => shown.push(c),
            '\n' => shown += "\\n",
            '\r' => shown += "\\r",
            '\t' => shown += "\\t",
            c if c.is_ascii_control() => shown += &format!("\\x{:02x}", u32::from(c)),
            c if is_hidden(c) => shown += &format!("\\u{{{:x}}}", u32::from(c)),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Whether a terminal may obey a character rather than show it: controls, marks of direction (Unicode Bidi_Control),
/// separators of lines and paragraphs, and the mark of byte order.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Tells how a batch stands, where no bar does.
pub fn progress(snapshot: &Snapshot, text: &str) {
    if is_json() {
        let Snapshot { skipped, done, failed, answers, expected, seconds_left, .. } = snapshot;
        tracing::info!(skipped, done, failed, answers, expected, seconds_left, "progress");
    } else {
        note(text);
    }
}

/// Tells what came of a batch.
pub fn conclusion(summary: &Summary, text: &str) {
    if is_json() {
        let (complete, held, now) = (summary.complete, &summary.results, &summary.session);
        let (answers, failures, seconds) = (held.answers, held.failed, now.seconds);
        let (frames_decoded, decoder_restarts) = (now.frames_decoded, now.decoder_restarts);
        let passed_over = now.passed_over.values().map(|left| left.files).sum::<u64>();
        // An event's fields are flat, and `passed_over_by` is an object: the line is written as an event's is.
        let mut timestamp = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        let line = json!({
            "timestamp": timestamp,
            "level": "INFO",
            "message": "the batch ended",
            "passed_over": passed_over,
            "passed_over_by": &now.passed_over,
            "complete": complete,
            "answers": answers,
            "failures": failures,
            "seconds": seconds,
            "frames_decoded": frames_decoded,
            "decoder_restarts": decoder_restarts,
        });
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    } else {
        plain(text);
    }
}

/// Tells what the user should know although the command goes on.
pub fn warning(text: &str) {
    told("warning", "33", &[text]);
}

/// Tells what the user may like to know.
pub fn note(text: &str) {
    told("note", "36", &[text]);
}

/// Tells what was asked for beside the answers; names in it are [`printable`] already.
pub fn plain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Passes a line of another process of ours on, with the name of that process; JSON as it is.
pub fn passed_on(name: &str, line: &str) {
    let mut out = std::io::stderr().lock();
    let _ = if is_json() { writeln!(out, "{line}") } else { writeln!(out, "[{name}] {}", printable(line)) };
}

/// Lines to standard error; if nobody listens there, nobody is told.
fn told<L: AsRef<str>>(word: &str, colour: &str, lines: &[L]) {
    if is_json() {
        let text = lines.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("\n");
        match word {
            "error" => tracing::error!("{text}"),
            "warning" => tracing::warn!("{text}"),
            _ => tracing::info!("{text}"),
        }
        return;
    }
    let mut out = std::io::stderr().lock();
    let coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let word = if coloured { format!("\x1b[{colour};1m{word}\x1b[0m") } else { word.to_owned() };
    let text = lines.iter().map(|line| printable(line.as_ref())).collect::<Vec<_>>().join("\n");
    let _ = writeln!(out, "{word}: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_the_library_are_told_and_nothing_else() {
        static TOLD: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
        let layer = LibraryWarnings { tell: |text| TOLD.lock().expect("no panic").push(text.to_owned()) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(target: "vidense::kernels", "no kernel on {}", "this GPU");
            tracing::info!(target: "vidense::kernels", "a kernel");
            tracing::warn!(target: "hyper", "a connection");
        });
        assert_eq!(*TOLD.lock().expect("no panic"), ["no kernel on this GPU"]);
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        for (text, shown) in [
            ("a b.mp4", "a b.mp4"),
            ("ä \u{1f469}\u{200d}\u{1f680}.mp4", "ä \u{1f469}\u{200d}\u{1f680}.mp4"),
            ("a\x1b[31m\x07.mp4", "a\\x1b[31m\\x07.mp4"),
            ("a\nerror: b\r\t\x7f", "a\\nerror: b\\r\\t\\x7f"),
            ("gpj.\u{202e}4pm\u{2066}\u{9b}", "gpj.\\u{202e}4pm\\u{2066}\\u{9b}"),
            ("problems:\n  one\n  two", "problems:\n  one\n  two"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }
}
