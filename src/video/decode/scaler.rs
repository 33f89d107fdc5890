//! FFmpeg: decoded frames as RGB of the same size.

use ::image::RgbImage;
use ffmpeg::format::Pixel;
use ffmpeg::software::scaling;
use ffmpeg::{color, ffi, frame};
use ffmpeg_next as ffmpeg;

/// Everything about a decoded frame that its conversion to RGB depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Layout {
    format: Pixel,
    width: u32,
    height: u32,
    space: color::Space,
    range: color::Range,
}

impl Layout {
    pub(super) fn of(frame: &frame::Video) -> Self {
        Self {
            format: frame.format(),
            width: frame.width(),
            height: frame.height(),
            space: frame.color_space(),
            range: frame.color_range(),
        }
    }
}

/// Conversion of frames of one layout to RGB.
pub(super) struct Scaler {
    layout: Layout,
    context: scaling::Context,
    rgb: frame::Video,
}

impl Scaler {
    pub(super) fn new(layout: Layout) -> Result<Self, String> {
        let Layout { format, width, height, .. } = layout;
        // The size stays; the flags concern chroma: interpolated to full resolution, rounded, not truncated.
        let flags = scaling::Flags::BICUBIC | scaling::Flags::ACCURATE_RND | scaling::Flags::FULL_CHR_H_INT;
        let context = scaling::Context::get(format, width, height, Pixel::RGB24, width, height, flags)
            .map_err(|error| format!("{format:?} {width}x{height}: {error}"))?;
        let mut scaler = Self { layout, context, rgb: frame::Video::empty() };
        scaler.set_colours();
        Ok(scaler)
    }

    /// Tells the scaler the stream's own matrix and range. A stream that names no matrix is read as BT.601,
    /// as FFmpeg does and as the reference's frames were.
    fn set_colours(&mut self) {
        let full_range = match self.layout.range {
            color::Range::JPEG => 1,
            color::Range::MPEG => 0,
            color::Range::Unspecified => i32::from(is_full_range_format(self.layout.format)),
        };
        let space = ffi::AVColorSpace::from(self.layout.space) as i32;
        // SAFETY: the context is alive and ours, and `sws_getCoefficients` gives static tables, for any number.
        // Formats without a matrix (RGB, gray) are refused with a code, and there is nothing to set for them.
        unsafe {
            let source = ffi::sws_getCoefficients(space);
            let target = ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT);
            ffi::sws_setColorspaceDetails(
                self.context.as_mut_ptr(),
                source,
                full_range,
                target,
                1,
                0,
                1 << 16,
                1 << 16,
            );
        }
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn convert(&mut self, frame: &frame::Video) -> Result<RgbImage, String> {
        let Layout { format, width, height, .. } = self.layout;
        self.context.run(frame, &mut self.rgb).map_err(|error| format!("{format:?} {width}x{height}: {error}"))?;
        let (row, stride) = (width as usize * 3, self.rgb.stride(0));
        let mut pixels = Vec::with_capacity(row * height as usize);
        for line in self.rgb.data(0).chunks(stride).take(height as usize) {
            pixels.extend_from_slice(&line[..row]);
        }
        RgbImage::from_raw(width, height, pixels).ok_or_else(|| format!("{format:?} {width}x{height}: short picture"))
    }
}

/// The formats whose name alone says full range.
fn is_full_range_format(format: Pixel) -> bool {
    matches!(format, Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P | Pixel::YUVJ440P | Pixel::YUVJ411P)
}
