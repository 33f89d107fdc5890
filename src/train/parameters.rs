//! The weights of a model in training: made when the networks first ask for them, named as the released checkpoints
//! name them, each part frozen or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use serde::{Deserialize, Serialize};

/// A part of a model that is trained or frozen as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Part {
    /// The vision tower.
    VisionTower,
    /// The Dense Connector's trained part.
    Projector,
    /// The language model.
    LanguageModel,
    /// Linear heads of the pretraining of a tower; no checkpoint contains them.
    Heads,
}

impl Part {
    /// Returns the prefix of the names of the tensors; the language model has the remaining names.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::VisionTower => "vision_tower.vision_model.",
            Self::Projector => "model.mm_projector.",
            Self::LanguageModel => "",
            Self::Heads => "heads.",
        }
    }

    /// Returns the part that a tensor belongs to.
    pub fn of(name: &str) -> Self {
        let named = [Self::VisionTower, Self::Projector, Self::Heads];
        named.into_iter().find(|part| name.starts_with(part.prefix())).unwrap_or(Self::LanguageModel)
    }
}

/// Function that returns the initial value of a tensor, by name and shape.
pub(crate) type WeightSource = Box<dyn Fn(&str, &Shape) -> Result<Tensor> + Send + Sync>;

/// Weights by name, in f32.
#[derive(Clone)]
pub(crate) struct Parameters {
    inner: Arc<Mutex<Inner>>,
    device: Device,
}

struct Inner {
    vars: BTreeMap<String, Var>,
    frozen: BTreeSet<Part>,
    source: WeightSource,
}

impl Parameters {
    /// Makes an empty set; `source` makes each weight at its first use.
    pub(crate) fn new(source: WeightSource, device: &Device) -> Self {
        let inner = Inner { vars: BTreeMap::new(), frozen: BTreeSet::new(), source };
        Self { inner: Arc::new(Mutex::new(inner)), device: device.clone() }
    }

    /// Says which parts get no gradient. Networks built before keep what they had.
    pub(crate) fn freeze(&self, frozen: impl IntoIterator<Item = Part>) {
        self.inner().frozen = frozen.into_iter().collect();
    }

    /// Returns the device of the weights.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the weights of a part, as networks ask for them.
    pub(crate) fn part(&self, part: Part) -> VarBuilder<'static> {
        let backend = Backend { parameters: self.clone(), prefix: part.prefix() };
        VarBuilder::from_backend(Box::new(backend), DType::F32, self.device.clone())
    }

    /// Returns the weights that are trained, by name.
    pub(crate) fn trainable(&self) -> BTreeMap<String, Var> {
        let inner = self.inner();
        let is_trained = |name: &str| !inner.frozen.contains(&Part::of(name));
        inner.vars.iter().filter(|(name, _)| is_trained(name)).map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// Returns all weights, by name.
    pub(crate) fn all(&self) -> BTreeMap<String, Tensor> {
        self.inner().vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// Sets a weight, whether or not it was asked for yet.
    ///
    /// # Errors
    /// When it has another shape already.
    pub(crate) fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        let value = value.to_dtype(DType::F32)?.to_device(&self.device)?;
        let mut inner = self.inner();
        match inner.vars.get(name) {
            Some(var) => var.set(&value),
            None => inner.vars.insert(name.to_owned(), Var::from_tensor(&value)?).map_or(Ok(()), |_| Ok(())),
        }
    }

    /// Forgets the weights of a part; they are made anew when asked for.
    pub(crate) fn forget(&self, part: Part) {
        self.inner().vars.retain(|name, _| Part::of(name) != part);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Backend {
    parameters: Parameters,
    prefix: &'static str,
}

impl SimpleBackend for Backend {
    fn get(&self, shape: Shape, name: &str, _: candle_nn::Init, _: DType, _: &Device) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        let mut inner = self.parameters.inner();
        if !inner.vars.contains_key(&name) {
            let value = (inner.source)(&name, &shape)?.to_dtype(DType::F32)?.to_device(&self.parameters.device)?;
            inner.vars.insert(name.clone(), Var::from_tensor(&value.contiguous()?)?);
        }
        let var = &inner.vars[&name];
        if var.shape() != &shape {
            candle_core::bail!("{name}: expected {:?}, found {:?}", shape.dims(), var.dims());
        }
        if inner.frozen.contains(&Part::of(&name)) { Ok(var.as_detached_tensor()) } else { Ok(var.as_tensor().clone()) }
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: asked for without a shape")
    }

    /// Returns `true` for every name: a missing weight is made at its first use.
    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
