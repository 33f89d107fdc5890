//! Preparation of frames for the vision tower: padded, resized, cropped and normalised, with Pillow's and Hugging
//! Face's arithmetic. Decoding is `video`'s; the networks see the pixel values only.

pub(crate) mod any_res;
pub(crate) mod config;
pub(crate) mod mosaic;
pub(crate) mod plan;
mod preprocess;
mod processor;
mod processor_keys;
#[cfg(test)]
mod processor_tests;
mod resize;

pub use any_res::AnyResTiler;
pub use config::{Arithmetic, ImageSize, PreprocessConfig, Resize};
pub use preprocess::Preprocessor;
pub use processor::{ImageProcessor, ProcessorReading};
