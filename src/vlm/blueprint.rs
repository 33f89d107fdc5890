//! Blueprint of a model: its description in files, without the weights.
//!
//! Sufficient for `inspect`, for the check of a token budget, and to refuse a plan before weights are read. The name
//! and the overrides come from a plan ([`crate::spec`]); [`super::Vlm::load`] reads the weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;

use super::config::{SelectFeature, VlmConfig};
use super::default_template::{DefaultTemplate, frame_marks, own_template, reading};
use super::preprocess::FrameSettings;
use super::tower_source::{TowerSearch, TowerSource};
use super::{
    FeatureSelection, Overrides, SingleImageRule, TextTokens, TokenBudget, Unused, description_files, gguf, names,
};
use crate::connector::{self, Connector, ConnectorKind};
use crate::error::{Error, Kind};
use crate::image::PreprocessConfig;
use crate::temporal::{FrameTokens, Temporal};
use crate::text::{FrameMarks, Template, Tokenizer};
use crate::units::Tokens;
use crate::video::Sample;
use crate::vision::{TowerConfig, TowerFamily};
use crate::weights::{Checkpoint, Hub};

/// Model as its files describe it.
pub struct Blueprint {
    /// Name by which the user asked for the model.
    pub name: String,
    /// Directory of the checkpoint.
    pub dir: PathBuf,
    /// Description of the model in `config.json`, with overrides applied.
    pub config: VlmConfig,
    /// Geometry of the tower, with the layers that run.
    pub tower: TowerConfig,
    /// Location of the tower's weights.
    pub tower_source: TowerSource,
    /// Connector.
    pub connector: Arc<dyn Connector>,
    /// Frames over which the connector's lower groups are averaged (dense temporal DCI).
    pub window: usize,
    /// Reason why a plan's scaling of positions does not go with the checkpoint, if it does not.
    pub rope_conflict: Option<String>,
    /// Preparation of frames.
    pub preprocess: PreprocessConfig,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
    /// Default conversation template.
    pub template: Template,
    /// Marks around visual tokens.
    pub marks: FrameMarks,
    /// Processing of a single image.
    pub single_image: SingleImageRule,
    /// Template of the checkpoint, if it has one.
    own_template: Option<Template>,
    /// Sampling rule of the checkpoint's processor.
    own_sample: Sample,
    /// Warnings about the model's descriptions.
    pub warnings: Vec<String>,
    /// Handling of unused tensors.
    pub(super) unused: Unused,
    /// Layers of the tower in its configuration, whether or not they run.
    pub(super) n_tower_layers: usize,
    pub(super) checkpoint: Checkpoint,
    /// GGUF file of the language model, if its weights are not in the checkpoint.
    pub(super) llm: Option<Checkpoint>,
}

impl Blueprint {
    /// Reads the description of the model `name`, and applies `overrides`.
    ///
    /// # Errors
    /// [`Error`] when a file is missing or broken, or parts do not go together.
    pub fn read(name: &str, overrides: &Overrides, hub: &Hub) -> Result<Self, Error> {
        let dir = hub.find(name)?;
        let mut config = VlmConfig::read(&dir)?;
        let default_template = DefaultTemplate::of(&config);
        // The GGUF file is compared with the checkpoint's own description, before a plan overrides it.
        let llm = overrides.llm.as_deref().map(|path| gguf::open(path, &config, overrides.unused)).transpose()?;
        let (llm, mut llm_warnings) = llm.map_or((None, Vec::new()), |(llm, warnings)| (Some(llm), warnings));
        let rope_conflict = overrides.apply(&mut config);
        let checkpoint = Checkpoint::open(&dir)?.with_fp8(config.fp8.clone())?;
        let tokenizer = Tokenizer::open(&dir, reading(&config))?;
        if let Some(llm) = &llm {
            llm_warnings.extend(gguf::check_vocabulary(llm, &config, &tokenizer)?);
        }
        let asked = overrides.vision_tower.as_deref();
        let found = TowerSearch { config: &config, checkpoint: &checkpoint, asked, hub }.run()?;
        let mut tower = found.config;
        let n_tower_layers = tower.n_layers;
        tower.n_layers = config.n_layers_run(&tower);
        tower.output = config.tower_output;
        let connector = make_connector(&dir, &config, &tower)?;
        let mut notes = config.notes.clone();
        notes.extend(found.notes);
        let frames = FrameSettings::read(&config, &tower, &[found.dir.as_deref(), Some(&dir)])?;
        notes.extend(frames.notes);
        let mut warnings = notes.warnings;
        warnings.extend(llm_warnings);
        warnings.extend(overrides.unused.enforce(&dir, "keys", &relative_notes(&dir, &notes.refused))?);
        let own_template = own_template(&dir, &config, &tokenizer)?;
        let template = default_template.choose(&tokenizer, own_template.as_ref());
        let marks = frame_marks(&config, &tokenizer);
        let single_image = SingleImageRule::read(&dir, &config, &tower, &frames.preprocess);
        let (name, tower_source, window) = (name.to_owned(), found.source, overrides.connector_window.max(1));
        Ok(Self {
            rope_conflict,
            window,
            name,
            dir,
            config,
            tower,
            tower_source,
            connector,
            preprocess: frames.preprocess,
            tokenizer,
            template,
            marks,
            single_image,
            own_template,
            own_sample: frames.sample,
            warnings,
            unused: overrides.unused,
            n_tower_layers,
            checkpoint,
            llm,
        })
    }

