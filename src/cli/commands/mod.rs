//! One file a command.

pub mod ask;
pub mod chat;
pub mod eval;
pub mod frames;
pub mod inspect;
pub mod run;
pub mod schema;
pub mod train;
pub mod world;
