//! Emulation of a GPU on the CPU, for tests: the system's C++ compiler compiles the kernels with
//! `tests/cuda_on_host/cuda_on_host.h` to a library, which runs on tensors in host memory.

use std::ffi::{CString, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use candle_core::{CpuStorage, DType, Device, Result, Shape, Tensor};

use super::kernel_list::{KernelSource, SOURCES, kernel_names};
use super::launch::{Argument, Executor, Launch};
use super::recording::{self, Operation, RecordedGemm, Recording, Replay};
use super::tests::report_skipped;
use crate::kernels::Kernels;
use crate::kernels::candle::CandleKernels;

/// Executor of launches on the CPU.
#[derive(Debug)]
pub(crate) struct Emulator {
    library: Library,
}

/// Loaded library of kernels, which is never closed.
#[derive(Debug)]
struct Library(*mut c_void);

// SAFETY: the handle of `dlopen` is only passed to `dlsym`, which may be called from any thread, and is never closed.
unsafe impl Send for Library {}
// SAFETY: `dlsym` may be called from several threads at once with the same handle.
unsafe impl Sync for Library {}

/// Exported function `host_NAME(grid, threads, shared_bytes, arguments, n_arguments)`, defined by `HOST_KERNEL` of the
/// header.
type HostKernel = unsafe extern "C" fn(*const u32, u32, u32, *mut *mut c_void, usize) -> c_int;

/// Returns the emulator, which the first call compiles; prints a message and returns `None` without a C++ compiler.
pub(crate) fn emulator() -> Option<&'static Emulator> {
    static EMULATOR: OnceLock<Option<Emulator>> = OnceLock::new();
    EMULATOR.get_or_init(Emulator::compile).as_ref()
}

impl Emulator {
    fn compile() -> Option<Self> {
        let compiler = ["c++", "g++", "clang++"].into_iter().find(|compiler| {
            let answer = Command::new(compiler).arg("--version").output();
            cfg!(target_os = "linux") && answer.is_ok_and(|answer| answer.status.success())
        });
        let Some(compiler) = compiler else {
            report_skipped(
                "CUDA kernels on the CPU, for which Linux and a C++ compiler (c++, g++, clang++) are needed",
            );
            return None;
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let library = dir.path().join("kernels.so");
        let mut command = Command::new(compiler);
        // `longjmp` between the stacks of emulated threads is an error to fortified libraries.
        command
            .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-DCUDA_ON_HOST", "-o"])
            .arg(&library);
        command.arg("-I").arg(root.join("src/kernels/cuda")).arg("-I").arg(root.join("tests/cuda_on_host"));
        command.args(SOURCES.iter().map(|source| wrapper(source, dir.path())));
        let output = command.output().expect("the compiler answered before");
        assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
        Some(Self { library: Library::open(&library) })
    }
}

/// Writes a C++ file that exports the kernels of a source file.
fn wrapper(source: &KernelSource, dir: &Path) -> PathBuf {
    let exports: Vec<String> = kernel_names(source).iter().map(|name| format!("HOST_KERNEL({name})\n")).collect();
    let path = dir.join(format!("{}.cpp", source.file));
    std::fs::write(&path, format!("#include \"{}.cu\"\n{}", source.file, exports.concat()))
        .expect("a writable directory");
    path
}

impl Library {
    fn open(path: &Path) -> Self {
        let name = CString::new(path.to_str().expect("UTF-8")).expect("no null byte");
        // SAFETY: the name is a valid C string. The library was just compiled from the kernels; its initialisers set
        // only its own variables.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{} cannot be loaded", path.display());
        Self(handle)
    }

