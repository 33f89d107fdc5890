//! Benchmarks: a description of a split ([`BenchmarkSpec`]), its run over the videos that are there, scores with
//! intervals, submissions, and comparisons of two runs.
//!
//! [`dataset`](super::dataset) reads the files, [`metrics`](super::metrics) scores. Called by `eval`.

mod compare;
mod measure;
mod prompt;
mod run;
mod scores;
mod spec;
mod submission;

pub use compare::{RunComparison, compare_runs};
pub use measure::Measure;
pub use prompt::BenchmarkPrompt;
pub(in crate::eval) use prompt::fill;
pub use run::{BenchmarkRun, BenchmarkTasks, BenchmarkVideo, OnAnswer};
pub use scores::{AnswerScorer, AnswerStatus, BenchmarkRow, ScoreGroup, ScoredAnswer, named_score_table, score_table};
pub use spec::{AverageOver, BenchmarkSpec, PublishedMetric, PublishedResult, read_benchmark};
pub use submission::submission;
