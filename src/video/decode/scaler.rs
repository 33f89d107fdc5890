//! FFmpeg: decoded frames as RGB of the same size.

use std::ffi::c_int;

use ::image::RgbImage;
use ffmpeg::format::Pixel;
use ffmpeg::software::scaling;
use ffmpeg::{color, ffi, frame};
use ffmpeg_next as ffmpeg;

/// Pixels of a row in whose multiples FFmpeg writes at most.
const STEP: u32 = 64;

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
        // The size stays. FFmpeg's plain conversion is what decord, PyAV and torchcodec use, and so what models have seen.
        let flags = scaling::Flags::BICUBIC;
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
        let failed = |cause: String| format!("{format:?} {width}x{height}: {cause}");
        // FFmpeg's kernels write rows in steps; where rows are no whole steps it wants room behind each.
        let pixels = match width.is_multiple_of(STEP) {
            true => self.convert_in_place(frame),
            false => self.convert_and_copy(frame).map_err(|error| failed(error.to_string()))?,
        };
        RgbImage::from_raw(width, height, pixels).ok_or_else(|| failed("short picture".to_owned()))
    }

    fn convert_in_place(&mut self, frame: &frame::Video) -> Vec<u8> {
        let row = self.layout.width as usize * 3;
        let mut pixels = vec![0; row * self.layout.height as usize];
        let (rows, strides) = ([pixels.as_mut_ptr()], [row as c_int]);
        // SAFETY: the context was made for frames of this layout, whose planes and strides are the frame's own, and for RGB rows of this
        // width, of which the buffer holds as many as there are.
        unsafe {
            ffi::sws_scale(
                self.context.as_mut_ptr(),
                (*frame.as_ptr()).data.as_ptr().cast(),
                (*frame.as_ptr()).linesize.as_ptr(),
                0,
                self.layout.height as c_int,
                rows.as_ptr(),
                strides.as_ptr(),
            );
        }
        pixels
    }

    fn convert_and_copy(&mut self, frame: &frame::Video) -> Result<Vec<u8>, ffmpeg::Error> {
        self.context.run(frame, &mut self.rgb)?;
        let (row, stride, height) = (self.layout.width as usize * 3, self.rgb.stride(0), self.layout.height as usize);
        let mut pixels = Vec::with_capacity(row * height);
        for line in self.rgb.data(0).chunks(stride).take(height) {
            pixels.extend_from_slice(&line[..row]);
        }
        Ok(pixels)
    }
}

/// The formats whose name alone says full range.
fn is_full_range_format(format: Pixel) -> bool {
    matches!(format, Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P | Pixel::YUVJ440P | Pixel::YUVJ411P)
}
