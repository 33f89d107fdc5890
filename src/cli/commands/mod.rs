//! One file a command.

pub mod ask;
pub mod batch;
pub mod bench;
pub mod cache;
pub mod chat;
pub mod decode_worker;
pub mod eval;
pub mod frames;
pub mod inspect;
pub mod results;
pub mod run;
pub mod schema;
pub mod train;
pub mod world;
