//! Conversion of decoded JPEG images to RGB as libjpeg-turbo does it, which Pillow and the image processors of
//! transformers read images with.
//!
//! FFmpeg's scaler repeats subsampled chroma; libjpeg interpolates it ("fancy upsampling", `jdsample.c`) and converts
//! to RGB by BT.601 at full range (`jdcolor.c`), whatever a comment of the file says. With libjpeg's inverse DCT, which
//! FFmpeg calls [`IDCT`], an image differs from Pillow's by 3 levels at most, one in YCCK by 6. Grayscale, RGB and
//! CMYK, which have no chroma, are left to the scaler. For image files alone: PyAV and decord convert Motion JPEG with
//! FFmpeg's scaler.

use ::image::RgbImage;
use ffmpeg::format::Pixel;
use ffmpeg::frame;
use ffmpeg_next as ffmpeg;

use crate::video::demux::is_image;

/// FFmpeg's name of the inverse DCT of libjpeg (`jidctint.c`).
pub(super) const IDCT: &str = "int";
/// Width of the widest chroma row that libjpeg repeats instead of interpolating it horizontally.
const REPEATED_WIDTH: usize = 2;

/// Returns whether a stream is that of a JPEG image file.
pub(super) fn is_jpeg_image(input: &ffmpeg::format::context::Input, stream: &ffmpeg::Stream) -> bool {
    is_image(input) && stream.parameters().id() == ffmpeg::codec::Id::MJPEG
}

/// Converts a decoded JPEG image to RGB; returns `None` for formats without chroma.
pub(super) fn to_rgb(frame: &frame::Video) -> Option<RgbImage> {
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    let subsampling = Subsampling::of(frame.format())?;
    let luma = Plane::of(frame, 0, Subsampling { horizontal: 1, vertical: 1 })?;
    let (cb, cr) = (Plane::of(frame, 1, subsampling)?, Plane::of(frame, 2, subsampling)?);
    let (mut cb_row, mut cr_row) = (ChromaRow::default(), ChromaRow::default());
    let mut pixels = vec![0; width * height * 3];
    for (y, pixels) in pixels.chunks_exact_mut(3 * width.max(1)).enumerate() {
        cb.upsample(y, &mut cb_row);
        cr.upsample(y, &mut cr_row);
        let samples = luma.row(y).iter().zip(cb_row.levels.iter().zip(&cr_row.levels));
        for (pixel, (&luma, (&cb, &cr))) in pixels.chunks_exact_mut(3).zip(samples) {
            pixel.copy_from_slice(&rgb(luma, cb, cr));
        }
    }
    RgbImage::from_raw(frame.width(), frame.height(), pixels)
}

/// Converts a pixel by libjpeg's fixed-point arithmetic of 16 fractional bits (`jdcolor.c`, `build_ycc_rgb_table`).
fn rgb(luma: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (luma, cb, cr) = (i32::from(luma), i32::from(cb) - 128, i32::from(cr) - 128);
    // 1.402, 0.34414, 0.71414 and 1.772.
    let red = luma + ((91_881 * cr + 32_768) >> 16);
    let green = luma + ((-22_554 * cb - 46_802 * cr + 32_768) >> 16);
    let blue = luma + ((116_130 * cb + 32_768) >> 16);
    [red, green, blue].map(|level| level.clamp(0, 255) as u8)
}

/// Number of image columns and rows for each chroma sample.
#[derive(Debug, Clone, Copy)]
struct Subsampling {
    horizontal: usize,
    vertical: usize,
}

impl Subsampling {
    fn of(format: Pixel) -> Option<Self> {
        let (horizontal, vertical) = match format {
            // With alpha: YCCK, whose black FFmpeg has multiplied in.
            Pixel::YUVJ444P | Pixel::YUV444P | Pixel::YUVA444P => (1, 1),
            Pixel::YUVJ422P | Pixel::YUV422P => (2, 1),
            Pixel::YUVJ420P | Pixel::YUV420P => (2, 2),
            Pixel::YUVJ440P | Pixel::YUV440P => (1, 2),
            Pixel::YUVJ411P | Pixel::YUV411P => (4, 1),
            _ => return None,
        };
        Some(Self { horizontal, vertical })
    }
}

