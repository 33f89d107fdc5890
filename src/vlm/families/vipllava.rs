//! ViP-LLaVA (`VipLlavaForConditionalGeneration`, arXiv 2312.00784): five hidden states of CLIP concatenated on the
//! channel axis, a layer norm over them, two matrices. Its connector is a trained SCI over its own layers.

use super::hugging_face::{self, FamilyParts, LLAVA, NAMES, Tying, VisualModules};
use super::{Family, Names, VideoPath, llava};
use crate::error::Error;
use crate::image::ImageProcessor;
use crate::projector::{InputNorm, Mlp, ProjectorBias, ProjectorKind};
use crate::vlm::config::keys::{Key, Meaning};
use crate::vlm::config::{JsonFile, SelectFeature, Spelling, clip_l_336};

/// System text of the authors and of the model card; a chat template of Hugging Face's leaves it to the messages.
const SYSTEM: &str = "A chat between a curious human and an artificial intelligence assistant. The assistant gives \
    helpful, detailed, and polite answers to the human's questions.";

pub(super) static FAMILY: Family = Family {
    name: "vipllava",
    spelling: Spelling::HuggingFace,
    video_path: VideoPath::None,
    system: Some(SYSTEM),
    kinds: &["vipllava"],
    classes: &["VipLlavaForConditionalGeneration"],
    read: |file, generation| hugging_face::read(&PARTS, file, generation),
    names: Names {
        projector: &[
            &[
                ("norm.", "multi_modal_projector.projector_layernorm."),
                ("0.", "multi_modal_projector.linear_1."),
                ("2.", "multi_modal_projector.linear_2."),
            ],
            &[
                ("norm.", "model.multi_modal_projector.projector_layernorm."),
                ("0.", "model.multi_modal_projector.linear_1."),
                ("2.", "model.multi_modal_projector.linear_2."),
            ],
        ],
        ..NAMES
    },
};

static PARTS: FamilyParts = FamilyParts {
    family: &FAMILY,
    processor: ImageProcessor::Llava,
    languages: llava::LANGUAGES,
    tower: |file, vision| hugging_face::tower_or(file, vision, clip_l_336),
    visual,
    keys: &[LLAVA, KEYS],
    image_token: 32_000,
    video_token: None,
    tying: Tying::WholeModel(false),
};

/// Keys beside LLaVA's; files of transformers 4 have the plural.
const KEYS: &[Key] = &[("projector_layernorm_eps", Meaning::Neutral), ("vision_feature_layers", Meaning::Neutral)];

const LAYERS: [i64; 5] = [-2, -5, -8, -11, 6];
const DEFAULT_EPS: f64 = 1e-5;

fn visual(file: &JsonFile) -> Result<VisualModules, Error> {
    let eps = file.positive("projector_layernorm_eps")?.unwrap_or(DEFAULT_EPS);
    let mlp = Mlp { norm: Some(InputNorm { eps }), bias: ProjectorBias::With, ..hugging_face::mlp(file)? };
    let visual = hugging_face::llava_visual(file, &LAYERS, SelectFeature::Patch)?;
    // The class drops the class token, whatever a file says.
    Ok(VisualModules { projector: ProjectorKind::Mlp(mlp), select_feature: SelectFeature::Patch, ..visual })
}
