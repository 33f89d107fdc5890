//! The resolved plan: no choice is left open, and it prints as YAML.

use serde::Serialize;

use crate::device::{DTypeSpec, DeviceSpec};
use crate::language::SamplingConfig;
use crate::temporal::Temporal;
use crate::video::{FrameRequest, Sample, Window};

/// Every choice between a video and an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// A directory or a hub id.
    pub model: String,
    /// A tower other than the checkpoint's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_tower: Option<String>,
    /// Where it runs. Default: `auto`.
    pub device: DeviceSpec,
    /// In which precision. Default: `auto`.
    pub dtype: DTypeSpec,
    /// Which frames. Default: `uniform`, 8 frames.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub sample: Sample,
    /// Of which part. Default: the whole video.
    pub window: Window,
    /// How frames become one sequence. Default: `max_pool` with stride 2, the Dense Connector's choice for video.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub temporal: Temporal,
    /// The words around the question.
    pub prompt: PromptPlan,
    /// How the answer is made.
    pub generate: GeneratePlan,
}

/// The words around the question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptPlan {
    /// A template's name. Default: the one that fits the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// A system text. Default: the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

/// How the answer is made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GeneratePlan {
    /// At most this many tokens. Default: `512`.
    pub max_new_tokens: usize,
    /// How each is chosen.
    #[serde(flatten)]
    pub sampling: SamplingConfig,
}

impl Plan {
    /// The frames that it asks for.
    pub fn frames(&self) -> FrameRequest {
        FrameRequest { sample: self.sample.clone(), window: self.window }
    }

    /// The plan as YAML.
    ///
    /// # Errors
    /// Never for a plan that was resolved: its keys are texts.
    pub fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        serde_yaml::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_prints_every_choice() {
        let plan = Plan {
            model: "org/model".to_owned(),
            vision_tower: None,
            device: DeviceSpec::Cpu,
            dtype: DTypeSpec::Auto,
            sample: Sample::uniform(8),
            window: Window::default(),
            temporal: Temporal::D2,
            prompt: PromptPlan { template: None, system: Some("Be brief.".to_owned()) },
            generate: GeneratePlan { max_new_tokens: 512, sampling: SamplingConfig::default() },
        };
        let yaml = "model: org/model\ndevice: cpu\ndtype: auto\nsample:\n  uniform:\n    frames: 8\n    short: fewer\n\
                    window:\n  start: null\n  end: null\ntemporal:\n  max_pool:\n    stride: 2\n\
                    prompt:\n  system: Be brief.\n\
                    generate:\n  max_new_tokens: 512\n  temperature: 0.0\n  top_k: null\n  top_p: null\n  \
                    repetition_penalty: 1.0\n  seed: 0\n";
        assert_eq!(plan.to_yaml().expect("plain keys"), yaml);
    }
}
