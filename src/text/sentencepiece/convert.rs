//! Conversion of a SentencePiece model to the `tokenizer.json` that transformers 5 makes of it.
//!
//! Source: `SpmConverter.build_tokenizer_from_spm_proto`. Merges are ranked by the scores of the merged pieces. Where
//! two merges have equal ranks, ids can differ from SentencePiece's own, which are those of [`super::SentencePiece`].

use std::collections::{HashMap, HashSet};

use base64::Engine;
use sentencepiece_model::{ModelType, NormalizerSpec, SentencePieceModel, TrainerSpec, Type};
use serde_json::{Map, Value, json};

use super::NO_TRAINER;
use crate::error::{Error, Result};

/// Parts of a text that get a dummy prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrependScheme {
    /// Every part between added tokens.
    Always,
    /// The beginning of the text.
    First,
}

/// Converted model: its `tokenizer.json`, and settings of the model outside that file.
pub(crate) struct Converted {
    /// Contents of the file, without added tokens.
    pub json: Value,
    /// Control pieces, which are special tokens.
    pub control: Vec<String>,
    /// Pieces of the unknown token, of BOS and of EOS, as the model names them.
    pub named: Vec<(&'static str, String)>,
    /// Texts get a dummy prefix.
    pub has_dummy_prefix: bool,
}

/// Converts the bytes of a `tokenizer.model`. `names` replaces the names of some ids.
///
/// # Errors
/// When the bytes are not a SentencePiece model of BPE or unigram pieces.
pub(crate) fn convert(bytes: &[u8], names: &HashMap<u32, String>, scheme: PrependScheme) -> Result<Converted> {
    let model = SentencePieceModel::from_slice(bytes).map_err(|error| Error::invalid(error.to_string()))?;
    let trainer = model.trainer().ok_or_else(|| Error::invalid(NO_TRAINER))?;
    let pieces: Vec<ConvertedPiece> = renamed(&model, names);
    let user_defined: Vec<&str> = pieces.iter().filter(|p| p.kind == Type::UserDefined).map(|p| p.text()).collect();
    let vocabulary = match trainer.model_type() {
        ModelType::Bpe => bpe(&pieces, trainer, !user_defined.is_empty()),
        ModelType::Unigram => unigram(&pieces, trainer),
        other => {
            let rule = format!("its model type is {other:?}; only BPE and unigram are supported");
            return Err(Error::invalid(rule));
        }
    };
    let default = NormalizerSpec::default();
    let spec = model.normalizer().unwrap_or(&default);
    let named = [
        ("bos_token", trainer.bos_id(), trainer.bos_piece()),
        ("eos_token", trainer.eos_id(), trainer.eos_piece()),
        ("unk_token", trainer.unk_id(), trainer.unk_piece()),
    ];
    Ok(Converted {
        json: json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": normalizer(spec, scheme),
            "pre_tokenizer": pre_tokenizer(spec, scheme, &user_defined),
            "post_processor": null,
            "decoder": decoder(spec, trainer.byte_fallback()),
            "model": vocabulary,
        }),
        control: pieces.iter().filter(|p| p.kind == Type::Control).map(|p| p.original.clone()).collect(),
        has_dummy_prefix: spec.add_dummy_prefix(),
        named: named.into_iter().filter(|&(_, id, _)| id >= 0).map(|(name, _, p)| (name, p.to_owned())).collect(),
    })
}

struct ConvertedPiece {
    original: String,
    name: Option<String>,
    score: f32,
    kind: Type,
}

impl ConvertedPiece {
    fn text(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.original)
    }
}

/// Returns the pieces under their new names. A name that another piece keeps is not given away.
fn renamed(model: &SentencePieceModel, names: &HashMap<u32, String>) -> Vec<ConvertedPiece> {
    let ids = || (0u32..).zip(model.pieces());
    let kept: HashSet<&str> = ids().filter(|(id, _)| !names.contains_key(id)).map(|(_, p)| p.piece()).collect();
    let piece = |(id, piece): (u32, &sentencepiece_model::SentencePiece)| ConvertedPiece {
        original: piece.piece().to_owned(),
        name: names.get(&id).filter(|name| !kept.contains(name.as_str())).cloned(),
        score: piece.score(),
        kind: piece.r#type(),
    };
    ids().map(piece).collect()
}

