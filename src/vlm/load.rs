//! From a blueprint to a model in memory.

use std::sync::Arc;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;

use super::blueprint::{Blueprint, TowerSource};
use super::frames::FrameTables;
use super::gguf::{self, GgufLinearLoader, QueryKeyRows};
use super::model::Vlm;
use super::spare::{Spares, TowerPart};
use super::{ModelError, Unused, names, tying};
use crate::device::{DTypeSpec, release_unused_memory, release_upload_buffers};
use crate::image::Preprocessor;
use crate::kernels;
use crate::kernels::kv::{KvConfig, KvGeometry};
use crate::language::{Llama, LlamaConfig};
use crate::nn::linear::Bias;
use crate::nn::{FullPrecisionLoader, Linear, LinearLoader, Purpose, QuantFormat, QuantizingLoader};
use crate::projector::Projector;
use crate::vision::{Tower, TowerConfig};
use crate::weights::{Checkpoint, Ledger, OnLoad, Rename, StoredRows};

/// Placement of the vision encoder: tower, connector and projector.
#[derive(Debug, Clone)]
pub struct VisionPlacement {
    /// Its device.
    pub device: Device,
    /// The precision in which it computes.
    pub dtype: DType,
}

/// Where a model runs, and how it is held there.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Device of the language model, and of the vision encoder where the field `vision` says nothing else.
    pub device: Device,
    /// The precision in which it computes.
    pub dtype: DType,
    /// Another place of the vision encoder. Its visual tokens are moved once, when they are whole.
    pub vision: Option<VisionPlacement>,
    /// In fewer bits than that, the language model's linear layers.
    pub quantization: Option<QuantFormat>,
    /// Precision in which keys and values are stored.
    pub kv_dtype: DTypeSpec,
}

impl Placement {
    /// On the CPU, in f32.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32, vision: None, quantization: None, kv_dtype: DTypeSpec::Auto }
    }

    /// The place of the vision encoder.
    fn vision(&self) -> VisionPlacement {
        let same = || VisionPlacement { device: self.device.clone(), dtype: self.dtype };
        self.vision.clone().unwrap_or_else(same)
    }

    /// Refuses a precision of keys and values that has no store.
    fn check(&self, geometry: KvGeometry) -> Result<(), ModelError> {
        let kernels = kernels::of(&self.device, self.dtype);
        let &Self { ref device, dtype: activations, quantization, kv_dtype: precision, .. } = self;
        let store = kernels.kv_store(&KvConfig { geometry, precision, activations, quantization, device });
        store.map_err(ModelError::compute("kv_dtype")).map(drop)
    }
}

impl Vlm {
    /// Reads the weights; `on_load` hears of each tensor.
    ///
    /// # Errors
    /// [`ModelError`] naming every tensor that is missing or mis-shaped, or that should be used and is not; where the
    /// plan allows unused tensors, [`Vlm::warnings`] names them.
    pub fn load(blueprint: Blueprint, placement: &Placement, on_load: &OnLoad) -> Result<Self, ModelError> {
        let (name, n_parameters) = (blueprint.name.clone(), blueprint.n_parameters());
        let loaded = Self::load_weights(blueprint, placement, on_load);
        release_upload_buffers();
        release_unused_memory(&Device::Cpu);
        loaded.map_err(|error| error.with_sizes(&name, n_parameters, placement))
    }

