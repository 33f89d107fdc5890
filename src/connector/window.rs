//! Dense temporal DCI, a variant of ours: the two groups of DCI are averaged over neighbouring frames, while the final
//! layer stays with its frame. Low layers say where things are, on which neighbouring frames agree more than on what
//! they are.
//!
//! For frame `t` and an odd window `w` the groups are the means over the existing frames of `t - w / 2 ..= t + w / 2`;
//! `w = 1` is DCI. The window runs between connector and projector. Token cost: none. Memory: `w` frames.

use std::collections::VecDeque;

use candle_core::{D, DType, Result, Tensor};

/// Running window over frames in time order.
pub(crate) struct ChannelWindow {
    /// Frames on either side of the middle one.
    reach: usize,
    /// Channels of the final layer, which come first and stay unchanged.
    d_final: usize,
    /// The last `2 reach + 1` frames, `(N, k D)` each.
    frames: VecDeque<Tensor>,
    n_pushed: usize,
    n_emitted: usize,
}

impl ChannelWindow {
    /// Makes a window of `width` frames over all but the first `d_final` channels.
    pub(crate) fn new(width: usize, d_final: usize) -> Self {
        Self { reach: width / 2, d_final, frames: VecDeque::new(), n_pushed: 0, n_emitted: 0 }
    }

    /// Takes the next frames, and returns the frames whose window is complete.
    ///
    /// # Shapes
    /// `(t, N, k D)` to frames of `(1, N, k D)` each.
    ///
    /// # Errors
    /// When candle fails.
    pub(crate) fn push(&mut self, fused: &Tensor) -> Result<Vec<Tensor>> {
        if self.reach == 0 {
            return Ok(vec![fused.clone()]);
        }
        let mut complete = Vec::new();
        for t in 0..fused.dim(0)? {
            self.frames.push_back(fused.get(t)?);
            self.n_pushed += 1;
            if self.n_pushed > self.reach {
                complete.push(self.next()?);
            }
        }
        Ok(complete)
    }

    /// Returns the last frames, whose windows end with the video.
    ///
    /// # Errors
    /// When candle fails.
    pub(crate) fn finish(mut self) -> Result<Vec<Tensor>> {
        if self.reach == 0 {
            return Ok(Vec::new());
        }
        (self.n_emitted..self.n_pushed).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Result<Tensor> {
        let t = self.n_emitted;
        // Index of the oldest frame in `frames`.
        let mut oldest = self.n_pushed - self.frames.len();
        while oldest + self.reach < t {
            self.frames.pop_front();
            oldest += 1;
        }
        let middle = &self.frames[t - oldest];
        let (d, dtype) = (middle.dim(D::Minus1)?, middle.dtype());
        let groups = |frame: &Tensor| frame.narrow(D::Minus1, self.d_final, d - self.d_final)?.to_dtype(DType::F32);
        let last = (t + self.reach).min(self.n_pushed - 1);
        let mut sum = groups(&self.frames[0])?;
        for frame in self.frames.range(1..=last - oldest) {
            sum = (sum + groups(frame)?)?;
        }
        let mean = (sum / (last - oldest + 1) as f64)?.to_dtype(dtype)?;
        let fused = Tensor::cat(&[&middle.narrow(D::Minus1, 0, self.d_final)?, &mean], D::Minus1)?;
        self.n_emitted += 1;
        fused.unsqueeze(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Runs a window over frames of one token with a final channel and one channel of a group.
    fn run(width: usize, groups: &[f32], sizes: &[usize]) -> Vec<(f32, f32)> {
        let mut window = ChannelWindow::new(width, 1);
        let (mut out, mut at) = (Vec::new(), 0);
        for &size in sizes {
            let values: Vec<f32> = (at..at + size).flat_map(|i| [10.0 + i as f32, groups[i]]).collect();
            let frames = Tensor::from_vec(values, (size, 1, 2), &Device::Cpu).expect("small");
            out.extend(window.push(&frames).expect("it fits"));
            at += size;
        }
        out.extend(window.finish().expect("it fits"));
        let flat = |t: Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
        out.into_iter().flat_map(flat).collect::<Vec<_>>().chunks(2).map(|pair| (pair[0], pair[1])).collect()
    }

    #[test]
    fn groups_are_means_of_neighbours_and_the_final_layer_stays() {
        // Windows of 3 over 3 6 0 9: (3 + 6) / 2, 9 / 3, 15 / 3, 9 / 2.
        let expected = [(10.0, 4.5), (11.0, 3.0), (12.0, 5.0), (13.0, 4.5)];
        for sizes in [&[4][..], &[1, 1, 1, 1], &[2, 2], &[3, 1]] {
            assert_eq!(run(3, &[3.0, 6.0, 0.0, 9.0], sizes), expected, "{sizes:?}");
        }
        assert_eq!(run(9, &[3.0, 6.0], &[2]), [(10.0, 4.5), (11.0, 4.5)]);
        assert_eq!(run(3, &[7.0], &[1]), [(10.0, 7.0)]);
    }

    #[test]
    fn a_window_of_one_is_dci() {
        assert_eq!(run(1, &[3.0, 6.0, 0.0], &[2, 1]), [(10.0, 3.0), (11.0, 6.0), (12.0, 0.0)]);
    }
}
