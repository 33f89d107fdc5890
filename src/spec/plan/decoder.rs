//! Choices of the language model: quantization, RoPE scaling, prompt, generation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::language::{RopeScaling, SamplingConfig};
use crate::nn::QuantFormat;
use crate::text::Timestamps;
use crate::vlm::RopeOverride;

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
pub(in crate::spec) const QUESTION: &str = "{question}";

/// Text around the question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptPlan {
    /// Prompt template: checkpoint (its own chat template), vicuna_v1, llama_3, llava_llama_3, llava_hf, llama_2,
    /// mistral_instruct, chatml_direct, qwen_1_5, smolvlm or plain. Default: a Hugging Face checkpoint's own, else the
    /// one that fits the checkpoint.
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

impl RopePlan {
    /// Returns the scaling, unless it is left to the checkpoint.
    pub(in crate::spec) fn scaling(self) -> Option<RopeOverride> {
        let (scaling, factor) = match self {
            Self::Checkpoint => return None,
            Self::Linear(RopeFactor { factor }) => (RopeScaling::Linear { factor: factor as f32 }, factor),
            Self::DynamicNtk(RopeFactor { factor }) => {
                (RopeScaling::DynamicNtk { factor: factor as f32, original_context: 0.0 }, factor)
            }
        };
        Some(RopeOverride { scaling, factor })
    }
}
