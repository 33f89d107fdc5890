//! EVS, efficient video sampling (vLLM's `evs`): patches that look like the same patch one frame before are dropped.
//!
//! Dissimilarity is 1 - cosine to the same position one frame before; the first frame is kept whole. Of the `T N'`
//! tokens the `max(N', floor(T N' (1 - drop)))` most dissimilar stay, in their order.
//!
//! # Shapes
//! `(T, N', H)` to `(max(N', floor(T N' (1 - drop))), H)`.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, FrameFold, FrameTokens, Strategy, kernels_of, no_frames};

/// Share of dropped tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Evs {
    /// The share of all tokens that goes, from 0 to below 1. Default: `0.75`.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub drop: f64,
}

impl Default for Evs {
    fn default() -> Self {
        Self { drop: 0.75 }
    }
}

impl Evs {
    fn kept(self, n_frames: usize, n_tokens: usize) -> usize {
        let all = n_frames.saturating_mul(n_tokens);
        let kept = (all as f64 * (1.0 - self.drop)) as usize;
        kept.max(n_tokens).min(all)
    }
}

impl Strategy for Evs {
    fn n_tokens(&self, n_frames: usize, frame: FrameTokens) -> usize {
        self.kept(n_frames, frame.count)
    }

    fn explain(&self, n_frames: usize, frame: FrameTokens) -> String {
        let (kept, count) = (self.kept(n_frames, frame.count), frame.count);
        format!("{kept} tokens left of {n_frames} frames x {count}, at least one frame's")
    }

    fn check(&self, _: FrameTokens) -> crate::error::Result<()> {
        if (0.0..1.0).contains(&self.drop) {
            return Ok(());
        }
        Err(Error::invalid(format!("drops {} of the tokens", self.drop)).with_hint("a share from 0 to below 1"))
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(EvsFold { config: *self, frames: Vec::new(), cosines: Vec::new(), last: None })
    }
}

struct EvsFold {
    config: Evs,
    frames: Vec<Tensor>,
    /// Cosines of every token from the second frame on to the token of the frame before, `(n)` per batch.
    cosines: Vec<Tensor>,
    /// The frame before, `(N', H)`.
    last: Option<Tensor>,
}

impl FrameFold for EvsFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        let (t, _, _) = frames.dims3()?;
        if t == 0 {
            return Ok(());
        }
        let kernels = kernels_of(frames);
        if let Some(last) = &self.last {
            self.cosines.push(kernels.row_cosines(&frames.get(0)?, last)?); // (N')
        }
        if t > 1 {
            let (later, before) = (frames.narrow(0, 1, t - 1)?, frames.narrow(0, 0, t - 1)?);
            self.cosines.push(kernels.row_cosines(&later.flatten_to(1)?, &before.flatten_to(1)?)?); // ((t - 1) N')
        }
        self.last = Some(frames.get(t - 1)?); // (N', H)
        self.frames.push(frames.flatten_to(1)?); // (t N', H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        let Some(last) = self.last else { return Err(no_frames()) };
        let (n, kernels) = (last.dim(0)?, kernels_of(&last));
        let frames = Tensor::cat(&self.frames, 0)?; // (T N', H)
        let n_kept = self.config.kept(frames.dim(0)? / n.max(1), n);
        let kept = kernels.largest_indices(&dissimilarities(&self.cosines, &last)?, n_kept)?;
        kernels.gather(&frames, &kept)
    }
}

/// Returns `1 - cosine` of each token and the one before it, infinite for the tokens of the first frame: `(T N')`, f32.
fn dissimilarities(cosines: &[Tensor], frame: &Tensor) -> Result<Tensor> {
    let first = Tensor::full(f32::INFINITY, frame.dim(0)?, frame.device())?;
    match cosines {
        [] => Ok(first),
        _ => Tensor::cat(&[first, Tensor::cat(cosines, 0)?.affine(-1.0, 1.0)?], 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn what_changed_most_is_kept_in_order() {
        // Two patches of width 2. In frame 1 the first turns by a right angle (1), the second stays (0); in frame 2
        // the first stays (0), the second turns to its opposite (2).
        let frames = [[[1f32, 0.0], [0.0, 1.0]], [[0.0, 3.0], [0.0, 2.0]], [[0.0, 1.0], [0.0, -1.0]]];
        let kept = |drop: f64| {
            let mut fold = Evs { drop }.begin(FrameTokens::loose(2));
            for frame in &frames {
                fold.push(&Tensor::new(&[*frame], &Device::Cpu).expect("small")).expect("it fits");
            }
            fold.finish().and_then(|x| x.to_vec2::<f32>()).expect("three frames came")
        };
        // floor(6 x 0.67) = 4: the first frame, the right angle, the opposite.
        assert_eq!(kept(0.33), [[1.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, -1.0]]);
        // floor(6 x 0.5) = 3: the opposite changed most.
        assert_eq!(kept(0.5), [[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]);
        // Never less than a frame.
        assert_eq!(kept(0.99), [[1.0, 0.0], [0.0, 1.0]]);
        assert_eq!(kept(0.0).len(), 6);
    }
}
