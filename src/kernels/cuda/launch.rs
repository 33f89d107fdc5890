//! Launches of this crate's CUDA kernels: name, element type, geometry and arguments, checked before execution.
//!
//! The same [`Launch`] runs on a GPU (`device`) and, in tests, on the CPU (`emulation`); both implement [`Executor`],
//! so the tests cover the geometry and the arguments of the GPU.

use std::fmt::Debug;
use std::marker::PhantomData;

use candle_core::{DType, Result, Shape, Storage, Tensor};

use super::kernel_list::{ELEMENTS, SOURCES};
use super::recording::{self, Recording, Replay};

/// Number of threads of a warp.
pub(crate) const WARP: usize = 32;
/// Maximum number of threads of a block.
const MAX_THREADS: usize = 1024;
/// Maximum number of threads of a block that shares a row with other blocks.
const MAX_SHARED_ROW_THREADS: usize = 256;
/// Maximum bytes of shared memory of a launch. Every GPU of compute capability 8.0 or later supports this limit after
/// an opt-in (`CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`); the default limit is 48 KiB.
pub(crate) const MAX_SHARED_BYTES: usize = 72 << 10;
/// Bytes of the widest access of a thread.
const ACCESS_BYTES: usize = 16;

/// Executor of launches: a GPU, or its emulation on the CPU.
pub(crate) trait Executor: Send + Sync + Debug {
    /// Executes a launch after all earlier ones. The launch has been checked, and its grid is not empty.
    ///
    /// # Errors
    /// When the kernels cannot be loaded, or the device rejects the launch.
    fn execute(&self, launch: &Launch<'_>) -> Result<()>;

    /// Allocates a tensor with undefined elements, all of which a launch must write before they are read.
    ///
    /// # Errors
    /// When the device is out of memory.
    fn empty(&self, shape: Shape, dtype: DType) -> Result<Tensor>;

    /// Copies bytes from host memory to a tensor `(n)`, u8.
    ///
    /// # Errors
    /// When the device is out of memory.
    fn upload(&self, bytes: &[u8]) -> Result<Tensor>;

    /// Compiles a recording to a replay.
    ///
    /// # Errors
    /// When the device fails.
    fn compile(&self, recording: Recording) -> Result<Box<dyn Replay>>;

    /// Returns whether the device has tensor cores for f16 and bf16 (compute capability 8.0).
    fn has_tensor_cores(&self) -> bool;
}

impl dyn Executor + '_ {
    /// Allocates a tensor with the shape and type of `x`: see [`Executor::empty`].
    pub(crate) fn empty_like(&self, x: &Tensor) -> Result<Tensor> {
        self.empty(x.shape().clone(), x.dtype())
    }
}

/// Grid, block and shared memory of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaunchGeometry {
    /// Number of blocks along x, y and z.
    pub(crate) grid: [usize; 3],
    /// Number of threads of a block, a multiple of [`WARP`].
    pub(crate) threads: usize,
    /// Bytes of dynamic shared memory.
    pub(crate) shared_bytes: usize,
}

impl LaunchGeometry {
    /// Returns one block per row, with a thread for each 16 bytes of the row.
    pub(crate) fn of_rows(n_rows: usize, width: usize, dtype: DType) -> Self {
        let accesses = (width * dtype.size_in_bytes()).div_ceil(ACCESS_BYTES);
        let threads = accesses.next_multiple_of(WARP).clamp(WARP, MAX_THREADS);
        Self { grid: [n_rows, 1, 1], threads, shared_bytes: 0 }
    }

    /// Returns blocks of at most [`MAX_SHARED_ROW_THREADS`] threads that share rows, with a thread for each 16 bytes:
    /// for kernels without a reduction over a row.
    pub(crate) fn of_shared_rows(n_rows: usize, width: usize, dtype: DType) -> Self {
        let row = Self::of_rows(n_rows, width, dtype);
        let accesses = (width * dtype.size_in_bytes()).div_ceil(ACCESS_BYTES);
        let threads = row.threads.min(MAX_SHARED_ROW_THREADS);
        Self { grid: [n_rows, accesses.div_ceil(threads).min(u16::MAX as usize), 1], threads, ..row }
    }

    /// Checks the limits of a GPU for a kernel.
    fn check(&self, kernel: &str) -> Result<()> {
        let Self { grid: [x, y, z], threads, shared_bytes } = *self;
        if threads == 0 || threads > MAX_THREADS || !threads.is_multiple_of(WARP) {
            candle_core::bail!("{kernel}: {threads} threads, not a multiple of {WARP} up to {MAX_THREADS}");
        }
        if x > i32::MAX as usize || y > u16::MAX as usize || z > u16::MAX as usize {
            candle_core::bail!("{kernel}: a grid of {x} x {y} x {z} blocks, over the limit");
        }
        if shared_bytes > MAX_SHARED_BYTES {
            candle_core::bail!("{kernel}: {shared_bytes} bytes of shared memory, over {MAX_SHARED_BYTES}");
        }
        Ok(())
    }
}

/// Argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Argument {
    /// Device address of a tensor's first element; 0 for a null pointer.
    Address(u64),
    /// `uint32_t`.
    U32(u32),
    /// `float`.
    F32(f32),
}

