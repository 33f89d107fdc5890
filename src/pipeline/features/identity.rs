//! Identity of the computation of visual tokens: with an equal identity, the same video gives the same tokens.

use std::io;

use crate::pipeline::LoadedModel;
use crate::pipeline::open::REVISION;
use crate::spec::visual_fingerprint;
use crate::video::library_versions;

/// Returns the identity of all that visual tokens depend on besides the video: the program, the plan up to `temporal`,
/// the model's files, FFmpeg's libraries, dtypes and devices.
///
/// # Errors
/// When the plan is not resolved.
pub fn identity(model: &LoadedModel) -> io::Result<String> {
    let visual = visual_fingerprint(&model.plan, &model.model_files)?;
    let program = format!("{} revision {REVISION}", env!("CARGO_PKG_VERSION"));
    Ok(format!("{program} {} {visual} {}", library_versions(), model.arithmetic()))
}
