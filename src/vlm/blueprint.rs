//! A model as its files describe it: everything but the weights themselves.
//!
//! Enough to answer `inspect`, to check a token budget, and to refuse a plan before anything heavy is done.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;

use super::config::processor::{ProcessorClass, ProcessorFile};
use super::config::{
    FrameFit, JsonFile, KeyNotes, LanguageKind, SelectFeature, Spelling, VlmConfig, fp8_format, published_tower,
    tower_config, tower_notes,
};
use super::{
    FeatureSelection, ModelError, Overrides, SingleImageRule, TextTokens, TokenBudget, Unused, VideoPath, gguf, names,
};
use crate::connector::{self, Connector, ConnectorKind};
use crate::error::{Error, Kind};
use crate::files;
use crate::image::PreprocessConfig;
use crate::temporal::{FrameTokens, Temporal};
use crate::text::{ChatTemplate, Conversation, FrameMarks, Reading, ShownFrames, Template, Tokenizer};
use crate::units::Tokens;
use crate::video::Sample;
use crate::video::sample::LlavaVideo;
use crate::vision::{TowerConfig, TowerFamily};
use crate::weights::{Checkpoint, Hub};

/// A described model.
pub struct Blueprint {
    /// As it was named.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Its `config.json`.
    pub config: VlmConfig,
    /// Its tower, with the layers that run.
    pub tower: TowerConfig,
    /// Where the tower's weights are.
    pub tower_source: TowerSource,
    /// Its connector.
    pub connector: Arc<dyn Connector>,
    /// Frames over which the connector's lower groups are averaged (dense temporal DCI).
    pub window: usize,
    /// Why another scaling of positions does not go with the checkpoint, in words, if it does not.
    pub rope_conflict: Option<String>,
    /// How frames are prepared.
    pub preprocess: PreprocessConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The template that fits it.
    pub template: Template,
    /// The marks around its visual tokens.
    pub marks: FrameMarks,
    /// How it takes a single image.
    pub single_image: SingleImageRule,
    /// The checkpoint's own template, if it has one.
    own_template: Option<Template>,
    /// The frames that its own processor takes.
    own_sample: Sample,
    /// Warnings about the model's descriptions.
    pub warnings: Vec<String>,
    /// Handling of tensors that should be used and are not.
    pub(super) unused: Unused,
    /// Layers of the tower that its configuration describes, whether or not they run.
    pub(super) n_tower_layers: usize,
    pub(super) checkpoint: Checkpoint,
    /// Where the language model's weights are, if not in the checkpoint: a GGUF file.
    pub(super) llm: Option<Checkpoint>,
}

/// Where a tower's weights are.
pub enum TowerSource {
    /// In the checkpoint itself.
    Inside,
    /// In a directory of their own.
    Beside(Box<Checkpoint>),
}

