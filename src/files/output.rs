//! Files that are written whole, and the other ways in which a path named by the user is opened for writing.
//!
//! [`OutputFile`] is the crate's only atomic replacement: the bytes go to a temporary file beside the target, which is
//! renamed over the target once they are complete. A reader finds the previous file or the whole new one, and an error
//! leaves the previous file as it was. [`Durability`] says what survives a loss of power.
//!
//! `destination` resolves paths: links are written through, pipes and character devices are written to and never
//! replaced. The append-only logs of `batch` and `train` (`open_to_append`) have a sync policy of their own.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::destination::{Destination, resolve};
use crate::error::{Error, Result};

/// Prefix of the names of temporary files.
pub(crate) const TEMPORARY_PREFIX: &str = ".tmp";

/// Guarantee for a replaced file when [`OutputFile::finish`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The file is renamed and visible to other processes; a loss of power may lose it. For caches, and for what a
    /// repeated command makes again.
    Renamed,
    /// The bytes are synced before the rename and the directory after it, so the file survives a loss of power. For
    /// results of long runs: checkpoints, features, tables, frames.
    Synced,
}

/// A file that is being written, or a stream.
#[derive(Debug)]
pub struct OutputFile {
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    /// A temporary file beside its target.
    Temporary { file: BufWriter<NamedTempFile>, target: PathBuf },
    /// A pipe, a device or an open file of this process, which cannot be replaced.
    Stream(BufWriter<File>),
}

impl OutputFile {
    /// Begins a file. An existing file at `path` stays as it is until [`Self::finish`].
    ///
    /// # Errors
    /// A directory that is missing or not writable, or a path that cannot be written to.
    pub fn create(path: &Path) -> io::Result<Self> {
        let sink = match resolve(path)? {
            Destination::File(target) => Sink::Temporary { file: BufWriter::new(temporary(&target)?), target },
            Destination::Stream(file) => Sink::Stream(BufWriter::new(file)),
        };
        Ok(Self { sink })
    }

    /// Renames the file over its target, or flushes a stream.
    ///
    /// # Errors
    /// The operating system's error; an existing file at the target is then unchanged, except where only the sync of
    /// the directory failed.
    pub fn finish(self, durability: Durability) -> io::Result<()> {
        match self.sink {
            Sink::Stream(mut file) => file.flush(),
            Sink::Temporary { file, target } => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                if durability == Durability::Synced {
                    file.as_file().sync_all()?;
                }
                file.persist(&target).map_err(|error| error.error)?;
                if durability == Durability::Synced { sync_directory(directory_of(&target)) } else { Ok(()) }
            }
        }
    }

    /// Returns the path of the temporary file, for a library that opens files by name; `None` for a stream.
    pub fn path(&self) -> Option<&Path> {
        match &self.sink {
            Sink::Temporary { file, .. } => Some(file.get_ref().path()),
            Sink::Stream(_) => None,
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Temporary { file, .. } => file.write(bytes),
            Sink::Stream(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Temporary { file, .. } => file.flush(),
            Sink::Stream(file) => file.flush(),
        }
    }
}

/// Replaces the file at `path` by one of these bytes.
///
/// # Errors
/// As [`OutputFile::create`] and [`OutputFile::finish`].
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let mut output = OutputFile::create(path)?;
    output.write_all(bytes)?;
    output.finish(durability)
}

/// Renames a finished file or directory over another one, within a file system.
///
/// # Errors
/// The operating system's error; a directory is replaced only if it is empty.
pub fn rename_over(from: &Path, to: &Path, durability: Durability) -> io::Result<()> {
    std::fs::rename(from, to)?;
    if durability == Durability::Synced { sync_directory(directory_of(to)) } else { Ok(()) }
}

/// Opens and truncates a file that others may read while it grows, such as a trace.
///
/// # Errors
/// As [`OutputFile::create`].
pub fn create_growing(path: &Path) -> io::Result<File> {
    match resolve(path)? {
        Destination::File(target) => File::create(target),
        Destination::Stream(file) => Ok(file),
    }
}

/// Opens a file for reading and appending, and creates it if it does not exist. Refuses streams, which cannot be read
/// again.
///
/// # Errors
/// As [`OutputFile::create`], and for every stream.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    match resolve(path)? {
        Destination::File(target) => File::options().read(true).append(true).create(true).open(target),
        Destination::Stream(_) => Err(io::Error::other("not a regular file: it cannot be read again")),
    }
}

/// Creates a directory and its parents. A link to a missing directory is followed and leads to it afterwards.
///
/// # Errors
/// An existing file of that name, or the operating system's error.
pub fn create_directory(path: &Path) -> io::Result<()> {
    match std::fs::create_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match resolve(path)? {
            Destination::File(target) if !target.exists() => std::fs::create_dir_all(target),
            _ => Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory")),
        },
        made => made,
    }
}

/// Refuses an output that is one of the inputs of the same command, under the same or another name.
///
/// # Errors
/// Both names.
pub fn check_not_input<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    match inputs.into_iter().find(|input| is_same_file(output, input)) {
        Some(input) => {
            let (output, input) = (output.display(), input.display());
            Err(Error::invalid(format!("`{output}` is `{input}`, which this command reads")).with_hint("another name"))
        }
        None => Ok(()),
    }
}

/// Returns whether two paths lead to the same file or directory.
#[cfg(unix)]
fn is_same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |path: &Path| {
        let meta = std::fs::metadata(path).ok().filter(|meta| meta.is_file() || meta.is_dir())?;
        Some((meta.dev(), meta.ino()))
    };
    inode(a).is_some_and(|found| inode(b) == Some(found))
}

