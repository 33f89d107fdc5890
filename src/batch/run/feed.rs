//! Jobs of a batch: lists the archive, and makes a job of each item with questions that are not answered yet.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::recorder::{BatchRecorder, QuestionListing};
use super::{BatchContext, BatchEvent, ItemQuestions};
use crate::batch::archive::{Archive, ArchiveEntry, UNREADABLE};
use crate::batch::item::{ArchiveItem, Id};
use crate::batch::questions::BatchQuestion;
use crate::batch::store::ResultRecord;
use crate::error::Error;
use crate::exec::lock;
use crate::pipeline::Job;

/// Interval at which a feed that waits for its archive checks whether to stop.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// Number of entries that are listed ahead.
const N_AHEAD: usize = 64;

/// An item under way.
#[derive(Clone)]
pub(super) struct PlannedItem {
    pub(super) item: Arc<ArchiveItem>,
    pub(super) questions: Arc<[BatchQuestion]>,
    /// Bytes of the item's file.
    pub(super) bytes: u64,
}

/// Iterator over the jobs of an archive that are not done yet.
pub(super) struct Feed<'s, 'r> {
    context: &'s BatchContext<'r>,
    entries: Receiver<Result<ArchiveEntry, Error>>,
    /// Index of the next job.
    next: usize,
    /// Entries that failed to be listed in this run, and items without questions.
    failed: HashSet<Id>,
    /// Whether a part of the archive is unreadable.
    is_partial: bool,
}

/// Questions about an item that are left to be asked.
struct Remaining {
    questions: Arc<[BatchQuestion]>,
    /// Whether every question is answered although the item is recorded as failed.
    is_resolved: bool,
}

impl Iterator for Feed<'_, '_> {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        loop {
            if self.context.control.stop.is_draining() {
                return None;
            }
            match self.entries.recv_timeout(STOP_CHECK) {
                // Standard input may stay silent for long.
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.resolve_absent();
                    self.context.is_listed.store(true, Ordering::Relaxed);
                    return None;
                }
                Ok(Err(error)) => {
                    lock(&self.context.recorder).fail(error);
                    self.context.control.stop.abort();
                    return None;
                }
                Ok(Ok(entry)) => {
                    if let Some(job) = self.take(entry) {
                        return Some(job);
                    }
                }
            }
        }
    }
}

impl<'s, 'r> Feed<'s, 'r> {
    pub(super) fn new(context: &'s BatchContext<'r>, entries: Receiver<Result<ArchiveEntry, Error>>) -> Self {
        Self { context, entries, next: 0, failed: HashSet::new(), is_partial: false }
    }

    /// Returns the job of an entry of this shard, if there is one.
    fn take(&mut self, entry: ArchiveEntry) -> Option<Job> {
        let shard = self.context.batch.shard;
        match entry {
            ArchiveEntry::Ignored(keys) => (self.context.on_event)(BatchEvent::Ignored(&keys)),
            ArchiveEntry::Skipped(file) if shard.contains(file.id) => self.context.batch.tally.add_skipped_file(&file),
            ArchiveEntry::Failed(failed) => {
                self.is_partial |= failed.kind == UNREADABLE;
                if shard.contains(failed.id) {
                    self.failed.insert(failed.id);
                    self.record_failure(&ResultRecord::not_listed(&failed), 0);
                }
            }
            ArchiveEntry::Item(item) if shard.contains(item.id) => return self.job(item),
            ArchiveEntry::Skipped(_) | ArchiveEntry::Item(_) => {}
        }
        None
    }

