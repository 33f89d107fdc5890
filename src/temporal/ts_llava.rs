//! TS-LLaVA (arXiv 2411.11066; tingyu215/TS-LLaVA, V2): tokens sampled from all frames, then a thumbnail of six of
//! them.
//!
//! The thumbnail is an image like any other, three rows of two frames, encoded after the frames. Of the `T N'` tokens
//! those at `round(linspace(0, T N' - 1, tokens))` are taken.
//!
//! # Shapes
//! `(T + 1, N', H)`, the thumbnail last, to `(min(tokens, T N') + N', H)`: 2,880 + 576 in the paper.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, FrameFold, FrameTokens, Strategy, Views, kernels_of, no_frames};
use crate::units::linspace;

/// Numbers of sampled tokens and of the thumbnail's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TsLlava {
    /// Tokens sampled from all frames. Default: `2880`.
    #[schemars(range(min = 1))]
    pub tokens: usize,
    /// Rows of frames in the thumbnail. Default: `3`.
    #[schemars(range(min = 1, max = 16))]
    pub rows: usize,
    /// Frames of a row. Default: `2`.
    #[schemars(range(min = 1, max = 16))]
    pub columns: usize,
}

impl Default for TsLlava {
    fn default() -> Self {
        Self { tokens: 2880, rows: 3, columns: 2 }
    }
}

impl Strategy for TsLlava {
    fn n_tokens(&self, n_frames: usize, frame: FrameTokens) -> usize {
        n_frames.saturating_mul(frame.count).min(self.tokens).saturating_add(frame.count)
    }

    fn explain(&self, n_frames: usize, frame: FrameTokens) -> String {
        let (sampled, count) = (n_frames.saturating_mul(frame.count).min(self.tokens), frame.count);
        format!("{sampled} tokens sampled of {n_frames} frames x {count} + {count} of the thumbnail")
    }

    fn check(&self, _: FrameTokens) -> crate::error::Result<()> {
        if self.tokens == 0 {
            return Err(Error::invalid("samples 0 tokens").with_hint("2880"));
        }
        check_mosaic(self.rows, self.columns)
    }

    fn views(&self) -> Views {
        Views::FramesAndThumbnail { rows: self.rows, columns: self.columns }
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(TsLlavaFold { tokens: self.tokens, images: Vec::new() })
    }
}

/// Checks the size of a mosaic of frames.
pub(super) fn check_mosaic(rows: usize, columns: usize) -> crate::error::Result<()> {
    const MOST: usize = 16;
    if (1..=MOST).contains(&rows) && (1..=MOST).contains(&columns) {
        return Ok(());
    }
    let rule = format!("puts {rows} rows of {columns} frames into an image");
    Err(Error::invalid(rule).with_hint(format!("3 rows of 2, at most {MOST} of either")))
}

struct TsLlavaFold {
    tokens: usize,
    images: Vec<Tensor>,
}

impl FrameFold for TsLlavaFold {
    fn push(&mut self, images: &Tensor) -> Result<()> {
        self.images.push(images.clone());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.images.is_empty() {
            return Err(no_frames());
        }
        let images = Tensor::cat(&self.images, 0)?; // (T + 1, N', H)
        let n_frames = images.dim(0)? - 1;
        if n_frames == 0 {
            return Err(no_frames());
        }
        let tokens = images.narrow(0, 0, n_frames)?.flatten_to(1)?; // (T N', H)
        let indices = sampled(tokens.dim(0)?, self.tokens);
        let indices = Tensor::from_slice(&indices, indices.len(), tokens.device())?;
        Tensor::cat(&[kernels_of(&tokens).gather(&tokens, &indices)?, images.get(n_frames)?], 0)
    }
}

/// Returns the indices of `n` of all tokens, `round(linspace(0, all - 1, n))`; every index of `n` tokens or fewer.
fn sampled(all: usize, n: usize) -> Vec<u32> {
    linspace(all, n.min(all)).into_iter().map(|index| index as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn sampled_tokens_come_before_the_thumbnail() {
        let mut fold = TsLlava { tokens: 3, ..TsLlava::default() }.begin(FrameTokens::loose(2));
        // Two frames of two tokens, and the thumbnail's: of 0 1 2 3 the indices 0, 1.5 (to even: 2) and 3.
        for image in [[[0f32], [1.0]], [[2.0], [3.0]], [[8.0], [9.0]]] {
            fold.push(&Tensor::new(&[image], &Device::Cpu).expect("small")).expect("it fits");
        }
        let out = fold.finish().and_then(|x| x.flatten_all()?.to_vec1::<f32>()).expect("three images came");
        assert_eq!(out, [0.0, 2.0, 3.0, 8.0, 9.0]);
    }

    #[test]
    fn the_paper_takes_2880_of_28800() {
        let indices = sampled(28_800, 2880);
        assert_eq!((indices.len(), indices[0], indices[1], indices[2879]), (2880, 0, 10, 28_799));
        assert_eq!(TsLlava::default().n_tokens(50, FrameTokens::loose(576)), 3456);
    }
}
