//! A directory's tensors by name, memory-mapped (safetensors) or read on demand (PyTorch); or those of a GGUF file.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use candle_core::pickle::PthTensors;
use candle_core::quantized::QTensor;
use candle_core::safetensors::{Load, MmapedSafetensors, SliceSafetensors};
use candle_core::{DType, Device, Shape, Tensor};
use safetensors::tensor::TensorView;

use super::WeightError;
use super::gguf::Gguf;
use super::source::WeightFiles;
use crate::files;

/// The tensors of one directory.
pub struct Checkpoint {
    dir: PathBuf,
    paths: Vec<PathBuf>,
    tensors: HashMap<String, TensorFacts>,
    files: Files,
}

/// What is known of a tensor without reading it.
#[derive(Debug, Clone)]
struct TensorFacts {
    file: usize,
    shape: Shape,
    dtype: DType,
}

enum Files {
    Safetensors(Vec<Safetensors>),
    TorchBin(Vec<PthTensors>),
    Gguf(Gguf),
}

impl Checkpoint {
    /// Opens the weights of a directory and reads the names, shapes and types of its tensors.
    ///
    /// # Errors
    /// [`WeightError`] when there are none, or a file is broken.
    pub fn open(dir: &Path) -> Result<Self, WeightError> {
        let found = WeightFiles::find(dir)?;
        let paths = found.paths().to_vec();
        let (files, tensors) = match &found {
            WeightFiles::Safetensors(paths) => open_safetensors(paths)?,
            WeightFiles::TorchBin(paths) => open_torch(paths)?,
        };
        Ok(Self { dir: dir.to_owned(), paths, tensors, files })
    }

    /// Opens a GGUF file.
    ///
    /// # Errors
    /// [`WeightError`] when it is not there, or broken.
    pub fn open_gguf(path: &Path) -> Result<Self, WeightError> {
        let gguf = Gguf::open(path)?;
        let facts = |shape: &Shape| TensorFacts { file: 0, shape: shape.clone(), dtype: DType::F32 };
        let tensors = gguf.shapes().map(|(name, shape)| (name.to_owned(), facts(shape))).collect();
        Ok(Self { dir: path.to_owned(), paths: vec![path.to_owned()], tensors, files: Files::Gguf(gguf) })
    }

    /// What a GGUF file says of itself.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.files {
            Files::Gguf(gguf) => Some(gguf),
            _ => None,
        }
    }

    /// Reads one tensor of a GGUF file as it is stored.
    ///
    /// # Errors
    /// When it is not there, its bytes cannot be read, or this is no GGUF file.
    pub fn quantized(&self, name: &str) -> candle_core::Result<QTensor> {
        self.gguf().ok_or_else(|| candle_core::Error::msg(format!("`{name}` is not in a GGUF file")))?.get(name)
    }

    /// The directory, or the GGUF file.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The weight files.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Option<&Shape> {
        self.tensors.get(name).map(|facts| &facts.shape)
    }

    /// The type that most weights are stored in: that of the largest tensor.
    pub fn dtype(&self) -> DType {
        let largest = self.tensors.values().max_by_key(|facts| (facts.shape.elem_count(), facts.dtype.as_str()));
        largest.map_or(DType::F32, |facts| facts.dtype)
    }

    /// Numbers in all tensors together.
    pub fn n_parameters(&self) -> usize {
        self.tensors.values().map(|facts| facts.shape.elem_count()).sum()
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// When it is not there, or its bytes cannot be read.
    pub fn load(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let facts = self.tensors.get(name).ok_or_else(|| candle_core::Error::msg(format!("no tensor `{name}`")))?;
        let tensor = match &self.files {
            Files::Safetensors(files) => files[facts.file].get(name)?.load(device)?,
            Files::TorchBin(files) => {
                let read = guarded("the pickle is malformed", || files[facts.file].get(name))?;
                let tensor = read.ok_or_else(|| candle_core::Error::msg(format!("no tensor `{name}`")))?;
                tensor.to_device(device)?.contiguous()?
            }
            Files::Gguf(gguf) => gguf.get(name)?.dequantize(device)?,
        };
        tensor.to_dtype(dtype)
    }
}

/// One safetensors file, mapped from the disk or inside the binary.
enum Safetensors {
    Mapped(MmapedSafetensors),
    Builtin(SliceSafetensors<'static>),
}

impl Safetensors {
    fn open(path: &Path) -> candle_core::Result<Self> {
        if let Some(bytes) = files::builtin(path) {
            return Ok(Self::Builtin(SliceSafetensors::new(bytes)?));
        }
        files::check(path)?;
        // SAFETY: the map is read-only; like every memory-mapped reader, we rely on nobody truncating the file.
        Ok(Self::Mapped(unsafe { MmapedSafetensors::new(path) }?))
    }

    fn tensors(&self) -> Vec<(String, TensorView<'_>)> {
        match self {
            Self::Mapped(file) => file.tensors(),
            Self::Builtin(file) => file.tensors(),
        }
    }

    fn get(&self, name: &str) -> candle_core::Result<TensorView<'_>> {
        match self {
            Self::Mapped(file) => file.get(name),
            Self::Builtin(file) => file.get(name),
        }
    }
}

type Opened = (Files, HashMap<String, TensorFacts>);

fn open_safetensors(paths: &[PathBuf]) -> Result<Opened, WeightError> {
    let mut tensors = HashMap::new();
    let mut files = Vec::new();
    for (file, path) in paths.iter().enumerate() {
        let broken = |cause: String| WeightError::Format { path: path.clone(), format: "safetensors file", cause };
        let opened = Safetensors::open(path).map_err(|error| broken(plain(&error)))?;
        for (name, view) in opened.tensors() {
            let dtype = DType::try_from(view.dtype()).map_err(|error| broken(format!("{name}: {error}")))?;
            tensors.insert(name, TensorFacts { file, shape: Shape::from(view.shape()), dtype });
        }
        files.push(opened);
    }
    Ok((Files::Safetensors(files), tensors))
}

fn open_torch(paths: &[PathBuf]) -> Result<Opened, WeightError> {
    let mut tensors = HashMap::new();
    let mut files = Vec::new();
    for (file, path) in paths.iter().enumerate() {
        let broken = |cause: String| WeightError::Format { path: path.clone(), format: "PyTorch file", cause };
        crate::files::check(path).map_err(|error| broken(error.to_string()))?;
        let opened = guarded("the pickle is malformed", || PthTensors::new(path, None))
            .map_err(|error| broken(plain(&error)))?;
        for (name, info) in opened.tensor_infos() {
            let facts = TensorFacts { file, shape: info.layout.shape().clone(), dtype: info.dtype };
            tensors.insert(name.clone(), facts);
        }
        if opened.tensor_infos().is_empty() {
            return Err(broken("it holds no state dict of tensors".to_owned()));
        }
        files.push(opened);
    }
    Ok((Files::TorchBin(files), tensors))
}

/// Runs one of candle's readers, which panic on some broken files; that is an error, and nothing else is told of it.
pub(super) fn guarded<T>(
    malformed: &'static str,
    read: impl FnOnce() -> candle_core::Result<T>,
) -> candle_core::Result<T> {
    thread_local! {
        static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
    }
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_GUARDED.get() {
                told(info);
            }
        }));
    });
    let before = IS_GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(candle_core::Error::msg(malformed)));
    IS_GUARDED.set(before);
    result
}

/// Candle's message without its backtrace and paths.
pub(super) fn plain(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::WithPath { inner, .. } => plain(inner),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}
