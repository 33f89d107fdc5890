//! What is learned from: images with conversations about them.

mod order;
mod world;

use crate::image::Preprocessor;
use crate::world::Draw;

use super::TrainError;
pub use order::Order;
pub use world::{WorldConfig, WorldImages};

/// Questions and answers that belong to one conversation: each turn sees those before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Dialogue {
    /// Question and answer.
    pub turns: Vec<(String, String)>,
    /// What each token of its answers counts.
    pub weight: f32,
}

/// Images with conversations.
pub trait Dataset: Send + Sync {
    /// How many images there are.
    fn n_images(&self) -> usize;

    /// The pixel values of an image, as the tower takes them: the same at every call.
    ///
    /// # Shapes
    /// `(3, side, side)`, row-major.
    ///
    /// # Errors
    /// When the image cannot be read.
    fn pixels(&self, index: usize, preprocessor: &Preprocessor) -> Result<Vec<f32>, TrainError>;

    /// Conversations about an image; their wording may follow `draw`.
    fn dialogues(&self, index: usize, draw: &mut Draw) -> Vec<Dialogue>;

    /// Whether an image is among those to begin with.
    fn is_simple(&self, _index: usize) -> bool {
        true
    }

    /// What tells this dataset's images from another's.
    fn identity(&self) -> String;
}
