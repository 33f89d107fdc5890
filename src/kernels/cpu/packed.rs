//! Linear layers of packed or quantized weights, for inference in f32 on the CPU, fused with norm, activation and
//! residual.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor};

use super::activation::in_place;
use super::gemm::{Epilogue, PackedMatrix, Panels, Prologue, product, two_products};
use super::norm::RowNorm;
use super::quantized::QuantizedMatrix;
use super::rows::contiguous;
use crate::kernels::{Activation, QuantFormat};

/// A linear layer whose weights are in the layout of a kernel: for inference. Clones share the weights.
#[derive(Debug, Clone)]
pub(crate) struct CpuLinear(Arc<PackedWeights>);

#[derive(Debug)]
struct PackedWeights {
    matrix: Matrix,
    bias: Option<Vec<f32>>,
}

/// A weight `(K, N)`.
#[derive(Debug)]
pub(crate) enum Matrix {
    Full(PackedMatrix),
    Quantized(QuantizedMatrix),
}

impl Matrix {
    /// `K` and `N`.
    fn dims(&self) -> (usize, usize) {
        match self {
            Self::Full(matrix) => (matrix.depth(), matrix.columns()),
            Self::Quantized(matrix) => (matrix.depth(), matrix.columns()),
        }
    }

    /// The columns of several matrices side by side; none unless all have the same format and fill the kernel's panels.
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
    pub(crate) fn new(matrix: Matrix, bias: Option<Vec<f32>>) -> Self {
        Self(Arc::new(PackedWeights { matrix, bias }))
    }

    /// Several layers over the same input as one; none where formats differ, columns do not fill the kernel's panels,
    /// or only some have a bias.
    pub(crate) fn join(layers: &[&Self]) -> Option<Self> {
        let matrices: Vec<&Matrix> = layers.iter().map(|layer| &layer.0.matrix).collect();
        let biases: Vec<&Vec<f32>> = layers.iter().filter_map(|layer| layer.0.bias.as_ref()).collect();
        let bias = match biases.len() {
            0 => None,
            n if n == layers.len() => Some(biases.into_iter().flatten().copied().collect()),
            _ => return None,
        };
        Some(Self::new(Matrix::join(&matrices)?, bias))
    }

    /// Columns of the weight `(K, N)` by index, as rows `(n, K)`; none where it is quantized.
    ///
    /// # Errors
    /// When an index is beyond `N`.
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

    /// Format of the weights, if they are quantized.
    pub(crate) fn format(&self) -> Option<QuantFormat> {
        self.0.matrix.quantized().map(QuantizedMatrix::format)
    }

    /// `activation(norm(x) W + b)`.
    ///
    /// # Errors
    /// When the last dimension of `x` is not `K`, or `x` wants a gradient.
    pub(crate) fn forward(&self, x: &Tensor, norm: Option<&RowNorm>, activation: Option<Activation>) -> Result<Tensor> {
        if let Some(norm) = norm {
            norm.check(self.0.matrix.dims().0)?;
        }
        let op = Product { weights: self.clone(), activation, norm: norm.cloned() };
        self.on_rows(x, |rows| rows.apply_op1_no_bwd(&op))
    }

