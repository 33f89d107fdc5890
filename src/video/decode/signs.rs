//! FFmpeg: signs of damage that a decoder gives no error code for.
//!
//! The concealment of an error depends on the frames at hand, and with several threads on which of them is
//! first. So every sign must be seen: what decoders log (on any thread, at once, the same for any number of threads),
//! and parts of frames that they never write.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use ffmpeg::{ffi, frame};
use ffmpeg_next as ffmpeg;

/// Errors that one decoder logged.
#[derive(Debug, Default)]
pub(super) struct Signs {
    n_logged: AtomicUsize,
}

impl Signs {
    /// Number of errors so far.
    pub(super) fn n_logged(&self) -> usize {
        self.n_logged.load(Ordering::Relaxed)
    }

    /// Has a decoder that is not open yet report here. It must not outlive `signs`.
    pub(super) fn attach(signs: &Arc<Self>, context: &mut ffmpeg::codec::Context) {
        listen();
        // SAFETY: the context is alive and ours. `opaque` is the user's own, and FFmpeg copies it to each thread's
        // context; `heard` reads it as what it is. `mark` fulfils the contract of `get_buffer2` by FFmpeg's own
        // function.
        unsafe {
            let context = context.as_mut_ptr();
            (*context).opaque = Arc::as_ptr(signs).cast_mut().cast();
            (*context).get_buffer2 = Some(mark);
        }
    }
}

/// Has FFmpeg print nothing, and this file hear what it would print.
pub(in crate::video) fn listen() {
    static ONCE: Once = Once::new();
    // SAFETY: `heard` may be called from any thread at any time.
    ONCE.call_once(|| unsafe { ffi::av_log_set_callback(Some(heard)) });
}

/// FFmpeg's log callback. The arguments of the message, whose type differs from machine to machine, are not read.
unsafe extern "C" fn heard<Arguments>(source: *mut c_void, level: c_int, format: *const c_char, _: Arguments) {
    if source.is_null() || format.is_null() {
        return;
    }
    // SAFETY: a source that is not null begins with a pointer to its class, and only a codec's context has this class.
    // Its `opaque` is null but where `attach` set it, to signs that outlive the decoder. The format is a C string.
    unsafe {
        if *source.cast::<*const ffi::AVClass>() != ffi::avcodec_get_class() {
            return;
        }
        let signs = (*source.cast::<ffi::AVCodecContext>()).opaque.cast::<Signs>();
        // That macroblocks are concealed is told as if it were no error.
        if let Some(signs) = signs.as_ref()
            && (level <= ffi::AV_LOG_ERROR || CStr::from_ptr(format).to_bytes().starts_with(b"concealing"))
        {
            signs.n_logged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Bytes that no picture has by chance.
const MARK: [u8; 8] = [0x9e, 0x37, 0x79, 0xb9, 0x7f, 0x4a, 0x7c, 0x15];
/// Rows and bytes between two marks.
const GRID: usize = 16;
/// The row of a mark within its cell, where filters over the edges of blocks do not reach.
const ROW: usize = 3;

/// A frame's buffer, marked all over where frames are decoded on several threads: a mark that stays was never written
/// over.
unsafe extern "C" fn mark(context: *mut ffi::AVCodecContext, frame: *mut ffi::AVFrame, flags: c_int) -> c_int {
    // SAFETY: FFmpeg calls this with a context and a frame of its own, as `get_buffer2` says.
    unsafe {
        let result = ffi::avcodec_default_get_buffer2(context, frame, flags);
        if result >= 0 && is_threaded(context) {
            marks(frame, |at| {
                at.write(MARK);
                false
            });
        }
        result
    }
}

/// Whether several threads decode frames at once.
///
/// # Safety
/// The context must be alive.
pub(super) unsafe fn is_threaded(context: *const ffi::AVCodecContext) -> bool {
    // SAFETY: plain fields. Libraries with threads of their own leave the number as it was asked for.
    unsafe { (*context).active_thread_type & ffi::FF_THREAD_FRAME != 0 || (*context).thread_count != 1 }
}

/// Whether a part of a frame was never written.
pub(super) fn is_unwritten(frame: &frame::Video) -> bool {
    // SAFETY: the frame is alive, and its first plane is as large as its format says. The bytes are only read.
    unsafe { marks(frame.as_ptr(), |at| at.read() == MARK) }
}

/// Visits the places of marks in the first plane until `visit` says yes; whether it did.
///
/// # Safety
/// The frame must have buffers for its format and size.
unsafe fn marks(frame: *const ffi::AVFrame, mut visit: impl FnMut(*mut [u8; 8]) -> bool) -> bool {
    // SAFETY: rows and bytes stay within the plane; bytes need no alignment.
    unsafe {
        let format = std::mem::transmute::<c_int, ffi::AVPixelFormat>((*frame).format);
        let row_length = ffi::av_image_get_linesize(format, (*frame).width, 0);
        let (Ok(length), Ok(stride), Ok(height)) =
            (usize::try_from(row_length), usize::try_from((*frame).linesize[0]), usize::try_from((*frame).height))
        else {
            return false;
        };
        if (*frame).data[0].is_null() || length > stride {
            return false;
        }
        for row in (0..height).step_by(GRID) {
            let begin = (*frame).data[0].add((row + ROW).min(height - 1) * stride);
            for byte in (0..length).step_by(GRID).take_while(|byte| byte + MARK.len() <= length) {
                if visit(begin.add(byte).cast()) {
                    return true;
                }
            }
        }
        false
    }
}
