//! Measuring answers: exact ones, by type of question, with intervals.

mod questions;
mod run;
mod score;

pub use questions::{Asked, QuestionError, read_questions};
pub use run::{EvalEvent, evaluate};
pub use score::{Score, Scores, wilson};
