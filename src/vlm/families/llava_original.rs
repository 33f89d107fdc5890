//! LLaVA's own code with a Llama or a Mistral (`LlavaLlamaForCausalLM`, `LlavaMistralForCausalLM`), and the Dense
//! Connector's code, which extends it.

use super::{Family, Spelling, VideoPath, original};
use crate::vlm::config::llama::LanguageKind;

pub(super) static FAMILY: Family = Family {
    name: "llava_llama",
    spelling: Spelling::Llava,
    video_path: VideoPath::None,
    system: None,
    kinds: &["llava", "llava_llama", "llava_mistral", "llama", "mistral", "vicuna", "yi"],
    classes: &["LlavaLlamaForCausalLM", "LlavaMistralForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"],
    read: |file, generation| {
        let is_mistral = file.string("model_type")?.is_some_and(|kind| kind.contains("mistral"));
        let language = if is_mistral { LanguageKind::Mistral } else { LanguageKind::Llama };
        original::read(&FAMILY, language, file, generation)
    },
    names: original::NAMES,
};
