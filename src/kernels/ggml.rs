//! Linear layers with weights in GGML's formats, by candle's kernels: on GPUs, and on the CPU in half precision.
//!
//! Weights are quantized in host memory, row by row and on all cores, so that they are bit-identical on every device.
//! Activations are converted to f32, the only input type of candle's kernels, and the result is rounded to the
//! activations' precision after the bias and the activation.
//!
//! On a GPU candle's kernels are machine code for one compute capability, and a failed launch is not reported:
//! `check_gpu` therefore runs a self-test on each GPU before its first layer is created.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::candle::activate;
use super::{Activation, QuantFormat, StoredLinear};

/// Rows of a task of parallel quantization.
const ROWS: usize = 64;

/// Linear layer with quantized weights. Clones share the weights.
#[derive(Debug, Clone)]
pub(crate) struct GgmlLinear {
    /// Weight `(d_out, d_in)`.
    weight: Arc<QTensor>,
    /// Bias `(d_out)`, in f32.
    bias: Option<Tensor>,
    format: QuantFormat,
}

impl GgmlLinear {
    /// Quantizes a weight `(d_out, d_in)` to a layer on the weight's device.
    ///
    /// # Errors
    /// When `d_in` is not a multiple of the format's unit, or the device is out of memory.
    pub(crate) fn quantize(weight: &Tensor, bias: Option<&Tensor>, format: QuantFormat) -> Result<Self> {
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
        let blocks = GgmlBlocks { bytes: quantized_blocks(weight, format)?, shape: weight.dims2()?, format };
        Self::new(blocks, bias, weight.device())
    }

    /// Loads a stored weight without requantization, its rows permuted to the order of the outputs.
    ///
    /// # Errors
    /// When the weight has another format, or the device is out of memory.
    pub(crate) fn load(stored: &StoredLinear<'_>) -> Result<Self> {
        let StoredLinear { weight, device, format, row, ref bias } = *stored;
        if weight.dtype() != format.ggml() {
            candle_core::bail!("quantized weight in {:?}, not in {format}", weight.dtype());
        }
        let (d_out, d_in) = weight.shape().dims2()?;
        let bytes = weight.data()?;
        let row_bytes = d_in / format.ggml().block_size() * format.ggml().type_size();
        let bytes = (0..d_out).flat_map(|i| &bytes[row(i) * row_bytes..][..row_bytes]).copied().collect();
        let bias = bias.as_ref().map(|bias| bias.to_device(device)?.to_dtype(DType::F32)).transpose()?;
        Self::new(GgmlBlocks { bytes, shape: (d_out, d_in), format }, bias, device)
    }

    /// Copies blocks to a device.
    fn new(blocks: GgmlBlocks, bias: Option<Tensor>, device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        check_gpu(device)?;
        let GgmlBlocks { bytes, shape, format } = blocks;
        let storage = QStorage::from_data(Cow::Owned(bytes), device, format.ggml())?;
        Ok(Self { weight: Arc::new(QTensor::new(storage, shape)?), bias, format })
    }

