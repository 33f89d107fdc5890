//! Tying of the output head to the embedding table, where `config.json` and the tensors may disagree.
//!
//! Reference: `tie_weights` of transformers 5 (`modeling_utils.py`).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::error::mismatch;
use super::language_loader::names_in;
use super::names;
use crate::error::Error;
use crate::language::LlamaConfig;
use crate::weights::{Checkpoint, Ledger};

/// Resolves tying for a configuration that ties the head and a file with tensors for both: equal tensors are tied; a
/// different head of a checkpoint is used, as transformers 5 does, with a warning.
///
/// # Errors
/// When the head of a GGUF file differs, or a tensor cannot be read.
pub(super) fn resolve(llama: LlamaConfig, ledger: &Arc<Ledger>) -> Result<(LlamaConfig, Option<String>), Error> {
    let checkpoint = ledger.checkpoint();
    let names = names_in(ledger, &llama);
    let (table, head) = (names.apply(names::EMBEDDINGS), names.apply(names::HEAD));
    if !llama.tied_embeddings || table == head || !checkpoint.contains(&table) || !checkpoint.contains(&head) {
        return Ok((llama, None));
    }
    if are_equal(checkpoint, &table, &head).map_err(Error::compute("comparing the head with the embeddings"))? {
        ledger.use_tensor(&head);
        return Ok((llama, None));
    }
    let rule = format!("{head} differs from {table}, although tie_word_embeddings of config.json is true");
    if checkpoint.gguf().is_some() {
        let error = mismatch(checkpoint.dir(), rule);
        return Err(error.with_hint("the file of the model that the projector was trained for"));
    }
    let warning = format!("{}: {rule}; {head} is used", checkpoint.dir().display());
    Ok((LlamaConfig { tied_embeddings: false, ..llama }, Some(warning)))
}

fn are_equal(checkpoint: &Checkpoint, a: &str, b: &str) -> candle_core::Result<bool> {
    if checkpoint.shape(a) != checkpoint.shape(b) {
        return Ok(false);
    }
    let read = |name: &str| -> candle_core::Result<Tensor> { checkpoint.load(name, DType::F32, &Device::Cpu) };
    let n_different = read(a)?.ne(&read(b)?)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    Ok(n_different == 0.0)
}
