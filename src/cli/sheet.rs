//! Contact sheet: thumbnails in a grid, each with a label below it.

use font8x8::UnicodeFonts;
use image::imageops::{FilterType, replace, resize};
use image::{Rgb, RgbImage};

const THUMBNAIL_WIDTH: u32 = 320;
const THUMBNAIL_HEIGHT: u32 = 320;
const MARGIN: u32 = 8;
/// Scale of the font of 8 x 8 pixels.
const SCALE: u32 = 2;
const LABEL_HEIGHT: u32 = 8 * SCALE + MARGIN;
const BACKGROUND: Rgb<u8> = Rgb([24, 24, 24]);
const INK: Rgb<u8> = Rgb([235, 235, 235]);

/// Scales an image down to a cell of the sheet, never up.
pub fn thumbnail(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let scale = (f64::from(THUMBNAIL_WIDTH) / f64::from(width)).min(f64::from(THUMBNAIL_HEIGHT) / f64::from(height));
    if scale >= 1.0 {
        return image.clone();
    }
    let scaled = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    resize(image, scaled(width), scaled(height), FilterType::Triangle)
}

/// Lays out labelled thumbnails row by row in an approximately square grid.
pub fn sheet(cells: &[(RgbImage, String)]) -> RgbImage {
    let columns = (cells.len() as f64).sqrt().ceil().max(1.0) as u32;
    let rows = (cells.len() as u32).div_ceil(columns);
    let label_width = |label: &String| label.chars().count() as u32 * 8 * SCALE;
    let width = cells.iter().map(|(cell, label)| cell.width().max(label_width(label))).max().unwrap_or(1) + MARGIN;
    let height = cells.iter().map(|(cell, _)| cell.height()).max().unwrap_or(1) + LABEL_HEIGHT + MARGIN;
    let mut sheet = RgbImage::from_pixel(columns * width + MARGIN, rows * height + MARGIN, BACKGROUND);
    for (i, (cell, label)) in (0u32..).zip(cells) {
        let (x, y) = (MARGIN + i % columns * width, MARGIN + i / columns * height);
        replace(&mut sheet, cell, i64::from(x), i64::from(y));
        write(&mut sheet, label, x, y + height - LABEL_HEIGHT - MARGIN / 2);
    }
    sheet
}

fn write(sheet: &mut RgbImage, text: &str, x: u32, y: u32) {
    for (i, c) in (0u32..).zip(text.chars()) {
        let Some(glyph) = font8x8::BASIC_FONTS.get(c) else { continue };
        for (row, bits) in (0u32..).zip(glyph) {
            for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                fill(sheet, x + (i * 8 + column) * SCALE, y + row * SCALE);
            }
        }
    }
}

/// Draws a dot of a glyph.
fn fill(sheet: &mut RgbImage, x: u32, y: u32) {
    for (dx, dy) in (0..SCALE).flat_map(|dx| (0..SCALE).map(move |dy| (dx, dy))) {
        if let Some(pixel) = sheet.get_pixel_mut_checked(x + dx, y + dy) {
            *pixel = INK;
        }
    }
}
