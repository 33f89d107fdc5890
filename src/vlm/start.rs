//! The weights of an existing model as the first ones of another: by our names, whatever the files call them.

use std::path::Path;

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::names;
use crate::weights::{Checkpoint, Rename, WeightError};

/// A checkpoint that a model begins with.
pub struct StartingWeights {
    checkpoint: Checkpoint,
    language: Rename,
    projector: Rename,
}

impl StartingWeights {
    /// Opens a checkpoint of language model and, perhaps, projector.
    ///
    /// # Errors
    /// When it has no readable weights.
    pub fn open(dir: &Path) -> std::result::Result<Self, WeightError> {
        let checkpoint = Checkpoint::open(dir)?;
        let (language, projector) = (names::language(&checkpoint), names::projector(&checkpoint));
        Ok(Self { checkpoint, language, projector })
    }

    /// A weight of the language model, by its name in a released checkpoint.
    ///
    /// # Errors
    /// When it is missing, or has another shape.
    pub fn language(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        load(&self.checkpoint, &self.language.apply(name), shape)
    }

    /// A weight of the projector, by its name after `model.mm_projector.`.
    ///
    /// # Errors
    /// When it is missing, or has another shape.
    pub fn projector(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        load(&self.checkpoint, &self.projector.apply(name), shape)
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
