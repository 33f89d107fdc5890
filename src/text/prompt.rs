//! Prompt as a list of parts: text and visual tokens.
//!
//! Text parts are strings before the tokenizer and ids after it. Two texts around all visual tokens of one video are
//! the simplest case; a conversation may show no medium or several, and a template that writes text between frames
//! makes a part of each frame.

use std::ops::Range;

/// Index of a medium, a video or a still image, among those of a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediumIndex(pub usize);

/// Part of a prompt, with text as a string or as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage<W> {
    /// Text.
    Text(W),
    /// All visual tokens of a medium.
    Medium(MediumIndex),
    /// Visual tokens of a range of frames of a medium, where the temporal strategy keeps frames apart.
    Frames(MediumIndex, Range<usize>),
}

impl<W> Passage<W> {
    /// Maps the text of the part.
    ///
    /// # Errors
    /// The errors of `change`.
    pub(crate) fn try_map<V, E>(&self, change: impl FnOnce(&W) -> Result<V, E>) -> Result<Passage<V>, E> {
        Ok(match self {
            Self::Text(text) => Passage::Text(change(text)?),
            Self::Medium(medium) => Passage::Medium(*medium),
            Self::Frames(medium, frames) => Passage::Frames(*medium, frames.clone()),
        })
    }

    /// Returns the medium of the part, if the part is not text.
    pub fn medium(&self) -> Option<MediumIndex> {
        match self {
            Self::Text(_) => None,
            Self::Medium(medium) | Self::Frames(medium, _) => Some(*medium),
        }
    }

    /// Returns the text, if the part is text.
    pub fn text(&self) -> Option<&W> {
        match self {
            Self::Text(text) => Some(text),
            Self::Medium(_) | Self::Frames(..) => None,
        }
    }
}

/// Prompt before it is tokenized, part after part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Text and visual tokens: the first and the last part are text, which may be empty. A prompt without visual tokens
    /// has one part.
    pub parts: Vec<Passage<String>>,
}

impl Prompt {
    /// Makes a prompt of two texts around all visual tokens of one medium.
    pub fn halves(before: impl Into<String>, after: impl Into<String>) -> Self {
        let visual = Passage::Medium(MediumIndex::default());
        Self { parts: vec![Passage::Text(before.into()), visual, Passage::Text(after.into())] }
    }

    /// Makes a prompt of parts in any order. Adjacent texts are joined, so that a tokenizer encodes them as one, and
    /// empty texts between visual tokens are left out.
    pub(super) fn joined(all: impl IntoIterator<Item = Passage<String>>) -> Self {
        let empty = || Passage::Text(String::new());
        let mut parts = vec![empty()];
        for part in all.into_iter().chain([empty()]) {
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
        let medium = MediumIndex(0);
        let frame = |i: usize| Passage::Frames(medium, i..i + 1);
        let all = vec![words("a"), words("b"), frame(0), words(""), frame(1), words("c"), words("d")];
        assert_eq!(Prompt::joined(all).parts, [words("ab"), frame(0), frame(1), words("cd")]);
        assert_eq!(Prompt::joined(vec![Passage::Medium(medium)]), Prompt::halves("", ""));
        assert_eq!(Prompt::joined([words("a"), words("b")]).parts, [words("ab")]);
        assert_eq!(Prompt::joined([]).parts, [words("")]);
        assert_eq!(Prompt::halves("a", "b").text(), "ab");
    }
}
