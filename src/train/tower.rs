//! Stage `tower`: pretraining of a small tower on the shapes world, through linear heads that are thrown away.
//!
//! Each patch is to know what object lies on it, and the class token the background and the number of objects.
//! Low-level facts (pattern, place) are asked of an early layer, objects of the last one: a connector can only fuse
//! what some layer knows.

use std::ops::ControlFlow;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::data::{Dataset, WorldImages};
use super::loss::{Targets, correct, cross_entropy};
use super::objective::{Objective, StepLoss};
use super::parameters::{Parameters, Part};
use crate::error::Error;
use crate::image::Preprocessor;
use crate::nn::linear::Bias;
use crate::nn::{LayerNorm, Linear, Purpose};
use crate::vision::{Tower, TowerConfig};
use crate::world::{Background, Cell, Colour, Scene, Shape, Size, Texture};

/// Classification that a tower is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Probe {
    /// Colour of the object at each patch, at the last layer.
    Color,
    /// Shape of the object at each patch, at the last layer.
    Shape,
    /// Size of the object at each patch, at the last layer.
    Size,
    /// Pattern of the object at each patch, at a third of the layers.
    Texture,
    /// Cell of the object at each patch, at a third of the layers.
    Position,
    /// Background, from the class token.
    Background,
    /// Number of objects, from the class token.
    Count,
}

impl Probe {
    fn n_classes(self) -> usize {
        match self {
            Self::Color => Colour::ALL.len() + 1,
            Self::Shape => Shape::ALL.len() + 1,
            Self::Size => Size::ALL.len() + 1,
            Self::Texture => Texture::ALL.len() + 1,
            Self::Position => Cell::COUNT + 1,
            Self::Background => Background::ALL.len(),
            Self::Count => 3,
        }
    }

    fn is_of_image(self) -> bool {
        matches!(self, Self::Background | Self::Count)
    }

    fn is_early(self) -> bool {
        matches!(self, Self::Texture | Self::Position)
    }

    fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the class of a patch with object `object`, or of an image.
    fn class(self, scene: &Scene, object: Option<usize>) -> u32 {
        let of_object = |class: &dyn Fn(&crate::world::Object) -> usize| {
            object.map_or(self.n_classes() - 1, |i| class(&scene.objects[i])) as u32
        };
        match self {
            Self::Color => of_object(&|o| o.colour.index()),
            Self::Shape => of_object(&|o| o.shape.index()),
            Self::Size => of_object(&|o| o.size.index()),
            Self::Texture => of_object(&|o| o.texture.index()),
            Self::Position => of_object(&|o| Cell::at(o.centre.0, o.centre.1, scene.width, scene.height).0),
            Self::Background => scene.background.index() as u32,
            Self::Count => scene.objects.len() as u32 - 1,
        }
    }
}

/// An object owns a patch of which it covers this much.
const OWNED: f64 = 0.25;
/// A patch is background if no object covers this much of it.
const EMPTY: f64 = 0.03;
/// Weight of all background patches together; all object patches have weight 1.
const BACKGROUND_WEIGHT: f32 = 0.3;
/// Weight of a probe of the class token.
const IMAGE_WEIGHT: f32 = 0.5;

/// Images of the stage, and their preprocessing.
pub(crate) struct TowerImages {
    /// Scenes and their labels.
    pub data: WorldImages,
    /// Preprocessing of an image for the tower.
    pub preprocessor: Preprocessor,
}

/// The objective of the stage.
pub(crate) struct TowerObjective {
    tower: Tower,
    top_norm: LayerNorm,
    early_norm: LayerNorm,
    heads: Vec<(Probe, Linear)>,
    images: TowerImages,
    device: Device,
}

impl TowerObjective {
    /// Builds the tower and its heads on `parameters`.
    ///
    /// # Errors
    /// When weights do not fit.
    pub(crate) fn new(
        config: &TowerConfig,
        probes: &[Probe],
        parameters: &Parameters,
        images: TowerImages,
    ) -> Result<Self> {
        let (tower, heads) = (parameters.part(Part::VisionTower), parameters.part(Part::Heads));
        let (width, eps) = (config.d_hidden, config.layer_norm_eps);
        let head = |probe: &Probe| {
            let linear = Linear::load(width, probe.n_classes(), Bias::With, &heads.pp(probe.name()))?;
            Ok((*probe, linear))
        };
        Ok(Self {
            tower: Tower::load(config, config.n_layers, &tower, Purpose::Training)?,
            top_norm: LayerNorm::load(width, eps, &tower.pp("post_layernorm"))?,
            early_norm: LayerNorm::load(width, eps, &heads.pp("early_norm"))?,
            heads: probes.iter().map(head).collect::<Result<_>>()?,
            images,
            device: parameters.device().clone(),
        })
    }

