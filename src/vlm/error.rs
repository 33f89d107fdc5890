//! Errors of a model that more than one place raises, or whose text needs its sizes.

use std::borrow::Cow;
use std::path::Path;

use bytesize::ByteSize;

use super::Placement;
use crate::device::free_memory;
use crate::error::{Error, Kind};

/// Returns the error of parts of a checkpoint that do not go together.
pub(super) fn mismatch(path: &Path, rule: impl Into<Cow<'static, str>>) -> Error {
    Error::new(Kind::Model, rule).about(path)
}

/// Adds the sizes, if a device had no memory for the weights of a model; any other error is returned as it is.
pub(super) fn with_sizes(error: Error, name: &str, n_parameters: usize, placement: &Placement) -> Error {
    if !error.kind().is_out_of_memory() {
        return error;
    }
    let dtype = placement.dtype;
    let bytes = n_parameters as u64 * dtype.size_in_bytes() as u64;
    let free = free_memory(&placement.device);
    let rule = format!(
        "{n_parameters} parameters in {} take {}, and the device has {} left: {}",
        dtype.as_str(),
        ByteSize::b(bytes).display().iec(),
        free.map_or("an unknown amount of memory".to_owned(), |free| ByteSize::b(free).display().iec().to_string()),
        error.rule(),
    );
    let hint =
        "half precision (--dtype bf16), --quant q8_0 or q4_k, or the vision encoder elsewhere (--vision-device cpu)";
    Error::new(Kind::DeviceMemory, rule).with_hint(hint).about(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_without_memory_are_told_with_their_size() {
        let failed = |words: &str| Error::compute("loading the weights")(candle_core::Error::msg(words.to_owned()));
        let placement = Placement { dtype: candle_core::DType::BF16, ..Placement::cpu() };
        let error = with_sizes(failed("DriverError(CUDA_ERROR_OUT_OF_MEMORY)"), "org/model", 3 << 30, &placement);
        let text = error.to_string();
        assert!(
            text.starts_with("org/model: 3221225472 parameters in bf16 take 6.0 GiB, and the device has "),
            "{text}"
        );
        assert!(text.contains(" left: DriverError(CUDA_ERROR_OUT_OF_MEMORY); hint: half precision"), "{text}");
        assert_eq!(error.kind(), Kind::DeviceMemory);
        let other = with_sizes(failed("shape mismatch"), "org/model", 1, &placement).to_string();
        assert_eq!(other, "loading the weights: shape mismatch");
    }
}
