//! The plan: every choice between a video and an answer.
//!
//! A plan is read from a pipeline file, with defaults for absent keys, and prints back as such a file. Options of a
//! strategy are defined beside the strategy; enums here add the value `checkpoint`, which leaves a choice to the model.
//! The doc comments of fields and variants are the descriptions of the JSON Schema.

mod decoder;
mod encoder;
mod exec;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::{DTypeSpec, DeviceSpec};
use crate::error::Error;
use crate::files::MINI;
use crate::spec::yaml::print_yaml;
use crate::temporal::Temporal;
use crate::video::{FrameRequest, ImageRate, Sample, Window};
use crate::vlm::Unused;

pub(super) use decoder::QUESTION;
pub use decoder::{GeneratePlan, PromptPlan, Quantization, RopeFactor, RopePlan};
pub use encoder::{ConnectorPlan, PreprocessPlan, SingleImagePlan, VisionPlan};
pub use exec::{Capacities, ExecPlan};

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
    /// Images per second of videos that are directories of images, which have no times otherwise: image `i` of the
    /// natural order, from 0, is shown from `i / image_rate` seconds on. A video that is not a directory is refused.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_rate: Option<ImageRate>,
    /// Fit of a frame to the tower's square input. Default: `checkpoint`.
    pub preprocess: PreprocessPlan,
    /// Connector: the fusion of the tower's layers. Default: `checkpoint`.
    pub connector: ConnectorPlan,
    /// Temporal strategy: the aggregation of frames into one sequence. Default: that of the model's family, where it
    /// takes videos or several images, else `max_pool` with stride 2, the Dense Connector's choice for video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temporal: Option<Temporal>,
    /// Handling of a single image (an image file, or a directory of one image). Default: `any_res` for a checkpoint
    /// that asks for it (LLaVA-NeXT, LLaVA-OneVision), unless the plan sets a strategy, a connector or a preprocessing;
    /// else `frame`.
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
            image_rate: None,
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
        FrameRequest { sample: self.sample(), window: self.window, stream: self.stream, image_rate: self.image_rate }
    }

    /// Returns the choices alone that decide which weights are loaded and where: plans that agree on them share a
    /// loaded model.
    #[must_use]
    pub fn of_weights(&self) -> Self {
        let Self { sample, window, stream, image_rate, temporal, single_image, prompt, generate, exec, .. } =
            Self::default();
        Self { sample, window, stream, image_rate, temporal, single_image, prompt, generate, exec, ..self.clone() }
    }

    /// Returns the choices alone that decide which frames are encoded and how, up to the temporal strategy: resolved
    /// plans of one loaded model that agree on them share the tokens of their frames.
    #[must_use]
    pub fn of_frames(&self) -> Self {
        let Self { temporal, prompt, generate, exec, .. } = Self::default();
        Self { temporal, prompt, generate, exec, ..self.clone() }
    }

    /// Prints the plan as YAML.
    ///
    /// # Errors
    /// Never for a resolved plan, whose keys are texts.
    pub fn to_yaml(&self) -> Result<String, Error> {
        print_yaml(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::DciOptions;

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
