//! A directory of images as a video: one frame a file, in natural order of names (numbers by value). Images have no
//! times, unless the request has an [`ImageRate`].

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::image::{ImageDecoder, ImageFormat, RgbImage};

use super::decode::VideoFile;
use super::error::{no_frames, no_images, wrong_stream};
use super::frame::Orientation;
use super::limits::{LinkedFilePolicy, ReadLimits};
use super::pass::FrameSource;
use super::report::Damage;
use super::request::FrameRequest;
use super::sample::{FrameFact, Timeline};
use super::timer::ReadTimer;
use super::window::WindowSide;
use super::{ImageRate, StreamInfo, StreamKind, VideoInfo, standalone};
use crate::error::{Error, Kind};
use crate::units::Seconds;

/// Extensions of files read with the `image` crate, unless they contain a JPEG image: FFmpeg decodes JPEG, and `decode`
/// converts its chroma as libjpeg and Pillow do, to the same pixels as those of an image file by itself.
const BY_IMAGE_CRATE: [&str; 3] = ["png", "jpg", "jpeg"];
/// Extensions of files read with FFmpeg, as a video of one frame.
const BY_FFMPEG: [&str; 6] = ["webp", "bmp", "gif", "tif", "tiff", "ppm"];

/// Images of a directory, read one after the other.
pub(super) struct ImageDirectory {
    files: VecDeque<PathBuf>,
    /// Number of files taken so far; those that do not decode keep their time.
    n_taken: usize,
    rate: Option<ImageRate>,
    current: Option<RgbImage>,
    damage: Damage,
    timer: Arc<ReadTimer>,
}

impl ImageDirectory {
    pub(super) fn open(path: &Path, request: &FrameRequest, timer: &Arc<ReadTimer>) -> Result<Self, Error> {
        check_stream(path, request.stream)?;
        let (files, timer) = (list(path, &timer.limits())?.into(), timer.clone());
        Ok(Self { files, n_taken: 0, rate: request.image_rate, current: None, damage: Damage::default(), timer })
    }

    /// Reads an image file, upright.
    fn load(&self, file: &Path) -> Result<RgbImage, Error> {
        if ends_with(file, &BY_FFMPEG) {
            return first_image(file, &self.timer);
        }
        let reader = ::image::ImageReader::open(file).and_then(::image::ImageReader::with_guessed_format);
        let failed = |error: ::image::ImageError| Error::caused_by(Kind::Unreadable, error).about(file);
        let reader = reader.map_err(|error| failed(error.into()))?;
        if reader.format() == Some(ImageFormat::Jpeg) {
            return first_image(file, &self.timer);
        }
        let decoder = reader.into_decoder().map_err(failed)?;
        let (width, height) = decoder.dimensions();
        self.timer.limits().check_frame(file, width, height)?;
        let image = ::image::DynamicImage::from_decoder(decoder).map_err(failed)?;
        let orientation = exif_orientation(file).unwrap_or(Orientation::Upright);
        Ok(orientation.apply(image.into_rgb8()))
    }
}

impl FrameSource for ImageDirectory {
    fn advance(&mut self) -> Result<Option<Option<Seconds>>, Error> {
        while let Some(file) = self.files.pop_front() {
            self.timer.begin_call();
            let time = self.rate.map(|rate| rate.time_of(self.n_taken));
            self.n_taken += 1;
            match self.load(&file) {
                Ok(image) => {
                    self.current = Some(image);
                    return Ok(Some(time));
                }
                Err(error) if error.kind() == Kind::HostMemory => return Err(error),
                Err(error) => self.damage.note(named_in_directory(error, &file).to_string()),
            }
        }
        Ok(None)
    }

    fn is_key(&self) -> bool {
        true
    }

    fn image(&mut self) -> Result<RgbImage, Error> {
        // Cloned, as an index that is sampled twice calls twice.
        self.current.clone().ok_or_else(|| Error::new(Kind::NoConversion, "no current image"))
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }
}

/// Names a file of a directory by its name alone in an error: the damage of a directory is the same on every machine.
fn named_in_directory(error: Error, file: &Path) -> Error {
    error.with_path_as(file, &file.file_name().unwrap_or_default().to_string_lossy())
}

