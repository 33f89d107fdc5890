//! An NVIDIA GPU of this process: one explicit stream that all threads share, and a memory pool that keeps what is
//! freed.
//!
//! With one stream, operations run in the order in which they are issued, whichever thread issues them: a tensor that
//! was made by one stage may be read by the next without an event in between, and memory that is freed by one thread is
//! reused by later operations only. So the events by which cudarc orders several streams are switched off.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytesize::ByteSize;
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUmemPool_attribute as PoolAttribute, CUmemoryPool};
use candle_core::cuda_backend::kernels::{self, Module};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{Device, Result};
use crossbeam_channel::{RecvTimeoutError, bounded};

/// Time after which a user wonders.
const PATIENCE: Duration = Duration::from_secs(1);
/// A function of each of candle's modules that every model uses. To look one up loads its module.
const FUNCTIONS: [(&str, &Module); 9] = [
    ("affine_f32", &kernels::AFFINE),
    ("badd_f32", &kernels::BINARY),
    ("cast_f32_f16", &kernels::CAST),
    ("im2col_f32", &kernels::CONV),
    ("fill_u8", &kernels::FILL),
    ("is_u32_f32", &kernels::INDEXING),
    ("softmax_f32", &kernels::REDUCE),
    ("where_u8_f32", &kernels::TERNARY),
    ("usilu_f32", &kernels::UNARY),
];

/// A GPU, as the driver describes it.
#[derive(Debug, Clone)]
pub(super) struct Gpu {
    name: String,
    /// Compute capability, such as `90`.
    capability: String,
    memory: GpuMemory,
}

/// Memory of a GPU in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct GpuMemory {
    /// Left for new tensors.
    pub(super) free: u64,
    /// Of the card.
    total: u64,
    /// The most that tensors took at once.
    pub(super) peak: u64,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| ByteSize::b(bytes).display().iec();
        let GpuMemory { free, total, .. } = self.memory;
        write!(f, "{}, sm_{}, {} of {} free", self.name, self.capability, size(free), size(total))
    }
}

/// Opens an NVIDIA GPU, or returns the one that is open.
///
/// Candle's own default is a stream for each host thread, with no order between them: tensors that pass from stage to
/// stage would be a data race, and threads that end while others compute wait in the driver for good.
pub(super) fn open(ordinal: usize) -> Result<Device> {
    static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&ordinal) {
        return Ok(device.clone());
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: every operation and every allocation of this device is issued on its one stream.
    unsafe { cuda.disable_event_tracking() };
    // A GPU without memory pools is slower at allocations, and computes all the same.
    let _ = keep_freed_memory(cuda);
    open.insert(ordinal, device.clone());
    Ok(device)
}

/// Describes a GPU.
pub(super) fn describe(device: &CudaDevice) -> Result<Gpu> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let (major, minor) = context.compute_capability().w()?;
    Ok(Gpu { name: context.name().w()?, capability: format!("{major}{minor}"), memory: memory(device)? })
}

/// Memory of a GPU. What the pool holds and nobody uses is free; a GPU without pools holds nothing.
pub(super) fn memory(device: &CudaDevice) -> Result<GpuMemory> {
    let (free, total) = device.cuda_stream().context().mem_get_info().w()?;
    let pooled = |of| attribute(device, of).unwrap_or(0);
    let reserved = pooled(PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
    let used = pooled(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
    let peak = pooled(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH);
    Ok(GpuMemory { free: free as u64 + reserved.saturating_sub(used), total: total as u64, peak })
}

/// Waits for all operations, and gives memory that nobody uses back to the driver: pieces that are each too small for a
/// request may be a whole that is large enough.
pub(super) fn release_unused(device: &CudaDevice) -> Result<()> {
    device.cuda_stream().synchronize().w()?;
    // SAFETY: the pool is the device's default one, which is never destroyed.
    unsafe { sys::cuMemPoolTrimTo(pool(device)?, 0) }.result().w()
}

/// Loads candle's kernels. They are in an intermediate language (PTX), which the driver compiles for the card when a
/// module is loaded, and keeps on the disk: the first time on a machine takes many seconds, of which `on_wait` hears.
pub(super) fn load_kernels(device: &CudaDevice, on_wait: &dyn Fn(&str)) -> Result<()> {
    let gpu = describe(device)?;
    let (loaded, done) = bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (function, module) in FUNCTIONS {
                // A function that is missing is missed where it is used; the others are loaded all the same.
                let _ = device.get_or_load_func(function, module);
            }
            drop(loaded);
        });
        if done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            on_wait(&format!("compiling kernels for sm_{}, once on this machine: about 20 seconds", gpu.capability));
        }
    });
    Ok(())
}

