//! Choices of the vision encoder: device, fit of frames, single images, connector.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, VariantNames};

use crate::choice;
use crate::connector::{ConnectorKind, DciOptions};
use crate::device::{DTypeSpec, DeviceSpec};
use crate::error::Error;
use crate::vlm::config::FrameFit;

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
    /// Returns whether AnyRes encodes a single image of which the sampling rule takes `n_sampled` frames.
    pub(crate) fn takes_any_res(self, n_sampled: usize) -> bool {
        n_sampled == 1 && self == Self::AnyRes
    }
}

fn unknown_single_image(name: &str) -> Error {
    choice::unknown_name("handling of a single image", name, SingleImagePlan::VARIANTS)
}

/// Connector: the fusion of the tower's layers. A connector other than the checkpoint's fits only if its tokens have
/// the same width.
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

impl PreprocessPlan {
    /// Returns the fit, unless it is left to the checkpoint.
    pub(in crate::spec) fn frame_fit(self) -> Option<FrameFit> {
        match self {
            Self::Checkpoint => None,
            Self::Pad => Some(FrameFit::Pad),
            Self::Native => Some(FrameFit::Native),
            Self::Squeeze => Some(FrameFit::AnyresBase),
        }
    }
}

impl ConnectorPlan {
    /// Returns the kind, unless it is left to the checkpoint.
    pub(in crate::spec) fn kind(self) -> Option<ConnectorKind> {
        match self {
            Self::Checkpoint => None,
            Self::None => Some(ConnectorKind::None),
            Self::Sti => Some(ConnectorKind::Sti),
            Self::Sci => Some(ConnectorKind::Sci),
            Self::Dci(_) => Some(ConnectorKind::Dci),
        }
    }

    /// Returns the number of frames over which DCI averages, 1 for every other connector.
    pub(in crate::spec) fn window(self) -> usize {
        match self {
            Self::Dci(DciOptions { window }) => window,
            _ => 1,
        }
    }
}