/// Launch of a kernel: geometry, and arguments in the order of the parameters. Its tensors are borrowed until it is
/// executed.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    kernel: &'static str,
    element: DType,
    geometry: LaunchGeometry,
    arguments: Vec<Argument>,
    tensors: PhantomData<&'a Tensor>,
}

impl<'a> Launch<'a> {
    /// Creates a launch of a kernel for an element type.
    pub(crate) fn new(kernel: &'static str, element: DType, geometry: LaunchGeometry) -> Self {
        Self { kernel, element, geometry, arguments: Vec::new(), tensors: PhantomData }
    }

    /// Adds a contiguous tensor of the launch's element type. A tensor that the kernel writes must not be shared.
    ///
    /// # Errors
    /// When the tensor is not contiguous or has another element type.
    pub(crate) fn tensor(self, x: &'a Tensor) -> Result<Self> {
        let element = self.element;
        self.tensor_of(x, element)
    }

    /// Adds a tensor like [`Self::tensor`], or a null pointer for `None`.
    ///
    /// # Errors
    /// When the tensor is not contiguous or has another element type.
    pub(crate) fn optional(self, x: Option<&'a Tensor>) -> Result<Self> {
        match x {
            Some(x) => self.tensor(x),
            None => Ok(self.argument(Argument::Address(0))),
        }
    }

    /// Adds a contiguous tensor of a given element type.
    ///
    /// # Errors
    /// When the tensor is not contiguous or has another element type.
    pub(crate) fn tensor_of(self, x: &'a Tensor, dtype: DType) -> Result<Self> {
        if !x.is_contiguous() {
            candle_core::bail!("{}: tensor {:?}, not contiguous", self.kernel, x.dims());
        }
        self.rows_of(x, dtype)
    }

    /// Adds a tensor with contiguous rows at any stride: the kernel receives the address of the first row, and the
    /// stride by other arguments.
    ///
    /// # Errors
    /// When the elements of a row are not contiguous or have another type.
    pub(crate) fn rows(self, x: &'a Tensor) -> Result<Self> {
        let element = self.element;
        self.rows_of(x, element)
    }

    fn rows_of(self, x: &'a Tensor, dtype: DType) -> Result<Self> {
        if x.dtype() != dtype || x.dims().last().is_some_and(|&width| width > 1) && x.stride().last() != Some(&1) {
            candle_core::bail!(
                "{}: tensor {:?} in {:?}, not contiguous rows of {dtype:?}",
                self.kernel,
                x.dims(),
                x.dtype()
            );
        }
        let address = address(x)?;
        Ok(self.argument(Argument::Address(address)))
    }

    /// Adds a size, a count or an index.
    ///
    /// # Errors
    /// When the value does not fit 32 bits.
    pub(crate) fn size(self, n: usize) -> Result<Self> {
        let Ok(n) = u32::try_from(n) else { candle_core::bail!("{}: a size of {n}, over 32 bits", self.kernel) };
        Ok(self.argument(Argument::U32(n)))
    }

    /// Adds a floating-point scalar.
    pub(crate) fn float(self, x: f32) -> Self {
        self.argument(Argument::F32(x))
    }

    fn argument(mut self, argument: Argument) -> Self {
        self.arguments.push(argument);
        self
    }

    /// Executes the launch, or appends it to the recording of this thread. A launch with an empty grid does nothing.
    ///
    /// # Errors
    /// When the geometry exceeds the limits of a GPU, or the executor fails.
    pub(crate) fn run(self, executor: &dyn Executor) -> Result<()> {
        if self.geometry.grid.contains(&0) {
            return Ok(());
        }
        self.geometry.check(self.kernel)?;
        if recording::append(&self) {
            return Ok(());
        }
        executor.execute(&self)
    }

    /// Returns the launch without the borrow of its tensors, which the caller must keep alive by other means.
    pub(super) fn detached(&self) -> Launch<'static> {
        let Self { kernel, element, geometry, ref arguments, .. } = *self;
        Launch { kernel, element, geometry, arguments: arguments.clone(), tensors: PhantomData }
    }

    /// Returns the full name of the kernel.
    pub(crate) fn name(&self) -> String {
        let is_single = SOURCES.iter().any(|source| source.single.contains(&self.kernel));
        match ELEMENTS.iter().find(|(dtype, _)| *dtype == self.element) {
            Some((_, suffix)) if !is_single => format!("{}_{suffix}", self.kernel),
            _ => self.kernel.to_owned(),
        }
    }

    /// Returns the geometry.
    pub(crate) fn geometry(&self) -> LaunchGeometry {
        self.geometry
    }

    /// Returns the arguments in the order of the kernel's parameters.
    pub(crate) fn arguments(&self) -> &[Argument] {
        &self.arguments
    }
}

/// Returns the device address of a tensor's first element. The address is valid while the tensor lives.
pub(crate) fn address(x: &Tensor) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    let first = match &*storage {
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => super::device::address(storage)?,
        #[cfg(test)]
        Storage::Cpu(storage) => super::emulation::address(storage)?,
        _ => candle_core::bail!("kernels: a tensor of another device than the GPU"),
    };
    Ok(first + (layout.start_offset() * x.dtype().size_in_bytes()) as u64)
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
