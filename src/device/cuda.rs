//! NVIDIA GPUs of this process: one explicit stream per GPU, shared by all threads, and a memory pool that retains
//! freed memory.
//!
//! On a single stream, operations run in the order of issue, whichever thread issues them: a stage may read a tensor of
//! the previous stage without an event in between, and freed memory is reused by later operations only. The events by
//! which cudarc orders several streams are therefore switched off.

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

/// Time of loading kernels after which the user is informed.
const NOTICE_AFTER: Duration = Duration::from_secs(1);
/// One function of each of candle's modules that every model uses. Looking up a function loads its module.
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

/// Description of a GPU by the driver.
#[derive(Debug, Clone)]
pub(super) struct Gpu {
    name: String,
    /// Compute capability without the point, such as `90`.
    capability: String,
    memory: GpuMemory,
}

/// Memory of a GPU in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct GpuMemory {
    /// Free for new tensors.
    pub(super) free: u64,
    /// Total of the card.
    total: u64,
    /// Peak of all tensors.
    pub(super) peak: u64,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| ByteSize::b(bytes).display().iec();
        let GpuMemory { free, total, .. } = self.memory;
        write!(f, "{}, sm_{}, {} of {} free", self.name, self.capability, size(free), size(total))
    }
}

/// Opens an NVIDIA GPU, or returns the device that is already open.
///
/// Candle's default is a stream for each host thread, without an order between them: tensors that pass from stage to
/// stage would be a data race, and threads that end while others compute deadlock in the driver.
pub(super) fn open(ordinal: usize) -> Result<Device> {
    static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&ordinal) {
        return Ok(device.clone());
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: all operations and allocations of this device are issued on its only stream, so no event is needed to
    // order them.
    unsafe { cuda.disable_event_tracking() };
    // Without memory pools allocations are slower, and otherwise work.
    let _ = retain_freed_memory(cuda);
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

/// Returns the memory of a GPU. Unused memory of the pool counts as free.
pub(super) fn memory(device: &CudaDevice) -> Result<GpuMemory> {
    let (free, total) = device.cuda_stream().context().mem_get_info().w()?;
    let pooled = |name| attribute(device, name).unwrap_or(0);
    let reserved = pooled(PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
    let used = pooled(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
    let peak = pooled(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH);
    Ok(GpuMemory { free: free as u64 + reserved.saturating_sub(used), total: total as u64, peak })
}

/// Waits for all operations and returns unused memory of the pool to the driver, which can merge fragments to serve a
/// larger allocation.
pub(super) fn release_unused(device: &CudaDevice) -> Result<()> {
    device.cuda_stream().synchronize().w()?;
    // SAFETY: the pool is the device's default pool, which is never destroyed.
    unsafe { sys::cuMemPoolTrimTo(pool(device)?, 0) }.result().w()
}

/// Loads candle's kernels. They are PTX, which the driver compiles for the card when a module is loaded and caches on
/// disk: the first load on a machine takes many seconds, and `on_wait` is called with a message.
pub(super) fn load_kernels(device: &CudaDevice, on_wait: &dyn Fn(&str)) -> Result<()> {
    let gpu = describe(device)?;
    let (loaded, done) = bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (function, module) in FUNCTIONS {
                // A missing function is reported by its first launch; the other modules are still loaded.
                let _ = device.get_or_load_func(function, module);
            }
            drop(loaded);
        });
        if done.recv_timeout(NOTICE_AFTER) == Err(RecvTimeoutError::Timeout) {
            on_wait(&format!("compiling kernels for sm_{}, once on this machine: about 20 seconds", gpu.capability));
        }
    });
    Ok(())
}

/// Makes the pool retain freed memory. By default the memory returns to the driver at every synchronisation, and
/// allocating it again costs more than most operations.
fn retain_freed_memory(device: &CudaDevice) -> Result<()> {
    let (pool, mut threshold) = (pool(device)?, u64::MAX);
    let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is 64 bits wide, and the pool is the device's default pool, which is never destroyed.
    unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()) }.result().w()
}

/// Returns a 64-bit attribute of the memory pool.
fn attribute(device: &CudaDevice, attribute: PoolAttribute) -> Result<u64> {
    let (pool, mut value) = (pool(device)?, 0u64);
    // SAFETY: all attributes that `memory` queries are 64 bits wide, and the default pool is never destroyed.
    unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast()) }.result().w()?;
    Ok(value)
}

/// Returns the memory pool of a device's allocations.
fn pool(device: &CudaDevice) -> Result<CUmemoryPool> {
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().w()?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: the call writes one handle to `pool`, a live local variable.
    unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, stream.context().cu_device()) }.result().w()?;
    Ok(pool)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use candle_core::{DType, Tensor};
    use std::io::Write as _;

    /// Lock of tests that allocate much GPU memory or measure it.
    pub(in crate::device) static LARGE: Mutex<()> = Mutex::new(());

    /// Opens the first GPU; prints a message and returns `None` where that fails.
    pub(in crate::device) fn card() -> Option<Device> {
        match open(0) {
            Ok(device) => Some(device),
            Err(error) => {
                let _ =
                    writeln!(std::io::stderr(), "skipped: no GPU can be opened: {}", crate::device::first_line(&error));
                None
            }
        }
    }

    #[test]
    fn a_gpu_is_opened_once_and_its_stream_is_shared_by_threads() {
        let Some(first) = card() else { return };
        let second = std::thread::spawn(|| open(0)).join().expect("a thread").expect("open already");
        assert!(first.same_device(&second));
        assert!(!first.as_cuda_device().expect("a GPU").is_event_tracking());
    }

    #[test]
    fn a_thousand_tensors_pass_from_thread_to_thread_intact() {
        let Some(device) = card() else { return };
        const LENGTH: usize = 1 << 16;
        let (made, next) = crossbeam_channel::bounded::<(usize, Tensor)>(4);
        let (doubled, last) = crossbeam_channel::bounded::<(usize, Tensor)>(4);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..1000 {
                    // Created by operations rather than a copy that synchronises; memory of earlier tensors is reused.
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
                let values = tensor.to_vec1::<f32>().expect("a copy");
                assert!(values.iter().all(|&value| value == 2.0 * i as f32), "tensor {i}");
            }
        });
    }

    #[test]
    fn freed_memory_is_retained_and_counts_as_free() {
        let Some(device) = card() else { return };
        let _alone = LARGE.lock();
        let cuda = device.as_cuda_device().expect("a GPU");
        let before = memory(cuda).expect("the driver reports it").free;
        drop(Tensor::zeros(64 << 20, DType::F32, &device).expect("256 MiB"));
        cuda.cuda_stream().synchronize().expect("it synchronises");
        let after = memory(cuda).expect("the driver reports it").free;
        // Concurrent tests allocate less.
        assert!(before.abs_diff(after) < 192 << 20, "{before} {after}");
        release_unused(cuda).expect("it synchronises");
    }
}
