//! Settings of a tokenizer beside its vocabulary: `tokenizer_config.json`, `special_tokens_map.json`,
//! `added_tokens.json`.
//!
//! They are merged like in `PreTrainedTokenizerBase._from_pretrained` of transformers: the two older files count only
//! where `tokenizer_config.json` has no `added_tokens_decoder`.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::error::{Error, Kind, Result};
use crate::files;

/// Named special tokens that every tokenizer class knows, in transformers' order.
const STANDARD: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Settings of a tokenizer.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    config: Map<String, Value>,
    /// Special tokens by name: the standard ones, then the model's own such as `image_token`.
    named: Vec<(String, AddedToken)>,
    /// Special tokens without a name.
    extra: Option<Vec<AddedToken>>,
    /// Added tokens with their ids, in the order of ids.
    added: Vec<(u32, AddedToken)>,
}

impl Settings {
    /// Reads the settings of a directory; absent files are empty.
    ///
    /// # Errors
    /// When a file cannot be read, or has unexpected contents.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let mut config = object(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let mut added = Vec::new();
        if let Some(tokens) = config.get("added_tokens_decoder") {
            added = decoder_tokens(tokens).ok_or_else(|| {
                let error = Error::new(Kind::Text, "expected an object of tokens by id");
                error.about("added_tokens_decoder").about(dir.join("tokenizer_config.json"))
            })?;
        } else {
            let map = object(&dir.join("special_tokens_map.json"))?.unwrap_or_default();
            config.extend(map.into_iter().filter(|(_, value)| !value.is_null()));
        }
        let mut settings = Self { named: named(&config), extra: extra(&config), config, added };
        if !settings.config.contains_key("added_tokens_decoder") {
            settings.added = settings.legacy_added(dir)?;
            settings.replace_added(fast_added(dir)?);
        }
        settings.added.sort_by_key(|&(id, _)| id);
        settings.mark_named_as_special();
        Ok(settings)
    }

    /// Reads the tokens of `added_tokens.json`.
    fn legacy_added(&self, dir: &Path) -> Result<Vec<(u32, AddedToken)>> {
        let path = dir.join("added_tokens.json");
        let tokens = object(&path)?.unwrap_or_default();
        let read = |(content, id): (String, Value)| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                Error::new(Kind::Text, format!("{id} is not an id")).about(content.clone()).about(&path)
            })?;
            let special = self.special_tokens().any(|token| token.content == content);
            Ok((id, AddedToken::from(content, special).normalized(!special)))
        };
        tokens.into_iter().map(read).collect()
    }

    /// Replaces the tokens of the same ids.
    fn replace_added(&mut self, tokens: Vec<(u32, AddedToken)>) {
        for (id, token) in tokens {
            self.added.retain(|&(known, _)| known != id);
            self.added.push((id, token));
        }
    }

    /// Marks added tokens that are named as special, and gives named tokens the flags of their added tokens.
    fn mark_named_as_special(&mut self) {
        for (_, token) in &mut self.named {
            if let Some((_, added)) = self.added.iter_mut().find(|(_, added)| added.content == token.content) {
                added.special = true;
                *token = added.clone();
            }
        }
    }

    /// Returns the value of a key of `tokenizer_config.json`.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key)
    }

    /// Returns the value of a boolean key, if it is present and not null.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    /// Returns the name of the tokenizer's class, if a file has it.
    pub(super) fn class(&self) -> Option<&str> {
        self.get("tokenizer_class").and_then(Value::as_str)
    }

    /// Returns the text of a named special token.
    pub(super) fn token(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(found, _)| found == name).map(|(_, token)| token.content.as_str())
    }

    /// Sets a special token that no file names.
    pub(super) fn set_default(&mut self, name: &str, content: &str) {
        if self.token(name).is_none() {
            self.named.push((name.to_owned(), AddedToken::from(content, true)));
        }
    }

    /// Sets the special tokens without a name, where no file lists any.
    pub(super) fn set_default_extra(&mut self, contents: impl Iterator<Item = String>) {
        let tokens = contents.map(|content| AddedToken::from(content, true).normalized(false));
        self.extra.get_or_insert_with(|| tokens.collect());
    }

    /// Makes added tokens match the text as it is written, not as it is normalized.
    pub(super) fn match_added_tokens_raw(&mut self) {
        self.added.iter_mut().for_each(|(_, token)| token.normalized = false);
    }

    /// Returns the named special tokens and their texts.
    pub(super) fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(name, token)| (name.as_str(), token.content.as_str()))
    }

    /// Returns all special tokens, the named ones first.
    pub(super) fn special_tokens(&self) -> impl Iterator<Item = &AddedToken> {
        self.named.iter().map(|(_, token)| token).chain(self.extra.iter().flatten())
    }

    /// Added tokens with their ids, in the order of ids.
    pub(super) fn added(&self) -> &[(u32, AddedToken)] {
        &self.added
    }

    /// Returns whether one of the files names a token of this text.
    pub(super) fn knows(&self, content: &str) -> bool {
        self.added.iter().map(|(_, token)| token).chain(self.special_tokens()).any(|token| token.content == content)
    }
}

