//! Normalization of a text before SentencePiece merges it (`normalizer.cc`).

use sentencepiece_model::NormalizerSpec;

use super::SPACE;
use crate::error::{Error, Result};

/// Normalizer: character map, whitespace rules, and user-defined pieces, which are never changed.
#[derive(Debug)]
pub(super) struct Normalizer {
    charsmap: Option<CharsMap>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    /// User-defined pieces, the longest first.
    user_defined: Vec<String>,
}

impl Normalizer {
    pub(super) fn new(spec: Option<&NormalizerSpec>, mut user_defined: Vec<String>) -> Result<Self> {
        user_defined.retain(|piece| !piece.is_empty());
        user_defined.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
        if spec.is_some_and(|spec| !spec.escape_whitespaces()) {
            return Err(Error::invalid("escape_whitespaces is off, which no Llama-family tokenizer has"));
        }
        let charsmap = spec.map(NormalizerSpec::precompiled_charsmap).filter(|bytes| !bytes.is_empty());
        Ok(Self {
            charsmap: charsmap.map(CharsMap::parse).transpose()?,
            add_dummy_prefix: spec.is_none_or(NormalizerSpec::add_dummy_prefix),
            remove_extra_whitespaces: spec.is_none_or(NormalizerSpec::remove_extra_whitespaces),
            user_defined,
        })
    }

    pub(super) fn without_dummy_prefix(self) -> Self {
        Self { add_dummy_prefix: false, ..self }
    }

    /// Returns whether an encoded text begins with a space that decoding must drop.
    pub(super) fn begins_with_space(&self) -> bool {
        self.add_dummy_prefix || self.remove_extra_whitespaces
    }

    pub(super) fn removes_extra_spaces(&self) -> bool {
        self.remove_extra_whitespaces
    }

    /// Returns the length of the longest user-defined piece that `text` begins with.
    pub(super) fn user_defined_prefix(&self, text: &str) -> Option<usize> {
        self.user_defined.iter().find(|piece| text.starts_with(piece.as_str())).map(String::len)
    }

    /// Normalizes a text: maps characters, writes spaces as U+2581, adds the dummy prefix.
    pub(super) fn normalize(&self, text: &str) -> String {
        let mut rest = text;
        if self.remove_extra_whitespaces {
            while let Some((_, after)) = self.step(rest).filter(|(out, _)| *out == " ") {
                rest = after;
            }
        }
        if rest.is_empty() {
            return String::new();
        }
        let mut out = String::with_capacity(text.len() * 3 / 2);
        if self.add_dummy_prefix {
            out.push(SPACE);
        }
        let mut after_space = self.remove_extra_whitespaces;
        while let Some((mut mapped, after)) = self.step(rest) {
            rest = after;
            if after_space {
                mapped = mapped.trim_start_matches(' ');
            }
            if !mapped.is_empty() {
                out.extend(mapped.chars().map(|c| if c == ' ' { SPACE } else { c }));
                after_space = self.remove_extra_whitespaces && mapped.ends_with(' ');
            }
        }
        if self.remove_extra_whitespaces {
            out.truncate(out.trim_end_matches(SPACE).len());
        }
        out
    }

    /// Maps the beginning of `text`; returns its replacement and the rest.
    fn step<'a>(&'a self, text: &'a str) -> Option<(&'a str, &'a str)> {
        if let Some(length) = self.user_defined_prefix(text) {
            return Some(text.split_at(length));
        }
        if let Some((length, mapped)) = self.charsmap.as_ref().and_then(|map| map.longest_prefix(text)) {
            return Some((mapped, &text[length..]));
        }
        let first = text.chars().next()?;
        Some(text.split_at(first.len_utf8()))
    }
}

/// Compiled character map: a darts-clone double array over keys, and their values.
#[derive(Debug)]
struct CharsMap {
    units: Vec<u32>,
    values: String,
}

impl CharsMap {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let broken = || Error::invalid("its precompiled character map is malformed");
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(broken)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (trie, values) = rest.split_at_checked(length).ok_or_else(broken)?;
        if trie.is_empty() || !trie.len().is_multiple_of(4) {
            return Err(broken());
        }
        let units = trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
        Ok(Self { units, values: String::from_utf8(values.to_vec()).map_err(|_| broken())? })
    }

    /// Returns the length of the longest key that `text` begins with, and its value.
    fn longest_prefix(&self, text: &str) -> Option<(usize, &str)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut index = offset(*self.units.first()?) as usize;
        let mut longest = None;
        for (i, byte) in text.bytes().enumerate() {
            index ^= usize::from(byte);
            let Some(&unit) = self.units.get(index) else { break };
            if unit & 0x8000_00ff != u32::from(byte) {
                break;
            }
            index ^= offset(unit) as usize;
            if unit & (1 << 8) != 0 {
                let value = self.units.get(index).map(|leaf| (leaf & 0x7fff_ffff) as usize);
                longest = value.and_then(|start| self.values.get(start..)).map(|value| (i + 1, value)).or(longest);
            }
        }
        let (length, value) = longest?;
        text.is_char_boundary(length).then(|| (length, value.split('\0').next().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalizer(remove_extra_whitespaces: bool, user_defined: &[&str]) -> Normalizer {
        let spec = NormalizerSpec { remove_extra_whitespaces: Some(remove_extra_whitespaces), ..Default::default() };
        let pieces = user_defined.iter().map(|&piece| piece.to_owned()).collect();
        Normalizer::new(Some(&spec), pieces).expect("a good spec")
    }

    #[test]
    fn the_dummy_prefix_comes_before_every_text_but_the_empty_one() {
        let keep = normalizer(false, &[]);
        for (text, normalized) in [("", ""), ("a", "▁a"), (" a", "▁▁a"), (" ", "▁▁"), ("\n", "▁\n"), ("▁", "▁▁")]
        {
            assert_eq!(keep.normalize(text), normalized, "{text:?}");
        }
    }

    #[test]
    fn extra_spaces_go_where_the_model_says_so() {
        let remove = normalizer(true, &[]);
        for (text, normalized) in [("  a  b  ", "▁a▁b"), ("   ", ""), ("a\n b", "▁a\n▁b")] {
            assert_eq!(remove.normalize(text), normalized, "{text:?}");
        }
    }

    #[test]
    fn the_longest_user_defined_piece_wins() {
        let pieces = normalizer(false, &["<a>", "<a><b>"]);
        assert_eq!(pieces.user_defined_prefix("<a><b>c"), Some(6));
        assert_eq!(pieces.user_defined_prefix("<a>c"), Some(3));
        assert_eq!(pieces.user_defined_prefix("c"), None);
    }

    #[test]
    fn a_broken_character_map_is_refused() {
        for bytes in [&b"\x01"[..], b"\xff\xff\xff\xff", b"\x00\x00\x00\x00abc", b"\x03\x00\x00\x00abc"] {
            assert!(CharsMap::parse(bytes).is_err());
        }
        // A unit that points outside: no key, no panic.
        let map = CharsMap::parse(b"\x04\x00\x00\x00\xff\xff\xff\xffx").expect("well-formed");
        assert_eq!(map.longest_prefix("a"), None);
    }
}
