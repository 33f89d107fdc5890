//! FFmpeg: conversion of all rows of a frame by `sws_scale`, whose result is checked. Called by `decode` and `encode`.

use std::ffi::c_int;

use ffmpeg::software::scaling;
use ffmpeg::{ffi, frame};
use ffmpeg_next as ffmpeg;

use crate::error::{Error, Kind, Result};

/// Converts all rows of `source` into the planes of a target.
///
/// # Errors
/// [`Kind::NoConversion`], when FFmpeg refuses the frame, or writes fewer rows than it has.
///
/// # Safety
/// The context was made for the format and the size of `source`, without a change of height; the target has planes and
/// strides for the format and the size that the context writes.
pub(super) unsafe fn scale_into(
    context: &mut scaling::Context,
    source: &frame::Video,
    planes: &[*mut u8],
    strides: &[c_int],
) -> Result<()> {
    let height = c_int::try_from(source.height()).unwrap_or(c_int::MAX);
    // SAFETY: the caller guarantees planes, strides and sizes; `source` is alive.
    let n_rows = unsafe {
        ffi::sws_scale(
            context.as_mut_ptr(),
            (*source.as_ptr()).data.as_ptr().cast(),
            (*source.as_ptr()).linesize.as_ptr(),
            0,
            height,
            planes.as_ptr(),
            strides.as_ptr(),
        )
    };
    match n_rows {
        n if n == height => Ok(()),
        n if n < 0 => Err(Error::new(Kind::NoConversion, ffmpeg::Error::from(n).to_string())),
        n => Err(Error::new(Kind::NoConversion, format!("{n} of {height} rows were written"))),
    }
}
