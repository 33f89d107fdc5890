//! Preparation of frames of one size as tables, for devices that pad, resize, crop and normalise themselves: the
//! integers, and so the levels, are those of [`super::Preprocessor::run`]. [`super::Preprocessor::plan`] makes the
//! tables, `kernels::frames` copies them to a device.

/// Source pixels of each target pixel along one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taps {
    /// First source pixel of each target pixel.
    pub starts: Vec<u32>,
    /// Weights of the source pixels of each target pixel, [`Self::n_taps`] of them, with `PILLOW_BITS` fractional
    /// bits; 0 after the last source pixel.
    pub weights: Vec<i32>,
    /// Largest number of source pixels of a target pixel.
    pub n_taps: usize,
}

impl Taps {
    /// Makes a table of the first source pixel and the weights of each target pixel.
    pub(super) fn new(windows: impl Iterator<Item = (usize, Vec<i32>)>) -> Self {
        let windows: Vec<_> = windows.collect();
        let n_taps = windows.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        let padded = |(_, weights): &(usize, Vec<i32>)| {
            let rest = n_taps - weights.len();
            weights.iter().copied().chain(std::iter::repeat_n(0, rest)).collect::<Vec<_>>()
        };
        Self {
            weights: windows.iter().flat_map(padded).collect(),
            starts: windows.iter().map(|(start, _)| *start as u32).collect(),
            n_taps,
        }
    }

    /// Number of target pixels.
    pub(crate) fn n_targets(&self) -> usize {
        self.starts.len()
    }
}

/// Steps between a frame and the tower's input, in order: the frame is laid into a canvas of one colour; the canvas is
/// resized, rows first, then columns; a part is cut out, black outside the canvas; each level is replaced by its
/// normalised value.
#[derive(Debug, Clone, PartialEq)]
pub struct FramePlan {
    /// Width and height of the frame.
    pub frame: (u32, u32),
    /// Height of the canvas.
    pub canvas_height: u32,
    /// Left and upper edge of the frame in the canvas.
    pub offset: (u32, u32),
    /// Colour of the canvas.
    pub colour: [u8; 3],
    /// Weights that resize rows.
    pub horizontal: Taps,
    /// Weights that resize columns.
    pub vertical: Taps,
    /// Left and upper edge of the crop in the resized canvas; negative where black surrounds the canvas.
    pub crop: (i32, i32),
    /// Width and height of the crop.
    pub size: (u32, u32),
    /// Normalised value of every level, for each channel.
    pub levels: [[f32; 256]; 3],
}
