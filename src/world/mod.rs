//! The shapes world: pictures and clips of coloured shapes, with questions and the only right answers to them.
//!
//! Everything follows from a seed and an index, so a dataset is two numbers, and a model can be tried on worlds that it
//! cannot have seen. Still pictures are what `vidense-mini` is trained on; clips are only ever asked about.

mod draw;
mod motion;
mod questions;
mod render;
mod scene;

pub use draw::Draw;
pub use motion::Clip;
pub use questions::{Medium, Question, QuestionKind, ask, questions};
pub use scene::{Background, Cell, Colour, Object, SIDE, Scene, Shape, Size, Texture};
