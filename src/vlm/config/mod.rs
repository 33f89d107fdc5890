//! A checkpoint's `config.json`, in LLaVA's spelling or in Hugging Face's, as one description.
//!
//! LLaVA's (`LlavaLlamaForCausalLM` and its sisters) has the language model's keys at top level and names its tower by
//! a hub id; Hugging Face's (`LlavaForConditionalGeneration`) has a `text_config` and a `vision_config`, both of which
//! leave out what equals the library's defaults.

mod classes;
#[cfg(test)]
mod defaults_tests;
mod generation;
mod json;
pub(super) mod keys;
mod llama;
pub(super) mod processor;
mod quantization;
mod rope;
mod tower;

use std::path::Path;

use crate::connector::ConnectorKind;
use crate::image::ImageProcessor;
use crate::language::LlamaConfig;
use crate::projector::{Mlp, ProjectorActivation, ProjectorBias, ProjectorKind};
use crate::units::LayerIndex;
use crate::vision::{TowerConfig, TowerFamily};
use crate::vlm::{ModelError, VideoPath};
use crate::weights::Fp8Format;
pub use generation::{CheckpointSampling, GenerationDefaults};
pub use json::JsonFile;
pub use keys::KeyNotes;
pub use quantization::read as fp8_format;
pub use tower::{clip_l_336, published_tower, siglip_so400m, tower_config, tower_notes};

/// Which spelling a `config.json` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// LLaVA's and the Dense Connector's.
    Llava,
    /// Hugging Face transformers'.
    HuggingFace,
}

/// Which tokens of a hidden state are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectFeature {
    /// The patches, without CLIP's class token; in Hugging Face's spelling without the first token, whatever it is.
    Patch,
    /// All.
    ClsPatch,
}

/// How a frame is fitted to the tower's square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFit {
    /// `image_aspect_ratio: pad`: padded with the mean colour.
    Pad,
    /// `anyres`: the base view alone, squeezed to the square, as FreeVA takes it.
    AnyresBase,
    /// As the tower's own preprocessing does it.
    Native,
}

/// A vision-language model as its `config.json` describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct VlmConfig {
    /// The spelling it was read from.
    pub spelling: Spelling,
    /// The language model.
    pub llama: LlamaConfig,
    /// Positions that prompt and answer may fill: the smallest of what the model's keys allow.
    pub context: usize,
    /// The tower's hub id or path.
    pub tower_name: Option<String>,
    /// The tower's geometry, where the file has it.
    pub tower: Option<TowerConfig>,
    /// `mm_dense_connector_type`.
    pub connector: ConnectorKind,
    /// `mm_projector_type`.
    pub projector: ProjectorKind,
    /// `mm_vision_select_layer` or `vision_feature_layer`: indices into the hidden states, from the end when negative.
    /// Several are put beside each other on the channel axis.
    pub select_layers: Vec<i64>,
    /// `mm_vision_select_feature`.
    pub select_feature: SelectFeature,
    /// `image_aspect_ratio`.
    pub frame_fit: FrameFit,
    /// `mm_use_im_start_end`.
    pub image_marks: bool,
    /// The checkpoint's own prompt.
    pub prompt_format: Option<String>,
    /// Whether the language model is a Mistral.
    pub is_mistral: bool,
    /// How weights in FP8 are stored, where there are any.
    pub fp8: Option<Fp8Format>,
    /// The id that stands for a visual token in Hugging Face's prompts.
    pub image_token: Option<u32>,
    /// The id that stands for a visual token of a video, where the family has one beside [`Self::image_token`].
    pub video_token: Option<u32>,
    /// The family's own way with videos.
    pub video_path: VideoPath,
    /// The class whose processor prepares frames, where the checkpoint has a say.
    pub processor: Option<ImageProcessor>,
    /// How it generates where a plan leaves it open.
    pub generation: GenerationDefaults,
    /// Keys of the files that are not used.
    pub notes: KeyNotes,
}

