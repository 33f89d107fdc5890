//! Comparison of a GGUF file's metadata with the `config.json` that it is used with: every value of the file must equal
//! the configuration's, with llama.cpp's defaults for absent keys.
//!
//! Reference: `llama-model.cpp` of llama.cpp (`load_hparams` for the architectures `llama`, `qwen2` and `qwen3`), and
//! `ggml_rope` for the frequencies.

use super::TRAINED_FOR;
use crate::error::{Error, Result};
use crate::language::{LlamaConfig, RampEnds, Rope, RopeScaling};
use crate::vlm::config::{LanguageKind, VlmConfig};
use crate::weights::Gguf;

/// Relative tolerance between two settings written in different precisions.
const TOLERANCE: f64 = 1e-5;
/// Relative tolerance between two frequencies computed in different orders.
const FREQUENCY_TOLERANCE: f32 = 1e-4;
/// Default base of the rotary frequencies in llama.cpp.
const DEFAULT_BASE: f64 = 10_000.0;
/// Keys below the architecture that are compared, or that change no answer.
const KNOWN: [&str; 29] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "expert_count",
    "expert_used_count",
    "tensor_data_layout",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "attention.sliding_window",
    "attention.causal",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
];

/// Metadata of a file, and the configuration that it is compared with.
pub(super) struct Comparison<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) config: &'a VlmConfig,
    /// Divisors of the rotary frequencies, where the file has them.
    pub(super) rope_freqs: Option<Vec<f32>>,
}

