//! Outputs: files that are written beside their place, and renamed over it once they are whole.
//!
//! A link is written through: it stays, and the file that it leads to is replaced, or made if it leads to nothing yet.
//! A pipe or a character device, such as `/dev/null`, is written to and never replaced; `/dev/stdout` and `/dev/fd/N`
//! are the open files of this process. A directory, a socket, a block device and a pipe that nobody reads are refused.
//! All output for the user goes through this file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Links that may lead to each other, as Linux counts.
const MAX_LINKS: usize = 40;
/// Beginning of the names of unfinished files.
pub const UNFINISHED: &str = ".tmp";

/// How far a finished file has come when [`Output::finish`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Others find it; a loss of power may lose it.
    Rename,
    /// The bytes are on the disk.
    Disk,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Output {
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    /// Beside its place.
    Beside { file: BufWriter<NamedTempFile>, target: PathBuf },
    /// Where nothing can be replaced.
    Stream(BufWriter<File>),
}

/// Where an output goes, once links are followed.
enum Destination {
    /// A file that is there, or is to be.
    File(PathBuf),
    /// A pipe, a device, or an open file of this process.
    Stream(File),
}

impl Output {
    /// Begins a file. Until it is finished, whatever was at `path` stays as it is.
    ///
    /// # Errors
    /// When there is no place for it, or what is there is no file and cannot be written to.
    pub fn create(path: &Path) -> io::Result<Self> {
        let sink = match resolve(path)? {
            Destination::File(target) => Sink::Beside { file: BufWriter::new(beside(&target)?), target },
            Destination::Stream(file) => Sink::Stream(BufWriter::new(file)),
        };
        Ok(Self { sink })
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// When the disk refuses; what was there before then stands.
    pub fn finish(self, flush: Flush) -> io::Result<()> {
        match self.sink {
            Sink::Stream(mut file) => file.flush(),
            Sink::Beside { file, target } => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                if flush == Flush::Disk {
                    file.as_file().sync_all()?;
                }
                file.persist(&target).map_err(|error| error.error)?;
                Ok(())
            }
        }
    }

    /// The unfinished file, for a library that writes by name; none for a stream.
    pub fn path(&self) -> Option<&Path> {
        match &self.sink {
            Sink::Beside { file, .. } => Some(file.get_ref().path()),
            Sink::Stream(_) => None,
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Beside { file, .. } => file.write(bytes),
            Sink::Stream(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Beside { file, .. } => file.flush(),
            Sink::Stream(file) => file.flush(),
        }
    }
}

/// Writes a whole file.
///
/// # Errors
/// As [`Output::create`] and [`Output::finish`].
pub fn write(path: &Path, bytes: &[u8], flush: Flush) -> io::Result<()> {
    let mut output = Output::create(path)?;
    output.write_all(bytes)?;
    output.finish(flush)
}

/// Opens a file that others may read while it grows, and empties it.
///
/// # Errors
/// As [`Output::create`].
pub fn create_growing(path: &Path) -> io::Result<File> {
    match resolve(path)? {
        Destination::File(target) => File::create(target),
        Destination::Stream(file) => Ok(file),
    }
}

/// Opens a file that is read and added to, and makes it if it is not there. A stream cannot be read again, so it is
/// refused.
///
/// # Errors
/// As [`Output::create`], and for every stream.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    match resolve(path)? {
        Destination::File(target) => OpenOptions::new().read(true).append(true).create(true).open(target),
        Destination::Stream(_) => Err(io::Error::other("not a regular file: it cannot be read again")),
    }
}

/// Makes a directory and those above it; a link that leads to nothing yet leads to it afterwards.
///
/// # Errors
/// When something else is there, or the disk refuses.
pub fn create_directory(path: &Path) -> io::Result<()> {
    match std::fs::create_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match resolve(path)? {
            Destination::File(target) if !target.exists() => std::fs::create_dir_all(target),
            _ => Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory")),
        },
        made => made,
    }
}

