//! Running a batch: every question about every item of an archive that the results do not contain yet.
//!
//! The archive is listed during the run, so its size is not bounded by memory; records are written in the order of
//! completion. `feed` turns items into jobs, `answers` turns events of the run into records, `recorder` writes them.
//! Called by the command `batch`.

mod answers;
#[cfg(feature = "mini")]
#[cfg(test)]
mod download_tests;
mod feed;
mod recorder;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use self::answers::AnswerEvents;
use self::feed::{Feed, PlannedItem, list_in_background};
use self::recorder::BatchRecorder;
use super::archive::{Archive, ArchiveEntry};
use super::item::{ArchiveItem, Shard};
use super::questions::BatchQuestion;
use super::snapshot::Snapshot;
use super::store::{ResultRecord, StepTimes, Store, StoreState};
use super::tally::{ArchiveSize, Tally};
use crate::error::Error;
use crate::exec::{RunControl, lock};
use crate::pipeline::{Asking, RunReport, VideoOptions};

/// Interval of syncs and snapshots.
const TICK: Duration = Duration::from_millis(500);

/// Questions about the items of an archive, and how to ask them.
pub struct Batch<'a> {
    /// Model, template and plan.
    pub asking: Asking<'a>,
    /// Archive of videos.
    pub archive: &'a Archive,
    /// Questions about every item, besides the item's own.
    pub questions: &'a [BatchQuestion],
    /// Shard of the archive that this process works on.
    pub shard: Shard,
    /// Whether items and questions that failed before are tried again.
    pub retry_failed: bool,
    /// Whether the results are of this archive alone: only then an earlier failure to list an entry is resolved by its
    /// absence.
    pub is_only_archive: bool,
    /// Options of the videos.
    pub options: VideoOptions<'a>,
    /// Counters of the process.
    pub tally: &'a Tally,
}

/// Event of a batch, from several threads.
#[derive(Debug)]
pub enum BatchEvent<'a> {
    /// A failure was recorded.
    Failed(&'a ResultRecord),
    /// Columns or keys of a manifest that are not used.
    Ignored(&'a [String]),
    /// A question about a video was listed again under another id: it is asked once, under the first id.
    Renamed {
        /// Name of the item in the archive.
        video: &'a str,
        /// Question, with the id that is not used.
        question: &'a BatchQuestion,
    },
    /// Something besides the records could not be written; the answers are not affected.
    Missed {
        /// Kind of data.
        what: &'static str,
        /// Item and cause.
        cause: String,
    },
    /// Counts so far, twice a second.
    Tick(&'a Snapshot),
}

/// Callback for [`BatchEvent`].
type OnBatchEvent<'a> = dyn Fn(BatchEvent<'_>) + Sync + 'a;

/// Outcome of a batch.
pub struct BatchOutcome {
    /// Whether everything that was listed is done.
    pub complete: bool,
    /// Report of the stages and the engine.
    pub report: RunReport,
    /// Counts at the end.
    pub snapshot: Snapshot,
    /// State of the results.
    pub state: StoreState,
}

impl Batch<'_> {
    /// Runs until every item is done or `control` stops the run.
    ///
    /// # Errors
    /// [`Error`] when a record cannot be written, the archive cannot be listed, or a stage panics.
    pub fn run(
        &self,
        store: &mut Store,
        state: StoreState,
        control: &RunControl,
        on_event: &OnBatchEvent<'_>,
    ) -> Result<BatchOutcome, Error> {
        let entries = list_in_background(self.archive)?;
        let context = BatchContext {
            batch: self,
            control,
            on_event,
            recorder: Mutex::new(BatchRecorder::new(store, state)),
            planned: Mutex::default(),
            is_listed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        };
        let feed = Feed::new(&context, entries);
        let options = VideoOptions { n_restarts: Some(&self.tally.restarts), ..self.options };
        let (running, ended) = bounded::<()>(0);
        let report = std::thread::scope(|scope| {
            scope.spawn(|| context.count_archive());
            scope.spawn(|| {
                let ended = ended;
                while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    context.sync();
                    on_event(BatchEvent::Tick(&self.tally.snapshot(&control.monitor.reports())));
                }
            });
            let mut answers = AnswerEvents::new(&context);
            let report = self.asking.run(feed, options, control, &mut |event| answers.take(event));
            // Ends a count of the archive that is still under way.
            context.is_over.store(true, Ordering::Relaxed);
            drop(running);
            report
        });
        let complete = context.is_listed.load(Ordering::Relaxed) && lock(&context.planned).is_empty();
        let BatchRecorder { store, state, .. } = context.into_recorder().into_result()?;
        let report = report?;
        store.sync()?;
        let snapshot = self.tally.snapshot(&report.stages);
        Ok(BatchOutcome { complete, report, snapshot, state })
    }

    /// Returns all questions about an item, each once, and the repetitions under other ids.
    fn questions_about(&self, item: &ArchiveItem) -> ItemQuestions {
        let (mut ids, mut found) = (HashMap::new(), ItemQuestions::default());
        for question in self.questions.iter().chain(&item.questions) {
            let Some(id) = ids.get(&question.question) else {
                ids.insert(&question.question, &question.id);
                found.unique.push(question.clone());
                continue;
            };
            if question.id.is_some() && **id != question.id {
                found.renamed.push(question.clone());
            }
        }
        found
    }
}

