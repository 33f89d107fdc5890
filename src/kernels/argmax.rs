//! Argmax of a row on the CPU, for greedy sampling.

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
}
