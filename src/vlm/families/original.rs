//! Reader shared by the families of LLaVA's own code: the language model's keys at top level, the tower by a hub id,
//! and keys that begin with `mm_`. The Dense Connector's checkpoints are of this kind.

use super::{ALL, Family, Names, llava_original, llava_qwen, unknown};
use crate::connector::ConnectorKind;
use crate::error::Error;
use crate::vision::TowerOutput;
use crate::vlm::config::keys::{BASE, GENERATION, Key, KeyNotes, LANGUAGE, Meaning};
use crate::vlm::config::llama::{self, Defaults, LanguageKind};
use crate::vlm::config::{
    AnyResKeys, FrameFit, GenerationDefaults, JsonFile, MAX_CONTEXT, SelectFeature, VlmConfig, fp8_format,
    refuse_other_layers,
};

/// Tensor names of LLaVA's classes; the projector is a `Sequential` or one matrix.
pub(super) const NAMES: Names = Names {
    language: &[("model.", "lm_head.")],
    tower: &["model.vision_tower.vision_tower.vision_model."],
    projector: &[&[("", "model.mm_projector.")], &[("", "mm_projector.")]],
};

/// Classes derived from LLaVA's by others: tensors and arithmetic are the same, but prompts may differ.
const DERIVED_CLASSES: [&str; 2] = ["ShareGPT4VLlamaForCausalLM", "TinyLlavaLlamaForCausalLM"];
/// Values of `model_type` of derived classes.
const DERIVED_KINDS: [&str; 2] = ["share4v", "tiny_llava_llama"];

/// Returns the family of a file without sections: by its class, else by its `model_type`.
///
/// # Errors
/// [`Error`] with the list of families, where the file names no tower and belongs to no family.
pub(super) fn family(file: &JsonFile, classes: &[String]) -> Result<&'static Family, Error> {
    let kind = file.string("model_type")?.map(str::to_ascii_lowercase);
    let has_kind = |family: &&Family| kind.as_deref().is_some_and(|kind| family.kinds.contains(&kind));
    let has_class = |family: &&Family| classes.iter().any(|name| family.classes.contains(&name.as_str()));
    let own = [&llava_qwen::FAMILY, &llava_original::FAMILY];
    let found = own.into_iter().find(has_class).or_else(|| own.into_iter().find(has_kind));
    let is_llava = file.get("mm_vision_tower").is_some() || file.get("mm_projector_type").is_some();
    match (found, kind) {
        (None, Some(kind)) if !is_llava => {
            Err(file.unusable("model_type", unknown(&kind, &ALL.map(|family| family.name))))
        }
        (found, _) => Ok(found.unwrap_or(&llava_original::FAMILY)),
    }
}

/// Reads a `config.json` in LLaVA's spelling.
///
/// # Errors
/// [`Error`] naming the first key that is unusable, its value and the rule.
pub(super) fn read(
    family: &'static Family,
    language: LanguageKind,
    file: &JsonFile,
    generation: GenerationDefaults,
) -> Result<VlmConfig, Error> {
    if file.string("mm_vision_tower")?.is_none() && file.get("mm_projector_type").is_none() {
        let error = file.wrong("mm_vision_tower", "a LLaVA checkpoint names its vision tower here");
        return Err(error.with_hint("this may be a language model alone"));
    }
    let connector = match file.string("mm_dense_connector_type")? {
        Some(kind) => kind.parse().map_err(|error: Error| file.unusable("mm_dense_connector_type", error))?,
        None => ConnectorKind::None,
    };
    let projector = file.string("mm_projector_type")?.unwrap_or("linear");
    let frame_fit = match file.string("image_aspect_ratio")? {
        Some("pad") => FrameFit::Pad,
        Some(name) if name.starts_with("anyres") => FrameFit::AnyresBase,
        // Any other value is refused with the keys that are not implemented.
        None | Some(_) => FrameFit::Native,
    };
    let select_feature = match file.string("mm_vision_select_feature")? {
        None | Some("patch") => SelectFeature::Patch,
        Some("cls_patch") => SelectFeature::ClsPatch,
        Some(_) => return Err(file.wrong("mm_vision_select_feature", "expected patch or cls_patch")),
    };
    let llama = llama::read(file, language, Defaults::None)?;
    let longest = file.count("tokenizer_model_max_length", 1..=MAX_CONTEXT)?;
    Ok(VlmConfig {
        family,
        video_path: family.video_path,
        spelling: family.spelling,
        context: llama::context(file, language, &llama, longest)?,
        tower_name: file.string("mm_vision_tower")?.map(str::to_owned),
        tower: None,
        tower_output: TowerOutput::Raw,
        connector,
        projector: projector.parse().map_err(|error: Error| file.unusable("mm_projector_type", error))?,
        select_layers: vec![file.integer("mm_vision_select_layer")?.unwrap_or(-2)],
        select_feature,
        patches_per_side: 1,
        frame_fit,
        any_res: (frame_fit == FrameFit::AnyresBase).then(|| AnyResKeys::read_llava(file)),
        image_marks: file.flag("mm_use_im_start_end")?.unwrap_or(false),
        prompt_format: file.string("prompt_format")?.map(str::to_owned),
        language,
        fp8: fp8_format(file)?,
        image_token: None,
        video_token: None,
        processor: None,
        generation,
        notes: notes(family, file)?,
        llama,
    })
}

