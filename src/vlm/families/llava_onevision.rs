//! LLaVA-OneVision (`LlavaOnevisionForConditionalGeneration`, arXiv 2408.03326): SigLIP's last hidden state before
//! `post_layernorm`, two matrices, Qwen2. Each frame of a video is pooled to half its grid's side after the projector,
//! and one `image_newline` row ends the frames: see [`crate::temporal::OneVision`]. A single image is taken by AnyRes,
//! bounded by `vision_aspect_ratio`: see [`crate::temporal::AnyRes`].

use super::hugging_face::{self, FamilyParts, LLAVA, Tying};
use super::{Family, VideoPath};
use crate::error::Error;
use crate::image::ImageProcessor;
use crate::vlm::config::keys::{Key, Meaning};
use crate::vlm::config::llama::LanguageKind;
use crate::vlm::config::{
    AnyResKeys, GenerationDefaults, JsonFile, SelectFeature, Spelling, VlmConfig, siglip_so400m_llava,
};

pub(super) static FAMILY: Family = Family {
    name: "llava_onevision",
    spelling: Spelling::HuggingFace,
    video_path: VideoPath::OneVision,
    system: None,
    kinds: &["llava_onevision"],
    classes: &["LlavaOnevisionForConditionalGeneration"],
    read,
    names: hugging_face::NAMES,
};

fn read(file: &JsonFile, generation: GenerationDefaults) -> Result<VlmConfig, Error> {
    let any_res = AnyResKeys::llava_onevision().read(file, Some(file));
    Ok(VlmConfig { any_res: Some(any_res), ..hugging_face::read(&PARTS, file, generation)? })
}

static PARTS: FamilyParts = FamilyParts {
    family: &FAMILY,
    processor: ImageProcessor::Siglip,
    languages: &[LanguageKind::Qwen2, LanguageKind::Qwen3, LanguageKind::Llama, LanguageKind::Mistral],
    tower: |file, vision| hugging_face::tower_or(file, vision, siglip_so400m_llava),
    visual: |file| hugging_face::llava_visual(file, &[-1], SelectFeature::ClsPatch),
    keys: &[LLAVA, KEYS],
    image_token: 151_646,
    video_token: Some(151_647),
    tying: Tying::EitherKey,
};

/// Keys beside LLaVA's; `vision_aspect_ratio` applies to single images.
const KEYS: &[Key] = &[
    ("video_token_id", Meaning::Neutral),
    ("video_token_index", Meaning::Neutral),
    ("vision_aspect_ratio", Meaning::Neutral),
];
