//! Images of the shapes world, a little spoilt: compressed, lit unevenly, noisy. Still images only.

use ::image::{DynamicImage, ImageFormat, RgbImage, codecs::jpeg::JpegEncoder};
use serde::{Deserialize, Serialize};

use super::{Dataset, Dialogue};
use crate::error::Error;
use crate::image::Preprocessor;
use crate::world::{Draw, Medium, Question, QuestionKind, Scene, ask};

/// Scenes of the shapes world, and the weights of their questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldConfig {
    /// Seed of the scenes.
    pub seed: u64,
    /// Number of images.
    pub images: usize,
    /// Weight of a token of a caption; a token of a short answer has weight 1. Default: `0.15`.
    #[serde(default = "default_caption_weight")]
    pub caption_weight: f32,
    /// The kinds of questions that are asked. Default: all.
    #[serde(default = "all_questions")]
    pub questions: Vec<QuestionKind>,
    /// The share of the images that are compressed as JPEG on the way. Default: `0.5`.
    #[serde(default = "default_compressed")]
    pub compressed: f64,
    /// The share of the images whose objects stand as at one moment of a clip: anywhere, cut by the border, partly
    /// covered. Default: `0`.
    #[serde(default)]
    pub loose: f64,
}

fn default_caption_weight() -> f32 {
    0.15
}

fn all_questions() -> Vec<QuestionKind> {
    QuestionKind::ALL.to_vec()
}

fn default_compressed() -> f64 {
    0.5
}

/// The shapes world as a dataset.
#[derive(Debug, Clone)]
pub(crate) struct WorldImages {
    config: WorldConfig,
}

/// Streams of draws beside that of the scene itself.
const SPOILING: u64 = 1 << 40;
const LOOSENING: u64 = 1 << 41;

impl WorldImages {
    /// Makes the images of a configuration.
    pub(crate) fn new(config: WorldConfig) -> Self {
        Self { config }
    }

    /// Returns the scene of an image.
    pub(crate) fn scene(&self, index: usize) -> Scene {
        let seed = self.config.seed;
        let mut draw = Draw::new(seed, index as u64);
        let is_loose = Draw::new(seed, LOOSENING + index as u64).chance(self.config.loose);
        if is_loose { Scene::loose(&mut draw) } else { Scene::still(&mut draw, None) }
    }

    /// Brightness by up to a tenth, noise of up to six levels, after the resize: what a camera does.
    fn spoil(mut picture: RgbImage, draw: &mut Draw) -> RgbImage {
        let (gain, deviation) = (draw.between(0.9, 1.1), draw.between(0.0, 6.0));
        for level in picture.iter_mut() {
            *level = (f64::from(*level) * gain + deviation * draw.normal()).round().clamp(0.0, 255.0) as u8;
        }
        picture
    }

    fn compress(picture: RgbImage, draw: &mut Draw) -> RgbImage {
        let quality = draw.between(40.0, 95.0) as u8;
        let mut bytes = Vec::new();
        let encoded = JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(&picture);
        let decoded = encoded.and_then(|()| ::image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg));
        decoded.map_or(picture, DynamicImage::into_rgb8)
    }
}

/// Returns a question as people type it: sometimes without its capital, sometimes without its mark.
fn typed(question: String, draw: &mut Draw) -> String {
    let question = if draw.chance(0.25) { question.to_lowercase() } else { question };
    if draw.chance(0.15) { question.trim_end_matches(['?', '.']).to_owned() } else { question }
}

impl Dataset for WorldImages {
    fn n_images(&self) -> usize {
        self.config.images
    }

    fn pixels(&self, index: usize, preprocessor: &Preprocessor) -> Result<Vec<f32>, Error> {
        let wrong = |source: Error| source.about("shapes_world");
        let mut draw = Draw::new(self.config.seed, SPOILING + index as u64);
        let picture = self.scene(index).render();
        let is_compressed = draw.chance(self.config.compressed);
        let picture = if is_compressed { Self::compress(picture, &mut draw) } else { picture };
        let small = preprocessor.image(picture).map_err(wrong)?;
        Ok(preprocessor.run(Self::spoil(small, &mut draw)).map_err(wrong)?.0)
    }

    /// Asks one question per attribute and object, as the hard part is which object is meant; about existence one more,
    /// about the count in six images of ten, about the background in three of ten.
    fn dialogues(&self, index: usize, draw: &mut Draw) -> Vec<Dialogue> {
        let scene = self.scene(index);
        let n_objects = scene.objects.len();
        let mut dialogues = Vec::new();
        for &kind in &self.config.questions {
            let n_asked = match kind {
                QuestionKind::Count => usize::from(draw.chance(0.6)),
                QuestionKind::Background => usize::from(draw.chance(0.3)),
                QuestionKind::Caption | QuestionKind::Listing => 1,
                QuestionKind::Exist => n_objects + 1,
                _ => n_objects,
            };
            let weight = if kind == QuestionKind::Caption { self.config.caption_weight } else { 1.0 };
            for _ in 0..n_asked {
                if let Some(Question { question, answer, .. }) = ask(kind, &scene, Medium::Any, draw) {
                    dialogues.push(Dialogue { turns: vec![(typed(question, draw), answer)], weight });
                }
            }
        }
        dialogues
    }

    fn is_simple(&self, index: usize) -> bool {
        self.scene(index).objects.len() == 1
    }

    fn identity(&self) -> String {
        let WorldConfig { seed, images, compressed, loose, .. } = self.config;
        format!("shapes_world seed {seed} images {images} compressed {compressed} loose {loose}")
    }
}
