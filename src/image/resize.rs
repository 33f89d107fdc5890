//! Resizing of u8 images, bit-identical to Pillow (`libImaging/Resample.c`, to version 12) or to PyTorch
//! (`UpSampleKernel.cpp`: `_upsample_*_aa` of u8 on the CPU, which torchvision calls).
//!
//! Towers were trained on the pixels of one of the two, and a difference of one level changes tokens. Both are an
//! antialiased convolution, the horizontal pass first, clipped and rounded to u8 in between. Coefficients differ:
//! Pillow's have 22 fractional bits; PyTorch's have 16 bits, with as many fractional bits as the largest coefficient
//! allows. Pixels differ by up to two levels.

use ::image::RgbImage;

use super::config::{Arithmetic, Filter, ImageSize, PreprocessConfig};
use super::plan::Taps;

/// Fractional bits of Pillow's coefficients: 32 bits less 8 of the level and 2 of headroom.
pub(super) const PILLOW_BITS: u32 = 32 - 8 - 2;

/// Filter of a resize, and the arithmetic that computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resampling {
    pub(super) filter: Filter,
    pub(super) arithmetic: Arithmetic,
}

impl Resampling {
    /// Returns the resampling of both resizes of a configuration.
    pub(super) fn of(config: &PreprocessConfig) -> Self {
        Self { filter: config.filter, arithmetic: config.arithmetic }
    }
}

/// Resizes to `size`. A side that has its length already is not touched.
pub(super) fn resize(image: RgbImage, size: ImageSize, resampling: Resampling) -> RgbImage {
    let ImageSize { width, height } = size;
    let image = if image.width() == width { image } else { resize_rows(&image, width, resampling) };
    if image.height() == height { image } else { resize_columns(&image, height, resampling) }
}

fn resize_rows(image: &RgbImage, width: u32, resampling: Resampling) -> RgbImage {
    let FixedPointWindows { windows, bits } = windows(image.width(), width, resampling);
    let half = 1 << bits >> 1;
    let mut out = RgbImage::new(width, image.height());
    let from = image.as_raw().chunks_exact(image.width() as usize * 3);
    for (row, target) in from.zip(out.chunks_exact_mut(width as usize * 3)) {
        for (window, pixel) in windows.iter().zip(target.chunks_exact_mut(3)) {
            let mut sums = [half; 3];
            let taps = row[window.start * 3..].chunks_exact(3);
            for (source, &weight) in taps.zip(&window.weights) {
                for (sum, &level) in sums.iter_mut().zip(source) {
                    *sum += i32::from(level) * weight;
                }
            }
            pixel.copy_from_slice(&sums.map(|sum| clip(sum, bits)));
        }
    }
    out
}

fn resize_columns(image: &RgbImage, height: u32, resampling: Resampling) -> RgbImage {
    let stride = image.width() as usize * 3;
    let mut out = RgbImage::new(image.width(), height);
    let mut sums = vec![0; stride];
    let FixedPointWindows { windows, bits } = windows(image.height(), height, resampling);
    let half = 1 << bits >> 1;
    for (window, target) in windows.iter().zip(out.chunks_exact_mut(stride)) {
        sums.fill(half);
        let rows = image.as_raw()[window.start * stride..].chunks_exact(stride);
        for (row, &weight) in rows.zip(&window.weights) {
            for (sum, &level) in sums.iter_mut().zip(row) {
                *sum += i32::from(level) * weight;
            }
        }
        for (level, &sum) in target.iter_mut().zip(&sums) {
            *level = clip(sum, bits);
        }
    }
    out
}

/// Converts a sum to a level: the sum began with one half, so the shift by the fractional bits rounds.
fn clip(sum: i32, bits: u32) -> u8 {
    (sum >> bits).clamp(0, 255) as u8
}

/// Windows of all target pixels along a side.
struct FixedPointWindows {
    windows: Vec<SourceWindow>,
    /// Fractional bits of the weights.
    bits: u32,
}

/// Returns the windows along one side as a table. A side that has its length already is copied. Weights with fewer
/// fractional bits are shifted to Pillow's number of bits, which rounds every sum to the same level.
pub(super) fn taps(from: u32, to: u32, resampling: Resampling) -> Taps {
    if from == to {
        return Taps::new((0..to as usize).map(|i| (i, vec![1 << PILLOW_BITS])));
    }
    let FixedPointWindows { windows, bits } = windows(from, to, resampling);
    let shifted = |weights: Vec<i32>| weights.into_iter().map(|weight| weight << (PILLOW_BITS - bits)).collect();
    Taps::new(windows.into_iter().map(|window| (window.start, shifted(window.weights))))
}

