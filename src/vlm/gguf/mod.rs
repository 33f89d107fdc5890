//! Language model in a GGUF file, beside a checkpoint's tower and projector: tensor names, checks of its metadata, and
//! its linear layers in their stored formats. Reference: llama.cpp, `gguf-py/gguf/tensor_mapping.py`.

mod check;
mod vocabulary;

use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use self::check::Comparison;
use self::vocabulary::Vocabulary;
use super::Unused;
use super::config::{LanguageKind, VlmConfig};
use super::ignored_tensors::IgnoredTensors;
use crate::error::{Error, Kind};
use crate::kernels::{self, StoredLinear, quantize};
use crate::language::LlamaConfig;
use crate::nn::linear::{Bias, Linear};
use crate::nn::{LinearLoader, Purpose, QuantFormat};
use crate::text::Tokenizer;
use crate::weights::{Checkpoint, Ledger, Rename};
const ROPE_FREQS: &str = "rope_freqs.weight";
/// Hint of every error about a file of another model.
pub(super) const TRAINED_FOR: &str = "the file of the model that the projector was trained for";

/// Returns the map from our names to those of llama.cpp (`gguf-py/gguf/tensor_mapping.py`).
pub(super) fn names(n_layers: usize) -> Rename {
    const OF_LAYER: [(&str, &str); 11] = [
        ("self_attn.q_norm.", "attn_q_norm."),
        ("self_attn.k_norm.", "attn_k_norm."),
        ("self_attn.q_proj.", "attn_q."),
        ("self_attn.k_proj.", "attn_k."),
        ("self_attn.v_proj.", "attn_v."),
        ("self_attn.o_proj.", "attn_output."),
        ("mlp.gate_proj.", "ffn_gate."),
        ("mlp.up_proj.", "ffn_up."),
        ("mlp.down_proj.", "ffn_down."),
        ("input_layernorm.", "attn_norm."),
        ("post_attention_layernorm.", "ffn_norm."),
    ];
    let whole = Rename::none()
        .prefix("model.embed_tokens.", "token_embd.")
        .prefix("model.norm.", "output_norm.")
        .prefix("lm_head.", "output.");
    (0..n_layers).flat_map(|i| OF_LAYER.map(|names| (i, names))).fold(whole, |rename, (i, (ours, theirs))| {
        rename.prefix(&format!("model.layers.{i}.{ours}"), &format!("blk.{i}.{theirs}"))
    })
}

/// Returns the tensors that may stay unused: those that llama.cpp computes, and those compared with `config.json`.
pub(super) fn ignored_tensors(llama: &LlamaConfig) -> IgnoredTensors {
    let computed = (0..llama.n_layers).map(|i| format!("blk.{i}.attn_rot_embd.weight"));
    IgnoredTensors::named(computed.chain([ROPE_FREQS.to_owned()]))
}

/// Opens a file and checks that it is the language model of `config`; returns the checkpoint and warnings.
pub(super) fn open(
    path: &Path,
    config: &VlmConfig,
    unused: Unused,
) -> std::result::Result<(Checkpoint, Vec<String>), Error> {
    let checkpoint = Checkpoint::open_gguf(path)?;
    let mut warnings = Vec::new();
    if let Some(gguf) = checkpoint.gguf() {
        let rope_freqs = checkpoint
            .contains(ROPE_FREQS)
            .then(|| checkpoint.load(ROPE_FREQS, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>());
        let rope_freqs = rope_freqs.transpose().map_err(Error::compute("reading rope_freqs.weight"))?;
        let comparison = Comparison { gguf, config, rope_freqs };
        let wrong = |error: Error| error.with_kind(Kind::Model).about(path);
        let found = comparison.check().map_err(wrong)?;
        warnings.extend(found.into_iter().map(|warning| format!("{}: {warning}", path.display())));
        warnings.extend(unused.enforce(path, "keys", &comparison.unknown_keys())?);
    }
    Ok((checkpoint, warnings))
}

/// Compares a file's vocabulary with the tokenizer and the rows of the checkpoint; returns warnings.
///
/// # Errors
/// [`Error`] when it is another vocabulary.
pub(super) fn check_vocabulary(
    file: &Checkpoint,
    config: &VlmConfig,
    tokenizer: &Tokenizer,
) -> std::result::Result<Vec<String>, Error> {
    let Some(gguf) = file.gguf() else { return Ok(Vec::new()) };
    let path = file.dir();
    let found = Vocabulary { gguf, config, tokenizer }.check();
    let wrong = |error: Error| error.with_kind(Kind::Model).about(path);
    let warnings = found.map_err(wrong)?;
    Ok(warnings.into_iter().map(|warning| format!("{}: {warning}", path.display())).collect())
}

/// Loader of a file's linear layers: in their stored format, or in the requested one. Formats without a kernel are
/// converted to `q8_0`.
pub(super) struct GgufLinearLoader<'a> {
    pub(super) ledger: &'a Arc<Ledger>,
    pub(super) rename: Rename,
    pub(super) llama: &'a LlamaConfig,
    /// Order of the rows of queries and keys.
    pub(super) rows: QueryKeyRows,
    /// Requested format, whatever the stored one.
    pub(super) format: Option<QuantFormat>,
}

