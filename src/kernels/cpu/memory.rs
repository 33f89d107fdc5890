//! Large buffers: aligned to cache lines, on huge pages where the system grants them (fewer page faults, fewer TLB
//! misses), and first touched by the threads that fill them.

use std::io;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;
use rayon::prelude::*;

/// Size in bytes from which on huge pages are requested: a few pages of 2 MiB.
#[cfg(target_os = "linux")]
const LARGE: usize = 8 << 20;

/// One cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([f32; LINE]);

const LINE: usize = 16;

/// Elements aligned to a cache line, so that no load of a whole line crosses two.
#[derive(Debug, Clone, Default)]
pub(crate) struct AlignedBuffer(Vec<CacheLine>);

impl AlignedBuffer {
    /// Makes a buffer of `n` zeros, rounded up to whole cache lines.
    pub(crate) fn zeros(n: usize) -> Self {
        Self(filled(n.div_ceil(LINE), CacheLine([0.0; LINE])))
    }

    /// Resets the buffer to `n` zeros, rounded up to whole cache lines.
    pub(crate) fn reset(&mut self, n: usize) {
        self.0.clear();
        self.0.resize(n.div_ceil(LINE), CacheLine([0.0; LINE]));
    }
}

impl Deref for AlignedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a cache line is sixteen f32 without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LINE) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LINE) }
    }
}

/// Zero-initialised elements whose pages are allocated on their first write, by the writing threads. Aligned to a page.
#[derive(Debug)]
pub(crate) struct MappedBuffer(MmapMut);

impl MappedBuffer {
    /// Makes a buffer of `n` zeros.
    ///
    /// # Errors
    /// Memory that the operating system refuses.
    pub(crate) fn zeros(n: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(n * size_of::<f32>())?;
        #[cfg(target_os = "linux")]
        if map.len() >= LARGE {
            // A refusal has no effect on the contents.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self(map))
    }
}

impl Deref for MappedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the map is aligned to a page, and any bits are an f32.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() / size_of::<f32>()) }
    }
}

impl DerefMut for MappedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() / size_of::<f32>()) }
    }
}

/// Makes `n` elements on several threads in parts of `part`, each zeroed by the thread that makes it, without a
/// separate pass over memory.
pub(crate) fn in_parts(n: usize, part: usize, make: impl Fn(usize, &mut [f32]) + Sync + Send) -> Vec<f32> {
    in_parts_with(n, part, || (), |(), i, part| make(i, part))
}

/// Makes elements like [`in_parts`], with a state for each thread.
pub(crate) fn in_parts_with<S>(
    n: usize,
    part: usize,
    state: impl Fn() -> S + Sync + Send,
    make: impl Fn(&mut S, usize, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let mut elements = reserved(n);
    let parts = elements.spare_capacity_mut()[..n].par_chunks_mut(part.max(1)).enumerate();
    parts.for_each_init(state, |state, (i, part)| make(state, i, zeroed(part)));
    // SAFETY: every part was initialised.
    unsafe { elements.set_len(n) };
    elements
}

/// Matrix `(rows, columns)` that is made in blocks of columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColumnBlocks {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Columns of a block; the last block may have fewer.
    pub(crate) width: usize,
}

/// Start of a matrix whose blocks several threads write.
struct MatrixStart(*mut f32);

// SAFETY: the threads write disjoint elements.
unsafe impl Sync for MatrixStart {}

