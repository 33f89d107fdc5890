//! Recent encodings: a prompt's length is checked before it waits, and the same prompt is encoded again when it runs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::fast::SpecialTokens;

/// Maximum number of texts, and bytes of each.
const MAX_TEXTS: usize = 64;
const MAX_BYTES: usize = 4 << 10;

/// Ids of recently encoded texts.
#[derive(Debug, Default)]
pub(super) struct RecentEncodings(Mutex<HashMap<(SpecialTokens, String), Vec<u32>>>);

impl RecentEncodings {
    /// Returns the ids of a text, which `encode` makes unless they are known.
    ///
    /// # Errors
    /// The errors of `encode`.
    pub(super) fn get_or_encode<E>(
        &self,
        text: &str,
        special_tokens: SpecialTokens,
        encode: impl FnOnce() -> Result<Vec<u32>, E>,
    ) -> Result<Vec<u32>, E> {
        if text.len() > MAX_BYTES {
            return encode();
        }
        let key = (special_tokens, text.to_owned());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&key).cloned();
        if let Some(ids) = known {
            return Ok(ids);
        }
        let ids = encode()?;
        let mut recent = lock();
        if recent.len() >= MAX_TEXTS {
            recent.clear();
        }
        recent.insert(key, ids.clone());
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_encoded_once_for_each_setting_of_special_tokens() {
        let recent = RecentEncodings::default();
        let mut n = 0;
        let mut ids = |text: &str, special_tokens: SpecialTokens| {
            recent.get_or_encode(text, special_tokens, || {
                n += 1;
                Ok::<_, ()>(vec![n])
            })
        };
        assert_eq!(ids("a", SpecialTokens::Added), Ok(vec![1]));
        assert_eq!(ids("a", SpecialTokens::Omitted), Ok(vec![2]));
        assert_eq!((ids("a", SpecialTokens::Added), ids("b", SpecialTokens::Added)), (Ok(vec![1]), Ok(vec![3])));
        let long = "a".repeat(MAX_BYTES + 1);
        assert_eq!((ids(&long, SpecialTokens::Added), ids(&long, SpecialTokens::Added)), (Ok(vec![4]), Ok(vec![5])));
    }

    #[test]
    fn memory_is_bounded_and_failures_are_not_kept() {
        let recent = RecentEncodings::default();
        assert_eq!(recent.get_or_encode("a", SpecialTokens::Added, || Err("failed")), Err("failed"));
        assert_eq!(recent.get_or_encode("a", SpecialTokens::Added, || Ok::<_, ()>(vec![7])), Ok(vec![7]));
        for i in 0..10 * MAX_TEXTS {
            let found = recent.get_or_encode(&i.to_string(), SpecialTokens::Added, || Ok::<_, ()>(vec![i as u32]));
            assert_eq!(found, Ok(vec![i as u32]));
        }
        assert!(recent.0.lock().expect("no panic").len() <= MAX_TEXTS);
    }
}
