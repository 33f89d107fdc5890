//! Vision-language model: from frames and a question to the logits of the first answer token.
//!
//! [`Blueprint`] is a model as its files describe it, before any weight is read; [`Vlm`] is the model in memory.
//! Spellings of `config.json` and tensor names of model families are known here and nowhere else, each family's in a
//! file of [`families`]. The token loop is in [`crate::engine`], the stages of a pipeline in [`crate::pipeline`].

mod blueprint;
mod budget;
pub mod config;
#[cfg(test)]
mod cuda_tests;
mod error;
pub mod families;
mod feature_selection;
mod frames;
mod gguf;
mod load;
mod model;
mod names;
mod overrides;
mod single_image;
mod spare;
mod start;
mod tying;
mod unused;
mod video_path;

pub(crate) use blueprint::companions;
pub use blueprint::{Blueprint, Design, TowerSource};
pub use budget::{TextTokens, TokenBudget};
pub use config::VlmConfig;
pub use error::ModelError;
pub(crate) use error::without_backtrace;
pub use feature_selection::FeatureSelection;
pub use load::{Placement, VisionPlacement};
pub use model::{FrameRows, PromptIds, Vlm, fuse};
pub use overrides::{Overrides, RopeOverride};
pub use single_image::{SingleImage, SingleImageRule};
pub use start::{Replaced, StartingTower, StartingWeights};
pub use unused::Unused;
pub use video_path::VideoPath;
