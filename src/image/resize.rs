//! Resizing on u8 exactly as Pillow does it (`libImaging/Resample.c`, to version 12), or as PyTorch does it
//! (`UpSampleKernel.cpp`: `_upsample_*_aa` of u8 on the CPU, which torchvision calls).
//!
//! Towers were trained on the pixels of one of them, and a level more or less changes tokens. Both are an antialiased
//! convolution, the horizontal pass first, clipped and rounded to u8 in between. They differ in the coefficients:
//! Pillow's have 22 bits after the point, PyTorch's are of 16 bits with as many after the point as the largest allows,
//! and pixels differ by up to two levels.

use ::image::RgbImage;

use super::config::{Arithmetic, Filter};
use super::plan::Taps;

/// Bits after the point of Pillow's coefficients: 8 bits of level and 2 of headroom are left of 32.
pub(super) const PILLOW_BITS: u32 = 32 - 8 - 2;

/// A filter and the arithmetic that it is computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resampling {
    pub(super) filter: Filter,
    pub(super) arithmetic: Arithmetic,
}

/// Resizes to `width` x `height`. A side that has its length already is not touched.
pub(super) fn resize(picture: RgbImage, (width, height): (u32, u32), resampling: Resampling) -> RgbImage {
    let picture = if picture.width() == width { picture } else { horizontally(&picture, width, resampling) };
    if picture.height() == height { picture } else { vertically(&picture, height, resampling) }
}

fn horizontally(picture: &RgbImage, width: u32, resampling: Resampling) -> RgbImage {
    let Windows { windows, bits } = windows(picture.width(), width, resampling);
    let half = 1 << bits >> 1;
    let mut out = RgbImage::new(width, picture.height());
    let from = picture.as_raw().chunks_exact(picture.width() as usize * 3);
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

fn vertically(picture: &RgbImage, height: u32, resampling: Resampling) -> RgbImage {
    let stride = picture.width() as usize * 3;
    let mut out = RgbImage::new(picture.width(), height);
    let mut sums = vec![0; stride];
    let Windows { windows, bits } = windows(picture.height(), height, resampling);
    let half = 1 << bits >> 1;
    for (window, target) in windows.iter().zip(out.chunks_exact_mut(stride)) {
        sums.fill(half);
        let rows = picture.as_raw()[window.start * stride..].chunks_exact(stride);
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

/// A sum without its bits after the point. It was begun with one half, so that the shift rounds.
fn clip(sum: i32, bits: u32) -> u8 {
    (sum >> bits).clamp(0, 255) as u8
}

/// The windows of all target pixels.
struct Windows {
    windows: Vec<Window>,
    /// Bits after the point of their weights.
    bits: u32,
}

/// The windows along one side as a table. A side that has its length already is copied. Weights with fewer bits after
/// the point are shifted to Pillow's, which rounds every sum alike.
pub(super) fn taps(from: u32, to: u32, resampling: Resampling) -> Taps {
    if from == to {
        return Taps::new((0..to as usize).map(|i| (i, vec![1 << PILLOW_BITS])));
    }
    let Windows { windows, bits } = windows(from, to, resampling);
    let shifted = |weights: Vec<i32>| weights.into_iter().map(|weight| weight << (PILLOW_BITS - bits)).collect();
    Taps::new(windows.into_iter().map(|window| (window.start, shifted(window.weights))))
}

/// The source pixels that one target pixel is made of.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

fn windows(from: u32, to: u32, Resampling { filter, arithmetic }: Resampling) -> Windows {
    let scale = f64::from(from) / f64::from(to);
    if filter == Filter::Nearest {
        // Summed up step by step, rounding included, as `libImaging/Geometry.c` does it.
        let places = std::iter::successors(Some(scale * 0.5), |place| Some(place + scale)).take(to as usize);
        let last = from as usize - 1;
        let windows = places.map(|x| Window { start: (x as usize).min(last), weights: vec![1] }).collect();
        return Windows { windows, bits: 0 };
    }
    // Where the picture shrinks, the filter is stretched over as many pixels: antialiasing.
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
    let windows = exact.into_iter().map(|(start, weights)| Window { start, weights: fixed_point(&weights, bits) });
    Windows { windows: windows.collect(), bits }
}

/// Bits after the point with which the largest weight, and so every one, is a number of 16 bits.
fn torch_bits(largest: f64) -> u32 {
    const MOST: u32 = 22;
    let fits = |bits: &u32| ((0.5 + largest * f64::from(1u32 << (bits + 1))) as i64) < 1 << 15;
    (0..MOST).find(|bits| !fits(bits)).unwrap_or(MOST)
}

/// Weights that add up to one.
fn normalised(weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    let norm = if sum == 0.0 { 1.0 } else { 1.0 / sum };
    weights.into_iter().map(|weight| weight * norm).collect()
}

/// Weights with `bits` bits after the point, rounded away from zero.
fn fixed_point(weights: &[f64], bits: u32) -> Vec<i32> {
    let one = f64::from(1 << bits);
    weights.iter().map(|weight| weight * one).map(|x| if x < 0.0 { x - 0.5 } else { x + 0.5 } as i32).collect()
}

impl Filter {
    /// How far it reaches to either side, in pixels of the smaller picture.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

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
    fn a_flat_picture_stays_flat_under_every_filter() {
        let flat = RgbImage::from_pixel(13, 7, Rgb([3, 128, 255]));
        for filter in
            [Filter::Nearest, Filter::Lanczos, Filter::Bilinear, Filter::Bicubic, Filter::Box, Filter::Hamming]
        {
            for size in [(5, 5), (31, 2), (13, 20), (1, 1)] {
                for arithmetic in [Arithmetic::Pillow, Arithmetic::Torch] {
                    let out = resize(flat.clone(), size, Resampling { filter, arithmetic });
                    assert_eq!(out, RgbImage::from_pixel(size.0, size.1, Rgb([3, 128, 255])), "{filter:?} {size:?}");
                }
            }
        }
    }

    #[test]
    fn halving_with_a_box_is_the_mean_of_pairs() {
        let picture = RgbImage::from_fn(4, 1, |x, _| Rgb([[10, 20, 31, 40][x as usize]; 3]));
        // (10 + 20) / 2 = 15; (31 + 40) / 2 = 35.5, rounded up.
        let resampling = Resampling { filter: Filter::Box, arithmetic: Arithmetic::Pillow };
        let out = resize(picture, (2, 1), resampling);
        assert_eq!((out.get_pixel(0, 0).0[0], out.get_pixel(1, 0).0[0]), (15, 36));
    }
}
