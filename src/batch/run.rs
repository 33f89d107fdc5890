//! Running a batch: every question about every item of an archive that results do not hold yet.
//!
//! The archive is listed as the run goes, so its size does not matter. Answers are kept in the order in which they are
//! earned.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::BatchError;
use super::archive::{Archive, ArchiveEntry, UNREADABLE};
use super::item::{ArchiveItem, Id, Shard};
use super::questions::BatchQuestion;
use super::store::{ResultRecord, StepTimes, Store, StoreState};
use super::tally::{ArchiveSize, Snapshot, Tally};
use crate::exec::{RunControl, lock};
use crate::pipeline::{Answer, Asking, EncodedVideo, ItemError, Job, RunEvent, RunReport, VideoOptions};

/// Between two looks at how the run stands.
const TICK: Duration = Duration::from_millis(500);
/// Between two looks at whether a run that waits for its archive should end.
const PATIENCE: Duration = Duration::from_millis(100);
/// Items that are listed ahead.
const AHEAD: usize = 64;
/// The kind of failure that is a question's, not a video's.
const TOKEN_BUDGET: &str = "token_budget";

/// What is asked of what.
pub struct Batch<'a> {
    /// The model, and how it is asked.
    pub asking: Asking<'a>,
    /// The videos.
    pub archive: &'a Archive,
    /// Asked about each of them, besides its own.
    pub questions: &'a [BatchQuestion],
    /// The part of the archive that is this process's.
    pub shard: Shard,
    /// Whether what failed before is tried again.
    pub retry_failed: bool,
    /// Whether the results are of this archive alone: what could not be listed before, and can be now, counts no more
    /// then.
    pub is_only_archive: bool,
    /// What keeps items apart.
    pub options: VideoOptions<'a>,
}

/// What a listener hears, from several threads.
#[derive(Debug)]
pub enum BatchEvent<'a> {
    /// A line about a failure was kept.
    Failed(&'a ResultRecord),
    /// Columns or keys of a manifest that mean nothing here.
    Ignored(&'a [String]),
    /// A question about a video comes again under another name: it is asked once, under the first one.
    Renamed {
        /// The item's name in the archive.
        video: &'a str,
        /// The question, with the name that is not used.
        question: &'a BatchQuestion,
    },
    /// Something beside the answers could not be written: the answers are not touched by it.
    Missed {
        /// What, in two words.
        what: &'static str,
        /// Of which item, and why.
        cause: String,
    },
    /// How the run stands, twice a second.
    Tick(&'a Snapshot),
}

/// What came of a run.
pub struct BatchOutcome {
    /// Whether everything that was listed is done.
    pub complete: bool,
    /// Report of its stages and its engine.
    pub report: RunReport,
    /// How it stands.
    pub snapshot: Snapshot,
    /// What the results hold.
    pub state: StoreState,
}

type Listener<'a> = dyn Fn(BatchEvent<'_>) + Sync + 'a;

impl Batch<'_> {
    /// Runs until everything is done, or `control` says otherwise.
    ///
    /// # Errors
    /// [`BatchError`] when an answer cannot be kept, the archive cannot be listed, or a stage panics.
    pub fn run(
        &self,
        (store, state): (&mut Store, StoreState),
        control: &RunControl,
        tally: &Tally,
        listen: &Listener<'_>,
    ) -> Result<BatchOutcome, BatchError> {
        let listing = list_aside(self.archive)?;
        let keeper = Mutex::new(Keeper { store, state, begun: HashMap::new(), lost: HashSet::new(), failure: None });
        let shared = SharedRun {
            batch: self,
            control,
            tally,
            listen,
            keeper,
            planned: Mutex::default(),
            is_listed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        };
        let feed = Feed { shared: &shared, listing, next: 0, unlisted: HashSet::new(), is_partial: false };
        let options = VideoOptions { n_restarts: Some(&tally.restarts), ..self.options };
        let (ended, end) = bounded::<()>(0);
        let report = std::thread::scope(|scope| {
            scope.spawn(|| shared.survey());
            scope.spawn(|| {
                let end = end;
                while end.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    shared.sync();
                    listen(BatchEvent::Tick(&tally.snapshot(&control.monitor.reports())));
                }
            });
            let mut answering = Answering { shared: &shared, pictured: HashSet::new() };
            let report = self.asking.run(feed, options, control, &mut |event| answering.take(event));
            // A survey that is still under way is of no more use.
            shared.is_over.store(true, Ordering::Relaxed);
            drop(ended);
            report
        });
        let is_whole = shared.is_listed.load(Ordering::Relaxed);
        let unfinished = lock(&shared.planned).len();
        let Keeper { store, state, failure, .. } = shared.keeper.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = failure {
            return Err(error);
        }
        let report = report?;
        store.sync()?;
        let snapshot = tally.snapshot(&report.stages);
        Ok(BatchOutcome { complete: is_whole && unfinished == 0, report, snapshot, state })
    }

    /// All questions about an item, each once, and those that come again under another name.
    fn questions_about(&self, item: &ArchiveItem) -> (Vec<BatchQuestion>, Vec<BatchQuestion>) {
        let (mut names, mut unique, mut renamed) = (HashMap::new(), Vec::new(), Vec::new());
        for question in self.questions.iter().chain(&item.questions) {
            let Some(name) = names.get(&question.question) else {
                names.insert(&question.question, &question.id);
                unique.push(question.clone());
                continue;
            };
            if question.id.is_some() && **name != question.id {
                renamed.push(question.clone());
            }
        }
        (unique, renamed)
    }
}

