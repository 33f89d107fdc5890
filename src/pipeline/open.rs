//! Opening a plan: the model's description is read and checked against the plan, then its weights are loaded.
//!
//! Called by every command that needs a model. Errors that are known from the description are returned before a weight
//! is read; warnings and progress go to a callback.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Device};

use super::chat_prompt::MediumFacts;
use super::timing::timed;
use super::{Asking, ExpectedMedium, KnownScan, conversation};
use crate::device::{OpenedDevice, load_kernels};
use crate::error::Error;
use crate::spec::{Document, ModelFile, Plan, VisionPlan, fingerprint, hash_files};
use crate::text::Template;
use crate::video::{ReadLimits, Scanned, check_argument, scan};
use crate::vlm::{Blueprint, MediumShape, Placement, PromptIds, TextTokens, VisionPlacement, Vlm};
use crate::weights::{DownloadProgress, Hub};

/// Revision of the frames and prompts that a plan gives. Raised whenever the same plan may give other ones: results and
/// visual tokens of different revisions are not mixed.
pub(crate) const REVISION: u32 = 4;

/// A loaded model with its resolved plan.
pub struct LoadedModel {
    /// Resolved plan.
    pub plan: Plan,
    /// Loaded model.
    pub vlm: Vlm,
    /// Template of the prompts: the plan's, or the checkpoint's.
    pub template: Template,
    /// Fingerprint of the plan over the model's files.
    pub fingerprint: String,
    /// Files of the model with the hashes of their contents.
    pub model_files: Vec<ModelFile>,
    /// Scan of the video that the model was opened for, made to check the token budget.
    pub scanned: Option<KnownScan>,
    /// Time of reading the description and the weights.
    pub load: Duration,
}

/// A video and the first question about it: together they must fit the context.
#[derive(Debug, Clone, Copy)]
pub struct FirstQuestion<'a> {
    /// Path of the video.
    pub video: &'a Path,
    /// Question.
    pub question: &'a str,
    /// Limits of reading its packets.
    pub read: ReadLimits,
}

