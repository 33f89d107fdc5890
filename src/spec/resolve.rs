//! Resolution of the choices that a plan leaves to the model: once the model is known, they become those of its family.

use super::{ConnectorPlan, Plan, PreprocessPlan, SingleImagePlan};
use crate::connector::ConnectorKind;
use crate::temporal::Temporal;
use crate::video::Sample;
use crate::video::sample::CheckpointFrameSampling;
use crate::vlm::Blueprint;

impl Plan {
    /// Returns the sampling rule: `uniform` for a plan without a rule whose model is not known.
    pub fn sample(&self) -> Sample {
        self.sample.clone().unwrap_or_default()
    }

    /// Returns the temporal strategy: the Dense Connector's for a plan without a strategy whose model is not known.
    pub fn temporal(&self) -> Temporal {
        self.temporal.unwrap_or(Temporal::D2)
    }

    /// Resolves every choice that the plan leaves to the model. A choice that is not set becomes the family's handling
    /// of videos if it has one, else `uniform` frames and `max_pool`; `checkpoint` becomes the family's handling in any
    /// case. A single image is handled as the family does it, unless the plan sets a strategy, a connector or a
    /// preprocessing.
    #[must_use]
    pub fn resolved(self, blueprint: &Blueprint) -> Self {
        let path = blueprint.config.video_path;
        let own = |rule: CheckpointFrameSampling| blueprint.own_sample(rule.frames);
        let sample = match self.sample {
            None => own(CheckpointFrameSampling::default()),
            Some(Sample::Checkpoint(rule)) => own(rule),
            Some(set) => set,
        };
        let temporal = match self.temporal {
            None if !path.is_own() => Temporal::D2,
            // Tokens of STI form no grid that the family's strategy could pool.
            None if blueprint.connector.kind() == ConnectorKind::Sti
                && path.temporal().check(blueprint.frame_tokens()).is_err() =>
            {
                Temporal::Concat
            }
            None | Some(Temporal::Checkpoint) => path.temporal(),
            Some(set) => set,
        };
        let single_image = self.single_image.or_else(|| {
            // Tokens of STI form no grid that tiles could be joined to; so do those of a trained STI.
            let is_left = matches!(self.temporal, None | Some(Temporal::Checkpoint))
                && self.connector == ConnectorPlan::Checkpoint
                && self.preprocess == PreprocessPlan::Checkpoint
                && blueprint.connector.kind() != ConnectorKind::Sti;
            let handling = if is_left { SingleImagePlan::AnyRes } else { SingleImagePlan::Frame };
            blueprint.single_image.is_own().then_some(handling)
        });
        Self { sample: Some(sample), temporal: Some(temporal), single_image, ..self }
    }
}
