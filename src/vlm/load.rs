//! Loading of a model: from a [`Blueprint`] to a [`Vlm`] in memory.

use std::sync::Arc;

use candle_core::{Device, Shape, Tensor};

use super::blueprint::Blueprint;
use super::error::{mismatch, with_sizes};
use super::frames::FrameTables;
use super::gguf::{self, QueryKeyRows};
use super::ignored_tensors::{IgnoredTensors, TowerPart};
use super::language_loader::{load_language, other_formats};
use super::model::Vlm;
use super::placement::{Placement, VisionPlacement};
use super::tower_source::TowerSource;
use super::{FeatureSelection, Unused, names, tying};
use crate::connector::Connector;
use crate::device::{release_unused_memory, release_upload_buffers};
use crate::error::Error;
use crate::image::Preprocessor;
use crate::language::LlamaConfig;
use crate::nn::Purpose;
use crate::projector::{Projector, ProjectorKind};
use crate::vision::{Tower, TowerConfig};
use crate::weights::{Checkpoint, Ledger, OnLoad, Rename};

impl Vlm {
    /// Loads the weights; `on_load` is called for each tensor.
    ///
    /// # Errors
    /// [`Error`] naming every tensor that is missing or mis-shaped, or that should be used and is not; where the
    /// plan allows unused tensors, [`Vlm::warnings`] names them.
    pub fn load(blueprint: Blueprint, placement: &Placement, on_load: &OnLoad) -> Result<Self, Error> {
        let (name, n_parameters) = (blueprint.name.clone(), blueprint.n_parameters());
        let loaded = Self::load_weights(blueprint, placement, on_load);
        release_upload_buffers();
        release_unused_memory(&Device::Cpu);
        loaded.map_err(|error| with_sizes(error, &name, n_parameters, placement))
    }

    fn load_weights(blueprint: Blueprint, placement: &Placement, on_load: &OnLoad) -> Result<Self, Error> {
        placement.check(blueprint.config.llama.kv_geometry())?;
        let vision = placement.vision();
        let Blueprint {
            name,
            config,
            tower,
            tower_source,
            connector,
            window,
            preprocess,
            tokenizer,
            template,
            marks,
            single_image,
            mut warnings,
            unused,
            n_tower_layers,
            checkpoint,
            llm,
            ..
        } = blueprint;
        let ledger = Ledger::new(checkpoint, Arc::clone(on_load));
        let failed = Error::compute("loading the weights");

        let llm_ledger = llm.map_or_else(|| Arc::clone(&ledger), |llm| Ledger::new(llm, Arc::clone(on_load)));
        let (llama, warning) = tying::resolve(config.llama.clone(), &llm_ledger)?;
        let llama = &llama;
        warnings.extend(warning);
        let rows = QueryKeyRows::of(config.language);
        let mut language = load_language(llama, rows, &llm_ledger, placement).map_err(&failed)?;
        language.set_kv_dtype(placement.kv_dtype).map_err(Error::compute("kv_dtype"))?;

        let selection = config.feature_selection(tower.family);
        let newline = read_newline(ledger.checkpoint(), llama, &vision)?;
        let shape = ProjectorShape {
            kind: config.projector,
            connector: connector.as_ref(),
            selection,
            tower: &tower,
            d_out: llama.d_hidden,
        };
        let projector = load_projector(&shape, &ledger, &vision).map_err(&failed)?;

        let (tower_ledger, prefix) = tower_ledger(tower_source, &ledger, on_load);
        let part =
            TowerPart { prefix, n_read: connector.last_layer().0.min(tower.n_layers), n_described: n_tower_layers };
        let tower = load_tower(&tower, &part, &tower_ledger, &vision).map_err(&failed)?;

        ledger.check()?;
        llm_ledger.check()?;
        tower_ledger.check()?;
        let ledgers = Ledgers { main: &ledger, llm: &llm_ledger, tower: &tower_ledger };
        warnings.extend(ledgers.check_unused(unused, llama, &part)?);
        warnings.extend(placement.quantization.and_then(|format| other_formats(&language, format)));
        Ok(Self {
            name,
            family: config.family,
            video_path: config.video_path,
            preprocessor: Preprocessor::new(preprocess),
            tower,
            connector,
            window,
            projector,
            language,
            vision,
            frame_tables: FrameTables::default(),
            tokenizer,
            template,
            context: config.context,
            marks,
            spelling: config.spelling,
            single_image,
            image_token: config.visual_token(),
            single_image_token: config.image_token,
            generation: config.generation,
            selection,
            newline,
            warnings,
        })
    }
}

