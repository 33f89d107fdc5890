//! One safetensors file, mapped from the disk or inside the binary. Mapped pages of a converted tensor are released, so
//! that a loading model needs memory for its weights once. Called by `checkpoint`.

use std::path::Path;

use candle_core::safetensors::{MmapedSafetensors, SliceSafetensors};
use candle_core::{Device, Tensor};
use safetensors::tensor::TensorView;

use crate::files;

/// One safetensors file, mapped from the disk or inside the binary.
pub(super) enum SafetensorsFile {
    Mapped(MmapedSafetensors),
    Builtin(SliceSafetensors<'static>),
}

impl SafetensorsFile {
    /// Opens a file, or one inside the binary.
    ///
    /// # Errors
    /// An unreadable or malformed file.
    pub(super) fn open(path: &Path) -> candle_core::Result<Self> {
        if let Some(bytes) = files::builtin(path) {
            return Ok(Self::Builtin(SliceSafetensors::new(bytes)?));
        }
        files::check(path)?;
        // SAFETY: the map is read-only, and no process may truncate the file meanwhile, as for every memory-mapped
        // reader.
        Ok(Self::Mapped(unsafe { MmapedSafetensors::new(path) }?))
    }

    /// Releases the mapped pages of bytes that have been converted. A later read maps them again.
    pub(super) fn release(&self, bytes: &[u8]) {
        if let Self::Mapped(_) = self {
            release_mapped(bytes);
        }
    }

    /// Returns all tensors by name.
    pub(super) fn tensors(&self) -> Vec<(String, TensorView<'_>)> {
        match self {
            Self::Mapped(file) => file.tensors(),
            Self::Builtin(file) => file.tensors(),
        }
    }

    /// Returns the tensor of a name.
    ///
    /// # Errors
    /// A missing tensor.
    pub(super) fn get(&self, name: &str) -> candle_core::Result<TensorView<'_>> {
        match self {
            Self::Mapped(file) => file.get(name),
            Self::Builtin(file) => file.get(name),
        }
    }
}

/// Reads a tensor in bf16 as f32 without an intermediate copy.
pub(super) fn bf16_to_f32(file: &SafetensorsFile, name: &str) -> candle_core::Result<Tensor> {
    let view = file.get(name)?;
    let elements: Vec<f32> =
        view.data().as_chunks().0.iter().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect();
    let tensor = Tensor::from_vec(elements, view.shape(), &Device::Cpu)?;
    file.release(view.data());
    Ok(tensor)
}

/// Drops the whole pages of a private, read-only file map from memory until they are read again.
#[cfg(unix)]
fn release_mapped(bytes: &[u8]) {
    // SAFETY: `sysconf` only reads a constant of the system.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return };
    let (begin, end) = (bytes.as_ptr().addr(), bytes.as_ptr().addr() + bytes.len());
    let (first, after_last) = (begin.next_multiple_of(page), end / page * page);
    if first < after_last {
        let start = bytes.as_ptr().wrapping_add(first - begin).cast_mut();
        // SAFETY: the pages belong to a private map of an unmodified file, so reading them again gives the same bytes.
        // A refusal has no effect.
        let _ = unsafe { libc::madvise(start.cast(), after_last - first, libc::MADV_DONTNEED) };
    }
}

#[cfg(not(unix))]
fn release_mapped(_: &[u8]) {}
