//! Frames on their way to the tower: prepared in the host's memory, or on the vision encoder's device where it has
//! kernels for that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ::image::RgbImage;
use candle_core::{Device, Tensor};

use super::load::VisionPlacement;
use super::{ModelError, Vlm};
use crate::device::release_unused_memory;
use crate::error::is_out_of_memory;
use crate::kernels::{self, PlacedFrames};

/// Sizes of frames whose tables are kept on a device.
const MAX_SIZES: usize = 16;

/// The tables of frames on a device, by the size of the frames.
#[derive(Debug, Default)]
pub(super) struct FrameTables(Mutex<HashMap<(u32, u32), PlacedFrames>>);

impl FrameTables {
    fn get(
        &self,
        size: (u32, u32),
        make: impl FnOnce() -> Result<PlacedFrames, ModelError>,
    ) -> Result<PlacedFrames, ModelError> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(placed) = tables.get(&size) {
            return Ok(placed.clone());
        }
        if tables.len() == MAX_SIZES {
            tables.clear();
        }
        let placed = make()?;
        tables.insert(size, placed.clone());
        Ok(placed)
    }
}

impl Vlm {
    /// Prepares one frame: in the host's memory and f32, or on the vision encoder's device and in its precision.
    ///
    /// # Shapes
    /// `(1, 3, side, side)`, for the tower's side.
    ///
    /// # Errors
    /// When the frame is too large, the image processor makes another size than the tower takes, or the device has no
    /// room.
    pub fn prepare(&self, picture: RgbImage) -> Result<Tensor, ModelError> {
        let kernels = kernels::of(&self.vision.device, self.vision.dtype);
        if kernels.prepares_frames() && self.preprocessor.has_plan() {
            return self.prepare_on_device(&picture);
        }
        let wrong = |source| ModelError::Preprocess { dir: self.name.clone().into(), source };
        let (values, width, height) = self.preprocessor.run(picture).map_err(wrong)?;
        let side = self.side_of((width, height))?;
        Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu).map_err(ModelError::compute("preparing pixels"))
    }

    /// Prepares a view of a single image, where the frames are prepared.
    ///
    /// # Shapes
    /// `(1, 3, side, side)`, for the tower's side.
    ///
    /// # Errors
    /// When the family has no such views, or the device has no room.
    pub fn prepare_view(&self, view: RgbImage) -> Result<Tensor, ModelError> {
        let wrong = |source| ModelError::Preprocess { dir: self.name.clone().into(), source };
        let failed = ModelError::compute("preparing pixels");
        let (values, width, height) = self.single_image.usable()?.preprocessor().run(view).map_err(wrong)?;
        let side = self.side_of((width, height))?;
        let pixels = Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu).map_err(&failed)?;
        let VisionPlacement { device, dtype } = &self.vision;
        if kernels::of(device, *dtype).prepares_frames() && self.preprocessor.has_plan() {
            // Views go through the tower together with frames, which are there.
            return pixels.to_device(device).and_then(|pixels| pixels.to_dtype(*dtype)).map_err(&failed);
        }
        Ok(pixels)
    }

    fn prepare_on_device(&self, picture: &RgbImage) -> Result<Tensor, ModelError> {
        let VisionPlacement { device, dtype } = &self.vision;
        let failed = ModelError::compute("preparing pixels");
        let placed = self.frames.get(picture.dimensions(), || {
            let wrong = |source| ModelError::Preprocess { dir: self.name.clone().into(), source };
            let plan = self.preprocessor.plan(picture.dimensions()).map_err(wrong)?;
            self.side_of(plan.size)?;
            PlacedFrames::new(plan, device).map_err(&failed)
        })?;
        let kernels = kernels::of(device, *dtype);
        let prepared = match kernels.prepare_frame(picture.as_raw(), &placed) {
            Err(error) if is_out_of_memory(&error) => {
                release_unused_memory(device);
                kernels.prepare_frame(picture.as_raw(), &placed)
            }
            prepared => prepared,
        };
        let none = || candle_core::Error::msg("the device prepares no frames");
        prepared.and_then(|pixels| pixels.ok_or_else(none)).map_err(&failed)
    }

    /// The tower's side, if that is the size of a prepared frame.
    fn side_of(&self, (width, height): (u32, u32)) -> Result<usize, ModelError> {
        let side = self.tower.config().image_size;
        if (width as usize, height as usize) == (side, side) {
            return Ok(side);
        }
        let rule =
            format!("the image processor makes frames of {width} x {height}, but the tower takes {side} x {side}");
        Err(ModelError::Combination { path: self.name.clone().into(), rule })
    }
}
