//! Kinds of projectors: depth, activation, biases and input norm, and their names in `config.json`.
//!
//! Reference: `build_vision_projector` of `multimodal_projector/builder.py` (LLaVA), and `ACT2FN` of Hugging Face
//! transformers for the names of activations. Weights are read by [`Projector`](super::Projector).

use std::fmt;
use std::str::FromStr;

use candle_core::{Result, Tensor};
use serde::{Serialize, Serializer};

use crate::error::Error;
use crate::kernels::{Activation, Kernels};

/// A kind of projector, as `mm_projector_type` names it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ProjectorKind {
    /// No matrix: the widths are equal.
    Identity,
    /// One matrix, `linear`.
    Linear(ProjectorBias),
    /// `mlp{n}x_gelu`: `n` matrices with an activation between them.
    Mlp(Mlp),
}

/// A projector of several matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mlp {
    /// The layer norm before the first matrix, where there is one.
    pub norm: Option<InputNorm>,
    /// Linear layers.
    pub depth: usize,
    /// Activation between two matrices.
    pub activation: ProjectorActivation,
    /// Biases of the matrices.
    pub bias: ProjectorBias,
}

/// A layer norm over a projector's input: ViP-LLaVA's and InternVL's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputNorm {
    /// Epsilon of the layer norm.
    pub eps: f64,
}

impl Mlp {
    /// LLaVA's `mlp{depth}x_gelu`.
    pub fn gelu(depth: usize) -> Self {
        Self { norm: None, depth, activation: ProjectorActivation::Gelu, bias: ProjectorBias::AsStored }
    }
}

/// The function between a projector's matrices, as `projector_hidden_act` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ProjectorActivation {
    /// GELU by the error function.
    #[strum(to_string = "gelu", serialize = "gelu_python")]
    Gelu,
    /// GELU by the hyperbolic tangent, under each of its names.
    #[strum(
        to_string = "gelu_pytorch_tanh",
        serialize = "gelu_python_tanh",
        serialize = "gelu_new",
        serialize = "gelu_fast",
        serialize = "gelu_accurate"
    )]
    GeluTanh,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x sigmoid(x)`.
    #[strum(to_string = "silu", serialize = "swish")]
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// No activation between the matrices.
    Linear,
}

impl ProjectorActivation {
    fn name(self) -> &'static str {
        self.into()
    }

    /// Applies the activation to each value.
    pub(super) fn apply(self, x: &Tensor, kernels: &dyn Kernels) -> Result<Tensor> {
        match self {
            Self::Gelu => kernels.activate(x, Activation::Gelu),
            Self::GeluTanh => kernels.activate(x, Activation::GeluTanh),
            Self::QuickGelu => kernels.activate(x, Activation::QuickGelu),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => candle_nn::ops::sigmoid(x),
            Self::Linear => Ok(x.clone()),
        }
    }
}

/// Biases of a projector's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectorBias {
    /// Biases where the checkpoint stores them: LLaVA's `config.json` does not say.
    AsStored,
    /// A bias per matrix; `multimodal_projector_bias: true`.
    With,
    /// No bias; `multimodal_projector_bias: false`.
    Without,
}

/// Largest number of matrices; a larger one is a mistake in a file.
const MAX_DEPTH: usize = 16;

impl FromStr for ProjectorKind {
    type Err = Error;

    fn from_str(text: &str) -> std::result::Result<Self, Error> {
        let depth = text.strip_prefix("mlp").and_then(|rest| rest.strip_suffix("x_gelu"));
        match (text, depth.map(str::parse::<usize>)) {
            ("identity", _) => Ok(Self::Identity),
            ("linear", _) => Ok(Self::Linear(ProjectorBias::AsStored)),
            (_, Some(Ok(depth))) if (1..=MAX_DEPTH).contains(&depth) => Ok(Self::Mlp(Mlp::gelu(depth))),
            _ => Err(Error::invalid(format!("projector `{text}` is not supported"))
                .with_hint(format!("linear, mlp2x_gelu (or another depth to {MAX_DEPTH}), identity"))),
        }
    }
}

impl fmt::Display for ProjectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::Linear(_) => f.write_str("linear"),
            Self::Mlp(mlp) => {
                let norm = if mlp.norm.is_some() { "layer norm, " } else { "" };
                write!(f, "{norm}mlp{}x_{}", mlp.depth, mlp.activation.name())
            }
        }
    }
}

impl Serialize for ProjectorKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;
    use candle_core::{DType, Device};

    #[test]
    fn kinds_print_as_they_are_read() {
        for text in ["identity", "linear", "mlp1x_gelu", "mlp2x_gelu", "mlp16x_gelu"] {
            assert_eq!(text.parse::<ProjectorKind>().expect("a known kind").to_string(), text);
        }
        for text in ["", "mlp", "mlp0x_gelu", "mlp17x_gelu", "mlpx_gelu", "mlp2x_relu", "resampler"] {
            assert!(text.parse::<ProjectorKind>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_activation_is_that_of_its_name() {
        let x = Tensor::new(&[-1f32, 2.0], &Device::Cpu).expect("small");
        // gelu(2) = 2 * 0.97725; tanh form: 1.9546; 2 * sigmoid(3.404) = 1.9356; silu: 2 * sigmoid(2) = 1.7616.
        for (name, negative, positive) in [
            ("gelu", -0.158_655, 1.954_5),
            ("gelu_new", -0.158_808, 1.954_598),
            ("gelu_fast", -0.158_808, 1.954_598),
            ("quick_gelu", -0.154_203, 1.935_656),
            ("relu", 0.0, 2.0),
            ("swish", -0.268_941, 1.761_594),
            ("tanh", -0.761_594, 0.964_028),
            ("sigmoid", 0.268_941, 0.880_797),
            ("linear", -1.0, 2.0),
        ] {
            let activation = name.parse::<ProjectorActivation>().expect("a known name");
            let y = activation.apply(&x, kernels::of(&Device::Cpu, DType::F32)).expect("small");
            let y: Vec<f32> = y.to_vec1().expect("rank 1");
            assert!((y[0] - negative).abs() < 1e-5 && (y[1] - positive).abs() < 1e-5, "{name}: {y:?}");
        }
        assert!("gelu_10".parse::<ProjectorActivation>().is_err());
    }
}
