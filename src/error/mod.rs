//! The crate's error: a subject, the rule that it breaks, and a hint.
//!
//! `pipelines/x.yaml: temporal.concat: 4672 tokens, over the model's context of 4096; hint: max_pool` has two subjects
//! (a file and a key), a rule with both values, and a hint. The parts stay apart until the error is printed, so callers
//! name an outer subject ([`Error::about`]), shorten a path ([`Error::with_path_as`]) or store the hint in a column of
//! its own without parsing a message. [`Error::kind`] is the word by which failures are counted and handled.

mod conversion;
mod kind;
mod subject;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use conversion::is_out_of_memory;
pub use kind::Kind;
pub use subject::Subject;

/// Result of an operation that fails with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

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
    /// Further errors of the same operation, each complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    further: Vec<Error>,
    #[serde(skip)]
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error of a rule in words, without a subject and a hint.
    pub fn new(kind: Kind, rule: impl Into<Cow<'static, str>>) -> Self {
        let (subjects, further) = (Vec::new(), Vec::new());
        Self(Box::new(Parts { kind, subjects, rule: rule.into(), hint: None, further, cause: None }))
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
        move |cause| Self::from(cause).about(path.clone())
    }

    /// Returns the conversion of an error of candle's, while `doing` something, such as `loading the weights`.
    pub fn compute(doing: &'static str) -> impl Fn(candle_core::Error) -> Self {
        move |cause| Self::from(cause).about(doing)
    }

    /// Joins the errors of one operation, each printed on a line of its own; `None` where there is none. The kind is
    /// that of the first.
    pub fn all(errors: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut errors = errors.into_iter();
        let mut first = errors.next()?;
        first.0.further.extend(errors);
        Some(first)
    }

    /// Adds an outer subject, of each error where there are several: `x: rule` about `file` becomes `file: x: rule`.
    #[must_use]
    pub fn about(mut self, subject: impl Into<Subject>) -> Self {
        let subject = subject.into();
        for error in &mut self.0.further {
            error.0.subjects.insert(0, subject.clone());
        }
        self.0.subjects.insert(0, subject);
        self
    }

    /// Adds an item as the outer subject of each error whose outermost subject is neither the item nor a path below it.
    #[must_use]
    pub fn about_item(mut self, item: &Path) -> Self {
        let Parts { subjects, further, .. } = &mut *self.0;
        for subjects in std::iter::once(subjects).chain(further.iter_mut().map(|error| &mut error.0.subjects)) {
            if !subjects.first().is_some_and(|first| first.is_within(item)) {
                subjects.insert(0, item.into());
            }
        }
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

    /// Replaces subjects and rule by a rule that `words` makes of them; kind, hint and cause stay. For statements that
    /// stand inside another rule, where a subject before them ([`Error::about`]) would not read.
    #[must_use]
    pub(crate) fn reworded(mut self, words: impl FnOnce(&str) -> String) -> Self {
        self.0.rule = words(&self.statement()).into();
        self.0.subjects.clear();
        self
    }

    /// Replaces the path `from`, and the beginning of paths below it, by `name` in the subjects.
    #[must_use]
    pub fn with_path_as(mut self, from: &Path, name: &str) -> Self {
        let Parts { subjects, further, .. } = &mut *self.0;
        for subject in subjects.iter_mut().chain(further.iter_mut().flat_map(|error| &mut error.0.subjects)) {
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

    /// The errors of one operation, this one first.
    pub fn errors(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.0.further)
    }

    /// Hint, if one is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The underlying error, if it is of the type `E`.
    pub fn cause<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.cause.as_deref().and_then(|cause| cause.downcast_ref())
    }

    /// Returns whether the reader of the output is gone.
    pub fn is_broken_pipe(&self) -> bool {
        self.cause::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Formats this error alone, without further ones.
    pub fn each_to_string(&self) -> String {
        self.statement() + &self.hint().map_or(String::new(), |hint| format!("; hint: {hint}"))
    }

    /// Subjects and rule, without the hint.
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
        if let Some(hint) = &self.0.hint {
            write!(f, "; hint: {hint}")?;
        }
        self.0.further.iter().try_for_each(|error| write!(f, "\n{error}"))
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
