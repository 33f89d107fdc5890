//! Uploads of weights to an NVIDIA GPU through page-locked buffers.
//!
//! A copy from pageable memory goes through a buffer of the driver, one thread at a time. Here each loading thread
//! fills its own buffers while the bus copies from others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Shape, Storage, Tensor};
use half::{bf16, f16};

use super::pinned::PinnedBuffer;

/// Size of a buffer in bytes.
const BUFFER: usize = 8 << 20;
/// Buffers per thread: one is filled while the other is copied.
const BUFFERS_OF_THREAD: usize = 2;
/// Maximum number of buffers of a GPU: 256 MiB, enough to saturate the bus.
const MAX_BUFFERS: usize = 32;
/// Size in bytes below which candle's copy is as fast.
const SMALL: usize = 64 << 10;

/// Buffers of each GPU, by its ordinal.
static POOLS: Mutex<BTreeMap<usize, UploadPool>> = Mutex::new(BTreeMap::new());

/// Upload buffers of a GPU.
#[derive(Default)]
struct UploadPool {
    /// Buffers that no thread fills, in the order of their queued copies.
    idle: VecDeque<PinnedBuffer>,
    /// Number of allocated buffers, including those being filled.
    n_allocated: usize,
}

/// Copies a tensor's bytes to a GPU; `None` for small tensors, and for element types that weights do not have.
///
/// # Errors
/// When the GPU is out of memory, or the number of bytes does not match the shape.
pub(super) fn upload(device: &CudaDevice, bytes: &[u8], dtype: DType, shape: &Shape) -> Result<Option<Tensor>> {
    let n = shape.elem_count();
    if bytes.len() < SMALL {
        return Ok(None);
    }
    if bytes.len() != n * dtype.size_in_bytes() {
        candle_core::bail!("upload: {} bytes for {n} elements of {}", bytes.len(), dtype.as_str());
    }
    let stream = device.cuda_stream();
    // SAFETY: the copies below write every element before any later operation of the same stream reads one.
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
        let mut buffer = take_buffer(&stream)?;
        // SAFETY: the destination is within the new allocation, which is freed in the stream's order, behind the copy.
        let copied = unsafe { buffer.copy(part, address + (i * BUFFER) as u64, &stream) };
        pools().entry(stream.context().ordinal()).or_default().idle.push_back(buffer);
        copied?;
    }
    let storage = Storage::Cuda(CudaStorage { slice, device: device.clone() });
    Ok(Some(Tensor::from_storage(storage, shape.clone(), BackpropOp::none(), false)))
}

/// Frees the buffers of all GPUs. Called after the weights are loaded.
pub(super) fn release_buffers() {
    // Outside of the lock: dropping a buffer waits for its last copy.
    let released = std::mem::take(&mut *pools());
    drop(released);
}

/// Takes the idle buffer whose copy was queued first, or allocates one below the limit.
fn take_buffer(stream: &Arc<CudaStream>) -> Result<PinnedBuffer> {
    let mut pools = pools();
    let pool = pools.entry(stream.context().ordinal()).or_default();
    let is_full = pool.n_allocated >= MAX_BUFFERS.min(BUFFERS_OF_THREAD * rayon::current_num_threads());
    if is_full && let Some(buffer) = pool.idle.pop_front() {
        return Ok(buffer);
    }
    pool.n_allocated += 1;
    drop(pools);
    PinnedBuffer::new(stream, BUFFER)
}

fn pools() -> MutexGuard<'static, BTreeMap<usize, UploadPool>> {
    POOLS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::tests::{LARGE, card};
    use candle_core::Device;

    #[test]
    fn weights_uploaded_by_many_threads_are_complete() {
        let Some(device) = card() else { return };
        let _alone = LARGE.lock();
        let cuda = device.as_cuda_device().expect("a GPU");
        // More bytes than the capacity of all buffers, in sizes that are not multiples of a buffer's.
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
