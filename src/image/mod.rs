//! Frames as the tower wants them: padded, resized, cropped and normalised as Pillow and Hugging Face do.

pub mod any_res;
pub mod config;
pub mod mosaic;
pub mod plan;
pub mod preprocess;
pub mod processor;
mod resize;

pub use any_res::AnyRes;
pub use config::{Arithmetic, PreprocessConfig, Resize};
pub use preprocess::Preprocessor;
pub use processor::{ImageProcessor, ProcessorReading};
