//! Requested device and precision: the values of `--device` and `--dtype` and of the same YAML keys, with their
//! parsing, printing and JSON schema. [`super`] opens devices.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::choice;
use crate::error::Error;

/// Examples of devices, for hints.
const DEVICES: &str = "auto, cpu, cuda, cuda:1, metal";

/// Requested device. Default: `auto`, the first GPU that this build supports and that can be opened, else the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// First GPU that this build supports and that can be opened, else the CPU.
    #[default]
    Auto,
    /// CPU, on all cores.
    Cpu,
    /// NVIDIA GPU with this ordinal.
    Cuda(usize),
    /// Apple GPU with this ordinal.
    Metal(usize),
}

/// Requested precision. Default: `auto`: f32 on the CPU, candle's fastest precision there; on a GPU bf16 for
/// checkpoints stored in bf16 or FP8, else f16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DTypeSpec {
    /// Chosen by the device and the checkpoint.
    #[default]
    Auto,
    /// Fixed precision.
    Fixed(DType),
}

impl DTypeSpec {
    /// Returns the precision on `device` of a checkpoint that is stored in `stored`.
    pub fn resolve(self, device: &Device, stored: DType) -> DType {
        match self {
            Self::Fixed(dtype) => dtype,
            Self::Auto if device.is_cpu() => DType::F32,
            // FP8 weights are quantized from bf16, whose range exceeds that of f16.
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
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, ordinal) = text.split_once(':').unwrap_or((text, "0"));
        let ordinal = ordinal.parse().map_err(|_| Error::invalid(format!("invalid device number `{ordinal}`")))?;
        match (name, text.contains(':')) {
            ("auto", false) => Ok(Self::Auto),
            ("cpu", false) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(ordinal)),
            ("metal", _) => Ok(Self::Metal(ordinal)),
            _ => Err(Error::invalid(format!("unknown device `{text}`")).with_hint(DEVICES)),
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
        json_schema!({ "type": "string", "pattern": r"^(auto|cpu|(cuda|metal)(:\d{1,3})?)$", "x-hint": DEVICES })
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
    fn devices_and_precisions_print_as_parsed() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3", "metal:0"] {
            assert_eq!(text.parse::<DeviceSpec>().expect("a device").to_string(), text);
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
    fn the_default_precision_of_the_cpu_is_f32() {
        assert_eq!(DTypeSpec::Auto.resolve(&Device::Cpu, DType::F16), DType::F32);
        assert_eq!(DTypeSpec::Fixed(DType::BF16).resolve(&Device::Cpu, DType::F16), DType::BF16);
    }
}
