//! Body of `POST /v1/chat/completions`, parsed and checked as far as it can be without the model and the media.

use serde_json::Value;

use super::ApiError;
use super::content::MessageContentReader;
use super::fields::Fields;
use super::frames::FrameDefaults;
use super::json;
use super::messages::{self, ConversationEnd, Messages};
use super::sampling::{answer_options, take_neutral};
use crate::error::Error;
use crate::pipeline::{AnswerOptions, ChatTurn};
use crate::serve::media::MediaPart;
use crate::spec::Plan;

/// Chat completion that a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatCall {
    /// Name of the model, where the client says one.
    pub model: Option<String>,
    /// System text, in place of the plan's.
    pub system: Option<String>,
    /// Turns in time order; at least one.
    pub turns: Vec<ChatTurn>,
    /// Media of the turns, in the order of their indices.
    pub media: Vec<MediaPart>,
    /// Conditions of the answer.
    pub options: AnswerOptions,
    /// Whether the answer is sent as it is generated.
    pub stream: bool,
    /// Whether a stream ends with the token counts.
    pub include_usage: bool,
}

impl ChatCall {
    /// Parses a body. What it leaves out is the plan's.
    ///
    /// # Errors
    /// [`ErrorStatus::BadRequest`](super::ErrorStatus) for anything that is not understood or not carried out, with its
    /// path.
    pub fn parse(body: &[u8], defaults: &Plan) -> Result<Self, ApiError> {
        Self::of_value(json::parse(body)?, defaults)
    }

    /// Reads a parsed body.
    pub(super) fn of_value(body: Value, defaults: &Plan) -> Result<Self, ApiError> {
        let mut body = Fields::of(body, "")?;
        let model = body.text("model")?;
        let messages = body.list("messages")?.ok_or_else(|| body.missing("messages"))?;
        let options = answer_options(&mut body, defaults)?;
        let (stream, include_usage) = stream(&mut body)?;
        let end = conversation_end(&mut body)?;
        let frames = FrameDefaults::of_body(&mut body)?;
        take_neutral(&mut body)?;
        body.finish()?;
        let mut contents = MessageContentReader::new(&frames);
        let Messages { system, turns } = messages::read(messages, end, &mut contents)?;
        let media = contents.into_media();
        if let Some(option) = frames.list_option()
            && !media.iter().any(|medium| medium.source.is_frame_list())
        {
            let error = Error::invalid("it is about frames that are sent as images, and there are none");
            return Err(ApiError::of_value(option, error.with_hint("leave it out")));
        }
        Ok(Self { model, system, turns, media, options, stream, include_usage })
    }

    /// Checks the name of the model, which may be absent, against those that are served.
    ///
    /// # Errors
    /// [`ErrorStatus::NotFound`](super::ErrorStatus).
    pub fn check_model(&self, served: &[String]) -> Result<(), ApiError> {
        let Some(model) = &self.model else { return Ok(()) };
        if served.contains(model) {
            return Ok(());
        }
        Err(ApiError::unknown_model(model, served).with_param("model"))
    }
}

/// Takes `stream`, and whether it ends with the token counts.
fn stream(body: &mut Fields) -> Result<(bool, bool), ApiError> {
    let stream = body.flag("stream")?.unwrap_or(false);
    let Some(mut options) = body.object("stream_options")? else { return Ok((stream, false)) };
    if !stream {
        let error = Error::invalid("without `stream`").with_hint("stream: true");
        return Err(body.invalid("stream_options", error));
    }
    let include_usage = options.flag("include_usage")?.unwrap_or(false);
    options.neutral("continuous_usage_stats", |value| value.as_bool() == Some(false))?;
    options.neutral("include_obfuscation", |value| value.as_bool() == Some(false))?;
    options.finish()?;
    Ok((stream, include_usage))
}

/// Takes the two keys of vLLM's about the last message.
fn conversation_end(body: &mut Fields) -> Result<ConversationEnd, ApiError> {
    let continues = body.flag("continue_final_message")?.unwrap_or(false);
    match (continues, body.flag("add_generation_prompt")?) {
        (true, Some(true)) => {
            let error = Error::invalid("true beside continue_final_message").with_hint("one of them");
            Err(body.invalid("add_generation_prompt", error))
        }
        (false, Some(false)) => {
            let error =
                Error::invalid("false is not supported").with_hint("continue_final_message continues an answer");
            Err(body.invalid("add_generation_prompt", error))
        }
        (true, _) => Ok(ConversationEnd::Answer),
        (false, _) => Ok(ConversationEnd::Question),
    }
}
