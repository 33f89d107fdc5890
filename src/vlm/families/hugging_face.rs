//! Reader shared by the families of transformers' classes: a `text_config` and a `vision_config`, both of which leave
//! out values equal to the class's defaults, and keys around them.

use super::{Family, Names};
use crate::connector::ConnectorKind;
use crate::error::Error;
use crate::image::ImageProcessor;
use crate::projector::{Mlp, ProjectorActivation, ProjectorBias, ProjectorKind};
use crate::vision::{TowerConfig, TowerOutput};
use crate::vlm::config::keys::{BASE, GENERATION, Key, KeyNotes, LANGUAGE, Meaning, TOWER};
use crate::vlm::config::llama::{self, Defaults, LanguageKind};
use crate::vlm::config::{
    FrameFit, GenerationDefaults, JsonFile, SelectFeature, VlmConfig, fp8_format, refuse_other_layers,
};

/// Parts in which families differ.
pub(super) struct FamilyParts {
    pub(super) family: &'static Family,
    /// Default class of the image processor.
    pub(super) processor: ImageProcessor,
    /// Language models that the files may name; the first is the default.
    pub(super) languages: &'static [LanguageKind],
    /// Reads `vision_config`, the second argument; the first is the whole file, in which the section may be absent.
    pub(super) tower: fn(&JsonFile, &JsonFile) -> Result<TowerConfig, Error>,
    /// Reads the modules between tower and language model.
    pub(super) visual: fn(&JsonFile) -> Result<VisualModules, Error>,
    /// Keys around the two sections, beside those of every class.
    pub(super) keys: &'static [&'static [Key]],
    /// Default of `image_token_id`.
    pub(super) image_token: u32,
    /// Default of `video_token_id`, where the family has such a token.
    pub(super) video_token: Option<u32>,
    /// Key that ties the head to the embedding table.
    pub(super) tying: Tying,
}

/// Key by which a class ties its head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tying {
    /// `tie_word_embeddings` of the whole model, or of the language model (`__post_init__`).
    EitherKey,
    /// `tie_word_embeddings` of the whole model only, with this default.
    WholeModel(bool),
}

/// Modules between a tower and a language model.
pub(super) struct VisualModules {
    pub(super) projector: ProjectorKind,
    /// Indices into the hidden states, from the end when negative.
    pub(super) select_layers: Vec<i64>,
    pub(super) select_feature: SelectFeature,
    /// Side of the square of patches that is merged into one token; 1 merges none.
    pub(super) patches_per_side: usize,
    pub(super) tower_output: TowerOutput,
}

/// Names of the classes with a `multi_modal_projector`: transformers 4, 4.52 to 4.57, 5 as it saves a model made in it,
/// and 5 with `save_original_format=False`.
pub(super) const NAMES: Names = Names {
    language: &[
        ("language_model.model.", "language_model.lm_head."),
        ("model.language_model.", "lm_head."),
        ("language_model.", "lm_head."),
    ],
    tower: &["vision_tower.vision_model.", "model.vision_tower.vision_model.", "model.vision_tower.", "vision_tower."],
    projector: &[
        &[("0.", "multi_modal_projector.linear_1."), ("2.", "multi_modal_projector.linear_2.")],
        &[("0.", "model.multi_modal_projector.linear_1."), ("2.", "model.multi_modal_projector.linear_2.")],
    ],
};

/// Keys that `vidense train` writes beside those of the class: the connector and the projector that it trained. A file
/// with `mm_dense_connector_type` selects one layer, its first; without the keys both are the class's own.
const TRAINED: &[Key] = &[("mm_dense_connector_type", Meaning::Neutral), ("mm_projector_type", Meaning::Neutral)];

/// Keys around the sections of every class; old files have `ignore_index`, `vocab_size` and more.
const WHOLE: &[Key] = &[
    ("hidden_size", Meaning::Neutral),
    ("ignore_index", Meaning::Neutral),
    ("image_seq_length", Meaning::Neutral),
    ("image_token_id", Meaning::Neutral),
    ("image_token_index", Meaning::Neutral),
    ("prompt_format", Meaning::Neutral),
    ("text_config", Meaning::Neutral),
    ("vision_config", Meaning::Neutral),
    ("vocab_size", Meaning::Neutral),
];

