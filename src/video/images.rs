//! A directory of image frames as a video: sorted by name, numbers in names by their values, one frame a file, no
//! times.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::image::{ImageDecoder, RgbImage};

use super::error::{no_images, wrong_stream};
use super::frame::Orientation;
use super::limits::Spent;
use super::reader::{Damage, FrameRequest, FrameSource};
use super::sample::Timeline;
use super::{StreamInfo, StreamKind, VideoInfo, decode};
use crate::error::Error;
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
    spent: Arc<Spent>,
}

impl ImageDirectory {
    pub(super) fn open(path: &Path, stream: Option<usize>, spent: &Arc<Spent>) -> Result<Self, Error> {
        check_stream(path, stream)?;
        let files = list(path)?.into();
        Ok(Self { files, current: None, damage: Damage::default(), spent: spent.clone() })
    }

    fn load(&self, file: &Path) -> Result<RgbImage, String> {
        if ends_with(file, &BY_FFMPEG) {
            return decode::first_picture(file, &self.spent).map_err(|error| error.to_string());
        }
        let reader = ::image::ImageReader::open(file).and_then(::image::ImageReader::with_guessed_format);
        let decoder = reader.map_err(|error| error.to_string())?.into_decoder().map_err(|error| error.to_string())?;
        let (width, height) = decoder.dimensions();
        self.spent.limits().check_frame(file, width, height).map_err(|error| error.to_string())?;
        let picture = ::image::DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
        let orientation = exif_orientation(file).unwrap_or(Orientation::Upright);
        Ok(orientation.apply(picture.into_rgb8()))
    }
}

impl FrameSource for ImageDirectory {
    fn advance(&mut self) -> Result<Option<Option<Seconds>>, Error> {
        while let Some(file) = self.files.pop_front() {
            self.spent.begin_call();
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
pub(super) fn timeline(path: &Path, request: &FrameRequest) -> Result<Timeline, Error> {
    check_stream(path, request.stream)?;
    let n_files = list(path)?.len();
    Ok(Timeline::of_count(if request.window.is_whole() { n_files } else { 0 }))
}

/// Upright width and height of the image of a directory that holds one alone. An image that cannot be read is told by
/// the reader.
pub(super) fn single_image(path: &Path, spent: &Arc<Spent>) -> Result<Option<(u32, u32)>, Error> {
    let files = list(path)?;
    let [file] = &*files else { return Ok(None) };
    if ends_with(file, &BY_FFMPEG) {
        return Ok(decode::first_picture(file, spent).ok().map(|image| image.dimensions()));
    }
    let reader = ::image::ImageReader::open(file).and_then(::image::ImageReader::with_guessed_format);
    let size = reader.ok().and_then(|reader| reader.into_dimensions().ok());
    let orientation = exif_orientation(file).unwrap_or(Orientation::Upright);
    Ok(size.map(|size| orientation.size(size)))
}

/// The header facts of a directory of images: how many, and how large the first one is.
pub(super) fn probe(path: &Path, stream: Option<usize>) -> Result<VideoInfo, Error> {
    check_stream(path, stream)?;
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
        best: Some(0),
    })
}

/// Refuses a stream other than the one that a directory has.
fn check_stream(path: &Path, stream: Option<usize>) -> Result<(), Error> {
    match stream {
        None | Some(0) => Ok(()),
        Some(stream) => Err(wrong_stream(path, stream, "a directory of images is one stream".to_owned(), "0")),
    }
}

/// The image files of a directory in their order. Hidden files are left out, as `batch` does.
fn list(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = Error::io(path);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(&io)? {
        let entry = entry.map_err(&io)?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let file = entry.path();
        if !is_hidden && file.is_file() && ends_with(&file, &BY_IMAGE_CRATE) | ends_with(&file, &BY_FFMPEG) {
            files.push(file);
        }
    }
    if files.is_empty() {
        let extensions = [&BY_IMAGE_CRATE[..], &BY_FFMPEG[..]].concat().join(", ");
        return Err(no_images(path, &extensions));
    }
    let name = |file: &Path| file.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
    files.sort_by_cached_key(|file| NaturalName(name(file)));
    Ok(files)
}

/// A file's name in natural order: runs of digits by their value, all else byte by byte. Names that are equal so, such
/// as `1` and `01`, are in the order of their bytes.
#[derive(Debug, PartialEq, Eq)]
struct NaturalName(Vec<u8>);

impl PartialOrd for NaturalName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for NaturalName {
    fn cmp(&self, other: &Self) -> Ordering {
        let (mut a, mut b) = (&self.0[..], &other.0[..]);
        while let (Some(first), Some(second)) = (a.first(), b.first()) {
            let order = if first.is_ascii_digit() && second.is_ascii_digit() {
                let (x, y) = (take_digits(&mut a), take_digits(&mut b));
                // Without leading zeros the longer number is the larger one.
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            } else {
                (a, b) = (&a[1..], &b[1..]);
                first.cmp(second)
            };
            if order.is_ne() {
                return order;
            }
        }
        a.len().cmp(&b.len()).then_with(|| self.0.cmp(&other.0))
    }
}

/// Takes a run of digits from the front, without its leading zeros.
fn take_digits<'n>(name: &mut &'n [u8]) -> &'n [u8] {
    let n_digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = name.split_at(n_digits);
    *name = rest;
    let n_zeros = digits.iter().take_while(|&&byte| byte == b'0').count();
    &digits[n_zeros..]
}

/// The orientation that an image's EXIF data tells (JPEG, PNG, TIFF, WebP), if there is any.
pub(super) fn exif_orientation(file: &Path) -> Option<Orientation> {
    let mut bytes = std::io::BufReader::new(std::fs::File::open(file).ok()?);
    let exif = exif::Reader::new().read_from_container(&mut bytes).ok()?;
    let value = exif.get_field(exif::Tag::Orientation, exif::In::PRIMARY)?.value.get_uint(0)?;
    Orientation::from_exif(value)
}

fn ends_with(file: &Path, extensions: &[&str]) -> bool {
    file.extension().is_some_and(|ending| extensions.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_in_order_of_value() {
        let sorted = |names: &[&str]| {
            let mut names: Vec<NaturalName> = names.iter().map(|name| NaturalName(name.as_bytes().to_vec())).collect();
            names.reverse();
            names.sort();
            names.iter().map(|name| String::from_utf8_lossy(&name.0).into_owned()).collect::<Vec<_>>()
        };
        for names in [
            &["frame1.png", "frame2.png", "frame10.png", "frame11.png"][..],
            &["001.png", "2.png", "010.png"],
            // The number of zeros decides where the values are equal, and only then.
            &["a1b2", "a01b3", "a1b3", "a01b4"],
            &["s1e2", "s1e10", "s2e1", "s10e1"],
            // Longer than any integer type.
            &["99999999999999999999999999999999999999998", "99999999999999999999999999999999999999999"],
            &["2", "10000000000000000000000000000000000000000"],
            &["", "0", "00", "a", "a0", "b"],
        ] {
            assert_eq!(sorted(names), names);
        }
    }
}
