//! The projector: from the connector's width to the language model's, token by token.
//!
//! A layer norm in some families, then linear layers with an activation between them; no token sees another. Reference:
//! `multimodal_projector/builder.py` of the released LLaVA and Dense Connector code. The kinds and their names are in
//! `projector/kind.rs`. Called by the vision encoder (`vlm/`) and by training.

mod kind;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernels::{self, Kernels};
use crate::nn::LayerNorm;
use crate::nn::linear::{Bias, Linear};

pub use kind::{InputNorm, Mlp, ProjectorActivation, ProjectorBias, ProjectorKind};

/// A projector.
#[derive(Debug)]
pub struct Projector {
    norm: Option<LayerNorm>,
    layers: Vec<Linear>,
    activation: ProjectorActivation,
    kernels: &'static dyn Kernels,
}

impl Projector {
    /// Reads a projector. The matrices are named as in PyTorch's `Sequential`: `0`, `2`, `4`, the activations between
    /// them counted; a `linear` one has no number. The layer norm before them is `norm`.
    ///
    /// # Errors
    /// When the weights cannot be read, or the identity is asked to change the width.
    pub fn load(kind: ProjectorKind, d_in: usize, d_out: usize, vb: &VarBuilder) -> Result<Self> {
        let mlp = match kind {
            ProjectorKind::Mlp(mlp) => mlp,
            ProjectorKind::Linear(bias) => Mlp { bias, ..Mlp::gelu(1) },
            ProjectorKind::Identity => Mlp::gelu(1),
        };
        let norm = mlp.norm.map(|norm| LayerNorm::load(d_in, norm.eps, &vb.pp("norm"))).transpose()?;
        let load = |d_in, vb: VarBuilder| {
            let is_left_out = vb.contains_tensor("weight") && !vb.contains_tensor("bias");
            let bias = match mlp.bias {
                ProjectorBias::AsStored if is_left_out => Bias::Without,
                ProjectorBias::Without => Bias::Without,
                ProjectorBias::AsStored | ProjectorBias::With => Bias::With,
            };
            Linear::load(d_in, d_out, bias, &vb)
        };
        let layers = match kind {
            ProjectorKind::Identity if d_in != d_out => {
                candle_core::bail!("an identity projector cannot map width {d_in} to {d_out}")
            }
            ProjectorKind::Identity => Vec::new(),
            ProjectorKind::Linear(_) => vec![load(d_in, vb.clone())?],
            ProjectorKind::Mlp(_) => {
                let width = |i| if i == 0 { d_in } else { d_out };
                (0..mlp.depth).map(|i| load(width(i), vb.pp(2 * i))).collect::<Result<_>>()?
            }
        };
        Ok(Self { norm, layers, activation: mlp.activation, kernels: kernels::of(vb.device(), vb.dtype()) })
    }

    /// Packs the weights for inference, where that may be: see [`Linear::pack`].
    ///
    /// # Errors
    /// When candle fails.
    pub fn pack(&mut self) -> Result<()> {
        self.layers.iter_mut().try_for_each(Linear::pack)
    }

    /// Projects each token.
    ///
    /// # Shapes
    /// `(T, N', k D)` to `(T, N', H)`.
    ///
    /// # Errors
    /// When the width does not fit.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let mut x = self.norm.as_ref().map_or_else(|| Ok(tokens.clone()), |norm| norm.forward(tokens))?;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&if i == 0 { x } else { self.activation.apply(&x, self.kernels)? })?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn the_identity_keeps_tokens_and_refuses_to_change_their_width() {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let identity = Projector::load(ProjectorKind::Identity, 3, 3, &vb).expect("equal widths");
        let tokens = Tensor::new(&[[[1f32, 2.0, 3.0]]], &Device::Cpu).expect("small");
        assert_eq!(identity.forward(&tokens).and_then(|y| y.to_vec3::<f32>()).expect("rank 3"), [[[1.0, 2.0, 3.0]]]);
        assert!(Projector::load(ProjectorKind::Identity, 3, 4, &vb).is_err());
    }
}
