//! SentencePiece BPE models (`tokenizer.model`), converted in memory.
//!
//! Released LLaVA checkpoints ship only this file, and were trained with the *slow* Llama tokenizer, which calls
//! SentencePiece itself. A list of merges, as `tokenizers`' BPE wants it, cannot say SentencePiece's rule for
//! ties (of equal scores the leftmost), so the algorithm of `bpe_model.cc` stands here, and gives its ids.
//! Unigram models are refused: no Llama-family checkpoint has one.

mod convert;
mod merge;
mod normalize;

use std::collections::HashMap;

use sentencepiece_model::{ModelType, SentencePieceModel, Type};

pub use convert::{Converted, PrependScheme, convert};
use normalize::Normalizer;

/// SentencePiece's mark of a space, U+2581.
const SPACE: char = '\u{2581}';

/// A SentencePiece BPE model.
#[derive(Debug)]
pub struct SentencePiece {
    pieces: Vec<Piece>,
    /// Pieces that text can become.
    text: HashMap<String, u32>,
    /// Pieces that text never becomes: control, unknown and byte pieces.
    reserved: HashMap<String, u32>,
    bytes: Option<Box<[u32; 256]>>,
    normalizer: Normalizer,
    unknown: u32,
    unknown_surface: String,
}

#[derive(Debug)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte(u8),
}

impl SentencePiece {
    /// Reads a model from the bytes of a `tokenizer.model`.
    ///
    /// # Errors
    /// In words, when the bytes are no SentencePiece BPE model.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let model = SentencePieceModel::from_slice(bytes).map_err(|error| error.to_string())?;
        let trainer = model.trainer().ok_or("it has no trainer spec")?;
        if trainer.model_type() != ModelType::Bpe {
            return Err(format!("its model type is {:?}; only BPE is supported", trainer.model_type()));
        }
        let pieces = model.pieces().iter().map(read_piece).collect::<Result<Vec<_>, _>>()?;
        let (mut text, mut reserved) = (HashMap::new(), HashMap::new());
        for (id, piece) in (0u32..).zip(&pieces) {
            let map = if piece.kind.comes_from_text() { &mut text } else { &mut reserved };
            map.insert(piece.text.clone(), id);
        }
        let kinds = || (0u32..).zip(&pieces);
        let unknown = kinds().find(|(_, piece)| piece.kind == Kind::Unknown).map(|(id, _)| id);
        let user_defined =
            pieces.iter().filter(|piece| piece.kind == Kind::UserDefined).map(|piece| piece.text.clone());
        let normalizer = Normalizer::new(model.normalizer(), user_defined.collect())?;
        Ok(Self {
            bytes: trainer.byte_fallback().then(|| byte_ids(&pieces)).transpose()?,
            unknown_surface: trainer.unk_surface().to_owned(),
            unknown: unknown.ok_or("it has no unknown piece")?,
            normalizer,
            text,
            reserved,
            pieces,
        })
    }

    /// The same model without the space that it puts before every text.
    #[must_use]
    pub fn without_dummy_prefix(self) -> Self {
        Self { normalizer: self.normalizer.without_dummy_prefix(), ..self }
    }

    /// The number of ids.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The id of a piece by its exact text.
    pub fn piece_id(&self, piece: &str) -> Option<u32> {
        self.reserved.get(piece).or_else(|| self.text.get(piece)).copied()
    }

    /// The exact text of a piece.
    pub fn piece(&self, id: u32) -> Option<&str> {
        Some(self.pieces.get(id as usize)?.text.as_str())
    }

    /// The id of the unknown piece.
    pub fn unknown_id(&self) -> u32 {
        self.unknown
    }

    /// The ids of a text, as `SentencePieceProcessor::Encode` gives them. No special token is recognised in it.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let normalized = self.normalizer.normalize(text);
        let mut ids = Vec::with_capacity(normalized.len() / 3);
        for symbol in self.merge(&normalized) {
            match (self.text.get(symbol), &self.bytes) {
                (Some(&id), _) => ids.push(id),
                (None, Some(bytes)) => ids.extend(symbol.bytes().map(|byte| bytes[usize::from(byte)])),
                // A run of unknown characters is one unknown piece.
                (None, None) if ids.last() == Some(&self.unknown) => {}
                (None, None) => ids.push(self.unknown),
            }
        }
        ids
    }

    /// The text of ids, as `SentencePieceProcessor::Decode` gives it: control pieces print nothing, the unknown
    /// piece its surface, bytes that are no UTF-8 one U+FFFD each. Ids beyond the vocabulary print nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut out = Decoding { text: String::new(), bytes: Vec::new(), may_drop_space: true };
        for &id in ids {
            let Some(piece) = self.pieces.get(id as usize) else { continue };
            if let Kind::Byte(byte) = piece.kind {
                out.bytes.push(byte);
                continue;
            }
            out.end_bytes();
            match piece.kind {
                Kind::Control => {}
                Kind::Unknown => out.text.push_str(&self.unknown_surface),
                _ => out.push_piece(&piece.text, &self.normalizer),
            }
        }
        out.end_bytes();
        out.text
    }
}

