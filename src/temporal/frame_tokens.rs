//! Tokens of one frame after the connector: their number and their grid, known before any is computed.

use crate::error::{Error, Result};
use crate::kernels::{GridPool, PoolMode};

/// The patch grid of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Rows of patches.
    pub height: usize,
    /// Patches of a row.
    pub width: usize,
}

impl Grid {
    /// Returns the pool of frames of this grid to frames of another one.
    pub(crate) fn pool_to(self, to: Self, mode: PoolMode) -> GridPool {
        GridPool { from: [self.height, self.width], to: [to.height, to.width], mode }
    }

    /// Patches.
    pub(crate) fn n_patches(self) -> usize {
        self.height * self.width
    }
}

/// The tokens of one frame after the connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTokens {
    /// `N'`.
    pub count: usize,
    /// The grid that they stand on, row by row; none where more tokens than patches follow (STI, a class token).
    pub grid: Option<Grid>,
    /// Whether the model has a row that ends rows or frames of visual tokens (`image_newline`).
    pub has_newline: bool,
}

impl FrameTokens {
    /// Makes `count` tokens without a grid.
    pub fn loose(count: usize) -> Self {
        Self { count, grid: None, has_newline: false }
    }

    /// Makes the tokens of a grid.
    pub(crate) fn on_grid(grid: Grid) -> Self {
        Self { count: grid.n_patches(), grid: Some(grid), has_newline: false }
    }

    /// Returns the grid, for a strategy that pools on it to `height x width`.
    ///
    /// # Errors
    /// When there is none, or it is smaller.
    pub(crate) fn grid_for(self, height: usize, width: usize) -> Result<Grid> {
        let Some(grid) = self.grid else {
            let rule =
                format!("pools on the patch grid, but the {} tokens of a frame are not the patches alone", self.count);
            return Err(
                Error::invalid(rule).with_hint("a connector other than sti, and mm_vision_select_feature patch")
            );
        };
        if height == 0 || width == 0 || height > grid.height || width > grid.width {
            let Grid { height: rows, width: columns } = grid;
            let rule = format!("pools to {height} x {width}, but the patch grid is {rows} x {columns}");
            return Err(Error::invalid(rule).with_hint("from 1 x 1 to that"));
        }
        Ok(grid)
    }
}
