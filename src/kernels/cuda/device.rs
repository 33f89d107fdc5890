//! Executor of launches on a GPU, on candle's stream of the device.
//!
//! The kernels are embedded as fat binaries (`build.rs`). The first launch on a device loads all of them and looks up
//! every function, so that a missing kernel is reported at once. An error of loading is returned by every launch.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, LaunchConfig, PushKernelArg, result as driver, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Shape, Storage, Tensor};
use half::{bf16, f16};

use super::graph::CaptureStream;
use super::kernel_list::{SOURCES, kernel_names};
use super::launch::{self, Argument, Executor, Launch, MAX_SHARED_BYTES};
use super::recording::{self, Recording, Replay};
use crate::device::PinnedBuffer;
use crate::error::{self, Error};

include!(concat!(env!("OUT_DIR"), "/cuda_modules.rs"));

/// Number of upload buffers of a device, the maximum of copies in flight before the host waits for the first.
const UPLOAD_BUFFERS: usize = 8;

/// Ring of page-locked buffers for copies to the device.
#[derive(Debug, Default)]
struct UploadRing {
    buffers: [Option<PinnedBuffer>; UPLOAD_BUFFERS],
    next: usize,
}

/// Executor of launches on a GPU.
#[derive(Debug)]
pub(super) struct GpuExecutor {
    device: CudaDevice,
    uploads: Mutex<UploadRing>,
    /// Functions by name, loaded by the first launch.
    functions: OnceLock<error::Result<HashMap<String, CudaFunction>>>,
    /// Stream of graph captures; `None` before the first capture.
    capture: Mutex<Option<CaptureStream>>,
}

impl GpuExecutor {
    /// Creates an executor; kernels are loaded by its first launch.
    pub(super) fn new(device: &CudaDevice) -> Self {
        Self {
            device: device.clone(),
            uploads: Mutex::default(),
            functions: OnceLock::new(),
            capture: Mutex::new(None),
        }
    }

    /// Returns a kernel by its full name.
    fn function(&self, name: &str) -> Result<&CudaFunction> {
        match self.functions.get_or_init(|| load(&self.device)) {
            Ok(functions) => {
                functions.get(name).ok_or_else(|| candle_core::Error::msg(format!("unknown kernel `{name}`")))
            }
            Err(error) => Err(error.clone().into()),
        }
    }

    /// Fills memory with NaN while a thread records. Recorded operations have not run yet: an operation that runs
    /// immediately would read reused memory with the values of the previous step, and its result could agree with the
    /// replay's.
    fn fill_with_nan(&self, storage: &CudaStorage, n_bytes: usize) -> Result<()> {
        if n_bytes == 0 {
            return Ok(());
        }
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        // SAFETY: the memory was just allocated with `n_bytes` bytes, on the same stream.
        unsafe { driver::memset_d8_async(address(storage)?, 0xff, n_bytes, stream.cu_stream()) }.w()
    }

    /// Queues a launch on a stream.
    fn launch_on(&self, stream: &CudaStream, launch: &Launch<'_>) -> Result<()> {
        let name = launch.name();
        let function = self.function(&name)?;
        let geometry = launch.geometry();
        let [x, y, z] = geometry.grid.map(|blocks| blocks as u32);
        let mut builder = stream.launch_builder(function);
        for argument in launch.arguments() {
            match argument {
                Argument::Address(x) => builder.arg(x),
                Argument::U32(x) => builder.arg(x),
                Argument::F32(x) => builder.arg(x),
            };
        }
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (geometry.threads as u32, 1, 1),
            shared_mem_bytes: geometry.shared_bytes as u32,
        };
        // SAFETY: `Launch` has checked element types, contiguity and geometry, and its Rust file the shapes. Its
        // tensors live until it is queued, and their memory is freed in the order of the same stream.
        let launched = unsafe { builder.launch(config) };
        launched.map_err(|error| candle_core::Error::msg(format!("{name}: {error}")))?;
        Ok(())
    }
}

/// Loads all functions of all modules, by name.
fn load(device: &CudaDevice) -> error::Result<HashMap<String, CudaFunction>> {
    let stream = device.cuda_stream();
    let mut functions = HashMap::new();
    for source in SOURCES {
        let Some((_, binary)) = MODULES.iter().find(|(file, _)| *file == source.file) else {
            return Err(Error::invalid("missing in this build").about(format!("{}.cu", source.file)));
        };
        let module = stream.context().load_module(Ptx::from_binary(binary.to_vec())).map_err(|error| {
            let error = Error::invalid(format!("kernels cannot be loaded: {error}")).with_hint(
                "a GPU of compute capability 8.0 or later with a driver as new as the CUDA toolkit of this build, or a \
                 build with CUDA_COMPUTE_CAP set to the GPU's",
            );
            error.about(format!("{}.cu", source.file))
        })?;
        for name in kernel_names(source) {
            let function = module
                .load_function(&name)
                .map_err(|error| Error::invalid(format!("{}.cu: {error}", source.file)).about(name.clone()))?;
            // A GPU with less shared memory rejects the launches that need more.
            let _ = function.set_attribute(
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                MAX_SHARED_BYTES as i32,
            );
            functions.insert(name, function);
        }
    }
    Ok(functions)
}

