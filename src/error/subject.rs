//! Subjects of errors: files and names.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One part of the subject of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A file or directory.
    Path(PathBuf),
    /// A key, a flag, a tensor, a frame.
    Name(Cow<'static, str>),
}

impl Subject {
    /// Returns whether the subject is an item, by its path or its name, or a path below it.
    pub(super) fn is_within(&self, item: &Path) -> bool {
        match self {
            Self::Path(path) => path.starts_with(item),
            Self::Name(name) => Path::new(&**name) == item,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl From<&Path> for Subject {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<&PathBuf> for Subject {
    fn from(path: &PathBuf) -> Self {
        Self::Path(path.clone())
    }
}

impl From<PathBuf> for Subject {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&'static str> for Subject {
    fn from(name: &'static str) -> Self {
        Self::Name(Cow::Borrowed(name))
    }
}

impl From<String> for Subject {
    fn from(name: String) -> Self {
        Self::Name(Cow::Owned(name))
    }
}
