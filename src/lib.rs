//! Questions about videos, answered by image-trained multimodal models, without training on video.
//!
//! FFmpeg decodes a video, sampled frames are encoded by a frozen vision tower, the Dense Connector
//! (arXiv 2405.13800) fuses the tower's layers frame by frame, FreeVA-style temporal aggregation
//! (arXiv 2405.07798) turns the frames into one token sequence, and a language model (Llama, Mistral, Qwen2, Qwen3)
//! answers.
//!
//! # Shapes
//! One legend serves the whole crate:
//!
//! | letter | meaning |
//! |---|---|
//! | `B` | batch |
//! | `T` | frames of a video |
//! | `N` | patch tokens of a frame, row-major (`N'` after the connector) |
//! | `D` | width of the vision tower |
//! | `H` | width of the language model |
//! | `L` | layers of the vision tower; `L + 1` hidden states, 0 = embeddings |
//! | `V` | visual tokens of a video, after temporal aggregation |
//! | `S` | positions of a token sequence |
//!
//! # Layers
//! A module imports from lower layers only, and inside a layer from those left of a `<`. `tests/layers.rs` reads this
//! table.
//!
//! | layer | modules |
//! |---|---|
//! | 0 foundations | [`error`], `guard` < [`choice`] < [`units`], [`device`], [`files`] |
//! | 1 leaves | [`fetch`], [`video`], [`image`], [`weights`], [`text`], [`world`], [`exec`], `records` |
//! | 2 networks | [`kernels`] < [`nn`] < [`vision`], [`connector`], [`projector`], [`temporal`], [`language`] |
//! | 3 model | [`vlm`] |
//! | 4 tokens | [`engine`] |
//! | 5 description | [`spec`] |
//! | 6 running | [`pipeline`] |
//! | 7 uses | [`train`], [`batch`], [`serve`] < [`eval`] < [`bench`](mod@bench) |
//! | 8 outside | the binary: `main.rs` and `cli` |

pub mod batch;
pub mod bench;
pub mod choice;
pub mod connector;
pub mod device;
pub mod engine;
pub mod error;
pub mod eval;
pub mod exec;
pub mod fetch;
pub mod files;
mod guard;
pub mod image;
pub mod kernels;
pub mod language;
pub mod nn;
pub mod pipeline;
pub mod projector;
mod records;
pub mod serve;
pub mod spec;
pub mod temporal;
pub mod text;
pub mod train;
pub mod units;
pub mod video;
pub mod vision;
pub mod vlm;
pub mod weights;
pub mod world;
