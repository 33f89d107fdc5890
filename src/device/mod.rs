//! Devices of tensors: opening them, moving tensors and weights to them, and their free memory.
//!
//! `spec` parses `--device` and `--dtype`; `cuda` owns the NVIDIA GPUs of this process, `cuda_upload` and `pinned` copy
//! to them; `memory` measures and releases memory. Operations on tensors are in `kernels`.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cuda_upload;
mod memory;
#[cfg(feature = "cuda")]
mod pinned;
mod spec;

use std::path::Path;

use crate::error::{Error, Kind};
use candle_core::{DType, Device, Shape, Tensor};

#[cfg(feature = "cuda")]
pub(crate) use pinned::PinnedBuffer;

pub use memory::peak_memory;
pub(crate) use memory::{free_memory, release_unused_memory};
pub use spec::{DTypeSpec, DeviceSpec};

/// File that exists while the driver of NVIDIA GPUs is loaded.
const NVIDIA_DRIVER: &str = "/proc/driver/nvidia/version";

/// Opened device.
#[derive(Debug, Clone)]
pub struct OpenedDevice {
    /// Device.
    pub device: Device,
    /// Message about the choice of `auto` and its reason, where the choice may be unexpected.
    pub note: Option<String>,
}

impl DeviceSpec {
    /// Opens the device. `auto` opens the CPU where no GPU can be opened.
    ///
    /// # Errors
    /// When this build does not support the device, or the machine does not have it.
    pub fn open(self) -> Result<Device, Error> {
        self.open_with_note().map(|opened| opened.device)
    }

    /// Opens the device and describes the choice of `auto`.
    ///
    /// # Errors
    /// When this build does not support the device, or the machine does not have it.
    pub fn open_with_note(self) -> Result<OpenedDevice, Error> {
        let requested = |device| OpenedDevice { device, note: None };
        let opened = match self {
            Self::Auto => Ok(automatic(NVIDIA_DRIVER.as_ref())),
            Self::Cpu => Ok(requested(Device::Cpu)),
            Self::Cuda(ordinal) => cuda(ordinal).map(requested),
            Self::Metal(ordinal) => Device::new_metal(ordinal).map(requested),
        };
        opened.map_err(|error| {
            let hint =
                "--device cpu, or a build with `--features cuda` or `--features metal` on a machine that has one";
            Error::new(Kind::Device, first_line(&error)).with_hint(hint).about(self.to_string())
        })
    }
}

/// Opens the first GPU that this build supports, or the CPU where that fails. `driver` is the file of the NVIDIA
/// driver.
fn automatic(driver: &Path) -> OpenedDevice {
    let gpu = if cfg!(feature = "cuda") {
        Some((DeviceSpec::Cuda(0), cuda(0)))
    } else if cfg!(feature = "metal") {
        Some((DeviceSpec::Metal(0), Device::new_metal(0)))
    } else {
        None
    };
    match gpu {
        Some((spec, Ok(device))) => {
            let note = Some(format!("--device auto is {spec}{}", properties(&device)));
            OpenedDevice { device, note }
        }
        Some((spec, Err(error))) => {
            let note = format!("--device auto is the cpu: {spec} cannot be opened: {}", first_line(&error));
            OpenedDevice { device: Device::Cpu, note: Some(note) }
        }
        None => {
            let error = Error::new(Kind::Device, "this machine has an NVIDIA GPU, but this build does not use it");
            let note = error.with_hint("cargo build --release --features cuda").about("--device auto is the cpu");
            OpenedDevice { device: Device::Cpu, note: driver.exists().then(|| note.to_string()) }
        }
    }
}

/// Returns the name and the memory of an NVIDIA GPU in brackets, an empty text for other devices.
fn properties(device: &Device) -> String {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::describe(device).map_or(String::new(), |gpu| format!(" ({gpu})"));
    }
    let _ = device;
    String::new()
}

/// Loads the kernels of a device, compiling them if necessary; `on_wait` is called with a message when this takes long.
///
/// # Errors
/// When the device fails.
pub fn load_kernels(device: &Device, on_wait: &dyn Fn(&str)) -> candle_core::Result<()> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::load_kernels(device, on_wait);
    }
    let _ = (device, on_wait);
    Ok(())
}

/// Copies a tensor to a device. Copies between GPUs are staged in host memory: each GPU has a stream of its own, and no
/// event orders them.
///
/// # Errors
/// When the device is out of memory.
pub fn move_between(tensor: &Tensor, device: &Device) -> candle_core::Result<Tensor> {
    let from = tensor.device();
    if from.is_cuda() && device.is_cuda() && !from.same_device(device) {
        return tensor.to_device(&Device::Cpu)?.to_device(device);
    }
    tensor.to_device(device)
}

/// Copies a weight to an NVIDIA GPU through page-locked buffers, which [`release_upload_buffers`] frees; `None` where
/// candle's own copy is as fast: for small weights and on other devices.
///
/// # Errors
/// When the device is out of memory, or the number of bytes does not match the shape.
pub fn upload_weight(
    bytes: &[u8],
    dtype: DType,
    shape: &Shape,
    device: &Device,
) -> candle_core::Result<Option<Tensor>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda_upload::upload(device, bytes, dtype, shape);
    }
    let _ = (bytes, dtype, shape, device);
    Ok(None)
}

/// Frees the buffers of [`upload_weight`].
pub fn release_upload_buffers() {
    #[cfg(feature = "cuda")]
    cuda_upload::release_buffers();
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> candle_core::Result<Device> {
    cuda::open(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> candle_core::Result<Device> {
    Device::new_cuda_with_stream(ordinal)
}

/// Returns the first line of an error, without the backtrace that candle appends.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_opens_the_cpu_without_a_gpu_and_a_named_gpu_is_an_error() {
        if Device::new_cuda_with_stream(0).is_err() && Device::new_metal(0).is_err() {
            assert!(DeviceSpec::Auto.open().expect("the CPU").is_cpu());
            let error = DeviceSpec::Cuda(0).open().expect_err("no GPU answers").to_string();
            assert!(error.starts_with("cuda:0: ") && error.contains("hint: --device cpu"), "{error}");
        }
    }

    #[test]
    fn auto_explains_why_a_present_gpu_is_not_used() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let opened = automatic(here);
        let note = opened.note.expect("a note about the driver");
        match (cfg!(feature = "cuda"), opened.device.is_cpu()) {
            (false, true) if !cfg!(feature = "metal") => assert!(note.contains("hint: cargo build"), "{note}"),
            (_, true) => {
                assert!(note.starts_with("--device auto is the cpu: ") && note.contains("cannot be opened"), "{note}")
            }
            (_, false) => assert!(note.starts_with("--device auto is "), "{note}"),
        }
        if cfg!(not(any(feature = "cuda", feature = "metal"))) {
            assert_eq!(automatic(&here.join("no such file")).note, None);
        }
        assert_eq!(DeviceSpec::Cpu.open_with_note().expect("the CPU").note, None);
    }
}
