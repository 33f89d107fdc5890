//! Where tensors live and in which precision: `--device` and `--dtype` as candle understands them.
//!
//! `cuda` owns the NVIDIA GPUs of this process, `cuda_upload` and `pinned` copy to them; `memory` tells what a device has
//! left.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cuda_upload;
mod memory;
#[cfg(feature = "cuda")]
mod pinned;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use candle_core::{DType, Device, Shape, Tensor};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::choice;
use crate::error::Error;

#[cfg(feature = "cuda")]
pub(crate) use pinned::PinnedBuffer;

pub use memory::{free_memory, peak_memory, release_unused_memory};

/// The file by which the driver of NVIDIA GPUs tells that it runs.
const NVIDIA_DRIVER: &str = "/proc/driver/nvidia/version";

/// A device as asked for. Default: `auto`, the first GPU that this build supports and that answers, else the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// The first GPU that this build supports and this machine has, else the CPU.
    #[default]
    Auto,
    /// The CPU, on all its cores.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
    /// The Apple GPU of this number.
    Metal(usize),
}

/// A precision as asked for. Default: `auto`: f32 on the CPU, where candle is fastest in it; bf16 on a
/// GPU for checkpoints stored in it, else f16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DTypeSpec {
    /// The best for the device and the checkpoint.
    #[default]
    Auto,
    /// This one.
    Fixed(DType),
}

/// A device that is not to be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "{device}: {cause}; hint: --device cpu, or a build with `--features cuda` or `--features metal` on a machine that has one"
)]
pub struct DeviceError {
    device: DeviceSpec,
    cause: String,
}

/// A device that was opened.
#[derive(Debug, Clone)]
pub struct OpenedDevice {
    /// The device.
    pub device: Device,
    /// The choice of `auto` and its reason, in words, where somebody may have expected another one.
    pub note: Option<String>,
}

impl DeviceSpec {
    /// Opens the device. `auto` is the CPU where no GPU answers.
    ///
    /// # Errors
    /// When this build does not support the device, or the machine does not have it.
    pub fn open(self) -> Result<Device, DeviceError> {
        self.open_with_note().map(|opened| opened.device)
    }

    /// As [`Self::open`], with the choice of `auto` in words.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with_note(self) -> Result<OpenedDevice, DeviceError> {
        let named = |device| OpenedDevice { device, note: None };
        let opened = match self {
            Self::Auto => Ok(automatic(NVIDIA_DRIVER.as_ref())),
            Self::Cpu => Ok(named(Device::Cpu)),
            Self::Cuda(ordinal) => cuda(ordinal).map(named),
            Self::Metal(ordinal) => Device::new_metal(ordinal).map(named),
        };
        opened.map_err(|error| DeviceError { device: self, cause: first_line(&error) })
    }
}

/// The first GPU that this build supports and that answers, else the CPU.
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
            let note = format!("--device auto is the cpu: {spec} does not answer: {}", first_line(&error));
            OpenedDevice { device: Device::Cpu, note: Some(note) }
        }
        None => {
            let note = "--device auto is the cpu: this machine has an NVIDIA GPU, but this build does not use it; \
                        hint: cargo build --release --features cuda";
            OpenedDevice { device: Device::Cpu, note: driver.exists().then(|| note.to_owned()) }
        }
    }
}

/// The name and the memory of a GPU in brackets, as far as it tells them.
fn properties(device: &Device) -> String {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::describe(device).map_or(String::new(), |gpu| format!(" ({gpu})"));
    }
    let _ = device;
    String::new()
}

/// Compiles or loads the kernels that a device is going to need; `on_wait` hears why it takes long, if it does.
///
/// # Errors
/// When the device does not answer.
pub fn load_kernels(device: &Device, on_wait: &dyn Fn(&str)) -> candle_core::Result<()> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::load_kernels(device, on_wait);
    }
    let _ = (device, on_wait);
    Ok(())
}

/// Returns a tensor on a device, from one GPU to another by way of the host: each GPU has a stream of its own, and no
/// event orders a copy between them.
///
/// # Errors
/// When the device has no room.
pub fn move_between(tensor: &Tensor, device: &Device) -> candle_core::Result<Tensor> {
    let from = tensor.device();
    if from.is_cuda() && device.is_cuda() && !from.same_device(device) {
        return tensor.to_device(&Device::Cpu)?.to_device(device);
    }
    tensor.to_device(device)
}

/// Returns a weight on an NVIDIA GPU, by way of page-locked memory that [`release_upload_buffers`] frees: `None` where
/// candle's copy serves as well, for small ones and on other devices.
///
/// # Errors
/// When the device has no room, or `bytes` are not those of the shape.
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