    /// Returns the job of an item, if any of its questions are left.
    fn job(&mut self, item: ArchiveItem) -> Option<Job> {
        let bytes = item.file_size();
        let ItemQuestions { unique, mut renamed } = self.context.batch.questions_about(&item);
        if unique.is_empty() {
            self.failed.insert(item.id);
            self.record_failure(&ResultRecord::without_question(&item), bytes);
            return None;
        }
        let remaining = self.remaining(&mut lock(&self.context.recorder), item.id, &unique, &mut renamed);
        for question in &renamed {
            (self.context.on_event)(BatchEvent::Renamed { video: &item.video, question });
        }
        if remaining.is_resolved {
            self.context.record(&ResultRecord::resolved(item.id), None);
        }
        let questions = remaining.questions;
        if questions.is_empty() {
            self.context.batch.tally.add_done_before(bytes);
            return None;
        }
        let texts = |questions: &[BatchQuestion]| questions.iter().map(|question| question.question.clone()).collect();
        let job = Job {
            path: item.path.clone(),
            frames: None,
            window: item.window,
            image_rate: item.image_rate,
            subtitles: item.subtitles.clone(),
            questions: texts(&questions),
            all_questions: texts(&unique),
        };
        lock(&self.context.planned).insert(self.next, PlannedItem { item: Arc::new(item), questions, bytes });
        self.next += 1;
        Some(job)
    }

    /// Returns the questions that are left, and adds repetitions under other ids to `renamed`.
    fn remaining(
        &self,
        recorder: &mut BatchRecorder<'_>,
        item: Id,
        questions: &[BatchQuestion],
        renamed: &mut Vec<BatchQuestion>,
    ) -> Remaining {
        let retry_failed = self.context.batch.retry_failed;
        // A failure for want of a question does not count once there is a question.
        let is_failed = recorder.state.is_failed(item);
        let is_over = is_failed && !recorder.state.has_no_question(item) && !retry_failed;
        let mut left = Vec::new();
        for question in questions {
            let text = &question.question;
            let is_done =
                if retry_failed { recorder.state.is_answered(item, text) } else { recorder.state.is_done(item, text) };
            match recorder.begin(item, question) {
                QuestionListing::First if !is_over && !is_done => left.push(question.clone()),
                QuestionListing::First | QuestionListing::Repeated => {}
                QuestionListing::Renamed => renamed.push(question.clone()),
            }
        }
        let mut are_answered = questions.iter().map(|question| recorder.state.is_answered(item, &question.question));
        let is_resolved = retry_failed && is_failed && are_answered.all(|is_answered| is_answered);
        Remaining { questions: left.into(), is_resolved }
    }

    /// Records the failure of an entry that does not become a job, unless it is known.
    fn record_failure(&self, record: &ResultRecord, bytes: u64) {
        let (batch, is_known) = (self.context.batch, lock(&self.context.recorder).state.is_failed(record.item));
        if is_known && !batch.retry_failed {
            batch.tally.add_done_before(bytes);
        } else if self.context.record(record, None) {
            batch.tally.add_failed_item(bytes);
        }
    }

    /// Resolves, at the end of the archive, earlier failures to list an entry that did not occur again.
    fn resolve_absent(&self) {
        let batch = self.context.batch;
        if !batch.retry_failed || !batch.is_only_archive || self.is_partial {
            return;
        }
        let is_absent = |id: &Id| batch.shard.contains(*id) && !self.failed.contains(id);
        let resolved: Vec<Id> = lock(&self.context.recorder).state.not_listed().filter(is_absent).collect();
        for id in resolved {
            self.context.record(&ResultRecord::resolved(id), None);
        }
    }
}

/// Lists an archive on a detached thread: a stream may stay silent for ever, also before its first entry.
///
/// # Errors
/// When a lasting archive cannot be listed; the receiver gets the error of a stream.
pub(super) fn list_in_background(archive: &Archive) -> Result<Receiver<Result<ArchiveEntry, Error>>, Error> {
    let opened = if archive.is_lasting() { Some(archive.list()?) } else { None };
    let (sender, entries) = bounded(N_AHEAD);
    let archive = archive.clone();
    std::thread::spawn(move || match opened.map_or_else(|| archive.list(), Ok) {
        Ok(listing) => {
            for entry in listing {
                if sender.send(Ok(entry)).is_err() {
                    return;
                }
            }
        }
        // The receiver is gone once the run is over.
        Err(error) => drop(sender.send(Err(error))),
    });
    Ok(entries)
}
