//! LLaVA's training data: a JSON list of records with `id`, `image` and `conversations`, and a folder of images.
//!
//! Reference: `docs/Finetune_Custom_Data.md` of github.com/haotian-liu/LLaVA. Records of the same image are put
//! together, so that the image is read and encoded once. Everything but the pixels is checked before training begins.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ::image::ImageReader;
use serde::{Deserialize, Serialize};

use super::{Dataset, Dialogue};
use crate::error::{About as _, Error, Kind};
use crate::files;
use crate::image::Preprocessor;
use crate::world::Draw;

/// Paths of the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlavaConfig {
    /// The list of records. A relative path begins at the recipe's directory.
    pub json: PathBuf,
    /// The folder that `image` begins at. A relative path begins at the recipe's directory.
    pub images: PathBuf,
}

/// A record as it is written.
#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    id: serde_json::Value,
    image: Option<String>,
    conversations: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    from: String,
    value: String,
}

/// An image with its conversations.
#[derive(Debug, Clone)]
struct Entry {
    path: PathBuf,
    dialogues: Vec<Dialogue>,
}

/// LLaVA's records as a dataset.
#[derive(Debug, Clone)]
pub(crate) struct LlavaImages {
    entries: Vec<Entry>,
    identity: String,
}

/// Mark of the image in a question; the template inserts the image itself.
const MARK: &str = "<image>";

/// Bytes of the records: LLaVA-1.5's 665,000 have a gigabyte.
const MAX_BYTES: u64 = 8 << 30;

impl LlavaImages {
    /// Reads the records below `base`, and checks that each has an image that is there and turns that can be learned.
    ///
    /// # Errors
    /// [`Error`] naming the first record that is unusable.
    pub(crate) fn open(config: &LlavaConfig, base: &Path) -> Result<Self, Error> {
        let json = base.join(&config.json);
        let bytes = files::read_bounded(&json, MAX_BYTES).map_err(Error::io(&json))?;
        let records: Vec<Record> =
            serde_json::from_slice(&bytes).map_err(|error| Error::caused_by(Kind::Invalid, error).about(&json))?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut indices: HashMap<PathBuf, usize> = HashMap::new();
        let mut hasher = blake3::Hasher::new();
        for (i, record) in records.into_iter().enumerate() {
            let name = format!("record {i} (id {})", record.id);
            let Checked { image, path, n_bytes, dialogue } =
                check(record, &base.join(&config.images)).about(name).about(&json)?;
            let index = *indices.entry(path.clone()).or_insert_with(|| {
                hasher.update(image.as_bytes());
                hasher.update(&n_bytes.to_le_bytes());
                entries.push(Entry { path, dialogues: Vec::new() });
                entries.len() - 1
            });
            entries[index].dialogues.push(dialogue);
        }
        if entries.is_empty() {
            return Err(Error::invalid("empty list of records").about(&json));
        }
        Ok(Self { entries, identity: format!("llava {}", hasher.finalize().to_hex()) })
    }
}

/// A record whose image exists and whose turns are complete.
struct Checked {
    /// Path as it is written, below the folder of images.
    image: String,
    path: PathBuf,
    /// Size of the image's file.
    n_bytes: u64,
    dialogue: Dialogue,
}

/// Checks a record; `images` is the folder of the images.
fn check(record: Record, images: &Path) -> Result<Checked, Error> {
    let image = record.image.ok_or_else(|| Error::invalid("no image").with_hint("leave text-only records out"))?;
    let path = images.join(&image);
    let about_image = |error: Error| error.about(format!("image {}", path.display()));
    let metadata = std::fs::metadata(&path).map_err(|error| about_image(Error::caused_by(Kind::Invalid, error)))?;
    if !metadata.is_file() {
        return Err(about_image(Error::invalid("not a regular file")));
    }
    let dialogue = dialogue(&record.conversations)?;
    Ok(Checked { image, path, n_bytes: metadata.len(), dialogue })
}