impl VlmConfig {
    /// Reads `config.json` and `generation_config.json` of a checkpoint.
    ///
    /// # Errors
    /// [`ModelError`] naming the first key that is unusable, its value and the rule.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let file = JsonFile::read(&dir.join("config.json"))?;
        if file.string("model_type")?.is_some_and(|kind| kind.starts_with("clip") || kind.starts_with("siglip")) {
            let rule = "this is a vision tower alone; hint: name it with --vision-tower, beside a --model";
            return Err(file.wrong("model_type", rule));
        }
        let spelling = classes::spelling(&file)?;
        let (generation, generation_notes) = GenerationDefaults::read(dir, &file, spelling)?;
        let mut config = match spelling {
            Spelling::HuggingFace => Self::from_hugging_face(&file, generation)?,
            Spelling::Llava => Self::from_llava(&file, generation)?,
        };
        config.notes.extend(generation_notes);
        Ok(config)
    }

    fn from_llava(file: &JsonFile, generation: GenerationDefaults) -> Result<Self, ModelError> {
        if file.string("mm_vision_tower")?.is_none() && file.get("mm_projector_type").is_none() {
            return Err(file.wrong(
                "mm_vision_tower",
                "a LLaVA checkpoint names its vision tower here; is this a language model alone?",
            ));
        }
        let connector = match file.string("mm_dense_connector_type")? {
            Some(kind) => kind.parse().map_err(|rule: String| file.wrong("mm_dense_connector_type", &rule))?,
            None => ConnectorKind::None,
        };
        let projector = file.string("mm_projector_type")?.unwrap_or("linear");
        let frame_fit = match file.string("image_aspect_ratio")? {
            Some("pad") => FrameFit::Pad,
            Some(name) if name.starts_with("anyres") => FrameFit::AnyresBase,
            // Any other is refused with the keys that are not obeyed.
            None | Some(_) => FrameFit::Native,
        };
        let select_feature = match file.string("mm_vision_select_feature")? {
            None | Some("patch") => SelectFeature::Patch,
            Some("cls_patch") => SelectFeature::ClsPatch,
            Some(_) => return Err(file.wrong("mm_vision_select_feature", "expected patch or cls_patch")),
        };
        let llama = llama_config(file)?;
        let longest = file.count("tokenizer_model_max_length", 1..=MAX_CONTEXT)?;
        Ok(Self {
            spelling: Spelling::Llava,
            context: llama::context(file, &llama, longest)?,
            tower_name: file.string("mm_vision_tower")?.map(str::to_owned),
            tower: None,
            connector,
            projector: projector.parse().map_err(|rule: String| file.wrong("mm_projector_type", &rule))?,
            select_layers: vec![file.integer("mm_vision_select_layer")?.unwrap_or(-2)],
            select_feature,
            frame_fit,
            image_marks: file.flag("mm_use_im_start_end")?.unwrap_or(false),
            prompt_format: file.string("prompt_format")?.map(str::to_owned),
            is_mistral: llama::is_mistral(file)?,
            fp8: quantization::read(file)?,
            image_token: None,
            video_token: None,
            video_path: VideoPath::None,
            processor: None,
            generation,
            notes: classes::llava_notes(file)?,
            llama,
        })
    }

    fn from_hugging_face(file: &JsonFile, generation: GenerationDefaults) -> Result<Self, ModelError> {
        let class = classes::hugging_face(file)?;
        let (text, vision) = (file.section_or_empty("text_config")?, file.section_or_empty("vision_config")?);
        let select_feature = match file.string("vision_feature_select_strategy")? {
            None | Some("default") => SelectFeature::Patch,
            Some("full") => SelectFeature::ClsPatch,
            Some(_) => return Err(file.wrong("vision_feature_select_strategy", "expected default or full")),
        };
        let mut llama = llama::read(&text, llama::Defaults::HuggingFace)?;
        // The whole model's key ties its head as well as the language model's does (`LlavaConfig.__post_init__`).
        llama.tied_embeddings |= file.flag("tie_word_embeddings")?.unwrap_or(false);
        let tower = if file.get("vision_config").is_some() {
            tower::inner_tower_config(&vision)?
        } else {
            tower::llava_default()
        };
        const DEFAULT_IMAGE_TOKEN: u32 = 32_000;
        let image_token = [file.ids("image_token_index")?, file.ids("image_token_id")?].concat();
        Ok(Self {
            spelling: Spelling::HuggingFace,
            context: llama::context(&text, &llama, llama::cache_window(&text)?)?,
            tower_name: None,
            tower: Some(tower),
            connector: ConnectorKind::None,
            projector: hugging_face_projector(file)?,
            select_layers: hugging_face_layers(file)?,
            select_feature,
            frame_fit: FrameFit::Native,
            image_marks: false,
            prompt_format: file.string("prompt_format")?.map(str::to_owned),
            is_mistral: llama::is_mistral(&text)?,
            fp8: quantization::read(file)?,
            image_token: Some(image_token.first().copied().unwrap_or(DEFAULT_IMAGE_TOKEN)),
            video_token: None,
            video_path: VideoPath::None,
            processor: Some(class),
            generation,
            notes: classes::hugging_face_notes(file)?,
            llama,
        })
    }

    /// The id that stands for a visual token in a prompt about a video.
    pub fn visual_token(&self) -> Option<u32> {
        self.video_token.or(self.image_token)
    }

    /// Tokens at the beginning of each hidden state that are left out: LLaVA's code drops CLIP's class token,
    /// transformers the first token of any tower.
    pub fn n_dropped(&self, family: TowerFamily) -> usize {
        match (self.select_feature, self.spelling, family) {
            (SelectFeature::ClsPatch, ..) | (SelectFeature::Patch, Spelling::Llava, TowerFamily::Siglip) => 0,
            (SelectFeature::Patch, ..) => 1,
        }
    }

    /// The depth that runs of a tower: LLaVA's code deletes the last layer of a SigLIP tower.
    pub fn n_layers_run(&self, tower: &TowerConfig) -> usize {
        match (self.spelling, tower.family) {
            (Spelling::Llava, TowerFamily::Siglip) => tower.n_layers.saturating_sub(1),
            _ => tower.n_layers,
        }
    }

    /// The hidden states that are selected, of a tower with `n_layers_run` layers: for LLaVA's SigLIP towers always the
    /// last one that runs, else `select_layers`.
    ///
    /// # Errors
    /// In words, when there is no such state.
    pub fn selected_layers(&self, family: TowerFamily, n_layers_run: usize) -> Result<Vec<LayerIndex>, String> {
        if self.spelling == Spelling::Llava && family == TowerFamily::Siglip {
            return Ok(vec![LayerIndex(n_layers_run)]);
        }
        let n_states = n_layers_run as i64 + 1;
        let state = |&layer: &i64| {
            let index = if layer < 0 { n_states + layer } else { layer };
            match usize::try_from(index) {
                Ok(index) if index <= n_layers_run => Ok(LayerIndex(index)),
                _ => Err(format!(
                    "the selected hidden state {layer} does not exist: the tower has {n_states} (0 to {n_layers_run})"
                )),
            }
        };
        self.select_layers.iter().map(state).collect()
    }
}

