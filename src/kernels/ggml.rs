//! Linear layers of quantized weights by candle's kernels for GGML's formats: on GPUs, and on the CPU in half
//! precision.
//!
//! Weights are quantized in the host's memory, row by row and on all cores, so that they are bit-identical on every
//! device. Activations are multiplied in f32, which is what all of candle's kernels take, and rounded to their own
//! precision once the bias is added.
//!
//! On a GPU candle's kernels are machine code for one compute capability, and a launch that fails is not reported: so
//! they are proven on each GPU before its first layer is made.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::candle::activate;
use super::{Activation, QuantFormat, StoredLinear};

/// Rows that are quantized at a time.
const ROWS: usize = 64;

/// A linear layer of quantized weights. Clones share the weights.
#[derive(Debug, Clone)]
pub(crate) struct GgmlLinear {
    /// `(d_out, d_in)`.
    weight: Arc<QTensor>,
    /// `(d_out)`, in f32.
    bias: Option<Tensor>,
    format: QuantFormat,
}

impl GgmlLinear {
    /// Quantizes a weight `(d_out, d_in)`, which stays on its device.
    ///
    /// # Errors
    /// When the rows are no multiple of the format's unit, or the device has no room.
    pub(crate) fn quantize(weight: &Tensor, bias: Option<&Tensor>, format: QuantFormat) -> Result<Self> {
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
        Self::new((blocks(weight, format)?, weight.dims2()?, weight.device()), bias, format)
    }

    /// Takes a weight as it is stored, its rows in the order of the outputs.
    ///
    /// # Errors
    /// When the weight has another format, or the device has no room.
    pub(crate) fn load(stored: &StoredLinear<'_>) -> Result<Self> {
        let StoredLinear { weight, device, format, row, ref bias } = *stored;
        if weight.dtype() != format.ggml() {
            candle_core::bail!("weights in {:?} are not in {format}", weight.dtype());
        }
        let (d_out, d_in) = weight.shape().dims2()?;
        let bytes = weight.data()?;
        let row_bytes = d_in / format.ggml().block_size() * format.ggml().type_size();
        let rows = (0..d_out).flat_map(|i| &bytes[row(i) * row_bytes..][..row_bytes]).copied().collect();
        let bias = bias.as_ref().map(|bias| bias.to_device(device)?.to_dtype(DType::F32)).transpose()?;
        Self::new((rows, (d_out, d_in), device), bias, format)
    }

    /// A layer of blocks in GGML's layout.
    fn new(
        (blocks, shape, device): (Vec<u8>, (usize, usize), &Device),
        bias: Option<Tensor>,
        format: QuantFormat,
    ) -> Result<Self> {
        #[cfg(feature = "cuda")]
        prove(device)?;
        let storage = QStorage::from_data(Cow::Owned(blocks), device, format.ggml())?;
        Ok(Self { weight: Arc::new(QTensor::new(storage, shape)?), bias, format })
    }

    /// Several layers over the same input as one; none where formats or devices differ, or only some have a bias.
    ///
    /// # Errors
    /// When the device has no room.
    pub(crate) fn join(layers: &[&Self]) -> Result<Option<Self>> {
        let Some(first) = layers.first() else { return Ok(None) };
        let (device, (_, d_in)) = (first.weight.device(), first.weight.shape().dims2()?);
        let is_alike = |layer: &&&Self| {
            layer.format == first.format
                && layer.weight.device().same_device(&device)
                && layer.weight.shape().dims().last() == Some(&d_in)
        };
        let biases: Vec<&Tensor> = layers.iter().filter_map(|layer| layer.bias.as_ref()).collect();
        if !layers.iter().all(|layer| is_alike(&layer)) || ![0, layers.len()].contains(&biases.len()) {
            return Ok(None);
        }
        let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)?) };
        let (mut blocks, mut d_out) = (Vec::new(), 0);
        for layer in layers {
            blocks.extend_from_slice(&layer.weight.data()?);
            d_out += layer.weight.shape().dims2()?.0;
        }
        Self::new((blocks, (d_out, d_in), &device), bias, first.format).map(Some)
    }

    /// Format of the weights.
    pub(crate) fn format(&self) -> QuantFormat {
        self.format
    }

    /// `activation(x W^T + b)`.
    ///
    /// # Shapes
    /// `(..., d_in)` to `(..., d_out)`, in the precision of `x`.
    ///
    /// # Errors
    /// When the last dimension of `x` is not `d_in`, or `x` wants a gradient.
    pub(crate) fn forward(&self, x: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
        if x.track_op() {
            candle_core::bail!("a quantized layer has no gradient");
        }
        // Candle's products are no part of a CUDA graph.
        #[cfg(any(feature = "cuda", test))]
        super::cuda::recording::refuse("a product of quantized weights")?;
        let (d_out, _) = self.weight.shape().dims2()?;
        let mut dims = x.dims().to_vec();
        let d_in = dims.pop().unwrap_or(0);
        dims.push(d_out);
        let rows = x.reshape(((), d_in))?.to_dtype(DType::F32)?.contiguous()?; // (rows, d_in)
        let mut y = rows.apply_op1_no_bwd(&*self.weight)?; // (rows, d_out)
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some(activation) = activation {
            y = activate(&y, activation)?;
        }
        y.to_dtype(x.dtype())?.reshape(dims)
    }
}

