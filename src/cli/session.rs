//! What `ask` and `chat` share: a plan becomes a loaded model and an encoded video.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use vidense::pipeline::timing::timed;
use vidense::pipeline::{
    Answer, Apart, Asking, Chat, EncodedVideo, FrameStamp, KnownScan, Limits, Timings, conversation, encode_video_apart,
};
use vidense::spec::{Document, ModelFile, Plan, fingerprint, hash_files};
use vidense::text::Template;
use vidense::units::Tokens;
use vidense::video::{Damage, ReadLimits, ReadReport, check_argument, scan};
use vidense::vlm::{Blueprint, Placement, PromptIds, Vlm};
use vidense::weights::Hub;

use super::{output, progress};

/// A model in memory, and how it is asked.
pub struct Session {
    pub plan: Plan,
    pub vlm: Vlm,
    pub template: Template,
    /// Of the plan and the model's files.
    pub fingerprint: String,
    pub model_files: Vec<ModelFile>,
    /// Of a single video that is encoded.
    limits: Limits,
    /// Of the video that the session was opened for.
    scanned: Option<KnownScan>,
    started: Instant,
    load: Duration,
}

/// What was looked at for an answer.
pub struct Seen<'a> {
    pub path: &'a str,
    pub frames: &'a [FrameStamp],
    pub timings: Timings,
}

/// `--json`: one object a line, stable names.
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
    timings_ms: Timings,
}

impl Session {
    /// As [`Self::open`], for `question` about `video`, which must fit the context.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(plan: Plan, limits: &Limits, (video, question): (&Path, &str)) -> anyhow::Result<Self> {
        // A model may have to be fetched, which is for nothing without the video.
        check_argument(video)?;
        let mut known = None;
        let session = Self::open(plan, &Document::empty(), |plan, blueprint, template| {
            let read = ReadLimits { stall: limits.stall, ..ReadLimits::default() };
            let scanned = scan(video, &plan.frames(), &read)?;
            check_budget(plan, blueprint, template, (question, scanned.n_sampled()?))?;
            known = Some(KnownScan::new(scanned));
            Ok(())
        })?;
        Ok(Self { limits: *limits, scanned: known, ..session })
    }

    /// Reads the model's description, checks that the plan goes with it, and loads it. `document` is what the plan was
    /// written in, and `check` what else must hold.
    ///
    /// # Errors
    /// Before any weight is read, for whatever is known to be wrong by then.
    pub fn open(
        plan: Plan,
        document: &Document,
        check: impl FnOnce(&Plan, &Blueprint, &Template) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        let mut load = Duration::ZERO;
        let device = plan.device.open()?;
        let hub = Hub::from_env(true);
        let blueprint = timed(&mut load, || Blueprint::read(&plan.model, &plan.overrides(), &hub))?;
        let template = template(&plan, &blueprint)?;
        let finding = plan.check_model(&blueprint);
        if !finding.problems.is_empty() {
            return Err(document.error(&finding.problems).into());
        }
        finding.warnings.iter().for_each(|warning| output::warning(&document.line(warning)));
        check(&plan, &blueprint, &template)?;
        let model_files = hash_files(&blueprint.files())?;
        let fingerprint = fingerprint(&plan, &model_files)?;

        let dtype = plan.dtype.resolve(&device, blueprint.stored_dtype());
        let (bar, on_load) = progress::loading(blueprint.n_parameters());
        let placement = Placement { device, dtype, quantization: plan.quantization.format() };
        let vlm = timed(&mut load, || Vlm::load(blueprint, &placement, &on_load));
        bar.finish_and_clear();
        let vlm = vlm?;
        vlm.warnings().iter().for_each(|text| output::warning(text));
        let limits = Limits::default();
        Ok(Self { plan, vlm, template, model_files, fingerprint, limits, scanned: None, started, load })
    }

    /// Encodes the video, and warns of what could not be read of it.
    ///
    /// # Errors
    /// When not one frame can be.
    pub fn encode(&self, video: &Path) -> anyhow::Result<EncodedVideo> {
        let bar = progress::decoding();
        let encoded = encode_video_apart(&self.vlm, video, (&self.plan, self.apart()), &|event| {
            progress::listen(&bar, event);
        });
        bar.finish_and_clear();
        let encoded = encoded?;
        warn_of_reading(video, &encoded.report);
        Ok(encoded)
    }

    /// How the video that the session was opened for is read.
    pub fn apart(&self) -> Apart<'_> {
        Apart { limits: self.limits, scanned: self.scanned.as_ref(), ..Apart::default() }
    }

    /// A conversation about an encoded video.
    ///
    /// # Errors
    /// When the model has no key-value memory.
    pub fn chat<'a>(&'a self, video: &'a EncodedVideo) -> anyhow::Result<Chat<'a>> {
        Ok(Chat::new(self.asking(), video, &self.limits)?)
    }

    /// The model, and how it is asked.
    pub fn asking(&self) -> Asking<'_> {
        Asking { vlm: &self.vlm, template: &self.template, plan: &self.plan }
    }

    /// The object that `--json` prints.
    pub fn object<'a>(&'a self, seen: Seen<'a>, question: &'a str, answer: &'a Answer) -> AnswerObject<'a> {
        let timings = Timings {
            load: self.load,
            prefill: answer.prefill,
            generate: answer.generate,
            total: self.started.elapsed(),
            ..seen.timings
        };
        AnswerObject {
            video: seen.path,
            question,
            answer: &answer.text,
            token_ids: &answer.token_ids,
            finish_reason: answer.finish_reason,
            frames: seen.frames,
            prompt_tokens: answer.prompt_tokens,
            visual_tokens: answer.visual_tokens,
            model: self.vlm.name(),
            plan: &self.fingerprint,
            timings_ms: timings,
        }
    }
}

