//! Weights in f32 as the panels that the GEMM kernels read. Packed once when a weight is loaded; attention packs keys
//! and values by the same functions.

use rayon::prelude::*;

use super::kernel::pack_rows;
use super::{DEPTH, GemmKernel, Left, PanelElements, Panels, Target, Tile, TilePosition};
use crate::kernels::cpu::memory::AlignedBuffer;

/// Matrix `(K, N)` in f32 as panels `(K, NR)`, the last one padded with zeros.
#[derive(Debug, Clone)]
pub(crate) struct PackedMatrix {
    panels: AlignedBuffer,
    depth: usize,
    columns: usize,
    kernel: &'static GemmKernel,
}

impl PackedMatrix {
    /// Packs the transpose of `w (N, K)`, the layout in which weights are stored.
    pub(crate) fn transpose_of(w: &[f32], depth: usize, kernel: &'static GemmKernel) -> Self {
        let (columns, width) = (w.len() / depth.max(1), kernel.width);
        let mut panels = AlignedBuffer::zeros(columns.div_ceil(width) * depth * width);
        if depth > 0 {
            let packs = panels.par_chunks_mut(depth * width).zip(w.par_chunks(width * depth));
            packs.for_each(|(panel, rows)| {
                pack_transpose(MatrixRows { elements: rows, depth, stride: depth }, width, panel)
            });
        }
        Self { panels, depth, columns, kernel }
    }

    /// Copies one column, of `K` elements.
    pub(crate) fn copy_column(&self, column: usize, to: &mut [f32]) {
        let width = self.kernel.width;
        let panel = &self.panels[column / width * self.depth * width..][..self.depth * width];
        to.iter_mut().zip(panel[column % width..].iter().step_by(width)).for_each(|(to, &from)| *to = from);
    }

    /// Joins the columns of several matrices, or returns `None` unless those of each fill its panels.
    pub(crate) fn join(parts: &[&Self]) -> Option<Self> {
        let &&Self { depth, kernel, .. } = parts.first()?;
        let fits = |part: &&Self| part.depth == depth && part.columns.is_multiple_of(kernel.width);
        if !parts.iter().all(|part| fits(part) && part.kernel.width == kernel.width) {
            return None;
        }
        let mut panels = AlignedBuffer::zeros(parts.iter().map(|part| part.panels.len()).sum());
        let mut rest = &mut *panels;
        for part in parts {
            let (these, others) = rest.split_at_mut(part.panels.len());
            these.copy_from_slice(&part.panels);
            rest = others;
        }
        Some(Self { panels, depth, columns: parts.iter().map(|part| part.columns).sum(), kernel })
    }
}

impl Panels for PackedMatrix {
    type Left = Vec<f32>;

    fn height(&self) -> usize {
        self.kernel.height
    }

    fn width(&self) -> usize {
        self.kernel.width
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn depth_block(&self) -> usize {
        DEPTH
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn row_bytes(&self) -> usize {
        self.depth * size_of::<f32>()
    }

    fn prepare(&self, x: &[f32]) -> Vec<f32> {
        pack_rows(x, self.depth, self.kernel.height)
    }

    fn tile(&self, left: &Vec<f32>, position: &TilePosition, target: &mut Target<'_>) {
        let (rows, depth, width) = (position.rows.len(), position.depth.len(), self.kernel.width);
        let left =
            Left::Packed(&left[position.rows.start * self.depth + position.depth.start * rows..][..depth * rows]);
        let (panel, next) =
            self.panels[(position.panel * self.depth + position.depth.start) * width..].split_at(depth * width);
        let prefetch = position.prefetch_share(&next[..panel.len().min(next.len())]);
        self.kernel.tile(
            &Tile {
                rows,
                depth,
                left,
                panel: PanelElements::F32(panel),
                accumulates: position.depth.start > 0,
                prefetch,
            },
            target,
        );
    }
}

/// Rows of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct MatrixRows<'x> {
    /// Elements from the first row on.
    pub(crate) elements: &'x [f32],
    /// Number of elements of a row.
    pub(crate) depth: usize,
    /// Distance from one row to the next.
    pub(crate) stride: usize,
}

/// Packs up to `width` rows as the columns of a panel.
pub(crate) fn pack_transpose(rows: MatrixRows<'_>, width: usize, panel: &mut [f32]) {
    let MatrixRows { elements, depth, stride } = rows;
    for (column, row) in elements.chunks(stride).take(width).enumerate() {
        panel[column..].iter_mut().step_by(width).zip(&row[..depth]).for_each(|(to, &from)| *to = from);
    }
}
