//! The tokenizer of a checkpoint, whichever files it ships, and the ids of a prompt.
//!
//! Two code bases decide which ids are right. A checkpoint in Hugging Face's spelling is read as transformers 5 reads
//! it: the prompt is one text with the placeholder of the image in it (`LlavaProcessor`). A checkpoint in LLaVA's
//! spelling is read as LLaVA's code reads it: `AutoTokenizer(use_fast=False)`, and the texts on both sides of the
//! image are encoded apart (`tokenizer_image_token`).

mod fast;
mod settings;
mod slow;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::sentencepiece::{PrependScheme, convert};
use super::{Passage, Prompt, SentencePiece};
use crate::error::{Error, Kind};
use crate::files;
use fast::{Fast, Surroundings};
use settings::Settings;
use slow::Slow;

/// The placeholder of an image where no file names another.
const IMAGE_TOKEN: &str = "<image>";
/// The placeholder of a video where no file names another.
const VIDEO_TOKEN: &str = "<video>";

/// Whose code reads a checkpoint's tokenizer and its prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// LLaVA's and the Dense Connector's.
    Llava,
    /// Hugging Face transformers'.
    HuggingFace {
        /// The id of the visual tokens' placeholder in `config.json`, if it is there.
        image_token_id: Option<u32>,
        /// The tokens that stand for a video.
        placeholder: Placeholder,
    },
}

/// The tokens that stand for a video in the prompts of a checkpoint in Hugging Face's spelling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Placeholder {
    /// The image's: a template writes it, and visual tokens take its place.
    #[default]
    Image,
    /// The video's own.
    Video,
    /// A template writes the video's, which becomes words around those of images.
    ImageInVideo,
}

/// Which part of a prompt a text is, where the parts are encoded apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The beginning: it keeps the BOS that the tokenizer adds.
    First,
    /// A part after the visual tokens: a BOS that the tokenizer adds is dropped.
    Later,
}

/// Text to ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    codec: Codec,
    file: &'static str,
    settings: Settings,
    /// The text of the visual tokens' placeholder.
    image_text: String,
    /// The text that a template writes for the video.
    video_text: String,
    is_video_token: bool,
    /// The text that a template writes for a single image.
    single_image_text: String,
    /// Its id, where prompts are encoded as one text.
    image_id: Option<u32>,
    /// BOS, where `tokenizer.json` puts one before every text.
    bos: Option<u32>,
}

#[derive(Debug)]
enum Codec {
    Fast(Fast),
    Slow(Box<Slow>),
}

impl Tokenizer {
    /// Opens the tokenizer of a directory: `tokenizer.json` or `tokenizer.model`, with the settings beside it.
    ///
    /// # Errors
    /// [`Error`] when there is none, or it is broken, or its placeholder of an image is not the one of
    /// `config.json`.
    pub fn open(dir: &Path, reading: Reading) -> Result<Self, Error> {
        let mut settings = Settings::read(dir)?;
        let Placeholders { image: image_text, video: video_text, single_image } =
            placeholders(dir, &settings, reading)?;
        let (codec, file) = match reading {
            Reading::Llava => open_as_llava(dir, &mut settings)?,
            Reading::HuggingFace { .. } => open_as_transformers(dir, &mut settings, &image_text)?,
        };
        let image_id = match (&codec, reading) {
            (Codec::Fast(fast), Reading::HuggingFace { image_token_id, .. }) => {
                let found = fast.token_id(&image_text);
                check_image_token(dir, &image_text, found, image_token_id)?;
                found
            }
            _ => None,
        };
        let bos = match &codec {
            Codec::Fast(fast) => fast.added_first()?,
            Codec::Slow(_) => None,
        };
        let is_video_token =
            matches!(reading, Reading::HuggingFace { placeholder: Placeholder::Video | Placeholder::ImageInVideo, .. });
        let single_image_text = single_image;
        Ok(Self { codec, file, settings, image_text, video_text, is_video_token, single_image_text, image_id, bos })
    }