/// Reads the object in a JSON file; `None` without the file.
pub(super) fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !files::is_file(path) {
        return Ok(None);
    }
    let bytes = files::read(path).map_err(Error::io(path))?;
    let wrong = |rule: String| Error::new(Kind::Text, rule).about(path);
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(_) => Err(wrong("not a JSON object".to_owned())),
        Err(error) => Err(wrong(format!("not JSON: {error}"))),
    }
}

/// Parses a token, given as text or as an object with flags.
fn token(value: &Value, special: Option<bool>) -> Option<AddedToken> {
    if let Some(content) = value.as_str() {
        return Some(AddedToken::from(content, special.unwrap_or(true)));
    }
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let special = special.or(flag("special")).unwrap_or(false);
    let plain = AddedToken::from(value.get("content")?.as_str()?, special);
    let normalized = flag("normalized").unwrap_or(!special);
    let stripped = plain.lstrip(flag("lstrip").unwrap_or(false)).rstrip(flag("rstrip").unwrap_or(false));
    Some(stripped.single_word(flag("single_word").unwrap_or(false)).normalized(normalized))
}

/// Reads the added tokens of `tokenizer.json` with their flags; empty where the file is absent or malformed, which its
/// own reader reports.
fn fast_added(dir: &Path) -> Result<Vec<(u32, AddedToken)>> {
    let path = dir.join("tokenizer.json");
    if !files::is_file(&path) {
        return Ok(Vec::new());
    }
    let bytes = files::read(&path).map_err(Error::io(&path))?;
    let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let tokens = json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    Ok(tokens
        .filter_map(|value| Some((u32::try_from(value.get("id")?.as_u64()?).ok()?, token(value, None)?)))
        .collect())
}

fn decoder_tokens(tokens: &Value) -> Option<Vec<(u32, AddedToken)>> {
    tokens.as_object()?.iter().map(|(id, value)| Some((id.parse().ok()?, token(value, None)?))).collect()
}

/// Reads the standard special tokens, then the model's own: keys that end in `_token`, and `extra_special_tokens` by
/// name.
fn named(config: &Map<String, Value>) -> Vec<(String, AddedToken)> {
    let is_own = |key: &str| key.ends_with("_token") && !STANDARD.contains(&key);
    let standard = STANDARD.iter().filter_map(|&key| Some((key, config.get(key)?)));
    let own = config.iter().filter(|(key, value)| is_own(key) && !value.is_boolean());
    let extra = config.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten();
    let all = standard.chain(own.chain(extra).map(|(key, value)| (key.as_str(), value)));
    all.filter_map(|(key, value)| Some((key.to_owned(), token(value, Some(true))?))).collect()
}

fn extra(config: &Map<String, Value>) -> Option<Vec<AddedToken>> {
    let list = |key: &str| config.get(key).and_then(Value::as_array).filter(|list| !list.is_empty());
    let list = list("extra_special_tokens").or_else(|| list("additional_special_tokens"))?;
    Some(list.iter().filter_map(|value| token(value, Some(true))).collect())
}
