//! Keys of the language model, which every family shares, with the defaults of each class of transformers
//! (`configuration_llama.py`, `configuration_mistral.py`, `configuration_qwen2.py`, `configuration_qwen3.py`).

use super::published::llama_2_7b;
use super::{JsonFile, MAX_CONTEXT, rope};
use crate::error::Error;
use crate::language::{AttentionBias, LlamaConfig, QueryKeyNorm};

/// Meaning of a missing key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::vlm) enum Defaults {
    /// An error, for the keys that shape the model.
    None,
    /// The default of the language model's class in transformers.
    HuggingFace,
}

/// Language model classes of transformers whose arithmetic is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case", ascii_case_insensitive)]
pub enum LanguageKind {
    /// `LlamaConfig`: Llama 1 to 3, Vicuna, Yi.
    Llama,
    /// `MistralConfig`: no biases, and a window.
    Mistral,
    /// `Qwen2Config`, of Qwen2 and Qwen2.5: biases on query, key and value.
    Qwen2,
    /// `Qwen3Config`: norms over each head's query and key.
    Qwen3,
}

/// Values of the keys that a class's files leave out.
struct ClassDefaults {
    vocab_size: usize,
    d_intermediate: usize,
    n_kv_heads: Option<usize>,
    d_head: Option<usize>,
    positions: usize,
}

impl LanguageKind {
    /// Returns the `model_type` in transformers.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the kind that a `text_config` names, one of `known`; the first of them without `model_type`.
    ///
    /// # Errors
    /// [`Error`] naming the known kinds.
    pub(in crate::vlm) fn of_section(text: &JsonFile, known: &[Self]) -> Result<Self, Error> {
        let named = match text.string("model_type")? {
            None => known.first().copied(),
            Some(name) => name.parse().ok().filter(|kind| known.contains(kind)),
        };
        named.ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|kind| kind.name()).collect();
            text.wrong("model_type", &format!("supported here are the language models {}", names.join(", ")))
        })
    }

    fn defaults(self) -> ClassDefaults {
        let LlamaConfig { vocab_size, d_intermediate, .. } = llama_2_7b();
        let llama = ClassDefaults { vocab_size, d_intermediate, n_kv_heads: None, d_head: None, positions: 2048 };
        let qwen2 = ClassDefaults {
            vocab_size: 151_936,
            d_intermediate: 22_016,
            n_kv_heads: Some(32),
            d_head: None,
            positions: 32_768,
        };
        match self {
            Self::Llama => llama,
            Self::Mistral => ClassDefaults { d_intermediate: 14_336, n_kv_heads: Some(8), positions: 131_072, ..llama },
            Self::Qwen2 => qwen2,
            Self::Qwen3 => ClassDefaults { d_head: Some(128), ..qwen2 },
        }
    }

    /// Returns the projections of the attention that have biases; only some classes leave a choice to the file.
    fn attention_bias(self, file: &JsonFile) -> Result<AttentionBias, Error> {
        let asked = file.flag("attention_bias")?.unwrap_or(false);
        Ok(match self {
            Self::Llama | Self::Qwen3 if asked => AttentionBias::All,
            // `modeling_mistral.py` has no biases, whatever the file says.
            Self::Llama | Self::Qwen3 | Self::Mistral => AttentionBias::None,
            Self::Qwen2 => AttentionBias::QueryKeyValue,
        })
    }
}

const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1024;
const MAX_HEADS: usize = 4096;
const MAX_VOCAB: usize = 1 << 24;

