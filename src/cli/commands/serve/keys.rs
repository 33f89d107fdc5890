//! API keys: read from a file and from the environment, kept as hashes, compared in constant time.

use std::path::Path;

use axum::http::HeaderValue;
use subtle::{Choice, ConstantTimeEq as _};
use vidense::error::{About as _, Error};

/// Environment variable of keys, separated by commas or white space.
const VARIABLE: &str = "VIDENSE_API_KEYS";
/// Characters of a key at most.
const MAX_LEN: usize = 1024;
/// Bytes of a key's hash that name its scope.
const SCOPE_LEN: usize = 16;

/// Accepted keys; without any, every client is accepted.
pub struct ApiKeys(Vec<[u8; blake3::OUT_LEN]>);

/// Client of a request, by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Scope of uploads and of names of media: of one key, or of all clients where there are no keys.
    pub scope: String,
    /// Whether the request has a known API key, which a page of another site cannot send.
    pub has_key: bool,
}

impl ApiKeys {
    /// Reads the keys of a file, one a line, and of the environment.
    ///
    /// # Errors
    /// When the file is not read or has no key, or a key has other characters than printable ASCII.
    pub fn read(file: Option<&Path>) -> Result<Self, Error> {
        let mut keys = Vec::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            keys = lines.map(hash).collect::<Result<_, _>>().about(path)?;
            if keys.is_empty() {
                return Err(Error::invalid("no key").with_hint("one key a line").about(path));
            }
        }
        if let Some(text) = std::env::var_os(VARIABLE) {
            let text = text.to_str().ok_or_else(|| Error::invalid("not UTF-8").about(VARIABLE))?.to_owned();
            let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
            keys.extend(words.map(hash).collect::<Result<Vec<_>, _>>().about(VARIABLE)?);
        }
        Ok(Self(keys))
    }

    /// Returns whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the client of a request by its `Authorization` header; `None` for a missing or unknown key. Without keys
    /// every header is accepted, and none is a key: clients send a placeholder.
    pub fn caller(&self, authorization: Option<&HeaderValue>) -> Option<Caller> {
        if self.is_empty() {
            return Some(Caller { scope: String::new(), has_key: false });
        }
        let (scheme, key) = authorization?.to_str().ok()?.split_once(' ')?;
        let hash = *blake3::hash(key.trim().as_bytes()).as_bytes();
        // Every key is compared, so that the time says nothing about their order.
        let is_known = self.0.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&hash));
        let scope = blake3::Hash::from_bytes(hash).to_hex()[..2 * SCOPE_LEN].to_owned();
        (scheme.eq_ignore_ascii_case("bearer") && bool::from(is_known)).then_some(Caller { scope, has_key: true })
    }
}

fn hash(key: &str) -> Result<[u8; blake3::OUT_LEN], Error> {
    if key.len() > MAX_LEN || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let rule = format!("a key is not 1 to {MAX_LEN} printable ASCII characters without spaces");
        return Err(Error::invalid(rule));
    }
    Ok(*blake3::hash(key.as_bytes()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<ApiKeys, Error> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("keys");
        std::fs::write(&path, text).expect("room");
        ApiKeys::read(Some(&path))
    }

    fn caller(keys: &ApiKeys, header: &str) -> Option<Caller> {
        keys.caller(Some(&HeaderValue::from_str(header).expect("a header")))
    }

    #[test]
    fn a_known_key_has_a_scope_of_its_own() {
        let keys = keys("\n first-key \nsecond-key\r\n").expect("two keys");
        let (first, second) = (caller(&keys, "Bearer first-key"), caller(&keys, "bearer second-key"));
        assert!(first.is_some() && second.is_some() && first != second);
        for header in ["Bearer first-ke", "Bearer first-key2", "Bearer", "Bearer ", "first-key", "Basic first-key"] {
            assert_eq!(caller(&keys, header), None, "{header}");
        }
        assert_eq!(keys.caller(None), None);
        let open = ApiKeys(Vec::new());
        let anybody = Some(Caller { scope: String::new(), has_key: false });
        assert_eq!((open.caller(None), caller(&open, "Bearer none")), (anybody.clone(), anybody));
    }

    #[test]
    fn a_file_without_keys_or_with_spaces_in_them_is_refused() {
        assert!(keys(" \n").is_err_and(|error| error.to_string().ends_with("no key; hint: one key a line")));
        let error = keys("secret word").err().expect("a space").to_string();
        assert!(error.contains("printable ASCII") && !error.contains("secret"), "{error}");
    }
}
