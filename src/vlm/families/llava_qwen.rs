//! LLaVA-NeXT's own code over Qwen2 (`LlavaQwenForCausalLM`), which LLaVA-OneVision was released in: SigLIP without its
//! last layer, two matrices, and the same road for videos as [`super::llava_onevision`].

use super::{Family, Spelling, VideoPath, original};
use crate::vlm::ModelError;
use crate::vlm::config::llama::LanguageKind;
use crate::vlm::config::{GenerationDefaults, JsonFile, VlmConfig};

pub(super) static FAMILY: Family = Family {
    name: "llava_qwen",
    spelling: Spelling::Llava,
    video_path: VideoPath::OneVision,
    system: None,
    kinds: &["llava_qwen", "qwen2"],
    classes: &["LlavaQwenForCausalLM", "Qwen2ForCausalLM"],
    read,
    names: original::NAMES,
};

fn read(file: &JsonFile, generation: GenerationDefaults) -> Result<VlmConfig, ModelError> {
    let mut config = original::read((&FAMILY, LanguageKind::Qwen2), file, generation)?;
    if let Some(reason) = other_video_path(file)? {
        config.video_path = VideoPath::None;
        config.notes.warnings.push(format!(
            "{}: {reason}: its own road for videos is not known, and `checkpoint` puts frames one after the other",
            file.path().display()
        ));
    }
    Ok(config)
}

/// The key and value by which the checkpoint treats a video otherwise than LLaVA-OneVision does, if there is one.
fn other_video_path(file: &JsonFile) -> Result<Option<String>, ModelError> {
    // What the code takes where the file says nothing, as far as it is the same.
    for (key, known) in
        [("mm_newline_position", "one_token"), ("mm_spatial_pool_mode", "bilinear"), ("mm_patch_merge_type", "unpad")]
    {
        match file.string(key)? {
            Some(value) if !value.contains(known) => return Ok(Some(format!("{key}: {value}"))),
            _ => {}
        }
    }
    Ok(None)
}