impl Blueprint {
    /// Reads the descriptions of the model called `name`, changed as `overrides` say.
    ///
    /// # Errors
    /// [`ModelError`] when something is missing, broken, or does not go together.
    pub fn read(name: &str, overrides: &Overrides, hub: &Hub) -> Result<Self, ModelError> {
        let dir = hub.find(name)?;
        let mut config = VlmConfig::read(&dir)?;
        let default_template = DefaultTemplate::of(&config);
        // The file describes the checkpoint's own model: before a plan changes it.
        let llm = overrides.llm.as_deref().map(|path| gguf::open(path, &config, overrides.unused)).transpose()?;
        let (llm, mut llm_warnings) = llm.map_or((None, Vec::new()), |(llm, warnings)| (Some(llm), warnings));
        let rope_conflict = overrides.apply(&mut config);
        let checkpoint = Checkpoint::open(&dir)?.with_fp8(config.fp8.clone())?;
        let tokenizer = Tokenizer::open(&dir, reading(&config))?;
        if let Some(llm) = &llm {
            llm_warnings.extend(gguf::check_vocabulary(llm, &config, &tokenizer)?);
        }
        let found = find_tower(&dir, &config, &checkpoint, overrides.vision_tower.as_deref(), hub)?;
        let mut tower = found.config;
        let n_tower_layers = tower.n_layers;
        tower.n_layers = config.n_layers_run(&tower);
        tower.output = config.tower_output;
        let connector = make_connector(&dir, &config, &tower)?;
        let mut notes = config.notes.clone();
        notes.extend(found.notes);
        let (preprocess, own_sample, preprocess_notes) =
            preprocess_config(&config, &tower, &[found.dir.as_deref(), Some(&dir)])?;
        notes.extend(preprocess_notes);
        let mut warnings = notes.warnings;
        warnings.extend(llm_warnings);
        warnings.extend(overrides.unused.judge(&dir, "keys", &below(&dir, &notes.refused))?);
        let own_template = own_template(&dir, &config, &tokenizer)?;
        let template = default_template.choose(&tokenizer, own_template.as_ref());
        let marks = frame_marks(&config, &tokenizer);
        let single_image = SingleImageRule::read(&dir, &config, &tower, &preprocess);
        let (name, tower_source, window) = (name.to_owned(), found.source, overrides.connector_window.max(1));
        Ok(Self {
            rope_conflict,
            window,
            name,
            dir,
            config,
            tower,
            tower_source,
            connector,
            preprocess,
            tokenizer,
            template,
            marks,
            single_image,
            own_template,
            own_sample,
            warnings,
            unused: overrides.unused,
            n_tower_layers,
            checkpoint,
            llm,
        })
    }

    /// The template of a name, the checkpoint's own among them.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn named_template(&self, name: &str) -> Result<Template, Error> {
        Template::choose(name, self.own_template.as_ref())
    }

    /// Tokens of a frame after the connector.
    pub fn frame_tokens(&self) -> FrameTokens {
        let frame = frame_tokens(&self.tower, self.connector.as_ref(), self.feature_selection());
        FrameTokens { has_newline: names::newline(&self.checkpoint).is_some(), ..frame }
    }

    /// Returns the selection of the connector's tokens from a hidden state.
    pub fn feature_selection(&self) -> FeatureSelection {
        self.config.feature_selection(self.tower.family)
    }

    /// Why the connector's tokens do not fit the checkpoint's projector, in words, if they do not.
    pub fn connector_misfit(&self) -> Option<String> {
        let width = self.connector.width(self.feature_selection().width(&self.tower));
        let projector = names::projector(&self.checkpoint);
        let shape =
            ["0.weight", "weight"].into_iter().find_map(|name| self.checkpoint.shape(&projector.apply(name)))?;
        let &[_, takes] = shape.dims() else { return None };
        (takes != width).then(|| {
            format!(
                "{} makes tokens of {width} channels, but the checkpoint's projector takes {takes}",
                self.connector.kind()
            )
        })
    }

    /// The frames that the checkpoint's own processor takes of a video, `frames` of them where a number is asked for;
    /// `uniform` ones where its family has no way of its own.
    pub fn own_sample(&self, frames: Option<usize>) -> Sample {
        let sample = self.own_sample.clone();
        frames.map_or(sample.clone(), |frames| sample.with_frames(frames).unwrap_or_default())
    }

    /// The budget of a prompt with `text` tokens of words.
    pub fn budget(&self, temporal: Temporal, n_frames: usize, text: impl Into<TextTokens>) -> TokenBudget {
        let text = text.into();
        TokenBudget { temporal, n_frames, frame: self.frame_tokens(), text, context: Tokens(self.config.context) }
    }

    /// The precision that the checkpoint is stored in.
    pub fn stored_dtype(&self) -> DType {
        self.checkpoint.dtype()
    }

    /// Every file whose contents decide the answers.
    pub fn files(&self) -> Vec<PathBuf> {
        let beside = match &self.tower_source {
            TowerSource::Inside => None,
            TowerSource::Beside(tower) => Some(&**tower),
        };
        let dirs = std::iter::once(self.dir.as_path()).chain(beside.map(|tower| tower.dir()));
        let mut files: Vec<PathBuf> =
            dirs.flat_map(|dir| DESCRIPTIONS.map(|name| dir.join(name))).filter(|path| files::is_file(path)).collect();
        files.extend(more_templates(&self.dir));
        files.extend(self.checkpoint.paths().iter().cloned());
        files.extend(beside.into_iter().chain(&self.llm).flat_map(|part| part.paths().iter().cloned()));
        files
    }

    /// Numbers in the checkpoint, and in a tower and a language model beside it.
    pub fn n_parameters(&self) -> usize {
        let tower = match &self.tower_source {
            TowerSource::Inside => 0,
            TowerSource::Beside(tower) => tower.n_parameters(),
        };
        self.checkpoint.n_parameters() + tower + self.llm.as_ref().map_or(0, Checkpoint::n_parameters)
    }

    /// Bytes of keys and values of a sequence that fills the context.
    pub fn kv_bytes(&self, dtype: DType) -> usize {
        self.config.llama.kv_geometry().position_bytes(dtype) * self.config.context
    }
}