/// Refuses an output that is one of the files or directories that the same command reads, by whatever name.
///
/// # Errors
/// In words, with both names.
pub fn check_apart<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<(), String> {
    match inputs.into_iter().find(|input| is_same(output, input)) {
        Some(input) => {
            let (output, input) = (output.display(), input.display());
            Err(format!("`{output}` is `{input}`, which this command reads; hint: another name"))
        }
        None => Ok(()),
    }
}

/// Whether two names lead to the same file or directory.
#[cfg(unix)]
fn is_same(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |path: &Path| {
        let meta = std::fs::metadata(path).ok().filter(|meta| meta.is_file() || meta.is_dir())?;
        Some((meta.dev(), meta.ino()))
    };
    place(one).is_some_and(|found| place(other) == Some(found))
}

/// Whether two names lead to the same file or directory.
#[cfg(not(unix))]
fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|path| other.canonicalize().is_ok_and(|other| path == other))
}

/// Whether an output of this name goes to standard output.
pub fn is_standard_output(path: &Path) -> bool {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        if descriptor(&target) == Some(1) {
            return true;
        }
        let Ok(next) = std::fs::read_link(&target) else { return false };
        target = behind(&target, &next);
    }
    false
}

/// An unfinished file in the directory of `target`, with the permissions that `target` has or an ordinary new file
/// gets.
fn beside(target: &Path) -> io::Result<NamedTempFile> {
    let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The name of the unfinished file says nothing to whoever named another one.
    let file = builder.tempfile_in(dir).map_err(|error| match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    })?;
    if let Ok(meta) = std::fs::metadata(target) {
        file.as_file().set_permissions(meta.permissions())?;
    }
    Ok(file)
}

/// Follows links to where an output goes.
fn resolve(path: &Path) -> io::Result<Destination> {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        if let Some(number) = descriptor(&target) {
            return open_descriptor(number).map(Destination::Stream);
        }
        match std::fs::symlink_metadata(&target) {
            Ok(meta) if meta.is_symlink() => target = behind(&target, &std::fs::read_link(&target)?),
            Ok(meta) if meta.is_file() => return Ok(Destination::File(target)),
            Ok(meta) => return open_stream(&target, &meta).map(Destination::Stream),
            Err(error) if error.kind() == io::ErrorKind::NotFound && target.file_name().is_some() => {
                return Ok(Destination::File(target));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("links lead to each other in a ring"))
}

/// Where a link leads. `..` is left to the system, which takes it from where the link really is.
fn behind(link: &Path, target: &Path) -> PathBuf {
    link.parent().unwrap_or(Path::new("")).join(target)
}

/// The number of an open file of this process that a path names.
fn descriptor(path: &Path) -> Option<i32> {
    let dirs = ["/proc/self/fd", "/dev/fd"];
    let name = dirs.iter().find_map(|dir| path.strip_prefix(dir).ok())?;
    name.to_str()?.parse().ok()
}

#[cfg(unix)]
fn open_descriptor(number: i32) -> io::Result<File> {
    use std::os::fd::BorrowedFd;
    if number < 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: the number is borrowed for one call that copies it; of one that is not open the call only fails.
    let owned = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned();
    owned.map(File::from)
}

#[cfg(not(unix))]
fn open_descriptor(_: i32) -> io::Result<File> {
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(unix)]
fn open_stream(path: &Path, meta: &Metadata) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let kind = meta.file_type();
    let refused = |what: &str| Err(io::Error::other(format!("{what} cannot be written to; hint: name a file")));
    if kind.is_dir() {
        return refused("a directory");
    }
    if kind.is_socket() {
        return refused("a socket");
    }
    if kind.is_block_device() {
        return refused("a block device");
    }
    // Without a reader a pipe would make whoever opens it wait for ever.
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) && kind.is_fifo() => {
            return refused("a pipe that nobody reads");
        }
        opened => opened?,
    };
    // SAFETY: the descriptor is open, and the call changes its flags alone.
    let cleared = unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) >= 0
    };
    if cleared { Ok(file) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(unix))]
