//! Metrics of answers: matches of text, WUPS, multiple choice; means with intervals, and comparisons of two runs.
//!
//! Metrics take texts and give numbers between 0 and 1: they read no data set and run no model. Called by
//! [`benchmark`](super::benchmark).

mod choice;
mod clustered;
mod paired;
mod student_t;
mod text;
mod wordnet;
mod wups;
mod yes_no;

pub use choice::parse_choice;
pub use clustered::{ClusteredMean, ClusteredScores};
pub use paired::{PairedComparison, PairedTest, ScorePair};
pub use text::{is_exact_match, is_normalized_match, normalized_words, token_f1};
pub use wordnet::WordNet;
pub use wups::{wups, wups_words};
pub use yes_no::parse_yes_or_no;
