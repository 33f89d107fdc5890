//! Tests of launches, and of the list of kernels against the source files.

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
fn launches_over_the_limits_of_a_gpu_are_rejected() {
    let x = Tensor::zeros((4, 6), DType::F32, &Device::Cpu).expect("small");
    let launch = |geometry| Launch::new("rms_norm", DType::F32, geometry);
    let row = LaunchGeometry::of_rows(1, 6, DType::F32);
    let error = |result: Result<()>| result.expect_err("rejected").to_string();
    assert!(error(launch(row).run(&Refusing)).starts_with("rms_norm_f32 ran"));
    assert!(launch(LaunchGeometry { grid: [0, 1, 1], ..row }).run(&Refusing).is_ok());
    assert!(
        error(launch(LaunchGeometry { threads: 33, ..row }).run(&Refusing))
            .contains("33 threads, not a multiple of 32")
    );
    assert!(error(launch(LaunchGeometry { grid: [1, 65_536, 1], ..row }).run(&Refusing)).contains("over the limit"));
    assert!(error(launch(LaunchGeometry { shared_bytes: 80_000, ..row }).run(&Refusing)).contains("over 73728"));
    let (transposed, narrow) = (x.t().expect("a matrix"), x.narrow(1, 0, 3).expect("narrower"));
    assert!(launch(row).tensor(&transposed).is_err() && launch(row).rows(&transposed).is_err());
    assert!(launch(row).tensor(&narrow).is_err() && launch(row).rows(&narrow).is_ok());
    assert!(launch(row).tensor_of(&x, DType::U32).is_err() && launch(row).size(1 << 32).is_err());
}