/// Samples of a component.
struct Plane<'f> {
    samples: &'f [u8],
    stride: usize,
    width: usize,
    height: usize,
    subsampling: Subsampling,
}

impl<'f> Plane<'f> {
    /// Returns a plane of a frame, or `None` where the frame's rows are shorter than its format requires.
    fn of(frame: &'f frame::Video, index: usize, subsampling: Subsampling) -> Option<Self> {
        if index >= frame.planes() {
            return None;
        }
        let width = (frame.width() as usize).div_ceil(subsampling.horizontal);
        let height = (frame.height() as usize).div_ceil(subsampling.vertical);
        let stride = frame.stride(index);
        // A negative stride, of rows from bottom to top, is a huge one here.
        if stride < width || stride > i32::MAX as usize {
            return None;
        }
        let samples = frame.data(index);
        (samples.len() >= stride * height).then_some(Self { samples, stride, width, height, subsampling })
    }

    fn row(&self, y: usize) -> &'f [u8] {
        &self.samples[y * self.stride..][..self.width]
    }

    /// Computes row `y` of the image from the rows next to it, at least as wide as the image.
    fn upsample(&self, y: usize, row: &mut ChromaRow) {
        let ChromaRow { levels, sums } = row;
        levels.clear();
        sums.clear();
        let Subsampling { horizontal, vertical } = self.subsampling;
        let near = self.row(y / vertical);
        match (horizontal, vertical) {
            (1, 1) => levels.extend_from_slice(near),
            // libjpeg rounds upper rows down and lower rows up.
            (1, 2) => levels.extend(self.column_sums(y).map(|sum| ((sum + 1 + (y % 2) as u16) >> 2) as u8)),
            (2, 1) if self.width > REPEATED_WIDTH => {
                sums.extend(near.iter().map(|&sample| u16::from(sample)));
                interpolate(sums, Rounding { added: [1, 2], shift: 2 }, levels);
            }
            (2, 2) if self.width > REPEATED_WIDTH => {
                sums.extend(self.column_sums(y));
                interpolate(sums, Rounding { added: [8, 7], shift: 4 }, levels);
            }
            _ => levels.extend(near.iter().flat_map(|&sample| std::iter::repeat_n(sample, horizontal))),
        }
    }

    /// Returns 3 near + far for each column: the row of samples that image row `y` lies in, and the next closest one.
    fn column_sums(&self, y: usize) -> impl Iterator<Item = u16> {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.height - 1) };
        self.row(near).iter().zip(self.row(far)).map(|(&near, &far)| 3 * u16::from(near) + u16::from(far))
    }
}

/// Row of a chroma component at the width of the image.
#[derive(Default)]
struct ChromaRow {
    levels: Vec<u8>,
    /// Samples of the row, or weighted sums of two rows.
    sums: Vec<u16>,
}

/// Rounding of interpolated samples: the summands of left and right columns, and the shift of the division.
#[derive(Clone, Copy)]
struct Rounding {
    added: [u16; 2],
    shift: u32,
}

/// Writes two columns for each of two or more samples: 3/4 of the sample and 1/4 of its left or right neighbour, the
/// sample itself where there is none.
fn interpolate(samples: &[u16], rounding: Rounding, columns: &mut Vec<u8>) {
    let Rounding { added: [added_left, added_right], shift } = rounding;
    let level = |near: u16, far: u16, added: u16| ((3 * near + far + added) >> shift) as u8;
    let last = samples.len() - 1;
    columns.resize(2 * samples.len(), 0);
    columns[0] = level(samples[0], samples[0], added_left);
    columns[2 * last + 1] = level(samples[last], samples[last], added_right);
    // Between two samples: the right column of one and the left column of the other.
    for (pair, columns) in samples.windows(2).zip(columns[1..].chunks_exact_mut(2)) {
        columns[0] = level(pair[0], pair[1], added_right);
        columns[1] = level(pair[1], pair[0], added_left);
    }
}