/// Order of a head's rows in the weights of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryKeyRows {
    /// Order of checkpoints: the two channels of a rotated pair are half a head apart.
    AsInCheckpoint,
    /// Order of llama.cpp: the two channels of a rotated pair are adjacent, see [`stored_row`].
    Interleaved,
}

impl QueryKeyRows {
    /// Returns the order of a class: llama.cpp's converter interleaves Llama's rows and leaves Qwen's.
    pub(super) fn of(language: LanguageKind) -> Self {
        match language {
            LanguageKind::Llama | LanguageKind::Mistral => Self::Interleaved,
            LanguageKind::Qwen2 | LanguageKind::Qwen3 => Self::AsInCheckpoint,
        }
    }
}

impl LinearLoader for GgufLinearLoader<'_> {
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear> {
        let ours = format!("{}.weight", vb.prefix());
        let name = self.rename.apply(&ours);
        let Some(weight) = self.ledger.quantized(&name, (d_out, d_in).into())? else {
            // The ledger has recorded the missing tensor; zeros without memory stand in for it.
            return Linear::load(d_in, d_out, bias, vb);
        };
        let heads = match ours.rsplit('.').nth(1) {
            Some("q_proj") => Some(self.llama.n_heads),
            Some("k_proj") => Some(self.llama.n_kv_heads),
            _ => None,
        };
        let heads = heads.filter(|_| self.rows == QueryKeyRows::Interleaved);
        let row = |i: usize| heads.map_or(i, |n_heads| stored_row(i, d_out / n_heads.max(1)));
        let rows: Vec<u32> = (0..d_out).map(|i| row(i) as u32).collect();
        let bias = match bias {
            Bias::With => {
                Some(vb.get(d_out, "bias")?.contiguous()?.index_select(&Tensor::new(&*rows, vb.device())?, 0)?)
            }
            Bias::Without => None,
        };
        let stored = match weight.dtype() {
            GgmlDType::Q8_0 => Some(QuantFormat::Q8_0),
            GgmlDType::Q4K => Some(QuantFormat::Q4K),
            _ => None,
        };
        let kernels = kernels::of(vb.device(), vb.dtype());
        let from = |weight: &QTensor, format| {
            let stored = StoredLinear { weight, device: vb.device(), format, row: &row, bias: bias.clone() };
            Linear::from_quantized(&stored, kernels)
        };
        if let Some(format) = stored.filter(|&stored| self.format.is_none_or(|format| format == stored)) {
            return from(&weight, format);
        }
        // Other formats are converted in host memory, from f32.
        let full = weight.dequantize(&Device::Cpu)?;
        let is_full = matches!(weight.dtype(), GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        let wanted = self.format.or((!is_full).then_some(QuantFormat::Q8_0));
        if let Some(format) = wanted.and_then(|format| format.fitting(d_in)) {
            return from(&quantize(&full, format)?, format);
        }
        let full = full.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
        Ok(Linear::new(full.to_dtype(vb.dtype())?.to_device(vb.device())?, bias))
    }

    fn convert(&self, layer: &mut Linear) -> Result<()> {
        self.format.map_or(Ok(()), |format| layer.quantize(format))
    }

    fn reads_in_parallel(&self) -> bool {
        false
    }

    fn purpose(&self) -> Purpose {
        Purpose::Inference
    }
}

/// Returns the stored row of row `i` of queries or keys: llama.cpp rotates adjacent channels of a head, checkpoints
/// rotate channels that are half a head apart, so its converter interleaves the halves.
fn stored_row(i: usize, d_head: usize) -> usize {
    let (head, channel) = (i / d_head, i % d_head);
    let (half, index) = (channel / (d_head / 2).max(1), channel % (d_head / 2).max(1));
    head * d_head + 2 * index + half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_are_interleaved() {
        // Two heads of four: channels 0 1 | 2 3 are stored as 0 2 1 3.
        let rows: Vec<usize> = (0..8).map(|i| stored_row(i, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn names_are_those_of_llama_cpp() {
        let rename = names(12);
        for (ours, theirs) in [
            ("model.layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight"),
            ("model.layers.11.post_attention_layernorm.weight", "blk.11.ffn_norm.weight"),
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
        ] {
            assert_eq!(rename.apply(ours), theirs);
        }
    }
}
