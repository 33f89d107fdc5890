//! Content of a message: a text, or a list of parts, which are texts, videos and images.
//!
//! Images that follow each other in one message are the frames of one video; an image alone is a single image.

use serde_json::Value;

use super::ApiError;
use super::fields::{Fields, mismatch};
use super::frames::{FrameDefaults, take_options};
use super::json::{element, shown};
use crate::choice::unknown_name;
use crate::error::Error;
use crate::pipeline::ChatContent;
use crate::serve::media::{FrameOptions, MAX_UUID, MediaPart, MediaSource};

/// Types of parts.
const TYPES: [&str; 4] = ["text", "video_url", "image_url", "input_video"];
/// Bytes of all texts of a request at most.
const MAX_TEXT: usize = 1 << 20;

/// Reader of contents, which collects the media of a request.
pub(super) struct MessageContentReader<'d> {
    defaults: &'d FrameDefaults,
    media: Vec<MediaPart>,
    /// Bytes of text so far.
    n_text: usize,
}

/// An image, before it is known whether others follow.
struct Image {
    url: Option<String>,
    uuid: Option<String>,
    path: String,
}

/// Part of a message.
enum MessagePart {
    Text(String),
    Video(MediaPart),
    Image(Image),
}

impl<'d> MessageContentReader<'d> {
    pub(super) fn new(defaults: &'d FrameDefaults) -> Self {
        Self { defaults, media: Vec::new(), n_text: 0 }
    }

    /// Returns the media of all contents.
    pub(super) fn into_media(self) -> Vec<MediaPart> {
        self.media
    }

    /// Reads a content that is text alone, whose parts are joined.
    ///
    /// # Errors
    /// Another type, or a part that is not text.
    pub(super) fn text(&mut self, content: Value, path: &str) -> Result<String, ApiError> {
        let mut joined = String::new();
        for part in self.parts(content, path)? {
            match part {
                MessagePart::Text(text) => joined += &text,
                MessagePart::Video(MediaPart { param, .. }) | MessagePart::Image(Image { path: param, .. }) => {
                    let error = Error::invalid("a medium in a message that is not the user's");
                    return Err(ApiError::of_value(param, error));
                }
            }
        }
        Ok(joined)
    }

    /// Reads the content of a user's message.
    ///
    /// # Errors
    /// An unknown type of a part, an empty content, and errors of each part.
    pub(super) fn question(&mut self, content: Value, path: &str) -> Result<Vec<ChatContent>, ApiError> {
        let (mut contents, mut images) = (Vec::new(), Vec::new());
        for part in self.parts(content, path)? {
            if !matches!(part, MessagePart::Image(_)) {
                self.close_images(&mut images, &mut contents)?;
            }
            match part {
                MessagePart::Text(text) => contents.push(ChatContent::Text(text)),
                MessagePart::Video(medium) => self.push(medium, &mut contents),
                MessagePart::Image(image) => images.push(image),
            }
        }
        self.close_images(&mut images, &mut contents)?;
        let is_blank = |part: &ChatContent| matches!(part, ChatContent::Text(text) if text.trim().is_empty());
        if contents.iter().all(is_blank) {
            return Err(ApiError::of_value(path, Error::invalid("empty")));
        }
        Ok(contents)
    }

    fn parts(&mut self, content: Value, path: &str) -> Result<Vec<MessagePart>, ApiError> {
        match content {
            Value::String(text) => Ok(vec![self.counted(text, path)?]),
            Value::Array(parts) => {
                let part = |(i, part)| self.part(part, &element(path, i));
                parts.into_iter().enumerate().map(part).collect()
            }
            other => Err(mismatch(path, &other, "a string or a list of parts")),
        }
    }

    fn part(&mut self, part: Value, path: &str) -> Result<MessagePart, ApiError> {
        // vLLM's short form, `{"video_url": "..."}`, has no type.
        let implied = part.as_object().and_then(|members| TYPES.into_iter().find(|kind| members.contains_key(*kind)));
        let mut fields = Fields::of(part, path)?;
        let kind = match (fields.text("type")?, implied) {
            (Some(kind), _) => kind,
            (None, Some(implied)) => implied.to_owned(),
            (None, None) => return Err(fields.missing("type")),
        };
        let read = match kind.as_str() {
            "text" => {
                let text = fields.required_text("text")?;
                self.counted(text, &fields.path_of("text"))?
            }
            "video_url" => MessagePart::Video(self.video(&mut fields)?),
            "image_url" => MessagePart::Image(image(&mut fields)?),
            "input_video" => MessagePart::Video(self.input_video(&mut fields)?),
            other => {
                let error = unknown_name("type of content", &shown(other), &TYPES);
                return Err(fields.invalid("type", error));
            }
        };
        fields.finish()?;
        Ok(read)
    }

