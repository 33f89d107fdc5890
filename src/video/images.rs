//! A directory of image frames as a video: sorted by name, one frame a file, no times.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::image::{ImageDecoder, RgbImage};

use super::limits::{ReadLimits, Spent};
use super::reader::{Damage, FrameSource};
use super::sample::Timeline;
use super::{StreamInfo, StreamKind, VideoError, VideoInfo, Window, decode};
use crate::units::Seconds;

/// Read with the `image` crate, whose JPEG follows libjpeg as Pillow does.
const BY_IMAGE_CRATE: [&str; 3] = ["png", "jpg", "jpeg"];
/// Read with FFmpeg, as a video of one frame.
const BY_FFMPEG: [&str; 6] = ["webp", "bmp", "gif", "tif", "tiff", "ppm"];

/// The images of one directory, read one after the other.
pub(super) struct ImageDirectory {
    files: VecDeque<PathBuf>,
    current: Option<RgbImage>,
    damage: Damage,
    limits: ReadLimits,
    spent: Arc<Spent>,
}

impl ImageDirectory {
    pub(super) fn open(path: &Path, limits: &ReadLimits, spent: &Arc<Spent>) -> Result<Self, VideoError> {
        let files = list(path)?.into();
        Ok(Self { files, current: None, damage: Damage::default(), limits: *limits, spent: spent.clone() })
    }

    fn load(&self, file: &Path) -> Result<RgbImage, String> {
        if ends_with(file, &BY_FFMPEG) {
            return decode::first_picture(file, &self.limits, &self.spent).map_err(|error| error.to_string());
        }
        let reader = ::image::ImageReader::open(file).and_then(::image::ImageReader::with_guessed_format);
        let decoder = reader.map_err(|error| error.to_string())?.into_decoder().map_err(|error| error.to_string())?;
        let (width, height) = decoder.dimensions();
        self.limits.check_frame(file, width, height).map_err(|error| error.to_string())?;
        let picture = ::image::DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
        Ok(picture.into_rgb8())
    }
}

impl FrameSource for ImageDirectory {
    fn advance(&mut self) -> Result<Option<Option<Seconds>>, VideoError> {
        while let Some(file) = self.files.pop_front() {
            match self.load(&file) {
                Ok(picture) => {
                    self.current = Some(picture);
                    return Ok(Some(None));
                }
                Err(cause) => self.damage.note(format!("{}: {cause}", file.display())),
            }
        }
        Ok(None)
    }

    fn is_key(&self) -> bool {
        true
    }

    fn picture(&mut self) -> Result<RgbImage, String> {
        // A place that uniform sampling takes twice asks twice.
        self.current.clone().ok_or_else(|| "no current image".to_owned())
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }
}

/// The images of a directory. They carry no times, so no window but the whole holds any.
pub(super) fn timeline(path: &Path, window: &Window) -> Result<Timeline, VideoError> {
    let n_files = list(path)?.len();
    Ok(Timeline::of_count(if window.is_whole() { n_files } else { 0 }))
}

/// The header facts of a directory of images: how many, and how large the first one is.
pub(super) fn probe(path: &Path) -> Result<VideoInfo, VideoError> {
    let files = list(path)?;
    let extension = |file: &PathBuf| file.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let stream = StreamInfo {
        kind: StreamKind::Video,
        codec: files.first().and_then(extension).unwrap_or_default(),
        picture: None,
        declared_frames: Some(files.len()),
    };
    Ok(VideoInfo {
        path: path.to_owned(),
        container: "directory of images".to_owned(),
        duration: None,
        streams: vec![stream],
        best: 0,
    })
}

/// The image files of a directory, sorted by name.
fn list(path: &Path) -> Result<Vec<PathBuf>, VideoError> {
    let io = |source| VideoError::Io { path: path.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if file.is_file() && ends_with(&file, &BY_IMAGE_CRATE) | ends_with(&file, &BY_FFMPEG) {
            files.push(file);
        }
    }
    if files.is_empty() {
        let extensions = [&BY_IMAGE_CRATE[..], &BY_FFMPEG[..]].concat().join(", ");
        return Err(VideoError::NoImages { path: path.to_owned(), extensions });
    }
    files.sort();
    Ok(files)
}

fn ends_with(file: &Path, extensions: &[&str]) -> bool {
    file.extension().is_some_and(|ending| extensions.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}