/// Keys of the projector of LLaVA's relatives. `vision_feature_select_strategy` and the layers are read by all of them.
pub(super) const LLAVA: &[Key] = &[
    ("image_grid_pinpoints", Meaning::Neutral),
    ("mm_hidden_size", Meaning::Neutral),
    ("multimodal_projector_bias", Meaning::Neutral),
    ("projector_hidden_act", Meaning::Neutral),
    ("use_image_newline_parameter", Meaning::Neutral),
    ("vision_feature_layer", Meaning::Neutral),
    ("vision_feature_select_strategy", Meaning::Neutral),
];

/// Keys of some classes that are refused of the others, which do not implement them.
const OF_OTHERS: &[Key] = &[
    ("adapter_layer_norm_before", Meaning::Only(&[])),
    ("downsample_ratio", Meaning::Only(&["1"])),
    ("projector_layernorm_eps", Meaning::Only(&[])),
    ("scale_factor", Meaning::Only(&["1"])),
    ("spatial_merge_size", Meaning::Only(&["1"])),
    ("spatial_pool_mode", Meaning::Only(&[])),
    ("spatial_pool_stride", Meaning::Only(&[])),
    ("video_seq_length", Meaning::Only(&[])),
    ("video_token_id", Meaning::Only(&[])),
    ("video_token_index", Meaning::Only(&[])),
    ("vision_feature_layers", Meaning::Only(&[])),
];

/// Reads a `config.json` of one of transformers' classes.
///
/// # Errors
/// [`Error`] naming the first key that is unusable, its value and the rule.
pub(super) fn read(parts: &FamilyParts, file: &JsonFile, generation: GenerationDefaults) -> Result<VlmConfig, Error> {
    let (text, vision) = (file.section_or_empty("text_config")?, file.section_or_empty("vision_config")?);
    let language = LanguageKind::of_section(&text, parts.languages)?;
    let mut llama = llama::read(&text, language, Defaults::HuggingFace)?;
    let whole = file.flag("tie_word_embeddings")?;
    llama.tied_embeddings = match parts.tying {
        Tying::EitherKey => llama.tied_embeddings || whole.unwrap_or(false),
        Tying::WholeModel(default) => whole.unwrap_or(default),
    };
    let mut visual = (parts.visual)(file)?;
    let connector = trained_connector(file, &mut visual)?;
    let mut tower = (parts.tower)(file, &vision)?;
    tower.output = visual.tower_output;
    let token = |keys: [&str; 2]| {
        Ok::<_, Error>(
            keys.map(|key| file.ids(key)).into_iter().collect::<Result<Vec<_>, _>>()?.concat().first().copied(),
        )
    };
    let image_token = token(["image_token_index", "image_token_id"])?.unwrap_or(parts.image_token);
    let video_token = match parts.video_token {
        Some(default) => Some(token(["video_token_index", "video_token_id"])?.unwrap_or(default)),
        None => None,
    };
    let longest = llama::cache_window(&text, language)?;
    Ok(VlmConfig {
        family: parts.family,
        video_path: parts.family.video_path,
        spelling: parts.family.spelling,
        context: llama::context(&text, language, &llama, longest)?,
        tower_name: None,
        tower: Some(tower),
        tower_output: visual.tower_output,
        connector,
        projector: visual.projector,
        select_layers: visual.select_layers,
        select_feature: visual.select_feature,
        patches_per_side: visual.patches_per_side,
        frame_fit: FrameFit::Native,
        any_res: None,
        image_marks: false,
        prompt_format: file.string("prompt_format")?.map(str::to_owned),
        language,
        fp8: fp8_format(file)?,
        image_token: Some(image_token),
        video_token,
        processor: Some(parts.processor),
        generation,
        notes: notes(parts, file, &text, &vision),
        llama,
    })
}

