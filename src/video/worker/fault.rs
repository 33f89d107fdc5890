//! Faults on demand, so that tests can see what a crash or a hang of a codec costs. Not part of a release build.

use std::path::Path;
use std::time::Duration;

/// `crash=NAME`, `hang=NAME` and `loop=NAME`, separated by commas: what happens to the files of these names. The first
/// two strike in a process of its own, the last one in whichever process opens the file, as a demuxer without an end
/// does.
const VARIABLE: &str = "VIDENSE_FAULT";

/// Does what the variable wants for a file in a process of its own.
pub(super) fn strike(path: &Path) {
    if is_wanted("crash", path) {
        std::process::abort();
    }
    if is_wanted("hang", path) {
        sleep_for_ever();
    }
}

/// Does what the variable wants for a file within the call that opens it.
pub(in crate::video) fn strike_inside(path: &Path) {
    if is_wanted("loop", path) {
        sleep_for_ever();
    }
}

fn is_wanted(fault: &str, path: &Path) -> bool {
    let wishes = std::env::var(VARIABLE).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    wishes.split(',').any(|wish| wish.split_once('=') == Some((fault, &*name)))
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}
