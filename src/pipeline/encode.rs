//! Third stage: preprocessed images through the tower and the connector, in batches over the images of several videos.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use candle_core::Tensor;

use super::error::{guarded, with_memory_of};
use super::item::{Carried, PartContent, VideoPart};
use super::stages::ENCODE;
use super::{Stages, VideoProgress};
use crate::device::{free_memory, release_unused_memory};
use crate::error::Error;
use crate::exec::{Closed, Inlet, Outlet};

/// Number of images per forward pass of the tower, lowered when the device runs out of memory.
pub(super) struct BatchSize(AtomicUsize);

impl BatchSize {
    pub(super) fn new(n_images: usize) -> Self {
        Self(AtomicUsize::new(n_images.max(1)))
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Lowers the size to `n_images`. Returns whether it was higher.
    fn lower(&self, n_images: usize) -> bool {
        self.0.fetch_min(n_images.max(1), Ordering::Relaxed) > n_images
    }
}

/// Encodes images in batches; other parts pass, in their order.
pub(super) fn encode(stages: &Stages<'_>, inlet: &Inlet<VideoPart<Tensor>>, outlet: &Outlet<VideoPart<Tensor>>) {
    let mut batch = ImageBatch { stages, outlet, waiting: VecDeque::new(), n_images: 0 };
    while let Some(item) = inlet.recv() {
        let mut next = Some(item);
        // Since the first image of the batch.
        let mut deadline = None;
        // Images that are ready join the batch, and images that arrive before the deadline.
        while let Some(item) = next.take() {
            batch.push(item);
            if batch.n_images < stages.encode_batch.get() {
                next = inlet.recv_now();
            }
            if next.is_none()
                && (1..stages.encode_batch.get()).contains(&batch.n_images)
                && !stages.encode_wait.is_zero()
            {
                next = inlet.recv_until(*deadline.get_or_insert_with(|| Instant::now() + stages.encode_wait));
            }
        }
        if batch.flush().is_err() {
            return;
        }
    }
}

/// Parts that wait for the next batch.
struct ImageBatch<'b> {
    stages: &'b Stages<'b>,
    outlet: &'b Outlet<VideoPart<Tensor>>,
    /// Waiting parts, in the order of arrival.
    waiting: VecDeque<VideoPart<Tensor>>,
    n_images: usize,
}

impl ImageBatch<'_> {
    fn push(&mut self, item: VideoPart<Tensor>) {
        self.n_images += usize::from(matches!(item.part, PartContent::Image(..)));
        self.waiting.push_back(item);
    }

    /// Encodes the waiting images, and sends all waiting parts in their order.
    fn flush(&mut self) -> Result<(), Closed> {
        let start = Instant::now();
        // Images of failed videos need no work.
        self.waiting.retain(|item| !(item.video.is_failed() && matches!(item.part, PartContent::Image(..))));
        let images = self.waiting.iter().filter_map(|item| match &item.part {
            // A tensor's clone shares its values.
            PartContent::Image(pixels, _) => Some(pixels.clone()),
            _ => None,
        });
        let images: Vec<Tensor> = images.collect();
        let mut fused = self.fuse(&images).into_iter();
        drop(images);
        let each = start.elapsed() / u32::try_from(fused.len().max(1)).unwrap_or(u32::MAX);
        self.n_images = 0;
        while let Some(item) = self.waiting.pop_front() {
            let encoded = item.map_image(ENCODE, |_, carried| {
                let missing = || Error::compute("encoding frames")(candle_core::Error::msg("an image was lost"));
                let image = fused.next().unwrap_or_else(|| Err(missing()))?;
                Ok((image, Carried { encode: carried.encode + each, ..carried }))
            });
            self.outlet.send(encoded)?;
        }
        Ok(())
    }

    /// Returns the fused tokens of each image.
    fn fuse(&self, images: &[Tensor]) -> Vec<Result<Tensor, Error>> {
        let Stages { vlm, encode_batch, on_progress, .. } = self.stages;
        let device = vlm.vision_device();
        let fuse = |pixels: &Tensor| {
            guarded(|| {
                let fused = vlm.fuse(pixels)?;
                self.stages.complete(device).map(|()| fused)
            })
        };
        let video =
            self.waiting.iter().find(|item| matches!(item.part, PartContent::Image(..))).map(|item| &item.video);
        let lower = |n_images: usize| {
            release_unused_memory(device);
            if encode_batch.lower(n_images)
                && let Some(video) = video
            {
                on_progress(video, VideoProgress::SmallerBatch { n_images });
            }
        };
        let with_sizes = |error: Error| with_memory_of(error, images.first(), free_memory(device));
        let fused = fuse_each(images, &fuse, &lower);
        fused.into_iter().map(|fused| fused.map_err(with_sizes)).collect()
    }
}

