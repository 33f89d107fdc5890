//! Tensor names: ours, and what LLaVA, Hugging Face 4 and Hugging Face 5 call the same tensors.

use crate::weights::{Checkpoint, Rename};

/// Where the language model may begin: ours is `model.` and `lm_head.`.
const LANGUAGE: [(&str, &str); 4] = [
    ("model.", "lm_head."),
    ("language_model.model.", "language_model.lm_head."),
    ("model.language_model.", "lm_head."),
    ("language_model.", "lm_head."),
];

/// Where the projector may begin, with PyTorch's `Sequential` numbers: ours is the beginning of the name.
const PROJECTOR: [&str; 2] = ["model.mm_projector.", "mm_projector."];

/// Where Hugging Face's projector may begin; its matrices are `linear_1` and `linear_2`.
const HF_PROJECTOR: [&str; 2] = ["multi_modal_projector.", "model.multi_modal_projector."];

/// Where a tower inside a checkpoint may begin.
const TOWER_INSIDE: [&str; 5] = [
    "model.vision_tower.vision_tower.vision_model.",
    "vision_tower.vision_model.",
    "model.vision_tower.vision_model.",
    "model.vision_tower.",
    "vision_tower.",
];

/// Where a tower in its own repository may begin.
const TOWER_BESIDE: [&str; 2] = ["vision_model.", ""];

/// A tensor that every tower has.
const TOWER_PROBE: &str = "embeddings.patch_embedding.weight";

/// Our name of the embedding table.
pub(super) const EMBEDDINGS: &str = "model.embed_tokens.weight";
/// Our name of the output head.
pub(super) const HEAD: &str = "lm_head.weight";
/// Tensors of which every language model has one.
const LANGUAGE_PROBES: [&str; 2] = ["embed_tokens.weight", "layers.0.input_layernorm.weight"];

pub(super) fn language(checkpoint: &Checkpoint) -> Rename {
    let has = |prefix: &str| LANGUAGE_PROBES.iter().any(|probe| checkpoint.contains(&format!("{prefix}{probe}")));
    let (model, head) = LANGUAGE.into_iter().find(|(model, _)| has(model)).unwrap_or(LANGUAGE[0]);
    Rename::none().prefix("model.", model).prefix("lm_head.", head)
}

pub(super) fn projector(checkpoint: &Checkpoint) -> Rename {
    let begins = |prefix: &str| checkpoint.names().any(|name| name.starts_with(prefix));
    if let Some(prefix) = HF_PROJECTOR.into_iter().find(|prefix| begins(prefix)) {
        return Rename::none().prefix("0.", &format!("{prefix}linear_1.")).prefix("2.", &format!("{prefix}linear_2."));
    }
    let prefix = PROJECTOR.into_iter().find(|prefix| begins(prefix)).unwrap_or(PROJECTOR[0]);
    Rename::none().prefix("", prefix)
}

/// The prefix of the tower inside a checkpoint, if there is one.
pub(super) fn tower_inside(checkpoint: &Checkpoint) -> Option<&'static str> {
    TOWER_INSIDE.into_iter().find(|prefix| checkpoint.contains(&format!("{prefix}{TOWER_PROBE}")))
}

/// The prefix of a tower in its own repository.
pub(super) fn tower_beside(checkpoint: &Checkpoint) -> &'static str {
    let has = |prefix: &&str| checkpoint.contains(&format!("{prefix}{TOWER_PROBE}"));
    TOWER_BESIDE.into_iter().find(has).or_else(|| tower_inside(checkpoint)).unwrap_or(TOWER_BESIDE[0])
}
