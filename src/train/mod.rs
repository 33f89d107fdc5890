//! Training: the Dense Connector's projector and the language model behind it, and small towers, on images.
//!
//! A [`Recipe`] names a model and the stages that train it; [`train`] runs it. Stage `tower` pretrains a small tower,
//! `connector` is stage 1 of the paper (projector only), `instruct` is stage 2 (projector and language model). The
//! tower is frozen in both, so its features are computed once. What comes out is a checkpoint in the
//! released layout, or in that of the Hugging Face checkpoint that it began with.
//!
//! A run is a pure function of its recipe: batches, wordings and rates follow from seed and step, so a run that is
//! killed and resumed ends, on the CPU, with bit-identical weights.

mod answers;
mod curve;
mod data;
mod design;
mod features;
#[cfg(test)]
mod gradients;
mod init;
mod loss;
mod metrics;
mod objective;
mod optimizer;
mod pack;
mod parameters;
mod recipe;
mod run;
mod schedule;
mod stage;
mod state;
mod tower;
mod workers;

pub use recipe::Recipe;
pub use run::{EarlierRun, Output, RUN_DIR, TrainEvent, TrainResources, train};
pub use stage::StepReport;
