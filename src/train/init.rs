//! First values of weights that no checkpoint gives.
//!
//! A tower begins with positions that are sines and cosines of the patch's row and column, and with heads that look one
//! patch up, down, left, right or aside: what a small tower would spend most of its pretraining to find.

use candle_core::{Device, Result, Shape, Tensor};

use crate::vision::{TowerConfig, TowerFamily};
use crate::world::Draw;

use super::parameters::Part;

/// Returns the first value of a tensor under `seed`.
///
/// # Errors
/// When candle fails.
pub(crate) fn initial(name: &str, shape: &Shape, tower: &TowerConfig, seed: u64) -> Result<Tensor> {
    let dims = shape.dims();
    let fan_in: usize = dims.iter().skip(1).product();
    let normal = |deviation: f64| normal(name, shape, deviation, seed);
    let is_norm = name.contains("norm");
    match Part::of(name) {
        _ if is_norm && name.ends_with("weight") => Tensor::ones(shape.clone(), candle_core::DType::F32, &Device::Cpu),
        _ if name.ends_with("bias") => Tensor::zeros(shape.clone(), candle_core::DType::F32, &Device::Cpu),
        Part::Projector | Part::Heads => normal(1.0 / (fan_in as f64).sqrt()),
        Part::LanguageModel => normal(0.02),
        Part::VisionTower => {
            let width = tower.d_hidden as f64;
            if name.ends_with("position_embedding.weight") {
                positions(tower)
            } else if name.ends_with("class_embedding") {
                normal(0.02)
            } else if name.ends_with("patch_embedding.weight") {
                normal(1.0 / (fan_in as f64).sqrt())
            } else if name.ends_with("v_proj.weight") || name.ends_with("out_proj.weight") {
                normal(1.0 / width.sqrt())
            } else if name.ends_with("k_proj.weight") {
                normal(KEY_DEVIATION / width.sqrt())
            } else if name.ends_with("q_proj.weight") {
                offset_queries(name, shape, tower, seed)
            } else {
                normal(0.5 / width.sqrt())
            }
        }
    }
}

const KEY_DEVIATION: f64 = 1.5;
/// Radians a patch: the lowest and the highest frequency of the positions.
const FREQUENCIES: (f64, f64) = (0.15, 2.5);
const STRAIGHT: [(f64, f64); 4] = [(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)];
const DIAGONAL: [(f64, f64); 4] = [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)];

/// Returns normal values, truncated at two standard deviations, seeded by the name.
fn normal(name: &str, shape: &Shape, deviation: f64, seed: u64) -> Result<Tensor> {
    let hash = blake3::hash(name.as_bytes());
    let index = hash.as_bytes().iter().take(8).fold(0u64, |index, byte| (index << 8) | u64::from(*byte));
    let mut draw = Draw::new(seed, index);
    let mut next = || loop {
        let value = draw.normal();
        if value.abs() <= 2.0 {
            return (value * deviation) as f32;
        }
    };
    let values: Vec<f32> = (0..shape.elem_count()).map(|_| next()).collect();
    Tensor::from_vec(values, shape.clone(), &Device::Cpu)
}

fn frequencies(tower: &TowerConfig) -> Vec<f64> {
    let n = tower.d_hidden / 4;
    let (low, high) = FREQUENCIES;
    (0..n).map(|i| low * (high / low).powf(i as f64 / (n.max(2) - 1) as f64)).collect()
}

/// Returns `[sin(y f), cos(y f), sin(x f), cos(x f)]` of each patch's row and column; 0 for the class token.
fn positions(tower: &TowerConfig) -> Result<Tensor> {
    let frequencies = frequencies(tower);
    let (grid, d, n_class_tokens) = (tower.grid(), tower.d_hidden, tower.n_class_tokens());
    let mut table = vec![0f32; tower.n_state_tokens() * d];
    for patch in 0..grid * grid {
        let row = &mut table[(n_class_tokens + patch) * d..][..d];
        for (axis, at) in [(0, patch / grid), (1, patch % grid)] {
            for (i, f) in frequencies.iter().enumerate() {
                let (sin, cos) = (at as f64 * f).sin_cos();
                row[2 * axis * frequencies.len() + i] = sin as f32;
                row[(2 * axis + 1) * frequencies.len() + i] = cos as f32;
            }
        }
    }
    Tensor::from_vec(table, (tower.n_state_tokens(), d), &Device::Cpu)
}

/// Queries that match the keys of the patch at the head's offset: the keys' matrix times the rotation that moves a
/// position by it.
fn offset_queries(name: &str, shape: &Shape, tower: &TowerConfig, seed: u64) -> Result<Tensor> {
    let key_name = name.replace("q_proj", "k_proj");
    let keys = normal(&key_name, shape, KEY_DEVIATION / (tower.d_hidden as f64).sqrt(), seed)?;
    let layer = name.split(".layers.").nth(1).and_then(|rest| rest.split('.').next()).and_then(|n| n.parse().ok());
    let offsets: Option<&[(f64, f64)]> = match layer {
        Some(0 | 1 | 3) => Some(&STRAIGHT),
        Some(2) => Some(&DIAGONAL),
        _ => None,
    };
    let Some(offsets) = offsets.filter(|_| tower.family == TowerFamily::Clip && tower.d_hidden.is_multiple_of(4))
    else {
        return Ok(keys);
    };
    let d_head = tower.d_hidden / tower.n_heads;
    let heads: Vec<Tensor> = (0..tower.n_heads)
        .map(|head| {
            let (dy, dx) = offsets[head % offsets.len()];
            keys.narrow(0, head * d_head, d_head)?.matmul(&rotation(tower, dy, dx)?)
        })
        .collect::<Result<_>>()?;
    Tensor::cat(&heads, 0)
}

/// Returns the matrix `R` with `R position(p) = position(p + offset)`.
fn rotation(tower: &TowerConfig, dy: f64, dx: f64) -> Result<Tensor> {
    let frequencies = frequencies(tower);
    let (n, d) = (frequencies.len(), tower.d_hidden);
    let mut matrix = vec![0f32; d * d];
    for (axis, step) in [(0, dy), (1, dx)] {
        for (i, f) in frequencies.iter().enumerate() {
            let (sin, cos) = (step * f).sin_cos();
            let (s, c) = (2 * axis * n + i, (2 * axis + 1) * n + i);
            matrix[s * d + s] = cos as f32;
            matrix[s * d + c] = sin as f32;
            matrix[c * d + s] = -sin as f32;
            matrix[c * d + c] = cos as f32;
        }
    }
    Tensor::from_vec(matrix, (d, d), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::{Activation, Bias, TowerOutput};

    #[test]
    fn rotations_move_positions() {
        let tower = TowerConfig {
            family: TowerFamily::Clip,
            d_hidden: 16,
            d_intermediate: 16,
            n_layers: 1,
            n_heads: 4,
            image_size: 32,
            patch_size: 8,
            n_channels: 3,
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            qkv_bias: Bias::With,
            output: TowerOutput::Raw,
        };
        let table = positions(&tower).and_then(|t| t.narrow(0, 1, 16)).expect("small"); // (16, 16)
        let moved = rotation(&tower, 1.0, -1.0).and_then(|r| table.matmul(&r.t()?)).expect("small");
        // Patch 5 is row 1, column 1; one down and one to the left is patch 8.
        let row = |t: &Tensor, i: usize| t.get(i).and_then(|r| r.to_vec1::<f32>()).expect("f32");
        for (found, expected) in row(&moved, 5).iter().zip(row(&table, 8)) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}
