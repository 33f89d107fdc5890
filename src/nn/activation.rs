//! The gates and activations that are more than one operation, as one, for inference and for training.

use std::f32::consts::FRAC_1_SQRT_2;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};

use crate::kernels::cpu::elementwise;
use crate::kernels::cpu::memory::in_parts;
use crate::kernels::cpu::rows::{contiguous, per_row, per_row_pair};

/// Numbers that one row of an elementwise kernel takes.
const ROW: usize = 256;

/// What stands between two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(1.702 x)`, CLIP's approximation of GELU.
    QuickGelu,
    /// GELU by the hyperbolic tangent (arXiv 1606.08415).
    GeluTanh,
    /// GELU by the error function.
    Gelu,
}

impl Activation {
    /// # Errors
    /// When candle fails.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::QuickGelu => quick_gelu(x),
            Self::GeluTanh => x.gelu(),
            Self::Gelu => x.gelu_erf(),
        }
    }

    /// The same over a slice, in place.
    pub(crate) fn in_place(self) -> fn(&mut [f32]) {
        match self {
            Self::QuickGelu => elementwise::quick_gelu,
            Self::GeluTanh => elementwise::gelu_tanh,
            Self::Gelu => |x| {
                x.iter_mut().for_each(|x| *x *= (candle_core::cpu::erf::erf_f32(*x * FRAC_1_SQRT_2) + 1.0) * 0.5);
            },
        }
    }
}

/// `x sigmoid(1.702 x)`, CLIP's approximation of GELU.
///
/// # Errors
/// When candle fails.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() && x.dtype() == DType::F32 && x.track_op() {
        return x.contiguous()?.apply_op1(QuickGelu);
    }
    x * candle_nn::ops::sigmoid(&(x * QUICK)?)?
}

/// `silu(gate) up` (arXiv 2002.05202).
///
/// # Errors
/// When the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.device().is_cpu() && gate.dtype() == DType::F32 {
        return gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu);
    }
    gate.silu()? * up
}

/// As [`swiglu`], of gate and up side by side in each row: for inference.
///
/// # Shapes
/// `(..., 2 w)` to `(..., w)`.
///
/// # Errors
/// When the width is odd.
pub fn swiglu_of_joined(gate_and_up: &Tensor) -> Result<Tensor> {
    if gate_and_up.device().is_cpu() && gate_and_up.dtype() == DType::F32 {
        return gate_and_up.contiguous()?.apply_op1_no_bwd(&JoinedSwiGlu);
    }
    let parts = gate_and_up.chunk(2, candle_core::D::Minus1)?;
    swiglu(&parts[0], &parts[1])
}

const QUICK: f64 = 1.702;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Runs `f` on each number.
fn map(x: &CpuStorage, layout: &Layout, f: impl Fn(f32) -> f32 + Sync) -> Result<(CpuStorage, Shape)> {
    let x = contiguous(x, layout)?;
    let width = if x.len().is_multiple_of(ROW) { ROW } else { 1 };
    let y = per_row(x, width, |x, y| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)));
    Ok((CpuStorage::F32(y), layout.shape().clone()))
}

/// Runs `f` on each pair of numbers.
fn map2(
    (a, la): (&CpuStorage, &Layout),
    (b, lb): (&CpuStorage, &Layout),
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<(CpuStorage, Shape)> {
    let (a, b) = (contiguous(a, la)?, contiguous(b, lb)?);
    if a.len() != b.len() {
        candle_core::bail!("shapes differ: {:?} and {:?}", la.shape(), lb.shape());
    }
    let width = if a.len().is_multiple_of(ROW) { ROW } else { 1 };
    let run = |a: &[f32], b: &[f32], y: &mut [f32]| {
        y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = f(a, b));
    };
    Ok((CpuStorage::F32(per_row_pair(a, b, width, run)), la.shape().clone()))
}

struct QuickGelu;

impl CustomOp1 for QuickGelu {
    fn name(&self) -> &'static str {
        "quick-gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        map(x, layout, |x| x * sigmoid(QUICK as f32 * x))
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
        map2((x, lx), (dy, ly), |x, dy| {
            let s = sigmoid(QUICK as f32 * x);
            dy * s * (1.0 + QUICK as f32 * x * (1.0 - s))
        })
    }
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, lg: &Layout, up: &CpuStorage, lu: &Layout) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (contiguous(gate, lg)?, contiguous(up, lu)?);
        if a.len() != b.len() {
            candle_core::bail!("shapes differ: {:?} and {:?}", lg.shape(), lu.shape());
        }
        let width = if a.len().is_multiple_of(ROW) { ROW } else { a.len().max(1) };
        Ok((CpuStorage::F32(per_row_pair(a, b, width, elementwise::swiglu)), lg.shape().clone()))
    }

    /// By the gate: `dy up silu'(gate)`; by the other: `dy silu(gate)`.
    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let d_up = gate.apply_op2_no_bwd(&dy, &SwiGlu)?;
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
            candle_core::bail!("joined-swiglu: {:?} has no two halves", layout.dims());
        };
        let x = contiguous(x, layout)?;
        let y = in_parts(x.len() / 2, width / 2, |row, y| {
            let (gate, up) = x[row * width..][..width].split_at(width / 2);
            elementwise::swiglu(gate, up, y);
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
        map2((x, lx), (dy, ly), |x, dy| {
            let s = sigmoid(x);
            dy * s * (1.0 + x * (1.0 - s))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::finite_difference::{assert_gradients, random};

    #[test]
    fn activations_have_their_gradients() {
        assert_gradients(&[random((2, 7), 1)], |t| quick_gelu(&t[0]));
        assert_gradients(&[random((2, 7), 1), random((2, 7), 2)], |t| swiglu(&t[0], &t[1]));
        let halves = (random((2, 7), 1), random((2, 7), 2));
        let joined = Tensor::cat(&[&halves.0, &halves.1], 1).expect("rows");
        let (joined, apart) = (swiglu_of_joined(&joined), swiglu(&halves.0, &halves.1));
        let numbers = |x: Result<Tensor>| x.and_then(|x| x.to_vec2::<f32>()).expect("a matrix");
        assert_eq!(numbers(joined), numbers(apart));
        // Candle's own, which the projector and SigLIP use.
        assert_gradients(&[random((2, 7), 1)], |t| t[0].gelu_erf());
        assert_gradients(&[random((2, 7), 1)], |t| t[0].gelu());
    }
}
