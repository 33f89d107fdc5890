//! CUDA graphs of recorded operations.
//!
//! A graph is captured on a stream of its own, which nothing else uses: work that other threads launch on the device's
//! stream meanwhile cannot get into it. It is replayed on the device's stream, in the order of everything else. No
//! memory is allocated within a graph: the recording holds the tensors, and the products have a workspace that stays.

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

/// Bytes that cuBLAS may use for a product: what it takes by itself on compute capability 9.0.
const WORKSPACE: usize = 32 << 20;

/// A stream that graphs are captured on.
pub(super) struct CaptureStream {
    stream: Arc<CudaStream>,
    /// The device's stream.
    main: Arc<CudaStream>,
    products: CudaBlas,
    /// For the products, as long as their graphs live: the stream is never dropped.
    workspace: CudaSlice<u8>,
}

impl fmt::Debug for CaptureStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureStream").finish_non_exhaustive()
    }
}

impl CaptureStream {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let main = device.cuda_stream();
        let stream = main.context().new_stream().w()?;
        let products = CudaBlas::new(stream.clone()).w()?;
        let workspace = device.alloc_zeros::<u8>(WORKSPACE)?;
        main.synchronize().w()?;
        Ok(Self { stream, main, products, workspace })
    }

    /// Puts the products on a stream. Their workspace is set each time, because a new stream resets it.
    fn multiply_on(&self, stream: &CudaStream) -> Result<()> {
        let (handle, (at, _)) = (*self.products.handle(), self.workspace.device_ptr(&self.main));
        // SAFETY: the stream and the memory live as long as the handle. The memory is used in the order of the device's
        // stream: by products that run on it at once, and by graphs, which are replayed on it.
        unsafe {
            cublas::result::set_stream(handle, stream.cu_stream().cast()).w()?;
            blas::cublasSetWorkspace_v2(handle, at as *mut c_void, WORKSPACE).result().w()
        }
    }

    /// Captures a recording, whose launches `launch` puts on a stream.
    pub(super) fn graph(
        &self,
        recording: Recording,
        launch: impl Fn(&CudaStream, &Launch<'_>) -> Result<()>,
    ) -> Result<GpuGraph> {
        // Once outside of a capture: whatever cuBLAS loads or allocates at a first call. The results are overwritten.
        // On the device's stream, in whose order their memory and the workspace are used.
        self.multiply_on(&self.main)?;
        for operation in &recording.operations {
            if let Operation::Gemm(product) = operation {
                self.multiply(product)?;
            }
        }
        self.main.synchronize().w()?;
        self.multiply_on(&self.stream)?;
        self.stream.begin_capture(cuda::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).w()?;
        let listed = recording.operations.iter().try_for_each(|operation| match operation {
            Operation::Launch(of) => launch(&self.stream, of),
            Operation::Gemm(product) => self.multiply(product),
        });
        // In any case: a stream that goes on capturing is of no use any more.
        let graph = self.stream.end_capture(cuda::CUgraphInstantiate_flags(0)).w();
        listed?;
        let Some(graph) = graph? else { candle_core::bail!("an empty CUDA graph") };
        Ok(GpuGraph { graph, main: self.main.clone(), _recording: recording })
    }

    /// Queues `y = a b`, as candle's products compute it: accumulated in f32.
    fn multiply(&self, product: &RecordedGemm) -> Result<()> {
        use blas::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        let RecordedGemm { a, b, y } = product;
        let ((m, k), (_, n)) = (a.dims2()?, b.dims2()?);
        // LinearLoader of cuBLAS are column by column: it computes the transpose of y from those of b and a.
        let (transposed, distance) = if b.is_contiguous() { (CUBLAS_OP_N, n) } else { (CUBLAS_OP_T, k) };
        let dtype = match y.dtype() {
            DType::F32 => blas::cudaDataType_t::CUDA_R_32F,
            DType::F16 => blas::cudaDataType_t::CUDA_R_16F,
            DType::BF16 => blas::cudaDataType_t::CUDA_R_16BF,
            other => candle_core::bail!("products of {other:?} are not recorded"),
        };
        let [m, n, k, distance] = [int(m)?, int(n)?, int(k)?, int(distance)?];
        let (one, zero) = (1f32, 0f32);
        let [a, b, y] = [address(a)?, address(b)?, address(y)?];
        // SAFETY: the recording holds the tensors; their shapes and strides were checked when it was made.
        let queued = unsafe {
            cublas::result::gemm_strided_batched_ex(
                *self.products.handle(),
                transposed,
                CUBLAS_OP_N,
                n,
                m,
                k,
                (&raw const one).cast(),
                b as *const c_void,
                dtype,
                distance,
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

fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| candle_core::Error::msg(format!("a matrix of {n} rows or columns is too large")))
}

/// A graph with the tensors that its operations use.
pub(super) struct GpuGraph {
    graph: CudaGraph,
    main: Arc<CudaStream>,
    _recording: Recording,
}

// SAFETY: handles of the driver, which any one thread at a time may use.
unsafe impl Send for GpuGraph {}

impl fmt::Debug for GpuGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuGraph").finish_non_exhaustive()
    }
}

impl Replay for GpuGraph {
    fn replay(&self) -> Result<()> {
        self.main.context().bind_to_thread().w()?;
        // SAFETY: the graph is instantiated and lives; its tensors' memory is given back in the order of this stream.
        unsafe { driver::graph::launch(self.graph.cu_graph_exec(), self.main.cu_stream()) }.w()
    }
}
