//! Decoded frame: upright RGB pixels with index and presentation time; and the eight orientations of stored frames.

use ::image::RgbImage;

use crate::units::{FrameIndex, Seconds};

/// A frame of a video, in RGB with full range, with the rotation metadata applied.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Index among the decodable frames, in presentation order.
    pub index: FrameIndex,
    /// Presentation time; `None` for an image of a directory.
    pub time: Option<Seconds>,
    /// Pixels.
    pub image: RgbImage,
}

/// Transformation that turns a stored frame upright: one of the eight symmetries of a rectangle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orientation {
    Upright,
    FlipHorizontal,
    FlipVertical,
    Rotate90,
    Rotate180,
    Rotate270,
    Transpose,
    AntiTranspose,
}

impl Orientation {
    /// Reads a container's display matrix: nine fixed-point values, row-major, of which the upper left
    /// 2 x 2 block `(a b; c d)` sends a pixel `(x, y)` to `(a x + c y, b x + d y)` (ISO 14496-12, 8.5.2;
    /// FFmpeg's `libavutil/display.h`). An angle between quarter turns is rounded to the nearest quarter turn.
    pub(crate) fn from_display_matrix(matrix: &[i32; 9]) -> Self {
        let [a, b, c, d] = [matrix[0], matrix[1], matrix[3], matrix[4]].map(i64::from);
        if a.abs() + d.abs() >= b.abs() + c.abs() {
            match (a < 0, d < 0) {
                (false, false) => Self::Upright,
                (true, false) => Self::FlipHorizontal,
                (false, true) => Self::FlipVertical,
                (true, true) => Self::Rotate180,
            }
        } else {
            match (b < 0, c < 0) {
                (false, true) => Self::Rotate90,
                (true, false) => Self::Rotate270,
                (false, false) => Self::Transpose,
                (true, true) => Self::AntiTranspose,
            }
        }
    }

    /// Reads the EXIF tag `Orientation` (EXIF 2.32, 4.6.4): 1 to 8, by where row 0 and column 0 are shown.
    pub(crate) fn from_exif(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::Upright,
            2 => Self::FlipHorizontal,
            3 => Self::Rotate180,
            4 => Self::FlipVertical,
            5 => Self::Transpose,
            6 => Self::Rotate90,
            7 => Self::AntiTranspose,
            8 => Self::Rotate270,
            _ => return None,
        })
    }

    /// Returns the orientation in words: degrees clockwise, as players report them, or the mirroring.
    pub(crate) fn describe(self) -> Option<&'static str> {
        match self {
            Self::Upright => None,
            Self::FlipHorizontal => Some("mirrored left to right"),
            Self::FlipVertical => Some("mirrored top to bottom"),
            Self::Rotate90 => Some("90 degrees clockwise"),
            Self::Rotate180 => Some("180 degrees"),
            Self::Rotate270 => Some("270 degrees clockwise"),
            Self::Transpose => Some("transposed"),
            Self::AntiTranspose => Some("transposed across the other diagonal"),
        }
    }

    /// Returns width and height of an upright frame whose stored size is `width` x `height`.
    pub(crate) fn upright_size(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Self::Upright | Self::FlipHorizontal | Self::FlipVertical | Self::Rotate180 => (width, height),
            Self::Rotate90 | Self::Rotate270 | Self::Transpose | Self::AntiTranspose => (height, width),
        }
    }

    /// Turns a stored frame upright.
    pub(crate) fn apply(self, image: RgbImage) -> RgbImage {
        use ::image::imageops::{flip_horizontal, flip_vertical, rotate90, rotate180, rotate270};
        match self {
            Self::Upright => image,
            Self::FlipHorizontal => flip_horizontal(&image),
            Self::FlipVertical => flip_vertical(&image),
            Self::Rotate90 => rotate90(&image),
            Self::Rotate180 => rotate180(&image),
            Self::Rotate270 => rotate270(&image),
            Self::Transpose => flip_horizontal(&rotate90(&image)),
            Self::AntiTranspose => flip_horizontal(&rotate270(&image)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: i32 = 1 << 16;

    /// Returns the matrix with this 2 x 2 block.
    fn matrix(a: i32, b: i32, c: i32, d: i32) -> [i32; 9] {
        [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]
    }

    #[test]
    fn each_matrix_moves_every_pixel_where_its_arithmetic_says() {
        // A 3 x 2 image whose pixels are all different: red = x, green = y.
        let image = RgbImage::from_fn(3, 2, |x, y| ::image::Rgb([x as u8, y as u8, 0]));
        for (a, b, c, d) in [
            (1, 0, 0, 1),
            (-1, 0, 0, 1),
            (1, 0, 0, -1),
            (-1, 0, 0, -1),
            (0, 1, -1, 0),
            (0, -1, 1, 0),
            (0, 1, 1, 0),
            (0, -1, -1, 0),
        ] {
            let turned = Orientation::from_display_matrix(&matrix(a, b, c, d)).apply(image.clone());
            // The corner that the matrix moves furthest to the negative becomes the origin.
            let moved = |x: i32, y: i32| (a * x + c * y, b * x + d * y);
            let corners = [moved(0, 0), moved(2, 0), moved(0, 1), moved(2, 1)];
            let left = corners.iter().map(|p| p.0).min().expect("four corners");
            let top = corners.iter().map(|p| p.1).min().expect("four corners");
            for (x, y, pixel) in image.enumerate_pixels() {
                let (px, py) = moved(x as i32, y as i32);
                assert_eq!(turned.get_pixel((px - left) as u32, (py - top) as u32), pixel, "{a} {b} {c} {d}");
            }
        }
    }

    #[test]
    fn an_odd_angle_goes_to_the_nearest_quarter_turn() {
        // 80 degrees: cos 0.17, sin 0.98.
        assert_eq!(
            Orientation::from_display_matrix(&[11_380, 64_540, 0, -64_540, 11_380, 0, 0, 0, 1 << 30]),
            Orientation::Rotate90
        );
        assert_eq!(Orientation::from_display_matrix(&[i32::MIN; 9]), Orientation::Rotate180);
    }
}
