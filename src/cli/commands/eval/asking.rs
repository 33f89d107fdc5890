//! Asking the questions of a benchmark as a batch: isolated, limited, and resumed from a directory of results.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::TempDir;
use vidense::batch::Archive;
use vidense::eval::benchmark::RUN;
use vidense::exec::Stop;
use vidense::files::output::create_directory;
use vidense::pipeline::{Preview, VideoOptions};
use vidense::spec::Document;

use super::Eval;
use super::benchmark::PreparedBenchmark;
use crate::cli::limits::Supervision;
use crate::cli::session::Session;
use crate::cli::stored_run::{OpenedResults, StoredRun};
use crate::cli::{interrupt, timings};

/// Directory of the results of a run: kept with the evaluation, or removed at the end.
pub(super) enum RunDirectory {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl RunDirectory {
    /// Returns the directory of results of the evaluation `out`, and creates it.
    ///
    /// # Errors
    /// When it cannot be created.
    pub(super) fn of(out: Option<&Path>) -> anyhow::Result<Self> {
        let Some(out) = out else {
            return Ok(Self::Temporary(tempfile::Builder::new().prefix("vidense-eval-").tempdir()?));
        };
        let dir = out.join(RUN);
        create_directory(&dir).map_err(vidense::error::Error::io(&dir))?;
        Ok(Self::Kept(dir))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Kept(dir) => dir,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

impl Eval {
    /// Asks the questions about the videos that are there and that the results in `dir` do not answer yet.
    ///
    /// # Errors
    /// When the model cannot be opened, or the results cannot be written.
    pub(super) fn ask(&self, prepared: &PreparedBenchmark, dir: &Path) -> anyhow::Result<()> {
        let PreparedBenchmark { spec, data, dataset, tasks, .. } = prepared;
        let plan = self.benchmark_plan(spec)?;
        // Without a first question: a damaged first video fails alone.
        let session = Session::open(plan, &Document::empty())?;
        if tasks.have_timed_subtitles() {
            session.model.asking().check_subtitles()?;
        }
        let results = OpenedResults::open(dir, &session.model, self.benchmark.shard)?;
        let archive = Archive::of_items(tasks.items(&dataset.questions, data));
        let stop = Stop::new();
        interrupt::stop_on(&stop)?;
        let begin = Instant::now();
        let isolation = self.items.isolation(Supervision::Unattended, self.plan.read())?;
        let features = self.cache.as_deref().map(|dir| self.features(dir, &session)).transpose()?;
        let options = VideoOptions {
            limits: self.items.limits(Supervision::Unattended, self.plan.read())?,
            isolation: isolation.as_ref(),
            features: features.as_ref(),
            preview: if self.benchmark.out.is_some() { Preview::Sheet } else { Preview::None },
            ..VideoOptions::default()
        };
        let outcome = results.run(&StoredRun {
            archive: &archive,
            named: data,
            questions: &[],
            retry_failed: self.benchmark.retry_failed,
            options,
            stop: &stop,
            on_tick: &|_| {},
        })?;
        if self.timings {
            timings::print(&outcome.report, begin.elapsed());
        }
        Ok(())
    }
}
