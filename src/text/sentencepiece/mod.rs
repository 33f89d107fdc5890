//! SentencePiece BPE models (`tokenizer.model`).
//!
//! Released LLaVA checkpoints ship only this file, and were trained with the *slow* Llama tokenizer, which calls
//! SentencePiece itself. A list of merges, as the BPE of `tokenizers` needs it, cannot express SentencePiece's rule for
//! ties (of equal scores the leftmost), so this module implements the algorithm of `bpe_model.cc`, with equal ids.
//! Unigram models are refused: no Llama-family checkpoint has one.

mod convert;
mod merge;
mod normalize;

use std::collections::HashMap;

use sentencepiece_model::{ModelType, SentencePieceModel, Type};

use crate::error::{Error, Result};
pub(crate) use convert::{PrependScheme, convert};
use normalize::Normalizer;

/// SentencePiece's mark of a space, U+2581.
const SPACE: char = '\u{2581}';

/// Rule that a model file without training settings breaks.
const NO_TRAINER: &str = "it has no trainer spec";

/// SentencePiece BPE model.
#[derive(Debug)]
pub struct SentencePiece {
    pieces: Vec<VocabularyPiece>,
    /// Pieces that text can be encoded to.
    text: HashMap<String, u32>,
    /// Pieces that text is never encoded to directly: control, unknown and byte pieces.
    reserved: HashMap<String, u32>,
    bytes: Option<Box<[u32; 256]>>,
    normalizer: Normalizer,
    unknown: u32,
    unknown_surface: String,
}

#[derive(Debug)]
struct VocabularyPiece {
    text: String,
    score: f32,
    kind: PieceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PieceKind {
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
    /// When the bytes are not a SentencePiece BPE model.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let model = SentencePieceModel::from_slice(bytes).map_err(|error| Error::invalid(error.to_string()))?;
        let trainer = model.trainer().ok_or_else(|| Error::invalid(NO_TRAINER))?;
        if trainer.model_type() != ModelType::Bpe {
            let rule = format!("its model type is {:?}; only BPE is supported", trainer.model_type());
            return Err(Error::invalid(rule));
        }
        let pieces = model.pieces().iter().map(read_piece).collect::<Result<Vec<_>>>()?;
        let (mut text, mut reserved) = (HashMap::new(), HashMap::new());
        for (id, piece) in (0u32..).zip(&pieces) {
            let map = if piece.kind.comes_from_text() { &mut text } else { &mut reserved };
            map.insert(piece.text.clone(), id);
        }
        let kinds = || (0u32..).zip(&pieces);
        let unknown = kinds().find(|(_, piece)| piece.kind == PieceKind::Unknown).map(|(id, _)| id);
        let user_defined =
            pieces.iter().filter(|piece| piece.kind == PieceKind::UserDefined).map(|piece| piece.text.clone());
        let normalizer = Normalizer::new(model.normalizer(), user_defined.collect())?;
        Ok(Self {
            bytes: trainer.byte_fallback().then(|| byte_ids(&pieces)).transpose()?,
            unknown_surface: trainer.unk_surface().to_owned(),
            unknown: unknown.ok_or_else(|| Error::invalid("it has no unknown piece"))?,
            normalizer,
            text,
            reserved,
            pieces,
        })
    }

    /// Disables the dummy prefix, the space before every text.
    #[must_use]
    pub(crate) fn without_dummy_prefix(self) -> Self {
        Self { normalizer: self.normalizer.without_dummy_prefix(), ..self }
    }

    /// Returns the number of ids.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Returns the id of a piece by its exact text.
    pub(crate) fn piece_id(&self, piece: &str) -> Option<u32> {
        self.reserved.get(piece).or_else(|| self.text.get(piece)).copied()
    }

    /// Returns the exact text of a piece.
    pub fn piece(&self, id: u32) -> Option<&str> {
        Some(self.pieces.get(id as usize)?.text.as_str())
    }

    /// Encodes a text, like `SentencePieceProcessor::Encode`. Special tokens in the text are not recognized.
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

    /// Decodes ids, like `SentencePieceProcessor::Decode`: control pieces and ids beyond the vocabulary are empty, the
    /// unknown piece is its surface, bytes that are not UTF-8 are one U+FFFD each.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut out = PieceDecoder { text: String::new(), bytes: Vec::new(), may_drop_space: true };
        for &id in ids {
            let Some(piece) = self.pieces.get(id as usize) else { continue };
            if let PieceKind::Byte(byte) = piece.kind {
                out.bytes.push(byte);
                continue;
            }
            out.end_bytes();
            match piece.kind {
                PieceKind::Control => {}
                PieceKind::Unknown => out.text.push_str(&self.unknown_surface),
                _ => out.push_piece(&piece.text, &self.normalizer),
            }
        }
        out.end_bytes();
        out.text
    }
}

/// Decoder of pieces to text.
struct PieceDecoder {
    text: String,
    bytes: Vec<u8>,
    may_drop_space: bool,
}

impl PieceDecoder {
    /// Appends a piece; the dummy prefix of the text is dropped.
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

    /// Decodes the collected bytes together. Each byte that fits no character becomes its own U+FFFD.
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

impl PieceKind {
    fn comes_from_text(self) -> bool {
        matches!(self, Self::Normal | Self::UserDefined | Self::Unused)
    }
}

fn read_piece(piece: &sentencepiece_model::SentencePiece) -> Result<VocabularyPiece> {
    let text = piece.piece().to_owned();
    let kind = match piece.r#type() {
        Type::Normal => PieceKind::Normal,
        Type::Unknown => PieceKind::Unknown,
        Type::Control => PieceKind::Control,
        Type::UserDefined => PieceKind::UserDefined,
        Type::Unused => PieceKind::Unused,
        Type::Byte => {
            let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
            let rule = || Error::invalid(format!("the byte piece `{text}` is not of the form <0xHH>"));
            PieceKind::Byte(byte.ok_or_else(rule)?)
        }
    };
    Ok(VocabularyPiece { text, score: piece.score(), kind })
}

fn byte_ids(pieces: &[VocabularyPiece]) -> Result<Box<[u32; 256]>> {
    let mut ids = [None; 256];
    for (id, piece) in (0u32..).zip(pieces) {
        if let PieceKind::Byte(byte) = piece.kind {
            ids[usize::from(byte)] = Some(id);
        }
    }
    let mut found = Box::new([0; 256]);
    for (byte, id) in ids.into_iter().enumerate() {
        let rule = || Error::invalid(format!("it sets byte_fallback, but has no piece <0x{byte:02X}>"));
        found[byte] = id.ok_or_else(rule)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_a_model_are_refused() {
        assert!(SentencePiece::from_bytes(b"not a protobuf").is_err());
        assert_eq!(SentencePiece::from_bytes(b"").expect_err("empty").to_string(), NO_TRAINER);
    }

    #[test]
    fn every_bad_byte_becomes_its_own_replacement_character() {
        let decode = |bytes: &[u8]| {
            let mut out = PieceDecoder { text: String::new(), bytes: bytes.to_vec(), may_drop_space: true };
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
