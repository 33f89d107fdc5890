//! Placement of a model: devices and precisions of its language model and its vision encoder.

use candle_core::{DType, Device};

use crate::device::DTypeSpec;
use crate::error::Error;
use crate::kernels;
use crate::kernels::kv::{KvConfig, KvGeometry};
use crate::nn::QuantFormat;

/// Placement of the vision encoder: tower, connector and projector.
#[derive(Debug, Clone)]
pub struct VisionPlacement {
    /// Device.
    pub device: Device,
    /// Precision of activations.
    pub dtype: DType,
}

/// Placement of a model, and the formats of its weights and its cache.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Device of the language model, and of the vision encoder where the field `vision` is `None`.
    pub device: Device,
    /// Precision of activations.
    pub dtype: DType,
    /// Placement of the vision encoder, if it differs. Visual tokens are moved once, after the temporal strategy.
    pub vision: Option<VisionPlacement>,
    /// Quantization of the language model's linear layers.
    pub quantization: Option<QuantFormat>,
    /// Precision of stored keys and values.
    pub kv_dtype: DTypeSpec,
}

impl Placement {
    /// Returns the placement on the CPU, in f32.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32, vision: None, quantization: None, kv_dtype: DTypeSpec::Auto }
    }

    /// Returns the placement of the vision encoder.
    pub(super) fn vision(&self) -> VisionPlacement {
        let same = || VisionPlacement { device: self.device.clone(), dtype: self.dtype };
        self.vision.clone().unwrap_or_else(same)
    }

    /// Checks that a key-value store exists for the requested precision.
    ///
    /// # Errors
    /// [`Error`] when the device has no such store.
    pub(super) fn check(&self, geometry: KvGeometry) -> Result<(), Error> {
        let kernels = kernels::of(&self.device, self.dtype);
        let &Self { ref device, dtype: activations, quantization, kv_dtype: precision, .. } = self;
        let store = kernels.kv_store(&KvConfig { geometry, precision, activations, quantization, device });
        store.map_err(Error::compute("kv_dtype")).map(drop)
    }
}
