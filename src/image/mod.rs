//! Preparation of frames for the vision tower: padded, resized, cropped and normalised, with Pillow's and Hugging
//! Face's arithmetic. Decoding is `video`'s; the networks see the pixel values only.

pub mod any_res;
pub mod config;
pub mod mosaic;
pub mod plan;
pub mod preprocess;
pub mod processor;
mod processor_keys;
#[cfg(test)]
mod processor_tests;
mod resize;

pub use any_res::AnyResTiler;
pub use config::{Arithmetic, ImageSize, PreprocessConfig, Resize};
pub use preprocess::Preprocessor;
pub use processor::{ImageProcessor, ProcessorReading};