/// What the threads of a run share.
struct SharedRun<'r> {
    batch: &'r Batch<'r>,
    control: &'r RunControl,
    tally: &'r Tally,
    listen: &'r Listener<'r>,
    keeper: Mutex<Keeper<'r>>,
    /// The items that are under way, by the number of their job.
    planned: Mutex<HashMap<usize, PlannedItem>>,
    /// Whether the archive's end was encoded.
    is_listed: AtomicBool,
    /// Whether the run is over.
    is_over: AtomicBool,
}

/// The one place that writes.
struct Keeper<'r> {
    store: &'r mut Store,
    state: StoreState,
    /// Questions that this run has encoded, with the names that they came with first: a manifest may name a video twice.
    begun: HashMap<Id, Option<String>>,
    /// Items of which this run could see nothing.
    lost: HashSet<Id>,
    /// Why no more can be kept.
    failure: Option<BatchError>,
}

/// An item that is under way.
#[derive(Clone)]
struct PlannedItem {
    item: Arc<ArchiveItem>,
    questions: Arc<[BatchQuestion]>,
    bytes: u64,
}

impl SharedRun<'_> {
    /// Keeps a line. When that fails the run is over: more answers would be lost as well.
    fn keep(&self, record: &ResultRecord, times: Option<StepTimes>) -> bool {
        let mut keeper = lock(&self.keeper);
        if keeper.failure.is_some() {
            return false;
        }
        if let Err(error) = keeper.store.add(record, times) {
            keeper.failure = Some(error);
            self.control.stop.abort();
            return false;
        }
        keeper.state.take(record);
        if record.question.is_none() && record.failure().is_some() {
            keeper.lost.insert(record.item);
        }
        drop(keeper);
        if record.failure().is_some() {
            self.tally.fail(record);
            (self.listen)(BatchEvent::Failed(record));
        }
        true
    }

    /// Sees to it that lines do not wait long for the disk.
    fn sync(&self) {
        let mut keeper = lock(&self.keeper);
        if keeper.failure.is_none()
            && let Err(error) = keeper.store.sync_if_due()
        {
            keeper.failure = Some(error);
            self.control.stop.abort();
        }
    }

    /// Counts the archive while it is being asked about, for a guess of what is left.
    fn survey(&self) {
        if !self.batch.archive.is_lasting() {
            return;
        }
        // Errors are told by the listing that counts.
        let Ok(listing) = self.batch.archive.list() else { return };
        let mut size = ArchiveSize::default();
        for listed in listing {
            if self.is_over.load(Ordering::Relaxed) || self.control.stop.is_draining() {
                return;
            }
            match listed {
                ArchiveEntry::Item(item) if self.batch.shard.holds(item.id) => {
                    size = ArchiveSize { items: size.items + 1, bytes: size.bytes + length(&item) };
                }
                ArchiveEntry::Failed(unlisted) if self.batch.shard.holds(unlisted.id) => size.items += 1,
                _ => {}
            }
        }
        self.tally.expect(size);
    }
}

/// The jobs of an archive that are still to be done.
struct Feed<'s, 'r> {
    shared: &'s SharedRun<'r>,
    listing: Receiver<Result<ArchiveEntry, BatchError>>,
    next: usize,
    /// What could not be listed this time, or nothing was asked about.
    unlisted: HashSet<Id>,
    /// Whether a part of the archive could not be looked into.
    is_partial: bool,
}

