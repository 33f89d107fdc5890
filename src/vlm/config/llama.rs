//! The language model's keys, which both spellings share.

use super::{JsonFile, MAX_CONTEXT, rope};
use crate::language::LlamaConfig;
use crate::vlm::ModelError;

/// What a missing key means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Defaults {
    /// An error, for the keys that shape the model.
    None,
    /// The default of transformers' `LlamaConfig`, or of `MistralConfig` for a Mistral.
    HuggingFace,
}

const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1024;
const MAX_HEADS: usize = 4096;
const MAX_VOCAB: usize = 1 << 24;

/// Whether a `config.json` describes a Mistral.
pub(super) fn is_mistral(file: &JsonFile) -> Result<bool, ModelError> {
    Ok(file.string("model_type")?.is_some_and(|kind| kind.contains("mistral")))
}

pub(super) fn read(file: &JsonFile, defaults: Defaults) -> Result<LlamaConfig, ModelError> {
    check_family(file, defaults)?;
    let mistral = is_mistral(file)?;
    let shape = |key: &str, max: usize, default: usize| -> Result<usize, ModelError> {
        match file.count(key, 1..=max)? {
            Some(value) => Ok(value),
            None if defaults == Defaults::HuggingFace => Ok(default),
            None => Err(file.wrong(key, "it is needed to lay out the language model")),
        }
    };
    let d_hidden = shape("hidden_size", MAX_WIDTH, 4096)?;
    let n_heads = shape("num_attention_heads", MAX_HEADS, 32)?;
    // `MistralConfig` has a default of its own; a null means as many as heads, there too.
    let kv_default = if mistral && !file.is_null("num_key_value_heads") { 8 } else { n_heads };
    let n_kv_heads = file.count("num_key_value_heads", 1..=MAX_HEADS)?.unwrap_or(kv_default);
    if n_heads % n_kv_heads != 0 {
        return Err(file.wrong("num_key_value_heads", &format!("it must divide num_attention_heads, {n_heads}")));
    }
    let d_head = match file.count("head_dim", 2..=MAX_WIDTH)? {
        Some(d_head) => d_head,
        None if d_hidden % n_heads == 0 => d_hidden / n_heads,
        None => {
            return Err(file.wrong("hidden_size", &format!("it must be a multiple of num_attention_heads, {n_heads}")));
        }
    };
    if d_head % 2 != 0 {
        return Err(file.wrong("hidden_size", &format!("a head of odd width {d_head} cannot be rotated")));
    }
    let positions = file.count("max_position_embeddings", 1..=MAX_CONTEXT)?;
    let rope = rope::read(file, positions.unwrap_or(if mistral { 131_072 } else { 2048 }))?;
    Ok(LlamaConfig {
        vocab_size: shape("vocab_size", MAX_VOCAB, 32_000)?,
        d_hidden,
        d_intermediate: shape("intermediate_size", MAX_WIDTH, if mistral { 14_336 } else { 11_008 })?,
        n_layers: shape("num_hidden_layers", MAX_LAYERS, 32)?,
        n_heads,
        n_kv_heads,
        d_head,
        rms_norm_eps: file.positive("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        context: rope.context,
        tied_embeddings: file.flag("tie_word_embeddings")?.unwrap_or(false),
        // `modeling_mistral.py` knows no biases, whatever the file says.
        attention_bias: !mistral && file.flag("attention_bias")?.unwrap_or(false),
        mlp_bias: !mistral && file.flag("mlp_bias")?.unwrap_or(false),
    })
}

/// The smallest of the model's positions, the length it was trained on, and a Mistral's attention window: beyond the
/// window our full attention would not be what the model was trained with.
pub(super) fn context(file: &JsonFile, llama: &LlamaConfig, longest: Option<usize>) -> Result<usize, ModelError> {
    let limits = [Some(llama.context), longest, window(file)?];
    Ok(limits.into_iter().flatten().min().unwrap_or(llama.context))
}

/// The window that transformers' cache keeps, whatever the class, where a file gives one and no `layer_types`
/// (`get_layer_types_and_kwargs`). `use_sliding_window` has no say in it.
pub(super) fn cache_window(file: &JsonFile) -> Result<Option<usize>, ModelError> {
    let has_types = file.get("layer_types").is_some();
    Ok(file.count("sliding_window", 1..=MAX_CONTEXT)?.filter(|_| !has_types))
}

/// The attention window of `MistralConfig`, whose files leave out 4096 and say null for none. `LlamaConfig` has none.
fn window(file: &JsonFile) -> Result<Option<usize>, ModelError> {
    const DEFAULT: usize = 4096;
    if !is_mistral(file)? || file.is_null("sliding_window") {
        return Ok(None);
    }
    Ok(Some(file.count("sliding_window", 1..=MAX_CONTEXT)?.unwrap_or(DEFAULT)))
}

/// Refuses other families by name, rather than by a list of missing tensors. The kinds of LLaVA's spelling are judged
/// with its classes.
fn check_family(file: &JsonFile, defaults: Defaults) -> Result<(), ModelError> {
    let known = ["llama", "mistral"];
    match file.string("model_type")? {
        Some(kind) if defaults == Defaults::HuggingFace && !known.contains(&kind.to_ascii_lowercase().as_str()) => {
            Err(file.wrong("model_type", "supported are the Llama family's: llama, mistral"))
        }
        _ => Ok(()),
    }?;
    match file.string("hidden_act")? {
        // One function under two names.
        None | Some("silu" | "swish") => Ok(()),
        Some(_) => Err(file.wrong("hidden_act", "only silu, also called swish, is supported")),
    }
}