/// Frees what [`upload_weight`] keeps.
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

/// The first line of an error: candle adds a backtrace.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

impl DTypeSpec {
    /// The precision for `device`, given the one that the checkpoint is stored in.
    pub fn resolve(self, device: &Device, stored: DType) -> DType {
        match self {
            Self::Fixed(dtype) => dtype,
            Self::Auto if device.is_cpu() => DType::F32,
            // FP8 weights are made of bf16 ones, whose range f16 lacks.
            Self::Auto if matches!(stored, DType::BF16 | DType::F8E4M3) && device.supports_bf16() => DType::BF16,
            Self::Auto => DType::F16,
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal(ordinal) => write!(f, "metal:{ordinal}"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, ordinal) = text.split_once(':').unwrap_or((text, "0"));
        let ordinal = ordinal.parse().map_err(|_| format!("invalid device number `{ordinal}`"))?;
        match (name, text.contains(':')) {
            ("auto", false) => Ok(Self::Auto),
            ("cpu", false) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(ordinal)),
            ("metal", _) => Ok(Self::Metal(ordinal)),
            _ => Err(format!("unknown device `{text}`; hint: auto, cpu, cuda, cuda:1, metal")),
        }
    }
}

impl fmt::Display for DTypeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(dtype) => f.write_str(dtype.as_str()),
        }
    }
}

impl FromStr for DTypeSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = [Self::Auto, Self::Fixed(DType::F32), Self::Fixed(DType::F16), Self::Fixed(DType::BF16)];
        let names = known.map(|spec| spec.to_string());
        let found = names.iter().position(|name| name == text);
        found.map(|i| known[i]).ok_or_else(|| choice::unknown_name("precision", text, &names))
    }
}

impl<'de> Deserialize<'de> for DeviceSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for DTypeSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for DeviceSpec {
    fn schema_name() -> Cow<'static, str> {
        "DeviceSpec".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^(auto|cpu|(cuda|metal)(:\d{1,3})?)$", "x-hint": "auto, cpu, cuda, cuda:1, metal" })
    }
}

impl JsonSchema for DTypeSpec {
    fn schema_name() -> Cow<'static, str> {
        "DTypeSpec".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["auto", "f32", "f16", "bf16"] })
    }
}

impl Serialize for DeviceSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for DTypeSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_precisions_print_as_they_are_read() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3", "metal:0"] {
            assert_eq!(text.parse::<DeviceSpec>().map(|d| d.to_string()), Ok(text.to_owned()));
        }
        for text in ["auto", "f32", "f16", "bf16"] {
            assert_eq!(text.parse::<DTypeSpec>().expect("a name").to_string(), text);
        }
        for text in ["", "gpu", "cpu:1", "auto:0", "cuda:x", "cuda:-1"] {
            assert!(text.parse::<DeviceSpec>().is_err(), "{text}");
        }
        assert!("f64".parse::<DTypeSpec>().is_err());
    }

    #[test]
    fn auto_is_the_cpu_where_no_gpu_answers_and_a_named_gpu_is_refused() {
        if Device::new_cuda_with_stream(0).is_err() && Device::new_metal(0).is_err() {
            assert!(DeviceSpec::Auto.open().expect("the CPU").is_cpu());
            let error = DeviceSpec::Cuda(0).open().expect_err("no GPU answers").to_string();
            assert!(error.starts_with("cuda:0: ") && error.contains("hint: --device cpu"), "{error}");
        }
    }

    #[test]
    fn auto_tells_why_a_gpu_that_is_there_was_not_taken() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let opened = automatic(here);
        let note = opened.note.expect("a driver is there");
        match (cfg!(feature = "cuda"), opened.device.is_cpu()) {
            (false, true) if !cfg!(feature = "metal") => assert!(note.contains("hint: cargo build"), "{note}"),
            (_, true) => {
                assert!(note.starts_with("--device auto is the cpu: ") && note.contains("does not answer"), "{note}")
            }
            (_, false) => assert!(note.starts_with("--device auto is "), "{note}"),
        }
        if cfg!(not(any(feature = "cuda", feature = "metal"))) {
            assert_eq!(automatic(&here.join("no such file")).note, None);
        }
        assert_eq!(DeviceSpec::Cpu.open_with_note().expect("always there").note, None);
    }

    #[test]
    fn the_cpu_runs_in_f32_unless_told_otherwise() {
        assert_eq!(DTypeSpec::Auto.resolve(&Device::Cpu, DType::F16), DType::F32);
        assert_eq!(DTypeSpec::Fixed(DType::BF16).resolve(&Device::Cpu, DType::F16), DType::BF16);
    }
}