/// Audits the keys of a file.
fn notes(family: &Family, file: &JsonFile) -> Result<KeyNotes, Error> {
    let mut notes = KeyNotes::audit(file, &[KEYS, LANGUAGE, BASE, GENERATION]);
    note_class(family, file, &mut notes)?;
    match file.string("image_aspect_ratio")? {
        Some(name) if !["square", "pad"].contains(&name) && !name.starts_with("anyres") => {
            notes.refused.push(file.wrong("image_aspect_ratio", "expected square, pad, or anyres").to_string());
        }
        _ => {}
    }
    if file.flag("use_mm_proj")? == Some(false) {
        notes.refused.push(file.wrong("use_mm_proj", "a model without its projector takes no frames").to_string());
    }
    refuse_other_layers(file, &mut notes);
    Ok(notes)
}

/// Notes a class or a `model_type` other than the family's own.
fn note_class(family: &Family, file: &JsonFile, notes: &mut KeyNotes) -> Result<(), Error> {
    let derived = |key: &str, value: &str| {
        let error = Error::invalid(format!("{value} is taken for LLaVA's own class, from which it derives"));
        error.with_hint("check its prompt, --template").about(file.full_key(key)).about(file.path()).to_string()
    };
    let names = architectures(file)?;
    let is_derived = names.iter().any(|name| DERIVED_CLASSES.contains(&name.as_str()));
    for name in names {
        if DERIVED_CLASSES.contains(&name.as_str()) {
            notes.warnings.push(derived("architectures", &name));
        } else if !family.classes.contains(&name.as_str()) {
            let known = [llava_original::FAMILY.classes, llava_qwen::FAMILY.classes].concat();
            let error = file.wrong("architectures", &format!("unknown class {name}"));
            notes.refused.push(error.with_hint(format!("known are {}", known.join(", "))).to_string());
        }
    }
    match file.string("model_type")?.map(str::to_ascii_lowercase).as_deref() {
        None => {}
        Some(kind) if family.kinds.contains(&kind) => {}
        // The class decides: some files of LLaVA's Qwen have `llava`.
        Some("llava") => {}
        Some(kind) if DERIVED_KINDS.contains(&kind) => {
            notes.warnings.extend((!is_derived).then(|| derived("model_type", kind)));
        }
        Some(kind) => {
            let known = [llava_original::FAMILY.kinds, llava_qwen::FAMILY.kinds].concat();
            notes.refused.push(file.unusable("model_type", unknown(kind, &known)).to_string());
        }
    }
    Ok(())
}

/// Returns the class names of a file.
///
/// # Errors
/// When `architectures` is not a list of texts.
pub(super) fn architectures(file: &JsonFile) -> Result<Vec<String>, Error> {
    let Some(value) = file.get("architectures") else { return Ok(Vec::new()) };
    let names: Option<Vec<String>> =
        value.as_array().and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
    names.ok_or_else(|| file.wrong("architectures", "expected a list of class names"))
}

/// Keys of LLaVA's own classes and of related ones. With `anyres` a frame of a video has the base view only, which
/// needs no merging; views of a single image are merged by `spatial_unpad` only.
pub(super) const KEYS: &[Key] = &[
    ("freeze_mm_mlp_adapter", Meaning::Neutral),
    ("freeze_mm_vision_resampler", Meaning::Neutral),
    ("image_aspect_ratio", Meaning::Neutral),
    ("image_crop_resolution", Meaning::Neutral),
    ("image_grid_pinpoints", Meaning::Neutral),
    ("image_split_resolution", Meaning::Neutral),
    ("image_token_index", Meaning::Neutral),
    ("mm_dense_connector_type", Meaning::Neutral),
    ("mm_hidden_size", Meaning::Neutral),
    ("mm_newline_position", Meaning::Neutral),
    ("mm_patch_merge_type", Meaning::Neutral),
    ("mm_projector_lr", Meaning::Neutral),
    ("mm_projector_type", Meaning::Neutral),
    ("mm_tunable_parts", Meaning::Neutral),
    ("mm_use_im_patch_token", Meaning::Neutral),
    ("mm_use_im_start_end", Meaning::Neutral),
    ("mm_vision_select_feature", Meaning::Neutral),
    ("mm_vision_select_layer", Meaning::Neutral),
    ("mm_vision_tower", Meaning::Neutral),
    ("mm_vision_tower_lr", Meaning::Neutral),
    ("pretrain_mm_mlp_adapter", Meaning::Neutral),
    ("prompt_format", Meaning::Neutral),
    ("s2_max_split_size", Meaning::Neutral),
    ("s2_scales", Meaning::Neutral),
    ("tokenizer_model_max_length", Meaning::Neutral),
    ("tokenizer_padding_side", Meaning::Neutral),
    ("tune_entire_model", Meaning::Neutral),
    ("tune_mm_mlp_adapter", Meaning::Neutral),
    ("tune_mm_vision_resampler", Meaning::Neutral),
    ("unfreeze_mm_vision_tower", Meaning::Neutral),
    ("use_mm_proj", Meaning::Neutral),
    ("vision_tower_pretrained", Meaning::Neutral),
    ("faster_token_stride", Meaning::Only(&[])),
    ("add_faster_video", Meaning::Only(&[])),
    ("mm_perceiver_depth", Meaning::Only(&[])),
    ("mm_perceiver_latents", Meaning::Only(&[])),
    ("mm_qformer_depth", Meaning::Only(&[])),
    ("mm_resampler_type", Meaning::Only(&["\"identity\"", "\"none\"", "\"\""])),
    ("mm_spatial_pool_mode", Meaning::Neutral),
    ("mm_spatial_pool_out_channels", Meaning::Only(&[])),
    ("mm_spatial_pool_stride", Meaning::Only(&["1", "2"])),
    ("mm_video_tower", Meaning::Only(&[])),
    ("s2", Meaning::Only(&[])),
    ("use_pos_skipping", Meaning::Neutral),
    ("pos_skipping_range", Meaning::Neutral),
];
