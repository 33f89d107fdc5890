//! The index of the largest element.

/// Lanes that are compared side by side.
const LANES: usize = 16;

/// The index of the largest element, the first of equal ones; none where an element is NaN, or the largest is infinite.
pub(crate) fn argmax(x: &[f32]) -> Option<u32> {
    let (whole, rest) = x.as_chunks::<LANES>();
    let (mut most, mut nan) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
    for chunk in whole {
        for ((most, nan), &x) in most.iter_mut().zip(&mut nan).zip(chunk) {
            *nan |= x.is_nan();
            *most = if x > *most { x } else { *most };
        }
    }
    let most = most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    if most.is_infinite() || nan.contains(&true) || rest.iter().any(|x| x.is_nan()) {
        return None;
    }
    x.iter().position(|&x| x == most).and_then(|at| u32::try_from(at).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_is_found_wherever_it_is() {
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
