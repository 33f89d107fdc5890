//! Lock of a results directory: one writer at a time, named in the lock file. The operating system releases the lock
//! when its holder dies; on network disks that do not share locks between machines, the holder's heartbeat (the time of
//! the file) decides.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files::output::open_to_append;

/// File name of the lock.
pub(super) const LOCK: &str = "lock";
/// Interval of heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Age of the last heartbeat up to which a holder on another machine counts as alive.
const ALIVE: Duration = Duration::from_secs(60);
/// Number of retries while the lock is taken.
const N_RETRIES: u32 = 10;
/// Time between two retries.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Process id.
    pub pid: u32,
    /// Host name of the machine.
    pub host: String,
    /// Begin of the process, in seconds since 1970.
    pub since: u64,
}

impl std::fmt::Display for LockHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

impl LockHolder {
    /// Returns this process, from now on.
    pub fn this() -> Self {
        Self { pid: std::process::id(), host: gethostname::gethostname().to_string_lossy().into_owned(), since: now() }
    }
}

/// Returns the seconds since 1970.
pub(in crate::batch) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A lock held by this process.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// Dropped to end the heartbeat.
    alive: Option<Sender<()>>,
    heartbeat: Option<JoinHandle<()>>,
    /// Process that died while it held the lock.
    pub stale: Option<LockHolder>,
}

impl Lock {
    /// Locks a directory.
    ///
    /// # Errors
    /// [`Error`] when another process holds the lock.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(LOCK);
        let io = Error::io(&path);
        let mut file = open_to_append(&path).map_err(&io)?;
        let locked = |holder: Option<LockHolder>| {
            let holder = holder.map_or("another process".to_owned(), |holder| holder.to_string());
            let error = Error::invalid(format!("{holder} writes there"));
            error.with_hint("wait for it, or write elsewhere").about(dir)
        };
        let mut n_retries = 0;
        let has_locks = loop {
            match file.try_lock() {
                Ok(()) => break true,
                // A reader of the state holds it for a moment.
                Err(TryLockError::WouldBlock) if n_retries < N_RETRIES => {
                    n_retries += 1;
                    std::thread::sleep(RETRY_DELAY);
                }
                Err(TryLockError::WouldBlock) => return Err(locked(read_holder(&mut file))),
                // A disk without locks: the heartbeat decides.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => break false,
                Err(TryLockError::Error(error)) => return Err(io(error)),
            }
        };
        let this = LockHolder::this();
        let stale = read_holder(&mut file);
        let last_heartbeat = file.metadata().and_then(|meta| meta.modified()).map_err(&io)?;
        if let Some(holder) = stale.clone().filter(|holder| holder.host != this.host || !has_locks)
            && is_alive(last_heartbeat)
        {
            return Err(locked(Some(holder)));
        }
        let text = serde_json::to_vec(&this).map_err(io::Error::from).map_err(&io)?;
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text));
        written.map_err(&io)?;
        let (alive, ended) = bounded::<()>(0);
        let lock_file = file.try_clone().map_err(&io)?;
        let heartbeat = std::thread::Builder::new().name("lock".to_owned()).spawn(move || {
            while ended.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                let _ = lock_file.set_modified(SystemTime::now());
            }
        });
        Ok(Self { file, alive: Some(alive), heartbeat: Some(heartbeat.map_err(&io)?), stale })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.alive = None;
        if let Some(heartbeat) = self.heartbeat.take() {
            let _ = heartbeat.join();
        }
        // The file stays: removing it could remove the lock of the next holder.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

/// Returns the process that holds the lock of a directory, if there is one.
pub fn holder(dir: &Path) -> Option<LockHolder> {
    let mut file = File::open(dir.join(LOCK)).ok()?;
    let holder = read_holder(&mut file)?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(holder),
        _ => {
            let last_heartbeat = file.metadata().and_then(|meta| meta.modified()).ok()?;
            let is_remote = holder.host != LockHolder::this().host;
            (is_remote && is_alive(last_heartbeat)).then_some(holder)
        }
    }
}

/// Returns whether a heartbeat is recent; one in the future is of a machine whose clock is ahead.
fn is_alive(last_heartbeat: SystemTime) -> bool {
    last_heartbeat.elapsed().map_or(true, |age| age < ALIVE)
}

fn read_holder(file: &mut File) -> Option<LockHolder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(1 << 12).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, host: &str, age: i64) {
        let holder = LockHolder { pid: 7, host: host.to_owned(), since: 0 };
        let path = dir.join(LOCK);
        std::fs::write(&path, serde_json::to_vec(&holder).expect("texts")).expect("ours");
        let file = File::options().append(true).open(&path).expect("ours");
        let now = i64::try_from(now()).expect("this century");
        let sign = SystemTime::UNIX_EPOCH + Duration::from_secs((now - age).unsigned_abs());
        file.set_modified(sign).expect("ours");
    }

    #[test]
    fn a_lock_has_one_holder_and_names_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = Lock::take(dir.path()).expect("nobody holds it");
        assert_eq!(holder(dir.path()).map(|holder| holder.pid), Some(std::process::id()));
        let error = Lock::take(dir.path()).expect_err("it is held").to_string();
        assert!(error.contains(&format!("process {} on ", std::process::id())), "{error}");
        drop(lock);
        assert_eq!(holder(dir.path()), None);
        assert_eq!(Lock::take(dir.path()).expect("it is free").stale, None);
    }

    #[test]
    fn a_dead_holder_is_replaced_and_a_live_remote_one_is_respected() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), &LockHolder::this().host, 0);
        let stale = |lock: Lock| lock.stale.clone().map(|holder| holder.pid);
        assert_eq!(stale(Lock::take(dir.path()).expect("its holder is gone")), Some(7));
        // Its clock may be ahead.
        for age in [-30, 10] {
            write(dir.path(), "elsewhere.example", age);
            assert!(holder(dir.path()).is_some() && Lock::take(dir.path()).is_err(), "{age}");
        }
        assert!(
            Lock::take(dir.path()).expect_err("a sign of life").to_string().contains("process 7 on elsewhere.example")
        );
        write(dir.path(), "elsewhere.example", 100);
        assert!(Lock::take(dir.path()).expect("no sign for long").stale.is_some());
    }
}
