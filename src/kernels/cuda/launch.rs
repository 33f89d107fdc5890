//! Launches of this crate's CUDA kernels: name, element type, geometry and arguments of one, checked before anything
//! runs. The same [`Launch`] runs on a GPU (`device`) and, in tests, on the CPU (`emulation`): both execute it as an
//! [`Executor`], so that what the tests prove is the geometry and the arguments that a GPU gets.

use std::fmt::Debug;
use std::marker::PhantomData;

use candle_core::{DType, Result, Shape, Storage, Tensor};

use super::recording::{self, Recording, Replay};

/// Threads of a warp.
pub(crate) const WARP: usize = 32;
/// Most threads of a block.
const MAX_THREADS: usize = 1024;
/// Most threads of a block that shares a row with others.
const SHARE: usize = 256;
/// Most bytes of shared memory of a launch: what every GPU of compute capability 8.0 or later grants where it is asked
/// to. Without being asked it grants 48 KiB.
pub(crate) const MAX_SHARED_BYTES: usize = 72 << 10;
/// Bytes of the widest access of a thread.
const ACCESS_BYTES: usize = 16;

/// The kernels of a source file.
pub(crate) struct KernelSource {
    /// Its name without `.cu`.
    pub(crate) file: &'static str,
    /// Kernels for each of [`ELEMENTS`], named `kernel_element`.
    pub(crate) per_element: &'static [&'static str],
    /// Kernels of elements of their own, under their full names.
    pub(crate) single: &'static [&'static str],
}

/// All kernels. A GPU looks each up once, when its first launch loads them.
pub(crate) const SOURCES: &[KernelSource] = &[
    KernelSource { file: "argmax", per_element: &["argmax_rows"], single: &[] },
    KernelSource { file: "attention", per_element: &["join_heads", "split_heads"], single: &[] },
    KernelSource { file: "elementwise", per_element: &["accumulate", "epilogue", "swiglu"], single: &[] },
    KernelSource { file: "gemv", per_element: &["gemv"], single: &[] },
    KernelSource { file: "norm", per_element: &["layer_norm", "rms_norm"], single: &[] },
    KernelSource {
        file: "paged_decode",
        per_element: &[
            "paged_decode_8_1_1",
            "paged_decode_8_1_2",
            "paged_decode_8_1_4",
            "paged_decode_8_1_8",
            "paged_decode_8_4_1",
            "paged_decode_2_1_2",
            "paged_decode_2_8_1",
            "paged_join",
        ],
        single: &[],
    },
    KernelSource { file: "paged_tiles", per_element: &[], single: &super::paged_decode::TILES },
    KernelSource {
        file: "pages",
        per_element: &["rope_store_1", "rope_store_4", "gather_pages", "place_heads"],
        single: &[],
    },
    KernelSource { file: "resize", per_element: &["resize_columns"], single: &["resize_rows"] },
    KernelSource { file: "rows", per_element: &["gather", "pool_grid", "row_cosines"], single: &[] },
    KernelSource { file: "softmax", per_element: &["masked_softmax"], single: &[] },
    KernelSource { file: "tiled_attention", per_element: &[], single: &super::tiled_attention::NAMES },
];

/// The element types that kernels exist for, with the ends of their names.
pub(crate) const ELEMENTS: [(DType, &str); 3] = [(DType::F32, "f32"), (DType::F16, "f16"), (DType::BF16, "bf16")];

/// Full names of the kernels of a source.
pub(crate) fn kernel_names(source: &KernelSource) -> Vec<String> {
    let of_each = |kernel: &&str| ELEMENTS.map(|(_, suffix)| format!("{kernel}_{suffix}"));
    let single = source.single.iter().map(|&kernel| kernel.to_owned());
    source.per_element.iter().flat_map(of_each).chain(single).collect()
}

