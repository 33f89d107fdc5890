//! Device-specific computation behind one seam: the networks of layer 2 call kernels and never ask which device they run on.

pub(crate) mod argmax;
pub(crate) mod candle_pages;
pub mod cpu;
pub mod kv;

use candle_core::{D, DType, Device, Result, Tensor};

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

/// The index of the largest element of each row, the first of equal ones; of a row none where an element is NaN or its largest is
/// infinite. None at all where the rows are in memory, where a caller reads them with less work.
///
/// # Shapes
/// `(R, width)`, f32, to `R`.
///
/// # Errors
/// When candle fails.
pub fn argmax_rows(x: &Tensor) -> Result<Option<Vec<Option<u32>>>> {
    if x.device().is_cpu() {
        return Ok(None);
    }
    let ids = x.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let (largest, sums) = (x.max(D::Minus1)?.to_vec1::<f32>()?, x.sum(D::Minus1)?.to_vec1::<f32>()?);
    let is_good = |(largest, sum): (f32, f32)| !largest.is_infinite() && !largest.is_nan() && !sum.is_nan();
    Ok(Some(ids.into_iter().zip(largest.into_iter().zip(sums)).map(|(id, of)| is_good(of).then_some(id)).collect()))
}
