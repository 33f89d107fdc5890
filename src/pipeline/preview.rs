//! Preview of a video for people: one frame, or a contact sheet of the sampled frames, as JPEG.

use ::image::RgbImage;

use crate::image::mosaic::mosaic;
use crate::units::linspace;

/// Longer side of a frame, in pixels.
const SIDE: u32 = 160;
/// Maximum number of frames of a contact sheet, and of those in a row.
const MAX_FRAMES: usize = 8;
const COLUMNS: u32 = 4;
/// Quality of the JPEG image, of 100.
const QUALITY: u8 = 80;

/// Preview that a run makes of each video.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Preview {
    /// No preview.
    #[default]
    None,
    /// The middle one of the sampled frames: the first frame of many videos is black.
    Frame,
    /// Contact sheet of up to eight of the sampled frames, evenly spaced with both ends, row by row.
    Sheet,
}

/// Maker of the preview of one video from its sampled frames.
pub(super) struct PreviewMaker {
    /// Positions of the chosen frames among the sampled ones, ascending.
    chosen: Vec<usize>,
    n_seen: usize,
    frames: Vec<RgbImage>,
    is_done: bool,
}

impl PreviewMaker {
    /// Makes the maker for a video of which `n_sampled` frames are expected.
    pub(super) fn new(preview: Preview, n_sampled: usize) -> Self {
        let chosen = match preview {
            Preview::None => Vec::new(),
            Preview::Frame => vec![n_sampled / 2],
            Preview::Sheet if n_sampled <= MAX_FRAMES => (0..n_sampled.max(1)).collect(),
            Preview::Sheet => linspace(n_sampled, MAX_FRAMES),
        };
        Self { is_done: chosen.is_empty(), chosen, n_seen: 0, frames: Vec::new() }
    }

    /// Takes the next sampled frame. Returns the preview after the last chosen one.
    pub(super) fn push(&mut self, frame: &RgbImage) -> Option<Vec<u8>> {
        let is_chosen = self.chosen.get(self.frames.len()) == Some(&self.n_seen);
        self.n_seen += 1;
        if self.is_done || !is_chosen {
            return None;
        }
        self.frames.push(small(frame));
        if self.frames.len() == self.chosen.len() { self.finish() } else { None }
    }

    /// Begins again with the first sampled frame: the video is read once more.
    pub(super) fn restart(&mut self) {
        (self.n_seen, self.is_done) = (0, self.chosen.is_empty());
        self.frames.clear();
    }

    /// Returns the preview of a video with fewer frames than expected, unless it was returned before. A preview that
    /// cannot be encoded is left out.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
        if std::mem::replace(&mut self.is_done, true) || self.frames.is_empty() {
            return None;
        }
        let columns = COLUMNS.min(self.frames.len() as u32);
        let whole = mosaic(&std::mem::take(&mut self.frames), columns).ok()?;
        let mut bytes = Vec::new();
        ::image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(&whole).ok()?;
        Some(bytes)
    }
}

fn small(frame: &RgbImage) -> RgbImage {
    let (width, height) = frame.dimensions();
    let scale = f64::from(SIDE) / f64::from(width.max(height)).max(1.0);
    let side = |length: u32| ((f64::from(length) * scale.min(1.0)).round() as u32).max(1);
    ::image::imageops::thumbnail(frame, side(width), side(height))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::Rgb;

    fn frame(level: u8) -> RgbImage {
        RgbImage::from_pixel(320, 160, Rgb([level; 3]))
    }

    /// Returns the preview of `n` frames of which `n_sampled` were expected, as an image.
    fn preview(of: Preview, n_sampled: usize, n: usize) -> Option<RgbImage> {
        let mut maker = PreviewMaker::new(of, n_sampled);
        let pushed: Vec<Vec<u8>> = (0..n).filter_map(|i| maker.push(&frame(10 * i as u8))).collect();
        let all: Vec<Vec<u8>> = pushed.into_iter().chain(maker.finish()).collect();
        assert!(all.len() <= 1);
        all.first().map(|jpeg| ::image::load_from_memory(jpeg).expect("a JPEG image").to_rgb8())
    }

    fn level(image: &RgbImage, x: u32, y: u32) -> i32 {
        i32::from(image.get_pixel(x, y)[0])
    }

    #[test]
    fn a_sheet_has_the_sampled_frames_in_their_order() {
        let sheet = preview(Preview::Sheet, 15, 15).expect("frames");
        assert_eq!(sheet.dimensions(), (4 * 160, 2 * 80));
        // Frames 0, 2, 4, ... 14.
        for i in 0..8 {
            let found = level(&sheet, i % 4 * 160 + 80, i / 4 * 80 + 40);
            assert!((found - 20 * i as i32).abs() <= 2, "{i}: {found}");
        }
        assert_eq!(preview(Preview::Sheet, 3, 3).expect("frames").dimensions(), (3 * 160, 80));
    }

    #[test]
    fn a_video_that_ends_early_has_the_frames_that_came() {
        assert_eq!(preview(Preview::Sheet, 8, 5).expect("frames").dimensions(), (4 * 160, 2 * 80));
        assert!(preview(Preview::Sheet, 8, 0).is_none() && preview(Preview::None, 8, 8).is_none());
        let middle = preview(Preview::Frame, 9, 9).expect("a frame");
        assert_eq!(middle.dimensions(), (160, 80));
        assert!((level(&middle, 80, 40) - 40).abs() <= 2);
    }

    #[test]
    fn a_video_that_is_read_again_begins_again() {
        let mut maker = PreviewMaker::new(Preview::Sheet, 2);
        assert!(maker.push(&frame(200)).is_none());
        maker.restart();
        assert!(maker.push(&frame(0)).is_none());
        let sheet = ::image::load_from_memory(&maker.push(&frame(100)).expect("two frames")).expect("JPEG").to_rgb8();
        assert!(level(&sheet, 80, 40) < 3 && (level(&sheet, 240, 40) - 100).abs() < 3);
    }
}