impl ColumnBlocks {
    /// Makes the matrix on several threads. `make` receives the first column of a block and a buffer `(rows, width)` with
    /// arbitrary elements, of which the block's columns are kept.
    pub(crate) fn make(self, make: impl Fn(usize, &mut [f32]) + Sync + Send) -> Vec<f32> {
        let Self { rows, columns, width } = self;
        let mut matrix = reserved(rows * columns);
        let start = MatrixStart(matrix.spare_capacity_mut()[..rows * columns].as_mut_ptr().cast());
        let start = &start;
        let buffer = || AlignedBuffer::zeros(rows * width);
        (0..columns.div_ceil(width)).into_par_iter().for_each_init(buffer, |buffer, block| {
            let (first, buffer) = (block * width, &mut buffer[..rows * width]);
            make(first, buffer);
            let n = width.min(columns - first);
            for (row, elements) in buffer.chunks_exact(width).enumerate() {
                // SAFETY: row and columns are within the matrix, and blocks are disjoint.
                unsafe { start.0.add(row * columns + first).copy_from_nonoverlapping(elements.as_ptr(), n) };
            }
        });
        // SAFETY: the blocks are the whole matrix.
        unsafe { matrix.set_len(rows * columns) };
        matrix
    }
}

/// Initialises elements to zero.
fn zeroed(elements: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    elements.fill(MaybeUninit::new(0.0));
    // SAFETY: all elements are initialised now.
    unsafe { &mut *(std::ptr::from_mut(elements) as *mut [f32]) }
}

/// Prefetches elements into the cache.
pub(crate) fn prefetch(elements: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in elements.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = elements;
}

/// Returns a vector of `n` copies of a value.
pub(crate) fn filled<T: Copy>(n: usize, value: T) -> Vec<T> {
    let mut values = reserved(n);
    values.resize(n, value);
    values
}

/// Returns an empty vector with capacity for `n` values.
pub(crate) fn reserved<T>(n: usize) -> Vec<T> {
    let values = Vec::with_capacity(n);
    advise(values.as_ptr(), n);
    values
}

/// Requests huge pages for `n` values.
fn advise<T>(values: *const T, n: usize) {
    #[cfg(target_os = "linux")]
    if n * size_of::<T>() >= LARGE {
        let page = page_size();
        let (begin, end) = (values as usize, values as usize + n * size_of::<T>());
        let (begin, end) = (begin.next_multiple_of(page), end / page * page);
        // SAFETY: the pages are within the buffer, and the advice does not change their contents. A refusal has no
        // effect.
        unsafe { libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (values, n);
}

#[cfg(target_os = "linux")]
fn page_size() -> usize {
    // SAFETY: the call only returns a value.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok().filter(|&size| size > 0).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_aligned_and_zeroed() {
        for n in [0, 1, 1000, 3_000_001] {
            let mut lines = AlignedBuffer::zeros(n);
            assert!(lines.iter().all(|&x| x == 0.0) && lines.len() == n.next_multiple_of(LINE));
            assert!(lines.as_ptr().addr().is_multiple_of(64));
            lines.fill(1.0);
            lines.reset(n + 1);
            assert!(lines.iter().all(|&x| x == 0.0) && lines.len() == (n + 1).next_multiple_of(LINE));
            let mut mapped = MappedBuffer::zeros(n.max(1)).expect("there is memory");
            assert!(mapped.iter().all(|&x| x == 0.0) && mapped.len() == n.max(1));
            assert!(mapped.as_ptr().addr().is_multiple_of(64));
            mapped.fill(1.0);
            let parts = in_parts(n, 1000, |i, part| part.iter_mut().for_each(|x| *x += i as f32));
            assert!(parts.iter().enumerate().all(|(i, &x)| x == (i / 1000) as f32) && parts.len() == n);
            let blocks = ColumnBlocks { rows: 3, columns: n % 1000, width: 16 };
            let matrix = blocks.make(|first, block| {
                block.iter_mut().enumerate().for_each(|(i, x)| *x = (i / 16 * 1000 + first + i % 16) as f32);
            });
            let expected = (0..3).flat_map(|row| (0..n % 1000).map(move |column| (row * 1000 + column) as f32));
            assert!(matrix.into_iter().eq(expected));
            assert!(filled(n, [7u8; 3]).iter().all(|&x| x == [7; 3]) && filled(n, 1u8).len() == n);
        }
    }
}