/// Pairs questions of `human` with answers of `gpt`.
fn dialogue(messages: &[Message]) -> Result<Dialogue, Error> {
    if messages.is_empty() {
        return Err(Error::invalid("the conversation is empty"));
    }
    let mut turns = Vec::new();
    for pair in messages.chunks(2) {
        let [question, answer] = pair else {
            return Err(Error::invalid("the last question has no answer"));
        };
        if (question.from.as_str(), answer.from.as_str()) != ("human", "gpt") {
            let rule = format!("expected human then gpt, found {} then {}", question.from, answer.from);
            return Err(Error::invalid(rule));
        }
        if answer.value.trim().is_empty() {
            return Err(Error::invalid("an answer is empty"));
        }
        turns.push((question.value.replace(MARK, "").trim().to_owned(), answer.value.trim().to_owned()));
    }
    Ok(Dialogue { turns, weight: 1.0 })
}

impl Dataset for LlavaImages {
    fn n_images(&self) -> usize {
        self.entries.len()
    }

    fn pixels(&self, index: usize, preprocessor: &Preprocessor) -> Result<Vec<f32>, Error> {
        let path = &self.entries[index].path;
        let image = ImageReader::open(path)
            .and_then(ImageReader::with_guessed_format)
            .map_err(Error::io(path))?
            .decode()
            .map_err(|error| Error::invalid(error.to_string()).about(path))?;
        let wrong = |source: Error| source.about(path);
        Ok(preprocessor.run(image.into_rgb8()).map_err(wrong)?.0)
    }

    fn dialogues(&self, index: usize, _: &mut Draw) -> Vec<Dialogue> {
        self.entries[index].dialogues.clone()
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(records: &str) -> Result<LlavaImages, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("a.png"), b"not looked at yet").expect("a small file");
        std::fs::write(dir.path().join("data.json"), records).expect("a small file");
        let config = LlavaConfig { json: "data.json".into(), images: ".".into() };
        LlavaImages::open(&config, dir.path()).map_err(|error| error.to_string())
    }

    fn record(conversations: &str) -> String {
        format!(r#"[{{"id": "7", "image": "a.png", "conversations": [{conversations}]}}]"#)
    }

    #[test]
    fn records_of_one_image_are_put_together() {
        let turn = r#"{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}"#;
        let one = format!(r#"{{"id": 1, "image": "a.png", "conversations": [{turn}, {turn}]}}"#);
        let images = open(&format!("[{one}, {one}]")).expect("good records");
        assert_eq!(images.n_images(), 1);
        let dialogues = images.dialogues(0, &mut Draw::new(0, 0));
        let turn = ("What?".to_owned(), "A cat.".to_owned());
        assert_eq!(dialogues, vec![Dialogue { turns: vec![turn.clone(), turn], weight: 1.0 }; 2]);
    }

    #[test]
    fn unusable_records_are_named() {
        let human = r#"{"from": "human", "value": "What?"}"#;
        for (records, message) in [
            ("[]".to_owned(), "data.json: empty list of records"),
            ("{".to_owned(), "expected a sequence"),
            (record(""), r#"record 0 (id "7"): the conversation is empty"#),
            (record(human), "the last question has no answer"),
            (record(&format!("{human}, {human}")), "expected human then gpt, found human then human"),
            (record(&format!(r#"{human}, {{"from": "gpt", "value": " "}}"#)), "an answer is empty"),
            (r#"[{"id": 1, "conversations": []}]"#.to_owned(), "record 0 (id 1): no image; hint: leave"),
            (r#"[{"id": 1, "image": "b.png", "conversations": []}]"#.to_owned(), "b.png: No such file"),
            (r#"[{"id": 1, "image": ".", "conversations": []}]"#.to_owned(), "not a regular file"),
        ] {
            let error = open(&records).expect_err(message);
            assert!(error.contains(message) && error.contains("data.json"), "{error}");
        }
    }
}