/// The two matrices of Hugging Face's `multi_modal_projector`.
fn hugging_face_projector(file: &JsonFile) -> Result<ProjectorKind, ModelError> {
    let name = file.string("projector_hidden_act")?.unwrap_or("gelu");
    let activation = ProjectorActivation::named(name).ok_or_else(|| {
        let rule = "supported are gelu, gelu_pytorch_tanh (gelu_new, gelu_fast), quick_gelu, relu, silu (swish), tanh, \
                    sigmoid, linear";
        file.wrong("projector_hidden_act", rule)
    })?;
    let has_bias = file.flag("multimodal_projector_bias")?.unwrap_or(true);
    let bias = if has_bias { ProjectorBias::With } else { ProjectorBias::Without };
    Ok(ProjectorKind::Mlp(Mlp { depth: 2, activation, bias }))
}

/// `vision_feature_layer`: one, or a list.
fn hugging_face_layers(file: &JsonFile) -> Result<Vec<i64>, ModelError> {
    const KEY: &str = "vision_feature_layer";
    let Some(list) = file.get(KEY).and_then(serde_json::Value::as_array) else {
        return Ok(vec![file.integer(KEY)?.unwrap_or(-2)]);
    };
    let layers: Option<Vec<i64>> = list.iter().map(serde_json::Value::as_i64).collect();
    layers
        .filter(|layers| !layers.is_empty())
        .ok_or_else(|| file.wrong(KEY, "expected a whole number, or a list of whole numbers"))
}

/// The language model that a `config.json` with its keys at top level describes.
///
/// # Errors
/// [`ModelError`] naming the first key that is unusable, its value and the rule.
pub fn llama_config(file: &JsonFile) -> Result<LlamaConfig, ModelError> {
    llama::read(file, llama::Defaults::None)
}

/// A longer context is a mistake in a file.
const MAX_CONTEXT: usize = 1 << 24;
