//! Largest elements of a row on the CPU, for sampling.

use std::cmp::Ordering;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

/// Independent running maxima, which the compiler vectorizes.
const LANES: usize = 16;

/// Returns the index of the largest element, the first of equal elements; `None` where an element is NaN, or the
/// maximum is infinite.
pub(crate) fn argmax(x: &[f32]) -> Option<u32> {
    let (whole, rest) = x.as_chunks::<LANES>();
    let (mut largest, mut nan) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
    for chunk in whole {
        for ((largest, nan), &x) in largest.iter_mut().zip(&mut nan).zip(chunk) {
            *nan |= x.is_nan();
            *largest = if x > *largest { x } else { *largest };
        }
    }
    let largest = largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    if largest.is_infinite() || nan.contains(&true) || rest.iter().any(|x| x.is_nan()) {
        return None;
    }
    x.iter().position(|&x| x == largest).and_then(|index| u32::try_from(index).ok())
}

/// Maximum of `k` for which a GPU selects the largest elements of rows.
pub(crate) const MAX_TOP_K: usize = 1024;

/// Largest elements of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    /// Indices, in descending order of the elements.
    pub ids: Vec<u32>,
    /// Elements at these indices.
    pub values: Vec<f32>,
}

impl TopK {
    /// Returns the `k` largest of these elements.
    pub(crate) fn truncated(mut self, k: usize) -> Self {
        self.ids.truncate(k);
        self.values.truncate(k);
        self
    }
}

/// Returns the `k` largest elements, at least one, in descending order, the first of equal elements before the others;
/// all elements of a shorter row. `None` where an element is NaN, or the maximum is infinite.
pub(crate) fn top_k(x: &[f32], k: usize) -> Option<TopK> {
    argmax(x)?;
    let k = k.clamp(1, x.len());
    let mut largest: Vec<(u32, f32)> = Vec::with_capacity(2 * k);
    // Lower bound of the k-th largest element. Elements that equal it come after k elements that are not less.
    let mut bound = f32::NEG_INFINITY;
    for (index, &value) in (0..).zip(x) {
        if value > bound || largest.len() < k {
            largest.push((index, value));
        }
        if largest.len() == 2 * k {
            largest.select_nth_unstable_by(k - 1, descending);
            largest.truncate(k);
            bound = largest[k - 1].1;
        }
    }
    largest.sort_unstable_by(descending);
    largest.truncate(k);
    let (ids, values) = largest.into_iter().unzip();
    Some(TopK { ids, values })
}

/// Orders elements with their indices from the largest to the smallest, the first of equal elements before the others.
fn descending((index_a, a): &(u32, f32), (index_b, b): &(u32, f32)) -> Ordering {
    b.partial_cmp(a).unwrap_or(Ordering::Equal).then(index_a.cmp(index_b))
}

/// Computes [`super::Kernels::top_k_rows`] on the host.
///
/// # Errors
/// When `x` is not a matrix, or candle fails.
pub(crate) fn of_rows(x: &Tensor, k: usize) -> Result<Vec<Option<TopK>>> {
    let (n_rows, width) = x.dims2()?;
    let elements = x.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    Ok((0..n_rows).into_par_iter().map(|row| top_k(&elements[row * width..][..width], k)).collect())
}

/// Computes [`super::Kernels::largest_indices`] on the host.
///
/// # Errors
/// When `x` is not a vector in f32, or candle fails.
pub(crate) fn largest_indices(x: &Tensor, k: usize) -> Result<Tensor> {
    let elements = x.to_vec1::<f32>()?;
    let mut order: Vec<u32> = (0..).take(elements.len()).collect();
    // Stable: of equal elements the first comes first.
    order.sort_by(|&a, &b| elements[b as usize].total_cmp(&elements[a as usize]));
    order.truncate(k);
    order.sort_unstable();
    Tensor::new(order, x.device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_largest_element_is_found_at_any_index() {
        for n in [1, 15, 16, 17, 100] {
            for at in 0..n {
                let mut x: Vec<f32> = (0..n).map(|i| -1.0 - (i % 7) as f32).collect();
                (x[at], x[n - 1]) = (2.0, 2.0);
                assert_eq!(argmax(&x), Some(at as u32), "{at} of {n}");
                for bad in [f32::NAN, f32::INFINITY] {
                    x[at] = bad;
                    assert_eq!(argmax(&x), None, "{bad} at {at} of {n}");
                }
            }
        }
        assert_eq!(argmax(&[f32::NEG_INFINITY, 1.0]), Some(1));
        assert_eq!((argmax(&[f32::NEG_INFINITY; 20]), argmax(&[])), (None, None));
    }

    #[test]
    fn the_largest_elements_come_in_descending_order_the_first_of_equal_ones_first() {
        for n in [1, 2, 7, 100, 1000] {
            for modulus in [1, 3, 17, 5000] {
                let x: Vec<f32> = (0..n).map(|i| ((i * 7919 + 13) % modulus) as f32 - 2.0).collect();
                let mut expected: Vec<(u32, f32)> = (0..).zip(x.iter().copied()).collect();
                expected.sort_by(|a, b| b.1.total_cmp(&a.1));
                for k in [1, 2, 5, 64, 999, 2000] {
                    let (ids, values) = expected.iter().take(k).copied().unzip();
                    assert_eq!(top_k(&x, k), Some(TopK { ids, values }), "{k} of {n} modulo {modulus}");
                }
            }
        }
        let x = [f32::NEG_INFINITY, -0.0, f32::NEG_INFINITY, 0.0];
        assert_eq!(top_k(&x, 3).map(|top| top.ids), Some(vec![1, 3, 0]));
        for bad in [[0.0, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            assert_eq!(top_k(&bad, 1), None, "{bad:?}");
        }
        assert_eq!(top_k(&[], 3), None);
    }
}
