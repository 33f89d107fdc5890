//! Weights on disk: finding them, reading them, and telling exactly what does not fit.
//!
//! A [`Checkpoint`] is a directory's tensors, whatever their format; a [`Ledger`] turns it into
//! `candle_nn::VarBuilder`s for the parts of a model, and collects every missing, mis-shaped and unused
//! tensor, so that all are reported at once and by name.

mod checkpoint;
mod error;
mod fp8;
mod gguf;
mod gguf_types;
mod hub;
mod ledger;
mod rename;
mod rows;
mod source;
mod torch;
mod torch_legacy;

pub use checkpoint::Checkpoint;
pub use error::Problem;
pub use fp8::{Fp8Format, ScaleBlock, ScaleProduct};
pub use gguf::Gguf;
pub use hub::Hub;
pub use ledger::{Ledger, OnLoad};
pub use rename::Rename;
pub use rows::StoredRows;