/// Modules that determine the shape of a projector.
struct ProjectorShape<'a> {
    kind: ProjectorKind,
    connector: &'a dyn Connector,
    selection: FeatureSelection,
    tower: &'a TowerConfig,
    /// Width of the language model.
    d_out: usize,
}

/// Loads the projector, packed for the kernels.
fn load_projector(
    shape: &ProjectorShape<'_>,
    ledger: &Arc<Ledger>,
    vision: &VisionPlacement,
) -> candle_core::Result<Projector> {
    let &ProjectorShape { kind, connector, selection, tower, d_out } = shape;
    let width = connector.width(selection.width(tower));
    let why = format!(
        "{kind}: connector {} over a tower of width {}{} gives {width} channels; the language model takes {d_out}",
        connector.kind(),
        tower.d_hidden,
        selection.describe(),
    );
    let vb = ledger.part(names::projector(ledger.checkpoint()), why, vision.dtype, &vision.device);
    let mut projector = Projector::load(kind, width, d_out, &vb)?;
    projector.pack()?;
    Ok(projector)
}

/// Reads `image_newline`, `(H)`, if the checkpoint has it.
fn read_newline(
    checkpoint: &Checkpoint,
    llama: &LlamaConfig,
    vision: &VisionPlacement,
) -> Result<Option<Tensor>, Error> {
    let Some(name) = names::newline(checkpoint) else { return Ok(None) };
    let (found, wanted) = (checkpoint.shape(name).map(Shape::dims).unwrap_or_default(), [llama.d_hidden]);
    if found != wanted {
        let rule = format!("{name}: expected {wanted:?}, found {found:?}");
        return Err(mismatch(checkpoint.dir(), rule));
    }
    let row = checkpoint.load(name, vision.dtype, &vision.device);
    row.map(Some).map_err(Error::compute("reading image_newline"))
}

/// Returns the ledger of the tower's tensors, and the prefix of their names.
fn tower_ledger(source: TowerSource, inside: &Arc<Ledger>, on_load: &OnLoad) -> (Arc<Ledger>, &'static str) {
    match source {
        TowerSource::Inside => (Arc::clone(inside), names::tower_inside(inside.checkpoint()).unwrap_or_default()),
        TowerSource::Beside(beside) => {
            let prefix = names::tower_beside(&beside);
            (Ledger::new(*beside, Arc::clone(on_load)), prefix)
        }
    }
}

/// Loads the tower, up to the last layer whose hidden state is needed.
fn load_tower(
    tower: &TowerConfig,
    part: &TowerPart<'_>,
    ledger: &Arc<Ledger>,
    vision: &VisionPlacement,
) -> candle_core::Result<Tower> {
    let why = format!(
        "tower config.json: hidden_size {}, {} layers run, image_size {}, patch_size {}",
        tower.d_hidden, tower.n_layers, tower.image_size, tower.patch_size
    );
    let vb = ledger.part(Rename::none().prefix("", part.prefix), why, vision.dtype, &vision.device);
    Tower::load(tower, part.n_read, &vb, Purpose::Inference)
}

/// Ledgers of a model's checkpoints, of which several may be the same.
struct Ledgers<'a> {
    main: &'a Arc<Ledger>,
    llm: &'a Arc<Ledger>,
    tower: &'a Arc<Ledger>,
}

impl Ledgers<'_> {
    /// Refuses or warns about the tensors of each checkpoint that were not read and are not ignored; returns the
    /// warnings.
    fn check_unused(&self, unused: Unused, llama: &LlamaConfig, tower: &TowerPart<'_>) -> Result<Vec<String>, Error> {
        let mut warnings = Vec::new();
        let mut check = |ledger: &Ledger, ignored: &IgnoredTensors| {
            let rest = ignored.without_ignored(ledger.unused());
            warnings.extend(unused.enforce(ledger.checkpoint().dir(), "tensors", &rest)?);
            Ok::<_, Error>(())
        };
        let language = names::language(self.main.checkpoint());
        let mut main = IgnoredTensors::default();
        main.image_newline();
        if Arc::ptr_eq(self.main, self.llm) {
            main.language_buffers(&language, llama);
        } else {
            main.replaced_language(&language);
            check(self.llm, &gguf::ignored_tensors(llama))?;
        }
        if Arc::ptr_eq(self.main, self.tower) {
            main.beyond_hidden_states(tower);
        } else {
            main.replaced_tower(self.main.checkpoint());
            let mut beside = IgnoredTensors::default();
            beside.beyond_hidden_states(tower);
            beside.beside_tower(self.tower.checkpoint(), tower.prefix);
            check(self.tower, &beside)?;
        }
        check(self.main, &main)?;
        Ok(warnings)
    }
}
