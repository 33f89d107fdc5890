//! A run of a whole recipe: from the model's description over its stages to a checkpoint that `--model` loads.
//!
//! [`train`] is called by `vidense train`. The beginning of a run is in `start`, the key of its cached features in
//! `features_key`, the checks of its directory in `directory`, the export of the model in `export`; one stage's loop is
//! in [`super::stage`].

mod directory;
mod export;
mod features_key;
mod start;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use self::features_key::features_key;
use self::start::{first_weights, hash_sources, open_start, resume};
use super::answers::{AnswerObjective, AnswerParts};
use super::data::{Dataset, Order, WorldImages};
use super::design::{ModelStart, TowerPlace, write_design};
use super::features::{Encoder, Features};
use super::metrics::Metrics;
use super::parameters::{Parameters, Part};
use super::recipe::{Recipe, Stage, StageKind};
use super::stage::{StageRun, StepReport};
use super::state::{Progress, State};
use super::tower::{TowerImages, TowerObjective};
use super::workers::Workers;
use crate::error::Error;
use crate::image::Preprocessor;
use crate::nn::Purpose;
use crate::vision::Tower;
use crate::vlm::{Design, StartingWeights};
use crate::weights::Hub;

/// Event of a run, for a listener.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainEvent {
    /// A run resumes the state of an earlier one.
    Resumed {
        /// The stage's name.
        stage: String,
        /// The step that comes next.
        step: usize,
    },
    /// An earlier run left no hashes of the weights that it began with, so the present ones are not compared.
    SourcesNotCompared,
    /// An earlier run did all stages: only the model is written.
    AllDone,
    /// Progress of the features of the images.
    Encoded {
        /// Images with features.
        n_images: usize,
        /// Number of all images.
        of: usize,
    },
    /// A step is done.
    Step(StepReport),
}

/// The two projector weights that a scale of the features is folded into, or out of.
const FIRST_MATRIX: [&str; 2] = ["model.mm_projector.0.weight", "model.mm_projector.weight"];
/// The directory of a run inside a model's: its state, features and metrics.
pub const RUN_DIR: &str = "run";

/// Treatment of the state of an earlier run in the same directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierRun {
    /// Resume it.
    Resume,
    /// Delete it, and begin anew.
    Discard,
}

/// Output of a run.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// Directory of the model, with the run's state and metrics in a directory of their own.
    pub model: &'a Path,
    /// Directory of the tower's features; runs with the same tower, connector and images share them.
    pub features: &'a Path,
    /// The precision of the model's weights. Those of the run's state are f32.
    pub dtype: DType,
    /// Treatment of an earlier run in `model`.
    pub earlier: EarlierRun,
}

/// Resources of a run.
#[derive(Debug, Clone, Copy)]
pub struct TrainResources<'a> {
    /// Device of the model.
    pub device: &'a Device,
    /// Source of the models that the recipe starts from.
    pub hub: &'a Hub,
}

/// Trains the recipe's model, from where an earlier run left it.
///
/// # Errors
/// [`Error`]; what an earlier step wrote is good.
pub fn train(
    recipe: &Recipe,
    output: Output<'_>,
    resources: TrainResources<'_>,
    listen: &mut dyn FnMut(&TrainEvent) -> Result<(), Error>,
) -> Result<(), Error> {
    let TrainResources { device, hub } = resources;
    let dir = output.model;
    let run_dir = dir.join(RUN_DIR);
    let start = ModelStart::find(recipe, hub)?;
    directory::prepare(&start, &output)?;
    let sources = hash_sources(&start)?;
    let state = resume(recipe, &run_dir, &sources)?;
    let is_compared = sources.is_empty() || state.progress.sources.is_some();
    let texts = recipe.tokenizer_data().map(|data| data.open(&recipe.base)).transpose()?;
    let mut design = write_design(recipe, &start, texts.as_deref(), &output)?;
    let from = open_start(recipe, &start, &mut design)?;
    let parameters = Parameters::new(first_weights(recipe, &start, &design, from.clone())?, device);
    for (name, tensor) in &state.weights {
        parameters.set(name, tensor).map_err(Error::compute("taking up the run"))?;
    }
    // A GPU is kept busy by one graph at a time.
    let n_workers = if device.is_cpu() { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    let workers =
        Workers::new(n_workers).map_err(|error| Error::compute("starting workers")(candle_core::Error::wrap(error)))?;
    let mut trainer = Trainer {
        recipe,
        run_dir,
        features_dir: output.features.to_owned(),
        design,
        place: start.place,
        from,
        parameters,
        progress: Progress { sources: Some(sources), ..state.progress },
        workers,
    };
    if trainer.progress.n_stages_begun() > 0 {
        if !is_compared {
            listen(&TrainEvent::SourcesNotCompared)?;
        }
        listen(&match recipe.stages.get(trainer.progress.stage) {
            Some(stage) => TrainEvent::Resumed { stage: stage.name.clone(), step: trainer.progress.step },
            None => TrainEvent::AllDone,
        })?;
    }
    let mut metrics = Metrics::open(&trainer.run_dir, &recipe.stages, &trainer.progress)?;
    let mut optimizer = state.optimizer;
    let every = recipe.checkpoint_every;
    let mut on_event = |event: &TrainEvent| {
        if let TrainEvent::Step(step) = event {
            metrics.add(step)?;
            if (step.step + 1).is_multiple_of(every) || step.step + 1 == step.steps {
                metrics.draw()?;
            }
        }
        listen(event)
    };
    while let Some(stage) = recipe.stages.get(trainer.progress.stage) {
        trainer.stage(stage, std::mem::take(&mut optimizer), &mut on_event)?;
    }
    trainer.export(&output)
}

struct Trainer<'a> {
    recipe: &'a Recipe,
    run_dir: PathBuf,
    features_dir: PathBuf,
    design: Design,
    place: TowerPlace,
    from: Option<Arc<StartingWeights>>,
    parameters: Parameters,
    progress: Progress,
    workers: Workers,
}

