//! Which class of model a `config.json` describes, and which of its keys have no place in that class.
//!
//! A model of another class must not load as a plain LLaVA because its tensors happen to have the same names.

use serde_json::Value;

use super::keys::{BASE, GENERATION, KeyNotes, LANGUAGE, LLAVA, LLAVA_HF, TOWER};
use super::{JsonFile, Spelling};
use crate::image::ImageProcessor;
use crate::vlm::ModelError;

/// Classes of LLaVA's own code, of the Dense Connector's, and of the language models that they extend.
const LLAVA_CLASSES: [&str; 4] =
    ["LlavaLlamaForCausalLM", "LlavaMistralForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"];

/// Classes that others derived from LLaVA's: tensors and arithmetic are the same, but their prompts may not be.
const DERIVED_CLASSES: [&str; 2] = ["ShareGPT4VLlamaForCausalLM", "TinyLlavaLlamaForCausalLM"];
/// Values of `model_type` in LLaVA's spelling.
const LLAVA_KINDS: [&str; 7] = ["llava", "llava_llama", "llava_mistral", "llama", "mistral", "vicuna", "yi"];
/// Values of `model_type` of the derived classes.
const DERIVED_KINDS: [&str; 2] = ["share4v", "tiny_llava_llama"];

/// Which spelling a file has: Hugging Face's has sections.
pub(super) fn spelling(file: &JsonFile) -> Result<Spelling, ModelError> {
    let has_sections = file.get("text_config").is_some() || file.get("vision_config").is_some();
    let is_class = architectures(file)?.iter().any(|name| name.ends_with("ForConditionalGeneration"));
    let is_llava = file.get("mm_vision_tower").is_some() || file.get("mm_projector_type").is_some();
    Ok(if has_sections || (is_class && !is_llava) { Spelling::HuggingFace } else { Spelling::Llava })
}

/// The image processor of a Hugging Face class.
pub(super) fn hugging_face(file: &JsonFile) -> Result<ImageProcessor, ModelError> {
    let supported = "supported are llava and llava_next";
    let processor = match file.string("model_type")? {
        None | Some("llava") => ImageProcessor::Llava,
        Some("llava_next") => ImageProcessor::LlavaNext,
        Some(_) => return Err(file.wrong("model_type", supported)),
    };
    let own = match processor {
        ImageProcessor::LlavaNext => "LlavaNextForConditionalGeneration",
        _ => "LlavaForConditionalGeneration",
    };
    if architectures(file)?.iter().any(|name| name != own) {
        return Err(file.wrong("architectures", &format!("a model_type of this kind is a {own}")));
    }
    let text = file.section_or_empty("text_config")?;
    match text.string("model_type")? {
        None | Some("llama" | "mistral") => Ok(processor),
        Some(_) => Err(text.wrong("model_type", "supported are the Llama family's: llama, mistral")),
    }
}

/// Notes the keys of a file in Hugging Face's spelling.
pub(super) fn hugging_face_notes(file: &JsonFile) -> Result<KeyNotes, ModelError> {
    let (text, vision) = (file.section_or_empty("text_config")?, file.section_or_empty("vision_config")?);
    let mut notes = KeyNotes::audit(file, &[LLAVA_HF, BASE, GENERATION]);
    notes.extend(KeyNotes::audit(&text, &[LANGUAGE, BASE, GENERATION]));
    notes.extend(KeyNotes::audit(&vision, &[TOWER, BASE, GENERATION]));
    refuse_other_layers(&text, &mut notes);
    Ok(notes)
}

/// Notes the keys of a file in LLaVA's spelling.
pub(super) fn llava_notes(file: &JsonFile) -> Result<KeyNotes, ModelError> {
    let mut notes = KeyNotes::audit(file, &[LLAVA, LANGUAGE, BASE, GENERATION]);
    note_class(file, &mut notes)?;
    match file.string("image_aspect_ratio")? {
        Some(name) if !["square", "pad"].contains(&name) && !name.starts_with("anyres") => {
            notes.refused.push(file.wrong("image_aspect_ratio", "expected square, pad, or anyres").to_string());
        }
        _ => {}
    }
    if file.flag("use_mm_proj")? == Some(false) {
        notes.refused.push(file.wrong("use_mm_proj", "a model without its projector cannot see").to_string());
    }
    refuse_other_layers(file, &mut notes);
    Ok(notes)
}

/// Notes a class or a `model_type` that is not LLaVA's own.
fn note_class(file: &JsonFile, notes: &mut KeyNotes) -> Result<(), ModelError> {
    let derived = |key: &str, value: &str| {
        format!(
            "{}: {}: {value} is taken for LLaVA's own class, from which it derives; hint: check its prompt, --template",
            file.path().display(),
            file.full_key(key)
        )
    };
    for name in architectures(file)? {
        if DERIVED_CLASSES.contains(&name.as_str()) {
            notes.warnings.push(derived("architectures", &name));
        } else if !LLAVA_CLASSES.contains(&name.as_str()) {
            let rule = format!("the class {name} is not known; known are {}", LLAVA_CLASSES.join(", "));
            notes.refused.push(file.wrong("architectures", &rule).to_string());
        }
    }
    match file.string("model_type")?.map(str::to_ascii_lowercase).as_deref() {
        None => {}
        Some(kind) if LLAVA_KINDS.contains(&kind) => {}
        Some(kind) if DERIVED_KINDS.contains(&kind) => {
            let is_noted = notes.warnings.iter().any(|warning| warning.contains("is taken for LLaVA's own class"));
            notes.warnings.extend((!is_noted).then(|| derived("model_type", kind)));
        }
        Some(_) => {
            let rule = "supported are the Llama family's: llava_llama, llava, llama, llava_mistral, mistral";
            notes.refused.push(file.wrong("model_type", rule).to_string());
        }
    }
    Ok(())
}

/// Refuses layers that do not all attend alike: `layer_types`, of which a Mistral's window is told elsewhere.
fn refuse_other_layers(file: &JsonFile, notes: &mut KeyNotes) {
    let is_mistral = file.get("model_type").and_then(Value::as_str).is_some_and(|kind| kind.contains("mistral"));
    let is_plain = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => is_mistral,
        kind => kind == Some("full_attention"),
    };
    if let Some(kinds) = file.get("layer_types")
        && !kinds.as_array().is_some_and(|kinds| kinds.iter().all(is_plain))
    {
        notes.refused.push(file.wrong("layer_types", "only layers of full attention are known").to_string());
    }
}

fn architectures(file: &JsonFile) -> Result<Vec<String>, ModelError> {
    let Some(value) = file.get("architectures") else { return Ok(Vec::new()) };
    let names: Option<Vec<String>> =
        value.as_array().and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
    names.ok_or_else(|| file.wrong("architectures", "expected a list of class names"))
}
