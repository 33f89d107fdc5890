//! Tensors of a checkpoint that may stay unused: computed buffers, and parts that no answer depends on.
//!
//! A model with any other tensor that was not read is refused (see [`super::Unused`]), so the names here are exact: a
//! prefix ends with a dot and names one module.

use super::names;
use crate::language::LlamaConfig;
use crate::weights::{Checkpoint, Rename};

/// Names and modules that may stay unused.
#[derive(Debug, Default)]
pub(super) struct IgnoredTensors {
    names: Vec<String>,
    modules: Vec<String>,
}

/// Vision tower in a checkpoint.
pub(super) struct TowerPart<'a> {
    /// Prefix of the tower's tensors.
    pub(super) prefix: &'a str,
    /// Layers that are read.
    pub(super) n_read: usize,
    /// Layers that the configuration describes.
    pub(super) n_described: usize,
}

impl IgnoredTensors {
    /// Makes a set of ignored names.
    pub(super) fn named(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: names.into_iter().collect(), modules: Vec::new() }
    }

    /// Returns the names of `unused` that are not ignored.
    pub(super) fn without_ignored(&self, unused: Vec<String>) -> Vec<String> {
        unused.into_iter().filter(|name| !self.covers(name)).collect()
    }

    fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|ignored| ignored == name)
            || self.modules.iter().any(|module| name.starts_with(module.as_str()))
    }

    /// Ignores the buffers of a language model: inverse frequencies, which old files store.
    pub(super) fn language_buffers(&mut self, language: &Rename, llama: &LlamaConfig) {
        let of_layer = |i: usize| language.apply(&format!("model.layers.{i}.self_attn.rotary_emb.inv_freq"));
        self.names.extend((0..llama.n_layers).map(of_layer));
        self.names.push(language.apply("model.rotary_emb.inv_freq"));
    }

    /// Ignores a whole language model that is replaced by one from another file.
    pub(super) fn replaced_language(&mut self, language: &Rename) {
        let ours = ["model.layers.", "model.embed_tokens.", "model.norm.", "model.rotary_emb.", "lm_head."];
        self.modules.extend(ours.map(|ours| language.apply(ours)));
    }

    /// Ignores `image_newline`, which LLaVA's `anyres` puts at the end of each row of patches: only some temporal
    /// strategies use it.
    pub(super) fn image_newline(&mut self) {
        self.names.extend(names::NEWLINES.map(str::to_owned));
    }

    /// Ignores the parts of a tower that no hidden state needs: layers beyond the last that is read, the norm after the
    /// last layer, SigLIP's pooling head, the position ids, the mask token of a tower's training.
    pub(super) fn beyond_hidden_states(&mut self, part: &TowerPart<'_>) {
        let TowerPart { prefix, n_read, n_described } = part;
        self.names.extend(["position_ids", "mask_token"].map(|name| format!("{prefix}embeddings.{name}")));
        let layers = (*n_read..*n_described).flat_map(|i| ["layers", "layer"].map(|name| (name, i)));
        self.modules.extend(layers.map(|(name, i)| format!("{prefix}encoder.{name}.{i}.")));
        self.modules.extend(["post_layernorm.", "head."].map(|module| format!("{prefix}{module}")));
    }

    /// Ignores the tower inside a checkpoint that is replaced by another tower.
    pub(super) fn replaced_tower(&mut self, checkpoint: &Checkpoint) {
        self.modules.extend(names::tower_inside(checkpoint).map(str::to_owned));
    }

    /// Ignores the tensors beside the tower in a repository: CLIP's and SigLIP's text model, or the rest of a LLaVA.
    pub(super) fn beside_tower(&mut self, checkpoint: &Checkpoint, prefix: &str) {
        self.modules.extend(["text_model.", "visual_projection.", "text_projection."].map(str::to_owned));
        self.names.extend(["logit_scale", "logit_bias"].map(str::to_owned));
        if names::tower_inside(checkpoint) == Some(prefix) {
            self.names.extend(checkpoint.names().filter(|name| !name.starts_with(prefix)).map(str::to_owned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_tower_are_spared_by_their_exact_names() {
        let mut ignored = IgnoredTensors::default();
        ignored.beyond_hidden_states(&TowerPart { prefix: "vision_tower.", n_read: 3, n_described: 5 });
        let unused = [
            "vision_tower.embeddings.position_ids",
            "vision_tower.encoder.layers.2.mlp.fc1.scale",
            "vision_tower.encoder.layers.3.mlp.fc1.weight",
            "vision_tower.encoder.layers.4.mlp.fc1.weight",
            "vision_tower.encoder.layers.5.mlp.fc1.weight",
            "vision_tower.head.probe",
            "vision_tower.merger.weight",
            "model.vision_tower.head.probe",
        ];
        assert_eq!(
            ignored.without_ignored(unused.map(str::to_owned).to_vec()),
            [
                "vision_tower.encoder.layers.2.mlp.fc1.scale",
                "vision_tower.encoder.layers.5.mlp.fc1.weight",
                "vision_tower.merger.weight",
                "model.vision_tower.head.probe",
            ]
        );
    }

    #[test]
    fn modules_of_a_replaced_language_model_are_spared() {
        let language =
            Rename::none().prefix("model.", "language_model.model.").prefix("lm_head.", "language_model.lm_head.");
        let mut ignored = IgnoredTensors::default();
        ignored.replaced_language(&language);
        let unused =
            ["language_model.model.layers.0.x", "language_model.lm_head.weight", "language_model.model.x", "model.x"];
        assert_eq!(ignored.without_ignored(unused.map(str::to_owned).to_vec()), ["language_model.model.x", "model.x"]);
    }
}
