//! The model to be, written down before it has weights: its `config.json`, its tower's, its tokenizer.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use super::TrainError;
use super::data::Dataset;
use super::recipe::Recipe;
use super::state::write_file;
use crate::text::{Conversation, Template};
use crate::vlm::Design;
use crate::world::Draw;

/// The tower's directory inside a model's.
pub const TOWER_DIR: &str = "vision_tower";
/// Images whose conversations a tokenizer is trained on.
const TOKENIZER_IMAGES: usize = 20_000;
/// What a new tokenizer begins with, at the ids from 0.
const SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<pad>"];

/// Writes the descriptions of the recipe's model into `dir`, and reads them back as any user of the model would.
///
/// # Errors
/// When the disk refuses, or the description is none of a model that can be loaded.
pub fn write_design(
    recipe: &Recipe,
    from: Option<&Path>,
    tower_from: Option<&Path>,
    texts: Option<&dyn Dataset>,
    dir: &Path,
) -> Result<Design, TrainError> {
    let tower_dir = dir.join(TOWER_DIR);
    std::fs::create_dir_all(&tower_dir).map_err(TrainError::io(&tower_dir))?;
    let mut config = merged(from.map(|from| from.join("config.json")), &recipe.model.config)?;
    config.insert("mm_vision_tower".to_owned(), json!(TOWER_DIR));
    write_json(&dir.join("config.json"), &config)?;
    let tower_config = merged(tower_from.map(|tower| tower.join("config.json")), &recipe.model.vision_tower.config)?;
    write_json(&tower_dir.join("config.json"), &tower_config)?;
    match tower_from.map(|tower| tower.join("preprocessor_config.json")).filter(|path| path.is_file()) {
        Some(path) => copy(&path, &tower_dir.join("preprocessor_config.json"))?,
        None => write_json(&tower_dir.join("preprocessor_config.json"), &preprocessor(&tower_config))?,
    }
    match (recipe.model.tokenizer_vocabulary, texts, from) {
        (Some(size), Some(texts), _) => write_tokenizer(size, texts, &config, &dir.join("tokenizer.json"))?,
        (_, _, Some(from)) => copy_tokenizer(from, dir)?,
        _ => {}
    }
    Ok(Design::read(dir, &tower_dir)?)
}

/// A JSON object of a file, with other values for some keys.
fn merged(path: Option<PathBuf>, over: &Map<String, Value>) -> Result<Map<String, Value>, TrainError> {
    let mut merged = match path {
        Some(path) => {
            let bytes = std::fs::read(&path).map_err(TrainError::io(&path))?;
            serde_json::from_slice(&bytes)
                .map_err(|error| TrainError::Data { path: path.clone(), rule: error.to_string() })?
        }
        None => Map::new(),
    };
    merged.extend(over.clone());
    Ok(merged)
}

fn write_json(path: &Path, object: &Map<String, Value>) -> Result<(), TrainError> {
    let mut text = serde_json::to_string_pretty(object).unwrap_or_default();
    text.push('\n');
    write_file(path, text.as_bytes())
}

fn copy(from: &Path, to: &Path) -> Result<(), TrainError> {
    let bytes = std::fs::read(from).map_err(TrainError::io(from))?;
    write_file(to, &bytes)
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), TrainError> {
    for name in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json"] {
        if from.join(name).is_file() {
            copy(&from.join(name), &to.join(name))?;
        }
    }
    Ok(())
}

/// CLIP's preprocessing at the tower's size, without a crop.
fn preprocessor(tower: &Map<String, Value>) -> Map<String, Value> {
    let size = tower.get("image_size").cloned().unwrap_or(Value::Null);
    let object = json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": true,
        "size": { "height": size, "width": size },
        "do_center_crop": false,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "resample": 3,
        "image_mean": [0.481_454_66, 0.457_827_5, 0.408_210_73],
        "image_std": [0.268_629_54, 0.261_302_58, 0.275_777_11],
    });
    object.as_object().cloned().unwrap_or_default()
}

/// Trains a byte-level BPE tokenizer on the texts of a dataset, in the words of the model's own prompt.
fn write_tokenizer(
    size: usize,
    data: &dyn Dataset,
    config: &Map<String, Value>,
    path: &Path,
) -> Result<(), TrainError> {
    let wrong = |error: tokenizers::Error| TrainError::Data { path: path.to_owned(), rule: error.to_string() };
    let template = match config.get("prompt_format").and_then(Value::as_str) {
        Some(format) => Template::custom(format).map_err(crate::vlm::ModelError::from)?,
        None => Template::VicunaV1,
    };
    let mut texts = Vec::new();
    for index in 0..data.n_images().min(TOKENIZER_IMAGES) {
        for dialogue in data.dialogues(index, &mut Draw::new(0, index as u64)) {
            for (question, answer) in dialogue.turns {
                let prompt = Conversation::new(template.clone(), None).ask(&question);
                texts.push(format!("{}{}{}", prompt.before_visual, prompt.after_visual, template.reply(&answer)));
            }
        }
    }
    let specials: Vec<AddedToken> = SPECIAL.iter().map(|token| AddedToken::from(*token, true)).collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(size)
        .show_progress(false)
        .special_tokens(specials.clone())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
    tokenizer.with_decoder(Some(ByteLevelDecoder::default()));
    tokenizer.add_special_tokens(specials).map_err(wrong)?;
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts.iter()).map_err(wrong)?;
    write_file(path, tokenizer.to_string(true).map_err(wrong)?.as_bytes())
}