impl Iterator for Feed<'_, '_> {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        loop {
            if self.shared.control.stop.is_draining() {
                return None;
            }
            let listed = match self.listing.recv_timeout(PATIENCE) {
                // Standard input may have nothing to say for long.
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => {
                    self.resolve();
                    self.shared.is_listed.store(true, Ordering::Relaxed);
                    return None;
                }
                Ok(Err(error)) => {
                    lock(&self.shared.keeper).failure.get_or_insert(error);
                    self.shared.control.stop.abort();
                    return None;
                }
                Ok(Ok(listed)) => listed,
            };
            match listed {
                ArchiveEntry::Ignored(keys) => (self.shared.listen)(BatchEvent::Ignored(&keys)),
                ArchiveEntry::Skipped(passed) if self.shared.batch.shard.holds(passed.id) => {
                    self.shared.tally.pass_over(&passed);
                }
                ArchiveEntry::Skipped(_) => {}
                ArchiveEntry::Failed(unlisted) => {
                    self.is_partial |= unlisted.kind == UNREADABLE;
                    if self.shared.batch.shard.holds(unlisted.id) {
                        self.unlisted.insert(unlisted.id);
                        self.lose(ResultRecord::unlisted(&unlisted), 0);
                    }
                }
                ArchiveEntry::Item(item) if self.shared.batch.shard.holds(item.id) => {
                    if let Some(job) = self.plan(item) {
                        return Some(job);
                    }
                }
                ArchiveEntry::Item(_) => {}
            }
        }
    }
}

impl Feed<'_, '_> {
    /// The job of an item, if anything is left to be asked about it.
    fn plan(&mut self, item: ArchiveItem) -> Option<Job> {
        let (batch, bytes) = (self.shared.batch, length(&item));
        let (questions, mut renamed) = batch.questions_about(&item);
        if questions.is_empty() {
            self.unlisted.insert(item.id);
            self.lose(ResultRecord::unasked(&item), bytes);
            return None;
        }
        let mut keeper = lock(&self.shared.keeper);
        let Keeper { state, begun, .. } = &mut *keeper;
        // A question that comes later is asked of what had none before.
        let is_over = state.is_failed(item.id) && !state.is_unasked(item.id) && !batch.retry_failed;
        let mut left = |question: &&BatchQuestion| {
            let text = &question.question;
            let is_done =
                if batch.retry_failed { state.is_answered(item.id, text) } else { state.is_done(item.id, text) };
            match begun.entry(item.id.with_question(text)) {
                Entry::Vacant(entry) => {
                    entry.insert(question.id.clone());
                    !is_over && !is_done
                }
                Entry::Occupied(entry) => {
                    if question.id.is_some() && *entry.get() != question.id {
                        renamed.push((*question).clone());
                    }
                    false
                }
            }
        };
        let left: Arc<[BatchQuestion]> = questions.iter().filter(|question| left(question)).cloned().collect();
        // Nothing is left to be tried again of an item whose answers are all there.
        let is_answered = |question: &BatchQuestion| state.is_answered(item.id, &question.question);
        let is_resolved = batch.retry_failed && state.is_failed(item.id) && questions.iter().all(is_answered);
        drop(keeper);
        for question in &renamed {
            (self.shared.listen)(BatchEvent::Renamed { video: &item.video, question });
        }
        if is_resolved {
            self.shared.keep(&ResultRecord::resolved(item.id), None);
        }
        if left.is_empty() {
            self.shared.tally.skip(bytes);
            return None;
        }
        let words = |questions: &[BatchQuestion]| questions.iter().map(|question| question.question.clone()).collect();
        let job = Job {
            path: item.path.clone(),
            window: item.window,
            questions: words(&left),
            all_questions: words(&questions),
        };
        let planned = PlannedItem { item: Arc::new(item), questions: left, bytes };
        lock(&self.shared.planned).insert(self.next, planned);
        self.next += 1;
        Some(job)
    }

    /// Keeps the failure of something that never becomes a job, unless it is known.
    fn lose(&self, record: ResultRecord, bytes: u64) {
        let is_known = lock(&self.shared.keeper).state.is_failed(record.item);
        if is_known && !self.shared.batch.retry_failed {
            self.shared.tally.skip(bytes);
        } else if self.shared.keep(&record, None) {
            self.shared.tally.lose(bytes);
        }
    }

    /// At the archive's end: what could not be listed before, and is not among what cannot be listed now, counts no
    /// more.
    fn resolve(&self) {
        if !self.shared.batch.retry_failed || !self.shared.batch.is_only_archive || self.is_partial {
            return;
        }
        let is_ours = |id: &Id| self.shared.batch.shard.holds(*id) && !self.unlisted.contains(id);
        let resolved: Vec<Id> = lock(&self.shared.keeper).state.unlisted().filter(is_ours).collect();
        for id in resolved {
            self.shared.keep(&ResultRecord::resolved(id), None);
        }
    }
}

