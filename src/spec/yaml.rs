//! The one place where YAML is parsed.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Why a YAML file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// It says something that it cannot say.
    #[error("{path}: {cause}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's words: the key, the rule, the line.
        cause: String,
    },
}

/// Reads a file.
///
/// # Errors
/// [`YamlError`] naming the file, and the line where there is one.
pub fn read_yaml<T: DeserializeOwned>(path: &Path) -> Result<T, YamlError> {
    let text = std::fs::read_to_string(path).map_err(|source| YamlError::Io { path: path.to_owned(), source })?;
    parse_yaml(&text).map_err(|cause| YamlError::Parse { path: path.to_owned(), cause })
}

/// Parses a text.
///
/// # Errors
/// The parser's words: the key, the rule, the line.
pub fn parse_yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_yaml::from_str(text).map_err(|error| error.to_string())
}
