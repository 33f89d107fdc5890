//! The crate's error: a subject, the rule that it breaks, and a hint.
//!
//! `pipelines/x.yaml: temporal.concat: 4672 tokens, over the model's context of 4096; hint: max_pool` has two subjects
//! (a file and a key), a rule with both values, and a hint. The parts stay apart until the error is printed, so callers
//! name an outer subject ([`Error::about`]), shorten a path ([`Error::with_path_as`]) or store the hint in a column of
//! its own without parsing a message. [`Error::kind`] is the word by which failures are counted and handled.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Result of an operation that fails with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Kind of a failure, by which callers decide. [`Kind::word`] is the word by which failures are counted.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
    strum::EnumIter,
)]
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
    /// A pipe, a device or a socket where a file or a directory is expected.
    NotRegular,
    /// A file of zero bytes.
    Empty,
    /// A file in which FFmpeg recognizes no container.
    NotMedia,
    /// A container without a video stream.
    NoVideoStream,
    /// An audio file whose only images are covers.
    CoverOnly,
    /// An index of a stream that is not a video stream.
    Stream,
    /// A codec that this FFmpeg does not decode.
    NoDecoder,
    /// A decoded frame that is not converted to RGB.
    NoConversion,
    /// A directory without an image.
    NoImages,
    /// A stream of which not one frame decodes.
    NoFrames,
    /// A damaged stream that decodes differently each time.
    Unstable,
    /// A clip window without a frame.
    EmptyWindow,
    /// Frames without timestamps, to be cut by time.
    NoTimes,
    /// Timestamps that run backwards, to be cut by time.
    TimesFall,
    /// A sampling rule that refuses the video.
    Sample,
    /// Frames over the limit of memory.
    FrameSize,
    /// A stage that exceeded its time limit.
    TimeLimit,
    /// A read that received no data for too long.
    Stall,
    /// A decoding process that crashed.
    Crash,
    /// A decoding process that gave no sign of life.
    Hang,
    /// A decoding process that did not start.
    NoProcess,
    /// A read that was stopped by its reader.
    #[strum(serialize = "stopped")]
    Halted,
    /// A run or a request that was stopped before its end.
    #[strum(serialize = "stopped")]
    Stopped,
    /// A prompt over the context of the model.
    TokenBudget,
    /// A strategy that leaves no visual token of a video.
    #[strum(serialize = "token_budget")]
    NoVisualTokens,
    /// Frames or views that the model or the strategy does not take.
    Frames,
    /// Frames that cannot be prepared, or a processor file with an unusable key.
    Preprocess,
    /// A tokenizer, a template or a prompt.
    Text,
    /// A model: its files, its configuration, its weights.
    Model,
    /// A device that this machine or this build does not have.
    Device,
    /// A failed operation of a device.
    Compute,
    /// An operation for which its device has no memory.
    #[strum(serialize = "compute")]
    OutOfMemory,
    /// As [`Kind::OutOfMemory`], with the sizes, after every smaller attempt.
    DeviceMemory,
    /// A request over the budget of key-value memory.
    KvMemory,
    /// A loss or a gradient that is not finite.
    NotFinite,
    /// A panic: a defect of this program.
    Defect,
}

impl Kind {
    /// Returns the word that stands in results files. Kinds that users need not tell apart share one.
    pub fn word(self) -> &'static str {
        self.into()
    }

    /// Returns whether an operation failed for want of memory on its device.
    pub fn is_out_of_memory(self) -> bool {
        matches!(self, Self::OutOfMemory | Self::DeviceMemory)
    }
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

impl From<candle_core::Error> for Error {
    fn from(cause: candle_core::Error) -> Self {
        let cause = without_backtrace(cause);
        let kind = if is_out_of_memory(&cause) { Kind::OutOfMemory } else { Kind::Compute };
        match &cause {
            candle_core::Error::Io(io) if let Some(carried) = carried(io) => carried.with_kind(kind),
            _ => Self::caused_by(kind, cause),
        }
    }
}

/// Carries an error through operations of candle's: `Error::from` of the result has the same subjects, rule and hint.
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::Io(io::Error::other(error))
    }
}