/// Reads a language model's keys.
///
/// # Errors
/// [`Error`] naming the first key that is unusable, its value and the rule.
pub(in crate::vlm) fn read(file: &JsonFile, kind: LanguageKind, defaults: Defaults) -> Result<LlamaConfig, Error> {
    check_activation(file)?;
    check_windows(file, kind)?;
    let class = kind.defaults();
    let shape = |key: &str, max: usize, default: usize| -> Result<usize, Error> {
        match file.count(key, 1..=max)? {
            Some(value) => Ok(value),
            None if defaults == Defaults::HuggingFace => Ok(default),
            None => Err(file.wrong(key, "it is needed to lay out the language model")),
        }
    };
    // Classes share the defaults of Llama's 7B, except their own.
    let base = llama_2_7b();
    let d_hidden = shape("hidden_size", MAX_WIDTH, base.d_hidden)?;
    let n_heads = shape("num_attention_heads", MAX_HEADS, base.n_heads)?;
    // Some classes have a default of their own; a null means as many as heads, there too.
    let kv_default = class.n_kv_heads.filter(|_| !file.is_null("num_key_value_heads")).unwrap_or(n_heads);
    let n_kv_heads = file.count("num_key_value_heads", 1..=MAX_HEADS)?.unwrap_or(kv_default);
    if n_heads % n_kv_heads != 0 {
        return Err(file.wrong("num_key_value_heads", &format!("it must divide num_attention_heads, {n_heads}")));
    }
    let given = file.count("head_dim", 2..=MAX_WIDTH)?;
    let d_head = match given.or(class.d_head.filter(|_| !file.is_null("head_dim"))) {
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
    let rope = rope::read(file, positions.unwrap_or(class.positions))?;
    Ok(LlamaConfig {
        vocab_size: shape("vocab_size", MAX_VOCAB, class.vocab_size)?,
        d_hidden,
        d_intermediate: shape("intermediate_size", MAX_WIDTH, class.d_intermediate)?,
        n_layers: shape("num_hidden_layers", MAX_LAYERS, base.n_layers)?,
        n_heads,
        n_kv_heads,
        d_head,
        rms_norm_eps: file.positive("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        context: rope.context,
        tied_embeddings: file.flag("tie_word_embeddings")?.unwrap_or(false),
        attention_bias: kind.attention_bias(file)?,
        qk_norm: if kind == LanguageKind::Qwen3 { QueryKeyNorm::PerHead } else { QueryKeyNorm::None },
        mlp_bias: kind == LanguageKind::Llama && file.flag("mlp_bias")?.unwrap_or(false),
    })
}

/// Returns the context: the smallest of the model's positions, the `longest` sequence it was trained on, and a
/// Mistral's attention window, beyond which full attention would differ from the trained one.
pub(in crate::vlm) fn context(
    file: &JsonFile,
    kind: LanguageKind,
    llama: &LlamaConfig,
    longest: Option<usize>,
) -> Result<usize, Error> {
    let limits = [Some(llama.context), longest, window(file, kind)?];
    Ok(limits.into_iter().flatten().min().unwrap_or(llama.context))
}

/// Returns the window that transformers' cache keeps, where a file gives `sliding_window` and no `layer_types`
/// (`get_layer_types_and_kwargs`). `use_sliding_window` matters only to Qwen's classes, which delete the window where
/// it is off.
pub(in crate::vlm) fn cache_window(file: &JsonFile, kind: LanguageKind) -> Result<Option<usize>, Error> {
    if is_qwen(kind) {
        return Ok(None);
    }
    let has_types = file.get("layer_types").is_some();
    Ok(file.count("sliding_window", 1..=MAX_CONTEXT)?.filter(|_| !has_types))
}

/// Returns the attention window of `MistralConfig`: 4096 by default, none for null. `LlamaConfig` has no window.
fn window(file: &JsonFile, kind: LanguageKind) -> Result<Option<usize>, Error> {
    const DEFAULT: usize = 4096;
    if kind != LanguageKind::Mistral || file.is_null("sliding_window") {
        return Ok(None);
    }
    Ok(Some(file.count("sliding_window", 1..=MAX_CONTEXT)?.unwrap_or(DEFAULT)))
}

fn is_qwen(kind: LanguageKind) -> bool {
    matches!(kind, LanguageKind::Qwen2 | LanguageKind::Qwen3)
}

/// Refuses a Qwen whose layers from `max_window_layers` on attend within a window.
fn check_windows(file: &JsonFile, kind: LanguageKind) -> Result<(), Error> {
    const DEFAULT_LAYERS: usize = 32;
    const DEFAULT_FIRST: usize = 28;
    if !is_qwen(kind) || file.get("layer_types").is_some() || !file.flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(());
    }
    let n_layers = file.count("num_hidden_layers", 1..=MAX_LAYERS)?.unwrap_or(DEFAULT_LAYERS);
    let first = file.count("max_window_layers", 0..=MAX_LAYERS)?.unwrap_or(DEFAULT_FIRST);
    let has_window = !file.is_null("sliding_window");
    if has_window && first < n_layers {
        let rule = format!("only full attention is supported, and layers {first} to {} have a window", n_layers - 1);
        return Err(file.wrong("use_sliding_window", &rule));
    }
    Ok(())
}

/// Refuses activations other than SiLU.
fn check_activation(file: &JsonFile) -> Result<(), Error> {
    match file.string("hidden_act")? {
        // One function under two names.
        None | Some("silu" | "swish") => Ok(()),
        Some(_) => Err(file.wrong("hidden_act", "only silu, also called swish, is supported")),
    }
}