    fn load_weights(blueprint: Blueprint, placement: &Placement, on_load: &OnLoad) -> Result<Self, ModelError> {
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
        let failed = ModelError::compute("loading the weights");

        let llm_ledger = llm.map_or_else(|| Arc::clone(&ledger), |llm| Ledger::new(llm, Arc::clone(on_load)));
        let (llama, warning) = tying::resolve(config.llama.clone(), &llm_ledger)?;
        let llama = &llama;
        warnings.extend(warning);
        let rows = QueryKeyRows::of(config.language);
        let mut language = load_language((llama, rows), &llm_ledger, placement).map_err(&failed)?;
        language.set_kv_dtype(placement.kv_dtype).map_err(ModelError::compute("kv_dtype"))?;

        let selection = config.feature_selection(tower.family);
        let width = connector.width(selection.width(&tower));
        let newline = read_newline(ledger.checkpoint(), llama, &vision)?;
        let why = format!(
            "{}: connector {} over a tower of width {}{} gives {width} channels; the language model takes {}",
            config.projector,
            connector.kind(),
            tower.d_hidden,
            selection.describe(),
            llama.d_hidden
        );
        let vb = ledger.part(names::projector(ledger.checkpoint()), why, vision.dtype, &vision.device);
        let mut projector = Projector::load(config.projector, width, llama.d_hidden, &vb).map_err(&failed)?;
        projector.pack().map_err(&failed)?;

        let (tower_ledger, prefix) = tower_ledger(tower_source, &ledger, on_load);
        let part =
            TowerPart { prefix, n_read: connector.last_layer().0.min(tower.n_layers), n_described: n_tower_layers };
        let tower = load_tower(&tower, &part, &tower_ledger, &vision).map_err(&failed)?;

        ledger.check()?;
        llm_ledger.check()?;
        tower_ledger.check()?;
        let ledgers = Ledgers { main: &ledger, llm: &llm_ledger, tower: &tower_ledger };
        warnings.extend(ledgers.judge_unused(unused, llama, &part)?);
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
            frames: FrameTables::default(),
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

/// The row that ends rows or frames of visual tokens, `(H)`, if the checkpoint has one.
fn read_newline(
    checkpoint: &Checkpoint,
    llama: &LlamaConfig,
    vision: &VisionPlacement,
) -> Result<Option<Tensor>, ModelError> {
    let Some(name) = names::newline(checkpoint) else { return Ok(None) };
    let (found, wanted) = (checkpoint.shape(name).map(Shape::dims).unwrap_or_default(), [llama.d_hidden]);
    if found != wanted {
        let rule = format!("{name}: expected {wanted:?}, found {found:?}");
        return Err(ModelError::Combination { path: checkpoint.dir().to_owned(), rule });
    }
    let row = checkpoint.load(name, vision.dtype, &vision.device);
    row.map(Some).map_err(ModelError::compute("reading image_newline"))
}

/// The tensors of the tower, and the prefix of their names.
fn tower_ledger(source: TowerSource, inside: &Arc<Ledger>, on_load: &OnLoad) -> (Arc<Ledger>, &'static str) {
    match source {
        TowerSource::Inside => (Arc::clone(inside), names::tower_inside(inside.checkpoint()).unwrap_or_default()),
        TowerSource::Beside(beside) => {
            let prefix = names::tower_beside(&beside);
            (Ledger::new(*beside, Arc::clone(on_load)), prefix)
        }
    }
}

/// The tower, as deep as its hidden states are needed.
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

/// The language model, from a checkpoint or from a GGUF file.
fn load_language(
    (llama, rows): (&LlamaConfig, QueryKeyRows),
    ledger: &Arc<Ledger>,
    placement: &Placement,
) -> candle_core::Result<Llama> {
    let Placement { device, dtype, quantization, .. } = placement;
    let why = format!(
        "config.json: hidden_size {}, {} heads, {} key-value heads, {} layers, intermediate_size {}, vocab_size {}",
        llama.d_hidden, llama.n_heads, llama.n_kv_heads, llama.n_layers, llama.d_intermediate, llama.vocab_size
    );
    if ledger.checkpoint().gguf().is_some() {
        let rename = names_in(ledger, llama);
        let vb = ledger.part(rename.clone(), why, *dtype, device);
        return Llama::load_with(llama, &vb, &GgufLinearLoader { ledger, rename, llama, rows, format: *quantization });
    }
    let rename = names_in(ledger, llama);
    let vb = ledger.part(rename.clone(), why, *dtype, device);
    let full = FullPrecisionLoader(Purpose::Inference);
    let quantizing = quantization.map(QuantizingLoader);
    let loader = quantizing.as_ref().map_or(&full as &dyn LinearLoader, |quantizing| quantizing);
    Llama::load_with(llama, &vb, &LedgerLinearLoader { loader, ledger, rename })
}

/// A source of linear layers over a checkpoint whose tables may stay in their file.
struct LedgerLinearLoader<'a> {
    loader: &'a dyn LinearLoader,
    ledger: &'a Ledger,
    rename: Rename,
}

impl LinearLoader for LedgerLinearLoader<'_> {
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> candle_core::Result<Linear> {
        self.loader.linear(d_in, d_out, bias, vb)
    }

