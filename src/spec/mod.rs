//! What a run does, written down: every choice between a video and an answer, and its fingerprint.
//!
//! A pipeline file is read into a [`Document`] (what it extends and what `--set` says are laid over each other),
//! checked against the schema of [`Plan`] so that everything that is wrong is told at once, and becomes a plan. What
//! only the model's own files can tell is checked by [`Plan::check_model`], before any weight is read.

mod check;
mod document;
mod fingerprint;
mod kept_hashes;
mod locate;
mod parse;
mod plan;
mod resolve;
mod validate;
mod yaml;

pub use check::{Problem, SchemaNode};
pub use document::{Document, SpecError};
pub use fingerprint::{ModelFile, fingerprint, hash_files, visual_fingerprint};
pub use parse::{editor_schema, read_plan};
pub use plan::{
    Capacities, ConnectorPlan, ExecPlan, GeneratePlan, Plan, PreprocessPlan, PromptPlan, Quantization, RopeFactor,
    RopePlan, SingleImagePlan, VisionPlan,
};
pub use validate::Finding;
pub use yaml::{YamlError, parse_yaml, read_yaml};