#[cfg(not(unix))]
fn is_same_file(a: &Path, b: &Path) -> bool {
    a.canonicalize().is_ok_and(|path| b.canonicalize().is_ok_and(|other| path == other))
}

/// Creates a temporary file in the directory of `target`, with the permissions of `target` or of an ordinary new file.
fn temporary(target: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The error's text without the temporary name, which the user did not choose.
    let file = builder.tempfile_in(directory_of(target)).map_err(|error| match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    })?;
    if let Ok(meta) = std::fs::metadata(target) {
        file.as_file().set_permissions(meta.permissions())?;
    }
    Ok(file)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs a directory, so that a rename in it survives a loss of power. A directory that may be written to and not read,
/// or a file system without such a sync, is no error: the file itself has been synced.
#[cfg(unix)]
fn sync_directory(dir: &Path) -> io::Result<()> {
    let Ok(dir) = File::open(dir) else { return Ok(()) };
    match dir.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Does nothing: directories are not opened as files.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("a directory");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn links_are_written_through_and_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("real/below")).expect("ours");
        std::fs::write(at("real/old"), "old").expect("ours");
        std::fs::set_permissions(at("real/old"), PermissionsExt::from_mode(0o640)).expect("ours");
        // A link to a link, a link to nothing yet, and one of a directory that is a link itself.
        symlink("real/old", at("one")).expect("ours");
        symlink("one", at("two")).expect("ours");
        symlink("real/new", at("dangling")).expect("ours");
        symlink("real/below", at("parent")).expect("ours");
        symlink("../made", at("real/below/up")).expect("ours");
        for (name, target) in [("two", "real/old"), ("dangling", "real/new"), ("parent/up", "real/made")] {
            replace(&at(name), name.as_bytes(), Durability::Renamed).expect(name);
            assert!(std::fs::symlink_metadata(at(name)).expect(name).is_symlink(), "{name}");
            assert_eq!(std::fs::read_to_string(at(target)).expect(name), name);
        }
        assert!(at("one").is_symlink());
        assert_eq!(std::fs::metadata(at("real/old")).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(names(&at("real")), ["below", "made", "new", "old"], "nothing unfinished is left");
        symlink("ring-b", at("ring-a")).expect("ours");
        symlink("ring-a", at("ring-b")).expect("ours");
        let error = replace(&at("ring-a"), b"x", Durability::Renamed).expect_err("a ring").to_string();
        assert_eq!(error, "links lead to each other in a ring");
        symlink("far/away", at("directory")).expect("ours");
        create_directory(&at("directory")).expect("room");
        assert!(at("far/away").is_dir() && at("directory").is_symlink());
    }

    #[test]
    fn an_output_is_not_an_input_by_another_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("in"), "x").expect("ours");
        symlink("in", at("link")).expect("ours");
        std::fs::hard_link(at("in"), at("hard")).expect("ours");
        let input = at("in");
        for name in ["in", "link", "hard"] {
            let error = check_not_input(&at(name), [input.as_path()]).expect_err(name).to_string();
            let (output, input) = (at(name), input.display());
            let output = output.display();
            assert_eq!(error, format!("`{output}` is `{input}`, which this command reads; hint: another name"));
        }
        assert!(check_not_input(&at("new"), [input.as_path(), &at("gone")]).is_ok());
        assert!(check_not_input(Path::new("/dev/null"), [Path::new("/dev/null")]).is_ok(), "nothing is lost there");
    }

    #[test]
    fn pipes_sockets_devices_and_directories_are_not_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().expect("a system with pipes");
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
        symlink("pipe", at("link")).expect("ours");
        for (name, what) in [
            ("pipe", "a pipe that nobody reads"),
            ("link", "a pipe that nobody reads"),
            ("socket", "a socket"),
            ("", "a directory"),
        ] {
            for error in [
                replace(&at(name), b"x", Durability::Synced).expect_err(name),
                create_growing(&at(name)).expect_err(name),
                open_to_append(&at(name)).expect_err(name),
            ] {
                assert_eq!(error.to_string(), format!("{what} cannot be written to; hint: name a file"));
            }
        }
        let kind = |path: &Path| std::fs::symlink_metadata(path).expect("there").file_type();
        assert!(kind(&at("pipe")).is_fifo() && kind(&at("socket")).is_socket() && kind(&at("link")).is_symlink());
        symlink("/dev/null", at("null")).expect("ours");
        replace(&at("null"), b"x", Durability::Synced).expect("it takes anything");
        assert!(kind(Path::new("/dev/null")).is_char_device() && at("null").is_symlink());
        assert!(open_to_append(&at("null")).is_err());
    }

    #[test]
    fn a_pipe_with_a_reader_receives_all_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("a system with pipes").success());
        // Open for both, so that neither side waits for the other.
        let mut reader = File::options().read(true).write(true).open(&pipe).expect("ours");
        replace(&pipe, b"all of it", Durability::Synced).expect("somebody reads");
        let mut found = [0; 9];
        io::Read::read_exact(&mut reader, &mut found).expect("it was written");
        assert_eq!(&found, b"all of it");
    }

    #[test]
    fn a_descriptor_of_this_process_is_appended_to() {
        let mut file = tempfile::tempfile().expect("room");
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        replace(Path::new(&path), b"one", Durability::Renamed).expect("it is open");
        replace(Path::new(&path), b"two", Durability::Renamed).expect("it is open");
        let mut text = String::new();
        io::Seek::rewind(&mut file).expect("a file");
        io::Read::read_to_string(&mut file, &mut text).expect("text");
        assert_eq!(text, "onetwo");
    }
}