/// The template that was asked for, or the checkpoint's.
fn template(plan: &Plan, blueprint: &Blueprint) -> anyhow::Result<Template> {
    let template = match &plan.prompt.template {
        Some(name) => blueprint.named_template(name)?,
        None => blueprint.template.clone(),
    };
    if plan.prompt.system.is_some() && !template.has_system() {
        anyhow::bail!("prompt.system (--system) does not apply: the template `{}` has no system text", template.name());
    }
    Ok(template)
}

/// Whether the prompt fits the context with as many frames as the video is expected to give.
fn check_budget(
    plan: &Plan,
    blueprint: &Blueprint,
    template: &Template,
    (question, n_frames): (&str, usize),
) -> anyhow::Result<()> {
    let mut conversation = conversation(template, &plan.prompt, blueprint.config.image_marks);
    let text = PromptIds::encode(&conversation.ask(question)?, &blueprint.tokenizer)?.n_text();
    // A window without a frame is told by the reader, which knows the times.
    blueprint.budget(plan.temporal, n_frames.max(1), Tokens(text)).room()?;
    Ok(())
}

/// Prints the warnings of a reading, and the damage of a video that gave frames all the same.
pub fn warn_of_reading(video: &Path, report: &ReadReport) {
    report.warnings.iter().for_each(|warning| output::warning(&format!("{}: {warning}", video.display())));
    if let Some(first) = &report.damage.first {
        let counts = counts_of_damage(&report.damage, report.n_frames);
        output::warning(&format!("{}: damaged: {counts} (first: {first})", video.display()));
    }
}

/// Counts of what is missing, lost or hidden, as far as there is any, and of the frames that decode.
fn counts_of_damage(damage: &Damage, n_frames: usize) -> String {
    let counted = [
        (damage.n_missing, "file(s) of the playlist missing"),
        (damage.n_lost, "packet(s) lost"),
        (damage.n_concealed, "frame(s) with hidden errors"),
    ];
    let mut parts: Vec<String> =
        counted.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let declared = damage.n_declared.filter(|&declared| declared > n_frames && !damage.is_none());
    let of = declared.map_or(String::new(), |declared| format!(" of the {declared} that it declares"));
    parts.push(format!("{n_frames} frames{of} decode"));
    parts.join(", ")
}

/// Says that an answer was cut by the context, if it was.
pub fn warn_of_full_context(answer: &Answer) {
    if answer.context_full {
        output::warning(
            "the answer was cut: the model's context is full; hint: fewer --frames, or a denser --temporal",
        );
    }
}
