//! Recording of launches: what a thread's work launches, in order, to be replayed as a whole.
//!
//! While a thread records, its launches and matrix products are listed in place of being run, and the tensors that they
//! write stay allocated, so that addresses hold for every replay. A GPU makes a CUDA graph of the list; the emulation
//! runs it. Work that is recorded may use nothing but launches, [`Executor::empty`] and [`product`]: an operation of
//! candle's would run at once, on memory without contents, and be missing from each replay.

use std::cell::RefCell;
use std::fmt::Debug;

use candle_core::{Result, Shape, Tensor};

use super::launch::{Executor, Launch};

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Recorded operations.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    pub(crate) operations: Vec<Operation>,
    /// Tensors that were made meanwhile: their memory must stay.
    _tensors: Vec<Tensor>,
}

/// A recorded operation.
#[derive(Debug)]
pub(crate) enum Operation {
    Launch(Launch<'static>),
    Gemm(RecordedGemm),
}

/// `y = a b`, where `b` is contiguous or the transpose of a contiguous matrix, and the others are contiguous.
#[derive(Debug)]
pub(crate) struct RecordedGemm {
    /// `(M, K)`.
    pub(crate) a: Tensor,
    /// `(K, N)`.
    pub(crate) b: Tensor,
    /// `(M, N)`.
    pub(crate) y: Tensor,
}

/// A recording that can be replayed, on the tensors that it was made of.
pub(crate) trait Replay: Send + Debug {
    /// Runs all operations after those that the device was given before.
    ///
    /// # Errors
    /// When the device refuses.
    fn replay(&self) -> Result<()>;
}

/// Ends a recording when the work ends, by an error or a panic too.
struct RecordingGuard;

impl Drop for RecordingGuard {
    fn drop(&mut self) {
        RECORDING.take();
    }
}

/// Lists what `work` would launch on this thread, without running it.
///
/// # Errors
/// When this thread records already, or `work` fails.
pub(crate) fn record(work: impl FnOnce() -> Result<()>) -> Result<Recording> {
    if is_recording() {
        candle_core::bail!("a recording within a recording");
    }
    RECORDING.set(Some(Recording::default()));
    let _guard = RecordingGuard;
    work()?;
    Ok(RECORDING.take().unwrap_or_default())
}

/// Whether this thread records.
pub(crate) fn is_recording() -> bool {
    RECORDING.with_borrow(Option::is_some)
}

/// Fails while this thread records: for operations that cannot be listed.
///
/// # Errors
/// While this thread records.
pub(crate) fn refuse(operation: &str) -> Result<()> {
    if is_recording() {
        candle_core::bail!("{operation} cannot be recorded");
    }
    Ok(())
}

/// Lists a launch. False where this thread does not record.
pub(super) fn list(launch: &Launch<'_>) -> bool {
    let push = |recording: &mut Recording| recording.operations.push(Operation::Launch(launch.detached()));
    RECORDING.with_borrow_mut(|recording| recording.as_mut().map(push)).is_some()
}

/// Keeps the memory of a new tensor, where this thread records.
pub(super) fn keep(tensor: &Tensor) {
    RECORDING.with_borrow_mut(|recording| {
        if let Some(recording) = recording {
            recording._tensors.push(tensor.clone());
        }
    });
}

/// Lists the product of two matrices, and gives the tensor that it will be in.
///
/// # Shapes
/// `(M, K)` and `(K, N)` to `(M, N)`.
///
/// # Errors
/// When the shapes do not fit, or rows of a matrix do not follow each other.
pub(super) fn product(executor: &dyn Executor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((m, k), (depth, n)) = (a.dims2()?, b.dims2()?);
    let is_read = a.is_contiguous() && (b.is_contiguous() || b.t()?.is_contiguous());
    if k != depth || a.dtype() != b.dtype() || !is_read {
        candle_core::bail!("a product of {:?} and {:?} cannot be recorded", a.layout(), b.layout());
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
    fn a_replay_computes_with_what_its_inputs_hold_then() {
        for tested in tested() {
            let [a, b] = [random((3, 8), 1), random((5, 8), 2)].map(|x| tested.given(&x).copy().expect("memory"));
            let up = tested.given(&random((3, 5), 4));
            let mut y = None;
            let work = || {
                let product = tested.kernels.matmul(&a, &b.t()?)?;
                y = Some(tested.kernels.swiglu(&product, &up)?);
                assert!(is_recording() && refuse("x").is_err());
                record(|| Ok(())).expect_err("within another");
                Ok(())
            };
            let recording = record(work).expect("products and launches alone");
            assert!(!is_recording() && recording.operations.len() == 2);
            let replay = tested.kernels.executor.compile(recording).expect("on this device");
            for seed in [5, 6] {
                // The same memory, other elements.
                a.slice_set(&tested.given(&random((3, 8), seed)), 0, 0).expect("the same shape");
                replay.replay().expect("it runs");
                let product = tested.kernels.matmul(&a, &b.t().expect("a matrix")).expect("it fits");
                let expected = tested.kernels.swiglu(&product, &up).expect("it fits");
                let expected = expected.to_device(&candle_core::Device::Cpu).and_then(|x| x.to_dtype(DType::F32));
                tested.assert_close("replay", y.as_ref().expect("recorded"), &expected.expect("small"));
            }
        }
    }

    #[test]
    fn operations_with_gradients_are_not_recorded() {
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
    fn a_recording_ends_with_its_work() {
        assert!(record(|| candle_core::bail!("it fails")).is_err() && !is_recording());
        let panicked = std::panic::catch_unwind(|| record(|| panic!("a defect")));
        assert!(panicked.is_err() && !is_recording());
    }
}
