//! Everything that is printed.

use std::io::{IsTerminal, Write};

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
    let mut out = std::io::stderr().lock();
    let coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let word = if coloured { format!("\x1b[{colour};1m{word}\x1b[0m") } else { word.to_owned() };
    let _ = writeln!(out, "{word}: {text}");
}
