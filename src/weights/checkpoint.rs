//! Tensors of a checkpoint by name: of a directory, memory-mapped (safetensors) or read on demand (PyTorch), or of a
//! GGUF file.
//!
//! Opening reads names, shapes and types only. Tensors are then read one by one, possibly by several threads, and
//! mapped pages are released once their tensor has been converted, so a loading model needs memory for its weights
//! once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::QTensor;
use candle_core::safetensors::Load;
use candle_core::{DType, Device, Shape, Tensor};

use super::error::{guarded, plain, unreadable};
use super::fp8::{Fp8Format, Scales, e8m0_to_f32};
use super::gguf::Gguf;
use super::rows::StoredRows;
use super::safetensors_file::{SafetensorsFile, bf16_to_f32};
use super::source::WeightFiles;
use super::torch::TorchFile;
use crate::device::upload_weight;
use crate::error::{About as _, Error, Kind};

/// Tensors of one directory, or of one GGUF file.
pub struct Checkpoint {
    dir: PathBuf,
    paths: Vec<PathBuf>,
    tensors: HashMap<String, TensorInfo>,
    files: Files,
    fp8: Option<Fp8Format>,
}

/// Properties of a tensor that are known before it is read.
#[derive(Debug, Clone)]
struct TensorInfo {
    file: usize,
    shape: Shape,
    dtype: DType,
}

enum Files {
    Safetensors(Vec<SafetensorsFile>),
    TorchBin(Vec<TorchFile>),
    Gguf(Gguf),
}

