//! Several linear layers over the same input: query, key and value of an attention; gate and up of a feed-forward part.
//!
//! For inference they are one layer on every device, so that the input is read once and one product makes all outputs.
//! While they are trained they stay apart under their own names, and each has its gradient. Towers and language models
//! both use it.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

use super::linear::{Bias, Linear};
use super::linear_loader::LinearLoader;
use super::norm::Norm;

/// Names and widths of `N` linear layers over the same input.
#[derive(Debug, Clone, Copy)]
pub struct FusedConfig<'a, const N: usize> {
    /// Width of the input.
    pub d_in: usize,
    /// Name and output width of each layer, in the order of the outputs.
    pub outputs: [(&'a str, usize); N],
    /// Whether each layer has a bias.
    pub bias: Bias,
}

/// `N` linear layers over the same input.
#[derive(Debug)]
pub struct Fused<const N: usize> {
    weights: FusedWeights<N>,
    widths: [usize; N],
}

#[derive(Debug)]
enum FusedWeights<const N: usize> {
    /// One layer each: while they are trained, or where they cannot be joined.
    Apart([Linear; N]),
    /// One layer whose outputs are side by side: for inference.
    Joined(Linear),
}

impl<const N: usize> Fused<N> {
    /// Reads each layer from `loader`; `vb` points at the module that the names belong to. The layers stay apart
    /// until [`Self::pack`].
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn load(config: &FusedConfig<'_, N>, vb: &VarBuilder, loader: &dyn LinearLoader) -> Result<Self> {
        let load = |(name, d_out)| loader.linear(config.d_in, d_out, config.bias, &vb.pp(name));
        let layers = config.outputs.into_iter().map(load).collect::<Result<Vec<_>>>()?;
        Ok(Self { weights: FusedWeights::Apart(array(layers)?), widths: config.outputs.map(|(_, d_out)| d_out) })
    }

    /// Packs the layers for inference and joins them: panels of packed and of quantized weights where all layers have
    /// the same format and fill whole panels, weights as they were read on any device. Layers that want a gradient,
    /// that differ in format, or of which only some have a bias, stay apart.
    ///
    /// # Errors
    /// When candle fails.
    pub fn pack(&mut self) -> Result<()> {
        let FusedWeights::Apart(layers) = &mut self.weights else { return Ok(()) };
        if let Some(mut joined) = Linear::join(&layers.each_ref())? {
            joined.pack()?;
            self.weights = FusedWeights::Joined(joined);
            return Ok(());
        }
        layers.iter_mut().try_for_each(Linear::pack)?;
        if let Some(joined) = Linear::join(&layers.each_ref())? {
            self.weights = FusedWeights::Joined(joined);
        }
        Ok(())
    }

    /// The layers: `N`, or the one that they were joined to.
    pub fn layers(&self) -> &[Linear] {
        match &self.weights {
            FusedWeights::Apart(layers) => layers,
            FusedWeights::Joined(layer) => std::slice::from_ref(layer),
        }
    }

    /// Width of each output.
    pub fn widths(&self) -> [usize; N] {
        self.widths
    }

    /// The output of each layer. Outputs of joined layers are views into one tensor, and as such not contiguous.
    ///
    /// # Shapes
    /// `(..., d_in)` to `(..., widths[i])`.
    ///
    /// # Errors
    /// When the last dimension is not `d_in`.
    pub fn forward(&self, x: &Tensor) -> Result<[Tensor; N]> {
        match &self.weights {
            FusedWeights::Apart(layers) => array(layers.iter().map(|layer| layer.forward(x)).collect::<Result<_>>()?),
            FusedWeights::Joined(layer) => self.split(&layer.forward(x)?),
        }
    }

    /// As [`Self::forward`] of the normalised `x`, the outputs side by side in one tensor. Layers that stay apart cost
    /// a concatenation here; [`Self::forward_normalised_parts`] costs none.
    ///
    /// # Shapes
    /// `(..., d_in)` to `(..., sum of widths)`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_normalised(&self, x: &Tensor, norm: &impl AsRef<Norm>) -> Result<Tensor> {
        match &self.weights {
            FusedWeights::Apart(_) => Tensor::cat(&self.forward_normalised_parts(x, norm)?, D::Minus1),
            FusedWeights::Joined(layer) => layer.forward_normalised(x, norm),
        }
    }

    /// As [`Self::forward`] of the normalised `x`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_normalised_parts(&self, x: &Tensor, norm: &impl AsRef<Norm>) -> Result<[Tensor; N]> {
        match &self.weights {
            FusedWeights::Apart(_) => self.forward(&norm.as_ref().forward(x)?),
            FusedWeights::Joined(layer) => self.split(&layer.forward_normalised(x, norm)?),
        }
    }

    /// Views of outputs that are side by side.
    ///
    /// # Shapes
    /// `(..., sum of widths)` to `(..., widths[i])`.
    ///
    /// # Errors
    /// When the last dimension is another one.
    pub fn split(&self, outputs: &Tensor) -> Result<[Tensor; N]> {
        let width = outputs.dim(D::Minus1)?;
        if width != self.widths.iter().sum::<usize>() {
            candle_core::bail!("outputs of {width} are not those of layers of {:?}", self.widths);
        }
        let mut first = 0;
        let part = |width: usize| {
            let part = outputs.narrow(D::Minus1, first, width);
            first += width;
            part
        };
        array(self.widths.into_iter().map(part).collect::<Result<_>>()?)
    }
}