/// Device that runs launches: a GPU, or the CPU in its place.
pub(crate) trait Executor: Send + Sync + Debug {
    /// Runs a launch after those before it. Its arguments have been checked, and none of its grid's sides is 0.
    ///
    /// # Errors
    /// When the kernels cannot be loaded, or the device refuses the launch.
    fn execute(&self, launch: &Launch<'_>) -> Result<()>;

    /// A new tensor whose elements are undefined: an output that a launch then writes as a whole.
    ///
    /// # Errors
    /// When the device has no memory left.
    fn empty(&self, shape: Shape, dtype: DType) -> Result<Tensor>;

    /// Copies bytes from the host's memory: `(n)`.
    ///
    /// # Errors
    /// When the device has no memory left.
    fn upload(&self, bytes: &[u8]) -> Result<Tensor>;

    /// Makes a recording replayable.
    ///
    /// # Errors
    /// When the device cannot.
    fn compile(&self, recording: Recording) -> Result<Box<dyn Replay>>;

    /// Whether the device multiplies small matrices of f16 and bf16 in one instruction (compute capability 8.0).
    fn has_tensor_cores(&self) -> bool;
}

impl dyn Executor + '_ {
    /// A new tensor like another: see [`Executor::empty`].
    pub(crate) fn empty_like(&self, x: &Tensor) -> Result<Tensor> {
        self.empty(x.shape().clone(), x.dtype())
    }
}

/// Blocks and threads of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaunchGeometry {
    /// Blocks along x, y and z.
    pub(crate) grid: [usize; 3],
    /// Threads of a block, along x: whole warps.
    pub(crate) threads: usize,
    /// Bytes of shared memory that the kernel does not declare itself.
    pub(crate) shared_bytes: usize,
}

impl LaunchGeometry {
    /// A block for each row, with a thread for each 16 bytes of it.
    pub(crate) fn of_rows(n_rows: usize, width: usize, dtype: DType) -> Self {
        let accesses = (width * dtype.size_in_bytes()).div_ceil(ACCESS_BYTES);
        let threads = accesses.next_multiple_of(WARP).clamp(WARP, MAX_THREADS);
        Self { grid: [n_rows, 1, 1], threads, shared_bytes: 0 }
    }

    /// Blocks of at most [`SHARE`] threads that share rows among them, with a thread for each 16 bytes: for kernels
    /// that reduce nothing over a row.
    pub(crate) fn of_shared_rows(n_rows: usize, width: usize, dtype: DType) -> Self {
        let row = Self::of_rows(n_rows, width, dtype);
        let accesses = (width * dtype.size_in_bytes()).div_ceil(ACCESS_BYTES);
        let threads = row.threads.min(SHARE);
        Self { grid: [n_rows, accesses.div_ceil(threads).min(u16::MAX as usize), 1], threads, ..row }
    }

    fn check(&self) -> std::result::Result<(), String> {
        let Self { grid: [x, y, z], threads, shared_bytes } = *self;
        if threads == 0 || threads > MAX_THREADS || !threads.is_multiple_of(WARP) {
            return Err(format!("{threads} threads are not whole warps of a block"));
        }
        if x > i32::MAX as usize || y > u16::MAX as usize || z > u16::MAX as usize {
            return Err(format!("a grid of {x} x {y} x {z} blocks is too large"));
        }
        if shared_bytes > MAX_SHARED_BYTES {
            return Err(format!("{shared_bytes} bytes of shared memory are more than {MAX_SHARED_BYTES}"));
        }
        Ok(())
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Argument {
    /// The address of a tensor's first element on its device; 0 for a null pointer.
    Address(u64),
    /// A `uint32_t`.
    U32(u32),
    /// A `float`.
    F32(f32),
}

/// A kernel with its geometry and its arguments, in the order of its parameters. Tensors stay borrowed until it runs.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    kernel: &'static str,
    element: DType,
    geometry: LaunchGeometry,
    arguments: Vec<Argument>,
    tensors: PhantomData<&'a Tensor>,
}

impl<'a> Launch<'a> {
    /// A launch of the kernel for elements of a type.
    pub(crate) fn new(kernel: &'static str, element: DType, geometry: LaunchGeometry) -> Self {
        Self { kernel, element, geometry, arguments: Vec::new(), tensors: PhantomData }
    }

