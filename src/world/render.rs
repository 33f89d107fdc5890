//! Painting a scene: each pixel's centre is in a shape or not, without smoothing.

use ::image::{Rgb, RgbImage};

use super::scene::{Object, Scene, Shape, Texture};

impl Scene {
    /// Returns the image.
    pub fn render(&self) -> RgbImage {
        let mut picture = RgbImage::from_pixel(self.width, self.height, Rgb(to_levels(self.background_rgb)));
        for object in &self.objects {
            object.for_each_pixel((self.width, self.height), |x, y, rgb| picture.put_pixel(x, y, Rgb(rgb)));
        }
        picture
    }

    /// Returns the visible object of each pixel, row by row.
    pub fn owners(&self) -> Vec<Option<usize>> {
        let mut owners = vec![None; (self.width * self.height) as usize];
        for (i, object) in self.objects.iter().enumerate() {
            object.for_each_pixel((self.width, self.height), |x, y, _| {
                owners[(y * self.width + x) as usize] = Some(i);
            });
        }
        owners
    }
}

impl Object {
    /// Visits the pixels of a canvas that the object covers, with their colour.
    fn for_each_pixel(&self, (width, height): (u32, u32), mut visit: impl FnMut(u32, u32, [u8; 3])) {
        let (light, dark) = (to_levels(self.rgb), to_levels(self.rgb.map(|level| level * 0.5)));
        let (sin, cos) = self.rotation.sin_cos();
        // No shape reaches further than 1.4 radii.
        let reach = 1.4 * self.radius;
        let range = |centre: f64, limit: u32| {
            (centre - reach).floor().max(0.0) as u32..((centre + reach).ceil().max(0.0) as u32).min(limit)
        };
        for y in range(self.centre.1, height) {
            for x in range(self.centre.0, width) {
                let (dx, dy) = (f64::from(x) + 0.5 - self.centre.0, f64::from(y) + 0.5 - self.centre.1);
                let (u, v) = (cos * dx - sin * dy, sin * dx + cos * dy);
                if self.shape.contains(u / self.radius, v / self.radius) {
                    visit(x, y, if self.texture.is_dark(u, v, self.phase) { dark } else { light });
                }
            }
        }
    }
}

impl Shape {
    /// Returns whether a point in units of the radius, `v` downwards, is inside.
    fn contains(self, u: f64, v: f64) -> bool {
        let square = u * u + v * v;
        match self {
            Self::Circle => square <= 0.95 * 0.95,
            Self::Ring => (0.52 * 0.52..=1.0).contains(&square),
            Self::Square => u.abs().max(v.abs()) <= 0.82,
            Self::Cross => (u.abs() <= 0.32 && v.abs() <= 1.0) || (v.abs() <= 0.32 && u.abs() <= 1.0),
            Self::Triangle => {
                let w = v - 0.15;
                w <= 0.55 && 3f64.sqrt() * u.abs() - w <= 1.1
            }
            Self::Star => in_star(u, v),
        }
    }
}

/// Returns whether a point is inside a star of five points, one upwards, with straight edges from radius 1.1 to radius
/// 0.48 and back.
fn in_star(u: f64, v: f64) -> bool {
    const TENTH: f64 = std::f64::consts::PI / 5.0;
    const OUTER: f64 = 1.1;
    const INNER: f64 = 0.48;
    // The angle from the nearest tip: by symmetry one edge decides, from a tip to the notch beside it.
    let angle = u.atan2(-v).rem_euclid(2.0 * TENTH);
    let angle = angle.min(2.0 * TENTH - angle);
    let (x, y) = (u.hypot(v) * angle.cos(), u.hypot(v) * angle.sin());
    let (notch_x, notch_y) = (INNER * TENTH.cos(), INNER * TENTH.sin());
    (notch_x - OUTER) * y - notch_y * (x - OUTER) >= 0.0
}

impl Texture {
    /// Returns whether the pattern is dark at a point in pixels, in the rotated axes of the object.
    fn is_dark(self, u: f64, v: f64, phase: f64) -> bool {
        match self {
            Self::Solid => false,
            Self::Striped => (v + phase).rem_euclid(12.0) < 6.0,
            Self::Dotted => {
                let off = |x: f64| (x + phase).rem_euclid(11.0) - 5.5;
                off(u).powi(2) + off(v).powi(2) < 3.5 * 3.5
            }
        }
    }
}

fn to_levels(rgb: [f64; 3]) -> [u8; 3] {
    rgb.map(|level| level.round().clamp(0.0, 255.0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_hold_the_points_that_they_should() {
        // (shape, inside, outside), in units of the radius, v downwards.
        let cases = [
            (Shape::Circle, (0.6, 0.6), (0.7, 0.7)),
            (Shape::Ring, (0.0, -0.9), (0.1, 0.1)),
            (Shape::Square, (0.8, -0.8), (0.9, 0.0)),
            (Shape::Cross, (0.3, 0.9), (0.5, 0.5)),
            (Shape::Triangle, (0.0, -0.9), (0.5, -0.5)),
            (Shape::Star, (0.0, -1.05), (0.0, 1.0)),
        ];
        for (shape, (u, v), (x, y)) in cases {
            assert!(shape.contains(u, v) && !shape.contains(x, y), "{shape:?}");
        }
    }

    #[test]
    fn a_star_has_its_area() {
        // Ten triangles between neighbouring corners: 10 / 2 * 1.1 * 0.48 * sin(36 degrees) = 1.5518.
        let steps: i32 = 600;
        let inside = (-steps..steps)
            .flat_map(|y| (-steps..steps).map(move |x| (f64::from(x) + 0.5, f64::from(y) + 0.5)))
            .filter(|(x, y)| in_star(x / 500.0, y / 500.0))
            .count();
        let area = inside as f64 / 250_000.0;
        assert!((area - 1.5518).abs() < 0.01, "{area}");
    }
}
