//! Tensor names: ours, and those of the same tensors in the files of each family. Names are chosen by the tensors that
//! a file has, not by the family that its configuration names: layouts are shared, and old and new files of a family
//! differ.

use super::families;
use crate::weights::{Checkpoint, Rename};

/// Prefixes of a tower's tensors in its own repository.
const TOWER_BESIDE: [&str; 2] = ["vision_model.", ""];

/// Tensors of which every tower has one.
const TOWER_PROBES: [&str; 2] = ["embeddings.patch_embedding.weight", "embeddings.patch_embeddings.projection.weight"];

/// Names of `image_newline`.
pub(super) const NEWLINES: [&str; 2] = ["image_newline", "model.image_newline"];

/// Our name of the embedding table.
pub(super) const EMBEDDINGS: &str = "model.embed_tokens.weight";
/// Our name of the output head.
pub(super) const HEAD: &str = "lm_head.weight";
/// Tensors of which every language model has one.
const LANGUAGE_PROBES: [&str; 2] = ["embed_tokens.weight", "layers.0.input_layernorm.weight"];

/// Returns the names of the language model's tensors.
pub(super) fn language(checkpoint: &Checkpoint) -> Rename {
    let has = |prefix: &str| LANGUAGE_PROBES.iter().any(|probe| checkpoint.contains(&format!("{prefix}{probe}")));
    let all = || families::ALL.iter().flat_map(|family| family.names.language);
    let found = all().find(|(model, _)| has(model)).or_else(|| all().next());
    found.map_or_else(Rename::none, |(model, head)| Rename::none().prefix("model.", model).prefix("lm_head.", head))
}

/// Returns the names of the projector's tensors: the layout of which the checkpoint has the most modules.
pub(super) fn projector(checkpoint: &Checkpoint) -> Rename {
    let begins = |(_, theirs): &&(&str, &str)| checkpoint.names().any(|name| name.starts_with(theirs));
    let all = || families::ALL.iter().flat_map(|family| family.names.projector);
    let mut best: (usize, &[(&str, &str)]) = (0, all().next().copied().unwrap_or_default());
    for modules in all() {
        let n = modules.iter().filter(begins).count();
        if n > best.0 {
            best = (n, modules);
        }
    }
    best.1.iter().fold(Rename::none(), |rename, (ours, theirs)| rename.prefix(ours, theirs))
}

/// Returns the input width of the checkpoint's projector, if it has a matrix.
pub(super) fn projector_width(checkpoint: &Checkpoint) -> Option<usize> {
    let projector = projector(checkpoint);
    let shape = |name: &str| checkpoint.shape(&projector.apply(name));
    ["0.weight", "weight"].into_iter().find_map(shape)?.dims().get(1).copied()
}

/// Returns whether a tensor belongs to a projector, by the names of any family.
pub(super) fn is_projector_tensor(name: &str) -> bool {
    let mut modules = families::ALL.iter().flat_map(|family| family.names.projector).copied().flatten();
    modules.any(|(_, theirs)| name.starts_with(theirs))
}

/// Returns the prefix of the tower inside a checkpoint, if it has a tower.
pub(super) fn tower_inside(checkpoint: &Checkpoint) -> Option<&'static str> {
    families::ALL.iter().flat_map(|family| family.names.tower).copied().find(|prefix| has_tower(checkpoint, prefix))
}

/// Returns the prefix of a tower in its own repository.
pub(super) fn tower_beside(checkpoint: &Checkpoint) -> &'static str {
    let found = TOWER_BESIDE.into_iter().find(|prefix| has_tower(checkpoint, prefix));
    found.or_else(|| tower_inside(checkpoint)).unwrap_or(TOWER_BESIDE[0])
}

/// Returns the name of the `image_newline` tensor, if the checkpoint has one.
pub(super) fn newline(checkpoint: &Checkpoint) -> Option<&'static str> {
    NEWLINES.into_iter().find(|name| checkpoint.contains(name))
}

fn has_tower(checkpoint: &Checkpoint, prefix: &str) -> bool {
    TOWER_PROBES.iter().any(|probe| checkpoint.contains(&format!("{prefix}{probe}")))
}
