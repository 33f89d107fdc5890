//! Page-locked memory that copies to an NVIDIA GPU come from: the bus reads it while the host goes on.

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result as driver, sys};

/// Page-locked memory with an event of its own: cudarc's event of the memory is recorded only with event tracking,
/// which is off.
#[derive(Debug)]
pub(crate) struct PinnedBuffer {
    memory: PinnedHostSlice<u8>,
    /// Recorded behind the last copy from the memory.
    copied: CudaEvent,
}

impl PinnedBuffer {
    /// # Errors
    /// When the system has no memory to lock.
    pub(crate) fn new(stream: &CudaStream, n: usize) -> Result<Self> {
        let copied = stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC)).w()?;
        // SAFETY: the bytes that are read are written first, and the rest is never used.
        let memory = unsafe { stream.context().alloc_pinned::<u8>(n) }.w()?;
        Ok(Self { memory, copied })
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    /// Fills the beginning with at most [`Self::len`] bytes, once the last copy is done, and queues their copy to an
    /// address of the stream's device.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Safety
    /// The address has room for the bytes until the copy is done.
    pub(crate) unsafe fn copy(&mut self, bytes: &[u8], to: u64, stream: &CudaStream) -> Result<()> {
        self.copied.synchronize().w()?;
        let filled = &mut self.memory.as_mut_slice().w()?[..bytes.len()];
        filled.copy_from_slice(bytes);
        // SAFETY: the caller's promise; the memory is neither written nor freed before the event.
        let queued = unsafe { driver::memcpy_htod_async(to, filled, stream.cu_stream()) };
        let recorded = queued.and_then(|()| self.copied.record(stream));
        if recorded.is_err() {
            // The event may miss a copy that is on its way.
            let _ = stream.synchronize();
        }
        recorded.w()
    }
}

impl Drop for PinnedBuffer {
    /// Waits for the last copy, before the memory is given back.
    fn drop(&mut self) {
        let _ = self.copied.synchronize();
    }
}