    /// Returns the hidden states that the heads read: a third up, and the last.
    fn states(&self, pixels: &Tensor) -> Result<[Tensor; 2]> {
        let (early_layer, last_layer) = (self.tower.config().n_layers / 3, self.tower.config().n_layers);
        let (mut early, mut last) = (None, None);
        self.tower.hidden_states(pixels, &mut |layer, state| {
            if layer.0 == early_layer {
                early = Some(self.early_norm.forward(state)?);
            }
            if layer.0 == last_layer {
                last = Some(self.top_norm.forward(state)?);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let never_came = || candle_core::Error::msg("a hidden state never came");
        Ok([early.ok_or_else(never_came)?, last.ok_or_else(never_came)?])
    }
}

/// Images, and what is to be known of them.
pub(crate) struct TowerBatch {
    pixels: Vec<Vec<f32>>,
    scenes: Vec<Scene>,
    /// For each patch of each image its object; outer `None` where it is neither one thing nor another.
    owners: Vec<Vec<Option<Option<usize>>>>,
}

impl TowerBatch {
    fn targets(&self, probe: Probe) -> Targets {
        let mut targets = Targets::default();
        if probe.is_of_image() {
            let weight = IMAGE_WEIGHT / self.scenes.len() as f32;
            self.scenes.iter().for_each(|scene| targets.push(probe.class(scene, None), weight));
            return targets;
        }
        let count = |kind: fn(&Option<Option<usize>>) -> bool| {
            self.owners.iter().flatten().filter(|owner| kind(owner)).count().max(1) as f32
        };
        let of_object = 1.0 / count(|owner| matches!(owner, Some(Some(_))));
        let of_background = BACKGROUND_WEIGHT / count(|owner| matches!(owner, Some(None)));
        for (scene, owners) in self.scenes.iter().zip(&self.owners) {
            for owner in owners {
                let weight = match owner {
                    Some(Some(_)) => of_object,
                    Some(None) => of_background,
                    None => 0.0,
                };
                targets.push(probe.class(scene, owner.flatten()), weight);
            }
        }
        targets
    }
}

impl Objective for TowerObjective {
    type Batch = TowerBatch;

    fn prepare(&self, _: usize, indices: &[usize]) -> std::result::Result<TowerBatch, Error> {
        let grid = self.tower.config().grid();
        let one = |&index: &usize| {
            let scene = self.images.data.scene(index);
            let owners = patch_owners(&scene, grid);
            Ok((self.images.data.pixels(index, &self.images.preprocessor)?, scene, owners))
        };
        let made: Vec<(Vec<f32>, Scene, Vec<_>)> =
            indices.par_iter().map(one).collect::<std::result::Result<_, Error>>()?;
        let mut batch = TowerBatch { pixels: Vec::new(), scenes: Vec::new(), owners: Vec::new() };
        for (pixels, scene, owners) in made {
            batch.pixels.push(pixels);
            batch.scenes.push(scene);
            batch.owners.push(owners);
        }
        Ok(batch)
    }

    fn weight(&self, batch: &TowerBatch) -> f64 {
        batch.scenes.len() as f64
    }

    fn loss(&self, batch: &TowerBatch) -> Result<StepLoss> {
        let (images, side) = (batch.pixels.len(), self.tower.config().image_size);
        let pixels = Tensor::from_vec(batch.pixels.concat(), (images, 3, side, side), &self.device)?;
        let states = self.states(&pixels)?; // (B, n_state_tokens, D)
        let tower = self.tower.config();
        let (n_class_tokens, n_patches) = (tower.n_class_tokens(), tower.n_patches());
        let mut total: Option<Tensor> = None;
        let (mut right, mut counted) = (0, 0);
        for (probe, head) in &self.heads {
            let state = if probe.is_early() { &states[0] } else { &states[1] };
            let tokens = if probe.is_of_image() {
                state.narrow(1, 0, 1)?
            } else {
                state.narrow(1, n_class_tokens, n_patches)?
            };
            let logits = head.forward(&tokens.contiguous()?)?.reshape(((), probe.n_classes()))?;
            let targets = batch.targets(*probe);
            let loss = cross_entropy(&logits, &targets)?;
            let (r, c) = correct(&logits, &targets)?;
            right += r;
            counted += c;
            total = Some(match total {
                Some(total) => (total + loss)?,
                None => loss,
            });
        }
        let total = total.ok_or_else(|| candle_core::Error::msg("a tower stage without probes"))?;
        Ok(StepLoss { sum: (total * images as f64)?, right, counted, n_tokens: images * tower.n_state_tokens() })
    }
}

/// Returns the object of each patch of the padded canvas, or the background, or neither.
fn patch_owners(scene: &Scene, grid: usize) -> Vec<Option<Option<usize>>> {
    let side = scene.width.max(scene.height) as usize;
    let (left, top) = ((side - scene.width as usize) / 2, (side - scene.height as usize) / 2);
    let patch = side as f64 / grid as f64;
    let mut covered = vec![vec![0usize; scene.objects.len()]; grid * grid];
    for (i, owner) in scene.owners().into_iter().enumerate() {
        if let Some(object) = owner {
            let (x, y) = (i % scene.width as usize + left, i / scene.width as usize + top);
            let cell = |at: usize| ((at as f64 + 0.5) / patch) as usize;
            covered[cell(y) * grid + cell(x)][object] += 1;
        }
    }
    let area = patch * patch;
    let owner = |cover: Vec<usize>| {
        let (best, most) = cover.iter().copied().enumerate().max_by_key(|&(_, n)| n).unwrap_or_default();
        match most as f64 / area {
            share if share >= OWNED => Some(Some(best)),
            share if share < EMPTY => Some(None),
            _ => None,
        }
    };
    covered.into_iter().map(owner).collect()
}
