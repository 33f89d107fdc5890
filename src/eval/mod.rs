//! Measuring answers: exact ones, by type of question, with intervals; and how far the next tokens of two models are apart.

mod divergence;
mod questions;
mod run;
mod score;

pub use divergence::kl_divergence;
pub use questions::{EvalQuestion, QuestionError, read_questions};
pub use run::{EvalEvent, evaluate};
pub use score::{ExactMatchScore, ExactMatchScores, wilson};
