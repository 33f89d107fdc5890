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

use super::{Fold, FrameTokens, Strategy, Views, kernels_of, no_frames};
use crate::units::linspace;

/// How much is sampled.
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

    fn check(&self, _: FrameTokens) -> std::result::Result<(), String> {
        if self.tokens == 0 {
            return Err("samples 0 tokens; hint: 2880".to_owned());
        }
        check_mosaic(self.rows, self.columns)
    }

    fn views(&self) -> Views {
        Views::FramesAndThumbnail { rows: self.rows, columns: self.columns }
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn Fold> {
        Box::new(Sampling { tokens: self.tokens, images: Vec::new() })
    }
}

/// Whether so many frames make an image.
pub(super) fn check_mosaic(rows: usize, columns: usize) -> std::result::Result<(), String> {
    const MOST: usize = 16;
    if (1..=MOST).contains(&rows) && (1..=MOST).contains(&columns) {
        return Ok(());
    }
    Err(format!("puts {rows} rows of {columns} frames into an image; hint: 3 rows of 2, at most {MOST} of either"))
}

struct Sampling {
    tokens: usize,
    images: Vec<Tensor>,
}

impl Fold for Sampling {
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
        let places = sampled(tokens.dim(0)?, self.tokens);
        let places = Tensor::from_slice(&places, places.len(), tokens.device())?;
        Tensor::cat(&[kernels_of(&tokens).gather(&tokens, &places)?, images.get(n_frames)?], 0)
    }
}

/// Places of `n` of all tokens, `round(linspace(0, all - 1, n))`; of no more than `n` tokens all.
fn sampled(all: usize, n: usize) -> Vec<u32> {
    linspace(all, n.min(all)).into_iter().map(|place| place as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn sampled_tokens_come_before_the_thumbnail() {
        let mut fold = TsLlava { tokens: 3, ..TsLlava::default() }.begin(FrameTokens::loose(2));
        // Two frames of two tokens, and the thumbnail's: of 0 1 2 3 the places 0, 1.5 (to even: 2) and 3.
        for image in [[[0f32], [1.0]], [[2.0], [3.0]], [[8.0], [9.0]]] {
            fold.push(&Tensor::new(&[image], &Device::Cpu).expect("small")).expect("it fits");
        }
        let out = fold.finish().and_then(|x| x.flatten_all()?.to_vec1::<f32>()).expect("three images came");
        assert_eq!(out, [0.0, 2.0, 3.0, 8.0, 9.0]);
    }

    #[test]
    fn the_paper_takes_2880_of_28800() {
        let places = sampled(28_800, 2880);
        assert_eq!((places.len(), places[0], places[1], places[2879]), (2880, 0, 10, 28_799));
        assert_eq!(TsLlava::default().n_tokens(50, FrameTokens::loose(576)), 3456);
    }
}
