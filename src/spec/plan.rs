//! The plan: every choice between a video and an answer.
//!
//! A plan is read from a pipeline file, with defaults for absent keys, and prints back as such a file. Options of a
//! strategy are defined beside the strategy; enums here add the value `checkpoint`, which leaves a choice to the model.
//! The doc comments of fields and variants are the descriptions of the JSON Schema.

use std::path::PathBuf;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, VariantNames};

use crate::choice;
use crate::connector::DciOptions;
use crate::device::{DTypeSpec, DeviceSpec};
use crate::error::Error;
use crate::files::MINI;
use crate::language::SamplingConfig;
use crate::nn::QuantFormat;
use crate::temporal::Temporal;
use crate::text::Timestamps;
use crate::video::{Access, FrameRequest, Sample, Window};
use crate::vlm::Unused;

/// Every choice between a video and an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// Model: a directory, a hub id, or the model inside the binary. Default: `vidense-mini`.
    pub model: String,
    /// Vision tower other than the checkpoint's own: a directory or a hub id. Default: the checkpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_tower: Option<String>,
    /// Device: auto, cpu, cuda, cuda:1, metal. Default: `auto`, a GPU if this build supports one and it answers.
    pub device: DeviceSpec,
    /// Precision: auto, f32, f16, bf16. Default: `auto`, f32 on the CPU and half precision on a GPU.
    pub dtype: DTypeSpec,
    /// Device and precision of the vision encoder (tower, connector and projector). Default: those of the language
    /// model.
    #[serde(skip_serializing_if = "VisionPlan::is_default")]
    pub vision: VisionPlan,
    /// Language model in a GGUF file, in place of the checkpoint's own. Default: the checkpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm: Option<PathBuf>,
    /// Quantization of the language model's linear layers in memory. Default: `none`, as they are stored.
    pub quantization: Quantization,
    /// Precision in which keys and values are stored: auto, f32, f16, bf16. Default: `auto`, that of the activations,
    /// on the CPU f16 beside quantized weights.
    pub kv_dtype: DTypeSpec,
    /// Handling of a checkpoint with tensors or configuration keys that change the answers and are not used: refuse,
    /// allow. Default: `refuse`.
    pub unused: Unused,
    /// Sampling rule of frames. Default: that of the model's own processor, where its family takes videos (SmolVLM2,
    /// LLaVA-OneVision, InternVL), else `uniform`, 8 frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
    /// Part of the video that is sampled. Default: the whole video.
    pub window: Window,
    /// Video stream of each file, by its index as `inspect` prints it. Default: the best video stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 65535))]
    pub stream: Option<usize>,
    /// Fit of a frame to the tower's square input. Default: `checkpoint`.
    pub preprocess: PreprocessPlan,
    /// Connector: the fusion of the tower's layers. Default: `checkpoint`.
    pub connector: ConnectorPlan,
    /// Temporal strategy: the aggregation of frames into one sequence. Default: that of the model's family, where it takes
    /// videos or several images, else `max_pool` with stride 2, the Dense Connector's choice for video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temporal: Option<Temporal>,
    /// Handling of a single image (an image file, or a directory of one image). Default: `any_res` for a checkpoint that
    /// asks for it (LLaVA-NeXT, LLaVA-OneVision), unless the plan sets a strategy, a connector or a preprocessing; else
    /// `frame`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_image: Option<SingleImagePlan>,
    /// RoPE scaling: the extension of positions beyond the context that the model was trained with. Default:
    /// `checkpoint`.
    pub rope: RopePlan,
    /// Text around the question.
    pub prompt: PromptPlan,
    /// Generation of the answer.
    pub generate: GeneratePlan,
    /// Distribution of the work over stages, which changes the speed of a run and not its answers.
    pub exec: ExecPlan,
}

/// Device and precision of the vision encoder, where they are not those of the language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VisionPlan {
    /// Device, as `device`. Default: that of the language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceSpec>,
    /// Precision, as `dtype`. Default: that of `dtype`, resolved for this device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DTypeSpec>,
}

impl VisionPlan {
    /// Returns whether device and precision are those of the language model.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Quantization of the language model's linear layers in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// Full precision, or as a GGUF file stores them.
    #[default]
    None,
    /// 8.5 bits a weight.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4.6 bits a weight.
    #[serde(rename = "q4_k")]
    Q4K,
}

impl Quantization {
    /// Returns the format of quantized layers.
    pub fn format(self) -> Option<QuantFormat> {
        match self {
            Self::None => None,
            Self::Q8_0 => Some(QuantFormat::Q8_0),
            Self::Q4K => Some(QuantFormat::Q4K),
        }
    }
}