    /// The ids of a prompt, part after part.
    ///
    /// # Errors
    /// [`Error`] when the words of a prompt that is encoded as one text contain the placeholder of the
    /// image: they must not move it. [`Error`] when the tokenizer refuses.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<Passage<Vec<u32>>>, Error> {
        if let (Some(image), Codec::Fast(fast)) = (self.image_id, &self.codec) {
            return self.encode_whole(prompt, (image, fast));
        }
        let encode = |(i, part): (usize, &Passage<String>)| {
            part.try_map(|words| self.encode(words, if i == 0 { Piece::First } else { Piece::Later }))
        };
        prompt.parts.iter().enumerate().map(encode).collect()
    }

    /// The ids of a prompt that is encoded as one text, with one placeholder for each run of visual tokens.
    fn encode_whole(&self, prompt: &Prompt, (image, fast): (u32, &Fast)) -> Result<Vec<Passage<Vec<u32>>>, Error> {
        let placeholder = |mark: &String| {
            let rule = format!(
                "the prompt contains `{mark}` beside the video's own; this checkpoint's tokenizer reads each as an image"
            );
            Error::new(Kind::Text, rule).with_hint("write it otherwise in the question, for example with spaces")
        };
        // The placeholder of a single image stands for no token of a video, and the other way round.
        let is_said =
            |mark: &&String| prompt.parts.iter().filter_map(Passage::words).any(|words| words.contains(*mark));
        if let Some(mark) = [&self.image_text, &self.single_image_text].into_iter().find(is_said) {
            return Err(placeholder(mark));
        }
        let text: String = prompt.parts.iter().map(|part| part.words().unwrap_or(&self.image_text).as_str()).collect();
        // As `ProcessorMixin.apply_chat_template`: a prompt that writes BOS itself gets no second one.
        let writes_bos = self.settings.token("bos_token").is_some_and(|bos| text.starts_with(bos));
        let ids = fast.encode(&text, if writes_bos { Surroundings::LeftOut } else { Surroundings::Added })?;
        let words: Vec<&[u32]> = ids.split(|&id| id == image).collect();
        let visual: Vec<&Passage<String>> = prompt.parts.iter().filter(|part| part.words().is_none()).collect();
        if words.len() != visual.len() + 1 {
            return Err(placeholder(&self.image_text));
        }
        let mut parts = Vec::with_capacity(2 * words.len());
        for (i, ids) in words.into_iter().enumerate() {
            if i == 0 || i == visual.len() || !ids.is_empty() {
                parts.push(Passage::Words(ids.to_vec()));
            }
            parts.extend(visual.get(i).map(|part| part.try_map(|_| Ok::<_, Error>(Vec::new()))).transpose()?);
        }
        Ok(parts)
    }

    /// The ids of one part of a prompt whose parts are encoded apart.
    ///
    /// # Errors
    /// [`Error`] when the tokenizer refuses, which well-formed ones never do.
    pub fn encode(&self, text: &str, piece: Piece) -> Result<Vec<u32>, Error> {
        match (&self.codec, piece) {
            (Codec::Slow(slow), Piece::First) => Ok(slow.encode(text)),
            (Codec::Slow(slow), Piece::Later) => Ok(slow.encode_later(text)),
            (Codec::Fast(fast), _) => {
                let mut ids = fast.encode(text, Surroundings::Added)?;
                if piece == Piece::Later && self.bos.is_some() && ids.first() == self.bos.as_ref() {
                    ids.remove(0);
                }
                Ok(ids)
            }
        }
    }

    /// The text of ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.codec {
            Codec::Fast(fast) => fast.decode(ids),
            Codec::Slow(slow) => slow.decode(ids),
        }
    }

    /// The number of ids whose text no later id can change. The text of a run of byte tokens is certain only once
    /// another token ends the run: one bad byte changes all of it.
    pub fn n_certain(&self, ids: &[u32]) -> usize {
        let Codec::Fast(fast) = &self.codec else { return ids.len() };
        let is_open = |&id: &u32| fast.is_byte(id) || fast.is_skipped(id);
        let n_open = ids.iter().rev().take_while(|id| is_open(id)).count();
        let (certain, open) = ids.split_at(ids.len() - n_open);
        if open.iter().any(|&id| fast.is_byte(id)) { certain.len() } else { ids.len() }
    }

    /// The token of an id as the vocabulary spells it, with its marks of spaces and bytes.
    pub fn piece(&self, id: u32) -> Option<String> {
        match &self.codec {
            Codec::Fast(fast) => fast.piece(id),
            Codec::Slow(slow) => slow.piece(id).map(str::to_owned),
        }
    }

    /// The id of a token by its exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.codec {
            Codec::Fast(fast) => fast.token_id(token),
            Codec::Slow(slow) => slow.token_id(token),
        }
    }

    /// The largest number of ids that it can give, added tokens included.
    pub fn vocab_size(&self) -> usize {
        match &self.codec {
            Codec::Fast(fast) => fast.vocab_size(),
            Codec::Slow(slow) => slow.vocab_size(),
        }
    }

    /// The file that it was read from, in words.
    pub fn kind(&self) -> &'static str {
        self.file
    }

    /// The named special tokens (`bos_token`, ...) and their texts.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings.named()
    }

    /// The text of a token that `tokenizer_config.json` names, such as `fake_image_token`.
    pub fn named_token(&self, name: &str) -> Option<&str> {
        self.settings.token(name)
    }

    /// The text of the image's placeholder, `<image>` unless a file names another.
    pub fn image_text(&self) -> &str {
        &self.image_text
    }

    /// The text that a template writes for a video, that of the image's placeholder unless the family has another.
    pub fn video_text(&self) -> &str {
        &self.video_text
    }

    /// The text that a template writes for a single image.
    pub(super) fn single_image_text(&self) -> &str {
        &self.single_image_text
    }

    /// Whether templates write a token of videos, not of images.
    pub(super) fn is_video_token(&self) -> bool {
        self.is_video_token
    }

    /// `chat_template` of `tokenizer_config.json`.
    pub(super) fn chat_template(&self) -> Option<&Value> {
        self.settings.get("chat_template").filter(|value| !value.is_null())
    }
}

