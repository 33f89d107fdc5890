//! Frames that a request asks for: `media_io_kwargs.video` and `mm_processor_kwargs` of vLLM's, and the same options
//! beside the address of a video, as SGLang has them.

use serde_json::Value;

use super::ApiError;
use super::fields::{Fields, mismatch};
use super::json::element;
use crate::error::Error;
use crate::serve::media::{FrameOptions, FrameTiming};
use crate::units::Seconds;

/// Largest start or end of the part of a video, in seconds: 31 years.
const MAX_SECONDS: f64 = 1e9;

/// Frames of every medium of a request, and the times of those that are sent as images.
pub(super) struct FrameDefaults {
    options: FrameOptions,
    timing: FrameTiming,
}

impl FrameDefaults {
    /// Takes the options of the body.
    ///
    /// # Errors
    /// Unknown options, values of another type, and options that are given twice with different values.
    pub(super) fn of_body(body: &mut Fields) -> Result<Self, ApiError> {
        let (mut options, mut timing) = (FrameOptions::default(), FrameTiming::default());
        if let Some(mut kwargs) = body.object("media_io_kwargs")? {
            kwargs.neutral("image", |value| value.as_object().is_some_and(serde_json::Map::is_empty))?;
            if let Some(mut video) = kwargs.object("video")? {
                options = take_options(&mut video)?;
                timing.frames_indices = indices(&mut video)?;
                timing.total_num_frames = video.count("total_num_frames")?;
                timing.duration = video.number("duration")?;
                video.finish()?;
            }
            kwargs.finish()?;
        }
        if let Some(mut kwargs) = body.object("mm_processor_kwargs")? {
            let processor = take_options(&mut kwargs)?;
            options = joined(options, processor, &kwargs)?;
            kwargs.finish()?;
        }
        Ok(Self { options, timing })
    }

    /// Returns the options of a medium, `own` before those of the body.
    pub(super) fn options(&self, own: FrameOptions) -> FrameOptions {
        let all = self.options;
        // Of number and rate one replaces the other, as in vLLM.
        let (num_frames, fps) = match (own.num_frames, own.fps) {
            (None, None) => (all.num_frames, all.fps),
            own => own,
        };
        FrameOptions {
            num_frames,
            fps,
            min_frames: own.min_frames.or(all.min_frames),
            max_frames: own.max_frames.or(all.max_frames),
            do_sample_frames: own.do_sample_frames.or(all.do_sample_frames),
            start: own.start.or(all.start),
            end: own.end.or(all.end),
        }
    }

    /// Returns the times of frames that are sent as images, where the request has any.
    pub(super) fn timing(&self) -> Option<FrameTiming> {
        let FrameOptions { fps, do_sample_frames, .. } = self.options;
        let timing = FrameTiming { fps, do_sample_frames, ..self.timing.clone() };
        (timing != FrameTiming::default()).then_some(timing)
    }

    /// Returns the name of an option that is only about frames sent as images, if the request has one.
    pub(super) fn list_option(&self) -> Option<&'static str> {
        let FrameTiming { frames_indices, total_num_frames, duration, .. } = &self.timing;
        let named = [
            ("media_io_kwargs.video.frames_indices", frames_indices.is_some()),
            ("media_io_kwargs.video.total_num_frames", total_num_frames.is_some()),
            ("media_io_kwargs.video.duration", duration.is_some()),
        ];
        named.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
    }
}

/// Takes the options of an object, whose other members are left.
///
/// # Errors
/// Values of another type.
pub(super) fn take_options(fields: &mut Fields) -> Result<FrameOptions, ApiError> {
    Ok(FrameOptions {
        num_frames: match fields.whole("num_frames")? {
            // vLLM's word for the default.
            None | Some(-1) => None,
            Some(n) => Some(usize::try_from(n).map_err(|_| invalid(fields, "num_frames", n as f64))?),
        },
        fps: match fields.number("fps")? {
            Some(-1.0) => None,
            Some(fps) if fps <= 0.0 => return Err(invalid(fields, "fps", fps)),
            fps => fps,
        },
        min_frames: fields.count("min_frames")?,
        max_frames: fields.count("max_frames")?,
        do_sample_frames: fields.flag("do_sample_frames")?,
        start: seconds(fields, "start")?,
        end: seconds(fields, "end")?,
    })
}

fn invalid(fields: &Fields, key: &str, number: f64) -> ApiError {
    fields.invalid(key, Error::invalid(format!("invalid number {number}")).with_hint("a number above 0"))
}

/// Takes a time: seconds, or a text such as `0:01:30`.
fn seconds(fields: &mut Fields, key: &'static str) -> Result<Option<Seconds>, ApiError> {
    let time = match fields.value(key) {
        None => return Ok(None),
        Some(Value::String(text)) => text.parse().map_err(|error| fields.invalid(key, error))?,
        Some(Value::Number(number)) => Seconds(number.as_f64().unwrap_or(f64::NAN)),
        Some(other) => return Err(mismatch(&fields.path_of(key), &other, "a time in seconds")),
    };
    if time.0.abs() <= MAX_SECONDS {
        return Ok(Some(time));
    }
    let hint = format!("at most {MAX_SECONDS} s");
    Err(fields.invalid(key, Error::invalid(format!("invalid time {time}")).with_hint(hint)))
}

fn indices(fields: &mut Fields) -> Result<Option<Vec<usize>>, ApiError> {
    let path = fields.path_of("frames_indices");
    let Some(values) = fields.list("frames_indices")? else { return Ok(None) };
    let index = |(i, value): (usize, Value)| {
        let index = value.as_u64().and_then(|index| usize::try_from(index).ok());
        index.ok_or_else(|| mismatch(&element(&path, i), &value, "a whole number from 0"))
    };
    values.into_iter().enumerate().map(index).collect::<Result<_, _>>().map(Some)
}

/// Joins the options of two objects; `second` is read from `fields`.
fn joined(first: FrameOptions, second: FrameOptions, fields: &Fields) -> Result<FrameOptions, ApiError> {
    fn one<T: PartialEq>(
        first: Option<T>,
        second: Option<T>,
        key: &str,
        fields: &Fields,
    ) -> Result<Option<T>, ApiError> {
        match (first, second) {
            (Some(first), Some(second)) if first != second => {
                let rule = "another value than in media_io_kwargs.video";
                Err(fields.invalid(key, Error::invalid(rule).with_hint("one of them")))
            }
            (first, second) => Ok(second.or(first)),
        }
    }
    Ok(FrameOptions {
        num_frames: one(first.num_frames, second.num_frames, "num_frames", fields)?,
        fps: one(first.fps, second.fps, "fps", fields)?,
        min_frames: one(first.min_frames, second.min_frames, "min_frames", fields)?,
        max_frames: one(first.max_frames, second.max_frames, "max_frames", fields)?,
        do_sample_frames: one(first.do_sample_frames, second.do_sample_frames, "do_sample_frames", fields)?,
        start: one(first.start, second.start, "start", fields)?,
        end: one(first.end, second.end, "end", fields)?,
    })
}
