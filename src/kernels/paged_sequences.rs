//! Sequences for tests of key-value stores, and their reference attention in f64.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::finite_difference::random_elements as random;
use super::kv::{KvGeometry, KvStore, PAGE_LEN, PageId, StepLayout, StepRows};

/// Geometries with grouped, with separate and with a single key-value head, and with widths that do not fill a vector.
pub(super) const GEOMETRIES: [KvGeometry; 4] = [
    KvGeometry { n_layers: 2, n_heads: 4, n_kv_heads: 2, d_head: 8 },
    KvGeometry { n_layers: 1, n_heads: 3, n_kv_heads: 3, d_head: 72 },
    KvGeometry { n_layers: 1, n_heads: 64, n_kv_heads: 1, d_head: 34 },
    KvGeometry { n_layers: 1, n_heads: 8, n_kv_heads: 1, d_head: 128 },
];

/// Sequence with the queries, keys and values of all its positions, for each layer.
pub(super) struct TestSequence {
    pub(super) pages: Arc<[PageId]>,
    pub(super) qkv: Vec<Vec<f32>>,
    pub(super) n: usize,
}

impl TestSequence {
    /// Creates a sequence of `n` random positions in the given pages.
    pub(super) fn new(geometry: &KvGeometry, pages: &[u32], n: usize, seed: u32) -> Self {
        let qkv = (0..geometry.n_layers).map(|layer| random(n * geometry.width(), seed * 100 + layer as u32)).collect();
        Self { pages: pages.iter().map(|&page| PageId(page)).collect(), qkv, n }
    }

    /// Replaces the first positions by those of the first `n_shared` pages of another sequence.
    pub(super) fn with_prefix_of(mut self, other: &Self, n_shared: usize) -> Self {
        for (to, from) in self.qkv.iter_mut().zip(&other.qkv) {
            let n_elements = n_shared * PAGE_LEN * (from.len() / other.n);
            to[..n_elements].copy_from_slice(&from[..n_elements]);
        }
        self.pages = other.pages[..n_shared].iter().chain(self.pages.iter()).copied().collect();
        self
    }

    /// Rounds the elements to a precision.
    pub(super) fn rounded(mut self, dtype: DType) -> Self {
        for layer in &mut self.qkv {
            let rounded = Tensor::from_slice(layer, layer.len(), &Device::Cpu).and_then(|x| x.to_dtype(dtype));
            *layer = rounded.and_then(|x| x.to_dtype(DType::F32)?.to_vec1()).expect("numeric");
        }
        self
    }
}

/// Positions of a sequence that a step computes: first position and number of positions.
pub(super) type SequenceRange<'s> = (&'s TestSequence, usize, usize);

/// Geometry, precision and device of a store's activations.
#[derive(Debug, Clone)]
pub(super) struct Activations {
    pub(super) geometry: KvGeometry,
    pub(super) dtype: DType,
    pub(super) device: Device,
}

impl Activations {
    /// Returns activations in f32 on the CPU.
    pub(super) fn on_cpu(geometry: &KvGeometry) -> Self {
        Self { geometry: *geometry, dtype: DType::F32, device: Device::Cpu }
    }

    /// Runs ranges of sequences as one step and returns each layer's output, row by row.
    pub(super) fn step(&self, store: &mut dyn KvStore, ranges: &[SequenceRange<'_>]) -> Vec<Vec<f32>> {
        let half = self.geometry.d_head / 2;
        let positions: Vec<usize> = ranges.iter().flat_map(|(_, start, n)| *start..start + n).collect();
        let angles = |f: fn(f32) -> f32| {
            positions.iter().flat_map(|&p| (0..half).map(move |i| f(angle(p, i)))).collect::<Vec<f32>>()
        };
        let sequences = ranges.iter().map(|(sequence, start, n)| {
            sequence.pages.iter().for_each(|page| store.allocate(*page).expect("memory"));
            StepRows { pages: sequence.pages.clone(), start: *start, n: *n }
        });
        let layout = StepLayout { sequences: sequences.collect(), cos: angles(f32::cos), sin: angles(f32::sin) };
        store.begin(layout).expect("the layout fits");
        let width = self.geometry.width();
        let attend = |layer: usize| {
            let rows = ranges
                .iter()
                .flat_map(|(sequence, start, n)| sequence.qkv[layer][start * width..(start + n) * width].to_vec());
            let qkv = Tensor::from_iter(rows, &Device::Cpu)?.reshape((positions.len(), width))?;
            let y = store.attend(layer, &qkv.to_dtype(self.dtype)?.to_device(&self.device)?)?;
            y.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
        };
        (0..self.geometry.n_layers).map(attend).collect::<candle_core::Result<_>>().expect("the shapes fit")
    }

    /// Asserts that a step's outputs agree with the reference attention within a tolerance.
    pub(super) fn assert_step(&self, store: &mut dyn KvStore, ranges: &[SequenceRange<'_>], tolerance: f64) {
        let width = self.geometry.n_heads * self.geometry.d_head;
        for (layer, y) in self.step(store, ranges).iter().enumerate() {
            let rows = ranges.iter().flat_map(|(sequence, start, n)| (*start..start + n).map(move |p| (sequence, p)));
            for ((sequence, position), y) in rows.zip(y.chunks_exact(width)) {
                for (i, (y, exact)) in y.iter().zip(exact(&self.geometry, sequence, layer, position)).enumerate() {
                    let is_close = (f64::from(*y) - exact).abs() < tolerance;
                    assert!(is_close, "{self:?}: element {i} at {position} of layer {layer}: {y} {exact}");
                }
            }
        }
    }
}

fn angle(position: usize, pair: usize) -> f32 {
    position as f32 * 0.3f32.powi(pair as i32)
}

/// Computes the attention of a sequence's position in f64.
fn exact(geometry: &KvGeometry, sequence: &TestSequence, layer: usize, position: usize) -> Vec<f64> {
    let KvGeometry { n_heads, n_kv_heads, d_head, .. } = *geometry;
    let element =
        |p: usize, head: usize, i: usize| f64::from(sequence.qkv[layer][p * geometry.width() + head * d_head + i]);
    let half = d_head / 2;
    let rotated = |p: usize, head: usize, i: usize| {
        let angle = f64::from(angle(p, i % half));
        let (first, second) = (element(p, head, i % half), element(p, head, i % half + half));
        if i < half { first * angle.cos() - second * angle.sin() } else { first * angle.sin() + second * angle.cos() }
    };
    let rotated = |p: usize, head: usize| (0..d_head).map(|i| rotated(p, head, i)).collect::<Vec<f64>>();
    let keys: Vec<Vec<Vec<f64>>> =
        (0..n_kv_heads).map(|kv| (0..=position).map(|p| rotated(p, n_heads + kv)).collect()).collect();
    let mut y = Vec::new();
    for head in 0..n_heads {
        let (kv, query) = (head / geometry.group(), rotated(position, head));
        let dot = |key: &Vec<f64>| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
        let weights: Vec<f64> = keys[kv].iter().map(|key| (dot(key) / (d_head as f64).sqrt()).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let value = |i: usize| {
            let terms = weights.iter().enumerate().map(|(p, w)| w * element(p, n_heads + n_kv_heads + kv, i));
            terms.sum::<f64>() / sum
        };
        y.extend((0..d_head).map(value));
    }
    y
}
