//! FFmpeg: conversion of decoded frames to RGB of the same size, with the stream's own matrix and range.

use std::ffi::c_int;
use std::fmt;

use ::image::RgbImage;
use ffmpeg::format::Pixel;
use ffmpeg::software::scaling;
use ffmpeg::{color, ffi, frame};
use ffmpeg_next as ffmpeg;

use crate::error::{Error, Kind, Result};
use crate::video::scale::scale_into;

/// Pixels that FFmpeg's kernels write at a time, at most.
const STEP: u32 = 64;

/// Properties of a decoded frame that its conversion to RGB depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PixelLayout {
    format: Pixel,
    width: u32,
    height: u32,
    space: color::Space,
    range: color::Range,
}

impl PixelLayout {
    pub(super) fn of(frame: &frame::Video) -> Self {
        Self {
            format: frame.format(),
            width: frame.width(),
            height: frame.height(),
            space: frame.color_space(),
            range: frame.color_range(),
        }
    }

    /// Returns the error of a conversion that fails.
    fn failed(self, cause: impl fmt::Display) -> Error {
        let Self { format, width, height, .. } = self;
        Error::new(Kind::NoConversion, format!("cannot be converted to RGB: {format:?} {width}x{height}: {cause}"))
    }
}

/// Conversion of frames of one layout to RGB.
pub(super) struct Scaler {
    layout: PixelLayout,
    context: scaling::Context,
    /// Padded buffer of frames whose width is not a multiple of [`STEP`].
    padded: Option<frame::Video>,
}

impl Scaler {
    pub(super) fn new(layout: PixelLayout) -> Result<Self> {
        let PixelLayout { format, width, height, .. } = layout;
        // decord, PyAV and torchcodec use the same conversion, so models are trained on its pixels.
        let flags = scaling::Flags::BICUBIC;
        let context = scaling::Context::get(format, width, height, Pixel::RGB24, width, height, flags)
            .map_err(|error| layout.failed(error))?;
        let mut scaler = Self { layout, context, padded: None };
        scaler.set_colours();
        Ok(scaler)
    }

    /// Sets the stream's own matrix and range, as FFmpeg's `scale` filter does. A stream without a matrix is read as
    /// BT.601, as FFmpeg does and as the frames of the reference were.
    ///
    /// RGB of more than 8 bits goes through YUV inside the scaler: both conversions must use the same matrix.
    fn set_colours(&mut self) {
        let full_range = match self.layout.range {
            color::Range::JPEG => 1,
            color::Range::MPEG => 0,
            color::Range::Unspecified => self.default_range(),
        };
        // BT.601 for RGB (0), unspecified (2) and the matrices that are missing in FFmpeg's table.
        let space = match ffi::AVColorSpace::from(self.layout.space) as i32 {
            space @ (1..=7 | 9 | 10) => space,
            _ => ffi::SWS_CS_DEFAULT,
        };
        // SAFETY: the context is alive and ours, and `sws_getCoefficients` returns static tables, for any number. A
        // scaler without a matrix refuses with a code, and needs no setting.
        unsafe {
            let matrix = ffi::sws_getCoefficients(space);
            let context = self.context.as_mut_ptr();
            ffi::sws_setColorspaceDetails(context, matrix, full_range, matrix, 1, 0, 1 << 16, 1 << 16);
        }
    }

    /// Returns the range that the scaler derives from the format: full for gray and for the old names of full-range
    /// YUV.
    fn default_range(&mut self) -> c_int {
        let mut tables: [*mut c_int; 2] = [std::ptr::null_mut(); 2];
        let mut values = [0; 5];
        let [full_range, target_range, brightness, contrast, saturation] = &mut values;
        let [source, target] = &mut tables;
        // SAFETY: the context is alive and ours, and each pointer leads to a variable of the type that is written.
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

    pub(super) fn layout(&self) -> PixelLayout {
        self.layout
    }

    /// Converts a frame of the layout.
    ///
    /// # Errors
    /// [`Kind::NoConversion`], when FFmpeg converts fewer rows than the frame has.
    pub(super) fn convert(&mut self, frame: &frame::Video) -> Result<RgbImage> {
        let PixelLayout { width, height, .. } = self.layout;
        // FFmpeg's kernels write rows in steps; rows that are not a multiple of the step need padding.
        let pixels = match width.is_multiple_of(STEP) {
            true => self.convert_in_place(frame),
            false => self.convert_and_copy(frame),
        };
        let pixels = pixels.map_err(|cause| self.layout.failed(cause))?;
        RgbImage::from_raw(width, height, pixels).ok_or_else(|| self.layout.failed("short image"))
    }

    fn convert_in_place(&mut self, frame: &frame::Video) -> Result<Vec<u8>> {
        let row = self.layout.width as usize * 3;
        let mut pixels = vec![0; row * self.layout.height as usize];
        // SAFETY: the context was made for frames of this layout, whose planes and strides are the frame's own, and for
        // RGB rows of this width, of which the buffer has as many as the frame.
        unsafe { scale_into(&mut self.context, frame, &[pixels.as_mut_ptr()], &[row as c_int])? };
        Ok(pixels)
    }

    fn convert_and_copy(&mut self, frame: &frame::Video) -> Result<Vec<u8>> {
        let PixelLayout { width, height, .. } = self.layout;
        let rgb = self.padded.get_or_insert_with(|| frame::Video::new(Pixel::RGB24, width, height));
        // SAFETY: the context was made for frames of this layout, and `rgb` has planes for RGB of the same size.
        unsafe {
            let target = rgb.as_mut_ptr();
            scale_into(&mut self.context, frame, &(*target).data, &(*target).linesize)?;
        }
        let (row, stride, height) = (width as usize * 3, rgb.stride(0), height as usize);
        let mut pixels = Vec::with_capacity(row * height);
        for line in rgb.data(0).chunks(stride).take(height) {
            pixels.extend_from_slice(&line[..row]);
        }
        Ok(pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_is_not_converted_whole_is_an_error() {
        // With and without padding of rows: 64 pixels are a step.
        for width in [64, 30] {
            let mut without_planes = frame::Video::empty();
            without_planes.set_format(Pixel::YUV420P);
            without_planes.set_width(width);
            without_planes.set_height(8);
            let mut scaler = Scaler::new(PixelLayout::of(&without_planes)).expect("a common format");
            let error = scaler.convert(&without_planes).expect_err("no rows");
            assert_eq!(error.kind(), Kind::NoConversion);
            let rule = format!("cannot be converted to RGB: YUV420P {width}x8: ");
            assert!(error.rule().starts_with(&rule), "{error}");
        }
    }
}