/// Notes on files of `dir`, with their names alone.
fn below(dir: &Path, notes: &[String]) -> Vec<String> {
    let prefix = format!("{}/", dir.display());
    notes.iter().map(|note| note.strip_prefix(&prefix).unwrap_or(note).to_owned()).collect()
}

/// The files that describe a model or a tower, beside its weights.
const DESCRIPTIONS: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The templates of a checkpoint that has several, in the order of their names.
fn more_templates(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("additional_chat_templates")).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| files::is_file(path)).collect();
    paths.sort();
    paths
}

/// Tokens of a frame after `connector`, which takes the tokens of `selection`.
pub(super) fn frame_tokens(tower: &TowerConfig, connector: &dyn Connector, selection: FeatureSelection) -> FrameTokens {
    let grid = selection.grid(tower);
    let count = connector.n_tokens(selection.n_tokens(tower));
    if count == grid.n_patches() { FrameTokens::on_grid(grid) } else { FrameTokens::loose(count) }
}

/// A model as its descriptions say, whether or not it has weights yet.
pub struct Design {
    /// Its `config.json`.
    pub config: VlmConfig,
    /// Its tower, with the layers that run.
    pub tower: TowerConfig,
    /// Its connector.
    pub connector: Arc<dyn Connector>,
    /// How frames are prepared.
    pub preprocess: PreprocessConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The template that fits it.
    pub template: Template,
    /// The marks around its visual tokens.
    pub marks: FrameMarks,
    /// Text after an answer that its template does not write itself: the end of a turn of a chat template, with the
    /// token that stops the answer.
    pub closing: String,
}

impl Design {
    /// Reads the descriptions in `dir`, with those of the tower in `tower_dir`; without one the tower is described by
    /// the model's own `config.json`.
    ///
    /// # Errors
    /// [`ModelError`] when something is missing, broken, or does not go together.
    pub fn read(dir: &Path, tower_dir: Option<&Path>) -> Result<Self, ModelError> {
        let config = VlmConfig::read(dir)?;
        let wrong = |rule: &str| ModelError::Combination { path: dir.join("config.json"), rule: rule.to_owned() };
        if config.fp8.is_some() {
            return Err(wrong("weights in FP8 cannot be trained over; hint: the same checkpoint in bf16"));
        }
        let tokenizer = Tokenizer::open(dir, reading(&config))?;
        let mut tower = match (tower_dir, &config.tower) {
            (Some(tower_dir), _) => tower_config(&JsonFile::read(&tower_dir.join("config.json"))?)?,
            (None, Some(tower)) => tower.clone(),
            (None, None) => return Err(wrong("it describes no vision tower")),
        };
        tower.n_layers = config.n_layers_run(&tower);
        tower.output = config.tower_output;
        let connector = make_connector(dir, &config, &tower)?;
        let (preprocess, _, notes) = preprocess_config(&config, &tower, &[tower_dir, Some(dir)])?;
        Unused::Refuse.judge(dir, "keys", &[config.notes.refused.clone(), notes.refused].concat())?;
        // In LLaVA's spelling answers are learned in the words of a built-in template, which says what closes them.
        let own = match config.spelling {
            Spelling::Llava => config.prompt_format.as_deref().map(Template::custom).transpose()?,
            Spelling::HuggingFace => own_template(dir, &config, &tokenizer)?,
        };
        let template = DefaultTemplate::of(&config).choose(&tokenizer, own.as_ref());
        let marks = frame_marks(&config, &tokenizer);
        let closing = closing(dir, &config, &tokenizer, &template)?;
        Ok(Self { config, tower, connector, preprocess, tokenizer, template, marks, closing })
    }

