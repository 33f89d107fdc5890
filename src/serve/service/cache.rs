//! Encoded media in memory, by their keys: the least recently used are evicted over the limit of bytes.
//!
//! Each medium keeps its identity in the engine, so that conversations about it share key-value memory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::Visual;
use crate::pipeline::EncodedVideo;
use crate::serve::media::MediaKey;

/// Encoded medium with its identity in the engine. Clones share the tokens.
#[derive(Debug, Clone)]
pub(super) struct EncodedMedium {
    /// Frames, report and visual tokens.
    pub(super) video: Arc<EncodedVideo>,
    /// Visual tokens with their identity.
    pub(super) visual: Visual,
}

impl EncodedMedium {
    pub(super) fn new(video: EncodedVideo) -> Self {
        let visual = Visual::new(video.visual.clone());
        Self { video: Arc::new(video), visual }
    }

    /// Bytes of the visual tokens.
    fn bytes(&self) -> u64 {
        let tokens = &self.video.visual;
        (tokens.elem_count() * tokens.dtype().size_in_bytes()) as u64
    }
}

/// Cache of encoded media.
#[derive(Debug)]
pub(super) struct MediaCache {
    limit: u64,
    entries: HashMap<MediaKey, CachedMedium>,
    bytes: u64,
    clock: u64,
}

#[derive(Debug)]
struct CachedMedium {
    medium: EncodedMedium,
    used_at: u64,
}

impl MediaCache {
    /// Makes a cache of up to `limit` bytes of visual tokens.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, entries: HashMap::new(), bytes: 0, clock: 0 }
    }

    /// Returns a medium, and marks it as used.
    pub(super) fn get(&mut self, key: &MediaKey) -> Option<EncodedMedium> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used_at = self.clock;
        Some(entry.medium.clone())
    }

    /// Adds a medium, and returns the keys that were evicted for it, its own if it is over the limit alone.
    pub(super) fn put(&mut self, key: &MediaKey, medium: EncodedMedium) -> Vec<MediaKey> {
        self.clock += 1;
        self.bytes += medium.bytes();
        if let Some(old) = self.entries.insert(*key, CachedMedium { medium, used_at: self.clock }) {
            self.bytes -= old.medium.bytes();
        }
        let mut evicted = Vec::new();
        while self.bytes > self.limit {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used_at).map(|(key, _)| *key);
            let Some(entry) = oldest.as_ref().and_then(|key| self.entries.remove(key)) else { break };
            self.bytes -= entry.medium.bytes();
            evicted.extend(oldest);
        }
        evicted
    }

    /// Number of media.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all visual tokens.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Timings;
    use crate::temporal::Temporal;
    use crate::video::ReadReport;
    use candle_core::{DType, Device, Tensor};

    /// A medium of `n` tokens of 16 bytes.
    fn medium(n: usize) -> EncodedMedium {
        EncodedMedium::new(EncodedVideo {
            visual: Tensor::zeros((n, 4), DType::F32, &Device::Cpu).expect("small"),
            frames: Vec::new(),
            report: ReadReport::default(),
            temporal: Temporal::D2,
            timings: Timings::default(),
            thumbnail: None,
            is_cached: false,
        })
    }

    #[test]
    fn the_least_recently_used_is_evicted_first() {
        let key = |name: &str| MediaKey::of_content(name.as_bytes());
        let mut cache = MediaCache::new(64);
        for name in ["a", "b"] {
            assert_eq!(cache.put(&key(name), medium(2)), []);
        }
        assert!(cache.get(&key("a")).is_some());
        assert_eq!(cache.put(&key("c"), medium(1)), [key("b")]);
        assert_eq!((cache.len(), cache.bytes()), (2, 48));
        assert!(cache.get(&key("b")).is_none());
    }

    #[test]
    fn a_medium_over_the_limit_is_not_kept_and_its_bytes_do_not_count() {
        let key = |name: &str| MediaKey::of_content(name.as_bytes());
        let mut cache = MediaCache::new(64);
        assert_eq!(cache.put(&key("a"), medium(5)), [key("a")]);
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
        cache.put(&key("b"), medium(2));
        cache.put(&key("b"), medium(3));
        assert_eq!((cache.len(), cache.bytes()), (1, 48));
    }

    #[test]
    fn a_medium_keeps_its_identity_in_the_engine() {
        let key = MediaKey::of_content(b"a");
        let mut cache = MediaCache::new(64);
        cache.put(&key, medium(2));
        let ids = [cache.get(&key), cache.get(&key)].map(|medium| medium.expect("just put").visual.id());
        assert_eq!(ids[0], ids[1]);
    }
}