    fn convert(&self, layer: &mut Linear) -> candle_core::Result<()> {
        self.loader.convert(layer)
    }

    fn reads_in_parallel(&self) -> bool {
        self.loader.reads_in_parallel()
    }

    fn purpose(&self) -> Purpose {
        self.loader.purpose()
    }

    fn stored_rows(&self, shape: (usize, usize), vb: &VarBuilder) -> candle_core::Result<Option<StoredRows>> {
        // Rows are read in f32 on the CPU; other places take the whole table.
        if !vb.device().is_cpu() || vb.dtype() != DType::F32 {
            return Ok(None);
        }
        self.ledger.rows(&self.rename.apply(&format!("{}.weight", vb.prefix())), shape.into())
    }
}

/// Names of the tensors of the language model in a checkpoint or in a GGUF file. A tied table may be stored as
/// the head.
pub(super) fn names_in(ledger: &Ledger, llama: &LlamaConfig) -> Rename {
    let checkpoint = ledger.checkpoint();
    let names = match checkpoint.gguf() {
        Some(_) => gguf::names(llama.n_layers),
        None => names::language(checkpoint),
    };
    let has = |name: &str| checkpoint.contains(&names.apply(name));
    if llama.tied_embeddings && !has(names::EMBEDDINGS) && has(names::HEAD) {
        let head = names.apply(names::HEAD);
        return names.prefix(names::EMBEDDINGS, &head);
    }
    names
}

/// A warning that counts the linear layers which are not held in the format that was asked for.
fn other_formats(language: &Llama, format: QuantFormat) -> Option<String> {
    let formats: Vec<Option<QuantFormat>> = language.linear_layers().map(Linear::format).collect();
    let count = |wanted: Option<QuantFormat>| formats.iter().filter(|&&found| found == wanted).count();
    let (n_q8_0, n_full, n) = (count(Some(QuantFormat::Q8_0)), count(None), formats.len());
    let n_q8_0 = if format == QuantFormat::Q8_0 { 0 } else { n_q8_0 };
    (n_q8_0 + n_full > 0).then(|| {
        format!(
            "of {n} linear layers {n_q8_0} are held in q8_0 and {n_full} in {}: {format} takes rows that are a multiple of {}",
            language.dtype().as_str(),
            format.unit()
        )
    })
}

/// The ledgers of a model's checkpoints, of which several may be the same.
struct Ledgers<'a> {
    main: &'a Arc<Ledger>,
    llm: &'a Arc<Ledger>,
    tower: &'a Arc<Ledger>,
}

impl Ledgers<'_> {
    /// Judges the tensors of each checkpoint that nothing asked for and nothing spares; returns the warnings.
    fn judge_unused(
        &self,
        unused: Unused,
        llama: &LlamaConfig,
        tower: &TowerPart<'_>,
    ) -> Result<Vec<String>, ModelError> {
        let mut warnings = Vec::new();
        let mut judge = |ledger: &Ledger, spares: &Spares| {
            let rest = spares.rest(ledger.unused());
            warnings.extend(unused.judge(ledger.checkpoint().dir(), "tensors", &rest)?);
            Ok::<_, ModelError>(())
        };
        let language = names::language(self.main.checkpoint());
        let mut main = Spares::default();
        main.image_newline();
        if Arc::ptr_eq(self.main, self.llm) {
            main.language_buffers(&language, llama);
        } else {
            main.replaced_language(&language);
            judge(self.llm, &gguf::spares(llama))?;
        }
        if Arc::ptr_eq(self.main, self.tower) {
            main.beyond_hidden_states(tower);
        } else {
            main.replaced_tower(self.main.checkpoint());
            let mut beside = Spares::default();
            beside.beyond_hidden_states(tower);
            beside.beside_tower(self.tower.checkpoint(), tower.prefix);
            judge(self.tower, &beside)?;
        }
        judge(self.main, &main)?;
        Ok(warnings)
    }
}
