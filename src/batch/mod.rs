//! Batches: many questions about an archive of videos, in runs of days that can be stopped and resumed without loss.
//!
//! `archive` lists items, `run` asks about those without an answer, [`store`] writes each answer as it is
//! completed. `share` spreads parts over devices, [`merge`] joins their results and those of several
//! machines; [`export`] and [`report`] write tables and an HTML page. Called by `batch` and `results`.

mod archive;
mod error;
pub mod export;
mod item;
pub mod merge;
mod questions;
pub mod report;
mod run;
mod share;
mod snapshot;
pub mod store;
pub mod summary;
mod tally;

pub use archive::{
    Archive, ArchiveEntry, ArchiveOptions, ArchiveUrls, FailedEntry, ManifestFormat, SkipReason, SkippedFile,
};
pub use item::{ArchiveItem, Id, Shard};
pub use merge::MergeReport;
pub use questions::{BatchQuestion, check_questions, read_questions};
pub use run::{Batch, BatchEvent, BatchOutcome};
pub use share::{PartEnd, PartTask, Retry, SharedParts, share};
pub use snapshot::{SkippedFiles, Snapshot, StageUse};
pub use summary::{BatchSession, ResultCounts, Summary};
pub use tally::Tally;
