//! Measuring answers: exact ones, by type of question, with intervals.

mod questions;
mod score;

pub use questions::{Asked, QuestionError, read_questions};
pub use score::{Score, Scores, wilson};