/// As transformers 5's `TokenizersBackend`: `tokenizer.json`, whose post-processor alone says what stands around a
/// text, else a `tokenizer.model` that is converted. A model without the placeholder can only be asked as LLaVA's
/// code does it.
fn open_as_transformers(dir: &Path, settings: &mut Settings, image_text: &str) -> Result<(Codec, &'static str), Error> {
    if let Some((path, bytes)) = read(dir, "tokenizer.json")? {
        let fast = Fast::from_json(&bytes, settings).map_err(|cause| unusable(&path, &cause))?;
        return Ok((Codec::Fast(fast), "tokenizer.json"));
    }
    let Some((path, bytes)) = read(dir, "tokenizer.model")? else { return Err(no_tokenizer(dir)) };
    let broken = |cause: String| unusable(&path, &cause);
    if !settings.knows(image_text) {
        return Ok((open_slow(&bytes, settings).map_err(broken)?, "tokenizer.model (SentencePiece BPE)"));
    }
    let fast = convert_model(&bytes, settings).map_err(broken)?;
    Ok((Codec::Fast(fast), "tokenizer.model (SentencePiece, converted as transformers does)"))
}

fn convert_model(bytes: &[u8], settings: &mut Settings) -> Result<Fast, String> {
    let is_legacy = settings.get("legacy").is_none_or(|legacy| legacy.as_bool().unwrap_or(false));
    let scheme = if is_legacy { PrependScheme::Always } else { PrependScheme::First };
    let names: HashMap<u32, String> = settings.added().iter().map(|(id, token)| (*id, token.content.clone())).collect();
    let converted = convert(bytes, &names, scheme)?;
    if converted.has_dummy_prefix {
        settings.match_added_tokens_raw();
    }
    converted.named.iter().for_each(|(name, piece)| settings.set_default(name, piece));
    settings.set_default_extra(converted.control.into_iter());
    let json = serde_json::to_vec(&converted.json).map_err(|error| error.to_string())?;
    let mut fast = Fast::from_json(&json, settings)?;
    surround(&mut fast, settings, false)?;
    Ok(fast)
}

/// As `AutoTokenizer(use_fast=False)` of transformers 4: the slow Llama tokenizer where there is a `tokenizer.model`,
/// unless the tokenizer's class has no slow form.
fn open_as_llava(dir: &Path, settings: &mut Settings) -> Result<(Codec, &'static str), Error> {
    let (json, model) = (read(dir, "tokenizer.json")?, read(dir, "tokenizer.model")?);
    let class = settings.class().unwrap_or_default().to_owned();
    match (json, model) {
        (None, None) => Err(no_tokenizer(dir)),
        (json, Some((path, bytes))) if json.is_none() || !class.ends_with("Fast") => {
            let slow = open_slow(&bytes, settings).map_err(|cause| unusable(&path, &cause))?;
            Ok((slow, "tokenizer.model (SentencePiece BPE)"))
        }
        (None, Some(_)) => Err(no_tokenizer(dir)),
        (Some((path, bytes)), _) => {
            let broken = |cause: String| unusable(&path, &cause);
            let mut fast = Fast::from_json(&bytes, settings).map_err(broken)?;
            if class.starts_with("LlamaTokenizer") {
                settings.set_default("bos_token", "<s>");
                settings.set_default("eos_token", "</s>");
                surround(&mut fast, settings, true).map_err(broken)?;
            }
            Ok((Codec::Fast(fast), "tokenizer.json"))
        }
    }
}

