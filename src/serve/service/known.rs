//! Media whose tokens are in memory or on the way, with the sizes that a prompt's budget needs: a request about them
//! is checked without reading them. Written by the answerer, read by [`Service`](super::Service).

use std::collections::HashMap;
use std::sync::Mutex;

use crate::exec::lock;
use crate::pipeline::ExpectedMedium;
use crate::serve::media::{Media, MediaKey};

/// Sizes of known media, by their keys.
#[derive(Debug, Default)]
pub(super) struct KnownMedia(Mutex<HashMap<MediaKey, ExpectedMedium>>);

impl KnownMedia {
    pub(super) fn add(&self, media: &Media) {
        lock(&self.0).insert(media.key, media.expected);
    }

    pub(super) fn remove(&self, key: &MediaKey) {
        lock(&self.0).remove(key);
    }

    pub(super) fn get(&self, key: &MediaKey) -> Option<ExpectedMedium> {
        lock(&self.0).get(key).copied()
    }
}
