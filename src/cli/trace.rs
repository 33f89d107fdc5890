//! `--trace`: spans of work of every thread of a run, as a Chrome trace ("Trace Event Format", complete events).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use serde_json::json;
use vidense::error::About as _;
use vidense::exec::{OnSpan, Span};
use vidense::files::output::create_growing;

/// Trace that is being written.
pub struct Trace {
    path: PathBuf,
    inner: Arc<Mutex<TraceWriter>>,
}

struct TraceWriter {
    file: BufWriter<File>,
    /// Thread ids of the trace, by stage and index within the stage.
    threads: HashMap<(String, usize), usize>,
    failed: Option<std::io::Error>,
}

impl Trace {
    /// Creates the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let create = || {
            let mut file = BufWriter::new(create_growing(path)?);
            file.write_all(b"[")?;
            std::io::Result::Ok(file)
        };
        let file = create().about(path)?;
        let inner = TraceWriter { file, threads: HashMap::new(), failed: None };
        Ok(Self { path: path.to_owned(), inner: Arc::new(Mutex::new(inner)) })
    }

    /// Returns the callback that writes spans.
    pub fn listener(&self) -> Arc<OnSpan> {
        let inner = self.inner.clone();
        Arc::new(move |span: Span<'_>| {
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.failed.is_none() {
                inner.failed = inner.add(span).err();
            }
        })
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When a span could not be written.
    pub fn finish(self) -> anyhow::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match inner.failed.take() {
            Some(error) => Err(error),
            None => inner.file.write_all(b"\n]\n").and_then(|()| inner.file.flush()),
        };
        written.with_context(|| format!("{}: the trace could not be written", self.path.display()))
    }
}

impl TraceWriter {
    fn add(&mut self, span: Span<'_>) -> std::io::Result<()> {
        let key = (span.stage.to_owned(), span.thread);
        let next = self.threads.len();
        let (tid, is_new) = match self.threads.get(&key) {
            Some(&tid) => (tid, false),
            None => {
                self.threads.insert(key, next);
                (next, true)
            }
        };
        let mut begin = if self.threads.len() == 1 && is_new { "\n" } else { ",\n" };
        if is_new {
            let name = format!("{} {}", span.stage, span.thread);
            let named = json!({ "name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": { "name": name } });
            write!(self.file, "{begin}{named}")?;
            begin = ",\n";
        }
        let micro = |time: std::time::Duration| time.as_nanos() as f64 / 1e3;
        let event = json!({
            "name": span.stage, "ph": "X", "pid": 1, "tid": tid, "ts": micro(span.begin), "dur": micro(span.end - span.begin),
        });
        write!(self.file, "{begin}{event}")
    }
}