/// Sets the tokens around every text as `add_bos_token` and `add_eos_token` say; without the former, `adds_bos`
/// decides.
fn surround(fast: &mut Fast, settings: &Settings, adds_bos: bool) -> Result<(), String> {
    let bos = settings.token("bos_token").filter(|_| settings.flag("add_bos_token").unwrap_or(adds_bos));
    let eos = settings.token("eos_token").filter(|_| settings.flag("add_eos_token").unwrap_or(false));
    fast.surround(bos, eos)
}

fn open_slow(bytes: &[u8], settings: &mut Settings) -> Result<Codec, String> {
    Ok(Codec::Slow(Box::new(Slow::new(SentencePiece::from_bytes(bytes)?, settings)?)))
}

/// Returns the error of a file that is not a usable tokenizer.
fn unusable(path: &Path, cause: &str) -> Error {
    Error::from_text(Kind::Text, &format!("not a usable tokenizer: {cause}")).about(path)
}

fn no_tokenizer(dir: &Path) -> Error {
    Error::new(Kind::Text, "no tokenizer here; expected tokenizer.json or tokenizer.model").about(dir)
}

/// A file of a directory and its bytes, if it is there.
fn read(dir: &Path, name: &str) -> Result<Option<(PathBuf, Vec<u8>)>, Error> {
    let path = dir.join(name);
    if !files::is_file(&path) {
        return Ok(None);
    }
    match files::read(&path) {
        Ok(bytes) => Ok(Some((path, bytes.into_owned()))),
        Err(source) => Err(Error::io(path)(source)),
    }
}

/// Texts that stand for visual input.
struct Placeholders {
    /// That of visual tokens.
    image: String,
    /// That which a template writes for a video.
    video: String,
    /// That which it writes for a single image.
    single_image: String,
}

/// The placeholders of a checkpoint: the tokenizer's own tokens, else the processor's, else `<image>` and `<video>`.
fn placeholders(dir: &Path, settings: &Settings, reading: Reading) -> Result<Placeholders, Error> {
    let processor = settings::object(&dir.join("processor_config.json"))?.unwrap_or_default();
    let named = |keys: &[&str], default: &str| {
        let own = keys.iter().find_map(|key| settings.token(key));
        let other = keys.iter().find_map(|key| processor.get(*key).and_then(Value::as_str));
        own.or(other.filter(|token| !token.is_empty())).unwrap_or(default).to_owned()
    };
    let image = named(&["image_token", "context_image_token"], IMAGE_TOKEN);
    let video = || named(&["video_token"], VIDEO_TOKEN);
    let single_image = image.clone();
    let (image, video) = match reading {
        Reading::Llava | Reading::HuggingFace { placeholder: Placeholder::Image, .. } => (image.clone(), image),
        Reading::HuggingFace { placeholder: Placeholder::Video, .. } => (video(), video()),
        Reading::HuggingFace { placeholder: Placeholder::ImageInVideo, .. } => (image, video()),
    };
    Ok(Placeholders { image, video, single_image })
}

/// A model looks for the id of its `config.json`; a tokenizer that gives another id cannot be its own.
fn check_image_token(dir: &Path, text: &str, found: Option<u32>, config: Option<u32>) -> Result<(), Error> {
    match (found, config) {
        (Some(tokenizer), Some(config)) if tokenizer != config => {
            let rule = format!("{config} is not the id of `{text}` in the tokenizer, {tokenizer}");
            let error = Error::new(Kind::Text, rule).with_hint("the tokenizer's files belong to another checkpoint");
            Err(error.about("image_token_index").about(dir.join("config.json")))
        }
        _ => Ok(()),
    }
}
