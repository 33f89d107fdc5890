//! Preparation of frames for the tower (resize, crop, normalize): in host memory, or on the vision encoder's device
//! where kernels for it exist. Called by the decode stage of a pipeline, one frame at a time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ::image::RgbImage;
use candle_core::{Device, Tensor};

use super::Vlm;
use super::error::mismatch;
use super::placement::VisionPlacement;
use crate::device::release_unused_memory;
use crate::error::{Error, is_out_of_memory};
use crate::kernels::{self, DeviceFramePlan};

/// Capacity of [`FrameTables`], in sizes of frames.
const MAX_SIZES: usize = 16;

/// Cache of resize tables on a device, by the size of the frames.
#[derive(Debug, Default)]
pub(super) struct FrameTables(Mutex<HashMap<(u32, u32), DeviceFramePlan>>);

impl FrameTables {
    fn get(
        &self,
        size: (u32, u32),
        make: impl FnOnce() -> Result<DeviceFramePlan, Error>,
    ) -> Result<DeviceFramePlan, Error> {
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
    /// Prepares one frame: in host memory and f32, or on the vision encoder's device and in its precision.
    ///
    /// # Shapes
    /// `(1, 3, side, side)`, for the tower's side.
    ///
    /// # Errors
    /// When the frame is too large, the image processor makes another size than the tower takes, or device memory runs
    /// out.
    pub fn prepare(&self, frame: RgbImage) -> Result<Tensor, Error> {
        let kernels = kernels::of(&self.vision.device, self.vision.dtype);
        if kernels.prepares_frames() && self.preprocessor.has_plan() {
            return self.prepare_on_device(&frame);
        }
        let wrong = |error: Error| error.about(self.name.clone());
        let (values, width, height) = self.preprocessor.run(frame).map_err(wrong)?;
        let side = self.tower_side(width, height)?;
        Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu).map_err(Error::compute("preparing pixels"))
    }

    /// Prepares a view of a single image, on the device where frames are prepared.
    ///
    /// # Shapes
    /// `(1, 3, side, side)`, for the tower's side.
    ///
    /// # Errors
    /// When the family has no such views, or device memory runs out.
    pub(crate) fn prepare_view(&self, view: RgbImage) -> Result<Tensor, Error> {
        let wrong = |error: Error| error.about(self.name.clone());
        let failed = Error::compute("preparing pixels");
        let (values, width, height) = self.single_image.usable()?.preprocessor().run(view).map_err(wrong)?;
        let side = self.tower_side(width, height)?;
        let pixels = Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu).map_err(&failed)?;
        let VisionPlacement { device, dtype } = &self.vision;
        if kernels::of(device, *dtype).prepares_frames() && self.preprocessor.has_plan() {
            // Views go through the tower together with frames, which are on that device.
            return pixels.to_device(device).and_then(|pixels| pixels.to_dtype(*dtype)).map_err(&failed);
        }
        Ok(pixels)
    }

    fn prepare_on_device(&self, frame: &RgbImage) -> Result<Tensor, Error> {
        let VisionPlacement { device, dtype } = &self.vision;
        let failed = Error::compute("preparing pixels");
        let placed = self.frame_tables.get(frame.dimensions(), || {
            let wrong = |error: Error| error.about(self.name.clone());
            let plan = self.preprocessor.plan(frame.dimensions().into()).map_err(wrong)?;
            self.tower_side(plan.size.0, plan.size.1)?;
            DeviceFramePlan::new(plan, device).map_err(&failed)
        })?;
        let kernels = kernels::of(device, *dtype);
        let prepared = match kernels.prepare_frame(frame.as_raw(), &placed) {
            Err(error) if is_out_of_memory(&error) => {
                release_unused_memory(device);
                kernels.prepare_frame(frame.as_raw(), &placed)
            }
            prepared => prepared,
        };
        let none = || candle_core::Error::msg("the device prepares no frames");
        prepared.and_then(|pixels| pixels.ok_or_else(none)).map_err(&failed)
    }

    /// Returns the side of the tower's input, if a prepared frame has that size.
    fn tower_side(&self, width: u32, height: u32) -> Result<usize, Error> {
        let side = self.tower.config().image_size;
        if (width as usize, height as usize) == (side, side) {
            return Ok(side);
        }
        let rule =
            format!("the image processor makes frames of {width} x {height}, but the tower takes {side} x {side}");
        Err(mismatch(self.name.as_ref(), rule))
    }
}