impl From<Option<QuantFormat>> for Quantization {
    fn from(format: Option<QuantFormat>) -> Self {
        match format {
            None => Self::None,
            Some(QuantFormat::Q8_0) => Self::Q8_0,
            Some(QuantFormat::Q4K) => Self::Q4K,
        }
    }
}

/// Fit of a frame to the tower's square input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreprocessPlan {
    /// The fit that the checkpoint was trained with (`image_aspect_ratio`).
    #[default]
    Checkpoint,
    /// Padded to a square with the mean colour, then resized.
    Pad,
    /// The fit of the tower's own preprocessor; CLIP's takes a center crop.
    Native,
    /// Resized to the square without regard to the aspect ratio, as SlowFast-LLaVA does.
    Squeeze,
}

/// Handling of a single image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, EnumString, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_single_image)]
pub enum SingleImagePlan {
    /// AnyRes: a base view, and tiles of the image at the resolution that suits it best.
    AnyRes,
    /// A video of one frame.
    Frame,
}

impl SingleImagePlan {
    /// Returns whether an input is encoded by AnyRes: a single still image, of which the sampling rule takes one frame.
    pub fn takes_any_res(self, is_single_image: bool, n_sampled: usize) -> bool {
        is_single_image && n_sampled == 1 && self == Self::AnyRes
    }
}

fn unknown_single_image(name: &str) -> Error {
    choice::unknown_name("handling of a single image", name, SingleImagePlan::VARIANTS)
}

/// Connector: the fusion of the tower's layers. A connector other than the checkpoint's fits only if its tokens have the
/// same width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectorPlan {
    /// The checkpoint's connector.
    #[default]
    Checkpoint,
    /// The final layer alone.
    None,
    /// Sparse token integration.
    Sti,
    /// Sparse channel integration.
    Sci,
    /// Dense channel integration; with a window above 1 dense temporal DCI.
    Dci(DciOptions),
}

/// RoPE scaling: the extension of positions beyond the trained context.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RopePlan {
    /// The checkpoint's scaling.
    #[default]
    Checkpoint,
    /// Positions divided by a factor, by which the context grows.
    Linear(RopeFactor),
    /// Base that grows with a sequence beyond the trained context, up to a factor times the context (dynamic NTK, as
    /// transformers computes it).
    DynamicNtk(RopeFactor),
}

/// Growth of the context.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RopeFactor {
    /// Factor by which the context grows. Default: `2`.
    #[schemars(range(min = 1.0, max = 64.0))]
    pub factor: f64,
}

impl Default for RopeFactor {
    fn default() -> Self {
        Self { factor: 2.0 }
    }
}

/// Placeholder of the question in [`PromptPlan::question`].
pub(super) const QUESTION: &str = "{question}";

/// Text around the question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptPlan {
    /// Prompt template: checkpoint (its own chat template), vicuna_v1, llama_3, llava_llama_3, llava_hf, llama_2, mistral_instruct,
    /// chatml_direct, qwen_1_5, smolvlm or plain. Default: a Hugging Face checkpoint's own, else the one that fits the
    /// checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// System text. Default: the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Text around a question, whose placeholder is `{question}`. Default: the question alone.
    pub question: String,
    /// Times of frames in the text: checkpoint, none, mm_ss (`Frame from 01:23: ` before each frame) or seconds (`<83.0
    /// seconds>` before each). Default: `checkpoint`, as the model's own processor writes videos; most write none.
    #[serde(skip_serializing_if = "is_checkpoint")]
    pub timestamps: Timestamps,
    /// Text with which the answer is made to begin, which is not printed. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub answer: String,
}

impl Default for PromptPlan {
    fn default() -> Self {
        Self {
            template: None,
            system: None,
            question: QUESTION.to_owned(),
            timestamps: Timestamps::Checkpoint,
            answer: String::new(),
        }
    }
}

/// Returns whether times are left to the checkpoint, in which case the key is not printed.
fn is_checkpoint(timestamps: &Timestamps) -> bool {
    *timestamps == Timestamps::Checkpoint
}

/// Generation of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct GeneratePlan {
    /// Limit of the answer's tokens. Default: `512`, as in the released code.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// Sampling of each token.
    #[serde(flatten)]
    pub sampling: SamplingConfig,
}

impl Default for GeneratePlan {
    fn default() -> Self {
        Self { max_new_tokens: 512, sampling: SamplingConfig::default() }
    }
}