    /// Width of the connector's tokens, which the projector takes.
    pub fn connector_width(&self) -> usize {
        self.connector.width(self.config.feature_selection(self.tower.family).width(&self.tower))
    }
}

/// The text between an answer and the next turn of a chat template, to the stop token; the stop token alone where the
/// template writes none. Nothing for a built-in template, which closes answers itself.
///
/// # Errors
/// When the checkpoint names no stop token, or the template cannot be rendered.
fn closing(dir: &Path, config: &VlmConfig, tokenizer: &Tokenizer, template: &Template) -> Result<String, ModelError> {
    const ANSWER: &str = "Some answer.";
    const NEXT: &str = "A question after it?";
    if !matches!(template, Template::Checkpoint(_)) {
        return Ok(String::new());
    }
    let stops: Vec<String> = config.generation.rules.ends.iter().filter_map(|&id| tokenizer.piece(id)).collect();
    let Some(stop) = stops.first() else {
        let rule = "it names no token that ends an answer (eos_token_id), so no answer can be learned".to_owned();
        return Err(ModelError::Combination { path: dir.to_owned(), rule });
    };
    let mut conversation = Conversation::new(template.clone(), None).showing(ShownFrames::unknown(1, true));
    conversation.ask("A question?")?;
    conversation.answer(ANSWER);
    let text = conversation.ask(NEXT)?.text();
    let rest = text.rsplit_once(ANSWER).map_or("", |(_, rest)| rest);
    let ends = stops.iter().filter_map(|stop| rest.find(stop.as_str()).map(|at| at + stop.len()));
    let closed = ends.min().map(|end| &rest[..end]).filter(|closed| !closed.contains(NEXT));
    Ok(closed.unwrap_or(stop).to_owned())
}

/// Files that describe a model, with their paths inside `dir`: all but its `config.json` and its weights.
pub(crate) fn companions(dir: &Path) -> Vec<PathBuf> {
    let named = DESCRIPTIONS.iter().map(|name| dir.join(name)).filter(|path| files::is_file(path));
    let inside = |path: PathBuf| path.strip_prefix(dir).ok().map(Path::to_owned);
    let all = named.chain(more_templates(dir)).filter_map(inside);
    all.filter(|path| path != Path::new("config.json")).collect()
}

/// A tower that was found.
struct FoundTower {
    config: TowerConfig,
    source: TowerSource,
    /// Where a processor file of its own would be.
    dir: Option<PathBuf>,
    /// Keys of the tower's own `config.json` that are not used.
    notes: KeyNotes,
}

/// The tower that the command line, the checkpoint's tensors, or its `config.json` names, in this order.
fn find_tower(
    dir: &Path,
    config: &VlmConfig,
    checkpoint: &Checkpoint,
    asked: Option<&str>,
    hub: &Hub,
) -> Result<FoundTower, ModelError> {
    let is_inside = names::tower_inside(checkpoint).is_some();
    if let (None, true, Some(tower)) = (asked, is_inside, &config.tower) {
        let (source, notes) = (TowerSource::Inside, KeyNotes::default());
        return Ok(FoundTower { config: tower.clone(), source, dir: None, notes });
    }
    let Some(name) = asked.or(config.tower_name.as_deref()) else {
        let rule = "it names no vision tower and holds none; hint: name one with --vision-tower".to_owned();
        return Err(ModelError::Combination { path: dir.to_owned(), rule });
    };
    let tower_dir = match hub.find_tower(dir, name) {
        Ok(tower_dir) => tower_dir,
        Err(error) => {
            // The weights are inside; only the geometry is wanted, and of these towers it is public knowledge.
            let known = published_tower(name).filter(|_| is_inside && asked.is_none());
            let config = known.ok_or_else(|| no_tower(dir, name, asked, error))?;
            let (source, notes) = (TowerSource::Inside, KeyNotes::default());
            return Ok(FoundTower { config, source, dir: None, notes });
        }
    };
    let file = JsonFile::read(&tower_dir.join("config.json"))?;
    let (config, notes) = (tower_config(&file)?, tower_notes(&file)?);
    let source = if is_inside && asked.is_none() {
        TowerSource::Inside
    } else {
        TowerSource::Beside(Box::new(Checkpoint::open(&tower_dir)?.with_fp8(fp8_format(&file)?)?))
    };
    Ok(FoundTower { config, source, dir: Some(tower_dir), notes })
}

