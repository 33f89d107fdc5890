//! Messages of a batch on standard error: state of the results, progress, failures, summary.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use vidense::batch::store::{Store, StoreState, read_sessions};
use vidense::batch::{BatchEvent, Snapshot, Summary};

use crate::cli::{output, progress};

/// Interval between two lines of progress, without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Prints the state of existing results.
pub fn print_opened(store: &Store, state: &StoreState) {
    let (begun, here) = (store.begun_by(), env!("CARGO_PKG_VERSION"));
    if begun != here {
        output::warning(&format!("{}: begun by vidense {begun}, resumed by {here}", store.dir().display()));
    }
    if let Some(holder) = store.stale_holder() {
        output::note(&format!("{}: {holder} ended without releasing the lock; resuming", store.dir().display()));
    }
    let (answers, failed) = (state.n_answered(), state.n_failed());
    if answers + failed > 0 {
        output::note(&format!("{}: resuming after {answers} answers and {failed} failures", store.dir().display()));
    }
    if let Some(first) = state.damaged.first() {
        let n = state.damaged.len();
        output::warning(&format!(
            "{}: {n} unreadable line(s), the first is line {first}: asked again",
            store.dir().display()
        ));
    }
}

/// Returns whether the results are of this archive alone, and prints a warning if they are not.
///
/// # Errors
/// When the sessions cannot be read.
pub fn check_archive(store: &Store, archive: &Path) -> anyhow::Result<bool> {
    let archive = archive.to_string_lossy();
    let sessions = read_sessions(store.dir())?;
    let other = sessions.iter().map(|session| &session.archive).rev().find(|other| **other != archive);
    if let Some(other) = other {
        output::warning(&format!(
            "{}: begun with {other}; a video of the same name in {archive} counts as the same video",
            store.dir().display()
        ));
    }
    Ok(other.is_none())
}

/// Printer of a batch's events, for use from any thread.
pub struct EventPrinter {
    bar: ProgressBar,
    has_bar: bool,
    last_line: Mutex<Instant>,
    warned: Mutex<HashSet<&'static str>>,
    /// Number of question ids that stand in no answer.
    n_renamed: AtomicU64,
}

impl EventPrinter {
    /// Makes a printer, with a progress bar on a terminal.
    pub fn new() -> Self {
        let has_bar = std::io::stderr().is_terminal() && !output::is_json();
        let bar = if has_bar { progress::batch() } else { ProgressBar::hidden() };
        Self {
            bar,
            has_bar,
            last_line: Mutex::new(Instant::now()),
            warned: Mutex::default(),
            n_renamed: AtomicU64::new(0),
        }
    }

    /// Prints an event.
    pub fn print(&self, event: &BatchEvent<'_>) {
        match event {
            BatchEvent::Failed(record) => self.bar.suspend(|| output::failure(record)),
            BatchEvent::Ignored(keys) => {
                let keys = keys.join(", ");
                self.bar.suspend(|| output::warning(&format!("unused keys of the manifest: {keys}")));
            }
            BatchEvent::Renamed { video, question } => {
                if self.n_renamed.fetch_add(1, Ordering::Relaxed) == 0 {
                    let (text, id) = (&question.question, question.id.as_deref().unwrap_or_default());
                    let text =
                        format!("{video}: `{text}` has another id besides `{id}`; asked once, under the first id");
                    self.bar.suspend(|| output::warning(&text));
                }
            }
            BatchEvent::Missed { what, cause } => self.warn_once(what, cause),
            BatchEvent::Tick(snapshot) => self.tick(snapshot),
        }
    }

    /// Prints a warning at its first occurrence.
    pub fn warn_once(&self, what: &'static str, cause: &str) {
        let is_new = self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
        if is_new {
            self.bar.suspend(|| output::warning(&format!("{what} could not be written; printed once: {cause}")));
        }
    }

