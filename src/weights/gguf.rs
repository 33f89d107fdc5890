//! GGUF files: tensors of a language model in GGML's formats, with metadata.
//!
//! Candle parses the file; this module refuses impossible sizes, names unsupported formats, and gives typed access to
//! the metadata, which `vlm::gguf` compares with the configuration.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Shape};

use super::error::{guarded, plain, unreadable};
use super::gguf_types::{UnsupportedTensor, first_unsupported};
use crate::error::Error;

/// An open GGUF file. Tensors are read on demand.
pub struct Gguf {
    path: PathBuf,
    content: Content,
    file: Mutex<File>,
}

impl Gguf {
    /// Opens a file and reads its metadata and tensor infos.
    ///
    /// # Errors
    /// A missing file, a file of another format, or a tensor in an unsupported format.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let io = Error::io(path);
        crate::files::check(path).map_err(&io)?;
        let mut file = File::open(path).map_err(io)?;
        let content = guarded("the header is malformed", || Content::read(&mut file)).map_err(|error| {
            let unsupported = first_unsupported(path).map(|UnsupportedTensor { name, format }| {
                let error = Error::invalid(format!("tensor {name} is stored in the unsupported format {format}"));
                error.with_hint("a file in Q4_K_M, Q8_0 or F16")
            });
            unreadable(path, "GGUF file", unsupported.unwrap_or_else(|| plain(error)))
        })?;
        check_sizes(path, &content)?;
        Ok(Self { path: path.to_owned(), content, file: Mutex::new(file) })
    }

    /// Names and shapes of the tensors, in no order.
    pub(super) fn shapes(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.content.tensor_infos.iter().map(|(name, info)| (name.as_str(), &info.shape))
    }

    /// Reads one tensor.
    pub(super) fn get(&self, name: &str) -> candle_core::Result<QTensor> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        guarded("the tensor is malformed", || self.content.tensor(&mut *file, name, &Device::Cpu))
            .map_err(|error| plain(error).about(format!("tensor {name}")).about(&self.path).into())
    }

    /// Returns a string of the metadata.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.content.metadata.get(key)?.to_string().ok().map(String::as_str)
    }

    /// Returns a list of strings of the metadata.
    pub fn texts(&self, key: &str) -> Option<Vec<&str>> {
        let values = self.content.metadata.get(key)?.to_vec().ok()?;
        values.iter().map(|value| value.to_string().ok().map(String::as_str)).collect()
    }

    /// Returns whether a value of the metadata is false or zero.
    pub(crate) fn is_off(&self, key: &str) -> bool {
        self.flag(key) == Some(false) || self.number(key) == Some(0.0)
    }

    /// Keys of the metadata, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.content.metadata.keys().map(String::as_str)
    }

    /// Returns a bool of the metadata.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.content.metadata.get(key)?.to_bool().ok()
    }

    /// Returns a number of the metadata as a list of one, or a list of numbers.
    ///
    /// # Errors
    /// A value of another type.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, Error> {
        let Some(value) = self.content.metadata.get(key) else { return Ok(None) };
        let values = match value {
            Value::Array(values) => values.iter().map(number).collect(),
            one => number(one).map(|one| vec![one]),
        };
        values.map(Some).ok_or_else(|| Error::invalid(format!("{key} is {value:?}; expected a number")))
    }

    /// Returns a number of the metadata.
    pub fn number(&self, key: &str) -> Option<f64> {
        number(self.content.metadata.get(key)?)
    }
}

/// Refuses tensors with more elements than an address space has bytes for.
fn check_sizes(path: &Path, content: &Content) -> Result<(), Error> {
    let is_impossible = |shape: &Shape| {
        let n = shape.dims().iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        // Candle reads no empty tensor: its blocks would begin at a dangling pointer.
        n.is_none_or(|n| n == 0 || n > isize::MAX as usize / size_of::<f32>())
    };
    match content.tensor_infos.iter().find(|(_, info)| is_impossible(&info.shape)) {
        Some((name, info)) => {
            let cause = format!("tensor {name} has the impossible shape {:?}", info.shape.dims());
            Err(unreadable(path, "GGUF file", Error::invalid(cause)))
        }
        None => Ok(()),
    }
}

fn number(value: &Value) -> Option<f64> {
    match *value {
        Value::F32(x) => Some(f64::from(x)),
        Value::F64(x) => Some(x),
        Value::I8(x) => Some(f64::from(x)),
        Value::I16(x) => Some(f64::from(x)),
        Value::I32(x) => Some(f64::from(x)),
        ref whole => whole.to_u64().ok().map(|n| n as f64),
    }
}
