//! List of all kernels by source file: `device` loads them by it, the emulation exports them by it, and a test compares
//! it with the directory.

use candle_core::DType;

/// Kernels of a source file.
pub(super) struct KernelSource {
    /// File name without `.cu`.
    pub(super) file: &'static str,
    /// Kernels with a variant for each of [`ELEMENTS`], named `kernel_element`.
    pub(super) per_element: &'static [&'static str],
    /// Kernels without variants, by their full names.
    pub(super) single: &'static [&'static str],
}

/// All kernels. The first launch on a GPU loads and looks up every one of them.
pub(super) const SOURCES: &[KernelSource] = &[
    KernelSource { file: "argmax", per_element: &["argmax_rows"], single: &[] },
    KernelSource { file: "attention", per_element: &["join_heads", "split_heads"], single: &[] },
    KernelSource { file: "elementwise", per_element: &["accumulate", "epilogue", "swiglu"], single: &[] },
    KernelSource { file: "gemv", per_element: &["gemv"], single: &[] },
    KernelSource { file: "norm", per_element: &["layer_norm", "rms_norm"], single: &[] },
    KernelSource {
        file: "paged_decode",
        per_element: &[
            "paged_decode_8_1_1",
            "paged_decode_8_1_2",
            "paged_decode_8_1_4",
            "paged_decode_8_1_8",
            "paged_decode_8_4_1",
            "paged_decode_2_1_2",
            "paged_decode_2_8_1",
            "paged_join",
        ],
        single: &[],
    },
    KernelSource { file: "paged_tiles", per_element: &[], single: &super::paged_decode::TILE_KERNELS },
    KernelSource {
        file: "pages",
        per_element: &["rope_store_1", "rope_store_4", "gather_pages", "interleave_heads"],
        single: &[],
    },
    KernelSource { file: "resize", per_element: &["resize_columns"], single: &["resize_rows"] },
    KernelSource { file: "rows", per_element: &["gather", "pool_grid", "row_cosines"], single: &[] },
    KernelSource { file: "selection", per_element: &[], single: &["largest_indices"] },
    KernelSource { file: "softmax", per_element: &["masked_softmax"], single: &[] },
    KernelSource { file: "tiled_attention", per_element: &[], single: &super::tiled_attention::KERNEL_NAMES },
    KernelSource { file: "top_k", per_element: &["top_k_rows"], single: &[] },
];

/// Element types of the kernels, with the suffixes of their names.
pub(super) const ELEMENTS: [(DType, &str); 3] = [(DType::F32, "f32"), (DType::F16, "f16"), (DType::BF16, "bf16")];

/// Returns the full names of the kernels of a source file.
pub(super) fn kernel_names(source: &KernelSource) -> Vec<String> {
    let of_each = |kernel: &&str| ELEMENTS.map(|(_, suffix)| format!("{kernel}_{suffix}"));
    let single = source.single.iter().map(|&kernel| kernel.to_owned());
    source.per_element.iter().flat_map(of_each).chain(single).collect()
}
