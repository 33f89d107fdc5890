//! A model to be trained: its descriptions, whether or not it has weights yet. Called by [`crate::train`].

use std::path::Path;
use std::sync::Arc;

use super::blueprint::make_connector;
use super::config::{JsonFile, Spelling, VlmConfig, tower_config};
use super::default_template::{DefaultTemplate, frame_marks, own_template, reading};
use super::error::mismatch;
use super::preprocess::FrameSettings;
use super::unused::Unused;
use crate::connector::Connector;
use crate::error::Error;
use crate::image::PreprocessConfig;
use crate::text::{Conversation, FrameMarks, ShownFrames, Template, Tokenizer};
use crate::vision::TowerConfig;

/// Descriptions of a model to be trained.
pub(crate) struct Design {
    /// Description of the model in `config.json`.
    pub config: VlmConfig,
    /// Geometry of the tower, with the layers that run.
    pub tower: TowerConfig,
    /// Connector.
    pub connector: Arc<dyn Connector>,
    /// Preparation of frames.
    pub preprocess: PreprocessConfig,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
    /// Default conversation template.
    pub template: Template,
    /// Marks around visual tokens.
    pub marks: FrameMarks,
    /// Text after an answer that the template does not write itself: the end of a turn of a chat template, with the
    /// token that stops the answer.
    pub closing: String,
}

impl Design {
    /// Reads the descriptions in `dir`, with those of the tower in `tower_dir`; without one the tower is described by
    /// the model's own `config.json`.
    ///
    /// # Errors
    /// [`Error`] when a file is missing or broken, or parts do not go together.
    pub(crate) fn read(dir: &Path, tower_dir: Option<&Path>) -> Result<Self, Error> {
        let config = VlmConfig::read(dir)?;
        let wrong = |rule: &'static str| mismatch(&dir.join("config.json"), rule);
        if config.fp8.is_some() {
            return Err(wrong("weights in FP8 cannot be trained").with_hint("the same checkpoint in bf16"));
        }
        let tokenizer = Tokenizer::open(dir, reading(&config))?;
        let mut tower = match (tower_dir, &config.tower) {
            (Some(tower_dir), _) => tower_config(&JsonFile::read(&tower_dir.join("config.json"))?)?,
            (None, Some(tower)) => tower.clone(),
            (None, None) => return Err(wrong("no vision tower is described")),
        };
        tower.n_layers = config.n_layers_run(&tower);
        tower.output = config.tower_output;
        let connector = make_connector(dir, &config, &tower)?;
        let FrameSettings { preprocess, notes, .. } = FrameSettings::read(&config, &tower, &[tower_dir, Some(dir)])?;
        Unused::Refuse.enforce(dir, "keys", &[config.notes.refused.clone(), notes.refused].concat())?;
        // In LLaVA's spelling answers are learned in a built-in template, which knows its closing text.
        let own = match config.spelling {
            Spelling::Llava => config.prompt_format.as_deref().map(Template::custom).transpose()?,
            Spelling::HuggingFace => own_template(dir, &config, &tokenizer)?,
        };
        let template = DefaultTemplate::of(&config).choose(&tokenizer, own.as_ref());
        let marks = frame_marks(&config, &tokenizer);
        let closing = closing(dir, &config, &tokenizer, &template)?;
        Ok(Self { config, tower, connector, preprocess, tokenizer, template, marks, closing })
    }

    /// Returns the width of the connector's tokens, which is the projector's input width.
    pub(crate) fn connector_width(&self) -> usize {
        self.connector.width(self.config.feature_selection(self.tower.family).width(&self.tower))
    }
}

/// Returns the text between an answer and the next turn of a chat template, up to the stop token; the stop token alone
/// where the template writes none. Empty for a built-in template, which closes answers itself.
///
/// # Errors
/// When the checkpoint names no stop token, or the template cannot be rendered.
fn closing(dir: &Path, config: &VlmConfig, tokenizer: &Tokenizer, template: &Template) -> Result<String, Error> {
    const ANSWER: &str = "Some answer.";
    const NEXT: &str = "A question after it?";
    if !matches!(template, Template::Checkpoint(_)) {
        return Ok(String::new());
    }
    let stops: Vec<String> = config.generation.rules.ends.iter().filter_map(|&id| tokenizer.piece(id)).collect();
    let Some(stop) = stops.first() else {
        let rule = "no token ends an answer (eos_token_id), so no answer can be learned".to_owned();
        return Err(mismatch(dir, rule));
    };
    let mut conversation = Conversation::new(template.clone(), None).with_frames(ShownFrames::unknown(1));
    conversation.ask("A question?")?;
    conversation.answer(ANSWER);
    let text = conversation.ask(NEXT)?.text();
    let rest = text.rsplit_once(ANSWER).map_or("", |(_, rest)| rest);
    let ends = stops.iter().filter_map(|stop| rest.find(stop.as_str()).map(|at| at + stop.len()));
    let closed = ends.min().map(|end| &rest[..end]).filter(|closed| !closed.contains(NEXT));
    Ok(closed.unwrap_or(stop).to_owned())
}
