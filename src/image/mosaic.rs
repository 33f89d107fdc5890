//! Mosaic of several frames in one image, row by row: IG-VLM's grid (arXiv 2403.18406) and TS-LLaVA's thumbnail
//! (arXiv 2411.11066). Frames are shrunk by area averages in f64, not by the tower's resampling.

use ::image::{Rgb, RgbImage, imageops};

use crate::error::{Error, Result};

/// Pixels of a side at most: no decoder gives more in either direction.
const MAX_SIDE: u32 = 1 << 15;

/// Pastes frames row by row, `columns` in a row, each resized to the first frame's size; cells without a frame are
/// white.
///
/// # Errors
/// When there is no frame, or the result would be too large.
pub(crate) fn mosaic(frames: &[RgbImage], columns: u32) -> Result<RgbImage> {
    let columns = columns.max(1);
    let first = frames.first().ok_or_else(|| Error::invalid("a mosaic of no frames"))?;
    let (width, height) = first.dimensions();
    let rows = (frames.len() as u32).div_ceil(columns);
    let size = width.checked_mul(columns).zip(height.checked_mul(rows));
    let (total_width, total_height) =
        size.filter(|&(width, height)| width <= MAX_SIDE && height <= MAX_SIDE).ok_or_else(|| {
            Error::invalid(format!(
                "a mosaic of {columns} x {rows} frames of {width} x {height} is over {MAX_SIDE} pixels a side"
            ))
        })?;
    let mut whole = RgbImage::from_pixel(total_width, total_height, Rgb([255; 3]));
    for (i, frame) in (0u32..).zip(frames) {
        let (x, y) = (i % columns * width, i / columns * height);
        imageops::replace(&mut whole, &shrink(frame, width, height), i64::from(x), i64::from(y));
    }
    Ok(whole)
}

/// Resizes an image: each pixel is the mean of the area that it covers (OpenCV's `INTER_AREA` for shrinking).
pub(crate) fn shrink(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    let (columns, rows) = (area_weights(image.width(), width), area_weights(image.height(), height));
    RgbImage::from_fn(width, height, |x, y| {
        let mut sum = [0f64; 3];
        for &(row, row_weight) in &rows[y as usize] {
            for &(column, column_weight) in &columns[x as usize] {
                let pixel = image.get_pixel(column, row);
                for (sum, level) in sum.iter_mut().zip(pixel.0) {
                    *sum += f64::from(level) * row_weight * column_weight;
                }
            }
        }
        Rgb(sum.map(|level| level.round_ties_even().clamp(0.0, 255.0) as u8))
    })
}

/// Returns, for each of `to` target indices along a side, the source indices that it covers and the share of each.
fn area_weights(from: u32, to: u32) -> Vec<Vec<(u32, f64)>> {
    let scale = f64::from(from) / f64::from(to.max(1));
    let weights = |i: u32| {
        let (begin, end) = (f64::from(i) * scale, f64::from(i + 1) * scale);
        let overlap = |at: u32| (end.min(f64::from(at) + 1.0) - begin.max(f64::from(at))) / scale;
        let covered = begin as u32..(end.ceil() as u32).min(from);
        covered.map(|at| (at, overlap(at))).filter(|&(_, share)| share > 1e-9).collect()
    };
    (0..to).map(weights).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(width: u32, height: u32, levels: &[u8]) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([levels[(y * width + x) as usize]; 3]))
    }

    #[test]
    fn a_pixel_is_the_mean_of_its_area() {
        // Three columns to two: the first is 0 and half of 60, weighted 2 to 1.
        let small = shrink(&gray(3, 2, &[0, 60, 90, 0, 60, 90]), 2, 1);
        assert_eq!(small, gray(2, 1, &[20, 80]));
        assert_eq!(shrink(&gray(2, 1, &[7, 9]), 2, 1), gray(2, 1, &[7, 9]));
    }

    #[test]
    fn frames_are_laid_row_by_row_on_white() {
        let frames = [gray(1, 1, &[1]), gray(1, 1, &[2]), gray(2, 2, &[3, 3, 3, 3])];
        assert_eq!(mosaic(&frames, 2).expect("a small mosaic"), gray(2, 2, &[1, 2, 3, 255]));
        assert!(mosaic(&[], 2).is_err());
        assert!(mosaic(&[RgbImage::new(20_000, 1), RgbImage::new(20_000, 1)], 2).is_err());
    }
}
