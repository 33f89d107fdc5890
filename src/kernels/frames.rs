//! Resampling tables of a [`FramePlan`] in device memory, for [`super::Kernels::prepare_frame`]. The plan itself is
//! computed in `image::plan`.

use candle_core::{DType, Device, Result, Tensor};

use crate::image::plan::{FramePlan, Taps};

/// Plan of the frames of one size with its tables on a device. Clones share the tables.
#[derive(Debug, Clone)]
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code, reason = "only a GPU's kernels read the tables"))]
pub struct DeviceFramePlan {
    /// Plan with the sizes and the tables of the host.
    pub(crate) plan: FramePlan,
    /// Resampling windows along rows.
    pub(crate) horizontal: DeviceTaps,
    /// Resampling windows along columns.
    pub(crate) vertical: DeviceTaps,
    /// Normalised value of each level of each channel: `(3, 256)`, f32.
    pub(crate) levels: Tensor,
}

/// Resampling windows along one axis, on a device.
#[derive(Debug, Clone)]
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code, reason = "only a GPU's kernels read the tables"))]
pub(crate) struct DeviceTaps {
    /// Start of each window: `(n_targets)`, u32.
    pub(crate) starts: Tensor,
    /// Weights `(n_targets, n_taps)`: the bits of signed 32-bit integers, as u32.
    pub(crate) weights: Tensor,
}

impl DeviceFramePlan {
    /// Copies the tables of a plan to a device.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(plan: FramePlan, device: &Device) -> Result<Self> {
        let upload = |taps: &Taps| {
            let bits: Vec<u32> = taps.weights.iter().map(|&weight| weight as u32).collect();
            Ok::<_, candle_core::Error>(DeviceTaps {
                starts: Tensor::from_slice(&taps.starts, taps.n_targets(), device)?,
                weights: Tensor::from_vec(bits, (taps.n_targets(), taps.n_taps), device)?,
            })
        };
        let levels = Tensor::from_slice(plan.levels.as_flattened(), (3, 256), device)?.to_dtype(DType::F32)?;
        Ok(Self { horizontal: upload(&plan.horizontal)?, vertical: upload(&plan.vertical)?, levels, plan })
    }
}
