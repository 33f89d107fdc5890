//! PyTorch files: a zip archive, or consecutive pickles as before PyTorch 1.6.

use std::collections::HashMap;
use std::path::Path;

use candle_core::pickle::{PthTensors, TensorInfo};
use candle_core::{Result, Tensor};

use super::torch_legacy::LegacyTorch;
use crate::error::Error;

/// An open file. Tensors are read on demand.
pub(super) enum TorchFile {
    Zip(PthTensors),
    Legacy(LegacyTorch),
}

impl TorchFile {
    /// Opens a file in the format that its first bytes show.
    ///
    /// # Errors
    /// When it cannot be read or is malformed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        match LegacyTorch::open(path)? {
            Some(file) => Ok(Self::Legacy(file)),
            None => Ok(Self::Zip(PthTensors::new(path, None)?)),
        }
    }

    /// Names, shapes and types of the tensors.
    pub(super) fn tensor_infos(&self) -> &HashMap<String, TensorInfo> {
        match self {
            Self::Zip(file) => file.tensor_infos(),
            Self::Legacy(file) => file.tensor_infos(),
        }
    }

    /// Reads one tensor, or returns `None` for an unknown name. Errors do not name the tensor.
    ///
    /// # Errors
    /// When its values cannot be read, or are strided: neither contiguous nor a transposed view of contiguous values.
    pub(super) fn get(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(info) = self.tensor_infos().get(name) else { return Ok(None) };
        if !info.layout.is_contiguous() && !info.layout.is_fortran_contiguous() {
            return Err(Error::invalid("its values are strided").with_hint("save it with `.contiguous()`").into());
        }
        match self {
            Self::Zip(file) => file.get(name),
            Self::Legacy(file) => file.get(name),
        }
    }
}