    /// Adds a tensor of the launch's elements, which the kernel reads, or writes if nothing else reads it.
    ///
    /// # Errors
    /// When it is not contiguous or has other elements.
    pub(crate) fn tensor(self, x: &'a Tensor) -> Result<Self> {
        let element = self.element;
        self.tensor_of(x, element)
    }

    /// As [`Self::tensor`], or a null pointer.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub(crate) fn optional(self, x: Option<&'a Tensor>) -> Result<Self> {
        match x {
            Some(x) => self.tensor(x),
            None => Ok(self.argument(Argument::Address(0))),
        }
    }

    /// As [`Self::tensor`], of elements of another type than the launch's.
    ///
    /// # Errors
    /// When it is not contiguous or has other elements.
    pub(crate) fn tensor_of(self, x: &'a Tensor, dtype: DType) -> Result<Self> {
        if !x.is_contiguous() {
            candle_core::bail!("{}: a tensor of {:?} is not contiguous", self.kernel, x.dims());
        }
        self.rows_of(x, dtype)
    }

    /// As [`Self::tensor`], of rows which need not follow each other: the kernel gets the first one's address, and
    /// their distance by other arguments.
    ///
    /// # Errors
    /// When a row's elements do not follow each other, or have another type.
    pub(crate) fn rows(self, x: &'a Tensor) -> Result<Self> {
        let element = self.element;
        self.rows_of(x, element)
    }

    fn rows_of(self, x: &'a Tensor, dtype: DType) -> Result<Self> {
        if x.dtype() != dtype || x.dims().last().is_some_and(|&width| width > 1) && x.stride().last() != Some(&1) {
            candle_core::bail!(
                "{}: a tensor of {:?} in {:?} where rows of {dtype:?} are expected",
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
    /// When it does not fit 32 bits.
    pub(crate) fn size(self, n: usize) -> Result<Self> {
        let Ok(n) = u32::try_from(n) else { candle_core::bail!("{}: a size of {n} is too large", self.kernel) };
        Ok(self.argument(Argument::U32(n)))
    }

    /// Adds a factor or a bound.
    pub(crate) fn float(self, x: f32) -> Self {
        self.argument(Argument::F32(x))
    }

    fn argument(mut self, argument: Argument) -> Self {
        self.arguments.push(argument);
        self
    }

    /// Runs the launch, unless its grid is empty; lists it where this thread records.
    ///
    /// # Errors
    /// When the geometry is no device's, or as [`Executor::execute`].
    pub(crate) fn run(self, executor: &dyn Executor) -> Result<()> {
        if self.geometry.grid.contains(&0) {
            return Ok(());
        }
        self.geometry.check().map_err(|error| candle_core::Error::msg(format!("{}: {error}", self.kernel)))?;
        if recording::list(&self) {
            return Ok(());
        }
        executor.execute(&self)
    }

    /// The launch without a hold on its tensors, whose memory has to stay by other means.
    pub(super) fn detached(&self) -> Launch<'static> {
        let Self { kernel, element, geometry, ref arguments, .. } = *self;
        Launch { kernel, element, geometry, arguments: arguments.clone(), tensors: PhantomData }
    }

    /// Full name of the kernel.
    pub(crate) fn name(&self) -> String {
        let is_single = SOURCES.iter().any(|source| source.single.contains(&self.kernel));
        match ELEMENTS.iter().find(|(dtype, _)| *dtype == self.element) {
            Some((_, suffix)) if !is_single => format!("{}_{suffix}", self.kernel),
            _ => self.kernel.to_owned(),
        }
    }

    pub(crate) fn geometry(&self) -> LaunchGeometry {
        self.geometry
    }

    pub(crate) fn arguments(&self) -> &[Argument] {
        &self.arguments
    }
}

/// Address of a tensor's first element on its device, such as tables of a kernel hold.
pub(crate) fn address(x: &Tensor) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    let first = match &*storage {
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => super::device::address(storage)?,
        #[cfg(test)]
        Storage::Cpu(storage) => super::emulation::address(storage)?,
        _ => candle_core::bail!("a tensor of another device than a GPU's for its kernels"),
    };
    Ok(first + (layout.start_offset() * x.dtype().size_in_bytes()) as u64)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[derive(Debug)]
    struct Refusing;

    impl Executor for Refusing {
        fn execute(&self, launch: &Launch<'_>) -> Result<()> {
            candle_core::bail!("{} ran", launch.name())
        }

        fn empty(&self, _: Shape, _: DType) -> Result<Tensor> {
            candle_core::bail!("no memory")
        }

        fn upload(&self, _: &[u8]) -> Result<Tensor> {
            candle_core::bail!("no memory")
        }

        fn compile(&self, _: Recording) -> Result<Box<dyn Replay>> {
            candle_core::bail!("nothing is recorded")
        }

        fn has_tensor_cores(&self) -> bool {
            false
        }
    }

    #[test]
    fn every_source_file_is_listed() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels/cuda");
        let files = std::fs::read_dir(dir).expect("the sources").map(|entry| entry.expect("an entry").path());
        let mut files: Vec<String> = files
            .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
            .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
            .collect();
        files.sort();
        let mut listed: Vec<&str> = SOURCES.iter().map(|source| source.file).collect();
        listed.sort_unstable();
        assert_eq!(files, listed);
    }

