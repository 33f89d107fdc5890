//! From generated ids to text that can be printed as it comes.
//!
//! A character of several tokens is printed once it is whole, nothing of a stop string is printed, and the pieces
//! together are exactly the answer: all ids decoded, without white space at either end. Only a window of the last ids
//! is decoded for each new one; the whole answer is decoded once, at its end.

use std::sync::Arc;

use super::Tokenizer;

/// Turns ids into text, piece by piece.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stop_strings: Arc<[String]>,
    ids: Vec<u32>,
    /// The first id that is decoded again with each new one: those from here to `n_settled` are context.
    window: usize,
    /// Ids whose text is in `text`.
    n_settled: usize,
    /// The text that is certain, up to a stop string.
    text: String,
    /// The part of it that was given out, without white space at its ends.
    answer: String,
    stopped: bool,
}

impl<'a> TextStream<'a> {
    /// A stream that ends before the first of `stop_strings`.
    pub fn new(tokenizer: &'a Tokenizer, stop_strings: Arc<[String]>) -> Self {
        let (text, answer) = (String::new(), String::new());
        Self { tokenizer, stop_strings, ids: Vec::new(), window: 0, n_settled: 0, text, answer, stopped: false }
    }

    /// Takes one id and gives the text that is certain now; often none.
    pub fn push(&mut self, id: u32) -> String {
        self.ids.push(id);
        if self.stopped || !self.settle() {
            return String::new();
        }
        let held = if self.stopped { 0 } else { self.possible_stop() };
        let certain = self.text.len() - held;
        give_out(&self.text[..certain], &mut self.answer)
    }

    /// The rest of the text, once no more ids come.
    pub fn finish(&mut self) -> String {
        if !self.stopped {
            self.text = self.tokenizer.decode(&self.ids);
            self.cut_at_stop(0);
        }
        give_out(&self.text, &mut self.answer)
    }

    /// Whether a stop string was met.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The answer so far.
    pub fn answer(&self) -> &str {
        &self.answer
    }

    /// Moves the text of ids that have become certain into `text`; whether there were any.
    fn settle(&mut self) -> bool {
        let n_certain = self.tokenizer.n_certain(&self.ids);
        if n_certain <= self.n_settled {
            return false;
        }
        let context = self.tokenizer.decode(&self.ids[self.window..self.n_settled]);
        let decoded = self.tokenizer.decode(&self.ids[self.window..n_certain]);
        // Bytes at the end may be the beginning of a character.
        let is_whole = !decoded.ends_with(char::REPLACEMENT_CHARACTER);
        let Some(new) = decoded.strip_prefix(&context).filter(|_| is_whole) else { return false };
        if !trim(new).is_empty() {
            // A decoder may treat the beginning of a text in its own way: words stand before what is decoded next.
            self.window = self.n_settled;
        }
        self.n_settled = n_certain;
        let searched = self.text.len();
        self.text.push_str(new);
        self.cut_at_stop(searched);
        true
    }

    /// Ends the text before a stop string, if there is one that does not end before `searched`.
    fn cut_at_stop(&mut self, searched: usize) {
        let longest = self.stop_strings.iter().map(String::len).max().unwrap_or(0);
        let mut from = searched.saturating_sub(longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        let stops = self.stop_strings.iter().filter(|stop| !stop.is_empty());
        if let Some(at) = stops.filter_map(|stop| self.text[from..].find(stop.as_str())).min() {
            self.text.truncate(from + at);
            self.stopped = true;
        }
    }

    /// The length of the longest end of the text that a stop string begins with.
    fn possible_stop(&self) -> usize {
        let begins = |stop: &String| {
            let lengths = stop.char_indices().map(|(at, _)| at).skip(1);
            lengths.filter(|&at| self.text.ends_with(&stop[..at])).max().unwrap_or(0)
        };
        self.stop_strings.iter().map(begins).max().unwrap_or(0)
    }
}

/// Returns the part of `text` that was not given out yet. Text that contradicts the given-out answer goes on where they
/// part.
fn give_out(text: &str, answer: &mut String) -> String {
    let text = trim(text);
    let common = text.char_indices().zip(answer.char_indices()).take_while(|((_, a), (_, b))| a == b);
    let parted = if text.starts_with(answer.as_str()) {
        answer.len()
    } else {
        common.last().map_or(0, |((at, c), _)| at + c.len_utf8())
    };
    let new = text[parted..].to_owned();
    answer.push_str(&new);
    new
}

/// A text without the white space at its ends, as Python's `str.strip` removes it.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}
