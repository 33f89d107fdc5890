//! GEMM microkernels, which compute a tile of a product in registers: AVX-512, AVX2 with FMA, and scalar code. The
//! fastest one that the processor supports is chosen at run time.
//!
//! Every kernel accumulates an element in the order of the depth.

#[cfg(test)]
use std::sync::OnceLock;

use half::f16;

#[cfg(target_arch = "x86_64")]
use super::x86;

/// Tile of a product: some rows of the left side times one panel of the right side.
pub(crate) struct Tile<'a> {
    /// At most the kernel's MR.
    pub(crate) rows: usize,
    /// `K`.
    pub(crate) depth: usize,
    /// `(rows, K)`.
    pub(crate) left: Left<'a>,
    /// `(K, NR)`.
    pub(crate) panel: PanelElements<'a>,
    /// Whether the tile accumulates onto the target, which earlier blocks of the depth have written.
    pub(crate) accumulates: bool,
    /// Elements that are read next, to be prefetched.
    pub(crate) prefetch: &'a [f32],
}

impl Tile<'_> {
    /// Returns the address of the first element to prefetch, and its increment in bytes for each `k`.
    pub(super) fn prefetch(&self) -> (*const i8, usize) {
        (self.prefetch.as_ptr().cast(), size_of_val(self.prefetch) / self.depth.max(1))
    }
}

/// Elements of a panel. Those in f16 are converted to f32 in registers, which is exact: all arithmetic is in f32.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PanelElements<'a> {
    /// In f32.
    F32(&'a [f32]),
    /// In f16.
    F16(&'a [f16]),
}

impl<'a> PanelElements<'a> {
    /// Number of elements.
    fn len(self) -> usize {
        match self {
            Self::F32(elements) => elements.len(),
            Self::F16(elements) => elements.len(),
        }
    }

    /// Panel `i` of panels of `len` elements each.
    pub(crate) fn panel(self, i: usize, len: usize) -> PanelElements<'a> {
        match self {
            Self::F32(elements) => Self::F32(&elements[i * len..][..len]),
            Self::F16(elements) => Self::F16(&elements[i * len..][..len]),
        }
    }
}

/// Left side of a tile.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Row-major, a row every `stride` elements. Rows that are a power of two apart evict each other from the cache.
    Rows {
        /// Elements from the first row on.
        elements: &'a [f32],
        /// Elements from one row to the next.
        stride: usize,
    },
    /// `(K, rows)`: see [`pack_rows`].
    Packed(&'a [f32]),
}

/// Packs up to `height` rows of `depth` elements each, tile by tile, in the order in which a kernel reads them.
pub(crate) fn pack_rows(x: &[f32], depth: usize, height: usize) -> Vec<f32> {
    /// Elements of each row at a time, so that their destination stays in the cache.
    const AT_ONCE: usize = 64;
    let mut packed = vec![0.0; x.len()];
    for (x, packed) in x.chunks(height * depth).zip(packed.chunks_mut(height * depth)) {
        let rows = x.len() / depth;
        for (first, packed) in (0..depth).step_by(AT_ONCE).zip(packed.chunks_mut(AT_ONCE * rows)) {
            for (row, x) in x.chunks_exact(depth).enumerate() {
                packed[row..].iter_mut().step_by(rows).zip(&x[first..]).for_each(|(to, &from)| *to = from);
            }
        }
    }
    packed
}

/// Destination of a tile.
pub(crate) struct Target<'a> {
    /// Row-major, a row every `stride` elements.
    pub(crate) elements: &'a mut [f32],
    pub(crate) stride: usize,
    /// At most the kernel's NR.
    pub(crate) columns: usize,
}

/// Name of the portable kernel.
const PORTABLE: &str = "portable";

/// GEMM microkernel.
#[derive(Debug)]
pub(crate) struct GemmKernel {
    /// MR: rows of a tile.
    pub(crate) height: usize,
    /// NR: columns of a panel.
    pub(crate) width: usize,
    name: &'static str,
    run: fn(&Tile<'_>, &mut Target<'_>),
}

