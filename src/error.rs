//! The crate's error: a subject, the rule that it breaks, and a hint.
//!
//! `pipelines/x.yaml: temporal.concat: 4672 tokens, over the model's context of 4096; hint: max_pool` has two subjects (a
//! file and a key), a rule with both values, and a hint. The parts stay apart until the error is printed, so callers name
//! an outer subject ([`Error::about`]), shorten a path ([`Error::with_path_as`]) or store the hint in a column of its own
//! without parsing a message. [`Error::kind`] is the word by which failures are counted and handled.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Result of an operation that fails with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Kind of a failure: the word by which failures are counted and by which callers decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A value that breaks a rule: an option, a key, a line of a file.
    Invalid,
    /// A path without a file.
    NotFound,
    /// A file or directory that the operating system does not read or write.
    Unreadable,
}

/// One part of the subject of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A file or directory.
    Path(PathBuf),
    /// A key, a flag, a tensor, a frame.
    Name(Cow<'static, str>),
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

/// An error: subjects from the outermost to the innermost, the broken rule with its values, and a hint.
///
/// Displayed as `subject: subject: rule; hint: hint`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Error(Box<Parts>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Parts {
    kind: Kind,
    subjects: Vec<Subject>,
    rule: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    #[serde(skip)]
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error of a rule in words, without a subject and a hint.
    pub fn new(kind: Kind, rule: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts { kind, subjects: Vec::new(), rule: rule.into(), hint: None, cause: None }))
    }

    /// Makes an error of [`Kind::Invalid`].
    pub fn invalid(rule: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid, rule)
    }

    /// Makes an error whose rule is the text of its cause.
    pub fn caused_by(kind: Kind, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::new(kind, cause.to_string()).with_cause(cause)
    }

    /// Returns the conversion of an operating system's error about `path`.
    pub fn io(path: impl AsRef<Path>) -> impl Fn(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |cause| Self::caused_by(Kind::Unreadable, cause).about(path.clone())
    }

    /// Adds an outer subject: `x: rule` about `file` becomes `file: x: rule`.
    #[must_use]
    pub fn about(mut self, subject: impl Into<Subject>) -> Self {
        self.0.subjects.insert(0, subject.into());
        self
    }

    /// Sets the hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Sets the hint, or leaves it as it is for `None`.
    #[must_use]
    pub fn with_hint_if(self, hint: Option<impl Into<Cow<'static, str>>>) -> Self {
        match hint {
            Some(hint) => self.with_hint(hint),
            None => self,
        }
    }

    /// Keeps the underlying error for callers that decide by it. Its text is not printed: the rule says it.
    #[must_use]
    pub fn with_cause(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.cause = Some(Arc::new(cause));
        self
    }

    /// Sets the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Replaces the path `from`, and the beginning of paths below it, by `name` in the subjects.
    #[must_use]
    pub fn with_path_as(mut self, from: &Path, name: &str) -> Self {
        for subject in &mut self.0.subjects {
            if let Subject::Path(path) = subject
                && let Ok(below) = path.strip_prefix(from)
            {
                let renamed = Path::new(name);
                *path = if below.as_os_str().is_empty() { renamed.to_owned() } else { renamed.join(below) };
            }
        }
        self
    }

    /// Kind of the failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Subjects, the outermost first.
    pub fn subjects(&self) -> &[Subject] {
        &self.0.subjects
    }

    /// The broken rule, with its values.
    pub fn rule(&self) -> &str {
        &self.0.rule
    }

    /// Hint, if one is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The underlying error, if it is of the type `E`.
    pub fn cause<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.cause.as_deref().and_then(|cause| cause.downcast_ref())
    }

    /// Subjects and rule in one line, without the hint.
    pub fn statement(&self) -> String {
        self.0.subjects.iter().map(|subject| format!("{subject}: ")).collect::<String>() + &self.0.rule
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for subject in &self.0.subjects {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.0.rule)?;
        match &self.0.hint {
            Some(hint) => write!(f, "; hint: {hint}"),
            None => Ok(()),
        }
    }
}

// `source` stays `None`: the rule already says what the cause says, and printers of chains would repeat it.
impl std::error::Error for Error {}

/// Adds the subject of an operation to its error.
pub trait About<T> {
    /// Adds an outer subject to the error.
    ///
    /// # Errors
    /// The error of `self`, about `subject`.
    fn about(self, subject: impl Into<Subject>) -> Result<T>;
}

impl<T, E: Into<Error>> About<T> for Result<T, E> {
    fn about(self, subject: impl Into<Subject>) -> Result<T> {
        self.map_err(|error| error.into().about(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_rule_and_hint_are_printed_once_in_order() {
        let rule: Result<()> = Err(Error::invalid("4672 tokens, over 4096").with_hint("max_pool"));
        let error = rule.about("temporal.concat").about(Path::new("x.yaml")).expect_err("an error");
        assert_eq!(error.to_string(), "x.yaml: temporal.concat: 4672 tokens, over 4096; hint: max_pool");
        assert_eq!(error.statement(), "x.yaml: temporal.concat: 4672 tokens, over 4096");
        assert_eq!((error.rule(), error.hint()), ("4672 tokens, over 4096", Some("max_pool")));
    }

    #[test]
    fn a_path_is_renamed_as_a_subject_and_nowhere_else() {
        let error = Error::invalid("/a is short").about(Path::new("/a/1.png")).about(Path::new("/a"));
        assert_eq!(error.with_path_as(Path::new("/a"), "clip").to_string(), "clip: clip/1.png: /a is short");
        let other = Error::invalid("empty").about(Path::new("/ab"));
        assert_eq!(other.with_path_as(Path::new("/a"), "clip").to_string(), "/ab: empty");
    }

    #[test]
    fn a_cause_is_found_by_its_type_and_lost_on_the_wire() {
        let error = Error::io("x")(io::ErrorKind::PermissionDenied.into());
        assert_eq!(error.to_string(), "x: permission denied");
        assert_eq!(error.cause::<io::Error>().map(io::Error::kind), Some(io::ErrorKind::PermissionDenied));
        let sent = serde_json::to_string(&error).expect("JSON");
        let received: Error = serde_json::from_str(&sent).expect("an error");
        assert_eq!((received.to_string(), received.kind()), (error.to_string(), Kind::Unreadable));
        assert!(received.cause::<io::Error>().is_none());
    }
}
