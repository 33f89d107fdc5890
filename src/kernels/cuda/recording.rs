//! Recording of the launches of a thread, in order, for replays as a whole.
//!
//! While a thread records, its launches and matrix products are appended to a list instead of being executed, and the
//! tensors that they write stay allocated, so that their addresses are valid in every replay. A GPU captures the list
//! as a CUDA graph; the emulation runs it. Recorded work may use launches, [`Executor::empty`] and [`gemm`] only: an
//! operation of candle's would run immediately, on memory without contents, and be missing from every replay.

use std::cell::RefCell;
use std::fmt::Debug;

use candle_core::{Result, Shape, Tensor};

use super::launch::{Executor, Launch};

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// List of recorded operations.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    pub(crate) operations: Vec<Operation>,
    /// Tensors that were allocated while recording, which replays write to.
    _tensors: Vec<Tensor>,
}

/// A recorded operation.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Kernel launch.
    Launch(Launch<'static>),
    /// Matrix product.
    Gemm(RecordedGemm),
}

/// Matrix product `y = a b`. `a` and `y` are contiguous, `b` is contiguous or the transpose of a contiguous matrix.
#[derive(Debug)]
pub(crate) struct RecordedGemm {
    /// `(M, K)`.
    pub(crate) a: Tensor,
    /// `(K, N)`.
    pub(crate) b: Tensor,
    /// `(M, N)`.
    pub(crate) y: Tensor,
}

/// Compiled recording, which runs on the tensors of the recording.
pub(crate) trait Replay: Send + Debug {
    /// Queues all operations after those that the device received before.
    ///
    /// # Errors
    /// When the device fails.
    fn replay(&self) -> Result<()>;
}

/// Guard that ends the recording of this thread when dropped, also after an error or a panic.
struct RecordingGuard;

impl Drop for RecordingGuard {
    fn drop(&mut self) {
        RECORDING.take();
    }
}

/// Records the launches of `work` on this thread without executing them.
///
/// # Errors
/// When this thread is already recording, or `work` fails.
pub(crate) fn record(work: impl FnOnce() -> Result<()>) -> Result<Recording> {
    if is_recording() {
        candle_core::bail!("recording: already recording on this thread");
    }
    RECORDING.set(Some(Recording::default()));
    let _guard = RecordingGuard;
    work()?;
    Ok(RECORDING.take().unwrap_or_default())
}

/// Returns whether this thread is recording.
pub(crate) fn is_recording() -> bool {
    RECORDING.with_borrow(Option::is_some)
}

/// Rejects an operation that cannot be recorded.
///
/// # Errors
/// While this thread is recording.
pub(crate) fn reject(operation: &str) -> Result<()> {
    if is_recording() {
        candle_core::bail!("{operation} cannot be recorded");
    }
    Ok(())
}

/// Appends a launch to the recording of this thread; returns `false` when the thread is not recording.
pub(super) fn append(launch: &Launch<'_>) -> bool {
    let push = |recording: &mut Recording| recording.operations.push(Operation::Launch(launch.detached()));
    RECORDING.with_borrow_mut(|recording| recording.as_mut().map(push)).is_some()
}

/// Keeps the memory of a new tensor for the replays, if this thread is recording.
pub(super) fn keep(tensor: &Tensor) {
    RECORDING.with_borrow_mut(|recording| {
        if let Some(recording) = recording {
            recording._tensors.push(tensor.clone());
        }
    });
}

/// Records the product of two matrices, and returns the tensor that replays write it to.
///
/// # Shapes
/// `(M, K)` and `(K, N)` to `(M, N)`.
///
/// # Errors
/// When the shapes do not match, or a matrix has strides that [`RecordedGemm`] excludes.
pub(super) fn gemm(executor: &dyn Executor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((m, k), (depth, n)) = (a.dims2()?, b.dims2()?);
    let is_supported = a.is_contiguous() && (b.is_contiguous() || b.t()?.is_contiguous());
    if k != depth || a.dtype() != b.dtype() || !is_supported {
        candle_core::bail!("a matrix product of {:?} and {:?} cannot be recorded", a.layout(), b.layout());
    }
    let y = executor.empty(Shape::from((m, n)), a.dtype())?;
    let product = RecordedGemm { a: a.clone(), b: b.clone(), y: y.clone() };
    RECORDING.with_borrow_mut(|recording| {
        if let Some(recording) = recording {
            recording.operations.push(Operation::Gemm(product));
        }
    });
    Ok(y)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::kernels::Kernels;
    use crate::kernels::cuda::tests::tested;
    use crate::kernels::finite_difference::random;

    #[test]
    fn a_replay_reads_the_current_values_of_its_inputs() {
        for tested in tested() {
            let [a, b] = [random((3, 8), 1), random((5, 8), 2)].map(|x| tested.given(&x).copy().expect("memory"));
            let up = tested.given(&random((3, 5), 4));
            let mut y = None;
            let work = || {
                let product = tested.kernels.matmul(&a, &b.t()?)?;
                y = Some(tested.kernels.swiglu(&product, &up)?);
                assert!(is_recording() && reject("x").is_err());
                record(|| Ok(())).expect_err("within another");
                Ok(())
            };
            let recording = record(work).expect("products and launches alone");
            assert!(!is_recording() && recording.operations.len() == 2);
            let replay = tested.kernels.executor.compile(recording).expect("on this device");
            for seed in [5, 6] {
                // Other elements in the same memory.
                a.slice_set(&tested.given(&random((3, 8), seed)), 0, 0).expect("the same shape");
                replay.replay().expect("it runs");
                let product = tested.kernels.matmul(&a, &b.t().expect("a matrix")).expect("the shapes match");
                let expected = tested.kernels.swiglu(&product, &up).expect("the shapes match");
                let expected = expected.to_device(&candle_core::Device::Cpu).and_then(|x| x.to_dtype(DType::F32));
                tested.assert_close("replay", y.as_ref().expect("recorded"), &expected.expect("small"));
            }
        }
    }

    #[test]
    fn operations_with_gradients_cannot_be_recorded() {
        for tested in tested() {
            let x = candle_core::Var::from_tensor(&tested.given(&random((3, 8), 1))).expect("memory");
            let mut outcome = None;
            let _ = record(|| {
                outcome = Some(tested.kernels.swiglu(&x, &x).map(drop));
                Ok(())
            });
            let error = outcome.expect("it was tried").expect_err("candle's operation").to_string();
            assert!(error.contains("an operation with gradients cannot be recorded"), "{error}");
        }
    }

    #[test]
    fn a_recording_ends_after_errors_and_panics() {
        assert!(record(|| candle_core::bail!("it fails")).is_err() && !is_recording());
        let panicked = std::panic::catch_unwind(|| record(|| panic!("a defect")));
        assert!(panicked.is_err() && !is_recording());
    }
}
