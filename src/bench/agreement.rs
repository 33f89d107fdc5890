//! Agreement of a device, a precision or a quantization with the same weights in f32 on the CPU, over a greedy answer.
//!
//! After the first different token, two answers differ by their own history. Next tokens are therefore also compared
//! after the same prefix of the reference's answer (teacher forcing), as are their distributions.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Result, Tensor};
use serde::Serialize;

use super::language::{last_logits, mean_kl};
use crate::device::{DTypeSpec, DeviceSpec};
use crate::engine::{PromptPart, Request, RequestEvent};
use crate::error::Error;
use crate::exec::Stop;
use crate::kernels::top_k::argmax;
use crate::language::Llama;
use crate::pipeline::{FirstQuestion, Limits, LoadedModel, OnOpen, Opening, Stages, VideoOptions, VideoRef, open_with};
use crate::spec::{Document, Plan, Quantization, VisionPlan};
use crate::video::ReadLimits;

/// Model and question of a comparison.
pub struct AgreementTask<'a> {
    /// Plan with the tested device, precision and quantization; its `max_new_tokens` is the length of the answer.
    pub plan: &'a Plan,
    /// Path of the video.
    pub video: &'a Path,
    /// Question.
    pub question: &'a str,
    /// Limits of reading and encoding the video.
    pub limits: Limits,
    /// Callback for warnings and progress of both models.
    pub on_open: OnOpen,
}

/// Agreement of two computations of the same weights.
#[derive(Debug, Clone, Serialize)]
pub struct AgreementBench {
    /// Precision and device of the reference.
    pub reference: String,
    /// Tested precision and device.
    pub tested: String,
    /// Tested quantization of the linear layers.
    pub quantization: Quantization,
    /// Tokens of the reference's greedy answer, without stop rules.
    pub tokens: usize,
    /// Number of equal tokens at the same index of both greedy answers.
    pub equal_ids: usize,
    /// Number of equal most probable next tokens after the same prefix of the reference's answer.
    pub equal_next_ids: usize,
    /// Mean KL divergence of the tested next-token distribution from the reference's after these prefixes, in nats.
    pub mean_kl: f64,
}

/// Loaded model with the parts of a prompt.
struct PromptedModel {
    model: LoadedModel,
    prompt: Vec<PromptPart>,
}

/// Answers a question with the plan's weights in f32 on the CPU, then compares the plan's own computation with it. Each
/// model is loaded alone.
///
/// # Errors
/// When a model cannot be loaded, the video cannot be read, or the prompt with its answer does not fit the context.
pub fn bench_agreement(task: &AgreementTask<'_>) -> std::result::Result<AgreementBench, Error> {
    let failed = Error::compute("comparing two computations");
    let (reference, expected, expected_logits) = {
        let full = PromptedModel::open(reference_plan(task.plan), task)?;
        let ids = full.greedy_ids(task.plan.generate.max_new_tokens)?;
        let logits = full.next_logits(&ids).map_err(&failed)?;
        (full.model.arithmetic(), ids, logits)
    };
    let tested = PromptedModel::open(task.plan.clone(), task)?;
    let ids = tested.greedy_ids(expected.len())?;
    let logits = tested.next_logits(&expected).map_err(&failed)?;
    let n_equal = |found: &mut dyn Iterator<Item = Option<u32>>| {
        found.zip(&expected).filter(|(found, expected)| *found == Some(**expected)).count()
    };
    Ok(AgreementBench {
        reference,
        tested: tested.model.arithmetic(),
        quantization: task.plan.quantization,
        tokens: expected.len(),
        equal_ids: n_equal(&mut ids.iter().copied().map(Some)),
        equal_next_ids: n_equal(&mut logits.iter().map(|row| argmax(row))),
        mean_kl: mean_kl(&expected_logits, &logits),
    })
}

/// Returns the plan in f32 on the CPU, not quantized in memory.
fn reference_plan(plan: &Plan) -> Plan {
    let f32 = DTypeSpec::Fixed(DType::F32);
    Plan {
        device: DeviceSpec::Cpu,
        dtype: f32,
        vision: VisionPlan::default(),
        quantization: Quantization::None,
        kv_dtype: f32,
        ..plan.clone()
    }
}

impl PromptedModel {
    fn open(plan: Plan, task: &AgreementTask<'_>) -> std::result::Result<Self, Error> {
        let AgreementTask { video, question, limits, .. } = *task;
        let read = ReadLimits { stall: limits.stall, links: limits.links, ..ReadLimits::default() };
        let first = FirstQuestion { video, question, read };
        let on_open = task.on_open.clone();
        let model = open_with(plan, &Opening { document: &Document::empty(), first: Some(first), on_open })?;
        let on_progress = |_: &VideoRef, _| {};
        let options = VideoOptions { limits, scanned: model.scanned.as_ref(), ..VideoOptions::default() };
        let encoded = Stages::new(&model.vlm, &model.plan, &on_progress).with(options).encode_one(video)?;
        let prompt = model.asking().prompt_parts(&encoded, question)?;
        Ok(Self { model, prompt })
    }

    fn language(&self) -> &Llama {
        self.model.vlm.language()
    }

    /// Generates `n` greedy tokens in the engine.
    fn greedy_ids(&self, n: usize) -> std::result::Result<Vec<u32>, Error> {
        let outcome = RefCell::new(None);
        let listener = |event: RequestEvent<'_>| {
            if let RequestEvent::Done(done) = event {
                outcome.replace(Some(done));
            }
            ControlFlow::Continue(())
        };
        let mut engine = self.model.asking().engine()?;
        engine.submit(Request::greedy(self.prompt.clone(), n, Box::new(listener)));
        engine.run(&Stop::default());
        drop(engine);
        let completion =
            outcome.into_inner().unwrap_or_else(|| Err(Error::invalid("the engine ended without an answer")))?;
        Ok(completion.ids)
    }

    /// Computes the logits of the token after each proper prefix of an answer, the empty one first.
    fn next_logits(&self, answer: &[u32]) -> Result<Vec<Vec<f32>>> {
        let before_last = &answer[..answer.len().saturating_sub(1)];
        let embed = |part: &PromptPart| match part {
            PromptPart::Ids(ids) => self.language().embed(ids),
            PromptPart::Visual(visual) => visual.embeds().to_dtype(self.language().dtype()),
        };
        let answer_part = (!before_last.is_empty()).then(|| PromptPart::Ids(before_last.to_vec()));
        let parts = self.prompt.iter().chain(&answer_part).map(embed).collect::<Result<Vec<_>>>()?;
        last_logits(self.language(), &Tensor::cat(&parts, 0)?, answer.len())
    }
}