impl Comparison<'_> {
    /// Returns the architecture of the checkpoint's language model in llama.cpp; Mistral and Yi have Llama's.
    fn architecture(&self) -> &'static str {
        match self.config.language {
            LanguageKind::Llama | LanguageKind::Mistral => "llama",
            LanguageKind::Qwen2 => "qwen2",
            LanguageKind::Qwen3 => "qwen3",
        }
    }

    /// Compares everything; returns warnings.
    ///
    /// # Errors
    /// Names the first key that differs, and both values.
    pub(super) fn check(&self) -> Result<Vec<String>> {
        let architecture = self.gguf.text("general.architecture").unwrap_or("none");
        let expected = self.architecture();
        if architecture != expected {
            return Err(Error::invalid(format!(
                "its general.architecture is {architecture}, and that of the checkpoint's language model is {expected}"
            )));
        }
        if let Some(kind) = self.gguf.text("general.type").filter(|&kind| kind != "model") {
            return Err(Error::invalid(format!("its general.type is {kind}; expected model")));
        }
        if let Some(n) = self.gguf.number("split.count").filter(|&n| n > 1.0) {
            return Err(Error::invalid(format!("it is one of {n} parts of a file"))
                .with_hint("join them with `llama-gguf-split --merge`"));
        }
        self.check_geometry()?;
        self.check_arithmetic()?;
        self.check_rope()?;
        Ok(self.context_warning().into_iter().collect())
    }

    /// Returns the unknown keys below the architecture that are not switched off, sorted.
    pub(super) fn unknown_keys(&self) -> Vec<String> {
        let name = self.architecture();
        let prefix = format!("{name}.");
        let is_unknown = |key: &&str| key.strip_prefix(&prefix).is_some_and(|key| !KNOWN.contains(&key));
        let mut unknown: Vec<String> =
            self.gguf.keys().filter(is_unknown).filter(|key| !self.gguf.is_off(key)).map(str::to_owned).collect();
        unknown.sort();
        unknown
    }

    fn check_geometry(&self) -> Result<()> {
        let name = self.architecture();
        let llama = &self.config.llama;
        let (n_heads, d_head) = (llama.n_heads as f64, llama.d_head as f64);
        let d_default = (llama.d_hidden / llama.n_heads.max(1)) as f64;
        for (theirs, ours, expected, default) in [
            ("block_count", "num_hidden_layers", llama.n_layers as f64, None),
            ("embedding_length", "hidden_size", llama.d_hidden as f64, None),
            ("feed_forward_length", "intermediate_size", llama.d_intermediate as f64, None),
            ("vocab_size", "vocab_size", llama.vocab_size as f64, None),
            ("attention.head_count", "num_attention_heads", n_heads, None),
            ("attention.head_count_kv", "num_key_value_heads", llama.n_kv_heads as f64, Some(n_heads)),
            ("attention.layer_norm_rms_epsilon", "rms_norm_eps", llama.rms_norm_eps, None),
            ("attention.key_length", "head_dim", d_head, Some(d_default)),
            ("attention.value_length", "head_dim", d_head, Some(d_default)),
            ("rope.dimension_count", "head_dim", d_head, Some(d_head)),
            ("rope.freq_base", "rope_theta", f64::from(llama.rope_theta), Some(DEFAULT_BASE)),
        ] {
            let found = self.gguf.numbers(&format!("{name}.{theirs}"))?;
            let found = found.or(default.map(|default| vec![default])).unwrap_or_default();
            // A list has one value a layer.
            if let Some(other) = found.iter().find(|&found| (found - expected).abs() > TOLERANCE * expected.abs()) {
                return Err(Error::invalid(format!(
                    "{name}.{theirs} is {other}, but {ours} of the model's config.json is {expected}"
                ))
                .with_hint(TRAINED_FOR));
            }
        }
        Ok(())
    }

    /// Refuses settings that change the arithmetic and that Llama does not have.
    fn check_arithmetic(&self) -> Result<()> {
        let name = self.architecture();
        let number = |key: &str| self.gguf.number(&format!("{name}.{key}"));
        if let Some(n) = number("expert_count").filter(|&n| n > 0.0) {
            return Err(Error::invalid(format!(
                "{name}.expert_count is {n}, and mixtures of experts are not supported"
            )));
        }
        for key in ["logit_scale", "embedding_scale", "residual_scale"] {
            if let Some(scale) = number(key).filter(|&scale| scale != 0.0 && scale != 1.0) {
                return Err(Error::invalid(format!("{name}.{key} is {scale}, and these models have none")));
            }
        }
        if self.gguf.flag(&format!("{name}.attention.causal")) == Some(false) {
            return Err(Error::invalid(format!(
                "{name}.attention.causal is false, and only causal attention is supported"
            )));
        }
        let context = self.config.context;
        match number("attention.sliding_window").filter(|&window| window > 0.0 && window < context as f64) {
            Some(window) => Err(Error::invalid(format!(
                "{name}.attention.sliding_window is {window}, below the context of {context} of the model's \
                 config.json"
            ))),
            None => Ok(()),
        }
    }

    fn check_rope(&self) -> Result<()> {
        let name = self.architecture();
        let llama = &self.config.llama;
        let (rope, scaling) = self.rope(llama)?;
        let silent = scaling == "none" && self.rope_freqs.is_none();
        if silent && matches!(llama.rope_scaling, RopeScaling::DynamicNtk { .. }) {
            // GGUF has no word for dynamic NTK, which differs beyond the original context only.
            return Ok(());
        }
        let mut theirs = rope.inverse_frequencies(0);
        if let Some(divisors) = &self.rope_freqs {
            if divisors.len() != theirs.len() {
                return Err(Error::invalid(format!(
                    "rope_freqs.weight has {} values; expected {}",
                    divisors.len(),
                    theirs.len()
                )));
            }
            theirs.iter_mut().zip(divisors).for_each(|(frequency, divisor)| *frequency /= divisor);
        }
        let ours = llama.rope().inverse_frequencies(0);
        let differ = |a: f32, b: f32| (a - b).abs() > FREQUENCY_TOLERANCE * b.abs();
        let (factor, expected) = (rope.scaling.attention_factor(), llama.rope_scaling.attention_factor());
        let first = theirs.iter().zip(&ours).position(|(&a, &b)| differ(a, b));
        if first.is_none() && !differ(factor, expected) {
            return Ok(());
        }
        let freqs = if self.rope_freqs.is_some() { "with" } else { "without" };
        let detail = first.map_or(format!("their factor is {factor} for {expected}"), |i| {
            format!("the frequency of channel {i} is {} for {}", theirs[i], ours[i])
        });
        Err(Error::invalid(format!(
            "its rotary positions ({name}.rope.scaling.type {scaling}, {freqs} rope_freqs.weight) differ from \
             those of config.json ({:?}): {detail}",
            llama.rope_scaling
        ))
        .with_hint(TRAINED_FOR))
    }

    /// Returns the frequencies of the file's keys, without `rope_freqs.weight`, and the name of their scaling.
    fn rope(&self, llama: &LlamaConfig) -> Result<(Rope, &str)> {
        let name = self.architecture();
        let number = |key: &str| self.gguf.number(&format!("{name}.rope.{key}")).filter(|&x| x != 0.0);
        let factor = number("scaling.factor").or(number("scale_linear")).unwrap_or(1.0);
        let named = self.gguf.text(&format!("{name}.rope.scaling.type"));
        let kind = named.unwrap_or(if factor == 1.0 { "none" } else { "linear" });
        let scaling = match kind {
            "none" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: factor as f32 },
            "yarn" => {
                let trained = self.gguf.number(&format!("{name}.context_length"));
                let original = number("scaling.original_context_length").or(trained).unwrap_or(llama.context as f64);
                let attention = number("scaling.attn_factor").unwrap_or(1.0) * (1.0 + 0.1 * factor.max(1.0).ln());
                RopeScaling::Yarn {
                    factor: factor as f32,
                    beta_fast: number("scaling.yarn_beta_fast").unwrap_or(32.0) as f32,
                    beta_slow: number("scaling.yarn_beta_slow").unwrap_or(1.0) as f32,
                    attention_factor: attention as f32,
                    original_context: original as f32,
                    ramp: RampEnds::Whole,
                }
            }
            other => {
                return Err(Error::invalid(format!(
                    "{name}.rope.scaling.type is {other}; supported are none, linear and yarn"
                )));
            }
        };
        let theta = number("freq_base").unwrap_or(DEFAULT_BASE) as f32;
        Ok((Rope { d_head: llama.d_head, theta, scaling }, kind))
    }

    /// Returns a warning where the file was made for another context, which changes no answer: positions are compared
    /// by their frequencies.
    fn context_warning(&self) -> Option<String> {
        let name = self.architecture();
        let llama = &self.config.llama;
        if matches!(llama.rope_scaling, RopeScaling::DynamicNtk { .. } | RopeScaling::Yarn { .. }) {
            return None;
        }
        let found = self.gguf.number(&format!("{name}.context_length"))?;
        (found != llama.context as f64).then(|| {
            format!(
                "{name}.context_length is {found}, but max_position_embeddings of config.json, which is used, \
                 is {}",
                llama.context
            )
        })
    }
}