    /// Joins layers over the same input into one; `None` where formats or devices differ, or only some layers have a
    /// bias.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub(crate) fn join(layers: &[&Self]) -> Result<Option<Self>> {
        let Some(first) = layers.first() else { return Ok(None) };
        let (device, (_, d_in)) = (first.weight.device(), first.weight.shape().dims2()?);
        let is_compatible = |layer: &&&Self| {
            layer.format == first.format
                && layer.weight.device().same_device(&device)
                && layer.weight.shape().dims().last() == Some(&d_in)
        };
        let biases: Vec<&Tensor> = layers.iter().filter_map(|layer| layer.bias.as_ref()).collect();
        if !layers.iter().all(|layer| is_compatible(&layer)) || ![0, layers.len()].contains(&biases.len()) {
            return Ok(None);
        }
        let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)?) };
        let (mut bytes, mut d_out) = (Vec::new(), 0);
        for layer in layers {
            bytes.extend_from_slice(&layer.weight.data()?);
            d_out += layer.weight.shape().dims2()?.0;
        }
        Self::new(GgmlBlocks { bytes, shape: (d_out, d_in), format: first.format }, bias, &device).map(Some)
    }

    /// Returns the format of the weights.
    pub(crate) fn format(&self) -> QuantFormat {
        self.format
    }

    /// Computes `activation(x W^T + b)`.
    ///
    /// # Shapes
    /// `(..., d_in)` to `(..., d_out)`, in the precision of `x`.
    ///
    /// # Errors
    /// When the last dimension of `x` is not `d_in`, or `x` is tracked.
    pub(crate) fn forward(&self, x: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
        if x.track_op() {
            candle_core::bail!("a quantized layer has no gradient");
        }
        // Candle's products cannot be captured in a CUDA graph.
        #[cfg(any(feature = "cuda", test))]
        super::cuda::recording::reject("a product of quantized weights")?;
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

/// Runs the self-test of candle's kernels on a GPU, once for each GPU that passes.
///
/// # Errors
/// When the build is for another compute capability, or the device fails.
#[cfg(feature = "cuda")]
fn check_gpu(device: &Device) -> Result<()> {
    use std::collections::HashSet;
    use std::sync::{Mutex, PoisonError};

    use candle_core::cuda_backend::{DeviceId, WrapErr};

    static CHECKED: Mutex<Option<HashSet<DeviceId>>> = Mutex::new(None);
    let Device::Cuda(gpu) = device else { return Ok(()) };
    let mut checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    let checked = checked.get_or_insert_default();
    if checked.contains(&gpu.id()) {
        return Ok(());
    }
    let cause = match multiplies_ones(device) {
        Ok(true) => {
            checked.insert(gpu.id());
            return Ok(());
        }
        Ok(false) => "wrong product of ones".to_owned(),
        Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
    };
    let (major, minor) = gpu.cuda_stream().context().compute_capability().w()?;
    let rule = format!("the kernels of this build do not run on a GPU of compute capability {major}.{minor}: {cause}");
    let hint = format!("a build with CUDA_COMPUTE_CAP={major}{minor}, or no --quant");
    Err(crate::error::Error::invalid(rule).with_hint(hint).about("quantized weights").into())
}

/// Returns whether products of ones are correct, by the kernels for few rows and for many rows.
#[cfg(any(feature = "cuda", test))]
fn multiplies_ones(device: &Device) -> Result<bool> {
    const D_IN: usize = 256;
    let format = QuantFormat::Q8_0;
    let ones = Tensor::ones((32, D_IN), DType::F32, &Device::Cpu)?;
    let storage = QStorage::from_data(Cow::Owned(quantized_blocks(&ones, format)?), device, format.ggml())?;
    let weight = QTensor::new(storage, (32, D_IN))?;
    for rows in [1, 16] {
        let x = Tensor::from_vec(vec![1f32; rows * D_IN], (rows, D_IN), device)?;
        let y = x.apply_op1_no_bwd(&weight)?.flatten_all()?.to_vec1::<f32>()?; // (rows 32)
        // The comparison is false for NaN.
        if !y.iter().all(|y| (y - D_IN as f32).abs() <= 3.0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Quantizes a weight `(d_out, d_in)` in host memory.
///
/// # Errors
/// When `d_in` is not a multiple of the format's unit.
pub fn quantize(weight: &Tensor, format: QuantFormat) -> Result<QTensor> {
    let storage = QStorage::from_data(Cow::Owned(quantized_blocks(weight, format)?), &Device::Cpu, format.ggml())?;
    QTensor::new(storage, weight.dims2()?)
}

/// Weight in GGML's layout, in host memory.
struct GgmlBlocks {
    /// Blocks, row by row.
    bytes: Vec<u8>,
    /// `(d_out, d_in)`.
    shape: (usize, usize),
    format: QuantFormat,
}

/// Quantizes a weight `(d_out, d_in)` to blocks, row by row.
fn quantized_blocks(weight: &Tensor, format: QuantFormat) -> Result<Vec<u8>> {
    let (d_out, _) = weight.dims2()?;
    let rows = weight.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
    let starts: Vec<usize> = (0..d_out).step_by(ROWS).collect();
    let part = |&start: &usize| {
        // Candle quantizes the whole storage of a tensor: a view has to be copied.
        let rows = rows.narrow(0, start, ROWS.min(d_out - start))?.force_contiguous()?;
        Ok(QTensor::quantize(&rows, format.ggml())?.data()?.into_owned())
    };
    let parts: Vec<Vec<u8>> = starts.par_iter().map(part).collect::<Result<_>>()?;
    Ok(parts.concat())
}

#[cfg(test)]
#[path = "ggml_tests.rs"]
mod tests;
