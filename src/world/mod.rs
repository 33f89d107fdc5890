//! The shapes world: images and clips of coloured shapes, with questions that have one right answer.
//!
//! Everything follows from a seed and an index, so a dataset is two numbers, and a model can be tried on worlds that it
//! cannot have seen. Still images are what `vidense-mini` is trained on; clips are only ever asked about.

mod draw;
mod motion;
mod questions;
mod render;
mod scene;

pub use draw::Draw;
pub use motion::Clip;
pub use questions::{Medium, Question, QuestionKind, ask, questions};
pub use scene::{Background, Cell, Colour, Object, Scene, Shape, Size, Texture};
