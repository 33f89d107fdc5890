//! A recipe as it is written: the model to be, and the stages that train it. Its rules are in `rules`.

mod rules;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::connector::ConnectorKind;
use crate::error::Error;
use crate::spec::read_yaml;
use crate::train::data::Data;
use crate::train::optimizer::OptimizerConfig;
use crate::train::parameters::Part;
use crate::train::schedule::Schedule;
use crate::train::tower::Probe;

/// A training run, written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seed of first weights and of every draw.
    pub seed: u64,
    /// The model to be.
    pub model: ModelRecipe,
    /// Stages, in their order.
    pub stages: Vec<Stage>,
    /// Base of relative paths: the directory of the recipe.
    #[serde(skip)]
    pub base: PathBuf,
    /// Steps between two checkpoints. Default: `100`.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: usize,
}

fn default_checkpoint_every() -> usize {
    100
}

/// The model to be: keys of its `config.json`, and where its parts begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// A checkpoint (a directory or a hub id) whose weights are the first ones. Default: none, all begin anew.
    #[serde(default, alias = "checkpoint")]
    pub from: Option<String>,
    /// Keys of `config.json`, over those of `from`.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// The tower.
    #[serde(default)]
    pub vision_tower: TowerRecipe,
    /// Initial weights of the projector. Default: `from`, with a `from`; else `new`.
    #[serde(default)]
    pub projector: Option<ProjectorStart>,
    /// The Dense Connector: `mm_dense_connector_type` of the model's `config.json`. Default: as `config` or `from`
    /// says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<ConnectorKind>,
    /// Factor of the connector's tokens before the projector; it is folded into the projector's first matrix when the
    /// model is written. Default: `1`.
    #[serde(default = "one")]
    pub feature_scale: f64,
    /// Ids of a byte-level BPE tokenizer that is trained on the texts of the first stage that has some. Default: none,
    /// that of `from`.
    #[serde(default)]
    pub tokenizer_vocabulary: Option<usize>,
}

impl ModelRecipe {
    /// Returns whether the projector is initialized anew.
    pub(crate) fn has_new_projector(&self) -> bool {
        self.from.is_none() || self.projector == Some(ProjectorStart::New)
    }

    /// Returns the keys of `config.json` over those of `from`, the connector's among them.
    pub fn keys(&self) -> Map<String, Value> {
        let mut keys = self.config.clone();
        if let Some(connector) = self.connector {
            keys.insert(CONNECTOR_KEY.to_owned(), json!(connector));
        }
        keys
    }
}

/// The key of a `config.json` that names the connector.
const CONNECTOR_KEY: &str = "mm_dense_connector_type";

fn one() -> f64 {
    1.0
}

/// Initial weights of a projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProjectorStart {
    /// With first weights of its own, as a change of the connector calls for.
    New,
    /// With those of the model's `from`.
    From,
}

/// The tower: of a checkpoint, or new.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TowerRecipe {
    /// A tower (a directory or a hub id). Default: that of the model's `from`.
    #[serde(default)]
    pub from: Option<String>,
    /// Keys of the tower's `config.json`, for a new one.
    #[serde(default)]
    pub config: Map<String, Value>,
}

/// Purpose of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// Pretraining of a small tower.
    Tower,
    /// Connector and projector; tower and language model frozen: stage 1 of LLaVA and the Dense Connector.
    Connector,
    /// Connector, projector and language model; the tower frozen: stage 2.
    Instruct,
}

impl StageKind {
    /// Returns the parts that the stage can train; it may freeze some of them.
    fn trainable(self) -> &'static [Part] {
        match self {
            Self::Tower => &[Part::VisionTower],
            Self::Connector => &[Part::Projector],
            Self::Instruct => &[Part::Projector, Part::LanguageModel],
        }
    }
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Name in metrics and messages.
    pub name: String,
    /// Purpose of the stage.
    pub stage: StageKind,
    /// Parts that stay bit-identical.
    pub frozen: Vec<Part>,
    /// Training data.
    pub data: Data,
    /// Updates.
    pub steps: usize,
    /// Images an update.
    pub batch: usize,
    /// Images that go through the networks together; their gradients are summed over a batch. Default: `batch`.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// Default: AdamW at 0.001.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Default: 20 steps up, then a cosine.
    #[serde(default)]
    pub schedule: Schedule,
    /// The share of the steps in which only simple images come (those of one object). Default: `0`.
    #[serde(default)]
    pub simple_share: f64,
    /// Probes of the tower; only for the stage `tower`.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// Stretching of images to the length of videos; only for the other stages. Default: none.
    #[serde(default)]
    pub stretch: Stretch,
}

/// Stretching of still images to the length of videos: only token counts and positions change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stretch {
    /// Probability, a step, that all questions stand further from the image.
    pub gap: f64,
    /// Largest distance, in positions.
    pub max_gap: usize,
    /// Probability, a step, that tokens are max-pooled by two and repeated as frames would be.
    pub pooled: f64,
    /// Probability, a step, that tokens are repeated as they are.
    pub repeated: f64,
    /// Repetitions, each as likely as another. Default: 2 alone.
    pub repetitions: Vec2,
}

/// The fewest and the most repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Vec2(pub usize, pub usize);

impl Default for Vec2 {
    fn default() -> Self {
        Self(2, 2)
    }
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// [`Error`] with everything that is wrong.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut recipe: Self = read_yaml(path)?;
        recipe.base = path.parent().unwrap_or(Path::new("")).to_owned();
        Error::all(recipe.problems()).map_or(Ok(recipe), |error| Err(error.about(path)))
    }

    /// Returns 32 hex digits of all that decides the weights after the first `n_stages` stages: later stages may still
    /// change, and a finished run may be given more of them.
    pub fn fingerprint(&self, n_stages: usize) -> String {
        let stages = &self.stages[..n_stages.min(self.stages.len())];
        let mut parts = vec![json!(self.seed), json!(self.model), json!(stages), json!(n_stages)];
        let reads_texts = stages.iter().any(|stage| stage.stage != StageKind::Tower);
        if let Some(data) = self.tokenizer_data().filter(|_| reads_texts) {
            parts.push(json!(data));
        }
        let hash = blake3::hash(Value::from(parts).to_string().as_bytes());
        hash.to_hex()[..32].to_owned()
    }

    /// Returns the data of a new tokenizer: the texts of the first stage that reads texts.
    pub(crate) fn tokenizer_data(&self) -> Option<&Data> {
        let reads_texts = |stage: &&Stage| stage.stage != StageKind::Tower;
        let stage = self.stages.iter().find(reads_texts).or(self.stages.last());
        self.model.tokenizer_vocabulary.and(stage).map(|stage| &stage.data)
    }

    /// Returns whether a stage trains a part.
    pub(crate) fn trains(&self, part: Part) -> bool {
        self.stages.iter().any(|stage| stage.stage.trainable().contains(&part) && !stage.frozen.contains(&part))
    }
}
