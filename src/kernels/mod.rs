//! Device-specific computation behind one seam: the networks of layer 2 call kernels and never ask which device they run on.

mod candle_pages;
pub mod cpu;
pub mod kv;

use candle_core::{DType, Device, Result};

use kv::{KvGeometry, KvStore};

/// An empty key-value store for a language model.
///
/// # Errors
/// When the geometry's heads are not shared evenly.
pub fn kv_store(geometry: KvGeometry, dtype: DType, device: &Device) -> Result<Box<dyn KvStore>> {
    Ok(match (device, dtype) {
        (Device::Cpu, DType::F32) => Box::new(cpu::kv_pages::CpuPages::new(geometry)?),
        _ => Box::new(candle_pages::CandlePages::new(geometry, dtype, device)?),
    })
}
