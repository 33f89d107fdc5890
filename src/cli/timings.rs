//! `--timings`: what each stage of a run did, as a table on standard error.

use std::fmt::Write as _;
use std::time::Duration;

use vidense::exec::StageReport;

use super::output;

/// Prints the table and the bottleneck.
pub fn tell(reports: &[StageReport], wall: Duration) {
    output::plain(&table(reports, wall));
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
