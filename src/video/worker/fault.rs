//! Faults on demand, so that tests can see what a crash or a hang of a codec costs. Not part of a release build.

use std::path::Path;
use std::time::Duration;

/// `crash=NAME` and `hang=NAME`, separated by commas: what happens to the files of these names.
const VARIABLE: &str = "VIDENSE_FAULT";

/// Does what the variable wants for a file.
pub(super) fn strike(path: &Path) {
    let wishes = std::env::var(VARIABLE).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for wish in wishes.split(',') {
        match wish.split_once('=') {
            Some(("crash", wanted)) if wanted == name => std::process::abort(),
            Some(("hang", wanted)) if wanted == name => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            _ => {}
        }
    }
}
