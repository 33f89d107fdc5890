//! Elements in f16 in memory that is allocated as f32 slots, two to a slot.

use half::f16;

/// Elements in f16 that the slots hold.
pub(super) fn halves(slots: &[f32]) -> &[f16] {
    // SAFETY: an f32 has the size of two f16 and at least their alignment, and any bits are an f16.
    unsafe { std::slice::from_raw_parts(slots.as_ptr().cast(), 2 * slots.len()) }
}

/// Elements in f16 that the slots hold, to be written.
pub(super) fn halves_mut(slots: &mut [f32]) -> &mut [f16] {
    // SAFETY: as in [`halves`]; any bits are an f32 as well.
    unsafe { std::slice::from_raw_parts_mut(slots.as_mut_ptr().cast(), 2 * slots.len()) }
}