/// Questions about one item.
#[derive(Default)]
struct ItemQuestions {
    /// Questions with different texts.
    unique: Vec<BatchQuestion>,
    /// Repetitions of a text under another id.
    renamed: Vec<BatchQuestion>,
}

/// Data shared by the threads of a batch.
struct BatchContext<'r> {
    batch: &'r Batch<'r>,
    control: &'r RunControl,
    on_event: &'r OnBatchEvent<'r>,
    recorder: Mutex<BatchRecorder<'r>>,
    /// Items under way, by the index of their job.
    planned: Mutex<HashMap<usize, PlannedItem>>,
    /// Whether the archive was listed to its end.
    is_listed: AtomicBool,
    /// Whether the run is over.
    is_over: AtomicBool,
}

impl<'r> BatchContext<'r> {
    /// Writes a record, and emits an event for a failure. An error of the disk aborts the run: further answers would be
    /// lost as well. Returns whether the record was written.
    fn record(&self, record: &ResultRecord, times: Option<StepTimes>) -> bool {
        let is_written = lock(&self.recorder).add(record, times);
        if !is_written {
            self.control.stop.abort();
        } else if record.failure().is_some() {
            self.batch.tally.add_failure(record);
            (self.on_event)(BatchEvent::Failed(record));
        }
        is_written
    }

    /// Syncs records that were written a while ago.
    fn sync(&self) {
        if !lock(&self.recorder).sync_if_due() {
            self.control.stop.abort();
        }
    }

    /// Counts the archive while the run goes on, for the estimate of the remaining time.
    fn count_archive(&self) {
        if !self.batch.archive.is_lasting() {
            return;
        }
        // The listing of the run reports errors.
        let Ok(entries) = self.batch.archive.list() else { return };
        let shard = self.batch.shard;
        let mut size = ArchiveSize::default();
        for entry in entries {
            if self.is_over.load(Ordering::Relaxed) || self.control.stop.is_draining() {
                return;
            }
            match entry {
                ArchiveEntry::Item(item) if shard.contains(item.id) => {
                    size = ArchiveSize { items: size.items + 1, bytes: size.bytes + item.file_size() };
                }
                ArchiveEntry::Failed(failed) if shard.contains(failed.id) => size.items += 1,
                _ => {}
            }
        }
        self.batch.tally.set_expected(size);
    }

    fn into_recorder(self) -> BatchRecorder<'r> {
        self.recorder.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
