//! Training data: images with conversations about them.

mod llava;
mod order;
mod world;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::image::Preprocessor;
use crate::world::Draw;

pub(crate) use llava::{LlavaConfig, LlavaImages};
pub(crate) use order::Order;
pub(crate) use world::{WorldConfig, WorldImages};

/// Training data: exactly one of the kinds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Data {
    /// The shapes world.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shapes_world: Option<WorldConfig>,
    /// Records in LLaVA's format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub llava: Option<LlavaConfig>,
}

impl Data {
    /// Returns the number of kinds that are named.
    pub(crate) fn n_named(&self) -> usize {
        usize::from(self.shapes_world.is_some()) + usize::from(self.llava.is_some())
    }

    /// Opens the data; relative paths begin at `base`.
    ///
    /// # Errors
    /// When it cannot be read, or nothing is named.
    pub fn open(&self, base: &Path) -> Result<Box<dyn Dataset>, Error> {
        match (&self.shapes_world, &self.llava) {
            (Some(world), _) => Ok(Box::new(WorldImages::new(world.clone()))),
            (None, Some(llava)) => Ok(Box::new(LlavaImages::open(llava, base)?)),
            (None, None) => Err(Error::invalid("a stage names no data").about(base)),
        }
    }
}

/// Questions and answers that belong to one conversation: each turn sees those before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Dialogue {
    /// Question and answer.
    pub turns: Vec<(String, String)>,
    /// Weight of each token of the answers.
    pub weight: f32,
}

/// Images with conversations.
pub trait Dataset: Send + Sync {
    /// Returns the number of images.
    fn n_images(&self) -> usize;

    /// Returns the pixel values of an image, as the tower takes them: equal at every call.
    ///
    /// # Shapes
    /// `(3, side, side)`, row-major.
    ///
    /// # Errors
    /// When the image cannot be read.
    fn pixels(&self, index: usize, preprocessor: &Preprocessor) -> Result<Vec<f32>, Error>;

    /// Returns conversations about an image; their wording may follow `draw`.
    fn dialogues(&self, index: usize, draw: &mut Draw) -> Vec<Dialogue>;

    /// Returns whether an image is simple: training may begin with simple images.
    fn is_simple(&self, _index: usize) -> bool {
        true
    }

    /// Returns a text that identifies the images, for the key of cached features.
    fn identity(&self) -> String;
}
