//! LLaVA-1.5 of transformers (`LlavaForConditionalGeneration`, arXiv 2310.03744): CLIP-L/336 or SigLIP, the
//! hidden states of `vision_feature_layer` on the channel axis, two matrices, a Llama or a Mistral.

use super::hugging_face::{self, FamilyParts, LLAVA, Tying};
use super::{Family, VideoPath};
use crate::image::ImageProcessor;
use crate::vlm::config::llama::LanguageKind;
use crate::vlm::config::{SelectFeature, Spelling, clip_l_336};

pub(super) static FAMILY: Family = Family {
    name: "llava",
    spelling: Spelling::HuggingFace,
    video_path: VideoPath::None,
    system: None,
    kinds: &["llava"],
    classes: &["LlavaForConditionalGeneration"],
    read: |file, generation| hugging_face::read(&PARTS, file, generation),
    names: hugging_face::NAMES,
};

pub(super) const LANGUAGES: &[LanguageKind] =
    &[LanguageKind::Llama, LanguageKind::Mistral, LanguageKind::Qwen2, LanguageKind::Qwen3];

static PARTS: FamilyParts = FamilyParts {
    family: &FAMILY,
    processor: ImageProcessor::Llava,
    languages: LANGUAGES,
    tower: |file, vision| hugging_face::tower_or(file, vision, clip_l_336),
    visual: |file| hugging_face::llava_visual(file, &[-2], SelectFeature::Patch),
    keys: &[LLAVA],
    image_token: 32_000,
    video_token: None,
    tying: Tying::EitherKey,
};