/// Fails on a GPU that candle's kernels do not run on. A GPU that they do is asked once.
///
/// # Errors
/// When the build is for another compute capability, or the device does not answer.
#[cfg(feature = "cuda")]
fn prove(device: &Device) -> Result<()> {
    use std::collections::HashSet;
    use std::sync::{Mutex, PoisonError};

    use candle_core::cuda_backend::{DeviceId, WrapErr};

    static PROVEN: Mutex<Option<HashSet<DeviceId>>> = Mutex::new(None);
    let Device::Cuda(gpu) = device else { return Ok(()) };
    let mut proven = PROVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let proven = proven.get_or_insert_default();
    if proven.contains(&gpu.id()) {
        return Ok(());
    }
    let cause = match multiplies_ones(device) {
        Ok(true) => {
            proven.insert(gpu.id());
            return Ok(());
        }
        Ok(false) => "a product of ones is wrong".to_owned(),
        Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
    };
    let (major, minor) = gpu.cuda_stream().context().compute_capability().w()?;
    candle_core::bail!(
        "quantized weights: the kernels of this build do not run on a GPU of compute capability {major}.{minor}: \
         {cause}; hint: a build with CUDA_COMPUTE_CAP={major}{minor}, or no --quant"
    )
}

/// Whether products of ones are right, by the kernels for few rows and for many.
#[cfg(any(feature = "cuda", test))]
fn multiplies_ones(device: &Device) -> Result<bool> {
    const D_IN: usize = 256;
    let format = QuantFormat::Q8_0;
    let ones = Tensor::ones((32, D_IN), DType::F32, &Device::Cpu)?;
    let storage = QStorage::from_data(Cow::Owned(blocks(&ones, format)?), device, format.ggml())?;
    let weight = QTensor::new(storage, (32, D_IN))?;
    for rows in [1, 16] {
        let x = Tensor::from_vec(vec![1f32; rows * D_IN], (rows, D_IN), device)?;
        let y = x.apply_op1_no_bwd(&weight)?.flatten_all()?.to_vec1::<f32>()?; // (rows 32)
        // False for NaN too.
        if !y.iter().all(|y| (y - D_IN as f32).abs() <= 3.0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Quantizes a weight `(d_out, d_in)` in the host's memory.
///
/// # Errors
/// When the rows are no multiple of the format's unit.
pub fn quantize(weight: &Tensor, format: QuantFormat) -> Result<QTensor> {
    let storage = QStorage::from_data(Cow::Owned(blocks(weight, format)?), &Device::Cpu, format.ggml())?;
    QTensor::new(storage, weight.dims2()?)
}

/// The blocks of a quantized weight, row after row.
fn blocks(weight: &Tensor, format: QuantFormat) -> Result<Vec<u8>> {
    let (d_out, _) = weight.dims2()?;
    let rows = weight.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
    let starts: Vec<usize> = (0..d_out).step_by(ROWS).collect();
    let part = |&start: &usize| {
        // Candle quantizes all that a tensor's storage has: a view is not enough.
        let rows = rows.narrow(0, start, ROWS.min(d_out - start))?.force_contiguous()?;
        Ok(QTensor::quantize(&rows, format.ggml())?.data()?.into_owned())
    };
    let parts: Vec<Vec<u8>> = starts.par_iter().map(part).collect::<Result<_>>()?;
    Ok(parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::of;
    use candle_core::Var;

    /// The devices that there are.
    fn devices() -> Vec<Device> {
        let gpu = crate::device::DeviceSpec::Auto.open().ok().filter(|device| !device.is_cpu());
        [Device::Cpu].into_iter().chain(gpu).collect()
    }

    fn random(shape: (usize, usize), seed: f32) -> Tensor {
        let values =
            (0..shape.0 * shape.1).map(|i| ((i as f32 + seed) * 0.7391).sin() * ((i % 7) as f32 + 0.5)).collect();
        Tensor::from_vec::<_, f32>(values, shape, &Device::Cpu).expect("small")
    }

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        let all = |x: &Tensor| {
            let x = x.to_device(&Device::Cpu).and_then(|x| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>());
            x.expect("small")
        };
        let (a, b) = (all(a), all(b));
        let largest = b.iter().fold(f32::MIN_POSITIVE, |most, b| most.max(b.abs()));
        a.iter().zip(&b).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
    }

    #[test]
    fn quantized_layers_agree_with_those_of_the_cpu_in_every_precision() {
        let (weight, bias, x) = (random((96, 512), 1.0), random((1, 96), 2.0), random((5, 512), 3.0));
        let bias = bias.squeeze(0).expect("one row");
        let cpu = of(&Device::Cpu, DType::F32);
        for format in [QuantFormat::Q8_0, QuantFormat::Q4K] {
            let quantized = cpu.quantize(&weight, Some(&bias), format).expect("it fits").expect("it fits");
            let expected = quantized.forward(&x, None, Some(Activation::Gelu)).expect("the widths fit");
            for device in devices() {
                for (dtype, tolerance) in [(DType::F32, 1e-2), (DType::F16, 2e-2), (DType::BF16, 4e-2)] {
                    let place = |x: &Tensor| x.to_device(&device)?.to_dtype(dtype);
                    let [weight, bias, x] = [&weight, &bias, &x].map(|x| place(x).expect("room"));
                    let layer = GgmlLinear::quantize(&weight, Some(&bias), format).expect("it fits");
                    let y = layer.forward(&x, Some(Activation::Gelu)).expect("the widths fit");
                    assert_eq!((y.dims(), y.dtype()), (&[5, 96][..], dtype));
                    let found = difference(&y, &expected);
                    assert!(found < tolerance, "{format} {dtype:?}: {found}");
                }
            }
        }
    }

    #[test]
    fn products_of_ones_are_right_on_every_device() {
        for device in devices() {
            assert!(multiplies_ones(&device).expect("it answers"), "{device:?}");
        }
    }

    #[test]
    fn stored_rows_come_in_the_order_of_the_outputs_and_joined_layers_side_by_side() {
        let weight = random((6, 64), 1.0);
        let stored = QTensor::quantize(&weight, QuantFormat::Q8_0.ggml()).expect("it fits");
        for device in devices() {
            let load = |row: &(dyn Fn(usize) -> usize + Sync)| {
                let stored =
                    StoredLinear { weight: &stored, device: &device, format: QuantFormat::Q8_0, row, bias: None };
                of(&device, DType::BF16).load_quantized(&stored).expect("its own format")
            };
            let (plain, turned) = (load(&|i| i), load(&|i| 5 - i));
            let x = random((2, 64), 4.0).to_device(&device).and_then(|x| x.to_dtype(DType::BF16)).expect("room");
            let y = |layer: &crate::kernels::PackedLinear| {
                let y = layer.forward(&x, None, None).and_then(|y| y.to_dtype(DType::F32)?.to_vec2::<f32>());
                y.expect("the widths fit")
            };
            let (a, b) = (y(&plain), y(&turned));
            assert!(a.iter().zip(&b).all(|(a, b)| a.iter().eq(b.iter().rev())));
            let joined = crate::kernels::PackedLinear::join(&[&plain, &turned]).expect("room").expect("they are alike");
            let joined = y(&joined);
            assert!(joined.iter().zip(a.iter().zip(&b)).all(|(row, (a, b))| row[..6] == a[..] && row[6..] == b[..]));
        }
    }

    #[test]
    fn other_widths_formats_and_gradients_are_refused() {
        let layer = GgmlLinear::quantize(&random((3, 32), 0.0), None, QuantFormat::Q8_0).expect("it fits");
        assert!(layer.forward(&random((2, 31), 0.0), None).is_err());
        let tracked = Var::from_tensor(&random((2, 32), 0.0)).expect("small");
        assert!(layer.forward(&tracked, None).expect_err("no gradient").to_string().contains("no gradient"));
        let recorded = crate::kernels::cuda::recording::record(|| layer.forward(&random((2, 32), 0.0), None).map(drop));
        assert!(recorded.expect_err("candle's product").to_string().contains("cannot be recorded"));
        let stored = QTensor::quantize(&random((3, 32), 0.0), QuantFormat::Q8_0.ggml()).expect("it fits");
        let stored =
            StoredLinear { weight: &stored, device: &Device::Cpu, format: QuantFormat::Q4K, row: &|i| i, bias: None };
        assert!(GgmlLinear::load(&stored).expect_err("another format").to_string().contains("not in q4_k"));
        // Rows of 100 fit no format.
        let kernels = of(&Device::Cpu, DType::F16);
        let weight = random((3, 100), 0.0).to_dtype(DType::F16).expect("small");
        assert!(kernels.quantize(&weight, None, QuantFormat::Q4K).expect("nothing is done").is_none());
    }
}
