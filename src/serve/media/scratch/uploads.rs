//! Uploaded files, each found by its id within the scope of the client that sent it. An upload expires an hour after
//! its last use, and earlier where its client has no room for another one; a request that uses it keeps its file until
//! the request ends.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Kind, Result};
use crate::exec::lock;

use super::file::Reservation;
use super::space::ScratchSpace;
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
    scope: Arc<str>,
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
        let found = self.0.get_mut(id).filter(|entry| *entry.scope == *scope);
        let entry = found.ok_or_else(|| unknown(id))?;
        entry.last_used = now;
        Ok(entry.file.clone())
    }

    /// Removes an upload of a scope.
    pub(super) fn remove(&mut self, id: &str, scope: &str) -> Result<()> {
        match self.0.get(id) {
            Some(entry) if *entry.scope == *scope => {
                self.0.remove(id);
                Ok(())
            }
            _ => Err(unknown(id)),
        }
    }

    /// Removes uploads of a scope that no request uses, the least recently used first, until `n_bytes` are free.
    /// Removes none and returns false where they have fewer bytes.
    fn make_room(&mut self, n_bytes: u64, scope: &str) -> bool {
        let is_unused = |entry: &UploadEntry| *entry.scope == *scope && Arc::strong_count(&entry.file) == 1;
        let mut unused: Vec<_> = self.0.iter().filter(|(_, entry)| is_unused(entry)).collect();
        unused.sort_by_key(|(_, entry)| entry.last_used);
        let (mut n_free, mut ids) = (0, Vec::new());
        for (id, entry) in unused {
            if n_free >= n_bytes {
                break;
            }
            n_free += entry.file.n_reserved();
            ids.push(id.clone());
        }
        if n_free < n_bytes {
            return false;
        }
        ids.iter().for_each(|id| drop(self.0.remove(id)));
        true
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
        .with_hint("uploads expire an hour after their last use, or where newer ones need their room")
}

/// An upload that is being received. Dropped unfinished, it is removed.
#[derive(Debug)]
pub struct UploadWriter {
    writer: ScratchWriter,
    scope: Arc<str>,
    table: Arc<Mutex<UploadTable>>,
}

impl UploadWriter {
    pub(super) fn create(
        space: &Arc<ScratchSpace>,
        table: &Arc<Mutex<UploadTable>>,
        scope: &str,
        max_bytes: u64,
    ) -> Result<Self> {
        let scope: Arc<str> = scope.into();
        let reservation = Reservation::new(space, Some(scope.clone()));
        let writer = ScratchWriter::create(reservation, space.path(), max_bytes)?;
        let mut upload = Self { writer, scope, table: table.clone() };
        upload.expect(0)?;
        Ok(upload)
    }

    /// Reserves the bytes of an upload whose length is known. Where there is no room, unused uploads of the same scope
    /// are removed, the least recently used first.
    ///
    /// # Errors
    /// As [`ScratchWriter::expect`].
    pub fn expect(&mut self, n_bytes: u64) -> Result<()> {
        let Self { writer, scope, table } = self;
        loop {
            match writer.expect(n_bytes) {
                Err(error) if error.kind() == Kind::Busy => {
                    if !lock(table).make_room(writer.missing(n_bytes), scope) {
                        return Err(error);
                    }
                }
                reserved => return reserved,
            }
        }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// As [`Self::expect`] and [`ScratchWriter::push`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.expect(self.writer.n_bytes().saturating_add(bytes.len() as u64))?;
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
        self.push(bytes).map(|()| bytes.len()).map_err(io::Error::other)
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

    fn try_upload(scratch: &Scratch, scope: &str, n_blocks: usize) -> Result<String> {
        let mut writer = scratch.upload(scope, 1 << 20)?;
        writer.push(&vec![7; n_blocks << 12])?;
        Ok(writer.finish()?.id)
    }

    #[test]
    fn one_client_has_half_of_the_room_and_its_older_uploads_go_first() {
        let root = tempfile::tempdir().expect("room");
        // 16 blocks of 4096 bytes: 8 for a client, 12 for all uploads.
        let scratch = Scratch::open(root.path(), 64 << 10).expect("room");
        let first = try_upload(&scratch, "alice", 3).expect("3 of 8");
        let second = try_upload(&scratch, "alice", 3).expect("6 of 8");
        let used = scratch.get(&first, "alice").expect("it is there");
        let third = try_upload(&scratch, "alice", 3).expect("6 of 8 without the second");
        assert!(scratch.get(&second, "alice").is_err(), "the least recently used");
        // A request uses the first; the third alone has too few bytes, and stays.
        let error = try_upload(&scratch, "alice", 6).expect_err("3 + 6 of 8");
        let expected = "scratch: 28672 of 32768 bytes for the uploads of one client are in use; hint: try again later";
        assert_eq!((error.kind(), error.to_string()), (Kind::Busy, expected.to_owned()));
        assert!(scratch.get(&third, "alice").is_ok());
        let error = try_upload(&scratch, "alice", 9).expect_err("over half");
        assert_eq!(error.kind(), Kind::TooLarge, "{error}");
        assert!(error.to_string().starts_with("uploads of one client: 36864 bytes or more, over the limit of 32768"));
        drop(used);
        assert!(try_upload(&scratch, "alice", 8).is_ok_and(|id| scratch.get(&id, "alice").is_ok()));
        assert_eq!((scratch.usage().n_bytes, scratch.usage().n_uploads), (32 << 10, 1));
    }

    #[test]
    fn requests_find_room_beside_all_uploads() {
        let root = tempfile::tempdir().expect("room");
        let scratch = Scratch::open(root.path(), 64 << 10).expect("room");
        let of_alice = try_upload(&scratch, "alice", 8).expect("8 of 12");
        let of_bob = try_upload(&scratch, "bob", 4).expect("12 of 12");
        let error = try_upload(&scratch, "carol", 1).expect_err("12 of 12");
        let expected = "scratch: 49152 of 49152 bytes for uploads are in use; hint: try again later";
        assert_eq!((error.kind(), error.to_string()), (Kind::Busy, expected.to_owned()));
        let mut of_request = scratch.create(1 << 20).expect("4 blocks are left");
        of_request.push(&[7; 16 << 10]).expect("4 blocks are left");
        assert!(scratch.get(&of_alice, "alice").is_ok() && scratch.get(&of_bob, "bob").is_ok());
        // The older upload of bob makes room for another one, not alice's.
        assert!(try_upload(&scratch, "bob", 2).is_ok() && scratch.get(&of_alice, "alice").is_ok());
        assert!(scratch.get(&of_bob, "bob").is_err());
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
