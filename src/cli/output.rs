//! Everything that is printed.

use std::io::{IsTerminal, Write};
use std::str::FromStr;
use std::sync::OnceLock;

use vidense::batch::store::Record;
use vidense::batch::{Snapshot, Summary};

/// How standard error is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is no format; hint: text, json")),
        }
    }
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Sets how standard error is written from now on; the first call counts.
pub fn log_as(format: LogFormat) {
    if FORMAT.set(format).is_ok() && format == LogFormat::Json {
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_target(false);
        log.with_max_level(tracing::Level::INFO).with_writer(std::io::stderr).init();
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

/// Prints an object as one line of JSON.
///
/// # Errors
/// As [`line`].
pub fn json(object: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string(object)?)?)
}

/// Tells what stopped the command.
pub fn error(error: &anyhow::Error) {
    told("error", "31", &error.to_string());
}

/// Tells of an item, or a question about it, that failed.
pub fn failure(record: &Record) {
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
    told("error", "31", &printable(&format!("{named}{} (in the stage {}){hint}", failure.cause, failure.stage)));
}

/// A text whose control characters are written out: names may hold any.
fn printable(text: &str) -> String {
    let write = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(write).collect()
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
        tracing::info!(complete, answers, failures, seconds, frames_decoded, decoder_restarts, "the batch ended");
    } else {
        plain(text);
    }
}

/// Tells what the user should know although the command goes on.
pub fn warning(text: &str) {
    told("warning", "33", text);
}

/// Tells what the user may like to know.
pub fn note(text: &str) {
    told("note", "36", text);
}

/// Tells what was asked for beside the answers.
pub fn plain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A line to standard error; if nobody listens there, nobody is told.
fn told(word: &str, colour: &str, text: &str) {
    if is_json() {
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
    let _ = writeln!(out, "{word}: {text}");
}
