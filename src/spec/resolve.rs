//! Choices that are left to the model: once it is known, they become those of its family.

use super::{ConnectorPlan, Plan, PreprocessPlan, SingleImagePlan};
use crate::connector::ConnectorKind;
use crate::temporal::Temporal;
use crate::video::Sample;
use crate::video::sample::OfCheckpoint;
use crate::vlm::Blueprint;

impl Plan {
    /// The rule that chooses frames: `uniform` where nothing is said and the model is not known.
    pub fn sample(&self) -> Sample {
        self.sample.clone().unwrap_or_default()
    }

    /// The temporal strategy: the Dense Connector's where nothing is said and the model is not known.
    pub fn temporal(&self) -> Temporal {
        self.temporal.unwrap_or(Temporal::D2)
    }

    /// The plan with every choice that it leaves to the model made. What is not said is the family's own way with
    /// videos, where it has one, else `uniform` frames and `max_pool`; `checkpoint` is the family's own in any case. So is
    /// its way with a single image, unless the plan has a strategy, a connector or a preprocessing of its own.
    #[must_use]
    pub fn resolved(self, blueprint: &Blueprint) -> Self {
        let path = blueprint.config.video_path;
        let own = |rule: OfCheckpoint| blueprint.own_sample(rule.frames);
        let sample = match self.sample {
            None => own(OfCheckpoint::default()),
            Some(Sample::Checkpoint(rule)) => own(rule),
            Some(said) => said,
        };
        let temporal = match self.temporal {
            None if !path.is_own() => Temporal::D2,
            // Tokens of STI lie on no grid that the family's own way could pool.
            None if blueprint.connector.kind() == ConnectorKind::Sti
                && path.temporal().check(blueprint.frame_tokens()).is_err() =>
            {
                Temporal::Concat
            }
            None | Some(Temporal::Checkpoint) => path.temporal(),
            Some(said) => said,
        };
        let single_image = self.single_image.or_else(|| {
            // Tokens of STI lie on no grid that tiles could be joined to, of a trained STI either.
            let is_left = matches!(self.temporal, None | Some(Temporal::Checkpoint))
                && self.connector == ConnectorPlan::Checkpoint
                && self.preprocess == PreprocessPlan::Checkpoint
                && blueprint.connector.kind() != ConnectorKind::Sti;
            let way = if is_left { SingleImagePlan::AnyRes } else { SingleImagePlan::Frame };
            blueprint.single_image.is_own().then_some(way)
        });
        Self { sample: Some(sample), temporal: Some(temporal), single_image, ..self }
    }
}
