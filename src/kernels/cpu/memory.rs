//! Large buffers: in large pages, where the system gives them when asked, so that there are fewer faults while they are filled and fewer
//! walks through page tables while they are read; from the beginning of a line of the cache; filled by those who use them next.

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use rayon::prelude::*;

/// Bytes from which on asking is worth a call: a few large pages of 2 MiB.
#[cfg(target_os = "linux")]
const LARGE: usize = 8 << 20;

/// A line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

/// Numbers that begin where a line of the cache does, so that no instruction which reads a line's worth of them reads two.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// `n` zeros, and more up to the end of a line.
    pub(crate) fn zeros(n: usize) -> Self {
        Self(filled(n.div_ceil(LINE), Line([0.0; LINE])))
    }

    /// Becomes `n` zeros, and more up to the end of a line.
    pub(crate) fn reset(&mut self, n: usize) {
        self.0.clear();
        self.0.resize(n.div_ceil(LINE), Line([0.0; LINE]));
    }
}

impl Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is sixteen numbers and nothing else.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LINE) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LINE) }
    }
}

/// `n` numbers that several threads make in parts of `part` each, which are zeros when they begin: no pass over memory fills all of
/// them before.
pub(crate) fn in_parts(n: usize, part: usize, make: impl Fn(usize, &mut [f32]) + Sync + Send) -> Vec<f32> {
    in_parts_with(n, part, || (), |(), i, part| make(i, part))
}

/// As [`in_parts`], with a state that parts of the same thread share.
pub(crate) fn in_parts_with<S>(
    n: usize,
    part: usize,
    state: impl Fn() -> S + Sync + Send,
    make: impl Fn(&mut S, usize, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let mut numbers = with_room(n);
    let parts = numbers.spare_capacity_mut()[..n].par_chunks_mut(part.max(1)).enumerate();
    parts.for_each_init(state, |state, (i, part)| make(state, i, zeroed(part)));
    // SAFETY: each of them was set.
    unsafe { numbers.set_len(n) };
    numbers
}

/// Sets what was not set yet.
fn zeroed(numbers: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    numbers.fill(MaybeUninit::new(0.0));
    // SAFETY: all of them are set now.
    unsafe { &mut *(std::ptr::from_mut(numbers) as *mut [f32]) }
}

/// `n` times the same.
pub(crate) fn filled<T: Copy>(n: usize, value: T) -> Vec<T> {
    let mut values = with_room(n);
    values.resize(n, value);
    values
}

/// Nothing yet, with room for `n` values.
pub(crate) fn with_room<T>(n: usize) -> Vec<T> {
    let values = Vec::with_capacity(n);
    advise(values.as_ptr(), n);
    values
}

/// Asks for large pages for `n` values.
fn advise<T>(values: *const T, n: usize) {
    #[cfg(target_os = "linux")]
    if n * size_of::<T>() >= LARGE {
        let page = page_size();
        let (begin, end) = (values as usize, values as usize + n * size_of::<T>());
        let (begin, end) = (begin.next_multiple_of(page), end / page * page);
        // SAFETY: the pages lie within the buffer, whose bytes the advice does not change. A system that refuses leaves it as it is.
        unsafe { libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (values, n);
}

#[cfg(target_os = "linux")]
fn page_size() -> usize {
    // SAFETY: it gives a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok().filter(|&size| size > 0).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_hold_what_was_asked_for() {
        for n in [0, 1, 1000, 3_000_001] {
            let mut lines = Lines::zeros(n);
            assert!(lines.iter().all(|&x| x == 0.0) && lines.len() == n.next_multiple_of(LINE));
            assert!(lines.as_ptr().addr().is_multiple_of(64));
            lines.fill(1.0);
            lines.reset(n + 1);
            assert!(lines.iter().all(|&x| x == 0.0) && lines.len() == (n + 1).next_multiple_of(LINE));
            let parts = in_parts(n, 1000, |i, part| part.iter_mut().for_each(|x| *x += i as f32));
            assert!(parts.iter().enumerate().all(|(i, &x)| x == (i / 1000) as f32) && parts.len() == n);
            assert!(filled(n, [7u8; 3]).iter().all(|&x| x == [7; 3]) && filled(n, 1u8).len() == n);
        }
    }
}
