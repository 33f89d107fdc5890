//! Vision-language model: from frames and a question to the logits of the first answer token.
//!
//! [`Blueprint`] is a model as its files describe it, before any weight is read; [`Vlm`] is the model in memory.
//! Spellings of `config.json` and tensor names of model families are known here and nowhere else, each family's in a
//! file of `families`. The token loop is in [`crate::engine`], the stages of a pipeline in [`crate::pipeline`].

mod blueprint;
mod budget;
pub(crate) mod config;
#[cfg(test)]
mod cuda_tests;
mod default_template;
mod description_files;
mod design;
mod error;
pub(crate) mod families;
mod feature_selection;
mod frames;
mod gguf;
mod ignored_tensors;
mod language_loader;
mod load;
mod media_budget;
mod model;
mod names;
mod overrides;
mod placement;
mod preprocess;
mod prompt_ids;
mod single_image;
mod start;
mod tower_source;
mod tying;
mod unused;
mod video_path;

pub use blueprint::Blueprint;
pub use budget::{TextTokens, TokenBudget};
pub use config::{JsonFile, VlmConfig, llama_config, tower_config};
pub(crate) use description_files::companions;
pub(crate) use design::Design;
pub use feature_selection::FeatureSelection;
pub use media_budget::{MediaBudget, MediumShape};
pub use model::{Vlm, fuse};
pub use overrides::{Overrides, RopeOverride};
pub use placement::{Placement, VisionPlacement};
pub(crate) use prompt_ids::media_of;
pub use prompt_ids::{FrameRows, MediumRows, PromptIds};
pub use single_image::{SingleImage, SingleImageRule};
pub(crate) use start::{Replaced, StartingTower, StartingWeights};
pub use tower_source::TowerSource;
pub use unused::Unused;
pub use video_path::VideoPath;
