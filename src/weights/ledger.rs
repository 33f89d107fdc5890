//! Record of the tensors that a model requests from a checkpoint: missing, mis-shaped and unused ones.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use super::error::unfit;
use super::{Checkpoint, Rename, StoredRows, TensorProblem};
use crate::error::Error;

/// Makes `VarBuilder`s over one checkpoint and records their requests.
///
/// A missing or mis-shaped tensor does not stop the loading: it is replaced by zeros that occupy no memory, so that one
/// run finds all problems. [`Ledger::check`] must be called before the model is used.
pub struct Ledger {
    checkpoint: Checkpoint,
    requests: Mutex<Requests>,
    on_load: OnLoad,
}

/// Callback with the number of elements of each tensor that was read.
pub(crate) type OnLoad = Arc<dyn Fn(usize) + Send + Sync>;

#[derive(Default)]
struct Requests {
    used: BTreeSet<String>,
    problems: Vec<TensorProblem>,
}

impl Ledger {
    /// Makes a ledger without requests; `on_load` is called for each tensor that is read.
    pub fn new(checkpoint: Checkpoint, on_load: OnLoad) -> Arc<Self> {
        Arc::new(Self { checkpoint, requests: Mutex::default(), on_load })
    }

    /// Checkpoint whose tensors are requested.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Makes the `VarBuilder` of one part of the model. `reason` says in error messages what calls for the shapes.
    pub fn part(
        self: &Arc<Self>,
        rename: Rename,
        reason: String,
        dtype: DType,
        device: &Device,
    ) -> VarBuilder<'static> {
        let part = LedgerPart { ledger: Arc::clone(self), rename, reason };
        VarBuilder::from_backend(Box::new(part), dtype, device.clone())
    }

    /// Reads a tensor of a GGUF file as it is stored, or returns `None` where it is missing or mis-shaped, which is
    /// recorded when its replacement is requested.
    ///
    /// # Errors
    /// Unreadable bytes.
    pub fn quantized(&self, name: &str, expected: Shape) -> candle_core::Result<Option<QTensor>> {
        self.use_tensor(name);
        let found = self.checkpoint.shape(name);
        if found != Some(&expected) {
            return Ok(None);
        }
        let tensor = self.checkpoint.quantized(name)?;
        (self.on_load)(expected.elem_count());
        Ok(Some(tensor))
    }

    /// Opens a matrix whose rows are read on demand, or returns `None` where only the whole tensor can be read, or
    /// where it is missing or mis-shaped, which is recorded when the whole tensor is requested.
    ///
    /// # Errors
    /// A file that cannot be opened again.
    pub fn rows(&self, name: &str, expected: Shape) -> candle_core::Result<Option<StoredRows>> {
        if self.checkpoint.shape(name) != Some(&expected) {
            return Ok(None);
        }
        let Some(rows) = self.checkpoint.rows(name)? else { return Ok(None) };
        // A tied embedding has been read as a whole for the head.
        if !self.requests().used.contains(name) {
            self.use_tensor(name);
            (self.on_load)(expected.elem_count());
        }
        Ok(Some(rows))
    }

    /// Records the use of a tensor and of the tensors that belong to it.
    pub(crate) fn use_tensor(&self, name: &str) {
        let companions = self.checkpoint.companions(name);
        let mut requests = self.requests();
        requests.used.extend(companions);
        requests.used.insert(name.to_owned());
    }

    /// Refuses the checkpoint if a requested tensor was missing or mis-shaped.
    ///
    /// # Errors
    /// [`Error`] with every problem.
    pub fn check(&self) -> Result<(), Error> {
        let mut problems = self.requests().problems.clone();
        // Layers are read in parallel.
        problems.sort_by_cached_key(|problem| by_layer(&problem.name));
        if problems.is_empty() {
            return Ok(());
        }
        Err(unfit(self.checkpoint.dir(), &problems))
    }

    /// Names of the tensors that were not requested, sorted.
    pub fn unused(&self) -> Vec<String> {
        let requests = self.requests();
        let mut names: Vec<String> =
            self.checkpoint.names().filter(|name| !requests.used.contains(*name)).map(str::to_owned).collect();
        names.sort();
        names
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the sort key of a tensor's name, by which layer 10 comes after layer 2.
fn by_layer(name: &str) -> Vec<(Option<u64>, String)> {
    name.split('.').map(|part| (part.parse().ok(), part.to_owned())).collect()
}

/// View of the checkpoint for one part of the model.
struct LedgerPart {
    ledger: Arc<Ledger>,
    rename: Rename,
    reason: String,
}

impl LedgerPart {
    fn replacement(
        &self,
        name: String,
        expected: &Shape,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let found = self.ledger.checkpoint.shape(&name).map(|shape| shape.dims().to_vec());
        let problem = TensorProblem { name, expected: expected.dims().to_vec(), found, reason: self.reason.clone() };
        self.ledger.requests().problems.push(problem);
        Tensor::zeros((), dtype, device)?.broadcast_as(expected.clone())
    }
}

impl SimpleBackend for LedgerPart {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let name = self.rename.apply(name);
        self.ledger.use_tensor(&name);
        if self.ledger.checkpoint.shape(&name) != Some(&shape) {
            return self.replacement(name, &shape, dtype, device);
        }
        let tensor = self.ledger.checkpoint.load(&name, dtype, device)?;
        (self.ledger.on_load)(shape.elem_count());
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let name = self.rename.apply(name);
        self.ledger.use_tensor(&name);
        self.ledger.checkpoint.load(&name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.ledger.checkpoint.contains(&self.rename.apply(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn ledger() -> (tempfile::TempDir, Arc<Ledger>) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tensor = |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu).expect("small");
        let tensors =
            HashMap::from([("a.weight", tensor((2, 3))), ("b.weight", tensor((1, 1))), ("old.c", tensor((1, 2)))]);
        candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).expect("a small file");
        let checkpoint = Checkpoint::open(dir.path()).expect("a good file");
        (dir, Ledger::new(checkpoint, Arc::new(|_| {})))
    }

    #[test]
    fn all_problems_are_reported_at_once_and_by_name() {
        let (dir, ledger) = ledger();
        let vb = ledger.part(Rename::none(), "width 3".to_owned(), DType::F32, &Device::Cpu);
        for (name, shape) in [("a.weight", (2, 3)), ("b.weight", (4, 3)), ("d.bias", (1, 3))] {
            vb.get(shape, name).expect("a replacement at worst");
        }
        let error = ledger.check().expect_err("two problems").to_string();
        let dir = dir.path().display();
        assert_eq!(
            error,
            format!(
                "{dir}: the weights do not fit the configuration:\n  \
                 wrong shape: b.weight: expected [4, 3], found [1, 1] (width 3)\n  \
                 missing: d.bias [1, 3] (width 3)"
            )
        );
    }

    #[test]
    fn layers_come_in_the_order_of_their_numbers() {
        let mut names = ["b.10.w", "b.2.w", "b.2.a", "a"];
        names.sort_by_cached_key(|name| by_layer(name));
        assert_eq!(names, ["a", "b.2.a", "b.2.w", "b.10.w"]);
    }

    #[test]
    fn unused_tensors_are_listed_under_their_own_names() {
        let (_dir, ledger) = ledger();
        let rename = Rename::none().prefix("new.", "old.");
        let vb = ledger.part(rename, String::new(), DType::F32, &Device::Cpu);
        vb.get((1, 2), "new.c").expect("it is there, renamed");
        assert!(vb.contains_tensor("new.c") && !vb.contains_tensor("c"));
        ledger.check().expect("no problem");
        assert_eq!(ledger.unused(), ["a.weight", "b.weight"]);
    }

    #[test]
    fn a_replacement_takes_no_memory() {
        let (_dir, ledger) = ledger();
        let vb = ledger.part(Rename::none(), String::new(), DType::F32, &Device::Cpu);
        // 10^12 elements: only a broadcast scalar fits into memory.
        assert!(vb.get((1_000_000, 1_000_000), "a.weight").is_ok());
        assert!(ledger.check().is_err());
    }
}
