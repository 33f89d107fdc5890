//! What visual tokens are made by: the same video gives the same tokens as long as it is equal.

use std::io;

use crate::pipeline::LoadedModel;
use crate::pipeline::open::REVISION;
use crate::spec::visual_fingerprint;
use crate::video::library_versions;

/// Names everything but the video that visual tokens depend on: the program, the plan up to `temporal`, the model's
/// files, FFmpeg's libraries, and how values are computed.
///
/// # Errors
/// Never for a plan that was resolved.
pub fn identity(model: &LoadedModel) -> io::Result<String> {
    let visual = visual_fingerprint(&model.plan, &model.model_files)?;
    let program = format!("{} revision {REVISION}", env!("CARGO_PKG_VERSION"));
    Ok(format!("{program} {} {visual} {}", library_versions(), model.arithmetic()))
}
