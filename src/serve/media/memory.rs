//! Bounded memory of media seen before: the content behind a client's `uuid`, and the forecast of a medium, so that a
//! video that was asked about before is not probed again.

use std::collections::HashMap;
use std::hash::Hash;

use crate::error::{Error, Kind, Result};
use crate::pipeline::ExpectedMedium;

use super::key::{ContentHash, MediaKey};
use super::part::MAX_UUID;

/// Entries of each table at most.
const MAX_ENTRIES: usize = 4096;

/// Content behind a `uuid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownContent {
    pub(super) hash: ContentHash,
    /// Number of frames of a list; `None` for a file.
    pub(super) n_listed: Option<usize>,
}

/// Media seen before.
#[derive(Debug, Default)]
pub(super) struct MediaMemory {
    contents: BoundedMap<ScopedUuid, KnownContent>,
    expected: BoundedMap<MediaKey, ExpectedMedium>,
}

/// A client's name for a content, within its scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ScopedUuid {
    scope: String,
    uuid: String,
}

impl ScopedUuid {
    /// Makes the name of a client's `uuid`.
    ///
    /// # Errors
    /// An empty or a very long `uuid`.
    pub(super) fn new(scope: &str, uuid: &str) -> Result<Self> {
        if uuid.is_empty() || uuid.len() > MAX_UUID {
            let error = Error::invalid(format!("invalid uuid of {} bytes", uuid.len()));
            return Err(error.with_hint(format!("from 1 to {MAX_UUID} bytes")));
        }
        Ok(Self { scope: scope.to_owned(), uuid: uuid.to_owned() })
    }
}

impl MediaMemory {
    /// Returns the content of a `uuid`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where it was never sent, or long ago.
    pub(super) fn content(&mut self, name: &ScopedUuid) -> Result<KnownContent> {
        self.contents.get(name).copied().ok_or_else(|| not_kept(&name.uuid))
    }

    /// Checks that a `uuid` names no other content.
    ///
    /// # Errors
    /// Where it does.
    pub(super) fn check(&mut self, name: &ScopedUuid, content: KnownContent) -> Result<()> {
        match self.contents.get(name) {
            Some(known) if *known != content => {
                let error = Error::invalid(format!("uuid `{}` was sent with other content before", name.uuid));
                Err(error.with_hint("a uuid of its own for each content"))
            }
            _ => Ok(()),
        }
    }

    /// Remembers the content of a `uuid`.
    ///
    /// # Errors
    /// As [`Self::check`]: another request may have sent other content meanwhile.
    pub(super) fn remember_content(&mut self, name: ScopedUuid, content: KnownContent) -> Result<()> {
        self.check(&name, content)?;
        self.contents.insert(name, content);
        Ok(())
    }

    /// Returns the forecast of a medium.
    pub(super) fn expected(&mut self, key: &MediaKey) -> Option<ExpectedMedium> {
        self.expected.get(key).copied()
    }

    /// Remembers the forecast of a medium.
    pub(super) fn remember_expected(&mut self, key: MediaKey, expected: ExpectedMedium) {
        self.expected.insert(key, expected);
    }
}

/// Returns the error of a `uuid` whose content must be sent again.
pub(super) fn not_kept(uuid: &str) -> Error {
    let error = Error::new(Kind::NotFound, format!("the content of uuid `{uuid}` is not kept"));
    error.with_hint("send the content with its uuid")
}

/// Map that forgets the least recently used entries over [`MAX_ENTRIES`].
#[derive(Debug)]
struct BoundedMap<K, V> {
    entries: HashMap<K, UsedEntry<V>>,
    n_uses: u64,
}

#[derive(Debug)]
struct UsedEntry<V> {
    value: V,
    /// Number of uses of the map at the last use of the entry.
    last_use: u64,
}

impl<K, V> Default for BoundedMap<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), n_uses: 0 }
    }
}

impl<K: Eq + Hash, V> BoundedMap<K, V> {
    fn get(&mut self, key: &K) -> Option<&V> {
        self.n_uses += 1;
        let entry = self.entries.get_mut(key)?;
        entry.last_use = self.n_uses;
        Some(&entry.value)
    }

    fn insert(&mut self, key: K, value: V) {
        self.n_uses += 1;
        self.entries.insert(key, UsedEntry { value, last_use: self.n_uses });
        if self.entries.len() > MAX_ENTRIES {
            // The older half at once: a scan of the map is rare.
            let mut uses: Vec<u64> = self.entries.values().map(|entry| entry.last_use).collect();
            uses.sort_unstable();
            let median = uses[uses.len() / 2];
            self.entries.retain(|_, entry| entry.last_use >= median);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> KnownContent {
        let hash = ContentHash::of_bytes(blake3::Hasher::new().update(text.as_bytes()));
        KnownContent { hash, n_listed: None }
    }

    #[test]
    fn a_uuid_names_one_content_within_its_scope() {
        let mut memory = MediaMemory::default();
        let name = |scope: &str| ScopedUuid::new(scope, "clip").expect("valid");
        assert_eq!(memory.content(&name("alice")).expect_err("never sent").kind(), Kind::NotFound);
        memory.remember_content(name("alice"), content("a")).expect("new");
        assert!(memory.remember_content(name("alice"), content("b")).is_err(), "another request was first");
        assert_eq!(memory.content(&name("alice")).expect("sent"), content("a"));
        assert!(memory.content(&name("bob")).is_err());
        assert!(memory.check(&name("alice"), content("a")).is_ok() && memory.check(&name("bob"), content("b")).is_ok());
        let error = memory.check(&name("alice"), content("b")).expect_err("other content").to_string();
        assert_eq!(error, "uuid `clip` was sent with other content before; hint: a uuid of its own for each content");
        for uuid in ["", &"x".repeat(257)] {
            assert!(ScopedUuid::new("", uuid).is_err());
        }
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_is_used() {
        let mut map = BoundedMap::default();
        for i in 0..10 * MAX_ENTRIES {
            map.insert(i, i);
            assert!(map.entries.len() <= MAX_ENTRIES);
            assert_eq!(map.get(&0), Some(&0), "used each time");
        }
        assert_eq!(map.get(&1), None);
        assert_eq!(map.get(&(10 * MAX_ENTRIES - 1)), Some(&(10 * MAX_ENTRIES - 1)));
    }
}
