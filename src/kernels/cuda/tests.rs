//! Tests of the CUDA kernels against the CPU's portable kernels, in every element type: emulated in every build, and on
//! the first GPU in a build with the feature `cuda`, where one is present.

use std::io::Write as _;

use candle_core::DType;

use super::*;
use crate::kernels::finite_difference::random;

/// Kernels under test with their device.
pub(crate) struct Tested {
    pub(crate) kernels: &'static CudaKernels,
    pub(crate) device: Device,
    pub(crate) dtype: DType,
}

/// Returns the kernels in every element type on every available executor.
pub(crate) fn tested() -> Vec<Tested> {
    let emulated = |(dtype, _)| Some(Tested { kernels: CudaKernels::emulated(dtype)?, device: Device::Cpu, dtype });
    #[allow(unused_mut, reason = "a build with CUDA adds the GPU")]
    let mut tested: Vec<Tested> = ELEMENTS.into_iter().filter_map(emulated).collect();
    #[cfg(feature = "cuda")]
    match crate::device::DeviceSpec::Cuda(0).open() {
        Ok(device) => {
            let Device::Cuda(gpu) = &device else { panic!("a GPU") };
            for (dtype, _) in ELEMENTS {
                let kernels = CudaKernels::of(gpu, dtype).expect("an element type");
                tested.push(Tested { kernels, device: device.clone(), dtype });
            }
        }
        Err(error) => {
            static TOLD: std::sync::Once = std::sync::Once::new();
            TOLD.call_once(|| report_skipped(&format!("CUDA kernels on a GPU: {error}")));
        }
    }
    tested
}

/// Prints what could not be tested, also where the output of passing tests is captured.
pub(super) fn report_skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}

impl Tested {
    /// Copies a tensor of the device to the CPU, in f32.
    pub(crate) fn host(&self, x: &Tensor) -> Tensor {
        x.to_device(&Device::Cpu).and_then(|x| x.to_dtype(DType::F32)).expect("numeric")
    }

    /// Converts a tensor of the CPU to the tested precision and copies it to the device.
    pub(crate) fn given(&self, x: &Tensor) -> Tensor {
        x.to_dtype(self.dtype).and_then(|x| x.to_device(&self.device)).expect("numeric")
    }

    /// Rounds a tensor of the CPU to the tested precision, in f32.
    pub(super) fn rounded(&self, x: &Tensor) -> Tensor {
        x.to_dtype(self.dtype).and_then(|x| x.to_dtype(DType::F32)).expect("numeric")
    }

    /// Asserts that elements agree within the precision's rounding, relative to the largest.
    pub(super) fn assert_close(&self, what: &str, found: &Tensor, expected: &Tensor) {
        let elements = |x: &Tensor| -> Vec<f32> {
            let x = x.to_device(&Device::Cpu).and_then(|x| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1());
            x.expect("numeric")
        };
        assert_eq!(found.dims(), expected.dims(), "{what}");
        let (found, expected) = (elements(found), elements(expected));
        let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let tolerance = if self.dtype == DType::F32 { 2e-5 } else { 1e-2 } * largest;
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let is_close = (found - expected).abs() <= tolerance;
            assert!(
                is_close,
                "{what} in {:?} on {:?}: element {i} is {found}, not {expected}",
                self.dtype, self.device
            );
        }
    }
}

/// Returns the reference kernels: candle's in f32 on the CPU.
pub(super) fn reference() -> &'static dyn Kernels {
    CandleKernels::of(&Device::Cpu, DType::F32)
}

#[test]
fn norms_agree_with_the_cpu() {
    for tested in tested() {
        // One row, odd widths, whole accesses, more accesses than threads of a block.
        for (rows, width) in [(1, 1), (3, 7), (5, 64), (2, 72), (4, 1152), (1, 9000)] {
            let x = random((rows, width), 1);
            let (weight, bias) = (random(width, 2), random(width, 3));
            for bias in [None, Some(&bias)] {
                let weights =
                    |of: &dyn Fn(&Tensor) -> Tensor| NormWeights { weight: of(&weight), bias: bias.map(of), eps: 1e-5 };
                let found =
                    tested.kernels.norm(&tested.given(&x), &weights(&|x| tested.given(x))).expect("the shapes match");
                let expected =
                    reference().norm(&tested.rounded(&x), &weights(&|x| tested.rounded(x))).expect("the shapes match");
                tested.assert_close(&format!("norm of {rows} x {width}"), &found, &expected);
            }
        }
    }
}

#[test]
fn norms_of_another_width_are_rejected() {
    for tested in tested() {
        let weights = NormWeights { weight: tested.given(&random(5, 1)), bias: None, eps: 1e-5 };
        let error = tested.kernels.norm(&tested.given(&random((2, 6), 1)), &weights).expect_err("another width");
        assert!(error.to_string().starts_with("norm: 5 weights for rows of 6"), "{error}");
    }
}
