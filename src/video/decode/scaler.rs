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
        // The size stays. FFmpeg's plain conversion is what decord, PyAV and torchcodec use, and so what models have
        // seen.
        let flags = scaling::Flags::BICUBIC;
        let context = scaling::Context::get(format, width, height, Pixel::RGB24, width, height, flags)
            .map_err(|error| format!("{format:?} {width}x{height}: {error}"))?;
        let mut scaler = Self { layout, context, rgb: frame::Video::empty() };
        scaler.set_colours();
        Ok(scaler)
    }

    /// Tells the scaler the stream's own matrix and range, as FFmpeg's `scale` filter does. A stream that names no
    /// matrix is read as BT.601, as FFmpeg does and as the reference's frames were.
    ///
    /// RGB of more than 8 bits goes through YUV inside the scaler: there and back must be the same matrix.
    fn set_colours(&mut self) {
        let full_range = match self.layout.range {
            color::Range::JPEG => 1,
            color::Range::MPEG => 0,
            color::Range::Unspecified => self.own_range(),
        };
        // Of RGB (0), unspecified (2) and the matrices that FFmpeg's table does not have, BT.601.
        let space = match ffi::AVColorSpace::from(self.layout.space) as i32 {
            space @ (1..=7 | 9 | 10) => space,
            _ => ffi::SWS_CS_DEFAULT,
        };
        // SAFETY: the context is alive and ours, and `sws_getCoefficients` gives static tables, for any number. A
        // scaler without a matrix refuses with a code, and there is nothing to set for it.
        unsafe {
            let matrix = ffi::sws_getCoefficients(space);
            let context = self.context.as_mut_ptr();
            ffi::sws_setColorspaceDetails(context, matrix, full_range, matrix, 1, 0, 1 << 16, 1 << 16);
        }
    }

    /// The range that the scaler takes from the format alone: full for gray and for the old names of full-range YUV.
    fn own_range(&mut self) -> c_int {
        let mut tables: [*mut c_int; 2] = [std::ptr::null_mut(); 2];
        let mut values = [0; 5];
        let [full_range, target_range, brightness, contrast, saturation] = &mut values;
        let [source, target] = &mut tables;
        // SAFETY: the context is alive and ours, and each pointer leads to a place of the type that is written.
        unsafe {
            ffi::sws_getColorspaceDetails(
                self.context.as_mut_ptr(),
                source,
                full_range,
                target,
                target_range,
                brightness,
                contrast,
                saturation,
            );
        }
        values[0]
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
        // SAFETY: the context was made for frames of this layout, whose planes and strides are the frame's own, and for
        // RGB rows of this width, of which the buffer holds as many as there are.
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
