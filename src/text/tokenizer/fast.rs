//! Tokenizer of the `tokenizers` crate, configured like transformers' `TokenizersBackend`.

use std::collections::HashSet;

use serde_json::{Value, json};
use tokenizers::{AddedToken, PostProcessorWrapper};

use super::recent::RecentEncodings;
use super::settings::Settings;
use crate::error::{Error, Kind, Result};
use crate::guard::guarded;

/// Tokenizer of a `tokenizer.json`, with its special tokens.
#[derive(Debug)]
pub(super) struct Fast {
    inner: Box<tokenizers::Tokenizer>,
    /// Special tokens, which decoding skips.
    skipped: HashSet<u32>,
    /// Tokens of one byte, where the decoder joins runs of them.
    bytes: HashSet<u32>,
    recent: RecentEncodings,
}

impl Fast {
    /// Reads a `tokenizer.json`. Saved truncation and padding are disabled: they are a caller's choice. Tokens that
    /// only the settings name are added.
    ///
    /// # Errors
    /// When the bytes are not such a file.
    pub(super) fn from_json(bytes: &[u8], settings: &Settings) -> Result<Self> {
        let words = |error: tokenizers::Error| Error::invalid(error.to_string());
        let parsed = guarded(|| tokenizers::Tokenizer::from_bytes(bytes));
        let parsed = parsed.ok_or_else(|| Error::invalid("a part of it has another form than its type"))?;
        let mut inner = Box::new(parsed.map_err(words)?);
        inner.with_truncation(None).map_err(words)?;
        inner.with_padding(None);
        inner.add_tokens(settings.added().iter().map(|(_, token)| token.clone())).map_err(words)?;
        let is_new = |inner: &tokenizers::Tokenizer, token: &AddedToken| {
            !inner.get_added_vocabulary().get_vocab().contains_key(&token.content)
        };
        let new: Vec<AddedToken> = settings.special_tokens().filter(|token| is_new(&inner, token)).cloned().collect();
        inner.add_tokens(new).map_err(words)?;
        Ok(Self { skipped: skipped(&inner), bytes: byte_tokens(&inner), inner, recent: RecentEncodings::default() })
    }

    /// Sets the tokens that the tokenizer adds around every text.
    ///
    /// # Errors
    /// When a token is not in the vocabulary.
    pub(super) fn surround(&mut self, bos: Option<&str>, eos: Option<&str>) -> Result<()> {
        let special = |token: &str, kind: u32| json!({ "SpecialToken": { "id": token, "type_id": kind } });
        let around = |sequence: &str, kind: u32| -> Vec<Value> {
            let begin = bos.map(|token| special(token, kind));
            let middle = json!({ "Sequence": { "id": sequence, "type_id": kind } });
            begin.into_iter().chain([middle]).chain(eos.map(|token| special(token, kind))).collect()
        };
        let mut tokens = serde_json::Map::new();
        for token in bos.into_iter().chain(eos) {
            let absent = || Error::invalid(format!("`{token}` is not in the vocabulary"));
            let id = self.inner.token_to_id(token).ok_or_else(absent)?;
            tokens.insert(token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        }
        let pair: Vec<Value> = [around("A", 0), around("B", 1)].concat();
        let processor = json!({
            "type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens,
        });
        let processor: PostProcessorWrapper =
            serde_json::from_value(processor).map_err(|error| Error::invalid(error.to_string()))?;
        self.inner.with_post_processor(Some(processor));
        self.recent = RecentEncodings::default();
        Ok(())
    }

    /// Encodes a text, with or without the tokens of the post-processor.
    ///
    /// # Errors
    /// When the tokenizer fails, which well-formed ones never do.
    pub(super) fn encode(&self, text: &str, special_tokens: SpecialTokens) -> Result<Vec<u32>> {
        let failed = |error| Error::new(Kind::Text, format!("the tokenizer cannot encode the prompt: {error}"));
        self.recent.get_or_encode(text, special_tokens, || {
            // Offsets of the tokens are of no use here.
            let encoding = self.inner.encode_fast(text, special_tokens == SpecialTokens::Added).map_err(failed)?;
            Ok(encoding.get_ids().to_vec())
        })
    }

    /// Returns the id that the post-processor adds before a text, if it does.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub(super) fn added_first(&self) -> Result<Option<u32>> {
        let (bare, around) = (self.encode("a", SpecialTokens::Omitted)?, self.encode("a", SpecialTokens::Added)?);
        let has_first = around.len() > bare.len() && !around.starts_with(&bare);
        Ok(around.first().copied().filter(|_| has_first))
    }

    pub(super) fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).unwrap_or_default()
    }

    pub(super) fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub(super) fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub(super) fn is_skipped(&self, id: u32) -> bool {
        self.skipped.contains(&id)
    }

    pub(super) fn is_byte(&self, id: u32) -> bool {
        self.bytes.contains(&id)
    }
}

/// Tokens of the post-processor (BOS, EOS) around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SpecialTokens {
    Added,
    Omitted,
}

fn skipped(tokenizer: &tokenizers::Tokenizer) -> HashSet<u32> {
    let added = tokenizer.get_added_vocabulary();
    let tokens = added.get_added_tokens_decoder().iter();
    tokens.filter(|(_, token)| added.is_special_token(&token.content)).map(|(&id, _)| id).collect()
}

/// Returns the tokens `<0x00>` to `<0xFF>`, if the decoder has byte fallback: runs of them are decoded together.
fn byte_tokens(tokenizer: &tokenizers::Tokenizer) -> HashSet<u32> {
    let decoder = serde_json::to_string(&tokenizer.get_decoder()).unwrap_or_default();
    if !decoder.contains("\"ByteFallback\"") {
        return HashSet::new();
    }
    let spellings = (0..=u8::MAX).flat_map(|byte| [format!("<0x{byte:02X}>"), format!("<0x{byte:02x}>")]);
    spellings.filter_map(|token| tokenizer.token_to_id(&token)).collect()
}
