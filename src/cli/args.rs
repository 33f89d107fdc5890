//! Flags that commands share, and the plan that they resolve to.
//!
//! `ask`, `chat` and `eval` take a whole plan as flags; `run` and `batch` read it from a pipeline file. Limits and
//! caches are in `limits.rs`.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Args, FromArgMatches as _};
use vidense::device::{DTypeSpec, DeviceSpec};
use vidense::error::{About, Error};
use vidense::files::MINI;
use vidense::language::SamplingConfig;
use vidense::nn::QuantFormat;
use vidense::pipeline::Limits;
use vidense::spec::{Document, ExecPlan, GeneratePlan, Plan, PromptPlan, SingleImagePlan, VisionPlan, read_plan};
use vidense::temporal::Temporal;
use vidense::text::{Template, Timestamps};
use vidense::units::Seconds;
use vidense::video::{Access, CheckpointFrameSampling, FrameRequest, ImageRate, Sample, Window};
use vidense::vlm::Unused;

use super::limits::ReadArgs;

/// Default limit of an answer's tokens, as in the released code.
const DEFAULT_NEW_TOKENS: usize = 512;

/// Flags of every choice of `ask`, `chat` and `eval`.
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

/// Flags of the model, its devices and precisions.
#[derive(Args)]
pub struct ModelArgs {
    /// Model: a directory, or a hub id (org/name); vidense-mini is inside the binary
    #[arg(long, short, value_name = "DIR|ID", default_value = MINI)]
    pub model: String,
    /// Vision tower other than the checkpoint's own: a directory or a hub id
    #[arg(long, value_name = "DIR|ID")]
    pub vision_tower: Option<String>,
    /// Language model in a GGUF file, in place of the checkpoint's own
    #[arg(long, value_name = "FILE.gguf")]
    pub llm: Option<PathBuf>,
    /// Quantize the language model's linear layers: q8_0, q4_k
    #[arg(long, value_name = "FORMAT")]
    pub quant: Option<QuantFormat>,
    /// Precision of stored keys and values: auto, f32, f16, bf16; auto is that of the activations, on the CPU f16
    /// beside quantized weights
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    pub kv_dtype: DTypeSpec,
    /// Device: auto, cpu, cuda, cuda:1, metal
    #[arg(long, default_value = "auto")]
    pub device: DeviceSpec,
    /// Precision: auto, f32, f16, bf16; auto is f32 on the CPU and half precision on a GPU
    #[arg(long, default_value = "auto")]
    pub dtype: DTypeSpec,
    /// Device of the vision encoder (tower, connector, projector), such as cpu or cuda:1 [default: --device]
    #[arg(long, value_name = "DEVICE")]
    pub vision_device: Option<DeviceSpec>,
    /// Precision of the vision encoder: auto, f32, f16, bf16 [default: --dtype]
    #[arg(long, value_name = "DTYPE")]
    pub vision_dtype: Option<DTypeSpec>,
    #[command(flatten)]
    pub unused: UnusedArgs,
}

/// Flag of checkpoints with tensors or configuration keys that are not used.
#[derive(Args)]
pub struct UnusedArgs {
    /// Load a model although some of its tensors or configuration keys are not used, with a warning
    #[arg(long)]
    allow_unused: bool,
}

impl UnusedArgs {
    /// Returns the rule of the flag, `otherwise` without it.
    pub fn rule(&self, otherwise: Unused) -> Unused {
        if self.allow_unused { Unused::Allow } else { otherwise }
    }
}

/// Flags of the frames to sample.
#[derive(Args)]
pub struct FrameArgs {
    /// Number of frames; for fps, every and keyframes the maximum [default: 8]
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    pub frames: Option<usize>,
    /// Sampling rule: uniform, linspace, fps:fps=1,min=1,max=64, every:n=30, keyframes, times:times=0+1.5, scene,
    /// ig_vlm, all, smolvlm, one_vision, llava_video, internvl, video_chat2, checkpoint (that of the model's own
    /// processor); options follow as NAME:OPTION=VALUE,... [default: checkpoint, which is uniform for models of images
    /// and without a model]
    #[arg(long, value_name = "RULE")]
    pub sample: Option<Sample>,
    /// Access to frames: auto (seek where that saves much decoding), straight (decode everything, so that every damaged
    /// frame is reported), seek
    #[arg(long, default_value = "auto", value_name = "HOW")]
    pub access: Access,
    /// Video stream, by its index as `inspect` prints it [default: the best video stream]
    #[arg(long, value_name = "N")]
    pub stream: Option<usize>,
    /// Start of the part that is sampled: seconds, or h:mm:ss
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub start: Option<Seconds>,
    /// End of the part that is sampled, exclusive: seconds, or h:mm:ss
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub end: Option<Seconds>,
    /// Images per second of a directory of images, which have no times otherwise: image i, from 0, is shown from i / R
    /// seconds on
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub image_rate: Option<ImageRate>,
    #[command(flatten)]
    pub read: ReadArgs,
}

