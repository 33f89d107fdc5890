//! Session of a command that asks: opens a model and encodes a video, with bars and warnings on standard error.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use vidense::error::Error;
use vidense::pipeline::{
    Answer, EncodedVideo, FirstQuestion, FrameStamp, Limits, LoadedModel, Opening, Stages, Timings, VideoChat,
    VideoOptions, VideoRef, open_with,
};
use vidense::spec::{Document, Plan};
use vidense::units::Tokens;
use vidense::video::{Damage, ReadLimits, ReadReport};

use super::allocator::while_loading;
use super::download::VideoInput;
use super::{output, progress};

/// Loaded model, with the limits of the video that it was opened for.
pub struct Session {
    pub model: LoadedModel,
    /// Limits of that video.
    limits: Limits,
    started: Instant,
}

/// Video and frames that an answer is about.
pub struct AnswerContext<'a> {
    pub path: &'a str,
    pub frames: &'a [FrameStamp],
    pub timings: Timings,
}

/// Object of `--json`, one a line, with stable names.
#[derive(Serialize)]
pub struct AnswerObject<'a> {
    video: &'a str,
    question: &'a str,
    answer: &'a str,
    token_ids: &'a [u32],
    finish_reason: vidense::engine::FinishReason,
    frames: &'a [FrameStamp],
    prompt_tokens: Tokens,
    visual_tokens: Tokens,
    model: &'a str,
    plan: &'a str,
    arithmetic: String,
    timings_ms: Timings,
}

impl Session {
    /// Opens the model of a plan for `question` about `video`, which must fit into the context.
    ///
    /// # Errors
    /// Every error that is known before weights are read, then those of loading.
    pub fn open_for(plan: Plan, limits: &Limits, video: &Path, question: &str) -> anyhow::Result<Self> {
        let read = ReadLimits { stall: limits.stall, links: limits.links, ..ReadLimits::default() };
        let session = Self::open_first(plan, &Document::empty(), Some(FirstQuestion { video, question, read }))?;
        Ok(Self { limits: *limits, ..session })
    }

    /// Opens the model of a plan that was read from `document`.
    ///
    /// # Errors
    /// As [`Self::open_for`].
    pub fn open(plan: Plan, document: &Document) -> anyhow::Result<Self> {
        Self::open_first(plan, document, None)
    }

    fn open_first(plan: Plan, document: &Document, first: Option<FirstQuestion<'_>>) -> anyhow::Result<Self> {
        let started = Instant::now();
        let (bar, on_open) = progress::opening();
        let model = while_loading(|| open_with(plan, &Opening { document, first, on_open }));
        bar.clear();
        let model = model?;
        Ok(Self { model, limits: Limits::default(), started })
    }

    /// Opens the model of a plan for `question` about a video of a path or a URL.
    ///
    /// # Errors
    /// As [`Self::open_for`].
    pub fn open_about(plan: Plan, limits: &Limits, video: &VideoInput, question: &str) -> anyhow::Result<Self> {
        let mut limits = *limits;
        limits.links = video.links();
        video.in_errors(Self::open_for(plan, &limits, video.path(), question))
    }

    /// Encodes the video, and prints warnings of its damage.
    ///
    /// # Errors
    /// When no frame can be encoded.
    pub fn encode(&self, video: &VideoInput) -> anyhow::Result<EncodedVideo> {
        let bar = progress::decoding();
        let on_progress = |_: &VideoRef, event| progress::listen(&bar, event);
        let stages = Stages::new(&self.model.vlm, &self.model.plan, &on_progress).with(self.video_options());
        let encoded = stages.encode_one(video.path());
        bar.finish_and_clear();
        let encoded = video.in_errors(encoded.map_err(Into::into))?;
        warn_of_reading(&video.shown(), &encoded.report);
        Ok(encoded)
    }

    /// Returns the options of the video that the session was opened for.
    pub fn video_options(&self) -> VideoOptions<'_> {
        VideoOptions { limits: self.limits, scanned: self.model.scanned.as_ref(), ..VideoOptions::default() }
    }

    /// Starts a conversation about an encoded video.
    ///
    /// # Errors
    /// When the model has no key-value memory.
    pub fn chat<'a>(&'a self, video: &'a EncodedVideo) -> anyhow::Result<VideoChat<'a>> {
        Ok(VideoChat::new(self.model.asking(), video, &self.limits)?)
    }

    /// Makes the object that `--json` prints.
    pub fn object<'a>(&'a self, context: AnswerContext<'a>, question: &'a str, answer: &'a Answer) -> AnswerObject<'a> {
        let timings = Timings {
            load: self.model.load,
            prefill: answer.prefill,
            generate: answer.generate,
            total: self.started.elapsed(),
            ..context.timings
        };
        AnswerObject {
            video: context.path,
            question,
            answer: &answer.text,
            token_ids: &answer.token_ids,
            finish_reason: answer.finish_reason,
            frames: context.frames,
            prompt_tokens: answer.prompt_tokens,
            visual_tokens: answer.visual_tokens,
            model: self.model.vlm.name(),
            plan: &self.model.fingerprint,
            arithmetic: self.model.arithmetic(),
            timings_ms: timings,
        }
    }
}

/// Prints the warnings of reading a video, and the damage of one that has frames nevertheless.
pub fn warn_of_reading(video: &Path, report: &ReadReport) {
    report.warnings.iter().for_each(|warning| output::warning(&format!("{}: {warning}", video.display())));
    if let Some(first) = &report.damage.first {
        let counts = counts_of_damage(&report.damage, report.n_frames);
        output::warning(&format!("{}: damaged: {counts} (first: {first})", video.display()));
    }
}

/// Formats the counts of missing files, lost packets and concealed errors other than 0, and that of the decoded frames.
fn counts_of_damage(damage: &Damage, n_frames: usize) -> String {
    let counted = [
        (damage.n_missing, "file(s) of the playlist missing"),
        (damage.n_lost, "packet(s) lost"),
        (damage.n_concealed, "frame(s) with hidden errors"),
    ];
    let mut parts: Vec<String> =
        counted.iter().filter(|(n, _)| *n > 0).map(|(n, noun)| format!("{n} {noun}")).collect();
    let declared = damage.n_declared.filter(|&declared| declared > n_frames && !damage.is_none());
    let of = declared.map_or(String::new(), |declared| format!(" of the {declared} that it declares"));
    parts.push(format!("{n_frames} frames{of} decode"));
    parts.join(", ")
}

/// Prints a warning if an answer was cut at the end of the context.
pub fn warn_of_full_context(answer: &Answer) {
    if answer.context_full {
        let error = Error::invalid("the model's context is full").about("the answer was cut");
        output::warning(&error.with_hint("fewer --frames, or a denser --temporal").to_string());
    }
}
