//! Evaluation: files of questions by exact match, benchmarks in the formats in which they are distributed, ablations,
//! judges of open answers, reports, exports, and the divergence between the next tokens of two models. Called by
//! `eval`, and by the benchmarks and tests of quantization.

pub mod benchmark;
mod compare;
pub mod dataset;
mod divergence;
pub mod export;
pub mod judge;
pub mod matrix;
pub mod metrics;
mod questions;
pub mod report;
mod run;
mod score;

pub use compare::{RunComparison, RunCounts, compare_runs};
pub use divergence::kl_divergence;
pub use questions::{EvalQuestion, read_questions};
pub use run::{EvalEvent, Evaluation};
pub use score::{ExactMatchScore, ExactMatchScores};
