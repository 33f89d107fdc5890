//! First SmolVLM and Idefics3 (`Idefics3ForConditionalGeneration`, arXiv 2408.12637): SmolVLM2's
//! parts, trained on images alone. Frames are images in the prompt, each between its marks.

use super::hugging_face::{self, FamilyParts};
use super::{Family, VideoPath, smolvlm};
use crate::vlm::config::Spelling;

pub(super) static FAMILY: Family = Family {
    name: "idefics3",
    spelling: Spelling::HuggingFace,
    video_path: VideoPath::Idefics3,
    system: None,
    kinds: &["idefics3"],
    classes: &["Idefics3ForConditionalGeneration"],
    read: |file, generation| hugging_face::read(&PARTS, file, generation),
    names: smolvlm::NAMES,
};

static PARTS: FamilyParts = FamilyParts { family: &FAMILY, ..smolvlm::PARTS };
