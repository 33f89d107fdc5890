//! Processing of a single image by the checkpoint's own processor: AnyRes, where its family uses it.
//!
//! A checkpoint whose AnyRes keys are unusable refuses a single image with the reason, and never falls back to the base
//! view unasked. Videos are unaffected.

use std::path::Path;

use ::image::RgbImage;

use super::VideoPath;
use super::config::processor::{ProcessorClass, ProcessorFile};
use super::config::{AnyResKeys, Spelling, VlmConfig};
use crate::error::Result;
use crate::error::{Error, Kind};
use crate::image::any_res::Tiling;
use crate::image::config::Filter;
use crate::image::{AnyResTiler, Arithmetic, ImageSize, PreprocessConfig, Preprocessor, Resize};
use crate::temporal::{self, Temporal, Unpad};
use crate::vision::TowerConfig;

/// AnyRes views of single images, and the tokens kept of them.
#[derive(Debug, Clone)]
pub struct SingleImage {
    any_res: AnyResTiler,
    /// Preparation of views.
    preprocessor: Preprocessor,
    unpad: Unpad,
    max_tiles: Option<usize>,
}

/// A family's own processing of single images, if it has one; the reason where it is unusable.
#[derive(Debug, Clone, Default)]
pub struct SingleImageRule(Option<Result<SingleImage>>);

impl SingleImageRule {
    /// Reads the rule of a checkpoint whose processor's files are in `dir`; `frames` is the preparation of frames.
    pub(super) fn read(dir: &Path, config: &VlmConfig, tower: &TowerConfig, frames: &PreprocessConfig) -> Self {
        let side = tower.image_size as u32;
        Self(config.any_res.clone().map(|keys| match config.spelling {
            Spelling::HuggingFace => of_transformers(dir, config, &keys?, side),
            Spelling::Llava => of_llava(&keys?, side, frames),
        }))
    }

    /// Returns whether the family has its own processing of single images.
    pub fn is_own(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the processing, if it is usable.
    ///
    /// # Errors
    /// [`Error`] with the reason.
    pub fn usable(&self) -> Result<&SingleImage, Error> {
        let refused = |error: Error| {
            let hint = "single_image: frame (--single-image frame)";
            error.with_kind(Kind::Frames).with_hint(hint).about("single_image any_res")
        };
        match &self.0 {
            Some(Ok(single_image)) => Ok(single_image),
            Some(Err(cause)) => Err(refused(cause.clone())),
            None => Err(refused(Error::invalid("the checkpoint does not ask for it"))),
        }
    }
}

/// Reads the processing of transformers: the processor's files must agree with `keys`, which the model reads.
fn of_transformers(dir: &Path, config: &VlmConfig, keys: &AnyResKeys, side: u32) -> Result<SingleImage> {
    let file = ProcessorFile::find(dir, VideoPath::None)?;
    let missing = || Error::invalid("no processor_config.json and no preprocessor_config.json").about(dir);
    let file = file.ok_or_else(missing)?;
    let class = config.video_path.processor().or(config.processor);
    let class = class.ok_or_else(|| Error::invalid("the family has no image processor of its own"))?;
    if file.any_res_keys(class)? != *keys {
        let rule = "image_grid_pinpoints or vision_aspect_ratio of the processor differ from those of config.json";
        return Err(Error::invalid(rule).about(dir));
    }
    let (preprocess, notes) = file.read(ProcessorClass::Named(class))?;
    notes.refused.first().map_or(Ok(()), |refused| Err(Error::invalid(refused.clone())))?;
    let preprocess = view_preprocess(preprocess, side).ok_or_else(|| {
        Error::invalid(format!("size and crop_size differ from the tower's {side} x {side}")).about(dir)
    })?;
    SingleImage::new(keys, side, preprocess, Unpad::Rounded)
}

/// Makes the processing of LLaVA's code: Pillow resizes to views, whatever the tower's filter is.
fn of_llava(keys: &AnyResKeys, side: u32, frames: &PreprocessConfig) -> Result<SingleImage> {
    let views = frames.clone().squeezed(side);
    let views = PreprocessConfig { filter: Filter::Bicubic, arithmetic: Arithmetic::Pillow, ..views };
    SingleImage::new(keys, side, views, Unpad::Truncated)
}

/// Returns the preparation of views, which have the tower's side already, if the processor keeps that size.
fn view_preprocess(preprocess: PreprocessConfig, side: u32) -> Option<PreprocessConfig> {
    let square = Resize::Exact { width: side, height: side };
    let is_square = [square, Resize::ShortestEdge(side)].contains(&preprocess.resize);
    let is_whole = preprocess.crop.is_none_or(|crop| crop == (side, side)) && preprocess.pad.is_none();
    // The classes of transformers 5.24 resize with torchvision's kernels.
    let views = PreprocessConfig { arithmetic: Arithmetic::Torch, ..preprocess.squeezed(side) };
    (is_square && is_whole).then_some(views)
}

impl SingleImage {
    fn new(keys: &AnyResKeys, side: u32, views: PreprocessConfig, unpad: Unpad) -> Result<Self> {
        let resolutions = keys.resolutions.in_pixels(side).into_iter().map(ImageSize::from).collect();
        let any_res = AnyResTiler::new(side, resolutions, &views)?;
        Ok(Self { any_res, preprocessor: Preprocessor::new(views), unpad, max_tiles: keys.max_tiles })
    }

    /// Returns the sizes of the views, and the resolutions that they make up.
    pub fn any_res(&self) -> &AnyResTiler {
        &self.any_res
    }

    /// Returns the temporal strategy that makes one sequence of the views of an image of this width and height.
    pub fn temporal(&self, image: (u32, u32)) -> Temporal {
        self.packing(self.any_res.tiling(image.into()))
    }

    fn packing(&self, tiling: Tiling) -> Temporal {
        let (rows, columns) = (tiling.rows as usize, tiling.columns as usize);
        let (unpad, max_tiles) = (self.unpad, self.max_tiles);
        Temporal::AnyRes(temporal::AnyRes { image: tiling.image.into(), rows, columns, unpad, max_tiles })
    }

    /// Returns the strategies of images without padding: one for each resolution.
    pub fn packings(&self) -> impl Iterator<Item = Temporal> {
        self.any_res.tilings().map(|tiling| self.packing(tiling))
    }

    /// Makes the views of an image: the base view, then the tiles row by row.
    pub fn views(&self, image: &RgbImage) -> Vec<RgbImage> {
        self.any_res.views(image, self.any_res.tiling(ImageSize::of(image)))
    }

    /// Returns the preparation of views.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }
}
