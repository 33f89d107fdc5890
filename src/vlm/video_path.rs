//! The road that a family's own processor takes with a video.

/// How a family's own processor puts the frames of a video into a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoPath {
    /// It knows images alone: frames are put at one image mark, one after the other.
    None,
    /// Idefics3: frames are images, each between its marks.
    Idefics3,
    /// SmolVLM: an introduction, then each frame with its time and its marks.
    SmolVlm,
    /// LLaVA-OneVision: pooled frames one after the other, then one newline row.
    OneVision,
    /// InternVL: numbered frames, each between its marks.
    InternVl,
}
