//! Runs of cells one after the other: a model is loaded once for the cells that follow each other with its weights, and
//! the frames of cells that differ in the temporal strategy alone are encoded once.

use vidense::batch::{Archive, Shard};
use vidense::error::About as _;
use vidense::exec::Stop;
use vidense::files::output::create_directory;
use vidense::pipeline::features::{identity, identity_under};
use vidense::pipeline::{AlsoAggregated, CheckedPlan, FeatureCache, LoadedModel, VideoOptions};

use super::super::Eval;
use super::super::benchmark::PreparedBenchmark;
use super::{CACHE, PreparedMatrix};
use crate::cli::limits::Supervision;
use crate::cli::session::Session;
use crate::cli::stored_run::{OpenedResults, StoredRun};

/// Runner of cells, with the model of the last one.
pub(super) struct CellRunner<'a> {
    eval: &'a Eval,
    prepared: &'a PreparedMatrix,
    stop: &'a Stop,
    loaded: Option<LoadedModel>,
}

/// Caches of a cell.
struct CellCaches {
    own: Option<FeatureCache>,
    /// Caches of later cells over the same frames.
    also: Vec<AlsoAggregated>,
}

impl<'a> CellRunner<'a> {
    pub(super) fn new(eval: &'a Eval, prepared: &'a PreparedMatrix, stop: &'a Stop) -> Self {
        Self { eval, prepared, stop, loaded: None }
    }

    /// Asks what is left of a cell, and scores it if nothing is. `later` are the cells that run after it.
    ///
    /// # Errors
    /// When the model cannot be opened, or the results cannot be written.
    pub(super) fn run(&mut self, index: usize, later: &[usize]) -> anyhow::Result<()> {
        let model = self.open(index)?;
        let asked = self.ask(index, later, &model);
        // The weights stay for the next cell, whatever came of this one.
        self.loaded = Some(model);
        asked?;
        Ok(self.prepared.files(index).write_evaluation()?)
    }

    /// Returns the model of a cell: the loaded one if it has the same weights.
    fn open(&mut self, index: usize) -> anyhow::Result<LoadedModel> {
        let checked: &CheckedPlan = &self.prepared.checked[index];
        let is_same = |loaded: &LoadedModel| loaded.plan.of_weights() == checked.plan.of_weights();
        match self.loaded.take().filter(is_same) {
            Some(loaded) => Ok(loaded.under(checked.clone())?),
            None => Ok(Session::open(checked.plan.clone(), &self.prepared.matrix.cells[index].document)?.model),
        }
    }

    fn ask(&self, index: usize, later: &[usize], model: &LoadedModel) -> anyhow::Result<()> {
        let PreparedBenchmark { data, dataset, tasks, .. } = &self.prepared.benchmark;
        if tasks.have_timed_subtitles() {
            model.asking().check_subtitles()?;
        }
        let dir = self.prepared.files(index).run_dir();
        create_directory(&dir).about(&dir)?;
        let results = OpenedResults::open(&dir, model, Shard::default())?;
        let archive = Archive::of_items(tasks.items(&dataset.questions, data));
        let (items, read) = (&self.eval.items, self.eval.plan.read());
        let isolation = items.isolation(Supervision::Unattended, read)?;
        let caches = self.caches(index, later, model)?;
        let options = VideoOptions {
            limits: items.limits(Supervision::Unattended, read)?,
            isolation: isolation.as_ref(),
            features: caches.own.as_ref(),
            also: &caches.also,
            ..VideoOptions::default()
        };
        results.run(&StoredRun {
            archive: &archive,
            named: data,
            questions: &[],
            retry_failed: self.eval.benchmark.retry_failed,
            options,
            stop: self.stop,
            on_tick: &|_| {},
        })?;
        Ok(())
    }

    /// Returns the cache of a cell, if it shares frames with another cell of the matrix or the user names a cache, and
    /// those of later cells whose visual tokens are made along.
    fn caches(&self, index: usize, later: &[usize], model: &LoadedModel) -> anyhow::Result<CellCaches> {
        let checked = &self.prepared.checked;
        let own = &checked[index].plan;
        let shares = |other: usize| {
            let other = &checked[other].plan;
            other.of_weights() == own.of_weights() && other.of_frames() == own.of_frames()
        };
        let is_shared = (0..checked.len()).any(|other| other != index && shares(other));
        if !is_shared && self.eval.cache.is_none() {
            return Ok(CellCaches { own: None, also: Vec::new() });
        }
        let own_identity = identity(model)?;
        let mut seen = vec![own_identity.clone()];
        let mut also = Vec::new();
        for &other in later.iter().filter(|&&other| shares(other)) {
            let plan = &checked[other].plan;
            let made_by = identity_under(model, plan)?;
            // Cells that differ in the prompt alone have the same tokens.
            if !seen.contains(&made_by) {
                seen.push(made_by.clone());
                also.push(AlsoAggregated { temporal: plan.temporal(), features: self.cache(made_by)? });
            }
        }
        Ok(CellCaches { own: Some(self.cache(own_identity)?), also })
    }

    fn cache(&self, made_by: String) -> anyhow::Result<FeatureCache> {
        let dir = self.eval.cache.clone().unwrap_or_else(|| self.prepared.out.join(CACHE));
        Ok(FeatureCache::open(&dir, self.eval.cache_limit.as_u64(), made_by).about(dir)?)
    }
}