    /// `residual + x W + b`.
    ///
    /// # Errors
    /// As [`Self::forward`], or when `residual` has another shape than the result.
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
        let op = Onto { weights: self.clone() };
        self.on_rows(x, |rows| rows.apply_op2_no_bwd(&residual, &op))
    }

    /// `x + second(activation(first(norm(x))))` in one pass; none unless both weights are in f32.
    ///
    /// # Errors
    /// When the widths do not fit, or `x` wants a gradient.
    pub(crate) fn feed_forward(
        x: &Tensor,
        norm: &RowNorm,
        (first, activation): (&Self, Activation),
        second: &Self,
    ) -> Option<Result<Tensor>> {
        let (w1, w2) = (first.0.matrix.full()?, second.0.matrix.full()?);
        if w1.columns() != w2.depth() || w1.depth() != w2.columns() {
            let dims = |w: &PackedMatrix| format!("{} x {}", w.depth(), w.columns());
            return Some(Err(candle_core::Error::msg(format!("{} does not go back from {}", dims(w2), dims(w1)))));
        }
        if let Err(error) = norm.check(w1.depth()) {
            return Some(Err(error));
        }
        let op = FeedForward { first: first.clone(), activation, second: second.clone(), norm: norm.clone() };
        Some(second.on_rows(x, |rows| rows.apply_op1_no_bwd(&op)))
    }

    /// Runs an operation on the rows of `x`: batch and sequence are rows of the same matrix.
    fn on_rows(&self, x: &Tensor, run: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        if x.track_op() {
            candle_core::bail!("a packed layer has no gradient");
        }
        let mut dims = x.dims().to_vec();
        let d_in = dims.pop().unwrap_or(0);
        dims.push(self.0.matrix.dims().1);
        run(&x.reshape(((), d_in))?.contiguous()?)?.reshape(dims)
    }

    /// `x (M, K)` to `(M, N)`.
    fn product(
        &self,
        (x, layout): (&CpuStorage, &Layout),
        prologue: Prologue<'_>,
        epilogue: Epilogue<'_>,
    ) -> Result<(CpuStorage, Shape)> {
        let PackedWeights { matrix, bias } = &*self.0;
        let ((rows, d_in), (depth, columns)) = (layout.shape().dims2()?, matrix.dims());
        if d_in != depth {
            candle_core::bail!("a linear layer takes rows of {depth}, not of {d_in}");
        }
        let (x, epilogue) = (contiguous(x, layout)?, Epilogue { bias: bias.as_deref(), ..epilogue });
        let y = match matrix {
            Matrix::Full(matrix) => product(x, matrix, prologue, epilogue),
            Matrix::Quantized(matrix) => product(x, matrix, prologue, epilogue),
        };
        Ok((CpuStorage::F32(y), (rows, columns).into()))
    }
}

struct Product {
    weights: CpuLinear,
    activation: Option<Activation>,
    norm: Option<RowNorm>,
}

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "packed-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let normalise = self.norm.as_ref().map(|norm| |x: &[f32], y: &mut [f32]| norm.run(x, y));
        let prologue: Prologue<'_> = normalise.as_ref().map(|normalise| normalise as _);
        let activation = self.activation.map(in_place);
        self.weights.product((x, layout), prologue, Epilogue { activation, ..Epilogue::default() })
    }
}

struct Onto {
    weights: CpuLinear,
}

impl CustomOp2 for Onto {
    fn name(&self) -> &'static str {
        "packed-onto"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, r: &CpuStorage, lr: &Layout) -> Result<(CpuStorage, Shape)> {
        let (residual, columns) = (contiguous(r, lr)?, self.weights.0.matrix.dims().1);
        if lr.dims() != [lx.dims()[0], columns] {
            candle_core::bail!("a residual of {:?} for a result of {} x {columns}", lr.dims(), lx.dims()[0]);
        }
        self.weights.product((x, lx), None, Epilogue { residual: Some(residual), ..Epilogue::default() })
    }
}

struct FeedForward {
    first: CpuLinear,
    activation: Activation,
    second: CpuLinear,
    norm: RowNorm,
}

impl CustomOp1 for FeedForward {
    fn name(&self) -> &'static str {
        "feed-forward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (first, second) = (&*self.first.0, &*self.second.0);
        let (Some(w1), Some(w2)) = (first.matrix.full(), second.matrix.full()) else {
            candle_core::bail!("feed-forward: quantized weights have no fused pass");
        };
        if layout.dims().last() != Some(&w1.depth()) {
            candle_core::bail!("a linear layer takes rows of {}, not of {:?}", w1.depth(), layout.dims());
        }
        let activation = Some(in_place(self.activation));
        let to = Epilogue { bias: first.bias.as_deref(), activation, residual: None };
        let back = Epilogue { bias: second.bias.as_deref(), ..Epilogue::default() };
        let y = two_products(contiguous(x, layout)?, Some(&|x, y| self.norm.run(x, y)), (w1, to), (w2, back));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}
