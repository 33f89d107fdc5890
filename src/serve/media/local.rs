//! Local files below allowed directories. A file is opened component by component, and no component may be a link, so
//! a link that is swapped in between a check and the opening has no effect: the file that was opened is the file that
//! is read, through its descriptor.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Hint of a file outside of the allowed directories.
const ALLOW: &str = "the server's --allow-files DIR";

/// Directories whose files a request may name.
#[derive(Debug, Clone, Default)]
pub struct AllowedDirectories(Vec<AllowedDirectory>);

#[derive(Debug, Clone)]
struct AllowedDirectory {
    /// Path as it was given, absolute.
    given: PathBuf,
    /// Path without links.
    real: PathBuf,
}

/// A local file, opened.
#[derive(Debug)]
pub(super) struct LocalFile {
    pub(super) file: File,
    pub(super) n_bytes: u64,
}

impl AllowedDirectories {
    /// Resolves directories once, at the start of the server.
    ///
    /// # Errors
    /// A path that is not a directory.
    pub fn new<P: AsRef<Path>>(directories: impl IntoIterator<Item = P>) -> Result<Self> {
        let resolve = |path: P| {
            let path = path.as_ref();
            let io = Error::io(path);
            let real = path.canonicalize().map_err(&io)?;
            if !real.is_dir() {
                return Err(Error::invalid("not a directory").about(path));
            }
            Ok(AllowedDirectory { given: std::path::absolute(path).map_err(&io)?, real })
        };
        directories.into_iter().map(resolve).collect::<Result<_>>().map(Self)
    }

    /// Opens a regular file below one of the directories. Links inside a directory are followed as long as they lead to
    /// a file below an allowed directory.
    ///
    /// # Errors
    /// [`Kind::Refused`] for any other path, before the file system is asked about it; [`Kind::NotFound`] and
    /// [`Kind::NotRegular`] below an allowed directory.
    pub(super) fn open(&self, path: &Path) -> Result<LocalFile> {
        let is_below = |directory: &&AllowedDirectory| {
            path.strip_prefix(&directory.given).or_else(|_| path.strip_prefix(&directory.real)).is_ok()
        };
        if self.0.iter().find(is_below).is_none() {
            return Err(refused(path));
        }
        let real = path.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::new(Kind::NotFound, "no such file").about(path),
            _ => Error::io(path)(error),
        })?;
        let found = self.0.iter().find_map(|directory| Some((directory, real.strip_prefix(&directory.real).ok()?)));
        let (directory, below) = found.ok_or_else(|| refused(path))?;
        open_below(&directory.real, below).map_err(|error| error.about(path))
    }
}

fn refused(path: &Path) -> Error {
    Error::new(Kind::Refused, "not below a directory that the server allows").with_hint(ALLOW).about(path)
}

