//! Description of a run: every choice between a video and an answer, and its fingerprint.
//!
//! A pipeline file is read into a [`Document`] (the file, the files that it extends, `--set` assignments), checked
//! against the schema of [`Plan`] so that all errors are printed at once, and converted to a plan.
//! [`Plan::check_model`] checks the rules that depend on the model's files, before any weight is read. Nothing here
//! loads or runs a model.

mod check;
mod document;
mod fingerprint;
mod kept_hashes;
mod locate;
mod parse;
mod plan;
mod resolve;
mod schema;
mod validate;
mod yaml;

pub use check::SpecProblem;
pub use document::{Assignment, Document};
pub(crate) use fingerprint::visual_fingerprint;
pub use fingerprint::{ModelFile, fingerprint, hash_files};
pub use parse::{assign, check_key, editor_schema, plan_of, read_document, read_plan};
pub use plan::{
    Capacities, ConnectorPlan, ExecPlan, GeneratePlan, Plan, PreprocessPlan, PromptPlan, Quantization, RopeFactor,
    RopePlan, SingleImagePlan, VisionPlan,
};
pub use schema::SchemaNode;
pub use validate::Finding;
pub(crate) use yaml::{parse_yaml, print_yaml, read_yaml};
