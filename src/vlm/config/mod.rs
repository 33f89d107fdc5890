//! Description of a checkpoint, read from its `config.json`, and the keys that families share: language models, towers,
//! rotary embeddings, quantization, generation, processors. Keys of one family are read in [`super::families`].

pub(super) mod any_res;
#[cfg(test)]
mod defaults_tests;
mod generation;
mod generation_keys;
mod json;
pub(super) mod keys;
pub(super) mod llama;
pub(super) mod processor;
mod published;
mod quantization;
mod rope;
pub(super) mod tower;

use std::path::Path;

use serde_json::Value;

use crate::connector::ConnectorKind;
use crate::error::{self, Error};
use crate::image::ImageProcessor;
use crate::language::LlamaConfig;
use crate::projector::ProjectorKind;
use crate::units::LayerIndex;
use crate::vision::{TowerConfig, TowerFamily, TowerOutput};
use crate::vlm::families::{self, Family};
use crate::vlm::{FeatureSelection, VideoPath};
use crate::weights::Fp8Format;
pub(crate) use any_res::AnyResKeys;
pub(crate) use generation::GenerationDefaults;
pub use json::JsonFile;
pub(crate) use keys::KeyNotes;
pub(crate) use llama::LanguageKind;
pub(super) use published::published_tower;
pub(crate) use published::{clip_l_336, llama_2_7b, siglip_so400m, siglip_so400m_llava, tiny_llama_1b};
pub(crate) use quantization::read as fp8_format;
pub use tower::tower_config;
pub(super) use tower::tower_notes;

/// Spelling of a `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// LLaVA and the Dense Connector: keys at top level, `mm_` before those of the vision encoder.
    Llava,
    /// Hugging Face transformers: sections `text_config` and `vision_config`.
    HuggingFace,
}

/// Tokens of a hidden state that the connector takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectFeature {
    /// Patches, without CLIP's class token; in Hugging Face's spelling without the first token of any tower.
    Patch,
    /// All tokens.
    ClsPatch,
}

/// Fit of a frame to the tower's square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFit {
    /// Padding with the mean colour: `image_aspect_ratio: pad`.
    Pad,
    /// Base view alone, squeezed to the square, as FreeVA takes it: `image_aspect_ratio: anyres`.
    AnyresBase,
    /// The tower's own preprocessing.
    Native,
}

/// Vision-language model as its `config.json` describes it.
#[derive(Debug, Clone)]
pub struct VlmConfig {
    /// Family of the checkpoint.
    pub family: &'static Family,
    /// The family's own processing of videos.
    pub video_path: VideoPath,
    /// Spelling of the file.
    pub spelling: Spelling,
    /// Geometry of the language model.
    pub llama: LlamaConfig,
    /// Positions that prompt and answer may fill: the smallest limit of the model's keys.
    pub context: usize,
    /// Hub id or path of the tower.
    pub tower_name: Option<String>,
    /// Geometry of the tower, where the file has it.
    pub tower: Option<TowerConfig>,
    /// Form in which hidden states leave the tower.
    pub tower_output: TowerOutput,
    /// `mm_dense_connector_type`.
    pub connector: ConnectorKind,
    /// `mm_projector_type`.
    pub projector: ProjectorKind,
    /// `mm_vision_select_layer` or `vision_feature_layer`: indices into the hidden states, from the end when negative.
    /// Several are concatenated on the channel axis.
    pub select_layers: Vec<i64>,
    /// `mm_vision_select_feature`.
    pub select_feature: SelectFeature,
    /// Side of the square of patches that is merged into one token (space to depth); 1 merges none.
    pub patches_per_side: usize,
    /// `image_aspect_ratio`.
    pub frame_fit: FrameFit,
    /// AnyRes keys, of families that take a single image by AnyRes; the reason where they are unusable.
    pub any_res: Option<error::Result<AnyResKeys>>,
    /// `mm_use_im_start_end`.
    pub image_marks: bool,
    /// Prompt format of the checkpoint (`prompt_format`).
    pub prompt_format: Option<String>,
    /// Class of the language model.
    pub language: LanguageKind,
    /// Storage format of FP8 weights, if the checkpoint has such weights.
    pub fp8: Option<Fp8Format>,
    /// Id of the placeholder of a visual token in Hugging Face's prompts.
    pub image_token: Option<u32>,
    /// Id of the placeholder of a visual token of a video, where the family has another one for videos.
    pub video_token: Option<u32>,
    /// Image processor class that prepares frames, where the checkpoint's family sets one.
    pub processor: Option<ImageProcessor>,
    /// Generation settings for fields that a plan leaves open.
    pub generation: GenerationDefaults,
    /// Keys of the files that are refused or warned about.
    pub notes: KeyNotes,
}