/// Opens a regular file below a directory, without following links.
#[cfg(unix)]
fn open_below(directory: &Path, below: &Path) -> Result<LocalFile> {
    use rustix::fs::{AtFlags, FileType, Mode, OFlags, open, openat, statat};
    let failed = |error: rustix::io::Errno| match error {
        rustix::io::Errno::NOENT => Error::new(Kind::NotFound, "no such file"),
        // A component that was a directory has become a link.
        rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => {
            Error::new(Kind::Refused, "it changed while it was opened")
        }
        error => Error::from(std::io::Error::from(error)),
    };
    let not_regular = || Error::new(Kind::NotRegular, "not a regular file");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut parent = open(directory, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
    let mut components = below.components().map(|component| component.as_os_str()).peekable();
    while let Some(name) = components.next() {
        if components.peek().is_some() {
            parent = openat(&parent, name, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
            continue;
        }
        // A device or a pipe is not opened: that alone may have an effect, or wait.
        let kind = |stat: &rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode);
        if kind(&statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?) != FileType::RegularFile {
            return Err(not_regular());
        }
        let file = File::from(openat(&parent, name, flags | OFlags::NONBLOCK, Mode::empty()).map_err(failed)?);
        let meta = file.metadata()?;
        return if meta.is_file() { Ok(LocalFile { n_bytes: meta.len(), file }) } else { Err(not_regular()) };
    }
    Err(not_regular())
}

#[cfg(not(unix))]
fn open_below(_: &Path, _: &Path) -> Result<LocalFile> {
    Err(Error::new(Kind::Refused, "local files are not served on this system"))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Directory with `allowed/in.mp4`, `allowed/below/deep.mp4` and `outside/canary`.
    fn directories() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("room");
        std::fs::create_dir_all(root.path().join("allowed/below")).expect("ours");
        std::fs::create_dir_all(root.path().join("outside")).expect("ours");
        for (name, text) in [("allowed/in.mp4", "in"), ("allowed/below/deep.mp4", "deep"), ("outside/canary", "canary")]
        {
            std::fs::write(root.path().join(name), text).expect("ours");
        }
        root
    }

    fn text(file: Result<LocalFile>) -> String {
        let mut text = String::new();
        file.expect("allowed").file.read_to_string(&mut text).expect("text");
        text
    }

    #[test]
    fn files_below_the_directory_are_opened() {
        let root = directories();
        let at = |name: &str| root.path().join(name);
        symlink(at("allowed"), at("other-name")).expect("ours");
        symlink("below/deep.mp4", at("allowed/inner-link")).expect("ours");
        let allowed = AllowedDirectories::new([at("other-name")]).expect("a directory");
        for (name, expected) in
            [("other-name/in.mp4", "in"), ("other-name/below/deep.mp4", "deep"), ("other-name/inner-link", "deep")]
        {
            assert_eq!(text(allowed.open(&at(name))), expected, "{name}");
        }
        let real = at("allowed/in.mp4").canonicalize().expect("there");
        assert_eq!(text(allowed.open(&real)), "in", "by the path without links");
    }

    #[test]
    fn nothing_else_is_opened() {
        let root = directories();
        let at = |name: &str| root.path().join(name);
        symlink(at("outside/canary"), at("allowed/file-link")).expect("ours");
        symlink(at("outside"), at("allowed/directory-link")).expect("ours");
        symlink("../outside/canary", at("allowed/relative-link")).expect("ours");
        symlink("nowhere", at("allowed/dangling")).expect("ours");
        symlink("ring", at("allowed/ring")).expect("ours");
        assert!(std::process::Command::new("mkfifo").arg(at("allowed/pipe")).status().expect("pipes").success());
        let _socket = std::os::unix::net::UnixListener::bind(at("allowed/socket")).expect("a socket");
        let allowed = AllowedDirectories::new([at("allowed")]).expect("a directory");
        for (name, kind) in [
            ("allowed/file-link", Kind::Refused),
            ("allowed/directory-link/canary", Kind::Refused),
            ("allowed/relative-link", Kind::Refused),
            ("outside/canary", Kind::Refused),
            ("outside/none", Kind::Refused),
            ("allowed-not", Kind::Refused),
            ("allowed/dangling", Kind::NotFound),
            ("allowed/none.mp4", Kind::NotFound),
            ("allowed/ring", Kind::Unreadable),
            ("allowed/in.mp4/x", Kind::Unreadable),
            ("allowed/below", Kind::NotRegular),
            ("allowed", Kind::NotRegular),
            ("allowed/pipe", Kind::NotRegular),
            ("allowed/socket", Kind::NotRegular),
        ] {
            assert_eq!(allowed.open(&at(name)).expect_err(name).kind(), kind, "{name}");
        }
        for path in ["/etc/passwd", "/dev/zero", "/proc/self/environ", "allowed/in.mp4"] {
            assert_eq!(allowed.open(Path::new(path)).expect_err(path).kind(), Kind::Refused, "{path}");
        }
        assert_eq!(
            AllowedDirectories::default().open(&at("allowed/in.mp4")).expect_err("closed").kind(),
            Kind::Refused
        );
        assert!(
            AllowedDirectories::new([at("allowed/in.mp4")]).is_err() && AllowedDirectories::new([at("no")]).is_err()
        );
    }

    #[test]
    fn a_link_that_is_swapped_in_while_a_file_is_opened_has_no_effect() {
        const N_SWAPS: usize = 10_000;
        let root = directories();
        let at = |name: &str| root.path().join(name);
        let allowed = AllowedDirectories::new([at("allowed")]).expect("a directory");
        // The file itself, and a directory above it, are replaced by links to the outside and back.
        std::fs::create_dir(at("allowed/moving")).expect("ours");
        for name in ["moving/canary", "swapped"] {
            std::fs::write(at("allowed").join(name), "in").expect("ours");
        }
        let is_done = AtomicBool::new(false);
        let swap = || {
            for _ in 0..N_SWAPS {
                let link = |target: &Path, name: &str| {
                    let temporary = at("allowed/next");
                    symlink(target, &temporary).expect("ours");
                    std::fs::rename(&temporary, at(name)).expect("ours");
                };
                std::fs::rename(at("allowed/swapped"), at("allowed/kept")).expect("ours");
                link(&at("outside/canary"), "allowed/swapped");
                std::fs::rename(at("allowed/kept"), at("allowed/swapped")).expect("ours");
                std::fs::rename(at("allowed/moving"), at("allowed/still")).expect("ours");
                link(&at("outside"), "allowed/moving");
                std::fs::remove_file(at("allowed/moving")).expect("ours");
                std::fs::rename(at("allowed/still"), at("allowed/moving")).expect("ours");
            }
            is_done.store(true, Ordering::Release);
        };
        let read = || {
            while !is_done.load(Ordering::Acquire) {
                for name in ["allowed/swapped", "allowed/moving/canary"] {
                    if let Ok(LocalFile { mut file, .. }) = allowed.open(&at(name)) {
                        let mut text = String::new();
                        file.read_to_string(&mut text).expect("text");
                        assert_eq!(text, "in", "{name} led outside");
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(read);
            swap();
            reader.join().expect("no file outside was read");
        });
        // The last state is a file again, whatever the threads did before.
        assert_eq!(text(allowed.open(&at("allowed/swapped"))), "in");
    }
}
