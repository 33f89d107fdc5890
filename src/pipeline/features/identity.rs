//! Identity of the computation of visual tokens: with an equal identity, the same video gives the same tokens.

use std::io;

use crate::pipeline::LoadedModel;
use crate::pipeline::open::REVISION;
use crate::spec::{Plan, visual_fingerprint};
use crate::video::library_versions;

/// Returns the identity of all that visual tokens depend on besides the video: the program, the plan up to `temporal`,
/// the model's files, FFmpeg's libraries, dtypes and devices.
///
/// # Errors
/// When the plan is not resolved.
pub fn identity(model: &LoadedModel) -> io::Result<String> {
    identity_under(model, &model.plan)
}

/// Returns the identity under another resolved plan for the same weights ([`Plan::of_weights`]).
///
/// # Errors
/// As [`identity`].
pub fn identity_under(model: &LoadedModel, plan: &Plan) -> io::Result<String> {
    let visual = visual_fingerprint(plan, &model.model_files)?;
    let program = format!("{} revision {REVISION}", env!("CARGO_PKG_VERSION"));
    Ok(format!("{program} {} {visual} {}", library_versions(), model.arithmetic()))
}