impl VlmConfig {
    /// Reads `config.json` and `generation_config.json` of a checkpoint.
    ///
    /// # Errors
    /// [`Error`] naming the first key that is unusable, its value and the rule.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let file = JsonFile::read(&dir.join("config.json"))?;
        if file.string("model_type")?.is_some_and(|kind| kind.starts_with("clip") || kind.starts_with("siglip")) {
            let error = file.wrong("model_type", "this is a vision tower alone");
            return Err(error.with_hint("name it with --vision-tower, beside a --model"));
        }
        let family = families::of(&file)?;
        let (generation, generation_notes) = GenerationDefaults::read(dir, &file, family.spelling)?;
        let mut config = (family.read)(&file, generation)?;
        config.notes.extend(generation_notes);
        Ok(config)
    }

    /// Returns the id of the placeholder of a visual token in a prompt about a video.
    pub(crate) fn visual_token(&self) -> Option<u32> {
        self.video_token.or(self.image_token)
    }

    /// Returns the number of leading tokens that the feature selection drops of each hidden state: LLaVA's code drops
    /// CLIP's class token, transformers the first token of any tower.
    fn n_leading_dropped(&self, family: TowerFamily) -> usize {
        match (self.select_feature, self.spelling, family) {
            (SelectFeature::ClsPatch, ..) | (SelectFeature::Patch, Spelling::Llava, TowerFamily::Siglip) => 0,
            (SelectFeature::Patch, ..) => 1,
        }
    }

    /// Returns the selection of the connector's tokens from the hidden states of a tower of `family`.
    pub fn feature_selection(&self, family: TowerFamily) -> FeatureSelection {
        FeatureSelection { n_leading_dropped: self.n_leading_dropped(family), patches_per_side: self.patches_per_side }
    }

    /// Returns the number of layers of a tower that run: LLaVA's code deletes the last layer of a SigLIP tower.
    pub(crate) fn n_layers_run(&self, tower: &TowerConfig) -> usize {
        match (self.spelling, tower.family) {
            (Spelling::Llava, TowerFamily::Siglip) => tower.n_layers.saturating_sub(1),
            _ => tower.n_layers,
        }
    }

    /// Returns the selected hidden states of a tower with `n_layers_run` layers: for LLaVA's SigLIP towers always the
    /// last that runs, else `select_layers`.
    ///
    /// # Errors
    /// When a selected state does not exist.
    pub(super) fn selected_layers(&self, family: TowerFamily, n_layers_run: usize) -> error::Result<Vec<LayerIndex>> {
        if self.spelling == Spelling::Llava && family == TowerFamily::Siglip {
            return Ok(vec![LayerIndex(n_layers_run)]);
        }
        let n_states = n_layers_run as i64 + 1;
        let state = |&layer: &i64| {
            let index = if layer < 0 { n_states + layer } else { layer };
            match usize::try_from(index) {
                Ok(index) if index <= n_layers_run => Ok(LayerIndex(index)),
                _ => Err(Error::invalid(format!(
                    "the selected hidden state {layer} does not exist: the tower has {n_states} (0 to {n_layers_run})"
                ))),
            }
        };
        self.select_layers.iter().map(state).collect()
    }
}

/// Reads the language model of a `config.json` with its keys at top level.
///
/// # Errors
/// [`Error`] naming the first key that is unusable, its value and the rule.
pub fn llama_config(file: &JsonFile) -> Result<LlamaConfig, Error> {
    llama::read(file, LanguageKind::Llama, llama::Defaults::None)
}

/// Notes `layer_types` other than full attention as refused; a Mistral's window is checked elsewhere.
pub(super) fn refuse_other_layers(file: &JsonFile, notes: &mut KeyNotes) {
    let is_mistral = file.get("model_type").and_then(Value::as_str).is_some_and(|kind| kind.contains("mistral"));
    let is_plain = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => is_mistral,
        kind => kind == Some("full_attention"),
    };
    if let Some(kinds) = file.get("layer_types")
        && !kinds.as_array().is_some_and(|kinds| kinds.iter().all(is_plain))
    {
        notes.refused.push(file.wrong("layer_types", "only layers of full attention are supported").to_string());
    }
}

/// Longest context that a file may give.
pub(super) const MAX_CONTEXT: usize = 1 << 24;
