//! Many questions about an archive of videos, for days, nothing lost.
//!
//! [`archive`] lists items, [`run`] asks about those that the results do not hold yet, [`store`] keeps each answer as
//! it is earned. [`share`](mod@share) spreads parts over devices, [`merge`] joins their results and those of several
//! machines; [`export`] and [`report`] make tables and a page of them.

pub mod archive;
mod error;
pub mod export;
pub mod item;
pub mod merge;
pub mod questions;
pub mod report;
pub mod run;
pub mod share;
pub mod store;
pub mod summary;
pub mod tally;

pub use archive::{Archive, ArchiveOptions, ManifestFormat, SkipReason, SkippedFile};
pub use error::BatchError;
pub use item::{ArchiveItem, Id, Shard};
pub use merge::MergeReport;
pub use questions::{BatchQuestion, check_questions, read_questions};
pub use run::{Batch, BatchEvent, BatchOutcome};
pub use share::{PartEnd, PartTask, Retry, SharedParts, share};
pub use summary::{BatchSession, ResultCounts, Summary};
pub use tally::{SkippedFiles, Snapshot, StageUse, Tally};
