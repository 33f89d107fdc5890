//! From a blueprint to a model in memory.

use std::sync::Arc;

use candle_core::{DType, Device};

use super::blueprint::{Blueprint, TowerSource};
use super::config::SelectFeature;
use super::model::Vlm;
use super::{ModelError, names};
use crate::image::Preprocessor;
use crate::language::Llama;
use crate::projector::Projector;
use crate::vision::{Tower, TowerFamily};
use crate::weights::{Ledger, OnLoad, Rename};

impl Vlm {
    /// Reads the weights; `on_load` hears of each tensor. What the checkpoint holds beyond what the model needs is named in [`Vlm::warnings`].
    ///
    /// # Errors
    /// [`ModelError`] naming every tensor that is missing or mis-shaped.
    pub fn load(blueprint: Blueprint, device: &Device, dtype: DType, on_load: &OnLoad) -> Result<Self, ModelError> {
        let Blueprint {
            name,
            config,
            tower,
            tower_source,
            connector,
            window,
            preprocess,
            tokenizer,
            template,
            checkpoint,
            ..
        } = blueprint;
        let ledger = Ledger::new(checkpoint, Arc::clone(on_load));
        let failed = ModelError::compute("loading the weights");

        let llama = &config.llama;
        let why = format!(
            "config.json: hidden_size {}, {} heads, {} key-value heads, {} layers, intermediate_size {}, vocab_size {}",
            llama.d_hidden, llama.n_heads, llama.n_kv_heads, llama.n_layers, llama.d_intermediate, llama.vocab_size
        );
        let vb = ledger.part(names::language(ledger.checkpoint()), why, dtype, device);
        let mut language = Llama::load(llama, &vb).map_err(&failed)?;

        let width = connector.width(tower.d_hidden);
        let why = format!(
            "{}: connector {} over a tower of width {} gives {width} channels; the language model takes {}",
            config.projector,
            connector.kind(),
            tower.d_hidden,
            llama.d_hidden
        );
        let vb = ledger.part(names::projector(ledger.checkpoint()), why, dtype, device);
        let mut projector = Projector::load(config.projector, width, llama.d_hidden, &vb).map_err(&failed)?;

        let (tower_ledger, prefix) = match tower_source {
            TowerSource::Inside => (Arc::clone(&ledger), names::tower_inside(ledger.checkpoint()).unwrap_or_default()),
            TowerSource::Beside(beside) => {
                let prefix = names::tower_beside(&beside);
                (Ledger::new(*beside, Arc::clone(on_load)), prefix)
            }
        };
        let why = format!(
            "tower config.json: hidden_size {}, {} layers run, image_size {}, patch_size {}",
            tower.d_hidden, tower.n_layers, tower.image_size, tower.patch_size
        );
        let vb = tower_ledger.part(Rename::none().prefix("", prefix), why, dtype, device);
        let mut tower = Tower::load(&tower, connector.last_layer().0, &vb).map_err(&failed)?;

        ledger.check()?;
        tower_ledger.check()?;
        // What a checkpoint lacks stands for itself until here, and has no room to be packed.
        tower.pack().and_then(|()| projector.pack()).and_then(|()| language.pack()).map_err(&failed)?;
        let warnings = unused_warning(&ledger, &name);
        let n_class_tokens = match (config.select_feature, tower.config().family) {
            (SelectFeature::Patch, TowerFamily::Clip) => 1,
            _ => 0,
        };
        Ok(Self {
            name,
            preprocessor: Preprocessor::new(preprocess),
            tower,
            connector,
            window,
            projector,
            language,
            tokenizer,
            template,
            context: config.context,
            image_marks: config.image_marks,
            eos: config.eos,
            n_dropped_tokens: n_class_tokens,
            warnings: warnings.into_iter().collect(),
        })
    }
}

/// A warning that names the tensors which nothing asked for.
fn unused_warning(ledger: &Ledger, name: &str) -> Option<String> {
    const MAX_NAMED: usize = 5;
    let unused: Vec<String> = ledger.unused().into_iter().filter(|name| !names::is_expected_unused(name)).collect();
    let named = unused.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let rest = unused.len().saturating_sub(MAX_NAMED);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    (!unused.is_empty())
        .then(|| format!("{name}: {} tensor(s) of the checkpoint are not used: {named}{more}", unused.len()))
}
