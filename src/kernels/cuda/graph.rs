//! CUDA graphs of recorded operations.
//!
//! A graph is captured on a dedicated stream, so that operations of other threads on the device's stream are not
//! captured. It is replayed on the device's stream, in the order of all other operations. A graph allocates no memory:
//! the recording owns the tensors, and matrix products use a permanent workspace.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{self, CudaBlas, sys as blas};
use candle_core::cuda_backend::cudarc::driver::{
    CudaGraph, CudaSlice, CudaStream, DevicePtr, result as driver, sys as cuda,
};
use candle_core::{CudaDevice, DType, Result};

use super::launch::{Launch, address};
use super::recording::{Operation, RecordedGemm, Recording, Replay};

/// Bytes of cuBLAS's workspace: its own default on compute capability 9.0.
const WORKSPACE: usize = 32 << 20;

/// Stream of graph captures.
pub(super) struct CaptureStream {
    stream: Arc<CudaStream>,
    /// Stream of the device.
    main: Arc<CudaStream>,
    cublas: CudaBlas,
    /// Workspace of the matrix products. It must outlive their graphs: this type is never dropped.
    workspace: CudaSlice<u8>,
}

impl fmt::Debug for CaptureStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureStream").finish_non_exhaustive()
    }
}

impl CaptureStream {
    /// Creates the stream, its cuBLAS handle and the workspace.
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let main = device.cuda_stream();
        let stream = main.context().new_stream().w()?;
        let cublas = CudaBlas::new(stream.clone()).w()?;
        let workspace = device.alloc_zeros::<u8>(WORKSPACE)?;
        main.synchronize().w()?;
        Ok(Self { stream, main, cublas, workspace })
    }

    /// Sets the stream of matrix products, and their workspace, which cuBLAS resets with the stream.
    fn set_gemm_stream(&self, stream: &CudaStream) -> Result<()> {
        let (handle, (workspace, _)) = (*self.cublas.handle(), self.workspace.device_ptr(&self.main));
        // SAFETY: `self` owns the stream, the handle and the workspace. The workspace is used in the order of the
        // device's stream only: by products that run on it, and by graphs, which are replayed on it.
        unsafe {
            cublas::result::set_stream(handle, stream.cu_stream().cast()).w()?;
            blas::cublasSetWorkspace_v2(handle, workspace as *mut c_void, WORKSPACE).result().w()
        }
    }

    /// Captures a recording as a graph. `launch` queues a kernel on a stream.
    pub(super) fn capture(
        &self,
        recording: Recording,
        launch: impl Fn(&CudaStream, &Launch<'_>) -> Result<()>,
    ) -> Result<GpuGraph> {
        // Warm-up outside of the capture, for modules and memory that cuBLAS loads on a first call. It runs on the
        // device's stream, which orders the use of the workspace and of the results, which replays overwrite.
        self.set_gemm_stream(&self.main)?;
        for operation in &recording.operations {
            if let Operation::Gemm(product) = operation {
                self.gemm(product)?;
            }
        }
        self.main.synchronize().w()?;
        self.set_gemm_stream(&self.stream)?;
        self.stream.begin_capture(cuda::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).w()?;
        let captured = recording.operations.iter().try_for_each(|operation| match operation {
            Operation::Launch(kernel) => launch(&self.stream, kernel),
            Operation::Gemm(product) => self.gemm(product),
        });
        // Also after an error: a stream that keeps capturing is unusable.
        let graph = self.stream.end_capture(cuda::CUgraphInstantiate_flags(0)).w();
        captured?;
        let Some(graph) = graph? else { candle_core::bail!("CUDA graph: no operations") };
        Ok(GpuGraph { graph, main: self.main.clone(), _recording: recording })
    }

    /// Queues `y = a b`, accumulated in f32 like candle's products.
    fn gemm(&self, product: &RecordedGemm) -> Result<()> {
        use blas::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        let RecordedGemm { a, b, y } = product;
        let ((m, k), (_, n)) = (a.dims2()?, b.dims2()?);
        // cuBLAS is column-major: it computes the transpose of y from the transposes of b and a.
        let (transposed, leading) = if b.is_contiguous() { (CUBLAS_OP_N, n) } else { (CUBLAS_OP_T, k) };
        let dtype = match y.dtype() {
            DType::F32 => blas::cudaDataType_t::CUDA_R_32F,
            DType::F16 => blas::cudaDataType_t::CUDA_R_16F,
            DType::BF16 => blas::cudaDataType_t::CUDA_R_16BF,
            other => candle_core::bail!("CUDA graph: unsupported matrix product in {other:?}"),
        };
        let [m, n, k, leading] = [int(m)?, int(n)?, int(k)?, int(leading)?];
        let (one, zero) = (1f32, 0f32);
        let [a, b, y] = [address(a)?, address(b)?, address(y)?];
        // SAFETY: the recording owns the tensors, and `recording::gemm` has checked their shapes and strides. The
        // scalars are read during the call (host pointer mode).
        let queued = unsafe {
            cublas::result::gemm_strided_batched_ex(
                *self.cublas.handle(),
                transposed,
                CUBLAS_OP_N,
                n,
                m,
                k,
                (&raw const one).cast(),
                b as *const c_void,
                dtype,
                leading,
                i64::from(n) * i64::from(k),
                a as *const c_void,
                dtype,
                k,
                i64::from(m) * i64::from(k),
                (&raw const zero).cast(),
                y as *mut c_void,
                dtype,
                n,
                i64::from(m) * i64::from(n),
                1,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        };
        queued.w()
    }
}

/// Converts a size to cuBLAS's type.
fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| candle_core::Error::msg(format!("matrix product: a side of {n}, over 31 bits")))
}

/// Instantiated graph with the tensors of its operations.
pub(super) struct GpuGraph {
    graph: CudaGraph,
    main: Arc<CudaStream>,
    _recording: Recording,
}

// SAFETY: the handles of a graph may be used by any thread, one at a time, and `CudaGraph` is never shared between
// threads without a lock: `GpuGraph` is not `Sync`.
unsafe impl Send for GpuGraph {}

impl fmt::Debug for GpuGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuGraph").finish_non_exhaustive()
    }
}

impl Replay for GpuGraph {
    fn replay(&self) -> Result<()> {
        self.main.context().bind_to_thread().w()?;
        // SAFETY: the graph is instantiated and alive, and `self` owns the tensors, whose memory is freed in the order
        // of this stream.
        unsafe { driver::graph::launch(self.graph.cu_graph_exec(), self.main.cu_stream()) }.w()
    }
}
