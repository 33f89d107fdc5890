//! PyTorch files as `torch.save` wrote them before 1.6, and still does with `_use_new_zipfile_serialization=False`.
//!
//! Five consecutive pickles: a magic number, the protocol version, properties of the system, the state dict, the keys
//! of its storages; then each storage in the order of the keys, its number of values (i64) before its bytes
//! (`_legacy_save` in `torch/serialization.py`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, Stack, TensorInfo};
use candle_core::{Device, Result, Tensor};

/// The pickle of the magic number 0x1950a86a20f9469cfc6c.
const MAGIC: &[u8] = b"\x80\x02\x8a\n\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// Classes of storages that candle reads.
const SUPPORTED: [&str; 6] =
    ["FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "ByteStorage", "LongStorage"];
const PROTOCOL_VERSION: i32 = 1001;

/// An open file. Tensors are read on demand.
pub(super) struct LegacyTorch {
    path: PathBuf,
    tensors: HashMap<String, TensorInfo>,
    /// Offset of the values of each storage in the file.
    storages: HashMap<String, u64>,
}

impl LegacyTorch {
    /// Opens a file that begins with the magic number, or returns `None` for any other.
    ///
    /// # Errors
    /// When it cannot be read or is malformed.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        let mut file = BufReader::new(File::open(path)?);
        let mut magic = [0; MAGIC.len()];
        if file.read_exact(&mut magic).is_err() || magic != *MAGIC {
            return Ok(None);
        }
        let version = unpickle(&mut file)?;
        if version != Object::Int(PROTOCOL_VERSION) {
            candle_core::bail!("protocol version {version:?}; expected {PROTOCOL_VERSION}");
        }
        let system = entries(unpickle(&mut file)?)?;
        if system.contains(&(Object::Unicode("little_endian".to_owned()), Object::Bool(false))) {
            candle_core::bail!("big-endian values");
        }
        let state = unpickle(&mut file)?;
        let mut kinds = HashMap::new();
        storage_kinds(&state, &mut kinds);
        let tensors = tensors(state)?;
        if tensors.is_empty() {
            // Possibly a nested state dict; the caller refuses a file without tensors.
            return Ok(Some(Self { path: path.to_owned(), tensors, storages: HashMap::new() }));
        }
        let storages = storages(&mut file, &kinds)?;
        Ok(Some(Self { path: path.to_owned(), tensors, storages }))
    }

    pub(super) fn tensor_infos(&self) -> &HashMap<String, TensorInfo> {
        &self.tensors
    }

    pub(super) fn get(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(info) = self.tensors.get(name) else { return Ok(None) };
        let (layout, dtype) = (&info.layout, info.dtype);
        let Some(storage) = self.storages.get(key(info)) else { candle_core::bail!("its storage is missing") };
        let mut file = File::open(&self.path)?;
        // The offset of candle's layout is in bytes.
        file.seek(SeekFrom::Start(storage + layout.start_offset() as u64))?;
        let mut bytes = vec![0; layout.shape().elem_count() * dtype.size_in_bytes()];
        file.read_exact(&mut bytes)?;
        let read = |dims: &[usize]| Tensor::from_raw_buffer(&bytes, dtype, dims, &Device::Cpu);
        let dims = layout.dims();
        if layout.is_contiguous() {
            return read(dims).map(Some);
        }
        let reversed: Vec<usize> = dims.iter().rev().copied().collect();
        let axes: Vec<usize> = (0..dims.len()).rev().collect();
        read(&reversed)?.permute(axes).map(Some)
    }
}

fn unpickle(file: &mut impl BufRead) -> Result<Object> {
    let mut stack = Stack::empty();
    stack.read_loop(file)?;
    stack.finalize()
}

fn entries(object: Object) -> Result<Vec<(Object, Object)>> {
    match object {
        Object::Dict(entries) => Ok(entries),
        _ => candle_core::bail!("no state dict"),
    }
}

fn tensors(state: Object) -> Result<HashMap<String, TensorInfo>> {
    let mut tensors = HashMap::new();
    for (name, value) in entries(state)? {
        let mut kinds = HashMap::new();
        storage_kinds(&value, &mut kinds);
        if kinds.values().any(|kind| !SUPPORTED.contains(&kind.as_str())) {
            // For example a mask of bools: reported as missing, by its name, if a model needs it.
            continue;
        }
        if let Some(info) = value.into_tensor_info(name, Path::new(""))? {
            tensors.insert(info.name.clone(), info);
        }
    }
    Ok(tensors)
}

/// Finds the class of each storage, by its key, in an object and everything inside it.
fn storage_kinds(object: &Object, kinds: &mut HashMap<String, String>) {
    match object {
        Object::Tuple(items) | Object::List(items) => items.iter().for_each(|item| storage_kinds(item, kinds)),
        Object::Dict(entries) => entries.iter().for_each(|(_, value)| storage_kinds(value, kinds)),
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            storage_kinds(callable, kinds);
            storage_kinds(args, kinds);
        }
        Object::PersistentLoad(storage) => {
            if let Object::Tuple(parts) = &**storage
                && let [_, Object::Class { class_name, .. }, Object::Unicode(key), ..] = parts.as_slice()
            {
                kinds.insert(key.clone(), class_name.clone());
            }
        }
        _ => {}
    }
}

/// Returns the size in bytes of a value in a class of storages.
fn value_size(kind: &str) -> Option<u64> {
    Some(match kind {
        "BoolStorage" | "ByteStorage" | "CharStorage" | "QInt8Storage" | "QUInt8Storage" => 1,
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
        "FloatStorage" | "IntStorage" | "QInt32Storage" => 4,
        "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
        "ComplexDoubleStorage" => 16,
        _ => return None,
    })
}

/// Reads the keys of the storages, then the offset of each, skipping its values.
fn storages(file: &mut (impl BufRead + Seek), kinds: &HashMap<String, String>) -> Result<HashMap<String, u64>> {
    let Object::List(keys) = unpickle(file)? else { candle_core::bail!("no list of storages") };
    let mut offsets = HashMap::new();
    for storage in keys {
        let Object::Unicode(storage) = storage else { candle_core::bail!("the key of a storage is not a string") };
        let mut n = [0; 8];
        file.read_exact(&mut n)?;
        let n = u64::from_le_bytes(n);
        offsets.insert(storage.clone(), file.stream_position()?);
        let Some(kind) = kinds.get(&storage) else { candle_core::bail!("storage {storage} belongs to no tensor") };
        let Some(size) = value_size(kind) else { candle_core::bail!("storage {storage} is an unknown {kind}") };
        let bytes = n.checked_mul(size).and_then(|bytes| i64::try_from(bytes).ok());
        file.seek_relative(bytes.ok_or_else(|| candle_core::Error::msg("a storage of impossible size"))?)?;
    }
    Ok(offsets)
}

/// Returns the key of a tensor's storage: the last component of candle's path.
fn key(info: &TensorInfo) -> &str {
    info.path.rsplit('/').next().unwrap_or_default()
}