/// Returns the timeline of a directory. A window with bounds is empty if the images have no times.
pub(super) fn timeline(path: &Path, request: &FrameRequest, limits: &ReadLimits) -> Result<Timeline, Error> {
    check_stream(path, request.stream)?;
    let n_files = list(path, limits)?.len();
    let Some(rate) = request.image_rate else {
        return Ok(Timeline::of_count(if request.window.is_whole() { n_files } else { 0 }));
    };
    let times = (0..n_files).map(|image| rate.time_of(image));
    let inside = times.filter(|&time| request.window.side(time) == WindowSide::Inside);
    let frames = inside.map(|time| FrameFact { time: Some(time), is_key: true }).collect();
    Ok(Timeline { frames, last_duration: Some(rate.time_of(1)), ..Timeline::default() })
}

/// Returns upright width and height of the image of a directory with a single image. An unreadable image is the
/// reader's error.
pub(super) fn single_image(path: &Path, timer: &Arc<ReadTimer>) -> Result<Option<(u32, u32)>, Error> {
    let files = list(path, &timer.limits())?;
    let [file] = &*files else { return Ok(None) };
    if ends_with(file, &BY_FFMPEG) {
        return Ok(first_image(file, timer).ok().map(|image| image.dimensions()));
    }
    let reader = ::image::ImageReader::open(file).and_then(::image::ImageReader::with_guessed_format);
    let size = reader.ok().and_then(|reader| reader.into_dimensions().ok());
    let orientation = exif_orientation(file).unwrap_or(Orientation::Upright);
    Ok(size.map(|(width, height)| orientation.upright_size(width, height)))
}

/// Returns the header facts of a directory of images: its files are the frames of one stream.
pub(super) fn probe(path: &Path, stream: Option<usize>, limits: &ReadLimits) -> Result<VideoInfo, Error> {
    check_stream(path, stream)?;
    let files = list(path, limits)?;
    let extension = |file: &PathBuf| file.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let stream = StreamInfo {
        kind: StreamKind::Video,
        codec: files.first().and_then(extension).unwrap_or_default(),
        frame: None,
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

/// Refuses a stream other than the single stream of a directory.
fn check_stream(path: &Path, stream: Option<usize>) -> Result<(), Error> {
    match stream {
        None | Some(0) => Ok(()),
        Some(stream) => Err(wrong_stream(path, stream, "a directory of images is one stream".to_owned(), "0")),
    }
}

/// Decodes the first frame of a file: an image that FFmpeg reads as a video of one frame.
fn first_image(path: &Path, timer: &Arc<ReadTimer>) -> Result<RgbImage, Error> {
    let mut file = VideoFile::open(path, None, &timer.limits(), timer)?;
    match file.advance()? {
        Some(_) => file.image().map_err(|error| no_frames(path, error)),
        None => {
            let first = file.damage().first.clone().unwrap_or_else(|| "the stream is empty".to_owned());
            Err(no_frames(path, Error::invalid(first)))
        }
    }
}

/// Lists the image files of a directory in order, without hidden files, as in `batch`.
///
/// # Errors
/// For a directory without an image or with too many, and for a symbolic link where links are refused.
fn list(path: &Path, limits: &ReadLimits) -> Result<Vec<PathBuf>, Error> {
    let io = Error::io(path);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(&io)? {
        let entry = entry.map_err(&io)?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let file = entry.path();
        if is_hidden || !(ends_with(&file, &BY_IMAGE_CRATE) | ends_with(&file, &BY_FFMPEG)) {
            continue;
        }
        if limits.links == LinkedFilePolicy::Refuse && entry.file_type().map_err(&io)?.is_symlink() {
            return Err(standalone::link().about(file));
        }
        if file.is_file() {
            files.push(file);
            limits.check_count(path, files.len())?;
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

/// A file's name in natural order: runs of digits by value, everything else byte by byte. Names that compare equal,
/// such as `1` and `01`, are in the order of their bytes.
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
                // Without leading zeros the longer number is larger.
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

/// Returns the orientation by an image's EXIF data (JPEG, PNG, TIFF, WebP), if there is any.
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
    use crate::video::{Bounds, Sample, Window};

    #[test]
    fn the_damage_of_a_directory_names_files_without_their_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["1.png", "2.bmp"] {
            std::fs::write(dir.path().join(name), "no image").expect("a small file");
        }
        let timer = ReadTimer::new(Bounds::from(&ReadLimits::default()));
        let request = FrameRequest::new(Sample::All, Window::default());
        for name in ["1.png", "2.bmp"] {
            let file = dir.path().join(name);
            let images = ImageDirectory::open(dir.path(), &request, &timer).expect("two files");
            let error = named_in_directory(images.load(&file).expect_err("no image"), &file);
            assert_eq!(error.subjects().first().map(ToString::to_string).as_deref(), Some(name));
            assert!(!error.to_string().contains(&*dir.path().to_string_lossy()), "{error}");
        }
    }

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
