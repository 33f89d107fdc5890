//! Rules over the keys of a recipe. All broken ones are reported at once.

use super::{CONNECTOR_KEY, ProjectorStart, Recipe, Stage, StageKind};
use crate::train::parameters::Part;

impl Recipe {
    /// Returns every broken rule, with its key first.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.model.connector.is_some() && self.model.config.contains_key(CONNECTOR_KEY) {
            problems.push(format!("model: connector and config.{CONNECTOR_KEY} are the same key; hint: connector"));
        }
        if self.stages.is_empty() {
            problems.push("stages: there are none".to_owned());
        }
        if self.checkpoint_every == 0 {
            problems.push("checkpoint_every: 0 steps; hint: 100".to_owned());
        }
        if self.model.from.is_none() && self.model.projector == Some(ProjectorStart::From) {
            problems.push("model.projector: from, but model.from names nothing".to_owned());
        }
        if self.model.from.is_none() == self.model.tokenizer_vocabulary.is_none() {
            problems
                .push("model: a tokenizer comes with `from`, or from `tokenizer_vocabulary`: exactly one".to_owned());
        }
        let tower = &self.model.vision_tower;
        if self.model.from.is_none() && tower.from.is_none() == tower.config.is_empty() {
            problems.push("model.vision_tower: either `from` or `config` must say what it is".to_owned());
        }
        if self.model.from.is_none() && self.model.config.is_empty() {
            problems.push("model: neither `from` nor `config` says what it is to be".to_owned());
        }
        for stage in &self.stages {
            problems.extend(stage.problems().into_iter().map(|problem| format!("stage {}: {problem}", stage.name)));
        }
        problems
    }
}

impl Stage {
    /// Returns every broken rule of the stage.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let micro = self.micro_batch.unwrap_or(self.batch);
        if self.steps == 0 || self.batch == 0 || micro == 0 {
            problems.push(format!(
                "steps {}, batch {} and micro_batch {micro} must all be 1 or more",
                self.steps, self.batch
            ));
        }
        if micro > self.batch {
            problems.push(format!("micro_batch {micro} is more than batch {}", self.batch));
        }
        let can = self.stage.trainable();
        if can.iter().all(|part| self.frozen.contains(part)) {
            problems.push("frozen: everything that the stage trains is frozen".to_owned());
        }
        for part in [Part::VisionTower, Part::Projector, Part::LanguageModel] {
            if self.stage != StageKind::Tower && !can.contains(&part) && !self.frozen.contains(&part) {
                problems.push(format!("frozen: {part} must be named, this stage cannot train it"));
            }
        }
        if (self.stage == StageKind::Tower) == self.probes.is_empty() {
            problems.push("probes: a tower stage needs some, the others take none".to_owned());
        }
        if self.data.n_named() != 1 {
            problems.push(format!("data: names {} kinds; hint: one of shapes_world, llava", self.data.n_named()));
        }
        if self.stage != StageKind::Tower && self.data.shapes_world.as_ref().is_some_and(|w| w.questions.is_empty()) {
            problems.push("data: shapes_world.questions: there are none".to_owned());
        }
        if self.stage == StageKind::Tower && self.data.shapes_world.is_none() {
            problems.push("data: a tower is pretrained on shapes_world alone, which knows every patch".to_owned());
        }
        if let Some(world) = &self.data.shapes_world
            && [world.loose, world.compressed].iter().any(|share| !(0.0..=1.0).contains(share))
        {
            problems.push("data: shapes_world.loose and shapes_world.compressed are shares from 0 to 1".to_owned());
        }
        let shares = [self.simple_share, self.stretch.gap, self.stretch.pooled, self.stretch.repeated];
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            problems.push("simple_share and the probabilities of stretch are from 0 to 1".to_owned());
        }
        problems
    }
}
