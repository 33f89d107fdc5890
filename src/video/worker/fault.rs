//! Fault injection for tests of crashes and hangs of codecs. Not part of a release build.

use std::path::Path;
use std::time::Duration;

/// Environment variable with faults for file names, separated by commas: `crash=NAME`, `hang=NAME`, `hoard=NAME`,
/// `escape=NAME` and `loop=NAME`. The last happens in any process that opens the file, like an endless demuxer; the
/// others happen in a decoding process.
const VARIABLE: &str = "VIDENSE_FAULT";

/// Injects the fault of a file in a decoding process.
pub(super) fn inject(path: &Path) {
    if is_requested("crash", path) {
        std::process::abort();
    }
    if is_requested("hang", path) {
        sleep_for_ever();
    }
    if is_requested("hoard", path) {
        hoard();
    }
    if is_requested("escape", path) {
        escape(path);
    }
}

/// Takes memory without end.
fn hoard() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; 1 << 20]);
    }
}

/// Does what a decoder that was taken over would do, and aborts if anything but the video is within reach.
fn escape(path: &Path) {
    let beside = path.with_file_name("written");
    let writes = std::fs::write(&beside, "x").is_ok();
    let has_variables = std::env::vars_os().any(|(name, _)| name.as_encoded_bytes().starts_with(b"CARGO"));
    let mut is_free = writes || has_variables;
    #[cfg(target_os = "linux")]
    {
        const REFUSED: i32 = 13;
        let connected = std::net::TcpStream::connect("127.0.0.1:9");
        let connects = !connected.is_err_and(|error| error.raw_os_error() == Some(REFUSED));
        let reads = std::fs::read("/proc/self/environ").is_ok() || std::fs::read_dir("/").is_ok();
        let runs = std::process::Command::new("/bin/true").status().is_ok();
        let version = super::landlock::version();
        is_free |= version >= 1 && (beside.exists() || reads || runs) || version >= 4 && connects;
    }
    if is_free {
        std::process::abort();
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
