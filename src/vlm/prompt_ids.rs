//! Ids of a prompt, and the rows of visual tokens of each medium that its parts show.

use std::ops::Range;

use crate::error::{self, Error, Kind};
use crate::language::PromptHistory;
use crate::text::{MediumIndex, MediumKind, Passage, Prompt, Tokenizer};

/// Ids of a prompt, part after part: the first and the last part are text, and the only one without visual tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptIds {
    /// Text, BOS included, and visual tokens.
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

    /// Returns the media in the order in which the prompt shows them; one that it shows twice comes twice.
    pub fn shown(&self) -> Vec<MediumIndex> {
        let begins = |part: &Passage<Vec<u32>>| match part {
            Passage::Text(_) => None,
            Passage::Medium(medium) => Some(*medium),
            Passage::Frames(medium, frames) => (frames.start == 0).then_some(*medium),
        };
        self.parts.iter().filter_map(begins).collect()
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

/// Rows of a medium's visual tokens, by frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRows {
    /// `V`, the number of visual tokens.
    pub n_visual: usize,
    /// Frames of the medium.
    pub n_frames: usize,
    /// Rows of each frame, where the temporal strategy keeps frames apart.
    pub each: Option<usize>,
}

/// Rows of a medium in a prompt, and its kind, which decides the placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediumRows {
    /// Rows of its visual tokens.
    pub rows: FrameRows,
    /// Kind of the medium.
    pub kind: MediumKind,
}

impl FrameRows {
    /// Makes the rows of a medium whose frames the temporal strategy mixes.
    pub fn together(n_visual: usize) -> Self {
        Self { n_visual, n_frames: 0, each: None }
    }

    /// Returns the rows of a part of a prompt about this medium; `None` for text. Rows after those of all frames belong
    /// to the last frame.
    ///
    /// # Errors
    /// When the part shows single frames that have no rows of their own.
    pub fn of<W>(&self, part: &Passage<W>) -> error::Result<Option<Range<usize>>> {
        let Passage::Frames(_, frames) = part else {
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

/// Ids of the placeholders of visual tokens in Hugging Face's prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VisualPlaceholders {
    /// Placeholder in prompts about videos.
    pub(super) video: Option<u32>,
    /// Placeholder in prompts about single images.
    pub(super) image: Option<u32>,
}

impl VisualPlaceholders {
    /// Returns the ids of a prompt with a placeholder for each visual token of `media`; no ids without a placeholder.
    ///
    /// # Errors
    /// [`Error`] when the prompt shows frames that have no rows of their own, or a medium that is not among `media`.
    pub(super) fn history(self, ids: &PromptIds, media: &[MediumRows]) -> Result<PromptHistory, Error> {
        let (mut history, mut n_tokens) = (Vec::with_capacity(ids.n_text()), 0);
        let mut has_ids = !media.is_empty() || self.video.is_some();
        for part in &ids.parts {
            let Some(medium) = part.medium() else {
                history.extend(part.text().into_iter().flatten());
                n_tokens += part.text().map_or(0, Vec::len);
                continue;
            };
            let MediumRows { rows, kind } = *media_of(media, medium)?;
            let wrong = |error: Error| error.reworded(|rule| format!("temporal {rule}")).with_kind(Kind::Frames);
            let n_rows = rows.of(part).map_err(wrong)?.map_or(0, |rows| rows.len());
            n_tokens += n_rows;
            let placeholder = match kind {
                MediumKind::Video => self.video,
                MediumKind::Image => self.image,
            };
            match placeholder {
                Some(placeholder) => history.extend(std::iter::repeat_n(placeholder, n_rows)),
                None => has_ids = false,
            }
        }
        Ok(PromptHistory { ids: if has_ids { history } else { Vec::new() }, n_tokens })
    }
}

/// Returns the entry of a medium among those of a prompt.
///
/// # Errors
/// When the prompt shows more media.
pub(crate) fn media_of<M>(media: &[M], medium: MediumIndex) -> Result<&M, Error> {
    let unknown = || Error::invalid(format!("unknown medium {} of {}", medium.0, media.len()));
    media.get(medium.0).ok_or_else(unknown)
}
