//! Benchmark of the whole command `ask`, from the start of its process to its end.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::machine::{DeviceLimits, children_memory_peak};
use super::{median, median_seconds};
use crate::error::Error;

/// Measurements of the command.
#[derive(Debug, Clone, Serialize)]
pub struct AskBench {
    /// The model's name.
    pub model: String,
    /// Runs of which the medians are taken.
    pub runs: usize,
    /// Seconds from the start of the process to its end.
    pub seconds: f64,
    /// Median of each time that the command prints; decoding and preprocessing overlap with encoding.
    pub timings_ms: BTreeMap<String, f64>,
    /// Tokens of the answer, with the one that ends it.
    pub answer_tokens: usize,
    /// Peak memory of a run.
    pub memory_peak_bytes: Option<u64>,
    /// Peak rates of the device, if it is a GPU.
    #[serde(flatten)]
    pub limits: Option<DeviceLimits>,
}

/// Fields of the command's object that are read.
#[derive(Deserialize)]
struct AskOutput {
    model: String,
    token_ids: Vec<u32>,
    timings_ms: BTreeMap<String, f64>,
}

/// Command line of `ask`.
#[derive(Debug, Clone, Copy)]
pub struct AskTask<'a> {
    /// The binary.
    pub program: &'a Path,
    /// The video.
    pub video: &'a Path,
    /// The question.
    pub question: &'a str,
    /// Further arguments of the command.
    pub arguments: &'a [String],
}

/// Times the command, which prints JSON.
///
/// # Errors
/// When the command does not start, or fails, with its message.
pub fn bench_ask(task: &AskTask<'_>, runs: usize) -> io::Result<AskBench> {
    if let Some(flag) = task.arguments.iter().find(|argument| argument.starts_with("--json")) {
        let error = Error::invalid("already given").with_hint("leave it out after `--`").about(flag.clone());
        return Err(io::Error::other(error));
    }
    let mut outputs = Vec::new();
    let seconds = median_seconds(runs, || {
        outputs.push(ask(task)?);
        Ok::<_, io::Error>(())
    })?;
    // The first run is the warm-up.
    let warm = outputs.split_off(1);
    let last = warm.last().ok_or_else(|| io::Error::other("no run"))?;
    let part = |name: &String| {
        (name.clone(), median(warm.iter().filter_map(|run| run.timings_ms.get(name)).copied().collect()))
    };
    Ok(AskBench {
        model: last.model.clone(),
        runs: warm.len(),
        seconds,
        timings_ms: last.timings_ms.keys().map(part).collect(),
        answer_tokens: last.token_ids.len(),
        memory_peak_bytes: children_memory_peak(),
        limits: None,
    })
}

fn ask(task: &AskTask<'_>) -> io::Result<AskOutput> {
    let AskTask { program, video, question, arguments } = *task;
    let output =
        Command::new(program).arg("ask").args(arguments).arg("--json").arg("--").arg(video).arg(question).output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(message.trim().trim_start_matches("error: ").to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| {
        let printed = String::from_utf8_lossy(&output.stdout);
        let line = printed.lines().next().unwrap_or_default();
        io::Error::other(format!("`ask` with {arguments:?} printed no answer as JSON, but `{line}`: {error}"))
    })
}
