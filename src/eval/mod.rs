//! Evaluation: exact-match accuracy by type of question with confidence intervals, and the divergence between the next
//! tokens of two models. Called by `eval`, and by the benchmarks and tests of quantization.

mod divergence;
mod questions;
mod run;
mod score;

pub use divergence::kl_divergence;
pub use questions::{EvalQuestion, read_questions};
pub use run::{EvalEvent, Evaluation};
pub use score::{ExactMatchScore, ExactMatchScores};
