//! Formats of quantized weights: the k-quants of GGML that have kernels of their own.

use candle_core::quantized::GgmlDType;
use strum::{EnumString, VariantNames};

use crate::choice;
use crate::error::Error;

/// Elements that share a scale.
pub(super) const BLOCK: usize = 32;
/// Elements that share the scales of scales in `q4_k`.
pub(super) const SUPER_BLOCK: usize = 256;

/// A format of quantized weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumString, strum::Display, VariantNames)]
#[strum(parse_err_ty = Error, parse_err_fn = unknown_format)]
pub enum QuantFormat {
    /// 8 bits, and a scale for each 32: 8.5 bits a weight.
    #[strum(to_string = "q8_0")]
    Q8_0,
    /// 4 bits, with a scale and a minimum for each 32, and scales of those for each 256: 4.6 bits a weight as the
    /// kernels lay them out.
    #[strum(to_string = "q4_k")]
    Q4K,
}

impl QuantFormat {
    /// Elements of a row that are quantized together: the length of a row is a multiple of it.
    pub(crate) fn unit(self) -> usize {
        match self {
            Self::Q8_0 => BLOCK,
            Self::Q4K => SUPER_BLOCK,
        }
    }

    /// Bytes of `n_weights` weights in this format.
    pub fn bytes(self, n_weights: usize) -> usize {
        n_weights / BLOCK
            * match self {
                // A scale, and 32 elements.
                Self::Q8_0 => 2 + 32,
                // Scale and minimum, half as many bytes as elements, and an eighth of two scales.
                Self::Q4K => 2 + 16,
            }
            + match self {
                Self::Q8_0 => 0,
                Self::Q4K => n_weights / SUPER_BLOCK * 4,
            }
    }

    /// This format, or the next one that fits rows of `depth` elements.
    pub fn fitting(self, depth: usize) -> Option<Self> {
        [self, Self::Q8_0].into_iter().find(|format| depth > 0 && depth.is_multiple_of(format.unit()))
    }

    /// GGML's name of the format.
    pub(super) fn ggml(self) -> GgmlDType {
        match self {
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4K => GgmlDType::Q4K,
        }
    }
}

fn unknown_format(name: &str) -> Error {
    choice::unknown_name("format of quantized weights", name, QuantFormat::VARIANTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_what_they_take() {
        assert_eq!((QuantFormat::Q8_0.bytes(256), QuantFormat::Q4K.bytes(256)), (272, 148));
        assert_eq!(QuantFormat::Q4K.fitting(512), Some(QuantFormat::Q4K));
        assert_eq!(QuantFormat::Q4K.fitting(128), Some(QuantFormat::Q8_0));
        assert_eq!((QuantFormat::Q4K.fitting(100), QuantFormat::Q8_0.fitting(0)), (None, None));
        assert_eq!("q4_k".parse().ok(), Some(QuantFormat::Q4K));
        assert_eq!([QuantFormat::Q8_0, QuantFormat::Q4K].map(|format| format.to_string()), ["q8_0", "q4_k"]);
        assert!("q5_k".parse::<QuantFormat>().is_err());
    }
}
