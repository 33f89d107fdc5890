//! Benchmarks: networks of real geometry with random weights, the reading of a real video, and whole commands, timed
//! beside the peak rates of the machine; and the agreement of a precision or a device with f32 on the CPU.
//!
//! Called by `vidense bench`, which prints one JSON object for each. Accuracy is measured by `eval`.

mod agreement;
mod ask;
mod checkpoint;
mod engine;
mod language;
mod machine;
mod random;
mod run;
mod tower;
mod video;

use std::time::Instant;

pub use agreement::{AgreementBench, AgreementTask, bench_agreement};
pub use ask::{AskBench, AskTask, bench_ask};
pub use checkpoint::{CheckpointTask, WrittenCheckpoint, write_checkpoint};
pub use language::{LanguageBench, LanguageSize, LanguageTask, LogitComparison, bench_language};
pub use machine::{BenchTarget, DeviceLimits, memory_peak};
pub use run::{RunBench, RunTask, bench_run};
pub use tower::{TowerBench, TowerName, bench_tower};
pub use video::{VideoBench, bench_video};

/// Times `runs` runs after a warm-up run, which fills caches, and returns the median in seconds.
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

/// Returns the median, the upper of two middle values; 0 of no values.
fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// Returns the quantile `share`, from 0 to 1; 0 of no values.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}
