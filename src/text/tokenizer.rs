//! The tokenizer of a checkpoint, whichever file it ships.
//!
//! `tokenizer.json` goes to the `tokenizers` crate. A lone `tokenizer.model` behaves as the slow Llama tokenizer
//! that the released checkpoints were trained with: special tokens are cut out first, and each remaining part
//! is encoded on its own, with its own dummy prefix.

use std::path::Path;

use serde_json::Value;

use super::{SentencePiece, TextError};
use crate::files;

/// Which part of the prompt a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The beginning: it keeps its BOS, and gets one if the tokenizer adds none.
    First,
    /// A part after the visual tokens: a BOS that the tokenizer adds is dropped.
    Later,
}

/// Text to ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    codec: Codec,
    bos: Option<u32>,
}

#[derive(Debug)]
enum Codec {
    Json(Box<tokenizers::Tokenizer>),
    Slow(Box<SlowLlama>),
}

/// A SentencePiece model with the special tokens that are cut out before it sees a text.
#[derive(Debug)]
struct SlowLlama {
    model: SentencePiece,
    /// Special and added tokens, the longest first.
    specials: Vec<(String, u32)>,
}

impl Tokenizer {
    /// Opens `tokenizer.json`, else `tokenizer.model`, of a directory. `bos` is the id that `config.json` names.
    ///
    /// # Errors
    /// [`TextError`] when there is none, or it is broken.
    pub fn open(dir: &Path, bos: Option<u32>) -> Result<Self, TextError> {
        let (json, model) = (dir.join("tokenizer.json"), dir.join("tokenizer.model"));
        let broken = |path: &Path, cause: String| TextError::Format { path: path.to_owned(), cause };
        if files::is_file(&json) {
            let bytes = files::read(&json).map_err(|source| TextError::Io { path: json.clone(), source })?;
            let tokenizer =
                tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| broken(&json, error.to_string()))?;
            return Ok(Self { codec: Codec::Json(Box::new(tokenizer)), bos });
        }
        if !files::is_file(&model) {
            return Err(TextError::NoTokenizer { dir: dir.to_owned() });
        }
        let bytes = files::read(&model).map_err(|source| TextError::Io { path: model.clone(), source })?;
        let pieces = SentencePiece::from_bytes(&bytes).map_err(|cause| broken(&model, cause))?;
        let slow = Box::new(SlowLlama::new(pieces, added_tokens(dir)));
        let bos = bos.or_else(|| slow.model.piece_id("<s>"));
        Ok(Self { codec: Codec::Slow(slow), bos })
    }

    /// The ids of one part of a prompt.
    ///
    /// # Errors
    /// [`TextError::Encode`] when the tokenizer refuses, which well-formed ones never do.
    pub fn encode(&self, text: &str, piece: Piece) -> Result<Vec<u32>, TextError> {
        let mut ids = match &self.codec {
            Codec::Slow(slow) => slow.encode(text),
            Codec::Json(tokenizer) => {
                let encoding = tokenizer.encode(text, true);
                encoding.map_err(|error| TextError::Encode { cause: error.to_string() })?.get_ids().to_vec()
            }
        };
        let slow = matches!(self.codec, Codec::Slow(_));
        match (piece, self.bos) {
            // The slow tokenizer prepends BOS always; `tokenizer.json` says itself, and may not.
            (Piece::First, Some(bos)) if slow || ids.first() != Some(&bos) => ids.insert(0, bos),
            (Piece::Later, Some(bos)) if !slow && ids.first() == Some(&bos) => {
                ids.remove(0);
            }
            _ => {}
        }
        Ok(ids)
    }

    /// The text of ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.codec {
            Codec::Slow(slow) => slow.decode(ids),
            Codec::Json(tokenizer) => tokenizer.decode(ids, true).unwrap_or_default(),
        }
    }

    /// The id of a token by its exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.codec {
            Codec::Json(tokenizer) => tokenizer.token_to_id(token),
            Codec::Slow(slow) => slow.token_id(token),
        }
    }

    /// The largest number of ids that it can give, added tokens included.
    pub fn vocab_size(&self) -> usize {
        match &self.codec {
            Codec::Json(tokenizer) => tokenizer.get_vocab_size(true),
            Codec::Slow(slow) => {
                let last = slow.specials.iter().map(|&(_, id)| id as usize + 1).max().unwrap_or(0);
                last.max(slow.model.vocab_size())
            }
        }
    }

    /// The file that it was read from, in words.
    pub fn kind(&self) -> &'static str {
        match &self.codec {
            Codec::Json(_) => "tokenizer.json",
            Codec::Slow(_) => "tokenizer.model (SentencePiece BPE)",
        }
    }
}

impl SlowLlama {
    fn new(model: SentencePiece, added: Vec<(String, u32)>) -> Self {
        let mut specials = added;
        for token in ["<s>", "</s>", "<unk>"] {
            if let Some(id) = model.piece_id(token) {
                specials.push((token.to_owned(), id));
            }
        }
        specials.sort_by_key(|(token, _)| std::cmp::Reverse(token.len()));
        Self { model, specials }
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some((at, token, id)) = self.next_special(rest) {
            ids.extend(self.model.encode(&rest[..at]));
            ids.push(id);
            rest = &rest[at + token.len()..];
        }
        ids.extend(self.model.encode(rest));
        ids
    }

    /// The leftmost special token of a text; of two at one place the longer.
    fn next_special<'a>(&'a self, text: &str) -> Option<(usize, &'a str, u32)> {
        let places =
            self.specials.iter().filter_map(|(token, id)| Some((text.find(token.as_str())?, token.as_str(), *id)));
        places.min_by_key(|&(at, token, _)| (at, std::cmp::Reverse(token.len())))
    }

    fn decode(&self, ids: &[u32]) -> String {
        let special = |id: &u32| self.specials.iter().any(|(_, special)| special == id);
        let plain: Vec<u32> = ids.iter().copied().filter(|id| !special(id)).collect();
        self.model.decode(&plain)
    }

    fn token_id(&self, token: &str) -> Option<u32> {
        let special = self.specials.iter().find(|(special, _)| special == token).map(|&(_, id)| id);
        special.or_else(|| self.model.piece_id(token))
    }
}

/// Tokens that a checkpoint adds to its SentencePiece model, from the two files that may name them.
fn added_tokens(dir: &Path) -> Vec<(String, u32)> {
    let read = |name: &str| -> Option<Value> { serde_json::from_slice(&files::read(&dir.join(name)).ok()?).ok() };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let mut added: Vec<(String, u32)> = Vec::new();
    if let Some(Value::Object(map)) = read("added_tokens.json") {
        added.extend(map.iter().filter_map(|(token, value)| Some((token.clone(), id(value)?))));
    }
    let config = read("tokenizer_config.json");
    if let Some(map) = config.as_ref().and_then(|config| config.get("added_tokens_decoder")).and_then(Value::as_object)
    {
        added.extend(
            map.iter().filter_map(|(id, value)| Some((value.get("content")?.as_str()?.to_owned(), id.parse().ok()?))),
        );
    }
    added.retain(|(token, _)| !token.is_empty());
    added.sort();
    added.dedup();
    added
}
