//! Commands, one file each: flags as clap reads them, and a `run` that calls the library and prints.

pub mod ask;
pub mod batch;
pub mod bench;
pub mod cache;
pub mod chat;
pub mod completions;
pub mod decode_worker;
pub mod eval;
pub mod frames;
pub mod inspect;
pub mod man;
pub mod results;
pub mod run;
pub mod schema;
#[cfg(feature = "serve")]
pub mod serve;
pub mod train;
pub mod world;