    /// Removes the bar, and prints the number of unused question ids.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        let n_renamed = self.n_renamed.load(Ordering::Relaxed);
        if n_renamed > 0 {
            output::warning(&format!(
                "{n_renamed} ids are in no answer: their questions were asked under another id before"
            ));
        }
    }

    fn tick(&self, snapshot: &Snapshot) {
        if self.has_bar {
            if let Some(expected) = snapshot.expected {
                self.bar.set_length(expected.max(snapshot.n_finished()));
            }
            self.bar.set_position(snapshot.n_finished());
            self.bar.set_message(format_rates(snapshot));
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_INTERVAL {
            *last = Instant::now();
            output::progress(snapshot, &format!("{} {}", format_done(snapshot), format_rates(snapshot)));
        }
    }
}

/// Formats the processed videos: `12 of 60 videos`.
pub fn format_done(snapshot: &Snapshot) -> String {
    let of = snapshot.expected.map_or(String::new(), |expected| format!(" of {expected}"));
    format!("{}{of} videos", snapshot.n_finished())
}

/// Formats rates, remaining work, and utilisation of the stages.
pub fn format_rates(snapshot: &Snapshot) -> String {
    let mut text = format!("{:.2}/s", snapshot.items_per_second());
    if snapshot.failed + snapshot.failed_answers > 0 {
        let _ = write!(text, ", {} failed", snapshot.failed + snapshot.failed_answers);
    }
    if let Some(hours) = snapshot.video_hours_left {
        let _ = write!(text, ", {hours:.1} h of video left");
    }
    if let Some(seconds) = snapshot.seconds_left {
        let left = humantime::format_duration(Duration::from_secs(seconds.min(1e9) as u64));
        let _ = write!(text, ", ETA {left}");
    }
    for stage in snapshot.stages.iter().filter(|stage| stage.utilisation >= 0.005) {
        let _ = write!(text, ", {} {:.0} % ({})", stage.name, 100.0 * stage.utilisation, stage.device);
    }
    text
}

/// Returns the noun of files that are passed over for a reason.
fn noun(reason: &str) -> &str {
    match reason {
        "image" => "image(s)",
        "audio" => "audio file(s)",
        "text" => "text file(s)",
        "playlist" => "playlist(s)",
        "segment" => "part(s) that cannot be opened alone",
        "unfinished" => "unfinished download(s)",
        "archive" => "archive(s)",
        "weights" => "file(s) of weights",
        "data" => "file(s) of other data",
        "not_regular" => "file(s) that are not regular",
        "unknown" => "unknown file(s)",
        reason => reason,
    }
}

/// Prints the summary.
pub fn print_summary(summary: &Summary) {
    let (now, held) = (&summary.session, &summary.results);
    let mut text = format!(
        "videos: {} answered, {} failed, {} skipped; answers: {}, {} failed; in {:.1} s: {:.2} videos/s, {:.1} \
         frames/s, {:.1} tokens/s, {:.1} h of video an hour; {} frames decoded, {} videos found in the cache, {} decoder(s) \
         restarted",
        now.done,
        now.failed,
        now.skipped,
        now.answers,
        now.failed_answers,
        now.seconds,
        now.items_per_second(),
        now.frames_per_second(),
        now.tokens_per_second(),
        now.video_hours_per_hour(),
        now.frames_decoded,
        now.found_in_cache,
        now.decoder_restarts,
    );
    let _ = write!(text, "\ntotal: {} answers, {} failures", held.answers, held.failed);
    for (category, n) in &held.failed_by {
        let (stage, kind) = category.split_once('/').unwrap_or((category, ""));
        let _ = write!(text, "\n  {n} {kind} (in the stage {stage})");
    }
    for (reason, left) in &now.passed_over {
        let names = left.examples.iter().map(|name| output::printable(name)).collect::<Vec<_>>().join(", ");
        let more = if left.files > left.examples.len() as u64 { ", ..." } else { "" };
        let _ = write!(text, "\n  passed over: {} {} ({names}{more})", left.files, noun(reason));
    }
    if summary.complete && now.n_finished() == 0 {
        output::warning("no video in the archive or in this shard");
    }
    output::conclusion(summary, &text);
}
