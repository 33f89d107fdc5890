//! The tokens of a prompt: ids and visual tokens by position, and the hashes of its pages.
//!
//! Two prompts share the pages whose hashes are equal. The hash of a page covers all tokens before its end, and the
//! length that the rotary frequencies depend on. A prompt that no step could run is refused here. Built and read by
//! [`Sequence`](super::sequence::Sequence); the tokens of an answer are not part of a prompt.

use std::hash::{DefaultHasher, Hash, Hasher};

use candle_core::Tensor;

use super::pool::{Parent, PositionKey};
use super::request::PromptPart;
use crate::kernels::kv::PAGE_LEN;
use crate::language::LlamaConfig;

/// A prompt, with the hashes that prefixes are compared by.
pub(super) struct PromptTokens {
    /// The parts in their order.
    parts: Vec<PositionedPart<PromptPart>>,
    /// Number of positions.
    len: usize,
    /// Hashes of all tokens up to the end of each full page.
    page_hashes: Vec<u64>,
    /// Predecessor of the first page.
    start: Parent,
}

impl PromptTokens {
    /// Takes the parts of a prompt.
    ///
    /// # Errors
    /// When the prompt is empty, an id is beyond the vocabulary, or visual tokens have another width than the model.
    pub(super) fn new(parts: Vec<PromptPart>, config: &LlamaConfig) -> candle_core::Result<Self> {
        let mut len = 0;
        let mut positioned = Vec::with_capacity(parts.len());
        for part in parts {
            let n = match &part {
                PromptPart::Ids(ids) => ids.len(),
                PromptPart::Visual(visual) => visual.embeds().dims2()?.0,
            };
            positioned.push(PositionedPart { first: len, part });
            len += n;
        }
        let start = Parent::Start { rope_length: config.rope_scaling.deciding_length(len) };
        let mut prompt = Self { parts: positioned, len, page_hashes: Vec::new(), start };
        prompt.check(config)?;
        let mut hasher = DefaultHasher::new();
        start.hash(&mut hasher);
        for page in 0..len / PAGE_LEN {
            (page * PAGE_LEN..(page + 1) * PAGE_LEN).for_each(|position| prompt.key(position).hash(&mut hasher));
            prompt.page_hashes.push(hasher.finish());
        }
        Ok(prompt)
    }

    /// Refuses a prompt that no step could run.
    fn check(&self, config: &LlamaConfig) -> candle_core::Result<()> {
        if self.len == 0 {
            candle_core::bail!("an empty prompt");
        }
        for PositionedPart { part, .. } in &self.parts {
            match part {
                PromptPart::Ids(ids) => {
                    if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
                        candle_core::bail!("token id {id} is beyond the vocabulary of {} ids", config.vocab_size);
                    }
                }
                PromptPart::Visual(visual) => {
                    let width = visual.embeds().dim(1)?;
                    if width != config.d_hidden {
                        candle_core::bail!(
                            "visual tokens of width {width} for a language model of {}",
                            config.d_hidden
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Number of positions.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Predecessor of the first page.
    pub(super) fn start(&self) -> Parent {
        self.start
    }

    /// Number of full pages at the beginning of both prompts.
    pub(super) fn n_common_pages(&self, other: &Self) -> usize {
        self.page_hashes.iter().zip(&other.page_hashes).take_while(|(a, b)| a == b).count()
    }

    /// Returns the identity of the token at a position.
    pub(super) fn key(&self, position: usize) -> PositionKey {
        let PositionedPart { first, part } = self.part_at(position);
        match part {
            PromptPart::Ids(ids) => PositionKey { source: 0, index: ids[position - first] },
            PromptPart::Visual(visual) => {
                PositionKey { source: visual.id(), index: visual.first() + (position - first) as u32 }
            }
        }
    }

    /// Returns the part that a position is in.
    pub(super) fn part_at(&self, position: usize) -> PositionedPart<&PromptPart> {
        let after = self.parts.partition_point(|part| part.first <= position);
        let PositionedPart { first, part } = &self.parts[after - 1];
        PositionedPart { first: *first, part }
    }
}

/// A part of a prompt with its first position.
pub(super) struct PositionedPart<P> {
    pub(super) first: usize,
    pub(super) part: P,
}

/// Consecutive input tokens.
pub(super) enum PromptSegment<'s> {
    /// Token ids.
    Ids(&'s [u32]),
    /// Visual tokens, `(n, H)`.
    Visual(candle_core::Result<Tensor>),
}
