//! Comparison of a GGUF file's vocabulary with the checkpoint's tokenizer: prompts are encoded in the ids of the
//! checkpoint, so rows of another vocabulary would mean other words.
//!
//! Reference: `gguf-py/gguf/constants.py` of llama.cpp (`tokenizer.ggml.*`). Pieces are compared as vocabularies spell
//! them; added tokens and padding, which converters name at will, may differ.

use super::TRAINED_FOR;
use crate::error::{Error, Result};
use crate::text::Tokenizer;
use crate::vlm::config::VlmConfig;
use crate::weights::Gguf;

const TOKENS: &str = "tokenizer.ggml.tokens";

/// Vocabulary of a file, and the checkpoint that it is compared with.
pub(super) struct Vocabulary<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) config: &'a VlmConfig,
    pub(super) tokenizer: &'a Tokenizer,
}

impl Vocabulary<'_> {
    /// Compares everything; returns warnings.
    ///
    /// # Errors
    /// When the file has another number of tokens, or most of them differ.
    pub(super) fn check(&self) -> Result<Vec<String>> {
        if let Some(tokens) = self.gguf.texts(TOKENS) {
            let n_rows = self.config.llama.vocab_size;
            if tokens.len() != n_rows {
                let rule = format!(
                    "{TOKENS} has {} entries, but vocab_size of the model's config.json is {n_rows}",
                    tokens.len()
                );
                return Err(Error::invalid(rule).with_hint(TRAINED_FOR));
            }
            self.check_pieces(&tokens)?;
        }
        Ok([self.begin_warning(), self.end_warning()].into_iter().flatten().collect())
    }

    fn check_pieces(&self, tokens: &[&str]) -> Result<()> {
        let ours = tokens.iter().enumerate().filter_map(|(id, theirs)| {
            let ours = self.tokenizer.piece(u32::try_from(id).ok()?)?;
            Some((id, *theirs, ours))
        });
        let (mut n, mut n_others, mut first) = (0, 0, None);
        for (id, theirs, ours) in ours {
            n += 1;
            if spelled_alike(theirs) != spelled_alike(&ours) {
                n_others += 1;
                first.get_or_insert_with(|| format!("the first is id {id}, {theirs:?} for {ours:?}"));
            }
        }
        match first {
            Some(first) if 2 * n_others > n => {
                let rule = format!(
                    "{TOKENS} is another vocabulary than the checkpoint's: {n_others} of {n} tokens differ, {first}"
                );
                Err(Error::invalid(rule).with_hint(TRAINED_FOR))
            }
            _ => Ok(()),
        }
    }

    fn id(&self, name: &str) -> Option<u32> {
        let id = self.gguf.number(&format!("tokenizer.ggml.{name}_token_id"))?;
        (id >= 0.0 && id <= f64::from(u32::MAX)).then_some(id as u32)
    }

    fn own_id(&self, name: &str) -> Option<u32> {
        let token = self.tokenizer.special_tokens().find(|(found, _)| *found == name).map(|(_, token)| token);
        self.tokenizer.token_id(token?)
    }

    fn begin_warning(&self) -> Option<String> {
        let (theirs, ours) = (self.id("bos")?, self.own_id("bos_token")?);
        (theirs != ours).then(|| {
            format!(
                "tokenizer.ggml.bos_token_id is {theirs}, but the checkpoint's tokenizer, which is used, has {ours}"
            )
        })
    }

    fn end_warning(&self) -> Option<String> {
        let theirs = self.id("eos")?;
        let ends = &self.config.generation.rules.ends;
        (!ends.contains(&theirs) && self.own_id("eos_token") != Some(theirs))
            .then(|| format!("tokenizer.ggml.eos_token_id is {theirs}, but answers end with the checkpoint's {ends:?}"))
    }
}

/// Returns a piece with one mark for a space, which SentencePiece and byte-level vocabularies write differently.
fn spelled_alike(piece: &str) -> String {
    piece.replace(['\u{2581}', '\u{120}'], " ")
}
