//! The book of what a model asked of a checkpoint: all that is missing, mis-shaped or left over.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use super::error::unfit;
use super::{Checkpoint, Problem, Rename, StoredRows};
use crate::error::Error;

/// Gives out `VarBuilder`s over one checkpoint and remembers what they were asked.
///
/// A tensor that is missing or mis-shaped does not stop the loading: zeros that occupy no memory stand in for
/// it, so that one run finds all problems. [`Ledger::check`] must be asked before the model is used.
pub struct Ledger {
    checkpoint: Checkpoint,
    book: Mutex<Book>,
    on_load: OnLoad,
}

/// Hears how many numbers each tensor that was read has.
pub type OnLoad = Arc<dyn Fn(usize) + Send + Sync>;

#[derive(Default)]
struct Book {
    used: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Ledger {
    /// An empty book over `checkpoint`; `on_load` hears of each tensor read.
    pub fn new(checkpoint: Checkpoint, on_load: OnLoad) -> Arc<Self> {
        Arc::new(Self { checkpoint, book: Mutex::default(), on_load })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Tensors for one part of the model. `why` says, for the reports, what calls for their shapes.
    pub fn part(self: &Arc<Self>, rename: Rename, why: String, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let part = Part { ledger: Arc::clone(self), rename, why };
        VarBuilder::from_backend(Box::new(part), dtype, device.clone())
    }

    /// A tensor of a GGUF file as it is stored; none where it is missing or mis-shaped, which
    /// is noted once its stand-in is asked for.
    ///
    /// # Errors
    /// When its bytes cannot be read.
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

    /// A matrix of which rows are read when they are asked for; `None` where only the whole tensor can be read, or where
    /// it is missing or mis-shaped, which is noted once the whole is asked for.
    ///
    /// # Errors
    /// When the file cannot be opened again.
    pub fn rows(&self, name: &str, expected: Shape) -> candle_core::Result<Option<StoredRows>> {
        if self.checkpoint.shape(name) != Some(&expected) {
            return Ok(None);
        }
        let Some(rows) = self.checkpoint.rows(name)? else { return Ok(None) };
        // A tied table has been read as a whole to make the head.
        if !self.book().used.contains(name) {
            self.use_tensor(name);
            (self.on_load)(expected.elem_count());
        }
        Ok(Some(rows))
    }

    /// Notes that a tensor is used, with what belongs to it.
    pub fn use_tensor(&self, name: &str) {
        let companions = self.checkpoint.companions(name);
        let mut book = self.book();
        book.used.extend(companions);
        book.used.insert(name.to_owned());
    }

    /// Whether everything asked for so far was there in the right shape.
    ///
    /// # Errors
    /// [`Error`] with every problem.
    pub fn check(&self) -> Result<(), Error> {
        let mut problems = self.book().problems.clone();
        // Layers are read side by side.
        problems.sort_by_cached_key(|problem| by_layer(&problem.name));
        if problems.is_empty() {
            return Ok(());
        }
        Err(unfit(self.checkpoint.dir(), &problems))
    }

    /// The tensors that nobody asked for, sorted.
    pub fn unused(&self) -> Vec<String> {
        let book = self.book();
        let mut names: Vec<String> =
            self.checkpoint.names().filter(|name| !book.used.contains(*name)).map(str::to_owned).collect();
        names.sort();
        names
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name's place in the order of names, in which layer 10 comes after layer 2.
fn by_layer(name: &str) -> Vec<(Option<u64>, String)> {
    name.split('.').map(|part| (part.parse().ok(), part.to_owned())).collect()
}

/// One part's view of the checkpoint.
struct Part {
    ledger: Arc<Ledger>,
    rename: Rename,
    why: String,
}

impl Part {
    fn stand_in(&self, name: String, expected: &Shape, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let found = self.ledger.checkpoint.shape(&name).map(|shape| shape.dims().to_vec());
        let problem = Problem { name, expected: expected.dims().to_vec(), found, why: self.why.clone() };
        self.ledger.book().problems.push(problem);
        Tensor::zeros((), dtype, device)?.broadcast_as(expected.clone())
    }
}

impl SimpleBackend for Part {
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
            return self.stand_in(name, &shape, dtype, device);
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
    fn every_problem_is_told_at_once_and_by_name() {
        let (dir, ledger) = ledger();
        let vb = ledger.part(Rename::none(), "width 3".to_owned(), DType::F32, &Device::Cpu);
        for (name, shape) in [("a.weight", (2, 3)), ("b.weight", (4, 3)), ("d.bias", (1, 3))] {
            vb.get(shape, name).expect("a stand-in at worst");
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
    fn a_stand_in_takes_no_memory() {
        let (_dir, ledger) = ledger();
        let vb = ledger.part(Rename::none(), String::new(), DType::F32, &Device::Cpu);
        // 10^12 numbers: only a broadcast of one can answer.
        assert!(vb.get((1_000_000, 1_000_000), "a.weight").is_ok());
        assert!(ledger.check().is_err());
    }
}
