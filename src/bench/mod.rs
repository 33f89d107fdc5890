//! Speed on this machine: networks of real geometry with random weights, the reading of a real video, and a whole
//! command, timed, beside what the machine can do.

mod ask;
mod checkpoint;
mod language;
mod machine;
mod random;
mod run;
mod tower;
mod video;

use std::time::Instant;

pub use ask::{AskBench, AskTask, bench_ask};
pub use checkpoint::{CheckpointTask, WrittenCheckpoint, write_checkpoint};
pub use language::{Compares, LanguageBench, LanguageSize, LanguageTask, bench_language};
pub use machine::{BenchPlace, DeviceLimits, copy_bandwidth, gemm_peak, memory_peak};
pub use run::{RunBench, RunTask, bench_run};
pub use tower::{TowerBench, TowerName, bench_tower};
pub use video::{VideoBench, bench_video};

/// The median of the seconds that some runs take, the first one aside, which fills caches.
fn median_seconds<E>(runs: usize, mut run: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    run()?;
    let mut seconds = Vec::new();
    for _ in 0..runs.max(1) {
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(median(seconds))
}

/// The value in the middle, the upper one of two; 0 of none.
fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value that a share of all is below; 0 of none.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}