fn open_stream(path: &Path, meta: &Metadata) -> io::Result<File> {
    if meta.is_dir() {
        return Err(io::Error::other("a directory cannot be written to; hint: name a file"));
    }
    OpenOptions::new().write(true).open(path)
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
    fn links_stay_and_what_they_lead_to_is_written() {
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
            write(&at(name), name.as_bytes(), Flush::Rename).expect(name);
            assert!(std::fs::symlink_metadata(at(name)).expect(name).is_symlink(), "{name}");
            assert_eq!(std::fs::read_to_string(at(target)).expect(name), name);
        }
        assert!(at("one").is_symlink());
        assert_eq!(std::fs::metadata(at("real/old")).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(names(&at("real")), ["below", "made", "new", "old"], "nothing unfinished is left");
        symlink("ring-b", at("ring-a")).expect("ours");
        symlink("ring-a", at("ring-b")).expect("ours");
        let error = write(&at("ring-a"), b"x", Flush::Rename).expect_err("a ring").to_string();
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
            let error = check_apart(&at(name), [input.as_path()]).expect_err(name);
            let (output, input) = (at(name), input.display());
            let output = output.display();
            assert_eq!(error, format!("`{output}` is `{input}`, which this command reads; hint: another name"));
        }
        assert_eq!(check_apart(&at("new"), [input.as_path(), &at("gone")]), Ok(()));
        assert_eq!(check_apart(Path::new("/dev/null"), [Path::new("/dev/null")]), Ok(()), "nothing is lost there");
    }

    #[test]
    fn what_is_no_file_is_never_replaced() {
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
                write(&at(name), b"x", Flush::Disk).expect_err(name),
                create_growing(&at(name)).expect_err(name),
                open_to_append(&at(name)).expect_err(name),
            ] {
                assert_eq!(error.to_string(), format!("{what} cannot be written to; hint: name a file"));
            }
        }
        let kind = |path: &Path| std::fs::symlink_metadata(path).expect("there").file_type();
        assert!(kind(&at("pipe")).is_fifo() && kind(&at("socket")).is_socket() && kind(&at("link")).is_symlink());
        symlink("/dev/null", at("null")).expect("ours");
        write(&at("null"), b"x", Flush::Disk).expect("it takes anything");
        assert!(kind(Path::new("/dev/null")).is_char_device() && at("null").is_symlink());
        assert!(open_to_append(&at("null")).is_err());
    }

    #[test]
    fn a_pipe_with_a_reader_gets_all_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("a system with pipes").success());
        // Open for both, so that neither side waits for the other.
        let mut reader = OpenOptions::new().read(true).write(true).open(&pipe).expect("ours");
        write(&pipe, b"all of it", Flush::Disk).expect("somebody reads");
        let mut found = [0; 9];
        io::Read::read_exact(&mut reader, &mut found).expect("it was written");
        assert_eq!(&found, b"all of it");
    }

    #[test]
    fn open_files_of_this_process_are_named_by_number() {
        assert_eq!(descriptor(Path::new("/dev/fd/7")), Some(7));
        assert_eq!(descriptor(Path::new("/proc/self/fd/1")), Some(1));
        assert_eq!(descriptor(Path::new("/proc/self/fd")), None);
        assert_eq!(descriptor(Path::new("fd/1")), None);
        let mut file = tempfile::tempfile().expect("room");
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        write(Path::new(&path), b"one", Flush::Rename).expect("it is open");
        write(Path::new(&path), b"two", Flush::Rename).expect("it is open");
        let mut text = String::new();
        io::Seek::rewind(&mut file).expect("a file");
        io::Read::read_to_string(&mut file, &mut text).expect("text");
        assert_eq!(text, "onetwo");
    }
}