/// Source pixels of one target pixel, and their weights.
struct SourceWindow {
    start: usize,
    weights: Vec<i32>,
}

fn windows(from: u32, to: u32, resampling: Resampling) -> FixedPointWindows {
    let Resampling { filter, arithmetic } = resampling;
    let scale = f64::from(from) / f64::from(to);
    if filter == Filter::Nearest {
        // Accumulated step by step, rounding included, as in `libImaging/Geometry.c`.
        let centers = std::iter::successors(Some(scale * 0.5), |center| Some(center + scale)).take(to as usize);
        let last = from as usize - 1;
        let windows = centers.map(|x| SourceWindow { start: (x as usize).min(last), weights: vec![1] }).collect();
        return FixedPointWindows { windows, bits: 0 };
    }
    // Antialiasing: where the image shrinks, the filter is stretched in proportion.
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let window = |i: u32| {
        let center = (f64::from(i) + 0.5) * scale;
        let start = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from as usize);
        let weights = (start..end).map(|x| filter.weight((x as f64 - center + 0.5) * (1.0 / stretch)));
        (start, normalised(weights.collect()))
    };
    let exact: Vec<(usize, Vec<f64>)> = (0..to).map(window).collect();
    let largest = exact.iter().flat_map(|(_, weights)| weights).copied().fold(0.0, f64::max);
    let bits = match arithmetic {
        Arithmetic::Pillow => PILLOW_BITS,
        Arithmetic::Torch => torch_bits(largest),
    };
    let windows =
        exact.into_iter().map(|(start, weights)| SourceWindow { start, weights: fixed_point(&weights, bits) });
    FixedPointWindows { windows: windows.collect(), bits }
}

/// Returns the number of fractional bits with which the largest weight, and so every weight, fits 16 bits.
fn torch_bits(largest: f64) -> u32 {
    const MAX_BITS: u32 = 22;
    let fits = |bits: &u32| ((0.5 + largest * f64::from(1u32 << (bits + 1))) as i64) < 1 << 15;
    (0..MAX_BITS).find(|bits| !fits(bits)).unwrap_or(MAX_BITS)
}

/// Scales weights to a sum of one.
fn normalised(weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    let norm = if sum == 0.0 { 1.0 } else { 1.0 / sum };
    weights.into_iter().map(|weight| weight * norm).collect()
}

/// Converts weights to fixed point with `bits` fractional bits, halves rounded away from zero.
fn fixed_point(weights: &[f64], bits: u32) -> Vec<i32> {
    let one = f64::from(1 << bits);
    weights.iter().map(|weight| weight * one).map(|x| if x < 0.0 { x - 0.5 } else { x + 0.5 } as i32).collect()
}

impl Filter {
    /// Radius of the filter, in pixels of the smaller image.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// Weight at a distance of `x` pixels from the centre.
    fn weight(self, x: f64) -> f64 {
        use std::f64::consts::PI;
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        match self {
            Self::Nearest => 1.0,
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming if x == 0.0 => 1.0,
            Self::Hamming if x.abs() >= 1.0 => 0.0,
            Self::Hamming => sinc(x.abs()) * (0.54 + 0.46 * (x.abs() * PI).cos()),
            Self::Bicubic => bicubic(x.abs()),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

/// Keys' cubic convolution with `a = -0.5`.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::Rgb;

    #[test]
    fn a_flat_image_stays_flat_under_every_filter() {
        let flat = RgbImage::from_pixel(13, 7, Rgb([3, 128, 255]));
        for filter in
            [Filter::Nearest, Filter::Lanczos, Filter::Bilinear, Filter::Bicubic, Filter::Box, Filter::Hamming]
        {
            for size in [(5, 5), (31, 2), (13, 20), (1, 1)] {
                for arithmetic in [Arithmetic::Pillow, Arithmetic::Torch] {
                    let out = resize(flat.clone(), size.into(), Resampling { filter, arithmetic });
                    assert_eq!(out, RgbImage::from_pixel(size.0, size.1, Rgb([3, 128, 255])), "{filter:?} {size:?}");
                }
            }
        }
    }

    #[test]
    fn halving_with_a_box_is_the_mean_of_pairs() {
        let image = RgbImage::from_fn(4, 1, |x, _| Rgb([[10, 20, 31, 40][x as usize]; 3]));
        // (10 + 20) / 2 = 15; (31 + 40) / 2 = 35.5, rounded up.
        let resampling = Resampling { filter: Filter::Box, arithmetic: Arithmetic::Pillow };
        let out = resize(image, (2, 1).into(), resampling);
        assert_eq!((out.get_pixel(0, 0).0[0], out.get_pixel(1, 0).0[0]), (15, 36));
    }
}