    #[test]
    fn rows_have_a_thread_for_each_16_bytes_in_whole_warps() {
        let threads = |width, dtype| LaunchGeometry::of_rows(7, width, dtype).threads;
        assert_eq!(LaunchGeometry::of_rows(7, 1, DType::F32).grid, [7, 1, 1]);
        // 1,152 bf16 elements are 144 accesses of 8: 5 warps. f32: 288 accesses, 9 warps.
        assert_eq!([threads(1152, DType::BF16), threads(1152, DType::F32)], [160, 288]);
        assert_eq!([threads(1, DType::F16), threads(100_000, DType::F16)], [32, 1024]);
    }

    #[test]
    fn launches_that_no_device_takes_are_refused_before_they_run() {
        let x = Tensor::zeros((4, 6), DType::F32, &Device::Cpu).expect("small");
        let launch = |geometry| Launch::new("rms_norm", DType::F32, geometry);
        let row = LaunchGeometry::of_rows(1, 6, DType::F32);
        let error = |result: Result<()>| result.expect_err("refused").to_string();
        assert!(error(launch(row).run(&Refusing)).starts_with("rms_norm_f32 ran"));
        assert!(launch(LaunchGeometry { grid: [0, 1, 1], ..row }).run(&Refusing).is_ok());
        assert!(
            error(launch(LaunchGeometry { threads: 33, ..row }).run(&Refusing))
                .contains("33 threads are not whole warps")
        );
        assert!(error(launch(LaunchGeometry { grid: [1, 65_536, 1], ..row }).run(&Refusing)).contains("too large"));
        assert!(
            error(launch(LaunchGeometry { shared_bytes: 80_000, ..row }).run(&Refusing)).contains("more than 73728")
        );
        let (transposed, narrow) = (x.t().expect("a matrix"), x.narrow(1, 0, 3).expect("narrower"));
        assert!(launch(row).tensor(&transposed).is_err() && launch(row).rows(&transposed).is_err());
        assert!(launch(row).tensor(&narrow).is_err() && launch(row).rows(&narrow).is_ok());
        assert!(launch(row).tensor_of(&x, DType::U32).is_err() && launch(row).size(1 << 32).is_err());
    }
}
