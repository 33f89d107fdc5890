//! Families of checkpoints: one file a family maps its `config.json`, tensor names, tower, connector and projector to
//! the crate's parts, and `ALL` lists the families.
//!
//! A model of an unknown family must not load as a plain LLaVA because its tensors happen to have the same names: an
//! unknown `model_type` or class is refused with the list and the nearest name. docs/models.md explains how to add a
//! family.

mod hugging_face;
mod idefics3;
mod internvl;
mod llava;
mod llava_next;
mod llava_onevision;
mod llava_original;
mod llava_qwen;
mod original;
mod smolvlm;
mod vipllava;

use std::fmt;

use super::VideoPath;
use super::config::{GenerationDefaults, JsonFile, Spelling, VlmConfig};
use crate::choice::nearest;
use crate::error::Error;

/// Family of checkpoints.
pub struct Family {
    /// Name: the `model_type` of transformers' classes.
    pub name: &'static str,
    /// Spelling of the `config.json`.
    pub spelling: Spelling,
    /// The family's own processing of videos.
    pub video_path: VideoPath,
    /// System text of the training, where the chat template has none.
    pub system: Option<&'static str>,
    /// Values of `model_type`, in lower case.
    kinds: &'static [&'static str],
    /// Names in `architectures`.
    classes: &'static [&'static str],
    /// Reader of the `config.json`.
    pub(super) read: fn(&JsonFile, GenerationDefaults) -> Result<VlmConfig, Error>,
    /// Names of the tensors.
    pub(super) names: Names,
}

/// Prefixes of the names of a family's tensors.
pub(super) struct Names {
    /// Language model and output head; ours are `model.` and `lm_head.`.
    pub(super) language: &'static [(&'static str, &'static str)],
    /// Vision tower.
    pub(super) tower: &'static [&'static str],
    /// Modules of the projector, each with our name first: `norm.`, and `0.`, `2.` ... as in PyTorch's `Sequential`.
    pub(super) projector: &'static [&'static [(&'static str, &'static str)]],
}

/// All families; those of LLaVA's own code come first.
pub(super) static ALL: [&Family; 9] = [
    &llava_original::FAMILY,
    &llava_qwen::FAMILY,
    &llava::FAMILY,
    &llava_next::FAMILY,
    &vipllava::FAMILY,
    &llava_onevision::FAMILY,
    &smolvlm::FAMILY,
    &idefics3::FAMILY,
    &internvl::FAMILY,
];

/// Returns the spelling of a `config.json`: Hugging Face's has sections, or one of its classes and no key of LLaVA's.
///
/// # Errors
/// When `architectures` is not a list of texts.
pub(crate) fn spelling(file: &JsonFile) -> Result<Spelling, Error> {
    let has_sections = file.get("text_config").is_some() || file.get("vision_config").is_some();
    let is_class = original::architectures(file)?.iter().any(|name| name.ends_with("ForConditionalGeneration"));
    let is_llava = file.get("mm_vision_tower").is_some() || file.get("mm_projector_type").is_some();
    let is_own = !has_sections && (!is_class || is_llava);
    Ok(if is_own { Spelling::Llava } else { Spelling::HuggingFace })
}

/// Returns the family of a `config.json`.
///
/// # Errors
/// [`Error`] with the list of families and the nearest name, for an unknown family.
pub(super) fn of(file: &JsonFile) -> Result<&'static Family, Error> {
    let classes = original::architectures(file)?;
    if spelling(file)? == Spelling::Llava {
        return original::family(file, &classes);
    }
    let kind = file.string("model_type")?.unwrap_or(llava::FAMILY.name);
    let of_hugging_face = || ALL.into_iter().filter(|family| family.spelling == Spelling::HuggingFace);
    let Some(family) = of_hugging_face().find(|family| family.kinds.contains(&kind)) else {
        let known: Vec<&str> = of_hugging_face().map(|family| family.name).collect();
        return Err(file.unusable("model_type", unknown(kind, &known)));
    };
    if let Some(other) = classes.iter().find(|name| !family.classes.contains(&name.as_str())) {
        let rule = format!("a model_type of this kind is a {}, not a {other}", family.classes.join(" or "));
        return Err(file.wrong("architectures", &rule));
    }
    Ok(family)
}

/// Lists the known families, with the nearest name to an unknown one as a hint.
fn unknown(kind: &str, known: &[&str]) -> Error {
    let nearest = nearest(kind, known).map(|name| format!("the nearest is {name}"));
    Error::invalid(format!("supported are {}", known.join(", "))).with_hint_if(nearest)
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
