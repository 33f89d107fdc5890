//! Fault injection for tests of crashes and hangs of codecs. Not part of a release build.

use std::path::Path;
use std::time::Duration;

/// Environment variable with faults for file names, separated by commas: `crash=NAME`, `hang=NAME` and `loop=NAME`. The
/// first two happen in a decoding process, the last in any process that opens the file, like an endless demuxer.
const VARIABLE: &str = "VIDENSE_FAULT";

/// Injects the fault of a file in a decoding process.
pub(super) fn inject(path: &Path) {
    if is_requested("crash", path) {
        std::process::abort();
    }
    if is_requested("hang", path) {
        sleep_for_ever();
    }
}

/// Injects the fault of a file within the call that opens it.
pub(in crate::video) fn inject_on_open(path: &Path) {
    if is_requested("loop", path) {
        sleep_for_ever();
    }
}

fn is_requested(fault: &str, path: &Path) -> bool {
    let faults = std::env::var(VARIABLE).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    faults.split(',').any(|entry| entry.split_once('=') == Some((fault, &*name)))
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}
