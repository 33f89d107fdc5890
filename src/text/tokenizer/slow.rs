//! Slow Llama tokenizer: a text is split at special and added tokens, and SentencePiece encodes the parts between them.
//!
//! With `legacy` (the default) every part gets SentencePiece's dummy prefix. With `legacy: false` only the beginning of
//! a text gets one, and a part that begins with a space is encoded after the unknown token, to keep the space.
//! Source: `LlamaTokenizer` of transformers 4.57, which LLaVA's code uses.

use tokenizers::AddedToken;

use super::settings::Settings;
use crate::error::{Error, Result};
use crate::text::SentencePiece;

/// SentencePiece's mark of a space.
const SPACE: &str = "\u{2581}";

/// SentencePiece model with the tokens at which a text is split before.
#[derive(Debug)]
pub(super) struct Slow {
    model: SentencePiece,
    /// Special and added tokens, the longest first.
    cut: Vec<CutToken>,
    prefix: DummyPrefix,
    /// Id before every text.
    bos: Option<u32>,
    /// Id after every text.
    eos: Option<u32>,
}

#[derive(Debug)]
struct CutToken {
    token: AddedToken,
    id: u32,
    /// The settings list the token as special; the flag of an added token alone does not count.
    is_special: bool,
}

/// Position of the dummy prefix.
#[derive(Debug)]
enum DummyPrefix {
    /// Before every part, by SentencePiece itself.
    EveryPart,
    /// Before the text, if `has_prefix`; `unknown` is the unknown token's text, and the number of its pieces.
    Text { has_prefix: bool, unknown: (String, usize) },
}

impl Slow {
    /// Makes a tokenizer of a model and its settings, which get the class's defaults for BOS, EOS and the unknown
    /// token.
    ///
    /// # Errors
    /// When BOS or EOS, which are to be added around texts, are not in the vocabulary.
    pub(super) fn new(model: SentencePiece, settings: &mut Settings) -> Result<Self> {
        for (name, token) in [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")] {
            settings.set_default(name, token);
        }
        let is_special = |content: &str| settings.special_tokens().any(|token| token.content == content);
        let added = settings.added().iter().map(|(id, token)| CutToken {
            is_special: is_special(&token.content),
            token: token.clone(),
            id: *id,
        });
        let mut cut: Vec<CutToken> = added.filter(|cut| !cut.token.content.is_empty()).collect();
        for token in settings.special_tokens().filter(|token| !token.content.is_empty()) {
            let known = cut.iter().any(|cut| cut.token.content == token.content);
            if let (false, Some(id)) = (known, model.piece_id(&token.content)) {
                cut.push(CutToken { token: token.clone(), id, is_special: true });
            }
        }
        cut.sort_by_key(|cut| std::cmp::Reverse(cut.token.content.len()));
        let is_legacy = settings.flag("legacy").unwrap_or(true);
        let unknown = settings.token("unk_token").unwrap_or("<unk>").to_owned();
        let model = if is_legacy { model } else { model.without_dummy_prefix() };
        let prefix = if is_legacy {
            DummyPrefix::EveryPart
        } else {
            let n_pieces = model.encode(&unknown).len();
            DummyPrefix::Text {
                has_prefix: settings.flag("add_prefix_space").unwrap_or(true),
                unknown: (unknown, n_pieces),
            }
        };
        let mut slow = Self { model, cut, prefix, bos: None, eos: None };
        let around = |name: &str, key: &str, default: bool| -> Result<Option<u32>> {
            let token = settings.token(name).filter(|_| settings.flag(key).unwrap_or(default));
            let absent = |token: &str| Error::invalid(format!("{name} `{token}` is not in the vocabulary"));
            let id = |token| slow.token_id(token).ok_or_else(|| absent(token));
            token.map(id).transpose()
        };
        let (bos, eos) = (around("bos_token", "add_bos_token", true)?, around("eos_token", "add_eos_token", false)?);
        (slow.bos, slow.eos) = (bos, eos);
        Ok(slow)
    }