/// Lets the pool keep memory that is freed. By default it goes back to the driver at every synchronisation, and taking
/// it anew costs more than most operations.
fn keep_freed_memory(device: &CudaDevice) -> Result<()> {
    let (pool, mut threshold) = (pool(device)?, u64::MAX);
    let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is 64 bits wide, and the pool is the device's default one, which is never destroyed.
    unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()) }.result().w()
}

fn attribute(device: &CudaDevice, attribute: PoolAttribute) -> Result<u64> {
    let (pool, mut value) = (pool(device)?, 0u64);
    // SAFETY: the attributes that are asked for are 64 bits wide, and the pool is never destroyed.
    unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast()) }.result().w()?;
    Ok(value)
}

/// The pool that a device's allocations come from.
fn pool(device: &CudaDevice) -> Result<CUmemoryPool> {
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().w()?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: there is room for the handle that is written.
    unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, stream.context().cu_device()) }.result().w()?;
    Ok(pool)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use candle_core::{DType, Tensor};
    use std::io::Write as _;

    /// Held by tests that take much memory of the GPU: the others would see it come and go.
    pub(in crate::device) static LARGE: Mutex<()> = Mutex::new(());

    /// The first GPU, or `None`, said plainly, where no card answers.
    pub(in crate::device) fn card() -> Option<Device> {
        match open(0) {
            Ok(device) => Some(device),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "skipped: no card answers: {}", crate::device::first_line(&error));
                None
            }
        }
    }

    #[test]
    fn a_gpu_is_opened_once_with_a_stream_that_threads_share() {
        let Some(first) = card() else { return };
        let second = std::thread::spawn(|| open(0)).join().expect("a thread").expect("open already");
        assert!(first.same_device(&second));
        assert!(!first.as_cuda_device().expect("a GPU").is_event_tracking());
    }

    #[test]
    fn a_thousand_fresh_tensors_pass_from_thread_to_thread_unharmed() {
        let Some(device) = card() else { return };
        const LENGTH: usize = 1 << 16;
        let (made, next) = crossbeam_channel::bounded::<(usize, Tensor)>(4);
        let (doubled, last) = crossbeam_channel::bounded::<(usize, Tensor)>(4);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..1000 {
                    // Made by operations, not by a copy that waits; memory of earlier ones is reused.
                    let tensor = Tensor::zeros(LENGTH, DType::F32, &device).and_then(|x| x.affine(1.0, i as f64));
                    made.send((i, tensor.expect("room"))).expect("the next stage listens");
                }
            });
            scope.spawn(move || {
                for (i, tensor) in next {
                    doubled.send((i, (tensor * 2.0).expect("room"))).expect("the last stage listens");
                }
            });
            for (i, tensor) in last {
                let values = tensor.to_vec1::<f32>().expect("it is there");
                assert!(values.iter().all(|&value| value == 2.0 * i as f32), "tensor {i}");
            }
        });
    }

    #[test]
    fn freed_memory_is_kept_and_counts_as_free() {
        let Some(device) = card() else { return };
        let _alone = LARGE.lock();
        let cuda = device.as_cuda_device().expect("a GPU");
        let before = memory(cuda).expect("the driver tells").free;
        drop(Tensor::zeros(64 << 20, DType::F32, &device).expect("256 MiB"));
        cuda.cuda_stream().synchronize().expect("it answers");
        let after = memory(cuda).expect("the driver tells").free;
        // Other tests take less meanwhile.
        assert!(before.abs_diff(after) < 192 << 20, "{before} {after}");
        release_unused(cuda).expect("it answers");
    }
}
