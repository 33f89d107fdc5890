//! The third stage: prepared images through the tower and the connector, several together, of whichever videos.

use std::collections::VecDeque;
use std::time::Instant;

use candle_core::Tensor;

use super::error::guarded;
use super::item::{Carried, Item, Part};
use super::stages::ENCODE;
use super::{PipelineError, Stages};
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
        // What a failed video left is not worth the work.
        self.waiting.retain(|item| !(item.video.is_given_up() && matches!(item.part, Part::Image(..))));
        let pixels = self.waiting.iter_mut().filter_map(|item| match &mut item.part {
            Part::Image(pixels, _) => Some(std::mem::take(pixels)),
            _ => None,
        });
        let pixels: Vec<Vec<f32>> = pixels.collect();
        let mut fused = self.fuse_each(pixels).into_iter();
        let each = start.elapsed() / u32::try_from(fused.len().max(1)).unwrap_or(u32::MAX);
        self.n_images = 0;
        while let Some(item) = self.waiting.pop_front() {
            let encoded = item.map_image(ENCODE, |_, carried| {
                let missing = || ModelError::compute("encoding frames")(candle_core::Error::msg("an image was lost"));
                let image = fused.next().unwrap_or_else(|| Err(missing().into()))?;
                Ok((image, Carried { encode: carried.encode + each, ..carried }))
            });
            self.outlet.send(encoded)?;
        }
        Ok(())
    }

    /// The fused tokens of each image, `(1, N', k D)`. Where a batch fails, each of its images is tried alone: one video must
    /// not fail with another.
    fn fuse_each(&self, pixels: Vec<Vec<f32>>) -> Vec<Result<Tensor, PipelineError>> {
        let n = pixels.len();
        if n < 2 {
            return pixels.into_iter().map(|image| self.fuse(vec![image])).collect();
        }
        match self.fuse(pixels.clone()) {
            Ok(fused) => {
                let failed = ModelError::compute("encoding frames");
                (0..n).map(|i| fused.narrow(0, i, 1).map_err(&failed).map_err(Into::into)).collect()
            }
            Err(_) => pixels.into_iter().map(|image| self.fuse(vec![image])).collect(),
        }
    }

    /// `T` images to `(T, N', k D)`.
    fn fuse(&self, pixels: Vec<Vec<f32>>) -> Result<Tensor, PipelineError> {
        guarded(|| {
            let pixels = self.stages.vlm.pixels(pixels)?; // (T, 3, side, side)
            Ok(self.stages.vlm.fuse(&pixels)?)
        })
    }
}