/// Event while a model is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenEvent<'a> {
    /// A warning for the user.
    Warning(&'a str),
    /// A note about the machine: the chosen device, or an expected wait.
    Note(&'a str),
    /// Begin of reading the weights.
    Loading {
        /// Number of parameters of the model.
        n_parameters: usize,
    },
    /// A tensor was read.
    Read {
        /// Number of parameters of the tensor.
        n_parameters: usize,
    },
    /// All weights were read.
    Loaded,
}

/// Callback for [`OpenEvent`], called from several threads.
pub type OnOpen = Arc<dyn Fn(OpenEvent<'_>) + Send + Sync>;

/// The plan's document, the first question, and a listener.
pub struct Opening<'a> {
    /// Text of the plan, from which problems get their line numbers.
    pub document: &'a Document,
    /// Video that the model is opened for. Without one, the plan's own number of frames and the shortest question must
    /// fit the context.
    pub first: Option<FirstQuestion<'a>>,
    /// Callback for warnings and progress.
    pub on_open: OnOpen,
}

/// Opens the model of a plan.
///
/// # Errors
/// Before any weight is read, for whatever is known to be wrong by then.
pub fn open(plan: Plan) -> Result<LoadedModel, Error> {
    open_with(plan, &Opening { document: &Document::empty(), first: None, on_open: Arc::new(|_| {}) })
}

/// Opens the model of a plan, with its document, its first question and a callback.
///
/// # Errors
/// The errors of [`open`]; the document gives the line numbers of problems.
pub fn open_with(plan: Plan, opening: &Opening<'_>) -> Result<LoadedModel, Error> {
    if let Some(first) = &opening.first {
        // A missing video is reported before a model is downloaded.
        check_argument(first.video)?;
    }
    let mut load = Duration::ZERO;
    let devices = Devices::open(&plan)?;
    let hub = Hub::from_env(DownloadProgress::Shown);
    let blueprint = timed(&mut load, || Blueprint::read(&plan.model, &plan.overrides(), &hub))?;
    let ResolvedPlan { plan, template } = resolve(plan, &blueprint, opening)?;
    let first = opening.first.as_ref();
    let scanned = first.map(|first| scan_within_budget(&plan, &blueprint, &template, first)).transpose()?;
    let model_files = hash_files(&blueprint.files())?;
    let fingerprint = fingerprint(&plan, &model_files)?;
    devices.prepare(&opening.on_open)?;
    let placement = devices.placement(&plan, blueprint.stored_dtype());
    let vlm = timed(&mut load, || read_weights(blueprint, &placement, &opening.on_open))?;
    Ok(LoadedModel { plan, vlm, template, fingerprint, model_files, scanned: scanned.map(KnownScan::new), load })
}

/// Plan that was resolved and checked against the description of its model, of which no weight has been read.
#[derive(Debug, Clone)]
pub struct CheckedPlan {
    /// Resolved plan.
    pub plan: Plan,
    /// Fingerprint of the plan over the model's files.
    pub fingerprint: String,
    template: Template,
    model_files: Vec<ModelFile>,
}

/// Resolves a plan and checks it as [`open_with`] does before it reads weights.
///
/// # Errors
/// The errors of [`open_with`] that are known without weights and devices.
pub fn check_plan(plan: Plan, opening: &Opening<'_>) -> Result<CheckedPlan, Error> {
    let hub = Hub::from_env(DownloadProgress::Shown);
    let blueprint = Blueprint::read(&plan.model, &plan.overrides(), &hub)?;
    let ResolvedPlan { plan, template } = resolve(plan, &blueprint, opening)?;
    let model_files = hash_files(&blueprint.files())?;
    let fingerprint = fingerprint(&plan, &model_files)?;
    Ok(CheckedPlan { plan, fingerprint, template, model_files })
}

/// Resolved plan with the template of its prompts.
struct ResolvedPlan {
    plan: Plan,
    template: Template,
}

fn resolve(plan: Plan, blueprint: &Blueprint, opening: &Opening<'_>) -> Result<ResolvedPlan, Error> {
    let plan = plan.resolved(blueprint);
    let template = template(&plan, blueprint)?;
    check(&plan, blueprint, opening)?;
    Ok(ResolvedPlan { plan, template })
}

impl LoadedModel {
    /// Returns the same weights under another plan.
    ///
    /// # Errors
    /// When the plan needs other weights: [`Plan::of_weights`] differs, or the files do.
    pub fn under(self, checked: CheckedPlan) -> Result<Self, Error> {
        let CheckedPlan { plan, fingerprint, template, model_files } = checked;
        if plan.of_weights() != self.plan.of_weights() || model_files != self.model_files {
            return Err(Error::invalid("the plan needs other weights than those that are loaded"));
        }
        Ok(Self { plan, template, fingerprint, scanned: None, ..self })
    }

    /// Returns the model with its template and plan.
    pub fn asking(&self) -> Asking<'_> {
        Asking { vlm: &self.vlm, template: &self.template, plan: &self.plan }
    }

    /// Returns the dtype and device of the computation, such as `f32 on cpu` or `bf16 on cuda, vision f32 on cpu`.
    /// Answers of different arithmetic are not mixed.
    pub fn arithmetic(&self) -> String {
        let name = |dtype: DType, device: &Device| format!("{} on {}", dtype.as_str(), device_kind(device));
        let language = name(self.vlm.dtype(), self.vlm.device());
        let vision = name(self.vlm.vision_dtype(), self.vlm.vision_device());
        if vision == language { language } else { format!("{language}, vision {vision}") }
    }

    /// Returns the kind of the language model's device: cpu, cuda, metal.
    pub fn device_name(&self) -> &'static str {
        device_kind(self.vlm.device())
    }
}

fn device_kind(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}

/// Opened devices of a plan.
struct Devices {
    language: OpenedDevice,
    /// Device of the vision encoder, if the plan has options for it.
    vision: Option<OpenedDevice>,
}

