//! Uploads of weights to an NVIDIA GPU by way of page-locked buffers.
//!
//! A copy from pageable memory goes through a buffer of the driver, one thread at a time. Here each loading thread fills
//! buffers of its own, and the bus copies from them meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Shape, Storage, Tensor};
use half::{bf16, f16};

use super::pinned::PinnedBuffer;

/// Bytes of a buffer.
const BUFFER: usize = 8 << 20;
/// Buffers of each thread: one is filled while the other is copied.
const BUFFERS_OF_THREAD: usize = 2;
/// Most buffers of a GPU: 256 MiB, which keep a bus busy.
const MAX_BUFFERS: usize = 32;
/// Bytes below which a copy of candle's is as fast.
const SMALL: usize = 64 << 10;

/// Buffers of each GPU that are not being filled; copies from the first ones were queued first.
static IDLE: Mutex<BTreeMap<usize, Idle>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct Idle {
    buffers: VecDeque<PinnedBuffer>,
    /// Buffers that were made, with those being filled.
    n_made: usize,
}

/// Returns a tensor of these bytes on a GPU: `None` for small ones, and for precisions that weights do not have.
///
/// # Errors
/// When the GPU has no room, or `bytes` are not those of the shape.
pub(super) fn upload(device: &CudaDevice, bytes: &[u8], dtype: DType, shape: &Shape) -> Result<Option<Tensor>> {
    let n = shape.elem_count();
    if bytes.len() < SMALL {
        return Ok(None);
    }
    if bytes.len() != n * dtype.size_in_bytes() {
        candle_core::bail!("{} bytes for {n} elements of {}", bytes.len(), dtype.as_str());
    }
    let stream = device.cuda_stream();
    // SAFETY: the copies below write every element, in the stream's order.
    let slice = unsafe {
        match dtype {
            DType::F32 => CudaStorageSlice::F32(device.alloc::<f32>(n)?),
            DType::F16 => CudaStorageSlice::F16(device.alloc::<f16>(n)?),
            DType::BF16 => CudaStorageSlice::BF16(device.alloc::<bf16>(n)?),
            _ => return Ok(None),
        }
    };
    let address = match &slice {
        CudaStorageSlice::F32(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::F16(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::BF16(x) => x.device_ptr(&stream).0,
        _ => return Ok(None),
    };
    for (i, part) in bytes.chunks(BUFFER).enumerate() {
        let mut buffer = take(&stream)?;
        // SAFETY: the part is within the new memory, which is freed in the stream's order, behind the copy.
        let copied = unsafe { buffer.copy(part, address + (i * BUFFER) as u64, &stream) };
        idle().entry(stream.context().ordinal()).or_default().buffers.push_back(buffer);
        copied?;
    }
    let storage = Storage::Cuda(CudaStorage { slice, device: device.clone() });
    Ok(Some(Tensor::from_storage(storage, shape.clone(), BackpropOp::none(), false)))
}

/// Frees the buffers of all GPUs: when the weights are loaded.
pub(super) fn release_buffers() {
    // Not within the lock: each waits for its last copy.
    let released = std::mem::take(&mut *idle());
    drop(released);
}

/// The buffer whose copy was queued first, or a new one.
fn take(stream: &Arc<CudaStream>) -> Result<PinnedBuffer> {
    let mut idle = idle();
    let of_device = idle.entry(stream.context().ordinal()).or_default();
    let is_full = of_device.n_made >= MAX_BUFFERS.min(BUFFERS_OF_THREAD * rayon::current_num_threads());
    if is_full && let Some(buffer) = of_device.buffers.pop_front() {
        return Ok(buffer);
    }
    of_device.n_made += 1;
    drop(idle);
    PinnedBuffer::new(stream, BUFFER)
}

fn idle() -> MutexGuard<'static, BTreeMap<usize, Idle>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::tests::{LARGE, card};
    use candle_core::Device;

    #[test]
    fn weights_arrive_whole_from_many_threads() {
        let Some(device) = card() else { return };
        let _alone = LARGE.lock();
        let cuda = device.as_cuda_device().expect("a GPU");
        // More bytes than all buffers hold, in pieces that do not divide them.
        let weights: Vec<Vec<f32>> =
            (0..24).map(|i| (0..(3 << 20) + i).map(|j| (i * 7 + j) as f32).collect()).collect();
        let uploaded: Vec<Tensor> = std::thread::scope(|scope| {
            let upload = |values: &Vec<f32>| {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                upload(cuda, &bytes, DType::F32, &Shape::from(values.len())).expect("room").expect("large")
            };
            let threads: Vec<_> = weights.iter().map(|values| scope.spawn(move || upload(values))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
        });
        for (values, tensor) in weights.iter().zip(&uploaded) {
            let found = tensor.to_device(&Device::Cpu).and_then(|x| x.to_vec1::<f32>()).expect("it is there");
            assert!(found == *values);
        }
        upload(cuda, &[0; 1 << 20], DType::F32, &Shape::from(3)).expect_err("another shape");
        drop(uploaded);
        release_buffers();
    }
}
