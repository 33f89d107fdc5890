//! Rules over the keys of a recipe. All broken ones are reported at once.

use super::{CONNECTOR_KEY, ProjectorStart, Recipe, Stage, StageKind};
use crate::error::Error;
use crate::train::parameters::Part;

impl Recipe {
    /// Returns every broken rule, with its key first.
    pub(super) fn problems(&self) -> Vec<Error> {
        let mut problems = Vec::new();
        if self.model.connector.is_some() && self.model.config.contains_key(CONNECTOR_KEY) {
            let rule = format!("connector and config.{CONNECTOR_KEY} are the same key");
            problems.push(Error::invalid(rule).with_hint("connector").about("model"));
        }
        if self.stages.is_empty() {
            problems.push(Error::invalid("there are none").about("stages"));
        }
        if self.checkpoint_every == 0 {
            problems.push(Error::invalid("0 steps").with_hint("100").about("checkpoint_every"));
        }
        if self.model.from.is_none() && self.model.projector == Some(ProjectorStart::From) {
            problems.push(Error::invalid("from, but model.from names nothing").about("model.projector"));
        }
        if self.model.from.is_none() == self.model.tokenizer_vocabulary.is_none() {
            let rule = "a tokenizer comes with `from`, or from `tokenizer_vocabulary`: exactly one";
            problems.push(Error::invalid(rule).about("model"));
        }
        let tower = &self.model.vision_tower;
        if self.model.from.is_none() && tower.from.is_none() == tower.config.is_empty() {
            let rule = "either `from` or `config` must say what it is";
            problems.push(Error::invalid(rule).about("model.vision_tower"));
        }
        if self.model.from.is_none() && self.model.config.is_empty() {
            problems.push(Error::invalid("neither `from` nor `config` says what it is to be").about("model"));
        }
        for stage in &self.stages {
            problems.extend(stage.problems().into_iter().map(|problem| problem.about(format!("stage {}", stage.name))));
        }
        problems
    }
}

impl Stage {
    /// Returns every broken rule of the stage.
    fn problems(&self) -> Vec<Error> {
        let mut problems = Vec::new();
        let micro = self.micro_batch.unwrap_or(self.batch);
        if self.steps == 0 || self.batch == 0 || micro == 0 {
            problems.push(Error::invalid(format!(
                "steps {}, batch {} and micro_batch {micro} must all be 1 or more",
                self.steps, self.batch
            )));
        }
        if micro > self.batch {
            problems.push(Error::invalid(format!("micro_batch {micro} is more than batch {}", self.batch)));
        }
        let can = self.stage.trainable();
        if can.iter().all(|part| self.frozen.contains(part)) {
            problems.push(Error::invalid("everything that the stage trains is frozen").about("frozen"));
        }
        for part in [Part::VisionTower, Part::Projector, Part::LanguageModel] {
            if self.stage != StageKind::Tower && !can.contains(&part) && !self.frozen.contains(&part) {
                let rule = format!("{part} must be named, this stage cannot train it");
                problems.push(Error::invalid(rule).about("frozen"));
            }
        }
        if (self.stage == StageKind::Tower) == self.probes.is_empty() {
            problems.push(Error::invalid("a tower stage needs some, the others take none").about("probes"));
        }
        if self.data.n_named() != 1 {
            let error = Error::invalid(format!("names {} kinds", self.data.n_named()));
            problems.push(error.with_hint("one of shapes_world, llava").about("data"));
        }
        if self.stage != StageKind::Tower && self.data.shapes_world.as_ref().is_some_and(|w| w.questions.is_empty()) {
            problems.push(Error::invalid("there are none").about("shapes_world.questions").about("data"));
        }
        if self.stage == StageKind::Tower && self.data.shapes_world.is_none() {
            let rule = "a tower is pretrained on shapes_world alone, which knows every patch";
            problems.push(Error::invalid(rule).about("data"));
        }
        if let Some(world) = &self.data.shapes_world
            && [world.loose, world.compressed].iter().any(|share| !(0.0..=1.0).contains(share))
        {
            let rule = "shapes_world.loose and shapes_world.compressed are shares from 0 to 1";
            problems.push(Error::invalid(rule).about("data"));
        }
        let shares = [self.simple_share, self.stretch.gap, self.stretch.pooled, self.stretch.repeated];
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            problems.push(Error::invalid("simple_share and the probabilities of stretch are from 0 to 1"));
        }
        problems
    }
}
