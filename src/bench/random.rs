//! Weights that nobody trained: of the right size, so that numbers neither vanish nor explode.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

/// Makes every tensor that is asked for.
struct Random;

impl Random {
    fn make(shape: &Shape, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        match shape.dims() {
            [width] if name.contains("norm") && name.ends_with("weight") => Tensor::ones(*width, dtype, device),
            [_] => Tensor::zeros(shape, dtype, device),
            dims => {
                let n_in: usize = dims[1..].iter().product();
                Tensor::randn(0f32, (n_in as f32).powf(-0.5), shape, device)?.to_dtype(dtype)
            }
        }
    }
}

impl SimpleBackend for Random {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        Self::make(&shape, name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: random weights have no shape of their own")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Random weights of any name and shape, in f32 on the CPU.
pub(super) fn weights() -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Random), DType::F32, Device::Cpu)
}
