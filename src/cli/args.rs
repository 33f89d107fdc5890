//! The flags that commands share, and the plan that they resolve to.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use vidense::device::{DTypeSpec, DeviceSpec};
use vidense::error::About;
use vidense::files::MINI;
use vidense::language::SamplingConfig;
use vidense::nn::QuantFormat;
use vidense::pipeline::Limits;
use vidense::spec::{ExecPlan, GeneratePlan, Plan, PromptPlan, SingleImagePlan, VisionPlan};
use vidense::temporal::Temporal;
use vidense::text::{Template, Timestamps};
use vidense::units::Seconds;
use vidense::video::sample::CheckpointFrameSampling;
use vidense::video::{Access, FrameRequest, Sample, Window};
use vidense::vlm::Unused;

use super::limits::ReadArgs;

/// Tokens of an answer where none are asked for, as in the released code.
const DEFAULT_NEW_TOKENS: usize = 512;

/// Every choice of `ask`, `chat` and `eval`.
#[derive(Args)]
pub struct PlanArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    frames: FrameArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    generate: GenerateArgs,
    #[command(flatten)]
    memory: MemoryArgs,
}

/// Which model, and where it runs.
#[derive(Args)]
pub struct ModelArgs {
    /// A directory, or a hub id (org/name); vidense-mini is inside the binary
    #[arg(long, short, value_name = "DIR|ID", default_value = MINI)]
    pub model: String,
    /// Another vision tower than the checkpoint's own: a directory or a hub id
    #[arg(long, value_name = "DIR|ID")]
    pub vision_tower: Option<String>,
    /// A language model in a GGUF file, in place of the checkpoint's own
    #[arg(long, value_name = "FILE.gguf")]
    pub llm: Option<PathBuf>,
    /// Hold the language model's linear layers in fewer bits: q8_0, q4_k
    #[arg(long, value_name = "FORMAT")]
    pub quant: Option<QuantFormat>,
    /// Precision of stored keys and values: auto, f32, f16, bf16; auto is that of the activations, on the CPU f16
    /// beside quantized weights
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    pub kv_dtype: DTypeSpec,
    /// auto, cpu, cuda, cuda:1, metal
    #[arg(long, default_value = "auto")]
    pub device: DeviceSpec,
    /// auto, f32, f16, bf16; auto is f32 on the CPU and half precision on a GPU
    #[arg(long, default_value = "auto")]
    pub dtype: DTypeSpec,
    /// Another device for the vision encoder (tower, connector, projector), such as cpu or cuda:1 [default: --device]
    #[arg(long, value_name = "DEVICE")]
    pub vision_device: Option<DeviceSpec>,
    /// Another precision for the vision encoder: auto, f32, f16, bf16 [default: --dtype]
    #[arg(long, value_name = "DTYPE")]
    pub vision_dtype: Option<DTypeSpec>,
    #[command(flatten)]
    pub unused: UnusedArgs,
}

/// The exception from the strict reading of a checkpoint.
#[derive(Args)]
pub struct UnusedArgs {
    /// Load a model although tensors of it or keys of its configuration are not used, with a warning
    #[arg(long)]
    allow_unused: bool,
}

impl UnusedArgs {
    /// The rule to follow, `otherwise` without the flag.
    pub fn rule(&self, otherwise: Unused) -> Unused {
        if self.allow_unused { Unused::Allow } else { otherwise }
    }
}

/// Which frames.
#[derive(Args)]
pub struct FrameArgs {
    /// Number of frames; of fps, every and keyframes the most that are taken [default: 8]
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    pub frames: Option<usize>,
    /// Which frames: uniform, linspace, fps:fps=1,min=1,max=64, every:n=30, keyframes, times:times=0+1.5, scene, ig_vlm, all,
    /// smolvlm, one_vision, llava_video, internvl, checkpoint (as the model's own processor does it); options follow as
    /// NAME:OPTION=VALUE,... [default: checkpoint, which is uniform for models of images and without a model]
    #[arg(long, value_name = "RULE")]
    pub sample: Option<Sample>,
    /// How frames are got at: auto (by seeking where that saves much), straight (everything is decoded, so that every frame which does
    /// not decode is known of), seek
    #[arg(long, default_value = "auto", value_name = "HOW")]
    pub access: Access,
    /// The video stream, by its index as `inspect` prints it [default: the best one]
    #[arg(long, value_name = "N")]
    pub stream: Option<usize>,
    /// Only frames from this time on: seconds, or h:mm:ss
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub start: Option<Seconds>,
    /// Only frames before this time: seconds, or h:mm:ss
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub end: Option<Seconds>,
    #[command(flatten)]
    pub read: ReadArgs,
}

