//! One file a command.

pub mod ask;
pub mod chat;
pub mod frames;
pub mod inspect;
pub mod train;
