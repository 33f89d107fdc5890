//! Loading of the language model: from a checkpoint, quantized on request, or from a GGUF file.

use std::sync::Arc;

use candle_core::DType;
use candle_nn::VarBuilder;

use super::gguf::{self, GgufLinearLoader, QueryKeyRows};
use super::names;
use super::placement::Placement;
use crate::language::{Llama, LlamaConfig};
use crate::nn::linear::Bias;
use crate::nn::{FullPrecisionLoader, Linear, LinearLoader, Purpose, QuantFormat, QuantizingLoader};
use crate::weights::{Ledger, Rename, StoredRows};

/// Loads the language model from a checkpoint or from a GGUF file, whose query and key rows are ordered as `rows`.
///
/// # Errors
/// When the weights do not fit the device.
pub(super) fn load_language(
    llama: &LlamaConfig,
    rows: QueryKeyRows,
    ledger: &Arc<Ledger>,
    placement: &Placement,
) -> candle_core::Result<Llama> {
    let Placement { device, dtype, quantization, .. } = placement;
    let why = format!(
        "config.json: hidden_size {}, {} heads, {} key-value heads, {} layers, intermediate_size {}, vocab_size {}",
        llama.d_hidden, llama.n_heads, llama.n_kv_heads, llama.n_layers, llama.d_intermediate, llama.vocab_size
    );
    if ledger.checkpoint().gguf().is_some() {
        let rename = names_in(ledger, llama);
        let vb = ledger.part(rename.clone(), why, *dtype, device);
        return Llama::load_with(llama, &vb, &GgufLinearLoader { ledger, rename, llama, rows, format: *quantization });
    }
    let rename = names_in(ledger, llama);
    let vb = ledger.part(rename.clone(), why, *dtype, device);
    let full = FullPrecisionLoader(Purpose::Inference);
    let quantizing = quantization.map(QuantizingLoader);
    let loader = quantizing.as_ref().map_or(&full as &dyn LinearLoader, |quantizing| quantizing);
    Llama::load_with(llama, &vb, &LedgerLinearLoader { loader, ledger, rename })
}

/// Loader of linear layers from a checkpoint whose embedding table may stay in its file.
struct LedgerLinearLoader<'a> {
    loader: &'a dyn LinearLoader,
    ledger: &'a Ledger,
    rename: Rename,
}

impl LinearLoader for LedgerLinearLoader<'_> {
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> candle_core::Result<Linear> {
        self.loader.linear(d_in, d_out, bias, vb)
    }

    fn convert(&self, layer: &mut Linear) -> candle_core::Result<()> {
        self.loader.convert(layer)
    }

    fn reads_in_parallel(&self) -> bool {
        self.loader.reads_in_parallel()
    }

    fn purpose(&self) -> Purpose {
        self.loader.purpose()
    }

    fn stored_rows(&self, shape: (usize, usize), vb: &VarBuilder) -> candle_core::Result<Option<StoredRows>> {
        // Rows are read from the file in f32 on the CPU; other devices and precisions load the whole table.
        if !vb.device().is_cpu() || vb.dtype() != DType::F32 {
            return Ok(None);
        }
        self.ledger.rows(&self.rename.apply(&format!("{}.weight", vb.prefix())), shape.into())
    }
}

/// Returns the names of the language model's tensors in a checkpoint or in a GGUF file. A tied embedding table may be
/// stored as the head.
pub(super) fn names_in(ledger: &Ledger, llama: &LlamaConfig) -> Rename {
    let checkpoint = ledger.checkpoint();
    let names = match checkpoint.gguf() {
        Some(_) => gguf::names(llama.n_layers),
        None => names::language(checkpoint),
    };
    let has = |name: &str| checkpoint.contains(&names.apply(name));
    if llama.tied_embeddings && !has(names::EMBEDDINGS) && has(names::HEAD) {
        let head = names.apply(names::HEAD);
        return names.prefix(names::EMBEDDINGS, &head);
    }
    names
}

/// Returns a warning that counts the linear layers that are not in the requested format, if there are any.
pub(super) fn other_formats(language: &Llama, format: QuantFormat) -> Option<String> {
    let formats: Vec<Option<QuantFormat>> = language.linear_layers().map(Linear::format).collect();
    count_formats(&formats, format, language.dtype())
}

/// Returns the warning of [`other_formats`] for the formats of all linear layers; `None` is full precision in `dtype`.
fn count_formats(formats: &[Option<QuantFormat>], format: QuantFormat, dtype: DType) -> Option<String> {
    let count = |wanted: Option<QuantFormat>| formats.iter().filter(|&&found| found == wanted).count();
    let (n_q8_0, n_full, n) = (count(Some(QuantFormat::Q8_0)), count(None), formats.len());
    (count(Some(format)) < n).then(|| {
        format!(
            "of {n} linear layers {n_q8_0} are stored in q8_0 and {n_full} in {}: {format} takes rows that are a \
             multiple of {}",
            dtype.as_str(),
            format.unit()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_in_other_formats_are_counted_for_either_request() {
        let (q8_0, q4_k) = (Some(QuantFormat::Q8_0), Some(QuantFormat::Q4K));
        let warning = |formats: &[_], format| count_formats(formats, format, DType::F32);
        assert_eq!(
            warning(&[q8_0, q8_0, None, q8_0, q8_0], QuantFormat::Q8_0).as_deref(),
            Some("of 5 linear layers 4 are stored in q8_0 and 1 in f32: q8_0 takes rows that are a multiple of 32")
        );
        assert_eq!(
            warning(&[q4_k, q8_0, None], QuantFormat::Q4K).as_deref(),
            Some("of 3 linear layers 1 are stored in q8_0 and 1 in f32: q4_k takes rows that are a multiple of 256")
        );
        assert_eq!((warning(&[q8_0; 2], QuantFormat::Q8_0), warning(&[q4_k; 2], QuantFormat::Q4K)), (None, None));
    }
}
