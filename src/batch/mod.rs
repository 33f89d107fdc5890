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

pub use archive::{Archive, ArchiveOptions, ManifestFormat, PassedOver, Reason};
pub use error::BatchError;
pub use item::{Id, Item, Shard};
pub use merge::Merged;
pub use questions::{Question, check_questions, read_questions};
pub use run::{Batch, Event, Outcome};
pub use share::{PartEnd, PartTask, Retry, SharedParts, share};
pub use summary::{Held, Session, Summary};
pub use tally::{PassedFiles, Snapshot, StageUse, Tally};
