//! `scene`: cuts where the distance of colour histograms is above a threshold; of each scene the middle frame is taken.

use ::image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::short::ShortVideoPolicy;
use super::timeline::Timeline;
use super::{SamplingRule, at_most, check_frames};
use crate::error::{Error, Result};

/// Number of levels of a channel in a bin.
const BIN: u8 = 32;
/// Number of bins of a channel.
const BINS: usize = 8;
/// Number of sampled pixels in each direction: enough for shares to a percent.
const GRID: u32 = 64;

/// Share of a frame's pixels in each of 8 x 8 x 8 bins of red, green and blue.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Histogram(Vec<f32>);

impl Histogram {
    /// Computes the histogram of a frame.
    pub(crate) fn of(frame: &RgbImage) -> Self {
        let mut counts = vec![0u32; BINS * BINS * BINS];
        let (width, height) = frame.dimensions();
        let (columns, rows) = (width.min(GRID), height.min(GRID));
        for row in 0..rows {
            for column in 0..columns {
                let pixel =
                    frame.get_pixel((2 * column + 1) * width / (2 * columns), (2 * row + 1) * height / (2 * rows));
                let [r, g, b] = pixel.0.map(|level| usize::from(level / BIN));
                counts[(r * BINS + g) * BINS + b] += 1;
            }
        }
        let total = (columns * rows).max(1) as f32;
        Self(counts.into_iter().map(|count| count as f32 / total).collect())
    }

    /// Returns half the sum of absolute differences: 0 for equal shares, 1 for no bin in common.
    pub(crate) fn distance(&self, other: &Self) -> f32 {
        self.0.iter().zip(&other.0).map(|(a, b)| (a - b).abs()).sum::<f32>() / 2.0
    }
}

/// Options of `scene`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SceneSampling {
    /// Number of frames at most; of more scenes, `frames` are taken at equal distances. Default: `8`.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
    /// Distance to the frame before, 0 to 1, above which a scene begins. Default: `0.4`.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub threshold: f64,
    /// Policy for a video of fewer scenes. Default: `fewer`.
    pub short: ShortVideoPolicy,
}

impl Default for SceneSampling {
    fn default() -> Self {
        Self { frames: 8, threshold: 0.4, short: ShortVideoPolicy::Fewer }
    }
}

impl SamplingRule for SceneSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        if timeline.distances.len() != timeline.len() {
            return Err(Error::invalid("histograms of the frames are missing"));
        }
        let is_cut = |i: &usize| f64::from(timeline.distances[*i]) > self.threshold;
        let begins: Vec<usize> = std::iter::once(0).chain((1..timeline.len()).filter(is_cut)).collect();
        let ends = begins[1..].iter().copied().chain([timeline.len()]);
        let middles = begins.iter().zip(ends).map(|(&begin, end)| usize::midpoint(begin, end - 1)).collect();
        self.short.fill(at_most(middles, self.frames), self.frames)
    }

    fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.threshold) {
            return Err(Error::invalid(format!("invalid threshold {}", self.threshold)).with_hint("from 0 to below 1"));
        }
        check_frames(self.frames)
    }
}