    /// Encodes a text, with BOS and EOS where the tokenizer adds them.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        self.bos.into_iter().chain(self.encode_later(text)).collect()
    }

    /// Encodes a text like [`Self::encode`], without BOS.
    pub(super) fn encode_later(&self, text: &str) -> Vec<u32> {
        let mut ids = match &self.prefix {
            DummyPrefix::EveryPart => self.encode_parts(text),
            DummyPrefix::Text { has_prefix, .. } if !text.is_empty() => {
                let begin = if *has_prefix { SPACE } else { "" };
                self.encode_parts(&format!("{begin}{}", text.replace(SPACE, " ")))
            }
            DummyPrefix::Text { .. } => Vec::new(),
        };
        // A prefix directly before a special token is dropped.
        if let (DummyPrefix::Text { .. }, [first, second, ..]) = (&self.prefix, ids.as_slice())
            && Some(*first) == self.model.piece_id(SPACE)
            && self.cut_of(*second).is_some_and(|cut| cut.is_special)
        {
            ids.remove(0);
        }
        ids.extend(self.eos);
        ids
    }

    fn encode_parts(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut rest = text;
        let mut strip = false;
        loop {
            let next = self.next_cut(rest);
            let mut part = next.map_or(rest, |(at, _)| &rest[..at]);
            if strip {
                part = part.trim_start();
            }
            if next.is_some_and(|(_, cut)| cut.token.lstrip) {
                part = part.trim_end();
            }
            ids.extend(self.encode_part(part));
            let Some((at, cut)) = next else { return ids };
            ids.push(cut.id);
            strip = cut.token.rstrip;
            rest = &rest[at + cut.token.content.len()..];
        }
    }

    fn encode_part(&self, part: &str) -> Vec<u32> {
        match &self.prefix {
            DummyPrefix::Text { unknown: (unknown, n_pieces), .. } if part.starts_with([' ', '\u{2581}']) => {
                let ids = self.model.encode(&format!("{unknown}{part}"));
                if ids.len() >= *n_pieces { ids[*n_pieces..].to_vec() } else { ids }
            }
            _ => self.model.encode(part),
        }
    }

    /// Returns the leftmost token at which a text is split; of two at one index the longer.
    fn next_cut<'a>(&'a self, text: &str) -> Option<(usize, &'a CutToken)> {
        let found = self.cut.iter().filter_map(|cut| Some((text.find(cut.token.content.as_str())?, cut)));
        found.min_by_key(|&(at, cut)| (at, std::cmp::Reverse(cut.token.content.len())))
    }

    fn cut_of(&self, id: u32) -> Option<&CutToken> {
        self.cut.iter().find(|cut| cut.id == id)
    }

    /// Decodes ids; special tokens are left out, other added tokens are their own text.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        let mut run = Vec::new();
        for &id in ids {
            match self.cut_of(id) {
                None => run.push(id),
                Some(cut) if cut.is_special => {}
                Some(cut) => {
                    text += &self.model.decode(&std::mem::take(&mut run));
                    text += &cut.token.content;
                }
            }
        }
        text + &self.model.decode(&run)
    }

    pub(super) fn token_id(&self, token: &str) -> Option<u32> {
        let cut = self.cut.iter().find(|cut| cut.token.content == token).map(|cut| cut.id);
        cut.or_else(|| self.model.piece_id(token))
    }

    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        let cut = self.cut.iter().find(|cut| cut.id == id).map(|cut| cut.token.content.as_str());
        cut.or_else(|| self.model.piece(id))
    }

    pub(super) fn vocab_size(&self) -> usize {
        let last = self.cut.iter().map(|cut| cut.id as usize + 1).max().unwrap_or(0);
        last.max(self.model.vocab_size())
    }
}