/// Flags of the temporal strategy and of the text around the question.
#[derive(Args)]
pub struct PromptArgs {
    /// Temporal strategy, which aggregates frames into one sequence: temporal_mean (S1), spatial_mean (S2),
    /// spatial_temporal_mean (S3), concat (D1), max_pool:STRIDE (D2), temporal_mean_before_projector, pool_2d,
    /// adaptive_3d, slowfast, ts_llava, ig_vlm, evs, checkpoint (that of the model's family); options follow as
    /// NAME:OPTION=VALUE,... [default: checkpoint for families that take videos or several images, else max_pool]
    #[arg(long, value_name = "STRATEGY")]
    pub temporal: Option<Temporal>,
    /// Handling of a single image (an image file, or a directory of one image): any_res (LLaVA-NeXT, LLaVA-OneVision: a
    /// base view and tiles at the best fitting resolution), frame (a video of one frame) [default: any_res for
    /// checkpoints that ask for it, unless --temporal names a strategy; else frame]
    #[arg(long, value_name = "HOW")]
    pub single_image: Option<SingleImagePlan>,
    /// Prompt template: checkpoint (its own chat template), vicuna_v1, llama_3, llava_llama_3, llava_hf, llama_2,
    /// mistral_instruct, chatml_direct, qwen_1_5, smolvlm, plain [default: a Hugging Face checkpoint's own, else the
    /// one that fits the checkpoint]
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// System text in place of the template's
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Times of frames in the text: checkpoint (as the model's own processor writes videos), none, mm_ss (`Frame from
    /// 01:23: ` before each frame), seconds (`<83.0 seconds>` before each)
    #[arg(long, value_name = "HOW", default_value = "checkpoint")]
    pub timestamps: Timestamps,
}

/// Flag of the memory for answers.
#[derive(Args)]
pub struct MemoryArgs {
    /// Memory for keys and values, such as 8GiB; requests that do not fit wait [default: half of the free memory, nine
    /// tenths on a GPU]
    #[arg(long, value_name = "BYTES")]
    pub kv_memory: Option<ByteSize>,
}

/// Flags that override values of a pipeline file.
#[derive(Args)]
pub struct PipelineArgs {
    /// Value that overrides that of the pipeline, such as temporal.max_pool.stride=4; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    unused: UnusedArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Video stream of each video, by its index as `inspect` prints it; overrides that of the pipeline [default: the
    /// best video stream]
    #[arg(long, value_name = "N")]
    stream: Option<usize>,
}

impl PipelineArgs {
    /// Reads a pipeline file, and applies the flags to its values.
    ///
    /// # Errors
    /// When the file or a value is invalid.
    pub fn read_plan(&self, pipeline: &Path) -> Result<(Plan, Document), Error> {
        let stream = self.stream.map(|stream| format!("stream={stream}"));
        let sets: Vec<String> = self.sets.iter().cloned().chain(stream).collect();
        let (mut plan, document) = read_plan(pipeline, &sets)?;
        plan.unused = self.unused.rule(plan.unused);
        plan.exec.kv_memory = self.memory.kv_memory.or(plan.exec.kv_memory);
        Ok((plan, document))
    }
}

/// Flags of generation.
#[derive(Args)]
pub struct GenerateArgs {
    /// Limit of the answer's tokens
    #[arg(long, value_name = "N", default_value_t = DEFAULT_NEW_TOKENS, value_parser = positive, allow_negative_numbers = true)]
    pub max_new_tokens: usize,
    /// Temperature of sampling; 0 is greedy, with the same answer every time. Default: the checkpoint's, greedy unless
    /// its generation_config.json sets do_sample
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Sample from the K most likely tokens only
    #[arg(long, value_name = "K", value_parser = positive, allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Sample from the most likely tokens that together reach this probability, with --top-k that among its tokens
    #[arg(long, value_name = "P", value_parser = probability, allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Penalty above 1 makes tokens of the answer so far less likely, with a Hugging Face checkpoint those of the
    /// prompt too. Default: the checkpoint's
    #[arg(long, value_name = "X", value_parser = penalty, allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,
    /// Seed of sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl FrameArgs {
    /// Resolves the request for frames.
    ///
    /// # Errors
    /// When two flags contradict each other.
    pub fn resolve(&self) -> anyhow::Result<FrameRequest> {
        let sample = self.sample.clone().unwrap_or(Sample::Checkpoint(CheckpointFrameSampling::default()));
        let sample = match self.frames {
            None => sample,
            Some(frames) => sample.with_frames(frames).map_err(|error| {
                let rule = format!("{}, so --frames does not apply", error.statement());
                Error::invalid(rule).with_hint("leave one of them out").about("--sample")
            })?,
        };
        sample.check().about(sample.name()).about("--sample")?;
        if let (Some(start), Some(end)) = (self.start, self.end)
            && start >= end
        {
            anyhow::bail!("--start {start} is not before --end {end}");
        }
        let window = Window { start: self.start, end: self.end };
        Ok(FrameRequest { sample, window, stream: self.stream, image_rate: self.image_rate })
    }
}

impl PlanArgs {
    /// Returns the limits of the video.
    pub fn limits(&self) -> Limits {
        self.read().limits()
    }

