//! Benchmark of the whole command `run`, from the start of its process to its end.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::machine::{DeviceLimits, children_memory_peak};
use super::median_seconds;

/// Measurements of the command.
#[derive(Debug, Clone, Serialize)]
pub struct RunBench {
    /// The model's name.
    pub model: String,
    /// Runs of which the median is taken.
    pub runs: usize,
    /// Videos that were asked about.
    pub videos: usize,
    /// Answers to all questions about them.
    pub answers: usize,
    /// Tokens of all answers, with those that end them.
    pub answer_tokens: usize,
    /// Seconds from the start of the process to its end.
    pub seconds: f64,
    /// Videos per second of the whole process.
    pub videos_per_second: f64,
    /// Tokens of answers per second of the whole process.
    pub tokens_per_second: f64,
    /// Peak memory of a run.
    pub memory_peak_bytes: Option<u64>,
    /// Peak rates of the device, if it is a GPU.
    #[serde(flatten)]
    pub limits: Option<DeviceLimits>,
}

/// Command line of `run`.
#[derive(Debug, Clone, Copy)]
pub struct RunTask<'a> {
    /// The binary.
    pub program: &'a Path,
    /// The pipeline file.
    pub pipeline: &'a Path,
    /// The videos.
    pub videos: &'a [PathBuf],
    /// The questions about each of them.
    pub questions: &'a [String],
    /// Further arguments of the command.
    pub arguments: &'a [String],
}

/// Fields of each of the command's objects that are read.
#[derive(Deserialize)]
struct AnswerLine {
    model: String,
    video: String,
    token_ids: Vec<u32>,
}

/// Times the command, which prints JSON.
///
/// # Errors
/// When the command does not start, or fails, with its message.
pub fn bench_run(task: &RunTask<'_>, runs: usize) -> io::Result<RunBench> {
    let mut last = Vec::new();
    let seconds = median_seconds(runs, || {
        last = run(task)?;
        Ok::<_, io::Error>(())
    })?;
    let videos = last.iter().map(|line| &line.video).collect::<BTreeSet<_>>().len();
    let answer_tokens = last.iter().map(|line| line.token_ids.len()).sum();
    Ok(RunBench {
        model: last.first().map(|line| line.model.clone()).unwrap_or_default(),
        runs,
        videos,
        answers: last.len(),
        answer_tokens,
        seconds,
        videos_per_second: videos as f64 / seconds,
        tokens_per_second: answer_tokens as f64 / seconds,
        memory_peak_bytes: children_memory_peak(),
        limits: None,
    })
}

fn run(task: &RunTask<'_>) -> io::Result<Vec<AnswerLine>> {
    let RunTask { program, pipeline, videos, questions, arguments } = *task;
    let questions = questions.iter().flat_map(|question| ["--question", question]);
    let mut command = Command::new(program);
    command.arg("run").args(questions).args(arguments).arg("--json").arg("--").arg(pipeline).args(videos);
    let output = command.output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(message.trim().trim_start_matches("error: ").to_owned()));
    }
    let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(io::Error::other)).collect()
}
