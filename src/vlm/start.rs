//! The weights of an existing model as the first ones of another: by our names, whatever the files call them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::load::names_in;
use super::{ModelError, names, tying};
use crate::language::LlamaConfig;
use crate::weights::{Checkpoint, Ledger, Rename, WeightError};

/// A checkpoint that a model begins with.
pub struct StartingWeights {
    ledger: Arc<Ledger>,
    language: Rename,
    projector: Rename,
    tower: Option<&'static str>,
    /// A stored head that is equal to the table of embeddings, to which it is tied.
    tied_head: Option<String>,
}

/// Parts of a checkpoint that training replaced, for [`StartingWeights::rest`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Replaced {
    /// Whether the projector is another one.
    pub projector: bool,
    /// Whether the language model was trained.
    pub language: bool,
}

impl StartingWeights {
    /// Opens a checkpoint of language model and, perhaps, projector and tower. Returns `llama` with the head tied as
    /// the checkpoint's tensors have it.
    ///
    /// # Errors
    /// When it has no readable weights.
    pub fn open(dir: &Path, llama: &LlamaConfig) -> std::result::Result<(Self, LlamaConfig), ModelError> {
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

    /// A weight of the language model, by its name in a released checkpoint.
    ///
    /// # Errors
    /// When it is missing, or has another shape.
    pub fn language(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        load(self.ledger.checkpoint(), &self.language.apply(name), shape)
    }

    /// A weight of the projector, by its name after `model.mm_projector.`.
    ///
    /// # Errors
    /// When it is missing, or has another shape.
    pub fn projector(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        load(self.ledger.checkpoint(), &self.projector.apply(name), shape)
    }

    /// A weight of the tower inside the checkpoint, by its name after `vision_model.`.
    ///
    /// # Errors
    /// When it is missing, or has another shape.
    pub fn tower(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        load(self.ledger.checkpoint(), &format!("{}{name}", self.tower.unwrap_or_default()), shape)
    }

    /// Whether the checkpoint holds a tower.
    pub fn has_tower(&self) -> bool {
        self.tower.is_some()
    }

    /// Channels that the checkpoint's projector takes, where it has matrices.
    pub fn projector_takes(&self) -> Option<usize> {
        let shape = |name: &&str| self.ledger.checkpoint().shape(&self.projector.apply(name));
        ["0.weight", "weight"].iter().find_map(shape).and_then(|shape| shape.dims().get(1).copied())
    }

    /// The checkpoint's own name of a tensor of the language model.
    pub fn language_name(&self, name: &str) -> String {
        self.language.apply(name)
    }

    /// The checkpoint's own name of a tensor of the projector, by its name after `model.mm_projector.`.
    pub fn projector_name(&self, name: &str) -> String {
        self.projector.apply(name)
    }

    /// Tensors that stay, under their own names and as they are stored. A projector that is another one is left out,
    /// and of a trained language model a second copy of the table that its head is tied to.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn rest(&self, replaced: Replaced) -> Result<BTreeMap<String, Tensor>> {
        let checkpoint = self.ledger.checkpoint();
        let is_gone = |name: &str| {
            (replaced.projector && names::is_of_projector(name))
                || (replaced.language && self.tied_head.as_deref() == Some(name))
        };
        let stored = |name: &str| Ok((name.to_owned(), checkpoint.load_stored(name)?));
        checkpoint.names().filter(|name| !is_gone(name)).map(stored).collect()
    }
}

/// A tower that a model begins with.
pub struct StartingTower {
    checkpoint: Checkpoint,
    prefix: &'static str,
}

impl StartingTower {
    /// Opens a tower's directory.
    ///
    /// # Errors
    /// When it has no readable weights.
    pub fn open(dir: &Path) -> std::result::Result<Self, WeightError> {
        let checkpoint = Checkpoint::open(dir)?;
        Ok(Self { prefix: names::tower_beside(&checkpoint), checkpoint })
    }

    /// A weight, by its name after `vision_model.`.
    ///
    /// # Errors
    /// When it is missing, or has another shape.
    pub fn weight(&self, name: &str, shape: &Shape) -> Result<Tensor> {
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