    /// Returns the flags of reading.
    pub fn read(&self) -> &ReadArgs {
        &self.frames.read
    }

    /// Resolves the plan of the flags.
    ///
    /// # Errors
    /// When flags contradict each other, or a name is unknown.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let Self { model, frames, prompt, generate, memory } = self;
        let FrameRequest { sample, window, stream, image_rate } = frames.resolve()?;
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
            image_rate,
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

impl PlanArgs {
    /// Reads the plan of a pipeline file with `sets`, for commands that take such a file in place of the flags: of the
    /// flags, those of unused tensors and of the memory for answers apply.
    ///
    /// # Errors
    /// When the file or a value is invalid.
    #[cfg(feature = "serve")]
    pub fn of_pipeline(&self, pipeline: &Path, sets: &[String]) -> Result<(Plan, Document), Error> {
        let (plan, document) = read_plan(pipeline, sets)?;
        Ok((self.beside(plan), document))
    }

    /// Applies the flags beside a plan that was read from a file: those of unused tensors and of the memory for
    /// answers.
    pub fn beside(&self, mut plan: Plan) -> Plan {
        plan.unused = self.model.unused.rule(plan.unused);
        plan.exec.kv_memory = self.memory.kv_memory.or(plan.exec.kv_memory);
        plan
    }

    /// Returns whether a flag of the plan has another value than its default, besides those of [`Self::beside`].
    ///
    /// # Errors
    /// When flags contradict each other, or a name is unknown.
    pub fn sets_plan(&self) -> anyhow::Result<bool> {
        let command = Self::augment_args(clap::Command::new("default").no_binary_name(true));
        let default = Self::from_arg_matches(&command.try_get_matches_from(std::iter::empty::<&str>())?)?;
        Ok(self.plan()? != self.beside(default.plan()?))
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

fn positive(text: &str) -> Result<usize, Error> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| Error::invalid("expected a whole number from 1"))
}

fn number(text: &str, is_valid: impl Fn(f64) -> bool, rule: &'static str) -> Result<f64, Error> {
    text.parse().ok().filter(|&x: &f64| x.is_finite() && is_valid(x)).ok_or_else(|| Error::invalid(rule))
}

fn temperature(text: &str) -> Result<f64, Error> {
    number(text, |x| x >= 0.0, "expected a number from 0")
}

fn probability(text: &str) -> Result<f64, Error> {
    number(text, |x| x > 0.0 && x <= 1.0, "expected a number above 0, at most 1")
}

fn penalty(text: &str) -> Result<f32, Error> {
    number(text, |x| x > 0.0, "expected a number above 0").map(|x| x as f32)
}
