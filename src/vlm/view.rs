//! The tokens of a tower's hidden states as the connector sees them: without class token, and squares of patches as one
//! token each where the family has it so (space to depth, also called pixel shuffle).
//!
//! The squares are made before the connector, so that each kind of it works on tokens of the size that the projector
//! was trained for.

use candle_core::{Result, Tensor};

use crate::temporal::Grid;
use crate::vision::TowerConfig;

/// How hidden states become the connector's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateView {
    /// Tokens at the beginning of each state that are left out.
    pub n_dropped: usize,
    /// Side `s` of the square of patches that become one token; 1 is none.
    pub patches_per_side: usize,
}

impl StateView {
    /// Whether a tower's patches can be seen so.
    ///
    /// # Errors
    /// In words, when they are not shared out evenly.
    pub fn check(&self, tower: &TowerConfig) -> std::result::Result<(), String> {
        let (grid, side) = (tower.grid(), self.patches_per_side);
        if side == 0 || !grid.is_multiple_of(side) {
            return Err(format!(
                "squares of {side} x {side} patches become one token, but the patch grid is {grid} x {grid}"
            ));
        }
        let n_class = tower.n_class_tokens();
        if side > 1 && n_class != self.n_dropped {
            return Err(format!(
                "squares of patches become one token, but of {n_class} class tokens {} are left out",
                self.n_dropped
            ));
        }
        Ok(())
    }

    /// Tokens along each side of a frame.
    pub fn grid(&self, tower: &TowerConfig) -> Grid {
        let side = tower.grid() / self.patches_per_side.max(1);
        Grid { height: side, width: side }
    }

    /// `N`: tokens of a frame, class tokens included where they are kept.
    pub fn n_tokens(&self, tower: &TowerConfig) -> usize {
        let kept = (tower.n_patches() + tower.n_class_tokens()).saturating_sub(self.n_dropped);
        kept / (self.patches_per_side * self.patches_per_side).max(1)
    }

    /// Channels of a token: `s^2 D`.
    pub fn width(&self, tower: &TowerConfig) -> usize {
        self.patches_per_side * self.patches_per_side * tower.d_hidden
    }

    /// The squares of patches in words, to follow a tower's width; nothing where each patch is a token.
    pub fn describe(&self) -> String {
        let s = self.patches_per_side;
        if s == 1 { String::new() } else { format!(" with {s} x {s} patches a token") }
    }

    /// A state as the connector takes it. Token `(Y, X)` is the concatenation over `dy` (outer) and `dx` (inner) of
    /// patch `(Y s + dy, X s + dx)`: `pixel_shuffle` of `modeling_smolvlm.py` and of `modeling_internvl.py`.
    ///
    /// # Shapes
    /// `(T, n_dropped + N s^2, D)` to `(T, N, s^2 D)`.
    ///
    /// # Errors
    /// When the patches are not a square of such squares.
    pub fn apply(&self, state: &Tensor) -> Result<Tensor> {
        let kept = state.dim(1)?.saturating_sub(self.n_dropped);
        let tokens = state.narrow(1, self.n_dropped, kept)?; // (T, N, D)
        let s = self.patches_per_side;
        if s == 1 {
            return Ok(tokens);
        }
        let (frames, n, d) = tokens.dims3()?;
        let side = n.isqrt();
        let to = side / s;
        if to * s * to * s != n {
            candle_core::bail!("{n} patches are no square of squares of {s} x {s}");
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
        let view = StateView { n_dropped: 1, patches_per_side: 2 };
        let tokens = view.apply(&state).and_then(|x| x.to_vec3::<f32>()).expect("a square");
        let expected = [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0], [8.0, 9.0, 12.0, 13.0], [10.0, 11.0, 14.0, 15.0]];
        assert_eq!(tokens, [expected]);
        let plain = StateView { n_dropped: 1, patches_per_side: 1 };
        assert_eq!(plain.apply(&state).expect("any").dims(), [1, 16, 1]);
        assert!(StateView { n_dropped: 0, patches_per_side: 2 }.apply(&state).is_err());
    }

    #[test]
    fn counts_are_those_of_the_released_checkpoints() {
        let tower = |image_size, patch_size| {
            let config = crate::vlm::config::siglip_so400m();
            TowerConfig { image_size, patch_size, ..config }
        };
        for (image, patch, side, n) in [(512, 16, 4, 64), (384, 14, 3, 81)] {
            let (tower, view) = (tower(image, patch), StateView { n_dropped: 0, patches_per_side: side });
            assert_eq!((view.check(&tower), view.n_tokens(&tower)), (Ok(()), n));
            assert_eq!((view.grid(&tower).n_patches(), view.width(&tower)), (n, side * side * 1152));
        }
        let error = StateView { n_dropped: 0, patches_per_side: 2 }.check(&tower(384, 14)).expect_err("27 is odd");
        assert_eq!(error, "squares of 2 x 2 patches become one token, but the patch grid is 27 x 27");
    }
}
