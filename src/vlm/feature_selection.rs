//! Selection of a tower's features: from a hidden state to the tokens that the connector takes.
//!
//! Leading tokens are dropped (CLIP's class token), and squares of patches are merged into one token each where the
//! family does so (space to depth, also called pixel shuffle). Squares are merged before the connector, so that every
//! connector works on tokens of the size that the projector was trained for.

use candle_core::{Result, Tensor};
use serde::Serialize;

use crate::error::{self, Error};
use crate::temporal::Grid;
use crate::vision::TowerConfig;

/// Selection of the connector's tokens from a hidden state.
///
/// `n_leading_dropped` counts tokens that the selection drops. [`TowerConfig::n_class_tokens`] counts tokens that the
/// tower makes before its patches; the two differ where a family drops the first patch, or keeps the class token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FeatureSelection {
    /// Tokens dropped from the beginning of each state.
    pub n_leading_dropped: usize,
    /// Side `s` of the square of patches that is merged into one token; 1 merges none.
    pub patches_per_side: usize,
}

impl FeatureSelection {
    /// Checks that the selection fits the tower's patch grid.
    ///
    /// # Errors
    /// When the grid does not divide into such squares, or other tokens than the class tokens are dropped before
    /// squares are merged.
    pub(super) fn check(&self, tower: &TowerConfig) -> error::Result<()> {
        let (grid, side) = (tower.grid(), self.patches_per_side);
        if side == 0 || !grid.is_multiple_of(side) {
            return Err(Error::invalid(format!(
                "squares of {side} x {side} patches become one token, but the patch grid is {grid} x {grid}"
            )));
        }
        let (n_class, n_dropped) = (tower.n_class_tokens(), self.n_leading_dropped);
        if side > 1 && n_class != n_dropped {
            return Err(Error::invalid(format!(
                "squares of patches become one token, but {n_dropped} leading tokens are dropped of a tower with \
                 {n_class} class tokens"
            )));
        }
        Ok(())
    }

    /// Tokens along each side of a frame.
    pub fn grid(&self, tower: &TowerConfig) -> Grid {
        let side = tower.grid() / self.patches_per_side.max(1);
        Grid { height: side, width: side }
    }

    /// Tokens of a state that the selection keeps, before squares are merged.
    pub(crate) fn n_kept(&self, tower: &TowerConfig) -> usize {
        tower.n_state_tokens().saturating_sub(self.n_leading_dropped)
    }

    /// `N`: tokens of a frame, class tokens included where they are kept.
    pub fn n_tokens(&self, tower: &TowerConfig) -> usize {
        self.n_kept(tower) / (self.patches_per_side * self.patches_per_side).max(1)
    }

    /// Channels of a token: `s^2 D`.
    pub fn width(&self, tower: &TowerConfig) -> usize {
        self.patches_per_side * self.patches_per_side * tower.d_hidden
    }

    /// Describes the merged squares, to follow a tower's width; empty where each patch is a token.
    pub fn describe(&self) -> String {
        let s = self.patches_per_side;
        if s == 1 { String::new() } else { format!(" with {s} x {s} patches a token") }
    }

    /// Applies the selection to a state. Token `(Y, X)` is the concatenation over `dy` (outer) and `dx` (inner) of
    /// patch `(Y s + dy, X s + dx)`: `pixel_shuffle` of `modeling_smolvlm.py` and of `modeling_internvl.py`.
    ///
    /// # Shapes
    /// `(T, n_leading_dropped + N s^2, D)` to `(T, N, s^2 D)`.
    ///
    /// # Errors
    /// When the patches do not divide into such squares.
    pub fn apply(&self, state: &Tensor) -> Result<Tensor> {
        let kept = state.dim(1)?.saturating_sub(self.n_leading_dropped);
        let tokens = state.narrow(1, self.n_leading_dropped, kept)?; // (T, N, D)
        let s = self.patches_per_side;
        if s == 1 {
            return Ok(tokens);
        }
        let (frames, n, d) = tokens.dims3()?;
        let side = n.isqrt();
        let to = side / s;
        if to * s * to * s != n {
            candle_core::bail!("{n} patches do not divide into squares of {s} x {s}");
        }
        tokens
            .contiguous()?
            .reshape((frames, to, s, to, s * d))?
            .transpose(2, 3)? // (T, Y, X, dy, dx D)
            .contiguous()?
            .reshape((frames, to * to, s * s * d))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn squares_of_patches_become_tokens_row_by_row() {
        // 4 x 4 patches after a class token, one channel: patch (y, x) is 4 y + x.
        let state = Tensor::arange(-1f32, 16.0, &Device::Cpu).and_then(|x| x.reshape((1, 17, 1))).expect("small");
        let merged = FeatureSelection { n_leading_dropped: 1, patches_per_side: 2 };
        let tokens = merged.apply(&state).and_then(|x| x.to_vec3::<f32>()).expect("a square");
        let expected = [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0], [8.0, 9.0, 12.0, 13.0], [10.0, 11.0, 14.0, 15.0]];
        assert_eq!(tokens, [expected]);
        let plain = FeatureSelection { n_leading_dropped: 1, patches_per_side: 1 };
        assert_eq!(plain.apply(&state).expect("any grid").dims(), [1, 16, 1]);
        assert!(FeatureSelection { n_leading_dropped: 0, patches_per_side: 2 }.apply(&state).is_err());
    }

    #[test]
    fn counts_are_those_of_the_released_checkpoints() {
        let tower = |image_size, patch_size| {
            let config = crate::vlm::config::siglip_so400m();
            TowerConfig { image_size, patch_size, ..config }
        };
        for (image, patch, side, n) in [(512, 16, 4, 64), (384, 14, 3, 81)] {
            let (tower, selection) =
                (tower(image, patch), FeatureSelection { n_leading_dropped: 0, patches_per_side: side });
            selection.check(&tower).expect("whole squares");
            assert_eq!(selection.n_tokens(&tower), n);
            assert_eq!((selection.grid(&tower).n_patches(), selection.width(&tower)), (n, side * side * 1152));
        }
        let error = FeatureSelection { n_leading_dropped: 0, patches_per_side: 2 }
            .check(&tower(384, 14))
            .expect_err("27 is odd");
        assert_eq!(error.to_string(), "squares of 2 x 2 patches become one token, but the patch grid is 27 x 27");
    }
}