    /// Counts a text against the limit of all texts.
    fn counted(&mut self, text: String, path: &str) -> Result<MessagePart, ApiError> {
        self.n_text += text.len();
        if self.n_text > MAX_TEXT {
            let rule = format!("{} bytes of text up to here, over the limit of {MAX_TEXT}", self.n_text);
            return Err(ApiError::of_value(path, Error::invalid(rule)));
        }
        Ok(MessagePart::Text(text))
    }

    fn video(&self, fields: &mut Fields) -> Result<MediaPart, ApiError> {
        let (uuid, param) = (uuid(fields)?, fields.path_of("video_url"));
        let (url, own) = match fields.value("video_url") {
            Some(Value::String(url)) => (Some(url), FrameOptions::default()),
            Some(object @ Value::Object(_)) => {
                let mut video = Fields::of(object, param.clone())?;
                let (url, own) = (video.required_text("url")?, take_options(&mut video)?);
                video.finish()?;
                (Some(url), own)
            }
            Some(other) => return Err(mismatch(&param, &other, "an address, or an object with `url`")),
            None if uuid.is_some() => (None, FrameOptions::default()),
            None => return Err(fields.missing("video_url")),
        };
        let source = url.map_or(MediaSource::Known, MediaSource::Url);
        Ok(self.medium(source, uuid, MediumWishes { own, param }))
    }

    /// Reads llama.cpp's form of a video.
    fn input_video(&self, fields: &mut Fields) -> Result<MediaPart, ApiError> {
        let (uuid, param) = (uuid(fields)?, fields.path_of("input_video"));
        let mut video = fields.object("input_video")?.ok_or_else(|| fields.missing("input_video"))?;
        let source = match (video.text("data")?, video.text("url")?) {
            (Some(data), None) => MediaSource::Base64(data),
            (None, Some(url)) => MediaSource::Url(url),
            (Some(_), Some(_)) => {
                return Err(video.invalid("url", Error::invalid("beside `data`").with_hint("one of them")));
            }
            (None, None) => return Err(video.missing("data")),
        };
        let own = take_options(&mut video)?;
        video.finish()?;
        Ok(self.medium(source, uuid, MediumWishes { own, param }))
    }

    fn medium(&self, source: MediaSource, uuid: Option<String>, wishes: MediumWishes) -> MediaPart {
        let MediumWishes { own, param } = wishes;
        let timing = if source.is_frame_list() { self.defaults.timing() } else { None };
        MediaPart { source, uuid, frames: self.defaults.options(own), timing, param }
    }

    fn push(&mut self, medium: MediaPart, contents: &mut Vec<ChatContent>) {
        contents.push(ChatContent::Medium(self.media.len()));
        self.media.push(medium);
    }

    /// Makes one medium of the images that follow each other.
    fn close_images(&mut self, images: &mut Vec<Image>, contents: &mut Vec<ChatContent>) -> Result<(), ApiError> {
        let (Some(first), n) = (images.first(), images.len()) else { return Ok(()) };
        let (param, mut uuid, mut urls) = (first.path.clone(), None, Vec::with_capacity(n));
        for image in images.drain(..) {
            match (image.url, image.uuid) {
                (Some(_), Some(_)) | (None, _) if n > 1 => {
                    let rule = format!("a uuid of one of {n} images, which are the frames of one video");
                    let error = Error::invalid(rule).with_hint("text between images separates them");
                    return Err(ApiError::of_value(format!("{}.uuid", image.path), error));
                }
                (url, own) => {
                    urls.extend(url);
                    uuid = own;
                }
            }
        }
        let source = if urls.is_empty() { MediaSource::Known } else { MediaSource::Frames(urls) };
        let medium = self.medium(source, uuid, MediumWishes { own: FrameOptions::default(), param });
        self.push(medium, contents);
        Ok(())
    }
}

/// Frames that a part asks for, and its path in the body.
struct MediumWishes {
    own: FrameOptions,
    param: String,
}

fn image(fields: &mut Fields) -> Result<Image, ApiError> {
    let (uuid, path) = (uuid(fields)?, fields.path_of("image_url"));
    let url = match fields.value("image_url") {
        Some(Value::String(url)) => Some(url),
        Some(object @ Value::Object(_)) => {
            let mut image = Fields::of(object, path.clone())?;
            let url = image.required_text("url")?;
            // The checkpoint's own processor decides the resolution.
            image.neutral("detail", |value| matches!(value.as_str(), Some("auto" | "low" | "high")))?;
            image.finish()?;
            Some(url)
        }
        Some(other) => return Err(mismatch(&path, &other, "an address, or an object with `url`")),
        None if uuid.is_some() => None,
        None => return Err(fields.missing("image_url")),
    };
    Ok(Image { url, uuid, path })
}

fn uuid(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let Some(uuid) = fields.text("uuid")? else { return Ok(None) };
    match uuid.len() {
        1..=MAX_UUID => Ok(Some(uuid)),
        n => {
            let error = Error::invalid(format!("{n} bytes")).with_hint(format!("from 1 to {MAX_UUID}"));
            Err(fields.invalid("uuid", error))
        }
    }
}
