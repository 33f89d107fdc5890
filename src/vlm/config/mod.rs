//! A checkpoint's `config.json`, in LLaVA's spelling or in Hugging Face's, as one description.
//!
//! LLaVA's (`LlavaLlamaForCausalLM` and its sisters) has the language model's keys at top level and names its tower by
//! a hub id; Hugging Face's (`LlavaForConditionalGeneration`) has a `text_config` and a `vision_config`, both of which
//! leave out what equals the library's defaults.

mod json;
mod llama;
mod tower;

use std::path::Path;

use crate::connector::ConnectorKind;
use crate::files;
use crate::language::LlamaConfig;
use crate::projector::ProjectorKind;
use crate::units::LayerIndex;
use crate::vision::{TowerConfig, TowerFamily};
use crate::vlm::ModelError;
pub use json::JsonFile;
pub use tower::{published_tower, tower_config};

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
    /// The patches, without CLIP's class token.
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
    /// `mm_vision_select_layer`: an index into the hidden states, from the end when negative.
    pub select_layer: i64,
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
    /// The id that begins a text.
    pub bos: Option<u32>,
    /// The ids that end one.
    pub eos: Vec<u32>,
}

impl VlmConfig {
    /// Reads `config.json` (and the stop tokens of `generation_config.json`, if there is one) of a checkpoint.
    ///
    /// # Errors
    /// [`ModelError`] naming the first key that is unusable, its value and the rule.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let file = JsonFile::read(&dir.join("config.json"))?;
        if file.string("model_type")?.is_some_and(|kind| kind.starts_with("clip") || kind.starts_with("siglip")) {
            let rule = "this is a vision tower alone; hint: name it with --vision-tower, beside a --model";
            return Err(file.wrong("model_type", rule));
        }
        let mut config = match file.get("text_config") {
            Some(_) => Self::from_hugging_face(&file)?,
            None => Self::from_llava(&file)?,
        };
        let generation = dir.join("generation_config.json");
        if files::is_file(&generation) {
            config.eos.extend(JsonFile::read(&generation)?.ids("eos_token_id")?);
        }
        config.eos.sort_unstable();
        config.eos.dedup();
        Ok(config)
    }

    fn from_llava(file: &JsonFile) -> Result<Self, ModelError> {
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
            _ => FrameFit::Native,
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
            select_layer: file.integer("mm_vision_select_layer")?.unwrap_or(-2),
            select_feature,
            frame_fit,
            image_marks: file.flag("mm_use_im_start_end")?.unwrap_or(false),
            prompt_format: file.string("prompt_format")?.map(str::to_owned),
            is_mistral: llama::is_mistral(file)?,
            bos: file.ids("bos_token_id")?.first().copied(),
            eos: file.ids("eos_token_id")?,
            llama,
        })
    }

    fn from_hugging_face(file: &JsonFile) -> Result<Self, ModelError> {
        let (text, vision) = (file.section("text_config")?, file.section("vision_config")?);
        let select_feature = match file.string("vision_feature_select_strategy")? {
            None | Some("default") => SelectFeature::Patch,
            Some("full") => SelectFeature::ClsPatch,
            Some(_) => return Err(file.wrong("vision_feature_select_strategy", "expected default or full")),
        };
        if !matches!(file.string("projector_hidden_act")?, None | Some("gelu")) {
            return Err(file.wrong("projector_hidden_act", "only gelu is supported"));
        }
        let llama = llama::read(&text, llama::Defaults::HuggingFace)?;
        let ids = |key| -> Result<Vec<u32>, ModelError> {
            let own = text.ids(key)?;
            if own.is_empty() { file.ids(key) } else { Ok(own) }
        };
        let (bos, eos) = (ids("bos_token_id")?, ids("eos_token_id")?);
        Ok(Self {
            spelling: Spelling::HuggingFace,
            context: llama::context(&text, &llama, None)?,
            tower_name: None,
            tower: Some(tower_config(&vision)?),
            connector: ConnectorKind::None,
            projector: ProjectorKind::Mlp(2),
            select_layer: file.integer("vision_feature_layer")?.unwrap_or(-2),
            select_feature,
            frame_fit: FrameFit::Native,
            image_marks: false,
            prompt_format: file.string("prompt_format")?.map(str::to_owned),
            is_mistral: llama::is_mistral(&text)?,
            // The library's defaults for Llama, which its files leave out.
            bos: Some(bos.first().copied().unwrap_or(1)),
            eos: if eos.is_empty() { vec![2] } else { eos },
            llama,
        })
    }

    /// The depth that runs of a tower: LLaVA's code deletes the last layer of a SigLIP tower.
    pub fn n_layers_run(&self, tower: &TowerConfig) -> usize {
        match (self.spelling, tower.family) {
            (Spelling::Llava, TowerFamily::Siglip) => tower.n_layers.saturating_sub(1),
            _ => tower.n_layers,
        }
    }

    /// The hidden state that is selected, of a tower with `n_layers_run` layers: for LLaVA's SigLIP towers always the
    /// last one that runs, else `select_layer`.
    ///
    /// # Errors
    /// In words, when there is no such state.
    pub fn final_layer(&self, family: TowerFamily, n_layers_run: usize) -> Result<LayerIndex, String> {
        if self.spelling == Spelling::Llava && family == TowerFamily::Siglip {
            return Ok(LayerIndex(n_layers_run));
        }
        let n_states = n_layers_run as i64 + 1;
        let index = if self.select_layer < 0 { n_states + self.select_layer } else { self.select_layer };
        match usize::try_from(index) {
            Ok(index) if index <= n_layers_run => Ok(LayerIndex(index)),
            _ => Err(format!(
                "the selected hidden state {} does not exist: the tower has {n_states} (0 to {n_layers_run})",
                self.select_layer
            )),
        }
    }
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