fn bpe(pieces: &[ConvertedPiece], trainer: &TrainerSpec, ignore_merges: bool) -> Value {
    let normal: HashMap<&str, (f32, usize)> = (pieces.iter().enumerate())
        .filter(|(_, piece)| piece.kind == Type::Normal)
        .map(|(id, piece)| (piece.text(), (piece.score, id)))
        .collect();
    let mut merges: Vec<(f32, usize, &str, &str)> = Vec::new();
    for (text, &(score, id)) in &normal {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if normal.contains_key(left) && normal.contains_key(right) {
                merges.push((-score, id, left, right));
            }
        }
    }
    merges.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    let merges: Vec<Value> = merges.into_iter().map(|(_, _, left, right)| json!([left, right])).collect();
    let vocabulary: Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.text().to_owned(), id.into())).collect();
    json!({
        "type": "BPE", "dropout": null, "unk_token": trainer.unk_piece(), "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": trainer.byte_fallback(),
        "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": merges,
    })
}

fn unigram(pieces: &[ConvertedPiece], trainer: &TrainerSpec) -> Value {
    let vocabulary: Vec<Value> = pieces.iter().map(|piece| json!([piece.original, f64::from(piece.score)])).collect();
    json!({
        "type": "Unigram", "unk_id": trainer.unk_id(), "byte_fallback": trainer.byte_fallback(), "vocab": vocabulary,
    })
}

fn normalizer(spec: &NormalizerSpec, scheme: PrependScheme) -> Value {
    let replace = |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
    let mut steps = Vec::new();
    if !spec.precompiled_charsmap().is_empty() {
        let map = base64::engine::general_purpose::STANDARD.encode(spec.precompiled_charsmap());
        steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": map }));
    }
    if spec.remove_extra_whitespaces() {
        steps.push(replace(json!({ "Regex": r"\A +| +\z" }), ""));
        steps.push(replace(json!({ "Regex": " {2,}" }), " "));
    }
    if spec.escape_whitespaces() {
        steps.push(replace(json!({ "String": " " }), "▁"));
    }
    if spec.add_dummy_prefix() && scheme == PrependScheme::Always {
        // Metaspace omits its prefix before a text that begins with one, SentencePiece does not.
        steps.push(replace(json!({ "Regex": r"\A▁" }), "▁▁"));
    }
    json!({ "type": "Sequence", "normalizers": steps })
}

fn pre_tokenizer(spec: &NormalizerSpec, scheme: PrependScheme, user_defined: &[&str]) -> Value {
    let mut steps = Vec::new();
    if spec.add_dummy_prefix() {
        let scheme = if scheme == PrependScheme::Always { "always" } else { "first" };
        steps.push(json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false }));
    }
    if !user_defined.is_empty() {
        let mut longest_first: Vec<&str> = user_defined.to_vec();
        longest_first.sort_by_key(|piece| std::cmp::Reverse(piece.chars().count()));
        let pattern = longest_first.into_iter().map(regex::escape).collect::<Vec<_>>().join("|");
        let pattern = json!({ "Regex": pattern });
        steps.push(json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false }));
    }
    if steps.is_empty() { Value::Null } else { json!({ "type": "Sequence", "pretokenizers": steps }) }
}

fn decoder(spec: &NormalizerSpec, byte_fallback: bool) -> Value {
    let mut steps = vec![json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " })];
    if byte_fallback {
        steps.push(json!({ "type": "ByteFallback" }));
    }
    if spec.add_dummy_prefix() || byte_fallback {
        steps.push(json!({ "type": "Fuse" }));
    }
    if spec.add_dummy_prefix() {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": steps })
}
