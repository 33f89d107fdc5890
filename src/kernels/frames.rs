//! Preparation of frames on a device: the tables of a [`FramePlan`] in its memory.

use candle_core::{DType, Device, Result, Tensor};

use crate::image::plan::{FramePlan, Taps};

/// The tables of frames of one size, on a device. Clones share them.
#[derive(Debug, Clone)]
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code, reason = "only a GPU's kernels read the tables"))]
pub struct DeviceFramePlan {
    /// The sizes.
    pub(crate) plan: FramePlan,
    pub(crate) horizontal: DeviceTaps,
    pub(crate) vertical: DeviceTaps,
    /// `(3, 256)`, f32.
    pub(crate) levels: Tensor,
}

/// The windows along one side, on a device.
#[derive(Debug, Clone)]
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code, reason = "only a GPU's kernels read the tables"))]
pub(crate) struct DeviceTaps {
    /// `(n_targets)`.
    pub(crate) starts: Tensor,
    /// `(n_targets, n_taps)`: the bits of signed 32-bit integers.
    pub(crate) weights: Tensor,
}

impl DeviceFramePlan {
    /// Copies the tables of a plan to a device.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(plan: FramePlan, device: &Device) -> Result<Self> {
        let place = |taps: &Taps| {
            let bits: Vec<u32> = taps.weights.iter().map(|&weight| weight as u32).collect();
            Ok::<_, candle_core::Error>(DeviceTaps {
                starts: Tensor::from_slice(&taps.starts, taps.n_targets(), device)?,
                weights: Tensor::from_vec(bits, (taps.n_targets(), taps.n_taps), device)?,
            })
        };
        let levels = Tensor::from_slice(plan.levels.as_flattened(), (3, 256), device)?.to_dtype(DType::F32)?;
        Ok(Self { horizontal: place(&plan.horizontal)?, vertical: place(&plan.vertical)?, levels, plan })
    }
}
