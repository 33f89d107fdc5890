//! Printing: answers to standard output, everything else to standard error, as text or as JSON.
//!
//! Names of files may contain any character, so texts for people pass through [`printable`]. No other module prints.

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
use vidense::pipeline::ItemError;

#[cfg(feature = "serve")]
use super::commands::serve::log::RequestLine;

/// Format of standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_log_format)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// JSON, one object a line.
    Json,
}

fn unknown_log_format(name: &str) -> Error {
    choice::unknown_name("log format", name, LogFormat::VARIANTS)
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Sets the format of standard error; only the first call has an effect.
pub fn log_as(format: LogFormat) {
    if FORMAT.set(format).is_err() {
        return;
    }
    match format {
        LogFormat::Text => tracing_subscriber::registry().with(LibraryWarnings { print: warning }).init(),
        LogFormat::Json => {
            let log = tracing_subscriber::fmt().json().flatten_event(true).with_target(false);
            log.with_max_level(tracing::Level::INFO).with_writer(std::io::stderr).init();
        }
    }
}

/// Subscriber that prints warnings of the library, such as a kernel that a GPU runs without, like those of commands.
struct LibraryWarnings {
    print: fn(&str),
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for LibraryWarnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() == tracing::Level::WARN && metadata.target().starts_with(env!("CARGO_PKG_NAME")) {
            event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                if field.name() == "message" {
                    (self.print)(&format!("{value:?}"));
                }
            });
        }
    }
}

/// Returns whether standard error is JSON.
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Prints a line to standard output.
///
/// # Errors
/// When the reader closed standard output, or the disk is full.
pub fn line(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a part of a line to standard output, and flushes it.
///
/// # Errors
/// As [`line`].
pub fn part(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints the path of a written file: its bytes for a program, printable characters on a terminal.
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

/// Prints the error that stopped the command.
pub fn error(error: &anyhow::Error) {
    match error.downcast_ref::<Error>() {
        // One line for each problem.
        Some(error) => message("error", "31", &error.errors().map(Error::each_to_string).collect::<Vec<_>>()),
        None => message("error", "31", &[error.to_string()]),
    }
}

/// Prints the failure of an item or of a question.
pub fn failure(record: &ResultRecord) {
    let Some(failure) = record.failure() else { return };
    if is_json() {
        let (video, question, hint) = (&record.video, record.question.as_deref(), failure.hint.as_deref());
        let (stage, kind, cause) = (&failure.stage, &failure.kind, &failure.cause);
        tracing::error!(video, question, stage, kind, cause, hint, "an item failed");
        return;
    }
    let question = record.question.as_ref().map_or(String::new(), |question| format!(", question `{question}`"));
    let rule = format!("{} (in the stage {}{question})", failure.cause, failure.stage);
    message("error", "31", &[Error::invalid(rule).with_hint_if(failure.hint.clone()).to_string()]);
}

/// Formats the failure of a video or of a question about it: its error, which names the video, and its stage.
pub fn item_failure(video: &Path, failure: &ItemError) -> String {
    format!("{} (in the stage {})", failure.error.clone().about_item(video), failure.stage)
}

/// Escapes control characters, and those that change the direction of writing. A line break stays only before an
/// indented line, as in a list of problems.
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

/// Returns whether a terminal may act on a character instead of showing it: control characters, Unicode Bidi_Control,
/// line and paragraph separators, the byte order mark.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Prints the progress of a batch, where there is no progress bar.
pub fn progress(snapshot: &Snapshot, text: &str) {
    if is_json() {
        let Snapshot { skipped, done, failed, answers, expected, seconds_left, .. } = snapshot;
        tracing::info!(skipped, done, failed, answers, expected, seconds_left, "progress");
    } else {
        note(text);
    }
}

/// Prints the summary of a batch.
pub fn conclusion(summary: &Summary, text: &str) {
    if is_json() {
        let (complete, held, now) = (summary.complete, &summary.results, &summary.session);
        let (answers, failures, seconds) = (held.answers, held.failed, now.seconds);
        let (frames_decoded, decoder_restarts) = (now.frames_decoded, now.decoder_restarts);
        let passed_over = now.passed_over.values().map(|left| left.files).sum::<u64>();
        // Fields of an event are flat, and `passed_over_by` is an object: the line is written here in an event's
        // format.
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

/// Prints a warning: the command goes on.
pub fn warning(text: &str) {
    message("warning", "33", &[text]);
}

/// Prints a note.
pub fn note(text: &str) {
    message("note", "36", &[text]);
}

/// Prints requested output other than answers, such as timings; names in it are [`printable`] already.
pub fn plain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints a line of a child process, prefixed with the name of that process; JSON is not changed.
pub fn passed_on(name: &str, line: &str) {
    let mut out = std::io::stderr().lock();
    let _ = if is_json() { writeln!(out, "{line}") } else { writeln!(out, "[{name}] {}", printable(line)) };
}

/// Prints the address of a server: the first line of standard error.
#[cfg(feature = "serve")]
pub fn listening(text: &str) {
    if is_json() { tracing::info!("{text}") } else { plain(text) }
}

/// Prints the line of a request to a server.
#[cfg(feature = "serve")]
pub fn request(line: &RequestLine<'_>) {
    let RequestLine { method, path, status, ms, id, prompt_tokens, completion_tokens, error } = *line;
    if is_json() {
        tracing::info!(method, path, status, ms, id, prompt_tokens, completion_tokens, error, "request");
        return;
    }
    let tokens = match (prompt_tokens, completion_tokens) {
        (Some(prompt), Some(completion)) => format!(" {prompt}+{completion} tokens"),
        _ => String::new(),
    };
    let error = error.map_or(String::new(), |error| format!(": {error}"));
    plain(&printable(&format!("{method} {path} {status} {ms} ms {id}{tokens}{error}")));
}

/// Prints lines to standard error, and ignores a closed one.
fn message<L: AsRef<str>>(word: &str, colour: &str, lines: &[L]) {
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
    fn warnings_of_the_library_are_printed_and_nothing_else() {
        static PRINTED: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
        let layer = LibraryWarnings { print: |text| PRINTED.lock().expect("no panic").push(text.to_owned()) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(target: "vidense::kernels", "no kernel on {}", "this GPU");
            tracing::info!(target: "vidense::kernels", "a kernel");
            tracing::warn!(target: "hyper", "a connection");
        });
        assert_eq!(*PRINTED.lock().expect("no panic"), ["no kernel on this GPU"]);
    }

    #[test]
    fn characters_that_a_terminal_acts_on_are_escaped() {
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
