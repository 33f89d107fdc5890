//! Rules that the schema cannot express: between fields of a plan, and between a plan and a model's description.
//!
//! They are the last check before weights are read. Rules of a single value are in the schema, and rules of a strategy
//! beside the strategy.

use super::check::{SpecProblem, nearest};
use super::plan::QUESTION;
use super::{Plan, PreprocessPlan, SingleImagePlan};
use crate::connector::ConnectorKind;
use crate::error::Kind;
use crate::temporal::Views;
use crate::text::{Conversation, ShownFrames, Template, Timestamps};
use crate::units::Tokens;
use crate::video::Sample;
use crate::vlm::{Blueprint, Overrides, PromptIds, TextTokens};

/// Findings of the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    /// Violations, with which the plan cannot run.
    pub problems: Vec<SpecProblem>,
    /// Warnings, with which it can.
    pub warnings: Vec<SpecProblem>,
}

impl Plan {
    /// Returns the plan's changes to the checkpoint's own description.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            vision_tower: self.vision_tower.clone(),
            llm: self.llm.clone(),
            connector: self.connector.kind(),
            connector_window: self.connector.window(),
            frame_fit: self.preprocess.frame_fit(),
            rope: self.rope.scaling(),
            unused: self.unused,
        }
    }

    /// Checks the rules between fields.
    pub(super) fn problems(&self) -> Vec<SpecProblem> {
        let mut problems = Vec::new();
        let empty = |name: &Option<String>| name.as_ref().is_some_and(|name| name.trim().is_empty());
        if self.model.trim().is_empty() || empty(&self.vision_tower) {
            let key = if self.model.trim().is_empty() { "model" } else { "vision_tower" };
            problems.push(SpecProblem::new(key, "is empty").hint("a directory, or a hub id such as org/name"));
        }
        let sample = self.sample();
        if let Err(error) = sample.check() {
            let hint = error.hint().map(str::to_owned);
            problems.push(SpecProblem { hint, ..SpecProblem::new(&format!("sample.{}", sample.name()), error.rule()) });
        }
        if let (Some(start), Some(end)) = (self.window.start, self.window.end)
            && start >= end
        {
            problems.push(SpecProblem::new("window.end", format!("{end} is not after the start, {start}")));
        }
        let window = self.connector.window();
        if window.is_multiple_of(2) {
            let rule = format!("a window has a middle frame, so it is odd, not {window}");
            problems.push(SpecProblem::new("connector.dci.window", rule).hint(format!("{}", window + 1)));
        }
        if let Some(name) = self.prompt.template.as_deref().filter(|name| Template::check_name(name).is_err()) {
            let hint = nearest(name, &[Template::NAMES, &[Template::CHECKPOINT]].concat());
            problems.push(SpecProblem::new("prompt.template", format!("unknown template `{name}`")).hint(hint));
        }
        if self.prompt.question.matches(QUESTION).count() != 1 {
            let n = self.prompt.question.matches(QUESTION).count();
            let rule = format!("wants the mark {QUESTION} once, found it {n} times in {:?}", self.prompt.question);
            problems.push(SpecProblem::new("prompt.question", rule).hint("\"Question: {question}\""));
        }
        problems
    }

    /// Checks the rules between the plan and its model.
    pub fn check_model(&self, blueprint: &Blueprint) -> Finding {
        let mut found = Finding::default();
        let frame = blueprint.frame_tokens();
        let temporal = format!("temporal.{}", self.temporal().name());
        if let Some(rule) = blueprint.connector_misfit() {
            let hint = match blueprint.connector.kind() {
                ConnectorKind::None | ConnectorKind::Sti => "connector: checkpoint".to_owned(),
                kind if blueprint.config.fp8.is_some() => format!(
                    "connector: checkpoint; {kind} needs a projector that is trained for it, and weights in FP8 cannot \
                     be trained over"
                ),
                kind => format!(
                    "connector: checkpoint; {kind} needs a projector that is trained for it: vidense train RECIPE.yaml \
                     with model: {{ from: {}, projector: new, connector: {kind} }}; none and sti run without training \
                     where the projector takes one layer",
                    serde_json::Value::from(self.model.as_str())
                ),
            };
            found.problems.push(SpecProblem::new("connector", rule).hint(hint));
        }
        if let Some(rule) = blueprint.rope_conflict.clone() {
            found.problems.push(SpecProblem::new("rope", rule).hint("rope: checkpoint"));
        }
        if let Err(error) = self.temporal().check(frame) {
            let hint = error.hint().map(str::to_owned);
            found.problems.push(SpecProblem { hint, ..SpecProblem::new(&temporal, error.rule()) });
        }
        let is_mixed = self.temporal().frame_rows(frame).is_none();
        if is_mixed && matches!(self.prompt.timestamps, Timestamps::MmSs | Timestamps::Seconds) {
            let rule = format!("times stand before each frame, but {} mixes the frames", self.temporal().name());
            found.problems.push(SpecProblem::new("prompt.timestamps", rule).hint("none, or temporal: concat"));
        }
        let views = self.temporal().views();
        let window = self.connector.window();
        if window > 1 && views != Views::Frames {
            let rule = format!(
                "a window of {window} frames goes over frames, but {} encodes other images",
                self.temporal().name()
            );
            found.problems.push(SpecProblem::new("connector.dci.window", rule).hint("1"));
        }
        found.problems.extend(self.check_single_image(blueprint));
        let dropped = self.temporal().n_dropped(frame);
        if dropped > 0 {
            let rule = format!(
                "the last {dropped} of the {} tokens of each frame are dropped, as the pool is not even",
                frame.count
            );
            found.warnings.push(SpecProblem::new(&temporal, rule));
        }
        if views != Views::Frames && self.sample() == Sample::All {
            let rule =
                format!("{} keeps frames until the video ends, and `all` takes every one", self.temporal().name());
            found.problems.push(SpecProblem::new("sample", rule).hint("uniform"));
        }
        if let Views::Grid { rows, columns } = views
            && self.most_frames().is_some_and(|n| n > rows * columns)
        {
            let rule =
                format!("the grid has {} cells; of more frames, as many are taken at equal distances", rows * columns);
            found.warnings.push(SpecProblem::new(&temporal, rule));
        }
        found
    }

    /// Checks a plan that sets AnyRes for single images. Obstacles in the checkpoint are reported when such an image is
    /// read.
    fn check_single_image(&self, blueprint: &Blueprint) -> Option<SpecProblem> {
        if self.single_image != Some(SingleImagePlan::AnyRes) {
            return None;
        }
        let is_windowed = self.connector.window() > 1;
        let rule = match self.preprocess {
            _ if !blueprint.single_image.is_own() => format!(
                "any_res is for checkpoints that ask for AnyRes (LLaVA-NeXT, LLaVA-OneVision); the model is of the family {}",
                blueprint.config.family.name
            ),
            PreprocessPlan::Pad | PreprocessPlan::Native | PreprocessPlan::Squeeze => {
                "any_res prepares its views itself, and `preprocess` would not be obeyed".to_owned()
            }
            PreprocessPlan::Checkpoint if is_windowed => {
                "any_res makes several views of one image, and a window goes over frames".to_owned()
            }
            PreprocessPlan::Checkpoint if blueprint.frame_tokens().grid.is_none() => {
                "any_res joins patch grids, but the tokens of a view are not the patches alone".to_owned()
            }
            PreprocessPlan::Checkpoint => return None,
        };
        Some(SpecProblem::new("single_image", rule).hint("frame"))
    }

    /// Returns the limit of frames of a video, if it follows from the plan alone.
    pub fn most_frames(&self) -> Option<usize> {
        match self.sample() {
            Sample::Uniform(rule) => Some(rule.frames),
            Sample::Linspace(rule) => Some(rule.frames),
            Sample::IgVlm(rule) => Some(rule.frames),
            Sample::Scene(rule) => Some(rule.frames),
            Sample::Fps(rule) => Some(rule.max),
            Sample::Every(rule) => Some(rule.max),
            Sample::Keyframes(rule) => Some(rule.max),
            Sample::Times(rule) => Some(rule.times.len()),
            Sample::SmolVlm(rule) => Some(rule.max),
            Sample::OneVision(rule) => Some(rule.frames),
            Sample::LlavaVideo(rule) => Some(rule.frames),
            Sample::InternVl(rule) => Some(rule.frames),
            Sample::VideoChat2(rule) => Some(rule.frames),
            Sample::Checkpoint(rule) => Some(rule.uniform().frames),
            Sample::All => None,
        }
    }

    /// Counts the text tokens of a prompt about `n_frames` frames with the shortest question.
    pub fn least_text(&self, blueprint: &Blueprint, n_frames: usize) -> TextTokens {
        let named = self.prompt.template.as_deref().and_then(|name| blueprint.named_template(name).ok());
        let template = named.unwrap_or_else(|| blueprint.template.clone());
        let are_separate = self.temporal().frame_rows(blueprint.frame_tokens()).is_some();
        let conversation = Conversation::new(template, self.prompt.system.clone())
            .with_wording(&self.prompt.question, &self.prompt.answer)
            .with_marks(blueprint.marks.clone(), self.prompt.timestamps)
            .with_frames(ShownFrames { are_separate, ..ShownFrames::unknown(n_frames) });
        let prompt = { conversation }.ask("?").ok();
        let ids = prompt.and_then(|prompt| PromptIds::encode(&prompt, &blueprint.tokenizer).ok());
        ids.map_or(Tokens(0).into(), |ids| TextTokens::of(&ids, n_frames))
    }

    /// Checks the token budget with the shortest question, for a plan whose number of frames does not depend on the
    /// video. The frames of a video and the question are budgeted again when they are known.
    pub fn check_budget(&self, blueprint: &Blueprint) -> Option<SpecProblem> {
        let certain = matches!(
            self.sample(),
            Sample::Uniform(_)
                | Sample::Linspace(_)
                | Sample::IgVlm(_)
                | Sample::OneVision(_)
                | Sample::LlavaVideo(_)
                | Sample::InternVl(_)
                | Sample::VideoChat2(_)
                | Sample::Checkpoint(_)
                | Sample::Times(_)
        );
        let n_frames = self.most_frames().filter(|_| certain)?;
        let error = blueprint.budget(self.temporal(), n_frames, self.least_text(blueprint, n_frames)).room().err()?;
        let is_budget = matches!(error.kind(), Kind::TokenBudget | Kind::NoVisualTokens);
        let hint = error.hint().map(str::to_owned);
        let path = format!("temporal.{}", self.temporal().name());
        is_budget.then(|| SpecProblem { hint, ..SpecProblem::new(&path, error.rule().to_owned()) })
    }
}
