//! Prompt as a list of parts: text and visual tokens.
//!
//! Text parts are strings before the tokenizer and ids after it. Two texts around all visual tokens of a video are the
//! simplest case; a template that writes text between frames makes a part of each frame.

use std::ops::Range;

/// Part of a prompt, with text as a string or as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage<W> {
    /// Text.
    Text(W),
    /// All visual tokens of the video.
    Video,
    /// Visual tokens of a range of frames, where the temporal strategy keeps frames apart.
    Frames(Range<usize>),
}

impl<W> Passage<W> {
    /// Maps the text of the part.
    ///
    /// # Errors
    /// The errors of `change`.
    pub(crate) fn try_map<V, E>(&self, change: impl FnOnce(&W) -> Result<V, E>) -> Result<Passage<V>, E> {
        Ok(match self {
            Self::Text(text) => Passage::Text(change(text)?),
            Self::Video => Passage::Video,
            Self::Frames(frames) => Passage::Frames(frames.clone()),
        })
    }

    /// Returns the text, if the part is text.
    pub fn text(&self) -> Option<&W> {
        match self {
            Self::Text(text) => Some(text),
            Self::Video | Self::Frames(_) => None,
        }
    }
}

/// Prompt before it is tokenized, part after part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Text and visual tokens, alternating: the first and the last part are text, which may be empty.
    pub parts: Vec<Passage<String>>,
}

impl Prompt {
    /// Makes a prompt of two texts around all visual tokens.
    pub fn halves(before: impl Into<String>, after: impl Into<String>) -> Self {
        Self { parts: vec![Passage::Text(before.into()), Passage::Video, Passage::Text(after.into())] }
    }

    /// Makes a prompt of `middle` between two texts. Adjacent texts are joined, so that a tokenizer encodes them as
    /// one, and empty texts between visual tokens are left out.
    pub(super) fn around(before: &str, middle: Vec<Passage<String>>, after: &str) -> Self {
        let words = |words: &str| Passage::Text(words.to_owned());
        let mut parts = vec![words(before)];
        for part in middle.into_iter().chain([words(after)]) {
            match (parts.last_mut(), part) {
                (Some(Passage::Text(last)), Passage::Text(next)) => last.push_str(&next),
                (_, part) => parts.push(part),
            }
        }
        let last = parts.len() - 1;
        let mut index = 0;
        parts.retain(|part| {
            index += 1;
            let is_end = index == 1 || index - 1 == last;
            is_end || part.text().is_none_or(|words| !words.is_empty())
        });
        Self { parts }
    }

    /// Returns the text before the first visual token.
    pub fn before_visual(&self) -> &str {
        self.parts.first().and_then(Passage::text).map_or("", String::as_str)
    }

    /// Returns the text after the last visual token.
    pub fn after_visual(&self) -> &str {
        self.parts.last().and_then(Passage::text).map_or("", String::as_str)
    }

    /// Returns all text, without the visual tokens.
    pub fn text(&self) -> String {
        self.parts.iter().filter_map(Passage::text).map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_texts_are_joined_and_empty_ends_stay() {
        let words = |words: &str| Passage::Text(words.to_owned());
        let middle = vec![words("b"), Passage::Frames(0..1), words(""), Passage::Frames(1..2), words("c")];
        let expected = vec![words("ab"), Passage::Frames(0..1), Passage::Frames(1..2), words("cd")];
        assert_eq!(Prompt::around("a", middle, "d").parts, expected);
        assert_eq!(Prompt::around("", vec![Passage::Video], ""), Prompt::halves("", ""));
        assert_eq!(Prompt::halves("a", "b").text(), "ab");
    }
}