/// Takes what the run tells.
struct Answering<'s, 'r> {
    shared: &'s SharedRun<'r>,
    /// The jobs under way whose small picture was kept.
    pictured: HashSet<usize>,
}

impl Answering<'_, '_> {
    fn take(&mut self, event: RunEvent<'_>) {
        match event {
            RunEvent::Answer { video, encoded, question, answer } => {
                let Some(planned) = lock(&self.shared.planned).get(&video.number).cloned() else { return };
                self.picture(video.number, &planned.item, encoded);
                self.answer(&planned, &planned.questions[question], (encoded, answer));
            }
            RunEvent::Done { video, encoded } => {
                self.pictured.remove(&video.number);
                let planned = lock(&self.shared.planned).remove(&video.number);
                let Some(planned) = planned else { return };
                let is_kept = match encoded {
                    Ok(encoded) => {
                        self.shared.tally.finish(encoded, planned.bytes);
                        true
                    }
                    Err(error) => {
                        self.shared.tally.lose(planned.bytes);
                        self.fail(&planned, &error)
                    }
                };
                if !is_kept {
                    lock(&self.shared.planned).insert(video.number, planned);
                }
                self.tell_refusal();
            }
        }
    }

    fn answer(
        &self,
        planned: &PlannedItem,
        question: &BatchQuestion,
        (encoded, answer): (&EncodedVideo, Result<Answer, ItemError>),
    ) {
        match answer {
            Ok(answer) => {
                let times = StepTimes::of(&encoded.timings, &answer);
                if self.shared.keep(&ResultRecord::answered(&planned.item, question, encoded, &answer), Some(times)) {
                    self.shared.tally.answer(&answer);
                }
            }
            Err(error) => {
                self.shared.keep(&ResultRecord::failed(&planned.item, Some(question), &error), None);
            }
        }
    }

    /// Keeps the failure of an item.
    fn fail(&self, planned: &PlannedItem, error: &ItemError) -> bool {
        if error.source.kind() == TOKEN_BUDGET {
            // It is of these questions: a shorter one may be asked.
            let mut records = planned.questions.iter().map(|q| ResultRecord::failed(&planned.item, Some(q), error));
            return records.all(|record| self.shared.keep(&record, None));
        }
        // A manifest may name it twice.
        let is_known = lock(&self.shared.keeper).lost.contains(&planned.item.id);
        is_known || self.shared.keep(&ResultRecord::failed(&planned.item, None, error), None)
    }

    /// Keeps an item's small picture, once.
    fn picture(&mut self, number: usize, item: &ArchiveItem, encoded: &EncodedVideo) {
        if !self.pictured.insert(number) {
            return;
        }
        let Some(picture) = &encoded.thumbnail else { return };
        let kept = lock(&self.shared.keeper).store.add_thumbnail(item.id, picture);
        if let Err(error) = kept {
            (self.shared.listen)(BatchEvent::Missed { what: "small pictures", cause: error.to_string() });
        }
    }

    fn tell_refusal(&self) {
        if let Some(refusal) = self.shared.batch.options.features.and_then(|features| features.take_write_error()) {
            (self.shared.listen)(BatchEvent::Missed { what: "visual tokens", cause: refusal.to_string() });
        }
    }
}

/// Lists on a thread of its own, which nobody waits for: a stream may never say anything more.
/// The beginning of a stream is waited for there too.
///
/// # Errors
/// When an archive that lasts cannot be listed; of a stream the receiver gets the error.
fn list_aside(archive: &Archive) -> Result<Receiver<Result<ArchiveEntry, BatchError>>, BatchError> {
    let opened = if archive.is_lasting() { Some(archive.list()?) } else { None };
    let (sender, listed) = bounded(AHEAD);
    let archive = archive.clone();
    std::thread::spawn(move || match opened.map_or_else(|| archive.list(), Ok) {
        Ok(listing) => {
            for listed in listing {
                if sender.send(Ok(listed)).is_err() {
                    return;
                }
            }
        }
        // Nobody waits for it if the run is over.
        Err(error) => drop(sender.send(Err(error))),
    });
    Ok(listed)
}

/// Bytes of an item's file; what cannot be looked at has none.
fn length(item: &ArchiveItem) -> u64 {
    std::fs::metadata(&item.path).map_or(0, |meta| meta.len())
}
