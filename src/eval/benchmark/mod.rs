//! Benchmarks: a description of a split ([`BenchmarkSpec`]), its questions as items of a batch
//! ([`BenchmarkTasks`]), scores with intervals, submissions, and comparisons of two runs.
//!
//! [`dataset`](super::dataset) reads the files, [`metrics`](super::metrics) scores. Called by `eval`.

mod directory;
mod measure;
mod prompt;
mod record;
mod results;
mod scores;
mod spec;
mod submission;
mod tasks;

pub use directory::{RUN, SCORED, scored_hash, scored_lines, write_scored};
pub use measure::Measure;
pub use prompt::BenchmarkPrompt;
pub(in crate::eval) use prompt::fill;
pub use record::{
    CoverageRecord, EVALUATION, EvaluatedSplit, EvaluationFormat, EvaluationRecord, PlanRecord, split_hash,
};
pub use results::{ScoredResults, check_results_prompt, read_answers};
pub use scores::{AnswerScorer, AnswerStatus, BenchmarkRow, ScoreGroup, ScoredAnswer, named_score_table, score_table};
pub(in crate::eval) use spec::Measurement;
pub use spec::{AverageOver, BenchmarkSpec, PublishedMetric, PublishedResult, UNNAMED_JUDGE, read_benchmark};
pub use submission::submission;
pub use tasks::{BenchmarkTasks, BenchmarkVideo};