impl Checkpoint {
    /// Opens the weights of a directory, and reads the names, shapes and types of its tensors.
    ///
    /// # Errors
    /// [`Error`] when there are none, or a file is broken.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let found = WeightFiles::find(dir)?;
        let paths = found.paths().to_vec();
        let (files, tensors) = match &found {
            WeightFiles::Safetensors(paths) => open_safetensors(paths)?,
            WeightFiles::TorchBin(paths) => open_torch(paths)?,
        };
        Ok(Self { dir: dir.to_owned(), paths, tensors, files, fp8: None })
    }

    /// Opens a GGUF file.
    ///
    /// # Errors
    /// [`Error`] when it is not there, or broken.
    pub fn open_gguf(path: &Path) -> Result<Self, Error> {
        let gguf = Gguf::open(path)?;
        let info = |shape: &Shape| TensorInfo { file: 0, shape: shape.clone(), dtype: DType::F32 };
        let tensors = gguf.shapes().map(|(name, shape)| (name.to_owned(), info(shape))).collect();
        let (dir, paths) = (path.to_owned(), vec![path.to_owned()]);
        Ok(Self { dir, paths, tensors, files: Files::Gguf(gguf), fp8: None })
    }

    /// Sets the format in which FP8 weights are read.
    ///
    /// # Errors
    /// [`Error`] when it has FP8 tensors and no format, or one of them has no scales.
    pub(crate) fn with_fp8(self, format: Option<Fp8Format>) -> Result<Self, Error> {
        let mut names: Vec<&String> =
            self.tensors.iter().filter(|(_, info)| info.dtype == DType::F8E4M3).map(|(name, _)| name).collect();
        names.sort();
        let wrong = |name: &str, rule: String| {
            let rule = format!("tensor {name} is stored in FP8, and {rule}");
            let hint = "the checkpoint in full precision, or with its scales";
            Err(Error::new(Kind::Model, rule).with_hint(hint).about(&self.dir))
        };
        for name in names {
            let Some(format) = &format else {
                return wrong(name, "config.json has no quantization_config that says how".to_owned());
            };
            match format.scale_name(name) {
                Some(scale) if !self.contains(&scale) => {
                    return wrong(name, format!("its scales, {scale}, are missing"));
                }
                None => return wrong(name, "only tensors called `weight` have scales".to_owned()),
                Some(_) => {}
            }
        }
        Ok(Self { fp8: format, ..self })
    }

    /// Returns the names of the tensors that belong to `name`: the scales of an FP8 weight.
    pub(super) fn companions(&self, name: &str) -> Vec<String> {
        let is_fp8 = self.tensors.get(name).is_some_and(|info| info.dtype == DType::F8E4M3);
        self.fp8.as_ref().filter(|_| is_fp8).map_or_else(Vec::new, |format| format.companions(name))
    }

    /// Returns the GGUF file with its metadata, or `None` for a directory.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.files {
            Files::Gguf(gguf) => Some(gguf),
            _ => None,
        }
    }

    /// Reads one tensor of a GGUF file as it is stored.
    ///
    /// # Errors
    /// A missing tensor, unreadable bytes, or a checkpoint that is not a GGUF file.
    pub fn quantized(&self, name: &str) -> candle_core::Result<QTensor> {
        self.gguf().ok_or_else(|| candle_core::Error::msg(format!("`{name}` is not in a GGUF file")))?.get(name)
    }

    /// Path of the directory, or of the GGUF file.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Paths of the weight files.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&Shape> {
        self.tensors.get(name).map(|info| &info.shape)
    }

    /// Returns the type in which most weights are stored: that of the largest tensor.
    pub fn dtype(&self) -> DType {
        let largest = self.tensors.values().max_by_key(|info| (info.shape.elem_count(), info.dtype.as_str()));
        largest.map_or(DType::F32, |info| info.dtype)
    }

    /// Number of elements in all tensors.
    pub fn n_parameters(&self) -> usize {
        self.tensors.values().map(|info| info.shape.elem_count()).sum()
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// A missing tensor, or unreadable bytes.
    pub fn load(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let info = self.tensors.get(name).ok_or_else(|| candle_core::Error::msg(format!("no tensor `{name}`")))?;
        match info.dtype {
            DType::F8E4M3 => self.read_fp8(name, info)?.to_dtype(dtype)?.to_device(device),
            DType::BF16 if dtype == DType::F32 && device.is_cpu() => match &self.files {
                Files::Safetensors(files) => bf16_to_f32(&files[info.file], name),
                _ => self.stored(name, info, device)?.to_dtype(dtype),
            },
            DType::F16 | DType::BF16 | DType::F32 | DType::F64 => self.stored(name, info, device)?.to_dtype(dtype),
            other => candle_core::bail!(
                "{}: tensor {name} is stored as {}, an unsupported format of weights in full precision",
                self.dir.display(),
                other.as_str()
            ),
        }
    }

    /// Opens a matrix whose rows are read on demand, or returns `None` where only whole tensors can be read.
    ///
    /// # Errors
    /// A file that cannot be opened again.
    pub fn rows(&self, name: &str) -> candle_core::Result<Option<StoredRows>> {
        let (Some(info), Files::Safetensors(files)) = (self.tensors.get(name), &self.files) else { return Ok(None) };
        match &files[info.file] {
            SafetensorsFile::Mapped(_) => {
                let path = &self.paths[info.file];
                Ok(StoredRows::open(path, name).about(path)?)
            }
            SafetensorsFile::Builtin(_) => Ok(None),
        }
    }

    /// Reads one tensor in its stored type, on the CPU.
    ///
    /// # Errors
    /// A missing tensor, or unreadable bytes.
    pub fn load_stored(&self, name: &str) -> candle_core::Result<Tensor> {
        let info = self.tensors.get(name).ok_or_else(|| candle_core::Error::msg(format!("no tensor `{name}`")))?;
        self.stored(name, info, &Device::Cpu)
    }

    /// Reads one tensor in its stored type.
    fn stored(&self, name: &str, info: &TensorInfo, device: &Device) -> candle_core::Result<Tensor> {
        match &self.files {
            Files::Safetensors(files) => {
                let file = &files[info.file];
                let view = file.get(name)?;
                let tensor = match upload_weight(view.data(), info.dtype, &info.shape, device)? {
                    Some(tensor) => tensor,
                    None => view.load(device)?,
                };
                file.release(view.data());
                Ok(tensor)
            }
            Files::TorchBin(files) => {
                let named = |error: candle_core::Error| {
                    plain(error).about(format!("tensor {name}")).about(&self.paths[info.file])
                };
                let read = guarded("the pickle is malformed", || files[info.file].get(name)).map_err(named)?;
                let tensor = read.ok_or_else(|| candle_core::Error::msg(format!("no tensor `{name}`")))?;
                tensor.to_device(device)?.contiguous()
            }
            Files::Gguf(gguf) => gguf.get(name)?.dequantize(device),
        }
    }

    /// Reads an FP8 weight in f32, on the CPU.
    fn read_fp8(&self, name: &str, info: &TensorInfo) -> candle_core::Result<Tensor> {
        let scale = self.fp8.as_ref().and_then(|format| Some((format, format.scale_name(name)?)));
        let Some((format, scale)) = scale else { candle_core::bail!("tensor {name}: FP8 without scales") };
        let values = self.stored(name, info, &Device::Cpu)?.to_dtype(DType::F32)?;
        let mut values = values.flatten_all()?.to_vec1::<f32>()?;
        let dequantized = format.dequantize(&mut values, info.shape.dims(), &self.scales(&scale)?);
        dequantized.about(format!("tensor {name}")).about(&self.dir)?;
        Tensor::from_vec(values, info.shape.clone(), &Device::Cpu)
    }

    /// Reads the scales of FP8 weights: floats, or E8M0 bytes.
    fn scales(&self, name: &str) -> candle_core::Result<Scales> {
        let info = self.tensors.get(name).ok_or_else(|| candle_core::Error::msg(format!("no tensor `{name}`")))?;
        let values = match (info.dtype, &self.files) {
            (DType::U8 | DType::F8E8M0, Files::Safetensors(files)) => {
                files[info.file].get(name)?.data().iter().map(|&byte| e8m0_to_f32(byte)).collect()
            }
            _ => self.load(name, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?,
        };
        Ok(Scales { values, shape: info.shape.dims().to_vec(), dtype: info.dtype })
    }
}

/// Open files, with the tensors in them.
type OpenFiles = (Files, HashMap<String, TensorInfo>);

fn open_safetensors(paths: &[PathBuf]) -> Result<OpenFiles, Error> {
    let mut tensors = HashMap::new();
    let mut files = Vec::new();
    for (file, path) in paths.iter().enumerate() {
        let broken = |cause: Error| unreadable(path, "safetensors file", cause);
        let opened = SafetensorsFile::open(path).map_err(|error| broken(plain(error)))?;
        for (name, view) in opened.tensors() {
            let dtype =
                DType::try_from(view.dtype()).map_err(|error| broken(Error::invalid(format!("{name}: {error}"))))?;
            tensors.insert(name, TensorInfo { file, shape: Shape::from(view.shape()), dtype });
        }
        files.push(opened);
    }
    Ok((Files::Safetensors(files), tensors))
}

fn open_torch(paths: &[PathBuf]) -> Result<OpenFiles, Error> {
    let mut tensors = HashMap::new();
    let mut files = Vec::new();
    for (file, path) in paths.iter().enumerate() {
        let broken = |cause: Error| unreadable(path, "PyTorch file", cause);
        crate::files::check(path).map_err(|error| broken(error.into()))?;
        let opened =
            guarded("the pickle is malformed", || TorchFile::open(path)).map_err(|error| broken(plain(error)))?;
        for (name, info) in opened.tensor_infos() {
            let info = TensorInfo { file, shape: info.layout.shape().clone(), dtype: info.dtype };
            tensors.insert(name.clone(), info);
        }
        if opened.tensor_infos().is_empty() {
            return Err(broken(Error::invalid("no state dict of tensors")));
        }
        files.push(opened);
    }
    Ok((Files::TorchBin(files), tensors))
}
