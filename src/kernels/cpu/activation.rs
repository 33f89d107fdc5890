//! Activations and gates in f32 on the CPU, each in one pass: over slices that a product has just made, and for
//! training with their gradients written out.

use std::f32::consts::FRAC_1_SQRT_2;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::elementwise;
use super::memory::in_parts;
use super::rows::{contiguous, per_row, per_row_pair};
use crate::kernels::Activation;
use crate::kernels::activation::QUICK;

/// Number of elements of a row in elementwise kernels.
const ROW: usize = 256;
/// Number of results of one job at least, so that a job outweighs its scheduling.
const JOB: usize = 1 << 12;
const QUICK_F32: f32 = QUICK as f32;

/// Returns the kernel of an activation over a slice, in place.
pub(super) fn in_place(activation: Activation) -> fn(&mut [f32]) {
    match activation {
        Activation::QuickGelu => elementwise::quick_gelu,
        Activation::GeluTanh => elementwise::gelu_tanh,
        Activation::Gelu => |x| {
            x.iter_mut().for_each(|x| *x *= (candle_core::cpu::erf::erf_f32(*x * FRAC_1_SQRT_2) + 1.0) * 0.5);
        },
    }
}

/// Computes `x sigmoid(1.702 x)`, with its gradient.
pub(super) fn quick_gelu_with_gradient(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(QuickGelu)
}

/// Computes `silu(gate) up`, with its gradients.
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGluOp)
}

/// Computes `silu(gate) up` of rows with gate and up side by side, `(..., 2 w)` to `(..., w)`. Inference only.
pub(super) fn swiglu_joined(gate_and_up: &Tensor) -> Result<Tensor> {
    gate_and_up.contiguous()?.apply_op1_no_bwd(&JoinedSwiGlu)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Applies `f` to each element.
fn map(x: &CpuStorage, layout: &Layout, f: impl Fn(f32) -> f32 + Sync) -> Result<(CpuStorage, Shape)> {
    let x = contiguous(x, layout)?;
    let width = if x.len().is_multiple_of(ROW) { ROW } else { 1 };
    let y = per_row(x, width, |x, y| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)));
    Ok((CpuStorage::F32(y), layout.shape().clone()))
}

/// Returns the elements of two contiguous tensors.
///
/// # Errors
/// Different numbers of elements.
fn same_size<'x>(
    a: &'x CpuStorage,
    layout_a: &Layout,
    b: &'x CpuStorage,
    layout_b: &Layout,
) -> Result<(&'x [f32], &'x [f32])> {
    let (x, y) = (contiguous(a, layout_a)?, contiguous(b, layout_b)?);
    if x.len() != y.len() {
        candle_core::bail!("shapes differ: {:?} and {:?}", layout_a.shape(), layout_b.shape());
    }
    Ok((x, y))
}

/// Applies `f` to each pair of elements of two buffers of the same size.
fn map_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> CpuStorage {
    let width = if a.len().is_multiple_of(ROW) { ROW } else { 1 };
    let run = |a: &[f32], b: &[f32], y: &mut [f32]| {
        y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = f(a, b));
    };
    CpuStorage::F32(per_row_pair(a, b, width, run))
}

struct QuickGelu;

impl CustomOp1 for QuickGelu {
    fn name(&self) -> &'static str {
        "quick-gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        map(x, layout, |x| x * sigmoid(QUICK_F32 * x))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&dy.contiguous()?, &QuickGeluGrad)?))
    }
}

struct QuickGeluGrad;

impl CustomOp2 for QuickGeluGrad {
    fn name(&self) -> &'static str {
        "quick-gelu-grad"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, dy: &CpuStorage, ly: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, dy) = same_size(x, lx, dy, ly)?;
        let dx = map_pairs(x, dy, |x, dy| {
            let s = sigmoid(QUICK_F32 * x);
            dy * s * (1.0 + QUICK_F32 * x * (1.0 - s))
        });
        Ok((dx, lx.shape().clone()))
    }
}

struct SwiGluOp;

impl CustomOp2 for SwiGluOp {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, lg: &Layout, up: &CpuStorage, lu: &Layout) -> Result<(CpuStorage, Shape)> {
        let (a, b) = same_size(gate, lg, up, lu)?;
        let width = if a.len().is_multiple_of(ROW) { ROW } else { a.len().max(1) };
        Ok((CpuStorage::F32(per_row_pair(a, b, width, elementwise::swiglu)), lg.shape().clone()))
    }

    /// Gradients: `dy up silu'(gate)` by the gate, `dy silu(gate)` by the second factor.
    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let d_up = gate.apply_op2_no_bwd(&dy, &SwiGluOp)?;
        let d_gate = gate.apply_op2_no_bwd(&(dy * up)?, &SiluGrad)?;
        Ok((Some(d_gate), Some(d_up)))
    }
}

struct JoinedSwiGlu;

impl CustomOp1 for JoinedSwiGlu {
    fn name(&self) -> &'static str {
        "joined-swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut dims = layout.dims().to_vec();
        let Some(width) = dims.pop().filter(|&width| width > 0 && width.is_multiple_of(2)) else {
            candle_core::bail!("joined-swiglu: rows of shape {:?} have no two halves", layout.dims());
        };
        let x = contiguous(x, layout)?;
        let half = width / 2;
        let rows_per_job = JOB.div_ceil(half);
        let y = in_parts(x.len() / 2, rows_per_job * half, |job, y| {
            let x = x[job * rows_per_job * width..].chunks_exact(width);
            y.chunks_exact_mut(half).zip(x).for_each(|(y, x)| elementwise::swiglu(&x[..half], &x[half..], y));
        });
        dims.push(width / 2);
        Ok((CpuStorage::F32(y), dims.into()))
    }
}

struct SiluGrad;

impl CustomOp2 for SiluGrad {
    fn name(&self) -> &'static str {
        "silu-grad"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, dy: &CpuStorage, ly: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, dy) = same_size(x, lx, dy, ly)?;
        let dx = map_pairs(x, dy, |x, dy| {
            let s = sigmoid(x);
            dy * s * (1.0 + x * (1.0 - s))
        });
        Ok((dx, lx.shape().clone()))
    }
}
