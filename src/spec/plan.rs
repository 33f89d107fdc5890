//! The plan: every choice between a video and an answer. It is what a pipeline file says, with defaults where that is
//! silent, and prints back as such a file.

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
    /// A directory, a hub id, or the model inside the binary. Default: `vidense-mini`.
    pub model: String,
    /// A vision tower other than the checkpoint's own: a directory or a hub id. Default: the checkpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_tower: Option<String>,
    /// Device: auto, cpu, cuda, cuda:1, metal. Default: `auto`, a GPU if this build supports one and it answers.
    pub device: DeviceSpec,
    /// In which precision: auto, f32, f16, bf16. Default: `auto`, f32 on the CPU and half precision on a GPU.
    pub dtype: DTypeSpec,
    /// Device and precision of the vision encoder (tower, connector and projector). Default: those of the language
    /// model.
    #[serde(skip_serializing_if = "VisionPlan::is_default")]
    pub vision: VisionPlan,
    /// A language model in a GGUF file, in place of the checkpoint's own. Default: the checkpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm: Option<PathBuf>,
    /// How the language model's linear layers are held in memory. Default: `none`, as they are stored.
    pub quantization: Quantization,
    /// Precision in which keys and values are stored: auto, f32, f16, bf16. Default: `auto`, that of the activations,
    /// on the CPU f16 beside quantized weights.
    pub kv_dtype: DTypeSpec,
    /// Handling of a checkpoint with tensors or configuration keys that change the answers and are not used: refuse,
    /// allow. Default: `refuse`.
    pub unused: Unused,
    /// Which frames are looked at. Default: as the model's own processor samples a video, where its family takes videos
    /// (SmolVLM2, LLaVA-OneVision, InternVL), else `uniform`, 8 frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
    /// Of which part of the video. Default: all of it.
    pub window: Window,
    /// Of which video stream of each file, by its index as `inspect` prints it. Default: the best one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 65535))]
    pub stream: Option<usize>,
    /// How a frame is fitted to the tower's square. Default: `checkpoint`.
    pub preprocess: PreprocessPlan,
    /// How the tower's layers are fused. Default: `checkpoint`.
    pub connector: ConnectorPlan,
    /// How frames become one sequence. Default: as the model's family does it with a video, where it takes videos or
    /// several images, else `max_pool` with stride 2, the Dense Connector's choice for video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temporal: Option<Temporal>,
    /// How a single image is taken: an image file, or a directory of one image. Default: `any_res` of a checkpoint that
    /// asks for it (LLaVA-NeXT, LLaVA-OneVision), unless the plan names a strategy, a connector or a
    /// preprocessing of its own; else, and of every other model, as a video of one frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_image: Option<SingleImagePlan>,
    /// How positions reach beyond the context that the model was trained with. Default: `checkpoint`.
    pub rope: RopePlan,
    /// The words around the question.
    pub prompt: PromptPlan,
    /// How the answer is made.
    pub generate: GeneratePlan,
    /// How the work is spread over stages. It changes the speed of a run, not its answers.
    pub exec: ExecPlan,
}

/// Device and precision of the vision encoder, where they are not those of the language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VisionPlan {
    /// As `device`. Default: that of the language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceSpec>,
    /// As `dtype`. Default: as `dtype` says, for its own device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DTypeSpec>,
}

impl VisionPlan {
    /// Whether nothing differs from the language model.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How the language model's linear layers are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// In full, or as a GGUF file stores them.
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
    /// The format, if they are held in fewer bits.
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

/// How a frame is fitted to the tower's square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreprocessPlan {
    /// As the checkpoint was trained (`image_aspect_ratio`).
    #[default]
    Checkpoint,
    /// Padded to a square with the mean colour, then resized.
    Pad,
    /// As the tower's own preprocessor does it; CLIP's takes the middle square.
    Native,
    /// Resized to the square, whatever its shape. What SlowFast-LLaVA does.
    Squeeze,
}

/// How a single image is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, EnumString, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_single_image)]
pub enum SingleImagePlan {
    /// AnyRes: a base view, and tiles of the image at the resolution that suits it best.
    AnyRes,
    /// As a video of one frame.
    Frame,
}

impl SingleImagePlan {
    /// Whether an input is taken by AnyRes: one still image, of which the sampling rule takes one frame.
    pub fn takes_any_res(self, is_single_image: bool, n_sampled: usize) -> bool {
        is_single_image && n_sampled == 1 && self == Self::AnyRes
    }
}

