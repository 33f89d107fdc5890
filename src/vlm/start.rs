//! Initial weights of training, read from an existing model by our tensor names. Called by [`crate::train`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::language_loader::names_in;
use super::{names, tying};
use crate::error::Error;
use crate::language::LlamaConfig;
use crate::weights::{Checkpoint, Ledger, Rename};

/// Checkpoint that provides initial weights.
pub(crate) struct StartingWeights {
    ledger: Arc<Ledger>,
    language: Rename,
    projector: Rename,
    tower: Option<&'static str>,
    /// Name of a stored output head that equals the embedding table to which it is tied.
    tied_head: Option<String>,
}

/// Parts of a checkpoint that training replaced, for [`StartingWeights::rest`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Replaced {
    /// The projector was replaced.
    pub projector: bool,
    /// The language model was trained.
    pub language: bool,
}

impl StartingWeights {
    /// Opens a checkpoint with a language model and, optionally, projector and tower. Returns `llama` with the head
    /// tied as the checkpoint's tensors have it.
    ///
    /// # Errors
    /// When the directory has no readable weights.
    pub(crate) fn open(dir: &Path, llama: &LlamaConfig) -> std::result::Result<(Self, LlamaConfig), Error> {
        let ledger = Ledger::new(Checkpoint::open(dir)?, Arc::new(|_| {}));
        let (llama, _) = tying::resolve(llama.clone(), &ledger)?;
        let language = names_in(&ledger, &llama);
        let checkpoint = ledger.checkpoint();
        let (projector, tower) = (names::projector(checkpoint), names::tower_inside(checkpoint));
        let (table, head) = (language.apply(names::EMBEDDINGS), language.apply(names::HEAD));
        let is_twice = llama.tied_embeddings && table != head && checkpoint.contains(&head);
        let tied_head = is_twice.then_some(head);
        Ok((Self { language, projector, tower, tied_head, ledger }, llama))
    }

    /// Loads a weight of the language model, by its name in a released checkpoint.
    ///
    /// # Errors
    /// When the tensor is missing, or has another shape.
    pub(crate) fn language(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        load(self.ledger.checkpoint(), &self.language.apply(name), shape)
    }

    /// Loads a weight of the projector, by its name after `model.mm_projector.`.
    ///
    /// # Errors
    /// When the tensor is missing, or has another shape.
    pub(crate) fn projector(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        load(self.ledger.checkpoint(), &self.projector.apply(name), shape)
    }

    /// Loads a weight of the tower inside the checkpoint, by its name after `vision_model.`.
    ///
    /// # Errors
    /// When the tensor is missing, or has another shape.
    pub(crate) fn tower(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        load(self.ledger.checkpoint(), &format!("{}{name}", self.tower.unwrap_or_default()), shape)
    }

    /// Returns whether the checkpoint contains a tower.
    pub(crate) fn has_tower(&self) -> bool {
        self.tower.is_some()
    }

    /// Returns the input width of the checkpoint's projector, if it has one.
    pub(crate) fn projector_width(&self) -> Option<usize> {
        names::projector_width(self.ledger.checkpoint())
    }

    /// Returns the checkpoint's own name of a tensor of the language model.
    pub(crate) fn language_name(&self, name: &str) -> String {
        self.language.apply(name)
    }

    /// Returns the checkpoint's own name of a tensor of the projector, by its name after `model.mm_projector.`.
    pub(crate) fn projector_name(&self, name: &str) -> String {
        self.projector.apply(name)
    }

    /// Loads the tensors that training keeps, under their own names and in their stored precision. A replaced projector
    /// is left out, and of a trained language model the copy of the embedding table that its head is tied to.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub(crate) fn rest(&self, replaced: Replaced) -> Result<BTreeMap<String, Tensor>> {
        let checkpoint = self.ledger.checkpoint();
        let is_gone = |name: &str| {
            (replaced.projector && names::is_projector_tensor(name))
                || (replaced.language && self.tied_head.as_deref() == Some(name))
        };
        let stored = |name: &str| Ok((name.to_owned(), checkpoint.load_stored(name)?));
        checkpoint.names().filter(|name| !is_gone(name)).map(stored).collect()
    }
}

/// Vision tower that provides initial weights.
pub(crate) struct StartingTower {
    checkpoint: Checkpoint,
    prefix: &'static str,
}

impl StartingTower {
    /// Opens a tower's directory.
    ///
    /// # Errors
    /// When the directory has no readable weights.
    pub(crate) fn open(dir: &Path) -> std::result::Result<Self, Error> {
        let checkpoint = Checkpoint::open(dir)?;
        Ok(Self { prefix: names::tower_beside(&checkpoint), checkpoint })
    }

    /// Loads a weight, by its name after `vision_model.`.
    ///
    /// # Errors
    /// When the tensor is missing, or has another shape.
    pub(crate) fn weight(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        load(&self.checkpoint, &format!("{}{name}", self.prefix), shape)
    }
}

fn load(checkpoint: &Checkpoint, name: &str, shape: &Shape) -> Result<Tensor> {
    let dir = checkpoint.dir().display();
    match checkpoint.shape(name) {
        Some(found) if found == shape => checkpoint.load(name, DType::F32, &Device::Cpu),
        Some(found) => {
            candle_core::bail!("{dir}: {name}: expected {:?}, found {:?}", shape.dims(), found.dims())
        }
        None => candle_core::bail!("{dir}: {name} {:?} is missing", shape.dims()),
    }
}
