//! Linear layers with packed or quantized weights, fused with norm, activation and residual: inference in f32 on the
//! CPU.
//!
//! The operations are candle custom operations without a gradient; [`crate::kernels::packed`] is their only caller.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor};

use super::activation::in_place;
use super::gemm::{Epilogue, PackedMatrix, Panels, Prologue, WeightFactor, product, two_products};
use super::norm::RowNorm;
use super::quantized::QuantizedMatrix;
use super::rows::contiguous;
use crate::kernels::packed::FeedForwardLayers;
use crate::kernels::{Activation, QuantFormat};

/// Linear layer with weights in the layout of a kernel. Inference only. Clones share the weights.
#[derive(Debug, Clone)]
pub(crate) struct CpuLinear(Arc<PackedWeights>);

#[derive(Debug)]
struct PackedWeights {
    matrix: WeightMatrix,
    bias: Option<Vec<f32>>,
}

/// Weight `(K, N)` in the layout of a kernel.
#[derive(Debug)]
pub(crate) enum WeightMatrix {
    Full(PackedMatrix),
    Quantized(QuantizedMatrix),
}

impl WeightMatrix {
    /// Returns `K` and `N`.
    fn dims(&self) -> (usize, usize) {
        match self {
            Self::Full(matrix) => (matrix.depth(), matrix.columns()),
            Self::Quantized(matrix) => (matrix.depth(), matrix.columns()),
        }
    }

    /// Joins the columns of several matrices, or returns `None` unless all have the same format and fill the kernel's
    /// panels.
    fn join(parts: &[&Self]) -> Option<Self> {
        let full: Option<Vec<&PackedMatrix>> = parts.iter().map(|part| part.full()).collect();
        if let Some(parts) = full {
            return Some(Self::Full(PackedMatrix::join(&parts)?));
        }
        let quantized: Option<Vec<_>> = parts.iter().map(|part| part.quantized()).collect();
        Some(Self::Quantized(QuantizedMatrix::join(&quantized?)?))
    }

    fn full(&self) -> Option<&PackedMatrix> {
        match self {
            Self::Full(matrix) => Some(matrix),
            Self::Quantized(_) => None,
        }
    }

    fn quantized(&self) -> Option<&QuantizedMatrix> {
        match self {
            Self::Full(_) => None,
            Self::Quantized(matrix) => Some(matrix),
        }
    }
}

impl CpuLinear {
    pub(crate) fn new(matrix: WeightMatrix, bias: Option<Vec<f32>>) -> Self {
        Self(Arc::new(PackedWeights { matrix, bias }))
    }

    /// Joins layers over the same input into one, or returns `None` where formats differ, columns do not fill the
    /// kernel's panels, or only some layers have a bias.
    pub(crate) fn join(layers: &[&Self]) -> Option<Self> {
        let matrices: Vec<&WeightMatrix> = layers.iter().map(|layer| &layer.0.matrix).collect();
        let biases: Vec<&Vec<f32>> = layers.iter().filter_map(|layer| layer.0.bias.as_ref()).collect();
        let bias = match biases.len() {
            0 => None,
            n if n == layers.len() => Some(biases.into_iter().flatten().copied().collect()),
            _ => return None,
        };
        Some(Self::new(WeightMatrix::join(&matrices)?, bias))
    }

    /// Gathers columns of the weight `(K, N)` by index, as rows `(n, K)`; `None` for quantized weights.
    ///
    /// # Errors
    /// An index of `N` or more.
    pub(crate) fn weight_rows(&self, indices: &Tensor) -> Result<Option<Tensor>> {
        let Some(matrix) = self.0.matrix.full() else { return Ok(None) };
        let (indices, depth) = (indices.to_vec1::<u32>()?, matrix.depth());
        if let Some(index) = indices.iter().find(|&&index| index as usize >= matrix.columns()) {
            candle_core::bail!("row {index} of a weight with {} rows", matrix.columns());
        }
        let mut rows = vec![0.0; indices.len() * depth];
        for (row, &index) in rows.chunks_exact_mut(depth.max(1)).zip(&indices) {
            matrix.copy_column(index as usize, row);
        }
        Tensor::from_vec(rows, (indices.len(), depth), &Device::Cpu).map(Some)
    }

    /// Returns the format of quantized weights, `None` for full precision.
    pub(crate) fn format(&self) -> Option<QuantFormat> {
        self.0.matrix.quantized().map(QuantizedMatrix::format)
    }

    /// Computes `activation(norm(x) W + b)`.
    ///
    /// # Errors
    /// A last dimension of `x` other than `K`, or a tracked `x`.
    pub(crate) fn forward(&self, x: &Tensor, norm: Option<&RowNorm>, activation: Option<Activation>) -> Result<Tensor> {
        if let Some(norm) = norm {
            norm.check(self.0.matrix.dims().0)?;
        }
        let op = LinearOp { weights: self.clone(), activation, norm: norm.cloned() };
        self.on_rows(x, |rows| rows.apply_op1_no_bwd(&op))
    }