/// The `N` items of a list.
fn array<T, const N: usize>(items: Vec<T>) -> Result<[T; N]> {
    let n = items.len();
    items.try_into().map_err(|_| candle_core::Error::msg(format!("{n} fused layers where {N} are expected")))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};

    use super::*;
    use crate::kernels::QuantFormat;
    use crate::kernels::finite_difference::{assert_gradients, random};
    use crate::nn::{FullPrecisionLoader, Purpose, QuantizingLoader, RmsNorm};

    /// Query of `n` heads and key, value of one each: heads of `d`.
    fn config(d_in: usize, n: usize, d: usize) -> FusedConfig<'static, 3> {
        FusedConfig { d_in, outputs: [("q_proj", n * d), ("k_proj", d), ("v_proj", d)], bias: Bias::With }
    }

    fn weights(config: &FusedConfig<'_, 3>, dtype: DType) -> VarBuilder<'static> {
        let mut tensors = HashMap::new();
        for (seed, (name, d_out)) in (1..).zip(config.outputs) {
            tensors.insert(format!("{name}.weight"), random((d_out, config.d_in), seed));
            tensors.insert(format!("{name}.bias"), random(d_out, seed + 10));
        }
        VarBuilder::from_tensors(tensors, dtype, &Device::Cpu)
    }

    fn elements(x: &Tensor) -> Vec<f32> {
        x.flatten_all().and_then(|x| x.to_dtype(DType::F32)?.to_vec1()).expect("numeric")
    }

    /// The outputs of the same layers alone, each packed for itself.
    fn alone(config: &FusedConfig<'_, 3>, vb: &VarBuilder, loader: &dyn LinearLoader, x: &Tensor) -> [Tensor; 3] {
        config.outputs.map(|(name, d_out)| {
            let mut layer = loader.linear(config.d_in, d_out, config.bias, &vb.pp(name)).expect("in the map");
            layer.pack().and_then(|()| layer.forward(x)).expect("the widths fit")
        })
    }

    #[test]
    fn joined_layers_give_what_each_gives_alone() {
        // Heads that fill a kernel's panels, and heads that do not.
        for (d_in, d) in [(256, 32), (64, 5)] {
            let config = config(d_in, 2, d);
            let x = random((2, 3, d_in), 7);
            for loader in [
                &FullPrecisionLoader(Purpose::Training) as &dyn LinearLoader,
                &QuantizingLoader(QuantFormat::Q4K),
                &QuantizingLoader(QuantFormat::Q8_0),
            ] {
                let vb = weights(&config, DType::F32);
                let mut fused = Fused::load(&config, &vb, loader).expect("in the map");
                fused.pack().expect("f32 on the CPU");
                let found = fused.forward(&x).expect("the widths fit");
                for (found, alone) in found.iter().zip(alone(&config, &vb, loader, &x)) {
                    assert_eq!(found.dims(), alone.dims());
                    assert_eq!(elements(found), elements(&alone));
                }
                assert_eq!(fused.widths(), [2 * d, d, d]);
            }
        }
    }

    #[test]
    fn layers_are_joined_in_every_precision_where_they_are_alike() {
        let layers = |fused: &Fused<3>| fused.layers().len();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let config = config(64, 2, 5);
            let vb = weights(&config, dtype);
            let mut fused = Fused::load(&config, &vb, &FullPrecisionLoader(Purpose::Training)).expect("in the map");
            let x = random((3, 64), 7).to_dtype(dtype).expect("numeric");
            let apart = fused.forward(&x).expect("the widths fit").map(|y| elements(&y));
            assert_eq!(layers(&fused), 3);
            fused.pack().expect("on the CPU");
            assert_eq!(layers(&fused), 1, "{dtype:?}");
            for (joined, apart) in fused.forward(&x).expect("the widths fit").iter().zip(apart) {
                assert!(elements(joined).iter().zip(&apart).all(|(a, b)| (a - b).abs() <= 1e-2 * b.abs().max(1.0)));
            }
        }
        // Keys of 5 columns do not fill a panel of quantized weights.
        let config = config(64, 2, 5);
        let mut fused =
            Fused::load(&config, &weights(&config, DType::F32), &QuantizingLoader(QuantFormat::Q8_0)).expect("read");
        fused.pack().expect("f32 on the CPU");
        assert_eq!(layers(&fused), 3);
    }

    #[test]
    fn layers_of_several_formats_stay_apart() {
        struct ValueInFull;
        impl LinearLoader for ValueInFull {
            fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear> {
                let mut layer = Linear::load(d_in, d_out, bias, vb)?;
                if !vb.prefix().ends_with("v_proj") {
                    layer.quantize(QuantFormat::Q8_0)?;
                }
                Ok(layer)
            }

            fn convert(&self, _: &mut Linear) -> Result<()> {
                Ok(())
            }

            fn reads_in_parallel(&self) -> bool {
                true
            }

            fn purpose(&self) -> Purpose {
                Purpose::Inference
            }
        }
        let config = config(64, 2, 32);
        let (vb, x) = (weights(&config, DType::F32), random((1, 2, 64), 7));
        let mut fused = Fused::load(&config, &vb, &ValueInFull).expect("in the map");
        fused.pack().expect("f32 on the CPU");
        assert_eq!(
            fused.layers().iter().map(Linear::format).collect::<Vec<_>>(),
            [Some(QuantFormat::Q8_0), Some(QuantFormat::Q8_0), None]
        );
        let found = fused.forward(&x).expect("the widths fit");
        for (found, alone) in found.iter().zip(alone(&config, &vb, &ValueInFull, &x)) {
            assert_eq!(elements(found), elements(&alone));
        }
    }

    #[test]
    fn outputs_of_a_normalised_input_stand_side_by_side() {
        let config = config(64, 2, 32);
        let (vb, x) = (weights(&config, DType::F32), random((2, 3, 64), 7));
        let norm = RmsNorm::new(random(64, 8), 1e-5).expect("f32");
        let mut fused = Fused::load(&config, &vb, &FullPrecisionLoader(Purpose::Training)).expect("in the map");
        let run = |fused: &Fused<3>| {
            let all = fused.forward_normalised(&x, &norm).expect("the widths fit");
            let parts = fused.forward_normalised_parts(&x, &norm).expect("the widths fit");
            assert_eq!(elements(&all), elements(&Tensor::cat(&parts, 2).expect("rows")));
            assert_eq!(all.dims(), [2, 3, 128]);
            elements(&all)
        };
        let apart = run(&fused);
        fused.pack().expect("f32 on the CPU");
        assert!(run(&fused).iter().zip(&apart).all(|(a, b)| (a - b).abs() < 2e-5 * b.abs().max(1.0)));
        assert!(fused.split(&random((2, 127), 1)).is_err());
    }

    #[test]
    fn layers_that_are_trained_stay_apart_and_have_their_gradients() {
        let run = |t: &[Tensor]| {
            let layers = [Linear::from_weight(t[1].clone()), Linear::from_weight(t[2].clone())];
            let mut fused = Fused { weights: FusedWeights::Apart(layers), widths: [3, 2] };
            fused.pack()?;
            let norm = RmsNorm::new(t[3].clone(), 1e-5)?;
            fused.forward_normalised(&t[0], &norm)
        };
        assert_gradients(&[random((2, 4), 1), random((3, 4), 2), random((2, 4), 3), random(4, 4)], run);
    }
}
