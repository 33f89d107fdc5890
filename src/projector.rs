//! The projector: from the connector's width to the language model's, token by token.
//!
//! Reference: `multimodal_projector/builder.py` of the released LLaVA and Dense Connector code.

use std::fmt;
use std::str::FromStr;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Serialize, Serializer};

use crate::nn::linear::{Bias, Linear};

/// A kind of projector, as `mm_projector_type` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectorKind {
    /// Nothing: the widths are equal.
    Identity,
    /// One matrix, `linear`.
    Linear,
    /// `mlp{n}x_gelu`: `n` matrices with GELU (by the error function) between them.
    Mlp(usize),
}

/// More matrices than this are a mistake in a file.
const MAX_DEPTH: usize = 16;

impl FromStr for ProjectorKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let depth = text.strip_prefix("mlp").and_then(|rest| rest.strip_suffix("x_gelu"));
        match (text, depth.map(str::parse::<usize>)) {
            ("identity", _) => Ok(Self::Identity),
            ("linear", _) => Ok(Self::Linear),
            (_, Some(Ok(depth))) if (1..=MAX_DEPTH).contains(&depth) => Ok(Self::Mlp(depth)),
            _ => Err(format!(
                "projector `{text}` is not supported; hint: linear, mlp2x_gelu (or another depth to {MAX_DEPTH}), identity"
            )),
        }
    }
}

impl fmt::Display for ProjectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::Linear => f.write_str("linear"),
            Self::Mlp(depth) => write!(f, "mlp{depth}x_gelu"),
        }
    }
}

impl Serialize for ProjectorKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A projector.
#[derive(Debug)]
pub struct Projector {
    layers: Vec<Linear>,
}

impl Projector {
    /// Reads a projector. The matrices are named as in PyTorch's `Sequential`: `0`, `2`, `4`, the GELUs between
    /// them counted; a `linear` one has no number. A checkpoint may leave all biases out.
    ///
    /// # Errors
    /// When the weights cannot be read, or the identity is asked to change the width.
    pub fn load(kind: ProjectorKind, d_in: usize, d_out: usize, vb: &VarBuilder) -> Result<Self> {
        let load = |d_in, vb: VarBuilder| {
            let bias =
                if vb.contains_tensor("weight") && !vb.contains_tensor("bias") { Bias::Without } else { Bias::With };
            Linear::load(d_in, d_out, bias, &vb)
        };
        let layers = match kind {
            ProjectorKind::Identity if d_in != d_out => {
                candle_core::bail!("an identity projector cannot turn width {d_in} into {d_out}")
            }
            ProjectorKind::Identity => Vec::new(),
            ProjectorKind::Linear => vec![load(d_in, vb.clone())?],
            ProjectorKind::Mlp(depth) => {
                let width = |i| if i == 0 { d_in } else { d_out };
                (0..depth).map(|i| load(width(i), vb.pp(2 * i))).collect::<Result<_>>()?
            }
        };
        Ok(Self { layers })
    }

    /// Packs the weights for inference, where that may be: see [`Linear::pack`].
    ///
    /// # Errors
    /// When candle fails.
    pub fn pack(&mut self) -> Result<()> {
        self.layers.iter_mut().try_for_each(Linear::pack)
    }

    /// # Shapes
    /// `(T, N', k D)` to `(T, N', H)`.
    ///
    /// # Errors
    /// When the width does not fit.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let mut x = tokens.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&if i == 0 { x } else { x.gelu_erf()? })?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn kinds_print_as_they_are_read() {
        for text in ["identity", "linear", "mlp1x_gelu", "mlp2x_gelu", "mlp16x_gelu"] {
            assert_eq!(text.parse::<ProjectorKind>().map(|kind| kind.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "mlp", "mlp0x_gelu", "mlp17x_gelu", "mlpx_gelu", "mlp2x_relu", "resampler"] {
            assert!(text.parse::<ProjectorKind>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_identity_keeps_tokens_and_refuses_to_change_their_width() {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let identity = Projector::load(ProjectorKind::Identity, 3, 3, &vb).expect("equal widths");
        let tokens = Tensor::new(&[[[1f32, 2.0, 3.0]]], &Device::Cpu).expect("small");
        assert_eq!(identity.forward(&tokens).and_then(|y| y.to_vec3::<f32>()).expect("rank 3"), [[[1.0, 2.0, 3.0]]]);
        assert!(Projector::load(ProjectorKind::Identity, 3, 4, &vb).is_err());
    }
}
