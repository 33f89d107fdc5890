//! Keys of a vision tower, CLIP or SigLIP: in a tower's own `config.json`, or as the `vision_config` of a whole model.

use super::JsonFile;
use super::keys::{BASE, GENERATION, KeyNotes, TOWER, WHOLE_TOWER};
use super::published::{clip_b_32, siglip_b_16};
use crate::error::Error;
use crate::vision::{Activation, TowerConfig, TowerFamily};

const MAX_WIDTH: usize = 1 << 16;
const MAX_LAYERS: usize = 512;
const MAX_IMAGE: usize = 16_384;

/// Reads a tower's `config.json`, or the `vision_config` in it. Missing keys have transformers' defaults.
///
/// # Errors
/// [`Error`] naming the first key that is unusable, its value and the rule.
pub fn tower_config(file: &JsonFile) -> Result<TowerConfig, Error> {
    let outer = family(file)?;
    let inner = inner(file)?;
    let Some(family) = family(&inner)?.or(outer) else {
        return Err(inner.wrong("model_type", "supported towers are CLIP's and SigLIP's"));
    };
    of_family(&inner, family)
}

/// Returns the keys of the vision model, which are in a section where the file describes a text model too.
fn inner(file: &JsonFile) -> Result<JsonFile, Error> {
    if file.get("vision_config").is_some() { file.section("vision_config") } else { Ok(file.clone()) }
}

/// Audits the keys of a tower's own `config.json`.
///
/// # Errors
/// When its `vision_config` is not an object.
pub(crate) fn tower_notes(file: &JsonFile) -> Result<KeyNotes, Error> {
    let tables = [TOWER, BASE, GENERATION];
    if file.get("vision_config").is_none() {
        return Ok(KeyNotes::audit(file, &tables));
    }
    let mut notes = KeyNotes::audit(file, &[WHOLE_TOWER, BASE, GENERATION]);
    notes.extend(KeyNotes::audit(&file.section("vision_config")?, &tables));
    Ok(notes)
}

/// Reads the `vision_config` of Hugging Face's LLaVA: CLIP's by default.
///
/// # Errors
/// As [`tower_config`].
pub(in crate::vlm) fn inner_tower_config(file: &JsonFile) -> Result<TowerConfig, Error> {
    match (family(file)?, file.get("model_type")) {
        (Some(family), _) => of_family(file, family),
        (None, None) => of_family(file, TowerFamily::Clip),
        (None, Some(_)) => Err(file.wrong("model_type", "supported towers are CLIP's and SigLIP's")),
    }
}

fn of_family(file: &JsonFile, family: TowerFamily) -> Result<TowerConfig, Error> {
    with_defaults(file, if family == TowerFamily::Clip { clip_b_32() } else { siglip_b_16() })
}

/// Reads a tower's keys, with `defaults` for missing keys.
///
/// # Errors
/// As [`tower_config`].
pub(in crate::vlm) fn with_defaults(file: &JsonFile, defaults: TowerConfig) -> Result<TowerConfig, Error> {
    let count = |key: &str, max: usize, default: usize| Ok::<_, Error>(file.count(key, 1..=max)?.unwrap_or(default));
    let config = TowerConfig {
        d_hidden: count("hidden_size", MAX_WIDTH, defaults.d_hidden)?,
        d_intermediate: count("intermediate_size", MAX_WIDTH, defaults.d_intermediate)?,
        n_layers: count("num_hidden_layers", MAX_LAYERS, defaults.n_layers)?,
        n_heads: count("num_attention_heads", MAX_WIDTH, defaults.n_heads)?,
        image_size: side(file, "image_size")?.unwrap_or(defaults.image_size),
        patch_size: side(file, "patch_size")?.unwrap_or(defaults.patch_size),
        n_channels: count("num_channels", 3, defaults.n_channels)?,
        activation: activation(file)?.unwrap_or(defaults.activation),
        layer_norm_eps: file.positive("layer_norm_eps")?.unwrap_or(defaults.layer_norm_eps),
        ..defaults
    };
    if config.n_channels != 3 {
        return Err(file.wrong("num_channels", "frames have 3 channels"));
    }
    if !config.d_hidden.is_multiple_of(config.n_heads) {
        return Err(
            file.wrong("hidden_size", &format!("it must be a multiple of num_attention_heads, {}", config.n_heads))
        );
    }
    if config.patch_size > config.image_size {
        return Err(file.wrong("patch_size", &format!("it must not exceed image_size, {}", config.image_size)));
    }
    Ok(config)
}

/// Reads a side in pixels, which may be given as a pair of equal numbers.
fn side(file: &JsonFile, key: &str) -> Result<Option<usize>, Error> {
    match file.get(key).and_then(serde_json::Value::as_array).map(Vec::as_slice) {
        None => file.count(key, 1..=MAX_IMAGE),
        Some([height, width]) if height == width => {
            let value = file.with(serde_json::json!({ key: height }));
            value.count(key, 1..=MAX_IMAGE)
        }
        Some(_) => Err(file.wrong(key, "frames and patches are square: expected a number, or twice the same one")),
    }
}

fn family(file: &JsonFile) -> Result<Option<TowerFamily>, Error> {
    Ok(match file.string("model_type")? {
        Some("clip" | "clip_vision_model") => Some(TowerFamily::Clip),
        Some("siglip" | "siglip_vision_model") => Some(TowerFamily::Siglip),
        Some(_) | None => None,
    })
}

fn activation(file: &JsonFile) -> Result<Option<Activation>, Error> {
    Ok(Some(match file.string("hidden_act")? {
        Some("quick_gelu") => Activation::QuickGelu,
        Some("gelu_pytorch_tanh") => Activation::GeluTanh,
        Some("gelu") => Activation::Gelu,
        None => return Ok(None),
        Some(_) => return Err(file.wrong("hidden_act", "supported are quick_gelu, gelu_pytorch_tanh and gelu")),
    }))
}
