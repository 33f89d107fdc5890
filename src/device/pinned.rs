//! Page-locked (pinned) host memory for asynchronous copies to an NVIDIA GPU. Uploads of weights and of frames use it.

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result as driver, sys};

/// Page-locked buffer with an event behind its last copy. The buffer has its own event because cudarc records one only
/// with event tracking, which is switched off.
#[derive(Debug)]
pub(crate) struct PinnedBuffer {
    memory: PinnedHostSlice<u8>,
    /// Event behind the last copy from the buffer.
    copied: CudaEvent,
}

impl PinnedBuffer {
    /// Allocates a buffer of `n` bytes.
    ///
    /// # Errors
    /// When the system cannot lock so much memory.
    pub(crate) fn new(stream: &CudaStream, n: usize) -> Result<Self> {
        let copied = stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC)).w()?;
        // SAFETY: `copy` writes the bytes of each copy before they are read; no other byte is read.
        let memory = unsafe { stream.context().alloc_pinned::<u8>(n) }.w()?;
        Ok(Self { memory, copied })
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    /// Waits for the last copy, fills the beginning of the buffer with at most [`Self::len`] bytes, and queues their
    /// copy to an address of the stream's device.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Safety
    /// The device memory at `to` must be allocated for at least `bytes.len()` bytes until the copy is done.
    pub(crate) unsafe fn copy(&mut self, bytes: &[u8], to: u64, stream: &CudaStream) -> Result<()> {
        self.copied.synchronize().w()?;
        let filled = &mut self.memory.as_mut_slice().w()?[..bytes.len()];
        filled.copy_from_slice(bytes);
        // SAFETY: the caller guarantees the destination. The buffer is neither written nor freed before the copy's
        // event: `copy` and `drop` wait for it.
        let queued = unsafe { driver::memcpy_htod_async(to, filled, stream.cu_stream()) };
        let recorded = queued.and_then(|()| self.copied.record(stream));
        if recorded.is_err() {
            // The event may not cover a copy that was queued.
            let _ = stream.synchronize();
        }
        recorded.w()
    }
}

impl Drop for PinnedBuffer {
    /// Waits for the last copy before the memory is freed.
    fn drop(&mut self) {
        let _ = self.copied.synchronize();
    }
}
