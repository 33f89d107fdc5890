//! LLaVA-NeXT's own code with Qwen2 (`LlavaQwenForCausalLM`), in which LLaVA-OneVision was released: SigLIP without its
//! last layer, two matrices, and the same processing of videos as [`super::llava_onevision`].

use super::{Family, Spelling, VideoPath, original};
use crate::error::Error;
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

fn read(file: &JsonFile, generation: GenerationDefaults) -> Result<VlmConfig, Error> {
    let mut config = original::read(&FAMILY, LanguageKind::Qwen2, file, generation)?;
    if let Some(reason) = other_video_path(file)? {
        config.video_path = VideoPath::None;
        config.notes.warnings.push(format!(
            "{}: {reason}: this processing of videos is not supported, and `checkpoint` concatenates frames",
            file.path().display()
        ));
    }
    Ok(config)
}

/// Returns the key and value by which the checkpoint's processing of videos differs from LLaVA-OneVision's, if any.
fn other_video_path(file: &JsonFile) -> Result<Option<String>, Error> {
    // Defaults of the code, as far as they agree with LLaVA-OneVision.
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
