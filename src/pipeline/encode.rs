//! The third stage: prepared images through the tower and the connector, several together, of whichever videos.

use std::collections::VecDeque;
use std::time::Instant;

use candle_core::Tensor;

use super::Stages;
use super::item::{Item, Part, Spent};
use super::stages::ENCODE;
use crate::exec::{Closed, Inlet, Outlet};
use crate::vlm::ModelError;

/// Encodes images in batches; whatever else comes keeps its place between them.
pub(super) fn encode(stages: &Stages<'_>, inlet: &Inlet<Item<Vec<f32>>>, outlet: &Outlet<Item<Tensor>>) {
    let mut batch = Batch { stages, outlet, waiting: VecDeque::new(), n_images: 0 };
    while let Some(item) = inlet.recv() {
        let mut next = Some(item);
        // What has come already goes along; nothing is waited for.
        while let Some(item) = next.take() {
            batch.push(item);
            if batch.n_images < stages.encode_batch {
                next = inlet.recv_now();
            }
        }
        if batch.flush().is_err() {
            return;
        }
    }
}

struct Batch<'b> {
    stages: &'b Stages<'b>,
    outlet: &'b Outlet<Item<Tensor>>,
    /// In the order in which they came.
    waiting: VecDeque<Item<Vec<f32>>>,
    n_images: usize,
}

impl Batch<'_> {
    fn push(&mut self, item: Item<Vec<f32>>) {
        self.n_images += usize::from(matches!(item.part, Part::Image(..)));
        self.waiting.push_back(item);
    }

    /// Encodes the images that wait, and hands on everything in its order.
    fn flush(&mut self) -> Result<(), Closed> {
        let start = Instant::now();
        let pixels = self.waiting.iter_mut().filter_map(|item| match &mut item.part {
            Part::Image(pixels, _) => Some(std::mem::take(pixels)),
            _ => None,
        });
        let pixels: Vec<Vec<f32>> = pixels.collect();
        let fused = if pixels.is_empty() { Ok(None) } else { self.fuse(pixels).map(Some) };
        let each = start.elapsed() / u32::try_from(self.n_images.max(1)).unwrap_or(u32::MAX);
        self.n_images = 0;
        let mut row = 0;
        while let Some(item) = self.waiting.pop_front() {
            let encoded = item.map_image(ENCODE, |_, spent| {
                let image = part_of(&fused, row)?;
                row += 1;
                Ok((image, Spent { encode: spent.encode + each, ..spent }))
            });
            self.outlet.send(encoded)?;
        }
        Ok(())
    }

    /// `T` images to `(T, N', k D)`.
    fn fuse(&self, pixels: Vec<Vec<f32>>) -> Result<Tensor, ModelError> {
        let pixels = self.stages.vlm.pixels(pixels)?; // (T, 3, side, side)
        self.stages.vlm.fuse(&pixels)
    }
}

/// The fused tokens of one image, `(1, N', k D)`.
fn part_of(fused: &Result<Option<Tensor>, ModelError>, row: usize) -> Result<Tensor, ModelError> {
    let failed = ModelError::compute("encoding frames");
    match fused {
        Ok(Some(fused)) => fused.narrow(0, row, 1).map_err(failed),
        Ok(None) => Err(failed(candle_core::Error::msg("a batch without images"))),
        Err(error) => Err(failed(candle_core::Error::msg(error.to_string()))),
    }
}