/// A text that grows while ids are decoded.
struct Decoding {
    text: String,
    bytes: Vec<u8>,
    may_drop_space: bool,
}

impl Decoding {
    /// Appends a piece; the space that encoding put before the text is dropped again.
    fn push_piece(&mut self, piece: &str, normalizer: &Normalizer) {
        let at_start = self.text.is_empty() && self.may_drop_space && normalizer.begins_with_space();
        let piece = match piece.strip_prefix(SPACE) {
            Some(rest) if at_start => {
                self.may_drop_space = normalizer.removes_extra_spaces();
                rest
            }
            _ => piece,
        };
        self.text.extend(piece.chars().map(|c| if c == SPACE { ' ' } else { c }));
    }

    /// Decodes the gathered bytes together. Each byte that fits no character becomes its own U+FFFD.
    fn end_bytes(&mut self) {
        let mut rest = &self.bytes[..];
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    self.text.push_str(&String::from_utf8_lossy(valid));
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    rest = &bad[1..];
                }
            }
        }
        self.bytes.clear();
    }
}

impl Kind {
    fn comes_from_text(self) -> bool {
        matches!(self, Self::Normal | Self::UserDefined | Self::Unused)
    }
}

fn read_piece(piece: &sentencepiece_model::SentencePiece) -> Result<Piece, String> {
    let text = piece.piece().to_owned();
    let kind = match piece.r#type() {
        Type::Normal => Kind::Normal,
        Type::Unknown => Kind::Unknown,
        Type::Control => Kind::Control,
        Type::UserDefined => Kind::UserDefined,
        Type::Unused => Kind::Unused,
        Type::Byte => {
            let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
            Kind::Byte(byte.ok_or_else(|| format!("the byte piece `{text}` is not of the form <0xHH>"))?)
        }
    };
    Ok(Piece { text, score: piece.score(), kind })
}

fn byte_ids(pieces: &[Piece]) -> Result<Box<[u32; 256]>, String> {
    let mut ids = [None; 256];
    for (id, piece) in (0u32..).zip(pieces) {
        if let Kind::Byte(byte) = piece.kind {
            ids[usize::from(byte)] = Some(id);
        }
    }
    let mut found = Box::new([0; 256]);
    for (byte, id) in ids.into_iter().enumerate() {
        found[byte] = id.ok_or_else(|| format!("it says byte_fallback, but has no piece <0x{byte:02X}>"))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_model_are_refused_in_words() {
        assert!(SentencePiece::from_bytes(b"not a protobuf").is_err());
        assert_eq!(SentencePiece::from_bytes(b"").expect_err("empty"), "it has no trainer spec");
    }

    #[test]
    fn every_bad_byte_becomes_its_own_replacement_character() {
        let decode = |bytes: &[u8]| {
            let mut out = Decoding { text: String::new(), bytes: bytes.to_vec(), may_drop_space: true };
            out.end_bytes();
            out.text
        };
        assert_eq!(decode("né".as_bytes()), "né");
        // A truncated three-byte character: two bytes, two marks.
        assert_eq!(decode(b"\xE3\x81a"), "\u{FFFD}\u{FFFD}a");
        // A surrogate (ED A0 80) is three bad bytes.
        assert_eq!(decode(b"\xED\xA0\x80"), "\u{FFFD}\u{FFFD}\u{FFFD}");
    }
}
