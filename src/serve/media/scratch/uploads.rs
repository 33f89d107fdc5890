//! Uploaded files, each found by its id within the scope of the client that sent it. An upload expires an hour after
//! its last use; a request that uses it keeps its file until the request ends.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Kind, Result};
use crate::exec::lock;

use super::{ScratchFile, ScratchWriter, random_name};

/// Time after its last use at which an upload expires.
const EXPIRY: Duration = Duration::from_secs(3600);

/// An upload as its client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Id, such as `vid_5f...`: 32 random digits.
    pub id: String,
    /// Number of bytes.
    pub n_bytes: u64,
    /// Time at which the upload expires, unless it is used.
    pub expires_at: SystemTime,
}

/// Uploads by id.
#[derive(Debug, Default)]
pub(super) struct UploadTable(HashMap<String, UploadEntry>);

#[derive(Debug)]
struct UploadEntry {
    file: Arc<ScratchFile>,
    scope: String,
    last_used: Instant,
}

impl UploadTable {
    /// Removes the uploads that are expired at `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|_, entry| now.saturating_duration_since(entry.last_used) < EXPIRY);
    }

    /// Returns the file of an upload of a scope, and marks it as used at `now`.
    pub(super) fn get(&mut self, id: &str, scope: &str, now: Instant) -> Result<Arc<ScratchFile>> {
        self.expire(now);
        let found = self.0.get_mut(id).filter(|entry| entry.scope == scope);
        let entry = found.ok_or_else(|| unknown(id))?;
        entry.last_used = now;
        Ok(entry.file.clone())
    }

    /// Removes an upload of a scope.
    pub(super) fn remove(&mut self, id: &str, scope: &str) -> Result<()> {
        match self.0.get(id) {
            Some(entry) if entry.scope == scope => {
                self.0.remove(id);
                Ok(())
            }
            _ => Err(unknown(id)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Returns the error of an id that is not in the scope; whether another scope has it is not said.
fn unknown(id: &str) -> Error {
    const SHOWN: usize = 64;
    let shown: String = id.chars().take(SHOWN).collect();
    Error::new(Kind::NotFound, format!("unknown upload `{shown}`"))
        .with_hint("uploads expire an hour after their last use")
}

/// An upload that is being received. Dropped unfinished, it is removed.
#[derive(Debug)]
pub struct UploadWriter {
    pub(super) writer: ScratchWriter,
    pub(super) scope: String,
    pub(super) table: Arc<Mutex<UploadTable>>,
}

impl UploadWriter {
    /// Reserves the bytes of an upload whose length is known.
    ///
    /// # Errors
    /// As [`ScratchWriter::expect`].
    pub fn expect(&mut self, n_bytes: u64) -> Result<()> {
        self.writer.expect(n_bytes)
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// As [`ScratchWriter::push`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.push(bytes)
    }

    /// Ends the upload; from now on its id is known.
    ///
    /// # Errors
    /// As [`ScratchWriter::finish`].
    pub fn finish(self) -> Result<Upload> {
        let file = Arc::new(self.writer.finish()?);
        let upload = Upload {
            id: format!("vid_{}", random_name()),
            n_bytes: file.n_bytes(),
            expires_at: SystemTime::now() + EXPIRY,
        };
        let entry = UploadEntry { file, scope: self.scope, last_used: Instant::now() };
        lock(&self.table).0.insert(upload.id.clone(), entry);
        Ok(upload)
    }
}

impl Write for UploadWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scratch;
    use super::*;

    fn upload(scratch: &Scratch, scope: &str, bytes: &[u8]) -> Upload {
        let mut writer = scratch.upload(scope, 1 << 20).expect("room");
        writer.push(bytes).expect("room");
        writer.finish().expect("not empty")
    }

    #[test]
    fn an_upload_is_found_within_its_scope_alone() {
        let root = tempfile::tempdir().expect("room");
        let scratch = Scratch::open(root.path(), 1 << 20).expect("room");
        let one = upload(&scratch, "alice", b"video");
        assert_eq!((one.id.len(), one.n_bytes), (4 + 32, 5));
        let file = scratch.get(&one.id, "alice").expect("it is there");
        assert_eq!(std::fs::read(file.path()).expect("there"), b"video");
        let other = scratch.get(&one.id, "bob").expect_err("of another client");
        let none = scratch.get("vid_0", "bob").expect_err("of nobody");
        assert_eq!(other.to_string().replace(&one.id, "vid_0"), none.to_string());
        assert!(scratch.remove(&one.id, "bob").is_err());
        scratch.remove(&one.id, "alice").expect("it is there");
        assert!(scratch.get(&one.id, "alice").is_err());
        // A request in progress keeps the file.
        let path = file.path().to_owned();
        assert!(path.exists());
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn an_upload_expires_an_hour_after_its_last_use() {
        let root = tempfile::tempdir().expect("room");
        let scratch = Scratch::open(root.path(), 1 << 20).expect("room");
        let id = upload(&scratch, "", b"video").id;
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let mut table = lock(&scratch.uploads);
        assert!(table.get(&id, "", at(50)).is_ok());
        assert!(table.get(&id, "", at(100)).is_ok(), "used after 50 minutes");
        table.expire(at(159));
        assert_eq!(table.len(), 1);
        assert!(table.get(&id, "", at(160)).is_err());
        assert_eq!(table.len(), 0);
        drop(table);
        assert_eq!(scratch.usage().n_bytes, 0);
    }
}