/// A path of the machine that trained the checkpoint means nothing here; the user must name the tower.
fn no_tower(dir: &Path, name: &str, asked: Option<&str>, error: Error) -> ModelError {
    match (asked, error) {
        (None, error) if error.kind() == Kind::NotFound => ModelError::Combination {
            path: dir.join("config.json"),
            rule: format!(
                "mm_vision_tower names `{name}`, which is neither a directory nor a hub id; hint: name the tower with --vision-tower"
            ),
        },
        (_, error) => error.into(),
    }
}

fn make_connector(dir: &Path, config: &VlmConfig, tower: &TowerConfig) -> Result<Arc<dyn Connector>, ModelError> {
    let wrong = |rule| ModelError::Combination { path: dir.join("config.json"), rule };
    if tower.n_layers == 0 {
        return Err(wrong("a SigLIP tower of one layer has none left once the last is deleted".to_owned()));
    }
    config.feature_selection(tower.family).check(tower).map_err(|error| wrong(error.to_string()))?;
    let layers = config.selected_layers(tower.family, tower.n_layers).map_err(|error| wrong(error.to_string()))?;
    let keeps_class = config.select_feature == SelectFeature::ClsPatch && tower.family == TowerFamily::Clip;
    if keeps_class && config.connector != ConnectorKind::None {
        let rule = format!(
            "mm_vision_select_feature cls_patch does not go with the connector {}; hint: patch",
            config.connector
        );
        return Err(wrong(rule));
    }
    let made = match (config.connector, layers.first()) {
        (ConnectorKind::None, _) | (_, None) => connector::over_listed(layers, tower.n_layers),
        (kind, Some(&final_layer)) => kind.over(final_layer, tower.n_layers),
    };
    made.map_err(|error| wrong(error.to_string()))
}

/// The preprocessing, and the frames that the processor takes of a video: from the first directory that describes one,
/// else the default of the tower's family; then fitted as the checkpoint says.
fn preprocess_config(
    config: &VlmConfig,
    tower: &TowerConfig,
    dirs: &[Option<&Path>],
) -> Result<(PreprocessConfig, Sample, KeyNotes), ModelError> {
    let size = tower.image_size as u32;
    let own = config.video_path.processor().filter(|_| config.spelling == Spelling::HuggingFace);
    let class = match own.or(config.processor) {
        Some(class) => ProcessorClass::Named(class),
        None => ProcessorClass::Fixed(ProcessorClass::of_tower(tower.family)),
    };
    let mut found = None;
    for dir in dirs.iter().flatten() {
        found = ProcessorFile::find(dir, config.video_path)?;
        if found.is_some() {
            break;
        }
    }
    let sample = found.as_ref().map(ProcessorFile::own_sample).transpose()?;
    let (preprocess, notes) = match found {
        Some(file) => {
            let (preprocess, mut notes) = file.read(class)?;
            if config.spelling == Spelling::HuggingFace {
                notes.refused.extend(file.check_tokens(config, tower)?);
            }
            (preprocess, notes)
        }
        None => family_default(config, tower, dirs),
    };
    let preprocess = match config.frame_fit {
        FrameFit::Native => preprocess,
        FrameFit::Pad => preprocess.padded(),
        FrameFit::AnyresBase => preprocess.squeezed(size),
    };
    // Of LLaVA's own spelling the processor file is the tower's, and its code samples.
    let sample = match config.spelling {
        Spelling::HuggingFace => sample.unwrap_or(config.video_path.sample()),
        Spelling::Llava if config.video_path.is_own() => Sample::LlavaVideo(LlavaVideo::default()),
        Spelling::Llava => Sample::default(),
    };
    Ok((preprocess, sample, notes))
}

