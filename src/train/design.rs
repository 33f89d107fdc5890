//! The model to be, written down before it has weights: its `config.json`, its tower's, its tokenizer.

use std::path::{Path, PathBuf};

use candle_core::DType;
use serde_json::{Map, Value, json};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use super::Output;
use super::data::Dataset;
use super::recipe::{Recipe, StageKind, TowerRecipe};
use super::state::write_file;
use crate::error::Error;
use crate::files::{self, output::create_directory};
use crate::text::{Conversation, Template};
use crate::vlm::config::{JsonFile, Spelling};
use crate::vlm::{Design, companions, families};
use crate::weights::Hub;
use crate::world::Draw;

/// The tower's directory inside a model's.
pub(crate) const TOWER_DIR: &str = "vision_tower";
/// The file of weights in either.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Images whose conversations a tokenizer is trained on.
const TOKENIZER_IMAGES: usize = 20_000;
/// Special tokens of a new tokenizer, at the ids from 0.
const SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<pad>"];

/// Owner of the tower of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TowerPlace {
    /// A tower made or changed by the recipe, written beside the model.
    Own,
    /// The tower beside the initial checkpoint; its files are copied.
    Copied,
    /// A shared tower; `config.json` names it.
    Shared,
    /// A tower inside the initial checkpoint, written again with its file.
    Inside,
}

/// Initial checkpoint and tower of the model.
pub(crate) struct ModelStart {
    /// Directory of the checkpoint.
    pub from: Option<PathBuf>,
    /// Directory of the tower.
    pub tower: Option<PathBuf>,
    /// Owner of the tower.
    pub place: TowerPlace,
    /// Name of the tower in `config.json`.
    tower_name: String,
}

impl ModelStart {
    /// Finds the checkpoint and the tower that a recipe begins with.
    ///
    /// # Errors
    /// When they are not to be had.
    pub(crate) fn find(recipe: &Recipe, hub: &Hub) -> Result<Self, Error> {
        let found = |name: &str| hub.find(name);
        let from = recipe.model.from.as_deref().map(found).transpose()?;
        if let Some(dir) = &from
            && families::spelling(&JsonFile::read(&dir.join("config.json"))?)? == Spelling::HuggingFace
        {
            return Self::inside(recipe, dir.clone());
        }
        let trains_tower = recipe.stages.iter().any(|stage| stage.stage == StageKind::Tower);
        let asked = recipe.model.vision_tower.from.clone();
        let named = match (&from, &asked) {
            (_, Some(name)) => Some(name.clone()),
            (Some(from), None) if recipe.model.vision_tower.config.is_empty() => tower_of(from)?,
            _ => None,
        };
        let base = from.clone().unwrap_or_default();
        let tower = named.as_deref().map(|name| hub.find_tower(&base, name)).transpose()?;
        let is_beside = from.as_ref().zip(tower.as_ref()).is_some_and(|(from, tower)| tower.starts_with(from));
        let place = match (trains_tower || tower.is_none(), is_beside) {
            (true, _) => TowerPlace::Own,
            (false, true) => TowerPlace::Copied,
            (false, false) => TowerPlace::Shared,
        };
        let tower_name = match (place, named) {
            (TowerPlace::Shared, Some(name)) if Path::new(&name).is_dir() => {
                std::path::absolute(&name).map_err(Error::io(Path::new(&name)))?.display().to_string()
            }
            (TowerPlace::Shared, Some(name)) => name,
            _ => TOWER_DIR.to_owned(),
        };
        Ok(Self { from, tower, place, tower_name })
    }
}

impl ModelStart {
    /// Begins with a checkpoint that includes its tower, in Hugging Face's spelling.
    fn inside(recipe: &Recipe, from: PathBuf) -> Result<Self, Error> {
        // Refused before anything is written: an unknown family, or a key that is not obeyed.
        Design::read(&from, None)?;
        let wrong = |rule: &'static str, hint: &'static str| Err(Error::invalid(rule).with_hint(hint).about(&from));
        if recipe.model.vision_tower != TowerRecipe::default() {
            return wrong("model.vision_tower: the checkpoint holds its own tower", "leave the key out");
        }
        if recipe.stages.iter().any(|stage| stage.stage == StageKind::Tower) {
            return wrong("a stage `tower` cannot train the tower inside a checkpoint", "connector, instruct");
        }
        Ok(Self { from: Some(from), tower: None, place: TowerPlace::Inside, tower_name: String::new() })
    }
}

/// Returns the tower that a checkpoint's `config.json` names.
fn tower_of(from: &Path) -> Result<Option<String>, Error> {
    let file = JsonFile::read(&from.join("config.json"))?;
    let name = file.string("mm_vision_tower")?.map(str::to_owned);
    match name {
        Some(name) => Ok(Some(name)),
        None => {
            let error = Error::invalid("it names no mm_vision_tower");
            Err(error
                .with_hint("name the tower in the recipe, model.vision_tower.from")
                .about(from.join("config.json")))
        }
    }
}

