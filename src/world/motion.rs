//! Clips of the world: some objects stand still, the others follow a curve.

use ::image::RgbImage;

use super::Draw;
use super::scene::{STILL, Scene};

/// A video's contents.
#[derive(Debug, Clone)]
pub struct Clip {
    /// Scene of the first frame.
    pub scene: Scene,
    /// Number of frames.
    pub n_frames: usize,
    paths: Vec<Option<Bezier>>,
    is_blurred: bool,
}

/// A quadratic Bezier curve, in pixels.
#[derive(Debug, Clone, Copy)]
struct Bezier([(f64, f64); 3]);

impl Bezier {
    /// Returns the point at `t` of 0 to 1.
    fn at(&self, t: f64) -> (f64, f64) {
        let [a, b, c] = self.0;
        let mix = |a: f64, b: f64, c: f64| (1.0 - t).powi(2) * a + 2.0 * t * (1.0 - t) * b + t * t * c;
        (mix(a.0, b.0, c.0), mix(a.1, b.1, c.1))
    }
}

/// Frames of a clip, shortest and longest.
const LENGTHS: (usize, usize) = (8, 64);
/// The share of the frames in which every object must be seen.
const SEEN: f64 = 0.5;

impl Clip {
    /// Returns a clip in which every object is seen, nearly whole and uncovered, in at least half of the frames.
    pub fn draw(draw: &mut Draw) -> Self {
        let n_frames = LENGTHS.0 + draw.index(LENGTHS.1 - LENGTHS.0 + 1);
        loop {
            if let Some(clip) = Self::try_draw(draw, n_frames).filter(Self::shows_every_object) {
                return clip;
            }
        }
    }

    fn try_draw(draw: &mut Draw, n_frames: usize) -> Option<Self> {
        let mut scene = Scene::empty(draw);
        let (width, height) = (f64::from(scene.width), f64::from(scene.height));
        let mut paths = Vec::new();
        for mut object in Scene::draw_objects(draw, None) {
            if draw.chance(STILL) {
                object = scene.place(object, draw)?;
                paths.push(None);
            } else {
                let mut point = || (draw.between(-0.15, 1.15) * width, draw.between(-0.15, 1.15) * height);
                paths.push(Some(Bezier([point(), point(), point()])));
            }
            scene.objects.push(object);
        }
        Some(Self { scene, n_frames, paths, is_blurred: draw.chance(0.3) })
    }

    /// Returns the scene at a time in frames.
    fn at(&self, frame: f64) -> Scene {
        let t = frame / (self.n_frames - 1) as f64;
        let mut scene = self.scene.clone();
        for (object, path) in scene.objects.iter_mut().zip(&self.paths) {
            if let Some(path) = path {
                object.centre = path.at(t.clamp(0.0, 1.0));
            }
        }
        scene
    }

    fn shows_every_object(&self) -> bool {
        let mut seen = vec![0; self.scene.objects.len()];
        for frame in 0..self.n_frames {
            let scene = self.at(frame as f64);
            for (i, seen) in seen.iter_mut().enumerate() {
                *seen += usize::from(scene.shows(i));
            }
        }
        seen.iter().all(|&n| n as f64 >= SEEN * self.n_frames as f64)
    }

    /// Returns a frame; of a blurred clip the mean of three moments within it.
    pub fn render(&self, frame: usize) -> RgbImage {
        let moment = |offset: f64| self.at(frame as f64 + offset).render();
        if !self.is_blurred {
            return moment(0.0);
        }
        let moments = [-0.25, 0.0, 0.25].map(moment);
        let mut mean = moments[0].clone();
        for (i, level) in mean.iter_mut().enumerate() {
            let sum: u16 = moments.iter().map(|picture| u16::from(picture.as_raw()[i])).sum();
            *level = ((sum + 1) / 3) as u8;
        }
        mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_keep_their_rules() {
        let mut still = 0;
        for index in 0..60 {
            let clip = Clip::draw(&mut Draw::new(8, index));
            assert!((LENGTHS.0..=LENGTHS.1).contains(&clip.n_frames) && clip.shows_every_object());
            still += clip.scene.objects.iter().filter(|o| o.cell.is_some()).count();
            let frame = clip.render(clip.n_frames - 1);
            assert_eq!(frame.dimensions(), (clip.scene.width, clip.scene.height));
        }
        assert!(still > 5, "{still}");
    }
}
