//! Elements in f16 that lie two to an f32 slot: widened to f32, which is exact.

use half::f16;

/// Widens the elements in f16 that `stored` holds, two to a slot. `to` has one element for each.
pub(super) fn widen(stored: &[f32], to: &mut [f32]) {
    let from = halves(stored);
    debug_assert_eq!(from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") {
            // SAFETY: the feature is there.
            return unsafe { x86::avx512(from, to) };
        }
        if has!("avx") && has!("f16c") {
            // SAFETY: the features are there.
            return unsafe { x86::f16c(from, to) };
        }
    }
    portable(from, to);
}

/// The elements in f16 that slots hold.
pub(super) fn narrow(slots: &mut [f32]) -> &mut [f16] {
    // SAFETY: an f32 has the size of two f16 and at least their alignment, and any bits are an f16.
    unsafe { std::slice::from_raw_parts_mut(slots.as_mut_ptr().cast(), 2 * slots.len()) }
}

fn halves(slots: &[f32]) -> &[f16] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(slots.as_ptr().cast(), 2 * slots.len()) }
}

fn portable(from: &[f16], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32());
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    use super::portable;

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(from: &[f16], to: &mut [f32]) {
        let (from, rest) = from.as_chunks::<16>();
        let (to, rest_to) = to.as_chunks_mut::<16>();
        for (from, to) in from.iter().zip(to) {
            // SAFETY: there are sixteen elements on both sides.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()))) };
        }
        portable(rest, rest_to);
    }

    #[target_feature(enable = "avx,f16c")]
    pub(super) fn f16c(from: &[f16], to: &mut [f32]) {
        let (from, rest) = from.as_chunks::<8>();
        let (to, rest_to) = to.as_chunks_mut::<8>();
        for (from, to) in from.iter().zip(to) {
            // SAFETY: there are eight elements on both sides.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
        }
        portable(rest, rest_to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_exactly_on_every_processor() {
        let mut slots = vec![0.0; (1 << 15) + 3];
        let all = narrow(&mut slots);
        let n = all.len();
        all.iter_mut().zip((0..=u16::MAX).cycle()).for_each(|(x, bits)| *x = f16::from_bits(bits));
        let check = |widened: &[f32]| {
            for (&x, &y) in halves(&slots).iter().zip(widened) {
                assert!(y.to_bits() == x.to_f32().to_bits() || (x.is_nan() && y.is_nan()), "{x}: {y}");
            }
        };
        let mut to = vec![0.0; n];
        widen(&slots, &mut to);
        check(&to);
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("f16c") {
            to.fill(0.0);
            // SAFETY: the feature is there, and with it AVX.
            unsafe { x86::f16c(halves(&slots), &mut to) };
            check(&to);
        }
    }
}
