//! Composition of frames into the images that a temporal strategy encodes: frames, frames with a mosaic of thumbnails,
//! or a grid. Called by the decode stage.

use ::image::RgbImage;

use crate::error::{Kind, Result};
use crate::image::mosaic::{mosaic, shrink};
use crate::temporal::Views;
use crate::units::linspace;

/// Composes the images of one video.
pub(super) struct ViewMaker {
    views: Views,
    /// Side of the tower's images, in pixels.
    side: u32,
    /// Cells of the mosaic.
    cells: Vec<RgbImage>,
}

impl ViewMaker {
    /// Creates a maker for a tower with images of `side x side`.
    pub(super) fn new(views: Views, side: usize) -> Self {
        Self { views, side: side as u32, cells: Vec::new() }
    }

    /// Adds a frame. Returns the image to encode for it, if the frame is encoded alone.
    pub(super) fn push(&mut self, frame: RgbImage) -> Option<RgbImage> {
        match self.views {
            Views::Frames => Some(frame),
            Views::FramesAndThumbnail { rows, columns } => {
                let cell = |n: usize| (self.side / n.max(1) as u32).max(1);
                self.cells.push(shrink(&frame, cell(columns), cell(rows)));
                Some(frame)
            }
            Views::Grid { .. } => {
                self.cells.push(frame);
                None
            }
        }
    }

    /// Returns the image to encode after all frames, if any.
    ///
    /// # Errors
    /// When the frames do not make a mosaic.
    pub(super) fn finish(self) -> Result<Option<RgbImage>> {
        let (rows, columns) = match self.views {
            Views::Frames => return Ok(None),
            Views::FramesAndThumbnail { rows, columns } | Views::Grid { rows, columns } => (rows, columns),
        };
        let chosen: Vec<RgbImage> =
            spread(self.cells.len(), rows * columns).into_iter().map(|i| self.cells[i].clone()).collect();
        mosaic(&chosen, columns as u32).map(Some).map_err(|error| error.with_kind(Kind::Frames))
    }
}

/// Returns `n_wanted` of `n` indices, evenly spaced with both ends (`round(linspace(0, n - 1, n_wanted))`); for fewer
/// indices than wanted all of them, the last one repeated.
fn spread(n: usize, n_wanted: usize) -> Vec<usize> {
    if n <= n_wanted {
        return (0..n_wanted).map(|i| i.min(n.saturating_sub(1))).take(if n == 0 { 0 } else { n_wanted }).collect();
    }
    linspace(n, n_wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::Rgb;

    fn frame(level: u8) -> RgbImage {
        RgbImage::from_pixel(4, 2, Rgb([level; 3]))
    }

    #[test]
    fn frames_are_spread_evenly_and_the_last_is_repeated() {
        assert_eq!(spread(50, 6), [0, 10, 20, 29, 39, 49]);
        assert_eq!(spread(6, 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(spread(2, 6), [0, 1, 1, 1, 1, 1]);
        assert_eq!(spread(0, 6), [0; 0]);
        assert_eq!(spread(9, 1), [0]);
    }

    #[test]
    fn each_view_gives_its_images() {
        let run = |views| {
            let mut maker = ViewMaker::new(views, 12);
            let alone = [1, 2, 3].into_iter().filter_map(|level| maker.push(frame(level))).count();
            (alone, maker.finish().expect("three frames came").map(|image| image.dimensions()))
        };
        assert_eq!(run(Views::Frames), (3, None));
        assert_eq!(run(Views::FramesAndThumbnail { rows: 3, columns: 2 }), (3, Some((12, 12))));
        // Two columns and three rows of frames as they are.
        assert_eq!(run(Views::Grid { rows: 3, columns: 2 }), (0, Some((8, 6))));
    }
}
