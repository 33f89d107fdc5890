//! Ids of a prompt, and the rows of visual tokens that its parts show.

use std::ops::Range;

use crate::error::{self, Error, Kind};
use crate::language::PromptHistory;
use crate::text::{Passage, Prompt, Tokenizer};

/// Ids of a prompt, part after part: the first and the last part are text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptIds {
    /// Text, BOS included, and visual tokens, alternating.
    pub parts: Vec<Passage<Vec<u32>>>,
}

impl PromptIds {
    /// Encodes a prompt as the code of the checkpoint's family does: see [`Tokenizer::encode_prompt`].
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(prompt: &Prompt, tokenizer: &Tokenizer) -> Result<Self, Error> {
        Ok(Self { parts: tokenizer.encode_prompt(prompt)? })
    }

    /// Returns the number of text tokens.
    pub fn n_text(&self) -> usize {
        self.parts.iter().filter_map(Passage::text).map(Vec::len).sum()
    }

    /// Returns the ids before the first visual token.
    pub fn before_visual(&self) -> &[u32] {
        self.parts.first().and_then(Passage::text).map_or(&[], Vec::as_slice)
    }

    /// Returns the ids after the last visual token.
    pub fn after_visual(&self) -> &[u32] {
        self.parts.last().and_then(Passage::text).map_or(&[], Vec::as_slice)
    }
}

/// Rows of a video's visual tokens, by frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRows {
    /// `V`, the number of visual tokens.
    pub n_visual: usize,
    /// Frames of the video.
    pub n_frames: usize,
    /// Rows of each frame, where the temporal strategy keeps frames apart.
    pub each: Option<usize>,
}

impl FrameRows {
    /// Makes the rows of a video whose frames the temporal strategy mixes.
    pub fn together(n_visual: usize) -> Self {
        Self { n_visual, n_frames: 0, each: None }
    }

    /// Returns the rows of a part of a prompt; `None` for text. Rows after those of all frames belong to the last
    /// frame.
    ///
    /// # Errors
    /// When the part shows single frames that have no rows of their own.
    pub fn of<W>(&self, part: &Passage<W>) -> error::Result<Option<Range<usize>>> {
        let Passage::Frames(frames) = part else {
            return Ok(part.text().is_none().then_some(0..self.n_visual));
        };
        let mixed = || Error::invalid("the prompt has words between frames that a temporal strategy mixes");
        let each = self.each.ok_or_else(mixed)?;
        let end = if frames.end == self.n_frames { self.n_visual } else { frames.end * each };
        if frames.start * each > end || end > self.n_visual {
            return Err(Error::invalid(format!("the prompt shows frames {frames:?} of {}", self.n_frames)));
        }
        Ok(Some(frames.start * each..end))
    }
}

/// Returns the ids of a prompt with `placeholder` for each visual token; empty without a placeholder.
///
/// # Errors
/// [`Error`] when the prompt shows frames that have no rows of their own.
pub(super) fn history(placeholder: Option<u32>, ids: &PromptIds, rows: FrameRows) -> Result<PromptHistory, Error> {
    let n_tokens = ids.n_text() + rows.n_visual;
    let Some(placeholder) = placeholder else { return Ok(PromptHistory { ids: Vec::new(), n_tokens }) };
    let mut history = Vec::with_capacity(n_tokens);
    for part in &ids.parts {
        history.extend(part.text().into_iter().flatten());
        let rows =
            rows.of(part).map_err(|error| error.reworded(|rule| format!("temporal {rule}")).with_kind(Kind::Frames))?;
        history.extend(std::iter::repeat_n(placeholder, rows.map_or(0, |rows| rows.len())));
    }
    Ok(PromptHistory { ids: history, n_tokens })
}
