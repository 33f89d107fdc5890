//! A single image as a checkpoint's own processor takes it: by AnyRes, where its family does.
//!
//! A checkpoint whose files ask for AnyRes and cannot be obeyed is told so when a single image comes, and never takes the
//! base view in its place unasked. Videos have nothing to do with it.

use std::path::Path;

use ::image::RgbImage;

use super::config::processor::{ProcessorClass, ProcessorFile};
use super::config::{AnyResKeys, Spelling, VlmConfig};
use super::{ModelError, VideoPath};
use crate::image::any_res::Tiling;
use crate::image::config::Filter;
use crate::image::{AnyRes, Arithmetic, PreprocessConfig, Preprocessor, Resize};
use crate::temporal::{self, Temporal, Unpad};
use crate::vision::TowerConfig;

/// The views of single images, and how many of their tokens are kept.
#[derive(Debug, Clone)]
pub struct SingleImage {
    any_res: AnyRes,
    /// Prepares views.
    preprocessor: Preprocessor,
    unpad: Unpad,
    max_tiles: Option<usize>,
}

/// A family's way with single images, where it has one of its own: an error in words where it cannot be gone.
#[derive(Debug, Clone, Default)]
pub struct SingleImageRule(Option<Result<SingleImage, String>>);

impl SingleImageRule {
    /// Reads the rule of a checkpoint, whose processor's files are in `dir`; `frames` is the preparation of frames.
    pub(super) fn read(dir: &Path, config: &VlmConfig, tower: &TowerConfig, frames: &PreprocessConfig) -> Self {
        let side = tower.image_size as u32;
        Self(config.any_res.clone().map(|keys| match config.spelling {
            Spelling::HuggingFace => of_transformers((dir, config), &keys?, side),
            Spelling::Llava => of_llava(&keys?, side, frames),
        }))
    }

    /// Whether the family has a way of its own with single images.
    pub fn is_own(&self) -> bool {
        self.0.is_some()
    }

    /// The way, if it can be gone.
    ///
    /// # Errors
    /// [`ModelError::SingleImage`] with the reason.
    pub fn usable(&self) -> Result<&SingleImage, ModelError> {
        let refused = |cause: &str| ModelError::SingleImage {
            rule: format!("any_res: {cause}; hint: single_image: frame (--single-image frame)"),
        };
        match &self.0 {
            Some(Ok(single_image)) => Ok(single_image),
            Some(Err(cause)) => Err(refused(cause)),
            None => Err(refused("the checkpoint does not ask for it")),
        }
    }
}

/// As the processor and the model of transformers do it, each by its own file.
fn of_transformers((dir, config): (&Path, &VlmConfig), keys: &AnyResKeys, side: u32) -> Result<SingleImage, String> {
    let words = |error: ModelError| error.to_string();
    let file = ProcessorFile::find(dir, VideoPath::None).map_err(words)?;
    let missing = || format!("{}: no processor_config.json and no preprocessor_config.json", dir.display());
    let file = file.ok_or_else(missing)?;
    let class = config.video_path.processor().or(config.processor);
    let class = class.ok_or("the family has no image processor of its own")?;
    if file.any_res_keys(class).map_err(words)? != *keys {
        return Err(format!(
            "{}: image_grid_pinpoints or vision_aspect_ratio of the processor are not those of config.json",
            dir.display()
        ));
    }
    let (preprocess, notes) = file.read(ProcessorClass::Named(class)).map_err(words)?;
    notes.refused.first().map_or(Ok(()), |refused| Err(refused.clone()))?;
    let preprocess = of_views(preprocess, side)
        .ok_or_else(|| format!("{}: size and crop_size are not the tower's {side} x {side}", dir.display()))?;
    SingleImage::new(keys, side, (preprocess, Unpad::Rounded))
}

/// As LLaVA's code does it: Pillow resizes to views, whatever the tower's filter is.
fn of_llava(keys: &AnyResKeys, side: u32, frames: &PreprocessConfig) -> Result<SingleImage, String> {
    let views = frames.clone().squeezed(side);
    let views = PreprocessConfig { filter: Filter::Bicubic, arithmetic: Arithmetic::Pillow, ..views };
    SingleImage::new(keys, side, (views, Unpad::Truncated))
}

/// The preparation of views, which are of the tower's side already, if the processor makes no other size of them.
fn of_views(preprocess: PreprocessConfig, side: u32) -> Option<PreprocessConfig> {
    let square = Resize::Exact { width: side, height: side };
    let is_square = [square, Resize::ShortestEdge(side)].contains(&preprocess.resize);
    let is_whole = preprocess.crop.is_none_or(|crop| crop == (side, side)) && preprocess.pad.is_none();
    // The classes of transformers 5.24 resize with torchvision's kernels.
    let views = PreprocessConfig { arithmetic: Arithmetic::Torch, ..preprocess.squeezed(side) };
    (is_square && is_whole).then_some(views)
}

impl SingleImage {
    fn new(keys: &AnyResKeys, side: u32, (views, unpad): (PreprocessConfig, Unpad)) -> Result<Self, String> {
        let any_res = AnyRes::new(side, keys.resolutions.in_pixels(side), &views)?;
        Ok(Self { any_res, preprocessor: Preprocessor::new(views), unpad, max_tiles: keys.max_tiles })
    }

    /// Sizes of the views, and the resolutions that they make.
    pub fn any_res(&self) -> &AnyRes {
        &self.any_res
    }

    /// The strategy that makes one sequence of the views of an image of this width and height.
    pub fn temporal(&self, image: (u32, u32)) -> Temporal {
        self.packing(self.any_res.tiling(image))
    }

    fn packing(&self, tiling: Tiling) -> Temporal {
        let (rows, columns) = (tiling.rows as usize, tiling.columns as usize);
        let (unpad, max_tiles) = (self.unpad, self.max_tiles);
        Temporal::AnyRes(temporal::AnyRes { image: tiling.image, rows, columns, unpad, max_tiles })
    }

    /// The strategies of images that have exactly one of the resolutions each: those without padding.
    pub fn packings(&self) -> impl Iterator<Item = Temporal> {
        self.any_res.tilings().map(|tiling| self.packing(tiling))
    }

    /// The views of an image: the base view, then the tiles row by row.
    pub fn views(&self, image: &RgbImage) -> Vec<RgbImage> {
        self.any_res.views(image, self.any_res.tiling(image.dimensions()))
    }

    /// Prepares views.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }
}
