//! The whole command `ask`, from its start to its end.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::machine::children_memory_peak;
use super::median_seconds;

/// What the command did.
#[derive(Debug, Clone, Serialize)]
pub struct AskBench {
    /// The model's name.
    pub model: String,
    /// Runs of which the medians are taken.
    pub runs: usize,
    /// From the start of the process to its end.
    pub seconds: f64,
    /// The median of each part that the command tells; decoding and preprocessing overlap with encoding.
    pub timings_ms: BTreeMap<String, f64>,
    /// Tokens of the answer, with the one that ends it.
    pub answer_tokens: usize,
    /// The most memory that a run used.
    pub memory_peak_bytes: Option<u64>,
}

/// The part of the command's object that is read.
#[derive(Deserialize)]
struct Told {
    model: String,
    token_ids: Vec<u32>,
    timings_ms: BTreeMap<String, f64>,
}

/// Times `program ask VIDEO QUESTION --json`, with further arguments.
///
/// # Errors
/// When the command cannot be run, or fails, in its own words.
pub fn bench_ask(
    program: &Path,
    video: &Path,
    question: &str,
    arguments: &[String],
    runs: usize,
) -> io::Result<AskBench> {
    if let Some(flag) = arguments.iter().find(|argument| argument.starts_with("--json")) {
        return Err(io::Error::other(format!("{flag}: it is given already; hint: leave it out after `--`")));
    }
    let mut told = Vec::new();
    let seconds = median_seconds(runs, || {
        told.push(ask(program, video, question, arguments)?);
        Ok::<_, io::Error>(())
    })?;
    // The first run filled the system's caches.
    let warm = told.split_off(1);
    let last = warm.last().ok_or_else(|| io::Error::other("no run"))?;
    let part = |name: &String| (name.clone(), median(warm.iter().filter_map(|run| run.timings_ms.get(name)).copied()));
    Ok(AskBench {
        model: last.model.clone(),
        runs: warm.len(),
        seconds,
        timings_ms: last.timings_ms.keys().map(part).collect(),
        answer_tokens: last.token_ids.len(),
        memory_peak_bytes: children_memory_peak(),
    })
}

fn ask(program: &Path, video: &Path, question: &str, arguments: &[String]) -> io::Result<Told> {
    let output =
        Command::new(program).arg("ask").args(arguments).arg("--json").arg("--").arg(video).arg(question).output()?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(told.trim().trim_start_matches("error: ").to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| {
        let told = String::from_utf8_lossy(&output.stdout);
        let line = told.lines().next().unwrap_or_default();
        io::Error::other(format!("`ask` with {arguments:?} printed no answer as JSON, but `{line}`: {error}"))
    })
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}
