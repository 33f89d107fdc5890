//! `--timings`: times of each stage of a run, as a table on standard error.

use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;
use vidense::engine::EngineStats;
use vidense::exec::StageReport;
use vidense::pipeline::RunReport;

use super::output;

/// Prints the table, the bottleneck, and the engine's counters.
pub fn print(report: &RunReport, wall: Duration) {
    output::plain(&table(&report.stages, wall));
    output::plain(&engine(&report.engine));
}

fn engine(stats: &EngineStats) -> String {
    let EngineStats { steps, prompt_tokens, prefix_hits, new_tokens, preemptions, peak_running, peak_waiting, .. } =
        stats;
    let replayed = match stats.replayed_steps {
        0 => String::new(),
        n => format!(", {n} of them CUDA graphs"),
    };
    let size = |bytes: usize| ByteSize::b(bytes as u64).display().iec();
    let smaller_steps = match stats.memory_retreats {
        0 => String::new(),
        n => format!("; {n} steps were reduced for want of device memory"),
    };
    format!(
        "engine: {new_tokens} tokens in {steps} steps of {:.1} sequences{replayed} (most {peak_running} running, {peak_waiting} waiting), \
         {prompt_tokens} prompt positions computed and {prefix_hits} shared, {preemptions} preemptions, \
         {} of {} key-value memory{smaller_steps}",
        stats.mean_running(),
        size(stats.peak_kv_bytes),
        size(stats.kv_budget_bytes),
    )
}

fn table(reports: &[StageReport], wall: Duration) -> String {
    let mut text = format!(
        "{:<11} {:>7} {:>9} {:>11} {:>11} {:>11} {:>6}\n",
        "stage", "threads", "items", "busy s", "no input s", "no room s", "used"
    );
    for report in reports {
        let seconds = |time: Duration| format!("{:.3}", time.as_secs_f64());
        let _ = writeln!(
            text,
            "{:<11} {:>7} {:>9} {:>11} {:>11} {:>11} {:>4.0} %",
            report.name,
            report.n_threads,
            report.n_items,
            seconds(report.busy),
            seconds(report.waiting_for_input),
            seconds(report.waiting_for_output),
            100.0 * report.utilisation(wall)
        );
    }
    let per_thread = |report: &&StageReport| report.busy / u32::try_from(report.n_threads.max(1)).unwrap_or(1);
    if let Some(busiest) = reports.iter().max_by_key(per_thread) {
        let busy = per_thread(&busiest).as_secs_f64();
        let wall = wall.as_secs_f64();
        let _ = write!(
            text,
            "wall {wall:.3} s; the bottleneck is {}, busy for {busy:.3} s a thread: {:.2} of the wall time",
            busiest.name,
            busy / wall.max(f64::MIN_POSITIVE)
        );
    }
    text
}
