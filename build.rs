//! Compiles the CUDA kernels (`src/kernels/cuda/*.cu`) where the feature `cuda` is on; does nothing elsewhere.
//!
//! Each file becomes one fat binary: machine code for the listed targets, and PTX that the driver compiles on later
//! ones. `cuda_modules.rs` in the output directory embeds them. nvcc is looked for in `NVCC`, in `bin` of `CUDA_HOME`,
//! `CUDA_PATH`, `CUDA_ROOT` and `CUDA_TOOLKIT_ROOT_DIR`, on the `PATH`, and in `/usr/local/cuda`; `NVCC_CCBIN` names its
//! host compiler.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, io, thread};

const SOURCES: &str = "src/kernels/cuda";
/// Targets that get machine code: A100, RTX 30, RTX 40 and L40, H100 and H200.
const TARGETS: [&str; 4] = ["80", "86", "89", "90"];
/// The target of the PTX, for later GPUs.
const PTX: &str = "90";
const HOMES: [&str; 4] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
/// Names the one target that candle's kernels are compiled for.
const CANDLE_TARGET: &str = "CUDA_COMPUTE_CAP";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    tell("rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    tell(&format!("rerun-if-changed={SOURCES}"));
    for name in HOMES.iter().chain(&["NVCC", "NVCC_CCBIN", CANDLE_TARGET]) {
        tell(&format!("rerun-if-env-changed={name}"));
    }
    let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or("OUT_DIR is not set; hint: build with Cargo")?;
    let (nvcc, sources) = (find_nvcc()?, sources().map_err(|error| format!("{SOURCES}: {error}"))?);
    thread::scope(|scope| {
        let compile = |source: &'_ PathBuf| {
            let (source, nvcc, out) = (source.clone(), &nvcc, &out);
            scope.spawn(move || compile(nvcc, &source, out))
        };
        let running: Vec<_> = sources.iter().map(compile).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err("a compiling thread panicked".to_owned()))
        };
        running.into_iter().try_for_each(join)
    })?;
    let list = out.join("cuda_modules.rs");
    fs::write(&list, modules(&sources)).map_err(|error| format!("{}: {error}", list.display()))
}

/// Tells Cargo something.
#[allow(clippy::print_stdout, reason = "a build script speaks to Cargo on its standard output")]
fn tell(line: &str) {
    println!("cargo:{line}");
}

#[allow(clippy::print_stderr, reason = "a build script's errors are what it prints")]
fn complain(error: &str) {
    eprintln!("error: {error}");
}

/// The `.cu` files, in the order of their names.
fn sources() -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(SOURCES)?.collect::<io::Result<Vec<_>>>()?;
    let mut sources: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    Ok(sources)
}

fn find_nvcc() -> Result<PathBuf, String> {
    let named = env::var_os("NVCC").map(PathBuf::from).into_iter();
    let in_homes = HOMES.iter().filter_map(env::var_os).map(|home| Path::new(&home).join("bin/nvcc"));
    let usual = ["nvcc", "/usr/local/cuda/bin/nvcc"].into_iter().map(PathBuf::from);
    let answers =
        |nvcc: &PathBuf| Command::new(nvcc).arg("--version").output().is_ok_and(|output| output.status.success());
    named.chain(in_homes).chain(usual).find(answers).ok_or_else(|| {
        let homes = HOMES.join(", ");
        format!("nvcc, which the feature `cuda` needs, does not answer; hint: install the CUDA toolkit, and name it by NVCC, by {homes} or on the PATH")
    })
}

/// Compiles a file to a fat binary.
fn compile(nvcc: &Path, source: &Path, out: &Path) -> Result<(), String> {
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-std=c++17", "-O3"]);
    for target in targets() {
        command.arg(format!("-gencode=arch=compute_{target},code=sm_{target}"));
    }
    command.arg(format!("-gencode=arch=compute_{PTX},code=compute_{PTX}"));
    if let Some(compiler) = env::var_os("NVCC_CCBIN") {
        command.arg("-ccbin").arg(compiler);
    }
    let output = command.arg("-o").arg(binary(source, out)).arg(source).output();
    let output = output.map_err(|error| format!("{}: {error}", nvcc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}\n{}", nvcc.display(), source.display(), String::from_utf8_lossy(&output.stderr)))
}

/// The targets that get machine code: the listed ones, and the one of candle's kernels where it is older than they are.
fn targets() -> Vec<String> {
    let mut targets: Vec<String> = TARGETS.map(str::to_owned).to_vec();
    let candle = env::var(CANDLE_TARGET).ok().filter(|target| target.parse::<u32>().is_ok_and(|target| target < 80));
    targets.splice(0..0, candle);
    targets
}

/// The fat binary of a source.
fn binary(source: &Path, out: &Path) -> PathBuf {
    out.join(name(source)).with_extension("fatbin")
}

fn name(source: &Path) -> String {
    source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Rust source that embeds the fat binaries by name.
fn modules(sources: &[PathBuf]) -> String {
    let mut text = format!("static MODULES: [(&str, &[u8]); {}] = [\n", sources.len());
    for name in sources.iter().map(|source| name(source)) {
        let _ = writeln!(text, "    (\"{name}\", include_bytes!(\"{name}.fatbin\")),");
    }
    text + "];\n"
}
