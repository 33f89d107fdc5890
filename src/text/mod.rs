//! Text in and out of the language model: tokenizers, conversation templates, streaming.

mod chat_template;
pub mod frames;
mod jinja;
mod numerals;
pub mod prompt;
pub mod sentencepiece;
pub mod stream;
pub mod template;
pub mod tokenizer;

pub use chat_template::ChatTemplate;
pub use frames::{FrameLayout, FrameMarks, ShownFrame, ShownFrames, Timestamps};
pub use prompt::{Passage, Prompt};
pub use sentencepiece::SentencePiece;
pub use stream::TextStream;
pub use template::{Conversation, Template};
pub use tokenizer::{Piece, Placeholder, Reading, Tokenizer};
