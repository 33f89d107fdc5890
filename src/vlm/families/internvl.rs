//! InternVL3 of transformers (`InternVLForConditionalGeneration`, arXiv 2504.10479; the `-hf` repositories): InternViT
//! without its class token, squares of patches merged into one token each (space to depth), a layer norm, two matrices,
//! Qwen2.5, Qwen3 or a Llama.

use super::hugging_face::{self, FamilyParts, Tying, VisualModules};
use super::{Family, Names, VideoPath};
use crate::error::Error;
use crate::image::ImageProcessor;
use crate::projector::{InputNorm, Mlp, ProjectorBias, ProjectorKind};
use crate::vision::{Activation, Bias, TowerConfig, TowerFamily};
use crate::vlm::config::keys::{Key, Meaning};
use crate::vlm::config::llama::LanguageKind;
use crate::vlm::config::{JsonFile, SelectFeature, Spelling, clip_l_336, tower};

pub(super) static FAMILY: Family = Family {
    name: "internvl",
    spelling: Spelling::HuggingFace,
    video_path: VideoPath::InternVl,
    system: None,
    kinds: &["internvl"],
    classes: &["InternVLForConditionalGeneration"],
    read: |file, generation| hugging_face::read(&PARTS, file, generation),
    names: Names {
        projector: &[
            &[
                ("norm.", "multi_modal_projector.layer_norm."),
                ("0.", "multi_modal_projector.linear_1."),
                ("2.", "multi_modal_projector.linear_2."),
            ],
            &[
                ("norm.", "model.multi_modal_projector.layer_norm."),
                ("0.", "model.multi_modal_projector.linear_1."),
                ("2.", "model.multi_modal_projector.linear_2."),
            ],
        ],
        ..hugging_face::NAMES
    },
};

static PARTS: FamilyParts = FamilyParts {
    family: &FAMILY,
    processor: ImageProcessor::Siglip,
    languages: &[LanguageKind::Qwen2, LanguageKind::Qwen3, LanguageKind::Llama],
    tower: tower_config,
    visual,
    keys: &[KEYS],
    image_token: 151_667,
    video_token: None,
    tying: Tying::WholeModel(true),
};

const KEYS: &[Key] = &[
    ("downsample_ratio", Meaning::Neutral),
    ("projector_hidden_act", Meaning::Neutral),
    ("vision_feature_layer", Meaning::Neutral),
    ("vision_feature_select_strategy", Meaning::Neutral),
];

/// Epsilon of the layer norm: PyTorch's default, which the class does not change.
const NORM_EPS: f64 = 1e-5;

/// Returns the defaults of `InternVLVisionConfig`: InternViT-300M at 448 pixels.
fn default_tower() -> TowerConfig {
    TowerConfig {
        family: TowerFamily::InternVit,
        image_size: 448,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-6,
        qkv_bias: Bias::Without,
        ..clip_l_336()
    }
}

fn tower_config(_: &JsonFile, vision: &JsonFile) -> Result<TowerConfig, Error> {
    match vision.string("model_type")? {
        None | Some("internvl_vision") => {}
        Some(_) => return Err(vision.wrong("model_type", "the tower of this family is InternViT (internvl_vision)")),
    }
    match vision.string("norm_type")? {
        None | Some("layer_norm") => {}
        Some(_) => return Err(vision.wrong("norm_type", "only layer_norm is supported, as InternViT-300M has it")),
    }
    for (key, plain) in [("use_qk_norm", false), ("use_absolute_position_embeddings", true)] {
        if vision.flag(key)?.is_some_and(|flag| flag != plain) {
            return Err(vision.wrong(key, &format!("only {plain} is supported, as InternViT-300M has it")));
        }
    }
    let has_bias = vision.flag("attention_bias")?.unwrap_or(false);
    let tower = tower::with_defaults(vision, default_tower())?;
    Ok(TowerConfig { qkv_bias: if has_bias { Bias::With } else { Bias::Without }, ..tower })
}

fn visual(file: &JsonFile) -> Result<VisualModules, Error> {
    const DEFAULT_RATIO: f64 = 0.5;
    let ratio = file.positive("downsample_ratio")?.unwrap_or(DEFAULT_RATIO);
    let side = (1.0 / ratio).round();
    if ratio > 1.0 || (side * ratio - 1.0).abs() > 1e-9 {
        return Err(file.wrong("downsample_ratio", "expected 1 divided by a whole number"));
    }
    let mlp = Mlp { norm: Some(InputNorm { eps: NORM_EPS }), bias: ProjectorBias::With, ..hugging_face::mlp(file)? };
    let visual = hugging_face::llava_visual(file, &[-1], SelectFeature::Patch)?;
    if visual.select_feature != SelectFeature::Patch {
        let rule = "only default is supported: the class token is not on the grid";
        return Err(file.wrong("vision_feature_select_strategy", rule));
    }
    Ok(VisualModules { projector: ProjectorKind::Mlp(mlp), patches_per_side: side as usize, ..visual })
}