    /// Returns the template of a name, built in or the checkpoint's own.
    ///
    /// # Errors
    /// When the name is unknown.
    pub fn named_template(&self, name: &str) -> Result<Template, Error> {
        Template::choose(name, self.own_template.as_ref())
    }

    /// Returns the tokens of a frame after the connector.
    pub fn frame_tokens(&self) -> FrameTokens {
        let frame = frame_tokens(&self.tower, self.connector.as_ref(), self.feature_selection());
        FrameTokens { has_newline: names::newline(&self.checkpoint).is_some(), ..frame }
    }

    /// Returns the selection of the connector's tokens from a hidden state.
    pub fn feature_selection(&self) -> FeatureSelection {
        self.config.feature_selection(self.tower.family)
    }

    /// Returns the reason why the connector's tokens do not fit the checkpoint's projector, if they do not.
    pub fn connector_misfit(&self) -> Option<String> {
        let width = self.connector.width(self.feature_selection().width(&self.tower));
        let takes = names::projector_width(&self.checkpoint)?;
        (takes != width).then(|| {
            format!(
                "{} makes tokens of {width} channels, but the checkpoint's projector takes {takes}",
                self.connector.kind()
            )
        })
    }

    /// Returns the sampling rule of the checkpoint's processor, with `frames` frames where a number is given; `uniform`
    /// where the family has no rule of its own.
    pub(crate) fn own_sample(&self, frames: Option<usize>) -> Sample {
        let sample = self.own_sample.clone();
        frames.map_or(sample.clone(), |frames| sample.with_frames(frames).unwrap_or_default())
    }

    /// Returns the budget of a prompt with `text` tokens of text.
    pub fn budget(&self, temporal: Temporal, n_frames: usize, text: impl Into<TextTokens>) -> TokenBudget {
        let text = text.into();
        TokenBudget { temporal, n_frames, frame: self.frame_tokens(), text, context: Tokens(self.config.context) }
    }

    /// Returns the precision in which the checkpoint is stored.
    pub fn stored_dtype(&self) -> DType {
        self.checkpoint.dtype()
    }

    /// Returns every file whose contents decide the answers.
    pub fn files(&self) -> Vec<PathBuf> {
        let beside = match &self.tower_source {
            TowerSource::Inside => None,
            TowerSource::Beside(tower) => Some(&**tower),
        };
        let dirs = std::iter::once(self.dir.as_path()).chain(beside.map(|tower| tower.dir()));
        let mut files: Vec<PathBuf> = dirs.flat_map(description_files::present).collect();
        files.extend(description_files::more_templates(&self.dir));
        files.extend(self.checkpoint.paths().iter().cloned());
        files.extend(beside.into_iter().chain(&self.llm).flat_map(|part| part.paths().iter().cloned()));
        files
    }

    /// Returns the number of parameters in the checkpoint, and in a tower and a language model beside it.
    pub fn n_parameters(&self) -> usize {
        let tower = match &self.tower_source {
            TowerSource::Inside => 0,
            TowerSource::Beside(tower) => tower.n_parameters(),
        };
        self.checkpoint.n_parameters() + tower + self.llm.as_ref().map_or(0, Checkpoint::n_parameters)
    }

    /// Returns the bytes of keys and values of a sequence that fills the context.
    pub fn kv_bytes(&self, dtype: DType) -> usize {
        self.config.llama.kv_geometry().position_bytes(dtype) * self.config.context
    }
}

/// Returns notes on files of `dir` with paths relative to it.
fn relative_notes(dir: &Path, notes: &[String]) -> Vec<String> {
    let prefix = format!("{}/", dir.display());
    notes.iter().map(|note| note.strip_prefix(&prefix).unwrap_or(note).to_owned()).collect()
}

/// Returns the tokens of a frame after `connector`, which takes the tokens of `selection`.
pub(super) fn frame_tokens(tower: &TowerConfig, connector: &dyn Connector, selection: FeatureSelection) -> FrameTokens {
    let grid = selection.grid(tower);
    let count = connector.n_tokens(selection.n_tokens(tower));
    if count == grid.n_patches() { FrameTokens::on_grid(grid) } else { FrameTokens::loose(count) }
}

/// Makes the connector over the selected hidden states.
///
/// # Errors
/// [`Error`] when the selection does not fit the tower, or the connector.
pub(super) fn make_connector(dir: &Path, config: &VlmConfig, tower: &TowerConfig) -> Result<Arc<dyn Connector>, Error> {
    let wrong = |error: Error| error.with_kind(Kind::Model).about(dir.join("config.json"));
    if tower.n_layers == 0 {
        return Err(wrong(Error::invalid("a SigLIP tower of one layer has none left once the last is deleted")));
    }
    config.feature_selection(tower.family).check(tower).map_err(wrong)?;
    let layers = config.selected_layers(tower.family, tower.n_layers).map_err(wrong)?;
    let keeps_class = config.select_feature == SelectFeature::ClsPatch && tower.family == TowerFamily::Clip;
    if keeps_class && config.connector != ConnectorKind::None {
        let rule = format!("mm_vision_select_feature cls_patch does not go with the connector {}", config.connector);
        return Err(wrong(Error::invalid(rule).with_hint("patch")));
    }
    let made = match (config.connector, layers.first()) {
        (ConnectorKind::None, _) | (_, None) => connector::over_listed(layers, tower.n_layers),
        (kind, Some(&final_layer)) => kind.over(final_layer, tower.n_layers),
    };
    made.map_err(wrong)
}
