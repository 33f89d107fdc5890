//! Text in and out of the language model: tokenizers, conversation templates, streaming of answers. Model files are
//! described in [`crate::vlm`]; the token loop is in [`crate::engine`].

mod chat_template;
mod conversation;
mod custom_template;
mod frames;
mod jinja;
mod numerals;
mod prompt;
mod question;
mod sentencepiece;
mod stream;
mod subtitle;
mod template;
mod timestamps;
mod tokenizer;
mod written_turns;

pub use chat_template::ChatTemplate;
pub use conversation::Conversation;
pub use frames::{FrameLayout, FrameMarks, MediumKind, ShownFrame, ShownFrames};
pub use prompt::{MediumIndex, Passage, Prompt};
pub use question::QuestionPart;
pub use sentencepiece::SentencePiece;
pub use stream::TextStream;
pub use subtitle::Subtitle;
pub use template::Template;
pub use timestamps::Timestamps;
pub use tokenizer::{PartPosition, Placeholder, PromptConvention, Tokenizer};