    /// Computes `residual + x W + b`.
    ///
    /// # Errors
    /// Errors of [`Self::forward`], and a residual of another shape than the result.
    pub(crate) fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (mut dims, columns) = (x.dims().to_vec(), self.0.matrix.dims().1);
        dims.pop();
        dims.push(columns);
        if residual.dims() != dims || residual.track_op() {
            candle_core::bail!(
                "a residual of {:?} for a result of {dims:?}, or one that wants a gradient",
                residual.dims()
            );
        }
        let residual = residual.contiguous()?.reshape(((), columns))?;
        let op = ResidualOp { weights: self.clone() };
        self.on_rows(x, |rows| rows.apply_op2_no_bwd(&residual, &op))
    }

    /// Computes `x + down(activation(up(norm(x))))` in one pass, or returns `None` unless both weights are in f32.
    ///
    /// # Errors
    /// Widths that do not match, or a tracked `x`.
    pub(crate) fn feed_forward(
        x: &Tensor,
        norm: &RowNorm,
        layers: &FeedForwardLayers<'_, Self>,
    ) -> Option<Result<Tensor>> {
        let FeedForwardLayers { up, activation, down } = *layers;
        let (w1, w2) = (up.0.matrix.full()?, down.0.matrix.full()?);
        if w1.columns() != w2.depth() || w1.depth() != w2.columns() {
            let dims = |w: &PackedMatrix| format!("{} x {}", w.depth(), w.columns());
            return Some(Err(candle_core::Error::msg(format!("{} does not go back from {}", dims(w2), dims(w1)))));
        }
        if let Err(error) = norm.check(w1.depth()) {
            return Some(Err(error));
        }
        let op = FeedForwardOp { up: up.clone(), activation, down: down.clone(), norm: norm.clone() };
        Some(down.on_rows(x, |rows| rows.apply_op1_no_bwd(&op)))
    }

    /// Runs an operation on `x` as a matrix, whose rows are the positions of all sequences of the batch.
    fn on_rows(&self, x: &Tensor, run: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        if x.track_op() {
            candle_core::bail!("linear: packed weights have no gradient");
        }
        let mut dims = x.dims().to_vec();
        let d_in = dims.pop().unwrap_or(0);
        dims.push(self.0.matrix.dims().1);
        run(&x.reshape(((), d_in))?.contiguous()?)?.reshape(dims)
    }

    /// Multiplies `x (M, K)` by the weight, to `(M, N)`.
    fn product(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        prologue: Prologue<'_>,
        epilogue: Epilogue<'_>,
    ) -> Result<(CpuStorage, Shape)> {
        let PackedWeights { matrix, bias } = &*self.0;
        let ((rows, d_in), (depth, columns)) = (layout.shape().dims2()?, matrix.dims());
        if d_in != depth {
            candle_core::bail!("linear: rows of {d_in} elements; expected {depth}");
        }
        let (x, epilogue) = (contiguous(x, layout)?, Epilogue { bias: bias.as_deref(), ..epilogue });
        let y = match matrix {
            WeightMatrix::Full(matrix) => product(x, matrix, prologue, epilogue),
            WeightMatrix::Quantized(matrix) => product(x, matrix, prologue, epilogue),
        };
        Ok((CpuStorage::F32(y), (rows, columns).into()))
    }
}

struct LinearOp {
    weights: CpuLinear,
    activation: Option<Activation>,
    norm: Option<RowNorm>,
}

impl CustomOp1 for LinearOp {
    fn name(&self) -> &'static str {
        "packed-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let normalise = self.norm.as_ref().map(|norm| |x: &[f32], y: &mut [f32]| norm.run(x, y));
        let prologue: Prologue<'_> = normalise.as_ref().map(|normalise| normalise as _);
        let activation = self.activation.map(in_place);
        self.weights.product(x, layout, prologue, Epilogue { activation, ..Epilogue::default() })
    }
}

struct ResidualOp {
    weights: CpuLinear,
}

impl CustomOp2 for ResidualOp {
    fn name(&self) -> &'static str {
        "packed-onto"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, r: &CpuStorage, lr: &Layout) -> Result<(CpuStorage, Shape)> {
        let (residual, columns) = (contiguous(r, lr)?, self.weights.0.matrix.dims().1);
        if lr.dims() != [lx.dims()[0], columns] {
            candle_core::bail!("a residual of {:?} for a result of {} x {columns}", lr.dims(), lx.dims()[0]);
        }
        self.weights.product(x, lx, None, Epilogue { residual: Some(residual), ..Epilogue::default() })
    }
}

struct FeedForwardOp {
    up: CpuLinear,
    activation: Activation,
    down: CpuLinear,
    norm: RowNorm,
}

impl CustomOp1 for FeedForwardOp {
    fn name(&self) -> &'static str {
        "feed-forward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (up, down) = (&*self.up.0, &*self.down.0);
        let (Some(w1), Some(w2)) = (up.matrix.full(), down.matrix.full()) else {
            candle_core::bail!("feed-forward: quantized weights have no fused pass");
        };
        if layout.dims().last() != Some(&w1.depth()) {
            candle_core::bail!("feed-forward: rows of shape {:?}; expected {} elements", layout.dims(), w1.depth());
        }
        let activation = Some(in_place(self.activation));
        let up =
            WeightFactor { weight: w1, epilogue: Epilogue { bias: up.bias.as_deref(), activation, residual: None } };
        let epilogue = Epilogue { bias: down.bias.as_deref(), ..Epilogue::default() };
        let down = WeightFactor { weight: w2, epilogue };
        let y = two_products(contiguous(x, layout)?, Some(&|x, y| self.norm.run(x, y)), up, down);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}