impl Devices {
    fn open(plan: &Plan) -> Result<Self, Error> {
        let language = plan.device.open_with_note()?;
        let vision = match plan.vision {
            vision if vision.is_default() => None,
            VisionPlan { device: None, .. } => Some(OpenedDevice { note: None, ..language.clone() }),
            VisionPlan { device: Some(device), .. } => Some(device.open_with_note()?),
        };
        Ok(Self { language, vision })
    }

    /// Reports the chosen devices, and loads their kernels.
    fn prepare(&self, on_open: &OnOpen) -> Result<(), Error> {
        for OpenedDevice { device, note } in [Some(&self.language), self.vision.as_ref()].into_iter().flatten() {
            if let Some(note) = note {
                on_open(OpenEvent::Note(note));
            }
            let loaded = load_kernels(device, &|note| on_open(OpenEvent::Note(note)));
            loaded.map_err(Error::compute("loading the device's kernels"))?;
        }
        Ok(())
    }

    fn placement(self, plan: &Plan, stored: DType) -> Placement {
        let dtype = plan.dtype.resolve(&self.language.device, stored);
        let vision = self.vision.map(|OpenedDevice { device, .. }| {
            let dtype = plan.vision.dtype.unwrap_or(plan.dtype).resolve(&device, stored);
            VisionPlacement { device, dtype }
        });
        Placement {
            device: self.language.device,
            dtype,
            vision,
            quantization: plan.quantization.format(),
            kv_dtype: plan.kv_dtype,
        }
    }
}

/// Returns the plan's template, or the checkpoint's.
fn template(plan: &Plan, blueprint: &Blueprint) -> Result<Template, Error> {
    let template = match &plan.prompt.template {
        Some(name) => blueprint.named_template(name)?,
        None => blueprint.template.clone(),
    };
    if plan.prompt.system.is_some() && !template.has_system() {
        let rule = format!("the template `{}` has no system text", template.name());
        return Err(Error::invalid(format!("prompt.system (--system) does not apply: {rule}")));
    }
    Ok(template)
}

/// Checks a plan against its model's description; without a first video also its token budget.
fn check(plan: &Plan, blueprint: &Blueprint, opening: &Opening<'_>) -> Result<(), Error> {
    let finding = plan.check_model(blueprint);
    if !finding.problems.is_empty() {
        return Err(opening.document.error(&finding.problems));
    }
    finding
        .warnings
        .iter()
        .for_each(|warning| (opening.on_open)(OpenEvent::Warning(&opening.document.locate(warning).to_string())));
    let over_budget = if opening.first.is_none() { plan.check_budget(blueprint) } else { None };
    over_budget.map_or(Ok(()), |problem| Err(opening.document.error(&[problem])))
}

/// Scans a video, and checks that its prompt fits the context with the expected number of frames.
fn scan_within_budget(
    plan: &Plan,
    blueprint: &Blueprint,
    template: &Template,
    first: &FirstQuestion<'_>,
) -> Result<Scanned, Error> {
    let scanned = scan(first.video, &plan.frames(), &first.read)?;
    let expected = ExpectedMedium { n_frames: scanned.n_sampled()?, image: scanned.single_image() };
    let MediumFacts { shape, shown } = expected.facts(plan, &blueprint.single_image, blueprint.frame_tokens())?;
    let MediumShape { temporal, n_frames } = shape;
    let prompt = conversation(template, &plan.prompt, &blueprint.marks).with_frames(shown).ask(first.question);
    let ids = PromptIds::encode(&prompt?, &blueprint.tokenizer)?;
    blueprint.budget(temporal, n_frames, TextTokens::of(&ids, n_frames)).room()?;
    Ok(scanned)
}

fn read_weights(blueprint: Blueprint, placement: &Placement, on_open: &OnOpen) -> Result<Vlm, Error> {
    on_open(OpenEvent::Loading { n_parameters: blueprint.n_parameters() });
    let on_read = on_open.clone();
    let vlm = Vlm::load(blueprint, placement, &(Arc::new(move |n| on_read(OpenEvent::Read { n_parameters: n })) as _))?;
    on_open(OpenEvent::Loaded);
    vlm.warnings().iter().for_each(|text| on_open(OpenEvent::Warning(text)));
    Ok(vlm)
}
