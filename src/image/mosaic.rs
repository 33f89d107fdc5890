//! Several frames in one picture, row by row: IG-VLM's grid (arXiv 2403.18406) and TS-LLaVA's thumbnail (arXiv 2411.11066).

use ::image::{Rgb, RgbImage};

/// Pastes pictures row by row, `columns` in a row, each brought to the first one's size; places without a picture are white.
///
/// # Errors
/// In words, when there is no picture, or the result would be too large.
pub fn mosaic(pictures: &[RgbImage], columns: u32) -> Result<RgbImage, String> {
    let (first, columns) = (pictures.first().ok_or("a mosaic of no pictures")?, columns.max(1));
    let (width, height) = first.dimensions();
    let rows = (pictures.len() as u32).div_ceil(columns);
    let size = width.checked_mul(columns).zip(height.checked_mul(rows)).filter(|&(w, h)| w <= MOST && h <= MOST);
    let (total_width, total_height) =
        size.ok_or_else(|| format!("{columns} x {rows} pictures of {width} x {height} are over {MOST} pixels a side"))?;
    let mut whole = RgbImage::from_pixel(total_width, total_height, Rgb([255; 3]));
    for (i, picture) in (0u32..).zip(pictures) {
        let (x, y) = (i % columns * width, i / columns * height);
        let fitting = shrink(picture, width, height);
        ::image::imageops::replace(&mut whole, &fitting, i64::from(x), i64::from(y));
    }
    Ok(whole)
}

/// Pixels of a side at most: no decoder gives more than this in either direction.
const MOST: u32 = 1 << 15;

/// A picture of another size, each pixel the mean of the area that it covers (OpenCV's `INTER_AREA` for shrinking).
pub fn shrink(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture.clone();
    }
    let (columns, rows) = (shares(picture.width(), width), shares(picture.height(), height));
    RgbImage::from_fn(width, height, |x, y| {
        let mut sum = [0f64; 3];
        for &(row, of_row) in &rows[y as usize] {
            for &(column, of_column) in &columns[x as usize] {
                let pixel = picture.get_pixel(column, row);
                for (sum, level) in sum.iter_mut().zip(pixel.0) {
                    *sum += f64::from(level) * of_row * of_column;
                }
            }
        }
        Rgb(sum.map(|level| level.round_ties_even().clamp(0.0, 255.0) as u8))
    })
}

/// For each of `to` places the places of `from` that it covers, with the share of it that each has.
fn shares(from: u32, to: u32) -> Vec<Vec<(u32, f64)>> {
    let scale = f64::from(from) / f64::from(to.max(1));
    let share = |i: u32| {
        let (begin, end) = (f64::from(i) * scale, f64::from(i + 1) * scale);
        let overlap = |at: u32| (end.min(f64::from(at) + 1.0) - begin.max(f64::from(at))) / scale;
        let places = begin as u32..(end.ceil() as u32).min(from);
        places.map(|at| (at, overlap(at))).filter(|&(_, share)| share > 1e-9).collect()
    };
    (0..to).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(width: u32, height: u32, levels: &[u8]) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([levels[(y * width + x) as usize]; 3]))
    }

    #[test]
    fn a_pixel_is_the_mean_of_its_area() {
        // Three columns to two: the first is 0 and half of 60, weighed 2 to 1.
        let small = shrink(&gray(3, 2, &[0, 60, 90, 0, 60, 90]), 2, 1);
        assert_eq!(small, gray(2, 1, &[20, 80]));
        assert_eq!(shrink(&gray(2, 1, &[7, 9]), 2, 1), gray(2, 1, &[7, 9]));
    }

    #[test]
    fn pictures_stand_row_by_row_on_white() {
        let pictures = [gray(1, 1, &[1]), gray(1, 1, &[2]), gray(2, 2, &[3, 3, 3, 3])];
        assert_eq!(mosaic(&pictures, 2), Ok(gray(2, 2, &[1, 2, 3, 255])));
        assert!(mosaic(&[], 2).is_err());
        assert!(mosaic(&[RgbImage::new(20_000, 1), RgbImage::new(20_000, 1)], 2).is_err());
    }
}