/// Writes the descriptions of the recipe's model into `dir`, and reads them back as any user of the model would.
///
/// # Errors
/// When the disk refuses, or the description is none of a model that can be loaded.
pub(crate) fn write_design(
    recipe: &Recipe,
    start: &ModelStart,
    texts: Option<&dyn Dataset>,
    output: &Output<'_>,
) -> Result<Design, Error> {
    let dir = output.model;
    create_directory(dir).map_err(Error::io(dir))?;
    if let (TowerPlace::Inside, Some(from)) = (start.place, &start.from) {
        return write_inside(recipe, from, dir);
    }
    let mut config = merged(start.from.as_ref().map(|from| from.join("config.json")), &recipe.model.keys())?;
    config.insert("mm_vision_tower".to_owned(), json!(start.tower_name));
    config.insert(DTYPE_KEY.to_owned(), json!(dtype_name(output.dtype)));
    write_json(&dir.join("config.json"), &config)?;
    let tower_dir = match (start.place, &start.tower) {
        (TowerPlace::Shared, Some(tower)) => tower.clone(),
        _ => write_tower(recipe, start, output)?,
    };
    match (recipe.model.tokenizer_vocabulary, texts, &start.from) {
        (Some(size), Some(texts), _) => write_tokenizer(size, texts, &config, &dir.join("tokenizer.json"))?,
        (_, _, Some(from)) => copy_tokenizer(from, dir)?,
        _ => {}
    }
    Design::read(dir, Some(&tower_dir))
}

/// Writes the descriptions of a model in Hugging Face's spelling: those of the checkpoint that it begins with, and the
/// keys of its connector and its projector.
fn write_inside(recipe: &Recipe, from: &Path, dir: &Path) -> Result<Design, Error> {
    const PROJECTOR_KEY: &str = "mm_projector_type";
    let mut config = merged(Some(from.join("config.json")), &recipe.model.keys())?;
    if recipe.model.has_new_projector() && !recipe.model.config.contains_key(PROJECTOR_KEY) {
        config.insert(PROJECTOR_KEY.to_owned(), json!("mlp2x_gelu"));
    }
    // A file that leaves its sections to the class's defaults is still told from LLaVA's by having one.
    config.entry("text_config").or_insert_with(|| json!({}));
    write_json(&dir.join("config.json"), &config)?;
    for name in companions(from) {
        if let Some(parent) = name.parent().filter(|parent| *parent != Path::new("")) {
            create_directory(&dir.join(parent)).map_err(Error::io(dir))?;
        }
        copy(&from.join(&name), &dir.join(&name))?;
    }
    Design::read(dir, None)
}

/// Writes the descriptions of a tower beside its model, and of one that stays as it is the weights too.
fn write_tower(recipe: &Recipe, start: &ModelStart, output: &Output<'_>) -> Result<PathBuf, Error> {
    let to = output.model.join(TOWER_DIR);
    create_directory(&to).map_err(Error::io(&to))?;
    let beside = |name: &str| start.tower.as_ref().map(|tower| tower.join(name));
    let mut config = merged(beside("config.json"), &recipe.model.vision_tower.config)?;
    if start.place == TowerPlace::Own {
        config.insert(DTYPE_KEY.to_owned(), json!(dtype_name(output.dtype)));
    }
    write_json(&to.join("config.json"), &config)?;
    let mut has_processor = false;
    for name in ["processor_config.json", "preprocessor_config.json"] {
        if let Some(path) = beside(name).filter(|path| files::is_file(path)) {
            copy(&path, &to.join(name))?;
            has_processor = true;
        }
    }
    if !has_processor {
        write_json(&to.join("preprocessor_config.json"), &preprocessor(&config))?;
    }
    if start.place == TowerPlace::Copied
        && let Some(path) = beside(WEIGHTS)
    {
        copy(&path, &to.join(WEIGHTS))?;
    }
    Ok(to)
}

/// Key of `config.json` for the dtype of the weights.
const DTYPE_KEY: &str = "torch_dtype";

/// Returns a precision as `config.json` names it.
fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// Returns a JSON object of a file, with other values for some keys.
fn merged(path: Option<PathBuf>, over: &Map<String, Value>) -> Result<Map<String, Value>, Error> {
    let mut merged = match path {
        Some(path) => {
            let bytes = files::read(&path).map_err(Error::io(&path))?;
            serde_json::from_slice(&bytes).map_err(|error| Error::invalid(error.to_string()).about(path))?
        }
        None => Map::new(),
    };
    merged.extend(over.clone());
    Ok(merged)
}

fn write_json(path: &Path, object: &Map<String, Value>) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(object).unwrap_or_default();
    text.push('\n');
    write_file(path, text.as_bytes())
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let bytes = files::read(from).map_err(Error::io(from))?;
    write_file(to, &bytes)
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), Error> {
    for name in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json"] {
        if files::is_file(&from.join(name)) {
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
fn write_tokenizer(size: usize, data: &dyn Dataset, config: &Map<String, Value>, path: &Path) -> Result<(), Error> {
    let wrong = |error: tokenizers::Error| Error::invalid(error.to_string()).about(path);
    let template = match config.get("prompt_format").and_then(Value::as_str) {
        Some(format) => Template::custom(format)?,
        None => Template::VicunaV1,
    };
    let mut texts = Vec::new();
    for index in 0..data.n_images().min(TOKENIZER_IMAGES) {
        for dialogue in data.dialogues(index, &mut Draw::new(0, index as u64)) {
            for (question, answer) in dialogue.turns {
                let prompt = Conversation::new(template.clone(), None).ask(&question)?;
                texts.push(prompt.text() + &template.reply(&answer));
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
