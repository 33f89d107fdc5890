//! Text in and out of the language model: tokenizers, conversation templates, streaming.

mod chat_template;
mod error;
mod jinja;
pub mod sentencepiece;
pub mod stream;
pub mod template;
pub mod tokenizer;

pub use chat_template::ChatTemplate;
pub use error::TextError;
pub use sentencepiece::SentencePiece;
pub use stream::TextStream;
pub use template::{Conversation, Prompt, Template};
pub use tokenizer::{Piece, Reading, Tokenizer};