/// Distribution of the work over stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExecPlan {
    /// Videos that are decoded in parallel. Default: `2`.
    #[schemars(range(min = 1, max = 256))]
    pub decode_threads: usize,
    /// Images that are preprocessed in parallel. Default: with the tower on the CPU one for every 8 cores, up to 4; on a
    /// GPU one for every 2 cores, up to 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub preprocess_threads: Option<usize>,
    /// Access to frames: auto, straight, seek. Frames are the same, unless a video is damaged in parts that seeking skips.
    /// Default: `auto`.
    pub access: Access,
    /// Batch size of the tower, in images of any videos. Default: `1` on the CPU, `8` on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub encode_batch: Option<usize>,
    /// Milliseconds that an incomplete batch of images waits for more. Default: none on the CPU, 3 on a GPU, which encodes
    /// a full batch in less time than its images one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub encode_wait_ms: Option<u64>,
    /// Limit of the sequences that are decoded together; further requests wait. Default: `32`, on an NVIDIA GPU `256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub sequences: Option<usize>,
    /// Memory for keys and values, such as `8GiB`; sequences that do not fit wait. Default: half of the memory that is free
    /// once the model is loaded, nine tenths on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub kv_memory: Option<ByteSize>,
    /// CUDA graphs: whether a decode step on an NVIDIA GPU is launched as one graph. Default: `true`; `false` launches
    /// each operation, which is slower and takes no memory for graphs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_graphs: Option<bool>,
    /// Capacities of the channels between stages.
    pub capacity: Capacities,
}

impl Default for ExecPlan {
    fn default() -> Self {
        Self {
            decode_threads: 2,
            preprocess_threads: None,
            access: Access::Auto,
            encode_batch: None,
            encode_wait_ms: None,
            sequences: None,
            kv_memory: None,
            cuda_graphs: None,
            capacity: Capacities::default(),
        }
    }
}

/// Capacities of the channels between stages: larger ones smooth unevenness, and take memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Capacities {
    /// Decoded frames that wait to be prepared. Default: `2`.
    #[schemars(range(max = 4096))]
    pub decoded: usize,
    /// Prepared images that wait for the tower. Default: `4`.
    #[schemars(range(max = 4096))]
    pub prepared: usize,
    /// Encoded images that wait to be aggregated. Default: `4`.
    #[schemars(range(max = 4096))]
    pub encoded: usize,
    /// Aggregated videos that wait for the language model. Default: `1`.
    #[schemars(range(max = 4096))]
    pub aggregated: usize,
}

impl Default for Capacities {
    fn default() -> Self {
        Self { decoded: 2, prepared: 4, encoded: 4, aggregated: 1 }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            model: MINI.to_owned(),
            vision_tower: None,
            vision: VisionPlan::default(),
            llm: None,
            device: DeviceSpec::Auto,
            dtype: DTypeSpec::Auto,
            quantization: Quantization::None,
            kv_dtype: DTypeSpec::Auto,
            unused: Unused::Refuse,
            sample: None,
            window: Window::default(),
            stream: None,
            preprocess: PreprocessPlan::Checkpoint,
            connector: ConnectorPlan::Checkpoint,
            temporal: None,
            single_image: None,
            rope: RopePlan::Checkpoint,
            prompt: PromptPlan::default(),
            generate: GeneratePlan::default(),
            exec: ExecPlan::default(),
        }
    }
}

impl Plan {
    /// Returns the request for frames.
    pub fn frames(&self) -> FrameRequest {
        FrameRequest { sample: self.sample(), window: self.window, stream: self.stream }
    }

    /// Prints the plan as YAML.
    ///
    /// # Errors
    /// Never for a resolved plan, whose keys are texts.
    pub fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        let mut bytes = Vec::new();
        serde_yaml::with::singleton_map_recursive::serialize(self, &mut serde_yaml::Serializer::new(&mut bytes))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_prints_every_choice() {
        let plan = Plan {
            model: "org/model".to_owned(),
            device: DeviceSpec::Cpu,
            sample: Some(Sample::uniform(8)),
            connector: ConnectorPlan::Dci(DciOptions { window: 3 }),
            temporal: Some(Temporal::D2),
            prompt: PromptPlan { system: Some("Be brief.".to_owned()), ..PromptPlan::default() },
            ..Plan::default()
        };
        let yaml = "model: org/model\ndevice: cpu\ndtype: auto\nquantization: none\nkv_dtype: auto\nunused: refuse\nsample:\n  uniform:\n    frames: 8\n    \
                    short: fewer\nwindow:\n  start: null\n  end: null\npreprocess: checkpoint\nconnector:\n  dci:\n    \
                    window: 3\ntemporal:\n  max_pool:\n    stride: 2\nrope: checkpoint\nprompt:\n  system: Be brief.\n  \
                    question: '{question}'\ngenerate:\n  max_new_tokens: 512\n  temperature: null\n  top_k: null\n  \
                    top_p: null\n  repetition_penalty: null\n  seed: 0\nexec:\n  decode_threads: 2\n  access: auto\n  capacity:\n    \
                    decoded: 2\n    prepared: 4\n    encoded: 4\n    aggregated: 1\n";
        assert_eq!(plan.to_yaml().expect("plain keys"), yaml);
    }
}
