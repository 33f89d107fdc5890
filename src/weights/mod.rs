//! Weights on disk: the search for a model's directory, its tensors, and the errors of tensors that do not fit.
//!
//! A [`Hub`] finds the directory of a model's name. A [`Checkpoint`] is the tensors of a directory (safetensors,
//! PyTorch) or of a GGUF file. A [`Ledger`] makes `candle_nn::VarBuilder`s of it for the parts of a model, and collects
//! every missing, mis-shaped and unused tensor, so that all are reported at once and by name. Nothing here knows an
//! architecture: [`crate::vlm`] asks for tensors by name and shape.

mod checkpoint;
mod error;
mod fp8;
mod gguf;
mod gguf_types;
mod hub;
mod hub_id;
mod ledger;
mod rename;
mod rows;
mod safetensors_file;
mod source;
mod torch;
mod torch_legacy;

pub use checkpoint::Checkpoint;
pub(crate) use error::TensorProblem;
pub use fp8::{Fp8Format, ScaleBlock, ScaleProduct};
pub use gguf::Gguf;
pub use hub::{DownloadProgress, Hub};
pub use ledger::Ledger;
pub(crate) use ledger::OnLoad;
pub use rename::Rename;
pub use rows::StoredRows;
pub(crate) use source::{weight_file_names, weight_paths};
