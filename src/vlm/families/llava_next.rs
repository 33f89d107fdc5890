//! LLaVA-NeXT, also called LLaVA-1.6 (`LlavaNextForConditionalGeneration`): LLaVA's parts. A single image is taken by
//! AnyRes: see [`crate::temporal::AnyRes`]. A frame of a video has the base view only, squeezed to the tower's square;
//! `image_newline`, which ends the rows of the other views, is available to temporal strategies.

use super::hugging_face::{self, FamilyParts, LLAVA, Tying};
use super::{Family, VideoPath, llava};
use crate::error::Error;
use crate::image::ImageProcessor;
use crate::vlm::config::{AnyResKeys, GenerationDefaults, JsonFile, SelectFeature, Spelling, VlmConfig, clip_l_336};

pub(super) static FAMILY: Family = Family {
    name: "llava_next",
    spelling: Spelling::HuggingFace,
    video_path: VideoPath::None,
    system: None,
    kinds: &["llava_next"],
    classes: &["LlavaNextForConditionalGeneration"],
    read,
    names: hugging_face::NAMES,
};

fn read(file: &JsonFile, generation: GenerationDefaults) -> Result<VlmConfig, Error> {
    let any_res = AnyResKeys::llava_next().read(file, None);
    Ok(VlmConfig { any_res: Some(any_res), ..hugging_face::read(&PARTS, file, generation)? })
}

static PARTS: FamilyParts = FamilyParts {
    family: &FAMILY,
    processor: ImageProcessor::LlavaNext,
    languages: llava::LANGUAGES,
    tower: |file, vision| hugging_face::tower_or(file, vision, clip_l_336),
    visual: |file| hugging_face::llava_visual(file, &[-2], SelectFeature::Patch),
    keys: &[LLAVA],
    image_token: 32_000,
    video_token: None,
    tying: Tying::EitherKey,
};
