//! Directory of one process below the root of a scratch, with a lock beside it. The operating system releases the lock
//! when the process ends, however it ends; the next process to start then removes the directory.
//!
//! The lock is taken before the directory is made, and removed after it: a directory without a lock cannot be left.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Prefix of the names below the root. Nothing else there is touched.
const PREFIX: &str = "vidense-serve-";
/// Ending of the name of a lock.
const LOCK: &str = ".lock";
/// Attempts to find a name that no other process removes as left behind.
const N_ATTEMPTS: usize = 16;

/// Directory of this process, removed with all files when dropped.
#[derive(Debug)]
pub(super) struct ProcessDirectory {
    path: PathBuf,
    lock_path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl ProcessDirectory {
    /// Creates a directory below `root`, and removes those of processes that have ended.
    ///
    /// # Errors
    /// The operating system's, and a file system without locks.
    pub(super) fn create(root: &Path) -> Result<Self> {
        let io = Error::io(root);
        make_directory(root, true).map_err(&io)?;
        let root = root.canonicalize().map_err(&io)?;
        remove_left(&root).map_err(&io)?;
        for _ in 0..N_ATTEMPTS {
            let name = format!("{PREFIX}{}-{}", std::process::id(), super::random_name());
            let lock_path = root.join(format!("{name}{LOCK}"));
            let lock = match File::options().write(true).create_new(true).open(&lock_path) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::io(&lock_path)(error)),
            };
            if !is_locked(&lock, &lock_path)? {
                continue;
            }
            let path = root.join(name);
            make_directory(&path, false).map_err(Error::io(&path))?;
            return Ok(Self { path, lock_path, _lock: lock });
        }
        Err(Error::new(Kind::Unreadable, "other processes remove each directory that is made").about(root))
    }

    /// Path of the directory, absolute and without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ProcessDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Locks a new file; returns whether it is still there, and not removed by a process that found it unlocked.
fn is_locked(lock: &File, path: &Path) -> Result<bool> {
    match lock.try_lock() {
        Ok(()) => Ok(is_same(lock, path)),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => {
            let _ = std::fs::remove_file(path);
            Err(Error::io(path)(error).with_hint("--scratch on a file system with locks"))
        }
    }
}

#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let (Ok(own), Ok(there)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
    inode(own) == inode(there)
}

#[cfg(not(unix))]
fn is_same(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Removes the directories whose locks are free.
fn remove_left(root: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(LOCK)) else { continue };
        // A link is not followed.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !name.starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = File::options().write(true).open(entry.path()) else { continue };
        if lock.try_lock().is_ok() {
            let _ = std::fs::remove_dir_all(root.join(name));
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Creates a directory that only this user reads.
fn make_directory(path: &Path, with_parents: bool) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(with_parents);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(root).expect("a directory");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_of_a_dead_process_is_removed_and_that_of_a_living_one_stays() {
        let root = tempfile::tempdir().expect("room");
        let at = |name: &str| root.path().join(name);
        let living = ProcessDirectory::create(root.path()).expect("room");
        std::fs::write(living.path().join("video"), "x").expect("ours");
        // As after `kill -9`: the lock is free.
        std::fs::create_dir_all(at("vidense-serve-1-a/m0")).expect("ours");
        std::fs::write(at("vidense-serve-1-a/m0/000000.jpg"), "x").expect("ours");
        std::fs::write(at("vidense-serve-1-a.lock"), "").expect("ours");
        // Files of others.
        std::fs::write(at("other.lock"), "").expect("ours");
        std::fs::create_dir(at("vidense-serve-mine")).expect("ours");
        let second = ProcessDirectory::create(root.path()).expect("room");
        assert!(!at("vidense-serve-1-a").exists() && !at("vidense-serve-1-a.lock").exists());
        assert!(living.path().join("video").exists());
        drop((living, second));
        assert_eq!(names(root.path()), ["other.lock", "vidense-serve-mine"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_below_the_root_are_not_followed() {
        let (root, outside) = (tempfile::tempdir().expect("room"), tempfile::tempdir().expect("room"));
        let canary = outside.path().join("canary");
        std::fs::write(&canary, "x").expect("ours");
        let link = |target: &Path, name: &str| {
            std::os::unix::fs::symlink(target, root.path().join(name)).expect("ours");
        };
        link(outside.path(), "vidense-serve-1-a");
        std::fs::write(root.path().join("vidense-serve-1-a.lock"), "").expect("ours");
        link(outside.path(), "vidense-serve-1-b");
        link(&canary, "vidense-serve-1-b.lock");
        drop(ProcessDirectory::create(root.path()).expect("room"));
        assert!(canary.exists());
        let mode = std::os::unix::fs::PermissionsExt::mode;
        let made = ProcessDirectory::create(&root.path().join("new/below")).expect("room");
        assert_eq!(mode(&std::fs::metadata(made.path()).expect("there").permissions()) & 0o777, 0o700);
    }
}