/// The preprocessing of a tower's family at its own size. LLaVA's files rely on it; Hugging Face's do not, so it is
/// told.
fn family_default(config: &VlmConfig, tower: &TowerConfig, dirs: &[Option<&Path>]) -> (PreprocessConfig, KeyNotes) {
    let size = tower.image_size as u32;
    let preprocess = match tower.family {
        TowerFamily::Clip => PreprocessConfig::clip(size),
        TowerFamily::Siglip => PreprocessConfig::siglip(size),
        TowerFamily::InternVit => PreprocessConfig::clip(size).squeezed(size),
    };
    let mut notes = KeyNotes::default();
    if config.spelling == Spelling::HuggingFace {
        let dir = dirs.iter().flatten().last().map_or(Path::new(""), |dir| *dir).display();
        let family = format!("{:?}", tower.family);
        notes.warnings.push(format!(
            "{dir}: no processor_config.json and no preprocessor_config.json: frames are prepared as {family} does by default"
        ));
    }
    let is_base_view = config.processor == Some(crate::image::ImageProcessor::LlavaNext);
    (if is_base_view { preprocess.squeezed(size) } else { preprocess }, notes)
}

/// Whose code reads the checkpoint's tokenizer.
fn reading(config: &VlmConfig) -> Reading {
    match config.spelling {
        Spelling::Llava => Reading::Llava,
        Spelling::HuggingFace => {
            Reading::HuggingFace { image_token_id: config.visual_token(), placeholder: config.video_path.placeholder() }
        }
    }
}

/// The marks around a checkpoint's visual tokens.
fn frame_marks(config: &VlmConfig, tokenizer: &Tokenizer) -> FrameMarks {
    if config.image_marks {
        return FrameMarks::together("<im_start>", "<im_end>");
    }
    config.video_path.marks(tokenizer)
}

/// The checkpoint's `prompt_format`, else its chat template.
fn own_template(dir: &Path, config: &VlmConfig, tokenizer: &Tokenizer) -> Result<Option<Template>, ModelError> {
    if let Some(format) = &config.prompt_format {
        return Ok(Some(Template::custom(format)?));
    }
    // Its processor takes the template of its code for whatever has a video in it.
    if config.video_path == VideoPath::SmolVlm {
        return Ok(Some(Template::SmolVlm));
    }
    Ok(ChatTemplate::find(dir, tokenizer)
        .map(|chat| Template::Checkpoint(Arc::new(chat.with_system(config.family.system)))))
}

/// Facts that decide a checkpoint's default template.
struct DefaultTemplate {
    spelling: Spelling,
    language: LanguageKind,
    /// Whether the Dense Connector's authors trained it.
    is_dense: bool,
}

impl DefaultTemplate {
    fn of(config: &VlmConfig) -> Self {
        let is_dense = config.connector != ConnectorKind::None;
        Self { spelling: config.spelling, language: config.language, is_dense }
    }

    /// The checkpoint's own, unless LLaVA's code ran it with a conversation of its own; else the built-in one that its
    /// tokenizer's special tokens belong to.
    fn choose(&self, tokenizer: &Tokenizer, own: Option<&Template>) -> Template {
        let has = |token| tokenizer.token_id(token).is_some();
        let is_qwen = matches!(self.language, LanguageKind::Qwen2 | LanguageKind::Qwen3);
        match (own, self.spelling) {
            (Some(own @ Template::Custom(_)), _) | (Some(own), Spelling::HuggingFace) => own.clone(),
            _ if has("<|eot_id|>") && self.is_dense => Template::Llama3,
            _ if has("<|eot_id|>") => Template::LlavaLlama3,
            _ if has("<|im_start|>") && is_qwen => Template::Qwen,
            _ if has("<|im_start|>") => Template::ChatMl,
            _ if self.language == LanguageKind::Mistral => Template::Mistral,
            (_, Spelling::HuggingFace) => Template::LlavaHf,
            (_, Spelling::Llava) => Template::VicunaV1,
        }
    }
}
