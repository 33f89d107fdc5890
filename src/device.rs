//! Where tensors live and in which precision: `--device` and `--dtype` as candle understands them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

impl DeviceSpec {
    /// Opens the device. `auto` is the CPU where no GPU answers.
    ///
    /// # Errors
    /// When this build does not support the device, or the machine does not have it.
    pub fn open(self) -> Result<Device, DeviceError> {
        let opened = match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => cuda(ordinal),
            Self::Metal(ordinal) => Device::new_metal(ordinal),
            Self::Auto if cfg!(feature = "cuda") => cuda(0).or(Ok(Device::Cpu)),
            Self::Auto if cfg!(feature = "metal") => Device::new_metal(0).or(Ok(Device::Cpu)),
            Self::Auto => Ok(Device::Cpu),
        };
        opened.map_err(|error| DeviceError {
            device: self,
            cause: error.to_string().lines().next().unwrap_or_default().to_owned(),
        })
    }
}

/// Opens an NVIDIA GPU with one explicit stream, which all threads of the process share.
///
/// Candle's own default is a stream for each host thread, with no order between them: tensors that pass from stage to
/// stage would be a data race, and threads that end while others compute wait in the driver for good.
fn cuda(ordinal: usize) -> candle_core::Result<Device> {
    static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&ordinal) {
        return Ok(device.clone());
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    open.insert(ordinal, device.clone());
    Ok(device)
}

/// Bytes of memory that a device has left, as far as this build can ask. Of the CPU the least of what the system and
/// the control group of this process have.
pub fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => {
            let kind = sysinfo::RefreshKind::nothing().with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram());
            let system = sysinfo::System::new_with_specifics(kind);
            // Files that the system caches count as used in a control group, but give way.
            let group = system.cgroup_limits().map(|group| group.total_memory.saturating_sub(group.rss));
            let free = system.available_memory();
            Some(group.map_or(free, |group| group.min(free))).filter(|&free| free > 0)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let info = device.cuda_stream().context().mem_get_info();
            info.ok().and_then(|(free, _)| u64::try_from(free).ok())
        }
        _ => None,
    }
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
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::Fixed(DType::F32)),
            "f16" => Ok(Self::Fixed(DType::F16)),
            "bf16" => Ok(Self::Fixed(DType::BF16)),
            _ => Err(format!("unknown precision `{text}`; hint: auto, f32, f16, bf16")),
        }
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
    fn the_machine_has_memory_left() {
        // What the system tells of a whole machine is between a mebibyte and a pebibyte.
        let free = free_memory(&Device::Cpu).expect("the system tells it");
        assert!((1 << 20..1 << 50).contains(&free), "{free}");
    }

    #[test]
    fn devices_and_precisions_print_as_they_are_read() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3", "metal:0"] {
            assert_eq!(text.parse::<DeviceSpec>().map(|d| d.to_string()), Ok(text.to_owned()));
        }
        for text in ["auto", "f32", "f16", "bf16"] {
            assert_eq!(text.parse::<DTypeSpec>().map(|d| d.to_string()), Ok(text.to_owned()));
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
    fn a_gpu_is_opened_once_with_a_stream_that_threads_share() {
        let Ok(first) = DeviceSpec::Cuda(0).open() else { return };
        let second = std::thread::spawn(|| DeviceSpec::Cuda(0).open()).join().expect("a thread").expect("open already");
        assert!(first.same_device(&second));
    }

    #[test]
    fn the_cpu_runs_in_f32_unless_told_otherwise() {
        assert_eq!(DTypeSpec::Auto.resolve(&Device::Cpu, DType::F16), DType::F32);
        assert_eq!(DTypeSpec::Fixed(DType::BF16).resolve(&Device::Cpu, DType::F16), DType::BF16);
    }
}