/// Reads the connector of a file that `vidense train` wrote, whose projector takes the place of the class's own.
///
/// # Errors
/// When the connector or the projector is unknown.
fn trained_connector(file: &JsonFile, visual: &mut VisualModules) -> Result<ConnectorKind, Error> {
    if let Some(kind) = file.string("mm_projector_type")? {
        visual.projector = kind.parse().map_err(|error: Error| file.unusable("mm_projector_type", error))?;
    }
    let Some(kind) = file.string("mm_dense_connector_type")? else { return Ok(ConnectorKind::None) };
    visual.select_layers.truncate(1);
    kind.parse().map_err(|error: Error| file.unusable("mm_dense_connector_type", error))
}

/// Audits the keys of a file and of its sections.
fn notes(parts: &FamilyParts, file: &JsonFile, text: &JsonFile, vision: &JsonFile) -> KeyNotes {
    let mut notes = KeyNotes::audit(file, &[parts.keys, &[WHOLE, TRAINED, OF_OTHERS, BASE, GENERATION]].concat());
    notes.extend(KeyNotes::audit(text, &[LANGUAGE, BASE, GENERATION]));
    notes.extend(KeyNotes::audit(vision, &[TOWER, BASE, GENERATION]));
    refuse_other_layers(text, &mut notes);
    notes
}

/// Reads the projector of LLaVA's relatives: two matrices.
///
/// # Errors
/// When a key has an unusable value.
pub(super) fn mlp(file: &JsonFile) -> Result<Mlp, Error> {
    let name = file.string("projector_hidden_act")?.unwrap_or("gelu");
    let activation = name.parse::<ProjectorActivation>().map_err(|_| {
        let rule = "supported are gelu, gelu_pytorch_tanh (gelu_new, gelu_fast), quick_gelu, relu, silu (swish), tanh, \
                    sigmoid, linear";
        file.wrong("projector_hidden_act", rule)
    })?;
    let has_bias = file.flag("multimodal_projector_bias")?.unwrap_or(true);
    let bias = if has_bias { ProjectorBias::With } else { ProjectorBias::Without };
    Ok(Mlp { activation, bias, ..Mlp::gelu(2) })
}

/// Reads the modules of LLaVA's relatives between tower and language model. `layers` and `tokens` are the defaults of
/// the selected hidden states and of the tokens taken of them; the projector has two matrices.
///
/// # Errors
/// When a key has an unusable value.
pub(super) fn llava_visual(file: &JsonFile, layers: &[i64], tokens: SelectFeature) -> Result<VisualModules, Error> {
    Ok(VisualModules {
        projector: ProjectorKind::Mlp(mlp(file)?),
        select_layers: selected_layers(file, layers)?,
        select_feature: match file.string("vision_feature_select_strategy")? {
            None => tokens,
            Some("default") => SelectFeature::Patch,
            Some("full") => SelectFeature::ClsPatch,
            Some(_) => return Err(file.wrong("vision_feature_select_strategy", "expected default or full")),
        },
        patches_per_side: 1,
        tower_output: TowerOutput::Raw,
    })
}

/// Reads `vision_feature_layer`, a number or a list; in old files of ViP-LLaVA `vision_feature_layers`.
fn selected_layers(file: &JsonFile, default: &[i64]) -> Result<Vec<i64>, Error> {
    let keys = ["vision_feature_layer", "vision_feature_layers"];
    let Some(key) = keys.into_iter().find(|key| file.get(key).is_some()) else { return Ok(default.to_vec()) };
    let Some(list) = file.get(key).and_then(serde_json::Value::as_array) else {
        return Ok(file.integer(key)?.map_or_else(|| default.to_vec(), |layer| vec![layer]));
    };
    let layers: Option<Vec<i64>> = list.iter().map(serde_json::Value::as_i64).collect();
    layers
        .filter(|layers| !layers.is_empty())
        .ok_or_else(|| file.wrong(key, "expected a whole number, or a list of whole numbers"))
}

/// Reads the tower of a `vision_config`, CLIP's or SigLIP's as it says; `otherwise` without such a section.
///
/// # Errors
/// As [`crate::vlm::config::tower_config`].
pub(super) fn tower_or(
    file: &JsonFile,
    vision: &JsonFile,
    otherwise: fn() -> TowerConfig,
) -> Result<TowerConfig, Error> {
    if file.get("vision_config").is_some() {
        crate::vlm::config::tower::inner_tower_config(vision)
    } else {
        Ok(otherwise())
    }
}
