//! Bytes of a scratch: the limit of all files, of which uploads have a share, and the uploads of one scope a smaller
//! one. Media of requests always find room beside the uploads, and no client takes the room of all others.
//!
//! Called by the reservations of files; which upload makes room for another is decided in `uploads`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::process::ProcessDirectory;
use super::too_large;
use crate::error::{Error, Kind, Result};
use crate::exec::lock;

/// Maximum number of small contents that wait in memory at once.
const MAX_IN_MEMORY: usize = 1024;

/// Directory and limit, which every file keeps alive.
#[derive(Debug)]
pub(super) struct ScratchSpace {
    directory: ProcessDirectory,
    limit: u64,
    in_use: Mutex<BytesInUse>,
    n_names: AtomicU64,
    n_in_memory: AtomicUsize,
}

/// Place of a small content in memory, free for another when it is dropped.
#[derive(Debug)]
pub(super) struct MemoryPlace(Arc<ScratchSpace>);

impl MemoryPlace {
    /// Takes a place, if one is free.
    pub(super) fn take(space: &Arc<ScratchSpace>) -> Option<Self> {
        let next = |n: usize| (n < MAX_IN_MEMORY).then_some(n + 1);
        let taken = space.n_in_memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.is_ok().then(|| Self(space.clone()))
    }
}

impl Drop for MemoryPlace {
    fn drop(&mut self) {
        self.0.n_in_memory.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reserved bytes.
#[derive(Debug, Default)]
struct BytesInUse {
    all: u64,
    uploads: u64,
    /// Bytes of the uploads of each scope, removed ones that a request still uses included.
    by_scope: HashMap<Arc<str>, u64>,
}

/// Growth of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth<'s> {
    pub(super) before: u64,
    pub(super) after: u64,
    /// Scope of the client whose upload the file is.
    pub(super) scope: Option<&'s Arc<str>>,
}

/// Bytes in use beside their limit, and the files that they belong to.
struct Share {
    used: u64,
    limit: u64,
    owner: &'static str,
}

impl ScratchSpace {
    pub(super) fn new(directory: ProcessDirectory, limit: u64) -> Self {
        Self {
            directory,
            limit,
            in_use: Mutex::default(),
            n_names: AtomicU64::new(0),
            n_in_memory: AtomicUsize::new(0),
        }
    }

    /// Takes the bytes by which a file grows.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] for a file over the limit by itself, [`Kind::Busy`] while other files take the room.
    pub(super) fn take(&self, growth: Growth) -> Result<()> {
        let Growth { before, after, scope } = growth;
        if after > self.limit {
            return Err(too_large(after, self.limit).about("scratch"));
        }
        if scope.is_some() && after > self.scope_limit() {
            let error = too_large(after, self.scope_limit()).with_hint("--scratch-limit of the server");
            return Err(error.about("uploads of one client"));
        }
        let grown = after - before;
        let mut in_use = lock(&self.in_use);
        if let Some(share) = self.shares(&in_use, scope).into_iter().find(|share| share.missing(grown) > 0) {
            let rule = format!("{} of {} bytes{} are in use", share.used, share.limit, share.owner);
            return Err(Error::new(Kind::Busy, rule).with_hint("try again later").about("scratch"));
        }
        in_use.all += grown;
        if let Some(scope) = scope {
            in_use.uploads += grown;
            *in_use.by_scope.entry(scope.clone()).or_default() += grown;
        }
        Ok(())
    }

    /// Returns the bytes that must be released before a file can grow.
    pub(super) fn missing(&self, growth: Growth) -> u64 {
        let Growth { before, after, scope } = growth;
        let shares = self.shares(&lock(&self.in_use), scope);
        shares.iter().map(|share| share.missing(after.saturating_sub(before))).max().unwrap_or(0)
    }

    /// Releases the bytes of a file.
    pub(super) fn release(&self, n_bytes: u64, scope: Option<&Arc<str>>) {
        let mut in_use = lock(&self.in_use);
        in_use.all -= n_bytes;
        let Some(scope) = scope else { return };
        in_use.uploads -= n_bytes;
        if let Some(of_scope) = in_use.by_scope.get_mut(scope) {
            *of_scope -= n_bytes;
            if *of_scope == 0 {
                in_use.by_scope.remove(scope);
            }
        }
    }

    /// Returns a new path.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join(format!("m{:08}", self.n_names.fetch_add(1, Ordering::Relaxed)))
    }

    /// Number of reserved bytes.
    pub(super) fn n_bytes(&self) -> u64 {
        lock(&self.in_use).all
    }

    /// Limit of the bytes of all files.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Limit of the bytes of the uploads of one scope: half of all.
    fn scope_limit(&self) -> u64 {
        self.limit / 2
    }

    /// Limit of the bytes of all uploads: three quarters of all.
    fn uploads_limit(&self) -> u64 {
        self.limit - self.limit / 4
    }

    /// Returns the shares that a file belongs to, the narrowest first.
    fn shares(&self, in_use: &BytesInUse, scope: Option<&Arc<str>>) -> Vec<Share> {
        let all = Share { used: in_use.all, limit: self.limit, owner: "" };
        let Some(scope) = scope else { return vec![all] };
        let used = in_use.by_scope.get(scope).copied().unwrap_or(0);
        let of_scope = Share { used, limit: self.scope_limit(), owner: " for the uploads of one client" };
        let uploads = Share { used: in_use.uploads, limit: self.uploads_limit(), owner: " for uploads" };
        vec![of_scope, uploads, all]
    }
}

impl Share {
    /// Returns the bytes over the limit after a growth.
    fn missing(&self, grown: u64) -> u64 {
        self.used.saturating_add(grown).saturating_sub(self.limit)
    }
}
