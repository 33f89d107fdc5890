//! From generated ids to text that can be printed as it comes.
//!
//! A character of several tokens is printed once it is whole, nothing of a stop string is printed, and the
//! pieces together are exactly the answer: no white space at either end.

use super::Tokenizer;

/// Turns ids into text, piece by piece.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stop_strings: &'a [String],
    ids: Vec<u32>,
    /// What was given out.
    answer: String,
    stopped: bool,
}

impl<'a> TextStream<'a> {
    /// A stream that ends before the first of `stop_strings`.
    pub fn new(tokenizer: &'a Tokenizer, stop_strings: &'a [String]) -> Self {
        Self { tokenizer, stop_strings, ids: Vec::new(), answer: String::new(), stopped: false }
    }

    /// Takes one id and gives the text that is certain now; often none.
    pub fn push(&mut self, id: u32) -> String {
        self.ids.push(id);
        let text = self.decoded();
        // Bytes at the end may be the beginning of a character.
        let certain = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let certain = &certain[..certain.len() - self.possible_stop(certain)];
        self.give_out(certain)
    }

    /// The rest of the text, once no more ids come.
    pub fn finish(&mut self) -> String {
        let text = self.decoded();
        self.give_out(&text)
    }

    /// Whether a stop string was met.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The answer so far.
    pub fn answer(&self) -> &str {
        &self.answer
    }

    /// All text so far, up to a stop string.
    fn decoded(&mut self) -> String {
        let mut text = self.tokenizer.decode(&self.ids);
        let stops = self.stop_strings.iter().filter(|stop| !stop.is_empty());
        if let Some(at) = stops.filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(at);
            self.stopped = true;
        }
        text
    }

    /// The length of the longest end of `text` that a stop string begins with.
    fn possible_stop(&self, text: &str) -> usize {
        let begins = |stop: &String| {
            let lengths = stop.char_indices().map(|(at, _)| at).skip(1);
            lengths.filter(|&at| text.ends_with(&stop[..at])).max().unwrap_or(0)
        };
        self.stop_strings.iter().map(begins).max().unwrap_or(0)
    }

    fn give_out(&mut self, text: &str) -> String {
        let trimmed = text.trim();
        let new = trimmed.get(self.answer.len()..).unwrap_or_default().to_owned();
        self.answer.push_str(&new);
        new
    }
}