    fn kernel(&self, name: &str) -> Option<HostKernel> {
        let symbol = CString::new(format!("host_{name}")).expect("no null byte");
        // SAFETY: the handle is open, and every symbol `host_*` of the library is a function of this type.
        unsafe {
            let address = libc::dlsym(self.0, symbol.as_ptr());
            (!address.is_null()).then(|| std::mem::transmute::<*mut c_void, HostKernel>(address))
        }
    }
}

impl Executor for Emulator {
    fn execute(&self, launch: &Launch<'_>) -> Result<()> {
        let name = launch.name();
        let Some(kernel) = self.library.kernel(&name) else { candle_core::bail!("unknown kernel `{name}`") };
        let geometry = launch.geometry();
        let grid = geometry.grid.map(|blocks| blocks as u32);
        let mut arguments = launch.arguments().to_vec();
        let mut addresses: Vec<*mut c_void> = arguments
            .iter_mut()
            .map(|argument| match argument {
                Argument::Address(x) => (&raw mut *x).cast(),
                Argument::U32(x) => (&raw mut *x).cast(),
                Argument::F32(x) => (&raw mut *x).cast(),
            })
            .collect();
        let (threads, shared_bytes) = (geometry.threads as u32, geometry.shared_bytes as u32);
        // SAFETY: the wrapper checks the number of arguments, and each argument has the type of the kernel's parameter.
        // `Launch` borrows its tensors, so the addresses are valid during the call.
        let outcome = unsafe { kernel(grid.as_ptr(), threads, shared_bytes, addresses.as_mut_ptr(), addresses.len()) };
        match outcome {
            0 => Ok(()),
            1 => candle_core::bail!("{name}: threads of a block wait at different barriers"),
            2 => candle_core::bail!("{name}: a thread ended before a barrier of its block"),
            _ => candle_core::bail!("{name}: invalid number of arguments {} or geometry {geometry:?}", addresses.len()),
        }
    }

    /// Fills the tensor with NaN, so that elements which a kernel does not write are detected.
    fn empty(&self, shape: Shape, dtype: DType) -> Result<Tensor> {
        let tensor = match dtype {
            DType::F32 | DType::F16 | DType::BF16 => {
                Tensor::full(f32::NAN, shape, &Device::Cpu)?.to_dtype(dtype)?.contiguous()?.copy()
            }
            _ => Tensor::full(u8::MAX, shape, &Device::Cpu)?.to_dtype(dtype)?.contiguous()?.copy(),
        }?;
        recording::keep(&tensor);
        Ok(tensor)
    }

    fn compile(&self, recording: Recording) -> Result<Box<dyn Replay>> {
        let emulator = emulator().ok_or_else(|| candle_core::Error::msg("no C++ compiler"))?;
        Ok(Box::new(EmulatedReplay { emulator, recording }))
    }

    fn upload(&self, bytes: &[u8]) -> Result<Tensor> {
        Tensor::from_slice(bytes, bytes.len(), &Device::Cpu)
    }

    fn has_tensor_cores(&self) -> bool {
        true
    }
}

/// Replay that runs recorded operations one after the other.
#[derive(Debug)]
struct EmulatedReplay {
    emulator: &'static Emulator,
    recording: Recording,
}

impl Replay for EmulatedReplay {
    fn replay(&self) -> Result<()> {
        self.recording.operations.iter().try_for_each(|operation| match operation {
            Operation::Launch(launch) => self.emulator.execute(launch),
            Operation::Gemm(RecordedGemm { a, b, y }) => {
                y.slice_set(&CandleKernels::of(&Device::Cpu, y.dtype()).matmul(a, b)?, 0, 0)
            }
        })
    }
}

/// Returns the address of a storage's first element.
pub(crate) fn address(storage: &CpuStorage) -> Result<u64> {
    let address = match storage {
        CpuStorage::U8(x) => x.as_ptr() as u64,
        CpuStorage::U32(x) => x.as_ptr() as u64,
        CpuStorage::F32(x) => x.as_ptr() as u64,
        CpuStorage::F16(x) => x.as_ptr() as u64,
        CpuStorage::BF16(x) => x.as_ptr() as u64,
        _ => candle_core::bail!("kernels: unsupported element type"),
    };
    Ok(address)
}
