//! Integration tests of the library and the binary from outside, in one program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that fails must say so loudly"
)]
#![allow(unreachable_pub, reason = "a test binary has no public interface")]

mod batch;
mod bombs;
mod checkpoints;
mod cli;
mod conversations;
mod descriptions;
mod downloads;
mod engine;
mod engine_attacks;
mod eval;
mod families;
mod family_arithmetic;
mod family_tensors;
#[cfg(unix)]
mod files;
mod fuzz;
mod gguf;
mod gguf_qwen;
mod goldens;
#[cfg(unix)]
mod gpu_script;
mod harness;
mod hostile;
mod hub;
mod image;
#[cfg(unix)]
mod kept;
mod opening;
mod pipelines;
mod pixels;
mod placement;
mod playlists;
mod prompts;
mod quantized;
mod reference;
mod scans;
mod seek;
#[cfg(all(unix, feature = "serve"))]
mod serve;
#[cfg(target_os = "linux")]
mod serve_media;
#[cfg(all(unix, feature = "serve"))]
mod serve_stdio;
mod stages;
mod stream;
mod templates;
mod times;
mod train;
mod train_directory;
mod train_families;
mod untrusted;
mod variants;
mod video;
mod world;