impl GemmKernel {
    /// Returns the fastest kernel that this processor supports.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                // SAFETY: the feature is there.
                return Self { height: 14, width: 32, name: "avx512", run: |t, y| unsafe { x86::avx512(t, y) } };
            }
            if has_avx2() {
                return Self::avx2();
            }
        }
        Self::portable()
    }

    #[cfg(target_arch = "x86_64")]
    fn avx2() -> Self {
        // SAFETY: only made where the features are there.
        Self { height: 6, width: 16, name: "avx2", run: |t, y| unsafe { x86::avx2(t, y) } }
    }

    /// Returns the scalar kernel, which runs on every processor.
    pub(crate) fn portable() -> Self {
        Self { height: 4, width: 16, name: PORTABLE, run: portable }
    }

    /// Returns whether this is the scalar kernel.
    pub(crate) fn is_portable(&self) -> bool {
        self.name == PORTABLE
    }

    /// Writes a tile.
    ///
    /// # Panics
    /// When the sides or the target are smaller than the tile.
    pub(crate) fn tile(&self, tile: &Tile<'_>, target: &mut Target<'_>) {
        let Tile { rows, depth, left, panel, .. } = tile;
        let has_left = match left {
            Left::Rows { elements, stride } => elements.len() >= (rows - 1) * stride + depth,
            Left::Packed(elements) => elements.len() >= rows * depth,
        };
        assert!(
            (1..=self.height).contains(rows)
                && has_left
                && panel.len() >= depth * self.width
                && (1..=self.width).contains(&target.columns)
                && target.elements.len() >= (rows - 1) * target.stride + target.columns,
            "a tile of {rows} x {} for {}",
            target.columns,
            self.name
        );
        (self.run)(tile, target);
    }
}

/// Returns whether the processor has what [`x86::avx2`] needs.
#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("fma") && has!("f16c")
}

/// Writes a tile by scalar code.
fn portable(tile: &Tile<'_>, target: &mut Target<'_>) {
    match tile.panel {
        PanelElements::F32(panel) => portable_over(panel, |x| x, tile, target),
        PanelElements::F16(panel) => portable_over(panel, f16::to_f32, tile, target),
    }
}

fn portable_over<T: Copy>(panel: &[T], element: impl Fn(T) -> f32, tile: &Tile<'_>, target: &mut Target<'_>) {
    const WIDTH: usize = 16;
    for row in 0..tile.rows {
        let (mut sums, columns) = ([0.0; WIDTH], target.columns);
        let target = &mut target.elements[row * target.stride..][..columns];
        if tile.accumulates {
            sums[..columns].copy_from_slice(target);
        }
        for (k, weights) in panel.chunks_exact(WIDTH).take(tile.depth).enumerate() {
            let value = match tile.left {
                Left::Rows { elements, stride } => elements[row * stride + k],
                Left::Packed(elements) => elements[k * tile.rows + row],
            };
            sums.iter_mut().zip(weights).for_each(|(sum, &weight)| *sum += value * element(weight));
        }
        target.copy_from_slice(&sums[..columns]);
    }
}

/// Returns all kernels that this processor supports.
#[cfg(test)]
pub(crate) fn all() -> &'static [GemmKernel] {
    static ALL: OnceLock<Vec<GemmKernel>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut found = vec![GemmKernel::portable(), GemmKernel::best()];
        #[cfg(target_arch = "x86_64")]
        if has_avx2() {
            found.push(GemmKernel::avx2());
        }
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::finite_difference::random_elements;

    #[test]
    fn a_panel_in_f16_gives_the_bits_of_the_same_elements_in_f32() {
        let depth = 37;
        for kernel in all() {
            let halves: Vec<f16> = random_elements(depth * kernel.width, 1).into_iter().map(f16::from_f32).collect();
            let floats: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
            let x = random_elements(kernel.height * depth, 2);
            let sizes = (1..=kernel.height).flat_map(|rows| [1, 8, kernel.width].map(|columns| (rows, columns)));
            for ((rows, columns), accumulates) in sizes.flat_map(|size| [(size, false), (size, true)]) {
                for left in [Left::Rows { elements: &x, stride: depth }, Left::Packed(&x)] {
                    let run = |panel| {
                        let mut y = random_elements(rows * columns, 3);
                        let tile = Tile { rows, depth, left, panel, accumulates, prefetch: &[] };
                        kernel.tile(&tile, &mut Target { elements: &mut y, stride: columns, columns });
                        y
                    };
                    let (from_halves, from_floats) =
                        (run(PanelElements::F16(&halves)), run(PanelElements::F32(&floats)));
                    assert_eq!(from_halves, from_floats, "{}: {rows} x {columns}", kernel.name);
                }
            }
        }
    }
}
