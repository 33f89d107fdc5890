//! Times of the texts of an answer, for the metrics.

use std::time::Instant;

use super::state::ServerState;

/// Times of the texts of an answer.
pub struct AnswerPace {
    begin: Instant,
    last: Option<Instant>,
}

impl AnswerPace {
    /// Begins with the request.
    pub fn new(begin: Instant) -> Self {
        Self { begin, last: None }
    }

    /// Counts a text of a time.
    pub fn text(&mut self, state: &ServerState, time: Instant) {
        match self.last.replace(time) {
            None => state.metrics.first_text(time - self.begin),
            Some(last) => state.metrics.further_text(time - last),
        }
    }
}
