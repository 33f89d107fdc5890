//! Incremental decoding of generated ids to text.
//!
//! A character of several tokens is emitted once it is complete, no part of a stop string is emitted, and the emitted
//! texts concatenate to exactly the answer: all ids decoded, without white space at either end. Each new id decodes a
//! window of the last ids only; the whole answer is decoded once, at its end.

use std::sync::Arc;

use super::Tokenizer;

/// Incremental decoder of one answer.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stop_strings: Arc<[String]>,
    ids: Vec<u32>,
    /// Index of the first id that is decoded again with each new id: those from here to `n_settled` are context.
    window: usize,
    /// Number of ids whose text is in `text`.
    n_settled: usize,
    /// Text that no later id changes, up to a stop string.
    text: String,
    /// Emitted part of the text, without white space at its ends.
    answer: String,
    stopped: bool,
}

impl<'a> TextStream<'a> {
    /// Makes a stream that ends before the first of `stop_strings`.
    pub fn new(tokenizer: &'a Tokenizer, stop_strings: Arc<[String]>) -> Self {
        let (text, answer) = (String::new(), String::new());
        Self { tokenizer, stop_strings, ids: Vec::new(), window: 0, n_settled: 0, text, answer, stopped: false }
    }

    /// Adds an id; returns the text that can be emitted now, which is often empty.
    pub fn push(&mut self, id: u32) -> String {
        self.ids.push(id);
        if self.stopped || !self.settle() {
            return String::new();
        }
        let n_withheld = if self.stopped { 0 } else { self.possible_stop() };
        let certain = self.text.len() - n_withheld;
        emit(&self.text[..certain], &mut self.answer)
    }

    /// Returns the rest of the text after the last id.
    pub fn finish(&mut self) -> String {
        if !self.stopped {
            self.text = self.tokenizer.decode(&self.ids);
            self.cut_at_stop(0);
        }
        emit(&self.text, &mut self.answer)
    }

    /// Returns whether a stop string was found.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Returns the emitted answer so far.
    pub fn answer(&self) -> &str {
        &self.answer
    }

    /// Appends the text of ids that no later id changes to `text`; returns whether there were any.
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
            // A decoder may treat the beginning of a text differently: the next window begins with text.
            self.window = self.n_settled;
        }
        self.n_settled = n_certain;
        let searched = self.text.len();
        self.text.push_str(new);
        self.cut_at_stop(searched);
        true
    }

    /// Truncates the text before a stop string that ends after `searched`, if there is one.
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

    /// Returns the length of the longest suffix of the text that is a prefix of a stop string.
    fn possible_stop(&self) -> usize {
        let begins = |stop: &String| {
            let lengths = stop.char_indices().map(|(at, _)| at).skip(1);
            lengths.filter(|&at| self.text.ends_with(&stop[..at])).max().unwrap_or(0)
        };
        self.stop_strings.iter().map(begins).max().unwrap_or(0)
    }
}

/// Appends the part of `text` that was not emitted yet to `answer`, and returns it. Text that contradicts the emitted
/// answer continues after their common prefix.
fn emit(text: &str, answer: &mut String) -> String {
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

/// Trims white space at both ends, like Python's `str.strip`.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}
