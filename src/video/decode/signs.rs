//! FFmpeg: signs of damage without an error code: errors that decoders log, and parts of frames that they never write.
//!
//! Concealment of an error depends on the frames at hand, and with several threads on timing; so every sign must be
//! detected. Log messages are the same for any number of threads. Called by `decode`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use ffmpeg::{ffi, frame};
use ffmpeg_next as ffmpeg;

/// Count of the errors that a decoder logged.
#[derive(Debug, Default)]
pub(super) struct DamageSigns {
    n_logged: AtomicUsize,
}

impl DamageSigns {
    /// Number of logged errors so far.
    pub(super) fn n_logged(&self) -> usize {
        self.n_logged.load(Ordering::Relaxed)
    }

    /// Attaches the count to a decoder that is not open yet. The decoder must not outlive `signs`.
    pub(super) fn attach(signs: &Arc<Self>, context: &mut ffmpeg::codec::Context) {
        capture_log();
        // SAFETY: the context is alive and ours. `opaque` is the user's own, and FFmpeg copies it to each thread's
        // context; `count_error` reads it as the same type. `get_marked_buffer` fulfils the contract of `get_buffer2`
        // by FFmpeg's own function.
        unsafe {
            let context = context.as_mut_ptr();
            (*context).opaque = Arc::as_ptr(signs).cast_mut().cast();
            (*context).get_buffer2 = Some(get_marked_buffer);
        }
    }
}

/// Replaces FFmpeg's log by the counts of [`DamageSigns`]; nothing is printed.
pub(in crate::video) fn capture_log() {
    static ONCE: Once = Once::new();
    // SAFETY: `count_error` may be called from any thread at any time.
    ONCE.call_once(|| unsafe { ffi::av_log_set_callback(Some(count_error)) });
}

/// FFmpeg's log callback. The arguments of the message, whose type differs from machine to machine, are not read.
unsafe extern "C" fn count_error<Arguments>(source: *mut c_void, level: c_int, format: *const c_char, _: Arguments) {
    if source.is_null() || format.is_null() {
        return;
    }
    // SAFETY: a source that is not null begins with a pointer to its class, and only a codec's context has this class.
    // Its `opaque` is null, or set by `attach` to signs that outlive the decoder. The format is a C string.
    unsafe {
        if *source.cast::<*const ffi::AVClass>() != ffi::avcodec_get_class() {
            return;
        }
        let signs = (*source.cast::<ffi::AVCodecContext>()).opaque.cast::<DamageSigns>();
        // Concealed macroblocks are logged below the level of errors.
        if let Some(signs) = signs.as_ref()
            && (level <= ffi::AV_LOG_ERROR || CStr::from_ptr(format).to_bytes().starts_with(b"concealing"))
        {
            signs.n_logged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Mark of unwritten parts of a frame: bytes that do not occur by chance.
const MARK: [u8; 8] = [0x9e, 0x37, 0x79, 0xb9, 0x7f, 0x4a, 0x7c, 0x15];
/// Distance between marks, in rows and in bytes of a row.
const GRID: usize = 16;
/// Row of a mark within its cell, out of reach of deblocking filters.
const ROW: usize = 3;

/// Allocates the buffer of a frame, with marks where frames are decoded by several threads: a mark that remains was
/// never overwritten.
unsafe extern "C" fn get_marked_buffer(
    context: *mut ffi::AVCodecContext,
    frame: *mut ffi::AVFrame,
    flags: c_int,
) -> c_int {
    // SAFETY: FFmpeg calls this with a context and a frame of its own, as `get_buffer2` documents.
    unsafe {
        let result = ffi::avcodec_default_get_buffer2(context, frame, flags);
        if result >= 0 && is_threaded(context) {
            any_mark(frame, |at| {
                at.write(MARK);
                false
            });
        }
        result
    }
}

/// Returns whether several threads decode frames at once.
///
/// # Safety
/// The context must be alive.
pub(super) unsafe fn is_threaded(context: *const ffi::AVCodecContext) -> bool {
    // SAFETY: plain fields. Libraries with threads of their own keep the requested number.
    unsafe { (*context).active_thread_type & ffi::FF_THREAD_FRAME != 0 || (*context).thread_count != 1 }
}

/// Returns whether a part of a frame was never written.
pub(super) fn is_unwritten(frame: &frame::Video) -> bool {
    // SAFETY: the frame is alive, and its first plane has the size of its format. The bytes are only read.
    unsafe { any_mark(frame.as_ptr(), |at| at.read() == MARK) }
}

/// Visits the marks in the first plane until `visit` returns true; returns whether it did.
///
/// # Safety
/// The frame must have buffers for its format and size.
unsafe fn any_mark(frame: *const ffi::AVFrame, mut visit: impl FnMut(*mut [u8; 8]) -> bool) -> bool {
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
