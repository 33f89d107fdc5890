//! Opening of a tokenizer's files like transformers 5 or like LLaVA's code.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Codec;
use super::fast::Fast;
use super::settings::Settings;
use super::slow::Slow;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::text::SentencePiece;
use crate::text::sentencepiece::{PrependScheme, convert};

/// Opens a tokenizer like `TokenizersBackend` of transformers 5: `tokenizer.json`, whose post-processor alone adds
/// tokens around a text, else a converted `tokenizer.model`. A model without the placeholder is opened like LLaVA's
/// code does.
///
/// # Errors
/// When there is no tokenizer, or it is broken.
pub(super) fn open_as_transformers(
    dir: &Path,
    settings: &mut Settings,
    image_text: &str,
) -> Result<(Codec, &'static str)> {
    if let Some((path, bytes)) = read(dir, "tokenizer.json")? {
        let fast = Fast::from_json(&bytes, settings).map_err(|cause| unusable(&path, &cause))?;
        return Ok((Codec::Fast(fast), "tokenizer.json"));
    }
    let Some((path, bytes)) = read(dir, "tokenizer.model")? else { return Err(no_tokenizer(dir)) };
    let broken = |cause: Error| unusable(&path, &cause);
    if !settings.knows(image_text) {
        return Ok((open_slow(&bytes, settings).map_err(broken)?, "tokenizer.model (SentencePiece BPE)"));
    }
    let fast = convert_model(&bytes, settings).map_err(broken)?;
    Ok((Codec::Fast(fast), "tokenizer.model (SentencePiece, converted as transformers does)"))
}

/// Converts a `tokenizer.model` like transformers does.
fn convert_model(bytes: &[u8], settings: &mut Settings) -> Result<Fast> {
    let is_legacy = settings.get("legacy").is_none_or(|legacy| legacy.as_bool().unwrap_or(false));
    let scheme = if is_legacy { PrependScheme::Always } else { PrependScheme::First };
    let names: HashMap<u32, String> = settings.added().iter().map(|(id, token)| (*id, token.content.clone())).collect();
    let converted = convert(bytes, &names, scheme)?;
    if converted.has_dummy_prefix {
        settings.match_added_tokens_raw();
    }
    converted.named.iter().for_each(|(name, piece)| settings.set_default(name, piece));
    settings.set_default_extra(converted.control.into_iter());
    let json = serde_json::to_vec(&converted.json).map_err(|error| Error::invalid(error.to_string()))?;
    let mut fast = Fast::from_json(&json, settings)?;
    surround(&mut fast, settings, DefaultBos::Omitted)?;
    Ok(fast)
}

/// Opens a tokenizer like `AutoTokenizer(use_fast=False)` of transformers 4: the slow Llama tokenizer where there is a
/// `tokenizer.model`, unless the tokenizer's class has no slow form.
///
/// # Errors
/// When there is no tokenizer, or it is broken.
pub(super) fn open_as_llava(dir: &Path, settings: &mut Settings) -> Result<(Codec, &'static str)> {
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
            let broken = |cause: Error| unusable(&path, &cause);
            let mut fast = Fast::from_json(&bytes, settings).map_err(broken)?;
            if class.starts_with("LlamaTokenizer") {
                settings.set_default("bos_token", "<s>");
                settings.set_default("eos_token", "</s>");
                surround(&mut fast, settings, DefaultBos::Added).map_err(broken)?;
            }
            Ok((Codec::Fast(fast), "tokenizer.json"))
        }
    }
}

/// Default of `add_bos_token`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DefaultBos {
    Added,
    Omitted,
}

/// Sets the tokens around every text by `add_bos_token` and `add_eos_token`.
fn surround(fast: &mut Fast, settings: &Settings, default: DefaultBos) -> Result<()> {
    let adds_bos = default == DefaultBos::Added;
    let bos = settings.token("bos_token").filter(|_| settings.flag("add_bos_token").unwrap_or(adds_bos));
    let eos = settings.token("eos_token").filter(|_| settings.flag("add_eos_token").unwrap_or(false));
    fast.surround(bos, eos)
}

fn open_slow(bytes: &[u8], settings: &mut Settings) -> Result<Codec> {
    Ok(Codec::Slow(Box::new(Slow::new(SentencePiece::from_bytes(bytes)?, settings)?)))
}

/// Makes the error of a file that is not a usable tokenizer.
fn unusable(path: &Path, cause: &Error) -> Error {
    Error::new(Kind::Text, format!("not a usable tokenizer: {}", cause.statement())).about(path)
}

fn no_tokenizer(dir: &Path) -> Error {
    Error::new(Kind::Text, "no tokenizer here; expected tokenizer.json or tokenizer.model").about(dir)
}

/// Reads a file of a directory, if there is such a file.
fn read(dir: &Path, name: &str) -> Result<Option<(PathBuf, Vec<u8>)>> {
    let path = dir.join(name);
    if !files::is_file(&path) {
        return Ok(None);
    }
    match files::read(&path) {
        Ok(bytes) => Ok(Some((path, bytes.into_owned()))),
        Err(source) => Err(Error::io(path)(source)),
    }
}
