//! Run of a batch into a directory of results, with its messages: opens the store, asks what is left, writes status and
//! summary. Used by `batch` and `eval`.

use std::path::{Path, PathBuf};

use vidense::batch::store::{Header, LockHolder, Store, StoreState};
use vidense::batch::summary::write_status;
use vidense::batch::{
    Archive, Batch, BatchEvent, BatchOutcome, BatchQuestion, BatchSession, Shard, Snapshot, Summary, Tally,
};
use vidense::exec::{RunControl, Stop};
use vidense::pipeline::{LoadedModel, VideoOptions};

use super::batch_messages::{self, EventPrinter};
use super::output;

/// Directory of results that is open for a model.
pub struct OpenedResults<'m> {
    model: &'m LoadedModel,
    dir: PathBuf,
    shard: Shard,
    store: Store,
    state: StoreState,
}

/// Items of a run, and how they are asked about.
pub struct StoredRun<'a> {
    /// Archive of the items.
    pub archive: &'a Archive,
    /// Archive, as the user named it.
    pub named: &'a Path,
    /// Questions about every item, besides the item's own.
    pub questions: &'a [BatchQuestion],
    /// Whether items and questions that failed before are tried again.
    pub retry_failed: bool,
    /// Options of the videos.
    pub options: VideoOptions<'a>,
    /// Signal to end the run.
    pub stop: &'a Stop,
    /// Called with the counts, twice a second.
    pub on_tick: &'a (dyn Fn(&Snapshot) + Sync),
}

impl<'m> OpenedResults<'m> {
    /// Opens or begins the results of a model's plan, takes their lock, and prints their state.
    ///
    /// # Errors
    /// When another process writes there, or the results are of another plan.
    pub fn open(dir: &Path, model: &'m LoadedModel, shard: Shard) -> anyhow::Result<Self> {
        let header = Header::new(&model.plan, &model.fingerprint, model.arithmetic(), &model.model_files)?;
        let (store, state) = Store::open(dir, &header.with_shard(shard))?;
        batch_messages::print_opened(&store, &state);
        Ok(Self { model, dir: dir.to_owned(), shard, store, state })
    }

    /// Asks what is left, and writes answers, status, sessions and the summary.
    ///
    /// # Errors
    /// When a record cannot be written, the archive cannot be listed, or a stage panics.
    pub fn run(self, run: &StoredRun<'_>) -> anyhow::Result<BatchOutcome> {
        let Self { model, dir, shard, mut store, state } = self;
        let tally = Tally::new(model.device_name());
        let batch = Batch {
            asking: model.asking(),
            archive: run.archive,
            questions: run.questions,
            shard,
            retry_failed: run.retry_failed,
            is_only_archive: batch_messages::check_archive(&store, run.named)?,
            options: run.options,
            tally: &tally,
        };
        store.note(&run.session("begin", None))?;
        let printer = EventPrinter::new();
        let outcome = batch.run(&mut store, state, &RunControl::until(run.stop), &|event| {
            if let BatchEvent::Tick(snapshot) = event {
                (run.on_tick)(snapshot);
                if let Err(error) = write_status(&dir, snapshot) {
                    printer.warn_once("the status", &error.to_string());
                }
            }
            printer.print(&event);
        });
        printer.finish();
        let outcome = outcome?;
        let summary = Summary::of(&outcome);
        store.note(&run.session("end", Some(summary.clone())))?;
        outcome.report.warnings.iter().for_each(|warning| output::warning(warning));
        write_status(&dir, &summary.session)?;
        summary.write(&dir)?;
        Ok(outcome)
    }
}

impl StoredRun<'_> {
    /// Makes the line of a session's begin or end.
    fn session(&self, event: &str, summary: Option<Summary>) -> BatchSession {
        BatchSession {
            event: event.to_owned(),
            holder: LockHolder::this(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            archive: self.named.to_string_lossy().into_owned(),
            questions: self.questions.iter().map(|question| question.question.clone()).collect(),
            summary,
        }
    }
}