impl Executor for GpuExecutor {
    fn execute(&self, launch: &Launch<'_>) -> Result<()> {
        self.launch_on(&self.device.cuda_stream(), launch)
    }

    fn empty(&self, shape: Shape, dtype: DType) -> Result<Tensor> {
        let (device, n) = (&self.device, shape.elem_count());
        // SAFETY: the contract of `Executor::empty`: the caller's launch writes every element before one is read.
        let slice = unsafe {
            match dtype {
                DType::F32 => CudaStorageSlice::F32(device.alloc::<f32>(n)?),
                DType::F16 => CudaStorageSlice::F16(device.alloc::<f16>(n)?),
                DType::BF16 => CudaStorageSlice::BF16(device.alloc::<bf16>(n)?),
                DType::U32 => CudaStorageSlice::U32(device.alloc::<u32>(n)?),
                DType::U8 => CudaStorageSlice::U8(device.alloc::<u8>(n)?),
                _ => candle_core::bail!("kernels: unsupported element type {dtype:?}"),
            }
        };
        let storage = CudaStorage { slice, device: device.clone() };
        if recording::is_recording() {
            self.fill_with_nan(&storage, n * dtype.size_in_bytes())?;
        }
        let tensor = Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false);
        recording::keep(&tensor);
        Ok(tensor)
    }

    fn compile(&self, recording: Recording) -> Result<Box<dyn Replay>> {
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        let capture = match &mut *capture {
            Some(capture) => capture,
            empty => empty.insert(CaptureStream::new(&self.device)?),
        };
        Ok(Box::new(capture.capture(recording, |stream, launch| self.launch_on(stream, launch))?))
    }

    fn upload(&self, bytes: &[u8]) -> Result<Tensor> {
        let n = bytes.len();
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let UploadRing { buffers, next } = &mut *uploads;
        let buffer = &mut buffers[*next];
        *next = (*next + 1) % UPLOAD_BUFFERS;
        // A buffer of more than twice the size is replaced.
        let buffer = match buffer.take().filter(|buffer| (n..=2 * n).contains(&buffer.len())) {
            Some(kept) => buffer.insert(kept),
            None => buffer.insert(PinnedBuffer::new(&self.device.cuda_stream(), n)?),
        };
        let tensor = self.empty(Shape::from(n), DType::U8)?;
        let stream = self.device.cuda_stream();
        // SAFETY: the tensor has `n` bytes, and its memory is freed in the stream's order, behind the copy.
        unsafe { buffer.copy(bytes, launch::address(&tensor)?, &stream) }?;
        Ok(tensor)
    }

    fn has_tensor_cores(&self) -> bool {
        let capability = self.device.cuda_stream().context().compute_capability();
        capability.is_ok_and(|(major, _)| major >= 8)
    }
}

/// Returns the address of a storage's first element.
pub(super) fn address(storage: &CudaStorage) -> Result<u64> {
    let stream = storage.device.cuda_stream();
    // The guards of `device_ptr` are dropped: their events are not needed, because one stream orders all operations.
    let address = match &storage.slice {
        CudaStorageSlice::U8(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::U32(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::F32(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::F16(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::BF16(x) => x.device_ptr(&stream).0,
        _ => candle_core::bail!("kernels: unsupported element type"),
    };
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSpec;
    use crate::kernels::cuda::tests::report_skipped;

    #[test]
    fn uploads_queued_behind_slow_operations_are_intact() {
        let device = match DeviceSpec::Cuda(0).open() {
            Ok(device) => device,
            Err(error) => return report_skipped(&format!("uploads to a GPU: {error}")),
        };
        let executor = GpuExecutor::new(device.as_cuda_device().expect("a GPU"));
        let mut slow = Tensor::zeros((4096, 4096), DType::F32, &device).expect("64 MiB");
        for _ in 0..100 {
            slow = slow.matmul(&slow).expect("64 MiB");
        }
        // More uploads than buffers; every fifth has another size, which replaces its buffer.
        let frame = |i: usize| {
            let n = if i % 5 == 4 { 3 << 20 } else { 1 << 20 };
            (0..n).map(|at: usize| (at % 251 + 11 * i) as u8).collect::<Vec<u8>>()
        };
        let uploaded: Vec<Tensor> = (0..20).map(|i| executor.upload(&frame(i)).expect("memory")).collect();
        for (i, found) in uploaded.iter().enumerate() {
            assert!(found.to_vec1::<u8>().expect("bytes") == frame(i), "frame {i}");
        }
    }
}
