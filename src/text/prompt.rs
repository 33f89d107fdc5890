//! A prompt as a list of parts: words, and the places of visual tokens among them.
//!
//! The same list holds texts before the tokenizer and ids after it. Two halves around all visual tokens of a video are
//! the simplest case; a template that writes words between frames makes a part of each of them.

use std::ops::Range;

/// A part of a prompt, with words as a text or as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage<W> {
    /// Words.
    Words(W),
    /// All visual tokens of the video.
    Video,
    /// The visual tokens of some of its frames, where those of each frame stand apart.
    Frames(Range<usize>),
}

impl<W> Passage<W> {
    /// The same part with its words changed.
    ///
    /// # Errors
    /// The errors of `change`.
    pub fn try_map<V, E>(&self, change: impl FnOnce(&W) -> Result<V, E>) -> Result<Passage<V>, E> {
        Ok(match self {
            Self::Words(words) => Passage::Words(change(words)?),
            Self::Video => Passage::Video,
            Self::Frames(frames) => Passage::Frames(frames.clone()),
        })
    }

    /// The words, if the part is of words.
    pub fn words(&self) -> Option<&W> {
        match self {
            Self::Words(words) => Some(words),
            Self::Video | Self::Frames(_) => None,
        }
    }
}

/// The text of a prompt, part after part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Parts of words and of visual tokens in turn: the first and the last are words, perhaps none.
    pub parts: Vec<Passage<String>>,
}

impl Prompt {
    /// A prompt of two halves around all visual tokens.
    pub fn halves(before: impl Into<String>, after: impl Into<String>) -> Self {
        Self { parts: vec![Passage::Words(before.into()), Passage::Video, Passage::Words(after.into())] }
    }

    /// A prompt of `middle` between two texts. Words that meet are joined, so that a tokenizer reads them as one, and
    /// empty ones between visual tokens are left out.
    pub(super) fn around(before: &str, middle: Vec<Passage<String>>, after: &str) -> Self {
        let words = |words: &str| Passage::Words(words.to_owned());
        let mut parts = vec![words(before)];
        for part in middle.into_iter().chain([words(after)]) {
            match (parts.last_mut(), part) {
                (Some(Passage::Words(last)), Passage::Words(next)) => last.push_str(&next),
                (_, part) => parts.push(part),
            }
        }
        let last = parts.len() - 1;
        let mut index = 0;
        parts.retain(|part| {
            index += 1;
            let is_end = index == 1 || index - 1 == last;
            is_end || part.words().is_none_or(|words| !words.is_empty())
        });
        Self { parts }
    }

    /// The words before the first visual token.
    pub fn before_visual(&self) -> &str {
        self.parts.first().and_then(Passage::words).map_or("", String::as_str)
    }

    /// The words after the last visual token.
    pub fn after_visual(&self) -> &str {
        self.parts.last().and_then(Passage::words).map_or("", String::as_str)
    }

    /// All words, without the visual tokens.
    pub fn text(&self) -> String {
        self.parts.iter().filter_map(Passage::words).map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_meet_are_one_part_and_ends_stay() {
        let words = |words: &str| Passage::Words(words.to_owned());
        let middle = vec![words("b"), Passage::Frames(0..1), words(""), Passage::Frames(1..2), words("c")];
        let expected = vec![words("ab"), Passage::Frames(0..1), Passage::Frames(1..2), words("cd")];
        assert_eq!(Prompt::around("a", middle, "d").parts, expected);
        assert_eq!(Prompt::around("", vec![Passage::Video], ""), Prompt::halves("", ""));
        assert_eq!(Prompt::halves("a", "b").text(), "ab");
    }
}