type Listen<'l> = &'l mut dyn FnMut(&TrainEvent) -> Result<(), Error>;

impl Trainer<'_> {
    /// Runs one stage to its end, and writes the state from which the next begins.
    fn stage(&mut self, stage: &Stage, optimizer: BTreeMap<String, Tensor>, listen: Listen<'_>) -> Result<(), Error> {
        self.progress.recipe = self.recipe.fingerprint(self.progress.stage + 1);
        match stage.stage {
            StageKind::Tower => self.tower_stage(stage, optimizer, listen)?,
            StageKind::Connector | StageKind::Instruct => self.answer_stage(stage, optimizer, listen)?,
        }
        self.parameters.forget(Part::Heads);
        self.progress = Progress { stage: self.progress.stage + 1, step: 0, ..self.progress.clone() };
        let (progress, weights) = (self.progress.clone(), self.parameters.all());
        State { progress, weights, optimizer: BTreeMap::new() }.write(&self.run_dir)
    }

    fn tower_stage(
        &mut self,
        stage: &Stage,
        optimizer: BTreeMap<String, Tensor>,
        listen: Listen<'_>,
    ) -> Result<(), Error> {
        self.parameters.freeze([Part::Projector, Part::LanguageModel]);
        let preprocessor = Preprocessor::new(self.design.preprocess.clone());
        let world = stage.data.shapes_world.clone().ok_or_else(|| {
            let error = Error::invalid("a tower is pretrained on shapes_world");
            error.about(format!("stage {}", stage.name)).about(&self.recipe.base)
        })?;
        let data = WorldImages::new(world);
        let order = self.order(stage, &data);
        let images = TowerImages { data, preprocessor };
        let objective = TowerObjective::new(&self.design.tower, &stage.probes, &self.parameters, images);
        let objective = objective.map_err(Error::compute("laying out the tower"))?;
        self.begin(stage).run(&objective, &order, optimizer, &mut |step| listen(&TrainEvent::Step(step.clone())))
    }

    fn answer_stage(
        &mut self,
        stage: &Stage,
        optimizer: BTreeMap<String, Tensor>,
        listen: Listen<'_>,
    ) -> Result<(), Error> {
        self.parameters.freeze(stage.frozen.iter().copied());
        let data = stage.data.open(&self.recipe.base)?;
        let order = self.order(stage, &*data);
        let features = self.features(&*data, listen)?;
        let parts = AnswerParts {
            design: &self.design,
            feature_scale: self.recipe.model.feature_scale,
            data,
            features,
            stretch: stage.stretch,
            seed: self.stage_seed(),
        };
        let objective = AnswerObjective::new(parts, &self.parameters)?;
        self.begin(stage).run(&objective, &order, optimizer, &mut |step| listen(&TrainEvent::Step(step.clone())))
    }

    fn begin<'s>(&'s self, stage: &'s Stage) -> StageRun<'s> {
        StageRun {
            stage,
            dir: &self.run_dir,
            checkpoint_every: self.recipe.checkpoint_every,
            progress: self.progress.clone(),
            parameters: &self.parameters,
            workers: &self.workers,
        }
    }

    /// Returns a seed for each stage.
    fn stage_seed(&self) -> u64 {
        self.recipe.seed.wrapping_mul(1000).wrapping_add(self.progress.stage as u64) << 20
    }

    fn order(&self, stage: &Stage, data: &dyn Dataset) -> Order {
        let n_simple = (stage.simple_share * stage.steps as f64) as usize;
        Order::new(data.n_images(), |index| data.is_simple(index), n_simple, stage.batch, self.stage_seed())
    }

    /// Returns the features of a dataset, computed if this tower has not seen it yet.
    fn features(&self, data: &dyn Dataset, listen: Listen<'_>) -> Result<Features, Error> {
        let design = &self.design;
        let tower = Tower::load(
            &design.tower,
            design.connector.last_layer().0,
            &self.parameters.part(Part::VisionTower),
            Purpose::Training,
        )
        .map_err(Error::compute("laying out the tower"))?;
        let preprocessor = Preprocessor::new(design.preprocess.clone());
        let encoder = Encoder {
            tower: &tower,
            connector: design.connector.as_ref(),
            selection: design.config.feature_selection(design.tower.family),
            preprocessor: &preprocessor,
            device: self.parameters.device(),
        };
        let key = features_key(design, &self.parameters, data)?;
        let of = data.n_images();
        let mut failed = None;
        let path = self.features_dir.join(format!("features-{key}.f16"));
        let features = Features::open(&path, data, &encoder, &mut |n_images| {
            failed = failed.take().or(listen(&TrainEvent::Encoded { n_images, of }).err());
        })?;
        failed.map_or(Ok(features), Err)
    }
}
