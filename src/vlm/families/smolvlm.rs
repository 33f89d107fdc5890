//! SmolVLM2 (`SmolVLMForConditionalGeneration`, arXiv 2504.05299), and the parts of SmolVLM and Idefics3, which have
//! the same tensors: SigLIP after its `post_layernorm`, squares of patches merged into one token each (space to depth),
//! one matrix without bias, a Llama.

use super::hugging_face::{self, FamilyParts, Tying, VisualModules};
use super::{Family, Names, VideoPath};
use crate::error::Error;
use crate::image::ImageProcessor;
use crate::projector::{ProjectorBias, ProjectorKind};
use crate::vision::{Activation, TowerConfig, TowerFamily, TowerOutput};
use crate::vlm::config::keys::{Key, Meaning};
use crate::vlm::config::llama::LanguageKind;
use crate::vlm::config::{JsonFile, SelectFeature, Spelling, clip_l_336, tower};

pub(super) static FAMILY: Family = Family {
    name: "smolvlm",
    spelling: Spelling::HuggingFace,
    video_path: VideoPath::SmolVlm,
    system: None,
    kinds: &["smolvlm"],
    classes: &["SmolVLMForConditionalGeneration"],
    read: |file, generation| hugging_face::read(&PARTS, file, generation),
    names: NAMES,
};

pub(super) const NAMES: Names = Names {
    language: &[("model.text_model.", "lm_head.")],
    tower: &["model.vision_model."],
    projector: &[&[("", "model.connector.modality_projection.proj.")]],
};

pub(super) static PARTS: FamilyParts = FamilyParts {
    family: &FAMILY,
    processor: ImageProcessor::Siglip,
    languages: &[LanguageKind::Llama],
    tower: tower_config,
    visual,
    keys: &[KEYS],
    image_token: 128_257,
    video_token: None,
    tying: Tying::WholeModel(false),
};

const KEYS: &[Key] = &[("scale_factor", Meaning::Neutral)];

/// Returns the defaults of `SmolVLMVisionConfig` and of `Idefics3VisionConfig`, which no released model has.
fn default_tower() -> TowerConfig {
    TowerConfig {
        family: TowerFamily::Siglip,
        d_hidden: 1152,
        d_intermediate: 3072,
        n_layers: 12,
        n_heads: 16,
        image_size: 224,
        patch_size: 32,
        activation: Activation::GeluTanh,
        layer_norm_eps: 1e-6,
        ..clip_l_336()
    }
}

/// Reads the tower, whose class is SigLIP's whatever `model_type` old files give it.
fn tower_config(_: &JsonFile, vision: &JsonFile) -> Result<TowerConfig, Error> {
    match vision.string("model_type")? {
        None | Some("smolvlm_vision" | "smolvlm" | "idefics3_vision" | "idefics3" | "siglip_vision_model") => {}
        Some(_) => {
            return Err(
                vision.wrong("model_type", "the tower of this family is SigLIP (smolvlm_vision, idefics3_vision)")
            );
        }
    }
    tower::with_defaults(vision, default_tower())
}

fn visual(file: &JsonFile) -> Result<VisualModules, Error> {
    const MAX_SCALE: usize = 64;
    const DEFAULT_SCALE: usize = 2;
    Ok(VisualModules {
        projector: ProjectorKind::Linear(ProjectorBias::Without),
        select_layers: vec![-1],
        select_feature: SelectFeature::ClsPatch,
        patches_per_side: file.count("scale_factor", 1..=MAX_SCALE)?.unwrap_or(DEFAULT_SCALE),
        tower_output: TowerOutput::Normalised,
    })
}
