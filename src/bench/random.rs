//! Random weights, scaled so that activations neither vanish nor explode.
//!
//! A tensor is seeded by its name: the same name gives the same values on the same kind of device. On a GPU they are
//! generated there. Used by the benchmarks where no released checkpoint is at hand.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::BenchTarget;

/// Values of one stream of the generator.
const PART: usize = 1 << 16;

/// Backend that generates every tensor on request.
struct RandomWeights;

impl RandomWeights {
    fn make(shape: &Shape, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        match shape.dims() {
            [width] if name.contains("norm") && name.ends_with("weight") => Tensor::ones(*width, dtype, device),
            [_] => Tensor::zeros(shape, dtype, device),
            dims => {
                let n_in: usize = dims[1..].iter().product();
                normal_tensor(name, (n_in as f32).powf(-0.5), shape, device)?.to_dtype(dtype)
            }
        }
    }
}

/// Makes an f32 tensor of a normal distribution with mean 0, seeded by its name.
pub(super) fn normal_tensor(name: &str, deviation: f32, shape: &Shape, device: &Device) -> Result<Tensor> {
    if device.is_cpu() {
        return Tensor::from_vec(normal(name, shape.elem_count(), deviation), shape, device);
    }
    let seed = blake3::hash(name.as_bytes());
    let (seed, _) = seed.as_bytes().split_at(4);
    device.set_seed(seed.iter().fold(0, |seed, &byte| seed << 8 | u64::from(byte)))?;
    Tensor::randn(0f32, deviation, shape, device)
}

/// Makes `n` values of a normal distribution with mean 0 (Box and Muller, Ann. Math. Stat. 29, 1958).
pub(super) fn normal(name: &str, n: usize, deviation: f32) -> Vec<f32> {
    let seed = *blake3::hash(name.as_bytes()).as_bytes();
    let mut values = vec![0.0; n];
    values.par_chunks_mut(PART).enumerate().for_each(|(i, part)| {
        let mut generator = ChaCha8Rng::from_seed(seed);
        generator.set_stream(i as u64);
        // In (0, 1], where the logarithm is finite.
        let mut uniform = || ((generator.next_u32() >> 8) + 1) as f32 / (1 << 24) as f32;
        for pair in part.chunks_mut(2) {
            let (radius, angle) = ((-2.0 * uniform().ln()).sqrt() * deviation, uniform() * std::f32::consts::TAU);
            pair.iter_mut().zip([angle.cos(), angle.sin()]).for_each(|(x, y)| *x = radius * y);
        }
    });
    values
}

impl SimpleBackend for RandomWeights {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        Self::make(&shape, name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: unknown shape of random weights")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Returns a loader of random weights of any name and shape on a target.
pub(super) fn weights(target: &BenchTarget) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(RandomWeights), target.dtype, target.device.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_normal_and_seeded_by_their_name() {
        let x = normal("a.weight", 100_001, 0.5);
        let moment = |power: i32| x.iter().map(|x| f64::from(x / 0.5).powi(power)).sum::<f64>() / x.len() as f64;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02 && (moment(4) - 3.0).abs() < 0.15);
        assert!(x == normal("a.weight", 100_001, 0.5) && x[..100] != normal("b.weight", 100, 0.5)[..]);
    }
}
