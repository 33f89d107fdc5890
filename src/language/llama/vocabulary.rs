//! The embedding table `(vocab_size, H)` and the output head, which may be one tensor.
//!
//! Memory decides where the table is: a tensor of its own, the packed weight of a tied head, or rows that stay in the
//! checkpoint's file (on the CPU). Used by [`Llama`](super::Llama) alone.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::LlamaConfig;
use crate::nn::linear::{Bias, Linear};
use crate::nn::{LinearLoader, Purpose};
use crate::weights::StoredRows;

/// The embedding table, `(vocab_size, H)`.
#[derive(Debug)]
pub(super) enum TokenEmbeddings {
    /// A tensor of its own.
    Table(Tensor),
    /// The weight of the output head: tied and packed, so that it is in memory once.
    OfHead,
    /// Rows in the checkpoint's file, on the CPU.
    Stored(StoredRows),
}

/// Reads the embedding table and the output head, packed for inference.
pub(super) fn load_vocabulary(
    config: &LlamaConfig,
    vb: &VarBuilder,
    loader: &dyn LinearLoader,
) -> Result<(TokenEmbeddings, Linear)> {
    let (shape, table_vb) = ((config.vocab_size, config.d_hidden), vb.pp("model").pp("embed_tokens"));
    let mut table = None;
    let mut head = if config.tied_embeddings {
        let mut head = Linear::from_weight(table.insert(table_vb.get(shape, "weight")?).clone());
        loader.convert(&mut head)?;
        head
    } else {
        loader.linear(config.d_hidden, config.vocab_size, Bias::Without, &vb.pp("lm_head"))?
    };
    if loader.purpose() == Purpose::Inference {
        head.pack()?;
    }
    if config.tied_embeddings && head.is_packed_in_full() {
        return Ok((TokenEmbeddings::OfHead, head));
    }
    let embeddings = match (loader.stored_rows(shape, &table_vb)?, table) {
        (Some(rows), _) => TokenEmbeddings::Stored(rows),
        (None, Some(table)) => TokenEmbeddings::Table(table),
        (None, None) => TokenEmbeddings::Table(table_vb.get(shape, "weight")?),
    };
    Ok((embeddings, head))
}