/// Returns the fused tokens of each image. A batch for which the device has no memory is halved, and `lower` is called
/// with its new size. After any other failure each image is tried alone: one video must not fail with another.
///
/// # Shapes
/// `fuse` maps `(T, 3, side, side)` to `(T, N', k D)`; each image and each result has `T = 1`.
fn fuse_each(
    images: &[Tensor],
    fuse: &dyn Fn(&Tensor) -> Result<Tensor, Error>,
    lower: &dyn Fn(usize),
) -> Vec<Result<Tensor, Error>> {
    let failed = Error::compute("encoding frames");
    let in_one_batch = || -> Result<Vec<Tensor>, Error> {
        let fused = fuse(&Tensor::cat(images, 0).map_err(&failed)?)?; // (T, N', k D)
        let each = (0..images.len()).map(|i| fused.narrow(0, i, 1)).collect::<candle_core::Result<_>>();
        each.map_err(&failed)
    };
    if images.len() > 1 {
        match in_one_batch() {
            Ok(fused) => return fused.into_iter().map(Ok).collect(),
            Err(error) if error.kind().is_out_of_memory() => {
                let half = images.len().div_ceil(2);
                lower(half);
                return images.chunks(half).flat_map(|images| fuse_each(images, fuse, lower)).collect();
            }
            Err(_) => {}
        }
    }
    images.iter().map(fuse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use std::cell::RefCell;

    fn images(levels: &[f64]) -> Vec<Tensor> {
        let image = |&level| Tensor::full(level, (1, 3, 2, 2), &Device::Cpu)?.to_dtype(DType::F32);
        levels.iter().map(|level| image(level).expect("small")).collect()
    }

    /// A tower whose token is an image's first value; it refuses batches in which that is negative.
    fn first_value(pixels: &Tensor) -> Result<Tensor, Error> {
        let run = || pixels.narrow(1, 0, 1)?.narrow(2, 0, 1)?.narrow(3, 0, 1)?.reshape(((), 1, 1)); // (T, 1, 1)
        let token = run().map_err(Error::compute("taking a value"))?;
        let values = token.flatten_all().and_then(|values| values.to_vec1::<f32>()).expect("small");
        assert!(values.iter().all(|&value| value != -2.0), "a defect");
        let refused = || Error::compute("the tower")(candle_core::Error::msg("negative"));
        if values.iter().any(|&value| value < 0.0) { Err(refused()) } else { Ok(token) }
    }

    #[test]
    fn an_image_that_fails_fails_alone_and_no_pixels_are_copied_for_that() {
        for (levels, n_calls) in [(&[1.0, 2.0, 3.0][..], 1), (&[1.0, -1.0, 3.0, -2.0], 5), (&[-1.0], 1), (&[], 0)] {
            let images = images(levels);
            let seen = RefCell::new(Vec::new());
            let fuse = |pixels: &Tensor| {
                seen.borrow_mut().push(pixels.id());
                guarded(|| first_value(pixels))
            };
            let fused = fuse_each(&images, &fuse, &|_| panic!("memory is not what they lack"));
            assert_eq!(seen.borrow().len(), n_calls);
            // Each that is tried alone is the very tensor that was given.
            let alone: Vec<_> = images.iter().map(Tensor::id).collect();
            assert!(n_calls == 1 && levels.len() > 1 || seen.borrow().ends_with(&alone));
            for (level, fused) in levels.iter().zip(fused) {
                match fused {
                    Ok(token) => {
                        assert_eq!(token.dims(), [1, 1, 1]);
                        assert_eq!(
                            f64::from(token.flatten_all().expect("one").to_vec1::<f32>().expect("one")[0]),
                            *level
                        );
                    }
                    Err(error) => assert!(*level < 0.0, "{level}: {error}"),
                }
            }
        }
    }

    #[test]
    fn a_batch_without_memory_is_halved_until_it_fits_and_nothing_is_lost() {
        // A device with room for two images, or for none.
        for (room, calls, lowered) in [(2, &[7, 4, 2, 2, 3, 2, 1][..], &[4, 2, 2][..]), (0, &[2, 1, 1], &[1])] {
            let levels: Vec<f64> = (0..calls[0]).map(f64::from).collect();
            let (seen, heard) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
            let fuse = |pixels: &Tensor| {
                let n_images = i32::try_from(pixels.dims()[0]).expect("a few");
                seen.borrow_mut().push(n_images);
                let memory = || candle_core::Error::msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
                if n_images > room {
                    return Err(Error::compute("encoding frames")(memory()));
                }
                guarded(|| first_value(pixels))
            };
            let fused = fuse_each(&images(&levels), &fuse, &|n_images| heard.borrow_mut().push(n_images));
            assert_eq!((&**seen.borrow(), &**heard.borrow()), (calls, lowered));
            assert_eq!(fused.len(), levels.len());
            for (level, fused) in levels.iter().zip(fused) {
                match fused {
                    Ok(token) => {
                        let value = token.flatten_all().and_then(|token| token.to_vec1::<f32>()).expect("one")[0];
                        assert_eq!(f64::from(value), *level);
                    }
                    Err(error) => assert!(room == 0 && error.kind().is_out_of_memory()),
                }
            }
        }
    }

    #[test]
    fn a_batch_stays_small_after_out_of_memory_and_is_reported_once() {
        let size = BatchSize::new(8);
        assert!(size.lower(4) && size.get() == 4);
        assert!(!size.lower(4) && !size.lower(6) && size.get() == 4);
        assert!(size.lower(0) && size.get() == 1);
    }
}