fn unknown_single_image(name: &str) -> Error {
    choice::unknown_name("handling of a single image", name, SingleImagePlan::VARIANTS)
}

/// How the tower's layers are fused. Another connector than the checkpoint's fits only if it makes tokens of the same
/// width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectorPlan {
    /// The checkpoint's.
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

/// How positions reach beyond the trained context.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RopePlan {
    /// As the checkpoint says.
    #[default]
    Checkpoint,
    /// Positions divided by a factor, which the context grows by.
    Linear(RopeFactor),
    /// The base grown for a sequence that is longer than the trained context, up to a factor times it (dynamic NTK, as
    /// transformers computes it).
    DynamicNtk(RopeFactor),
}

/// By how much the context grows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RopeFactor {
    /// Default: `2`.
    #[schemars(range(min = 1.0, max = 64.0))]
    pub factor: f64,
}

impl Default for RopeFactor {
    fn default() -> Self {
        Self { factor: 2.0 }
    }
}

/// The mark that a question stands for in [`PromptPlan::question`].
pub(super) const QUESTION: &str = "{question}";

/// The words around the question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptPlan {
    /// checkpoint (its own chat template), vicuna_v1, llama_3, llava_llama_3, llava_hf, llama_2, mistral_instruct,
    /// chatml_direct, qwen_1_5, smolvlm or plain. Default: a Hugging Face checkpoint's own, else the one that fits the
    /// checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// A system text. Default: the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Words around a question, which stands for `{question}`. Default: the question alone.
    pub question: String,
    /// Times of frames in the text: checkpoint, none, mm_ss (`Frame from 01:23: ` before each frame) or seconds (`<83.0
    /// seconds>` before each). Default: `checkpoint`, as the model's own processor writes videos; most write none.
    #[serde(skip_serializing_if = "is_checkpoint")]
    pub timestamps: Timestamps,
    /// The words that the answer is made to begin with; they are not repeated in what is printed. Default: none.
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

/// Whether times are left to the checkpoint, which a plan need not say.
fn is_checkpoint(timestamps: &Timestamps) -> bool {
    *timestamps == Timestamps::Checkpoint
}

/// How the answer is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct GeneratePlan {
    /// At most this many tokens. Default: `512`, as in the released code.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// How each is chosen.
    #[serde(flatten)]
    pub sampling: SamplingConfig,
}

impl Default for GeneratePlan {
    fn default() -> Self {
        Self { max_new_tokens: 512, sampling: SamplingConfig::default() }
    }
}

/// How the work is spread over stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExecPlan {
    /// Videos that are decoded side by side. Default: `2`.
    #[schemars(range(min = 1, max = 256))]
    pub decode_threads: usize,
    /// Images that are prepared side by side for the tower. Default: with the tower on the CPU one for every 8 cores,
    /// up to 4; on a GPU one for every 2 cores, up to 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub preprocess_threads: Option<usize>,
    /// How frames are got at: auto, straight, seek. Only of a video that is damaged in parts which seeking passes over
    /// may they be other ones. Default: `auto`.
    pub access: Access,
    /// Images that go through the tower together, of whichever videos. Default: one on the CPU, 8 on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub encode_batch: Option<usize>,
    /// Milliseconds that a batch of images waits for more. Default: none on the CPU, 3 on a GPU, which takes a full
    /// batch in less time than its images one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub encode_wait_ms: Option<u64>,
    /// Answers that are made together; further ones wait. Default: `32`, on an NVIDIA GPU `256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub sequences: Option<usize>,
    /// Memory for keys and values, such as `8GiB`; sequences that do not fit wait. Default: half of what the machine
    /// has left once the model is loaded, nine tenths on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub kv_memory: Option<ByteSize>,
    /// Whether a step of answers on an NVIDIA GPU is launched as one CUDA graph. Default: `true`; `false` launches
    /// operation by operation, which is slower and takes no memory for the graphs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_graphs: Option<bool>,
    /// What may wait between two stages.
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

/// What may wait between two stages: more smooths unevenness, and takes memory.
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
    /// The frames that it asks for.
    pub fn frames(&self) -> FrameRequest {
        FrameRequest { sample: self.sample(), window: self.window, stream: self.stream }
    }

    /// The plan as YAML.
    ///
    /// # Errors
    /// Never for a plan that was resolved: its keys are texts.
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