impl From<io::Error> for Error {
    fn from(cause: io::Error) -> Self {
        match carried(&cause) {
            Some(carried) => carried.with_kind(Kind::Unreadable),
            None => Self::caused_by(Kind::Unreadable, cause),
        }
    }
}

/// Returns the error inside an [`io::Error::other`].
fn carried(cause: &io::Error) -> Option<Error> {
    cause.get_ref()?.downcast_ref::<Error>().cloned()
}

/// Returns candle's error without the backtrace that it prints.
fn without_backtrace(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(*inner),
        other => other,
    }
}

/// Returns whether an operation failed for want of memory on its device, as far as the words of the driver tell.
pub(crate) fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let words = error.to_string().to_lowercase();
    ["out of memory", "out_of_memory", "alloc_failed"].iter().any(|word| words.contains(word))
}

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
    use strum::IntoEnumIterator as _;

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

    #[test]
    fn an_error_passes_through_results_of_io_and_of_candle_with_its_parts() {
        let raised = || Error::invalid("strided; hint: none").with_hint("contiguous()").about("x.bin");
        let parts = |error: &Error| (error.rule().to_owned(), error.hint().map(str::to_owned), error.subjects().len());
        let read = Error::io("dir")(io::Error::other(raised()));
        assert_eq!(read.to_string(), "dir: x.bin: strided; hint: none; hint: contiguous()");
        assert_eq!((read.kind(), parts(&read)), (Kind::Unreadable, (parts(&raised()).0, parts(&raised()).1, 2)));
        let computed = Error::from(candle_core::Error::from(raised()).bt());
        assert_eq!((computed.kind(), parts(&computed)), (Kind::Compute, parts(&raised())));
        let reworded = raised().reworded(|statement| format!("not a file: {statement}"));
        assert_eq!(reworded.to_string(), "not a file: x.bin: strided; hint: none; hint: contiguous()");
    }

    #[test]
    fn several_errors_are_printed_one_a_line_and_share_an_outer_subject() {
        let errors = ["a is 1", "b is 2"].map(|rule| Error::invalid(rule).with_hint("0"));
        let error = Error::all(errors).expect("two errors").about("x.yaml");
        assert_eq!(error.to_string(), "x.yaml: a is 1; hint: 0\nx.yaml: b is 2; hint: 0");
        assert_eq!(error.errors().map(Error::rule).collect::<Vec<_>>(), ["a is 1", "b is 2"]);
        assert!(Error::all([]).is_none());
    }

    #[test]
    fn words_of_the_driver_and_of_cublas_tell_that_memory_is_out() {
        for words in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "Metal error: out of memory",
        ] {
            assert!(Error::from(candle_core::Error::msg(words)).kind().is_out_of_memory(), "{words}");
        }
        let error = Error::compute("encoding frames")(candle_core::Error::msg("shape mismatch in matmul").bt());
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (Kind::Compute, "encoding frames: shape mismatch in matmul")
        );
        assert!(error.cause::<candle_core::Error>().is_some());
    }

    /// Words that stand in results files since the first release.
    #[test]
    fn words_of_kinds_are_those_of_results_files() {
        let words = [
            "not_found",
            "unreadable",
            "not_regular",
            "empty",
            "not_media",
            "no_video_stream",
            "no_decoder",
            "no_conversion",
            "no_images",
            "no_frames",
            "unstable",
            "empty_window",
            "sample",
            "time_limit",
            "frame_size",
            "stall",
            "stopped",
            "stream",
            "cover_only",
            "crash",
            "hang",
            "no_process",
            "no_times",
            "times_fall",
            "token_budget",
            "frames",
            "preprocess",
            "text",
            "compute",
            "device_memory",
            "model",
            "defect",
            "kv_memory",
        ];
        let known: Vec<&str> = Kind::iter().map(Kind::word).collect();
        for word in words {
            assert!(known.contains(&word), "{word}");
        }
        assert_eq!([Kind::Halted, Kind::Stopped].map(Kind::word), ["stopped"; 2]);
        assert_eq!(Kind::OutOfMemory.word(), "compute");
    }
}
