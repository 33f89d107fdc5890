//! Questions of many clients to one loaded model: requests as clients send them, media, answers, counters.
//!
//! The library half of `vidense serve`: synchronous, without sockets and without an async runtime. `api` parses bodies
//! and makes responses, `media` turns the parts of a request into files, `service` answers. The command line owns the
//! sockets.

pub mod api;
pub mod frames;
pub mod media;
pub mod metrics;
pub mod service;