/// How frames become tokens, and the words around the question.
#[derive(Args)]
pub struct PromptArgs {
    /// How frames become one sequence: temporal_mean (S1), spatial_mean (S2), spatial_temporal_mean (S3), concat (D1),
    /// max_pool:STRIDE (D2), temporal_mean_before_projector, pool_2d, adaptive_3d, slowfast, ts_llava, ig_vlm, evs,
    /// checkpoint (as the model's family does it with a video); options follow as NAME:OPTION=VALUE,... [default:
    /// checkpoint for families that take videos or several images, else max_pool]
    #[arg(long, value_name = "STRATEGY")]
    pub temporal: Option<Temporal>,
    /// How a single image (an image file, or a directory of one image) is taken: any_res (LLaVA-NeXT, LLaVA-OneVision: a
    /// base view and tiles at the resolution that suits it best), frame (as a video of one frame) [default: any_res for
    /// checkpoints that ask for it, unless --temporal names a strategy; else frame]
    #[arg(long, value_name = "HOW")]
    pub single_image: Option<SingleImagePlan>,
    /// checkpoint (its own chat template), vicuna_v1, llama_3, llava_llama_3, llava_hf, llama_2, mistral_instruct,
    /// chatml_direct, qwen_1_5, smolvlm, plain [default: a Hugging Face checkpoint's own, else what fits the checkpoint]
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// A system text in place of the template's
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Times of frames in the text: checkpoint (as the model's own processor writes videos), none, mm_ss (`Frame from
    /// 01:23: ` before each frame), seconds (`<83.0 seconds>` before each)
    #[arg(long, value_name = "HOW", default_value = "checkpoint")]
    pub timestamps: Timestamps,
}

/// How much the answers may take.
#[derive(Args)]
pub struct MemoryArgs {
    /// Memory for keys and values, such as 8GiB; requests that do not fit wait [default: half of what the machine has left, nine
    /// tenths on a GPU]
    #[arg(long, value_name = "BYTES")]
    pub kv_memory: Option<ByteSize>,
}

/// How the answer is made.
#[derive(Args)]
pub struct GenerateArgs {
    /// At most this many tokens of answer
    #[arg(long, value_name = "N", default_value_t = DEFAULT_NEW_TOKENS, value_parser = positive, allow_negative_numbers = true)]
    pub max_new_tokens: usize,
    /// 0 is greedy: the same answer every time. Default: as the checkpoint, greedy unless its generation_config.json says
    /// do_sample
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Draw from this many best tokens only
    #[arg(long, value_name = "K", value_parser = positive, allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Draw from the best tokens that together reach this probability
    #[arg(long, value_name = "P", value_parser = probability, allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Above 1, tokens that stand in the answer already become less likely, with a Hugging Face checkpoint those in the prompt
    /// too. Default: as the checkpoint
    #[arg(long, value_name = "X", value_parser = penalty, allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl FrameArgs {
    /// The frames asked for.
    ///
    /// # Errors
    /// When two flags contradict each other.
    pub fn resolve(&self) -> anyhow::Result<FrameRequest> {
        let sample = self.sample.clone().unwrap_or(Sample::Checkpoint(CheckpointFrameSampling::default()));
        let sample = match self.frames {
            None => sample,
            Some(frames) => sample.with_frames(frames).map_err(|error| {
                let rule = error.statement();
                anyhow::anyhow!("--sample: {rule}, so --frames does not apply; hint: leave one of them out")
            })?,
        };
        sample.check().about(sample.name()).about("--sample")?;
        if let (Some(start), Some(end)) = (self.start, self.end)
            && start >= end
        {
            anyhow::bail!("--start {start} is not before --end {end}");
        }
        Ok(FrameRequest { sample, window: Window { start: self.start, end: self.end }, stream: self.stream })
    }
}

impl PlanArgs {
    /// The limits of the video.
    pub fn limits(&self) -> Limits {
        self.read().limits()
    }

    /// How long its reads may wait.
    pub fn read(&self) -> &ReadArgs {
        &self.frames.read
    }

    /// The plan that the flags resolve to.
    ///
    /// # Errors
    /// When flags contradict each other, or a name is unknown.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let Self { model, frames, prompt, generate, memory } = self;
        let FrameRequest { sample, window, stream } = frames.resolve()?;
        if let Some(name) = &prompt.template {
            Template::check_name(name)?;
        }
        Ok(Plan {
            model: model.model.clone(),
            vision_tower: model.vision_tower.clone(),
            llm: model.llm.clone(),
            quantization: model.quant.into(),
            kv_dtype: model.kv_dtype,
            unused: model.unused.rule(Unused::Refuse),
            device: model.device,
            dtype: model.dtype,
            vision: VisionPlan { device: model.vision_device, dtype: model.vision_dtype },
            sample: Some(sample),
            window,
            stream,
            temporal: prompt.temporal,
            single_image: prompt.single_image,
            prompt: PromptPlan {
                template: prompt.template.clone(),
                system: prompt.system.clone(),
                timestamps: prompt.timestamps,
                ..PromptPlan::default()
            },
            exec: ExecPlan { access: frames.access, kv_memory: memory.kv_memory, ..ExecPlan::default() },
            generate: GeneratePlan { max_new_tokens: generate.max_new_tokens, sampling: generate.sampling() },
            ..Plan::default()
        })
    }
}

impl GenerateArgs {
    fn sampling(&self) -> SamplingConfig {
        SamplingConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }
}

/// `--set` assignments, and that of a stream that is named besides.
pub fn with_stream(sets: &[String], stream: Option<usize>) -> Vec<String> {
    sets.iter().cloned().chain(stream.map(|stream| format!("stream={stream}"))).collect()
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a whole number from 1".to_owned())
}

fn number(text: &str, good: impl Fn(f64) -> bool, rule: &str) -> Result<f64, String> {
    text.parse().ok().filter(|&x: &f64| x.is_finite() && good(x)).ok_or_else(|| rule.to_owned())
}

fn temperature(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "expected a number from 0")
}

fn probability(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "expected a number above 0, at most 1")
}

fn penalty(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0, "expected a number above 0").map(|x| x as f32)
}
