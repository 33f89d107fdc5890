//! Results as a page that needs nothing else: small pictures, answers, failures, filters.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::BatchError;
use super::item::Id;
use super::store::{FailureRecord, Lost, RecordOutcome, ResultRecord, StoredResults, thumbnail_path};
use super::summary::{ResultCounts, read_summary};
use crate::files::{Flush, Output};

/// The page's file.
pub const REPORT: &str = "report.html";
/// Lines of each kind that are shown: a browser takes no more, a table takes them all.
const MAX_SHOWN: usize = 5000;
const HEAD: &str = include_str!("report/head.html");
const TAIL: &str = include_str!("report/tail.html");

/// Writes the page of some results beside them, and says where it is.
///
/// # Errors
/// When the results cannot be read, or the disk refuses.
pub fn write(dir: &Path) -> Result<PathBuf, BatchError> {
    let results = StoredResults::open(dir)?;
    let path = dir.join(REPORT);
    let io = BatchError::io(&path);
    let mut page = Page { out: Output::create(&path).map_err(&io)?, dir, open: None };
    page.begin(&results).map_err(&io)?;
    // Failures first: they are what somebody has to look at.
    for wants_failures in [true, false] {
        let mut shown = Vec::new();
        results.for_each(&mut |record| {
            if record.failure().is_some() == wants_failures && shown.len() < MAX_SHOWN {
                shown.push(record);
            }
            Ok(())
        })?;
        for record in by_item(shown) {
            page.add(&record).map_err(&io)?;
        }
        page.close().map_err(&io)?;
    }
    page.out.write_all(TAIL.as_bytes()).map_err(&io)?;
    page.out.finish(Flush::Rename).map_err(&io)?;
    Ok(path)
}

/// Records with those of an item together, in the order in which items come first: answers about several videos are
/// made at once, so their lines alternate.
fn by_item(mut records: Vec<ResultRecord>) -> Vec<ResultRecord> {
    let mut places = HashMap::new();
    for record in &records {
        let next = places.len();
        places.entry(record.item).or_insert(next);
    }
    records.sort_by_key(|record| places.get(&record.item).copied());
    records
}

struct Page<'p, W: Write> {
    out: W,
    dir: &'p Path,
    /// The item whose lines are being written.
    open: Option<Id>,
}

impl<W: Write> Page<'_, W> {
    fn begin(&mut self, results: &StoredResults) -> std::io::Result<()> {
        let held = ResultCounts::of(&results.state);
        let header = &results.header;
        self.out.write_all(HEAD.as_bytes())?;
        let mut text = format!(
            "<p>{} answers, {} failures. Model {}, plan {}, vidense {}.</p>\n",
            held.answers,
            held.failed,
            escape(&header.model),
            escape(&header.plan),
            escape(&header.version)
        );
        if !held.failed_by.is_empty() {
            text += "<ul>";
            for (category, n) in &held.failed_by {
                let _ = write!(text, "<li>{n} {}</li>", escape(category));
            }
            text += "</ul>\n";
        }
        let passed_over = read_summary(self.dir).map(|summary| summary.session.passed_over).unwrap_or_default();
        if !passed_over.is_empty() {
            text += "<p>Files that were passed over:</p><ul>";
            for (reason, files) in &passed_over {
                let examples = files.examples.join(", ");
                let _ = write!(text, "<li>{} {}: {}</li>", files.files, escape(reason), escape(&examples));
            }
            text += "</ul>\n";
        }
        if held.answers.max(held.failed) > MAX_SHOWN as u64 {
            let _ = writeln!(
                text,
                "<p>The first {MAX_SHOWN} answers and failures are shown; <code>vidense results export</code> has them all.</p>"
            );
        }
        self.out.write_all(text.as_bytes())?;
        self.out.write_all(b"<main>\n")
    }

    fn add(&mut self, record: &ResultRecord) -> std::io::Result<()> {
        if self.open != Some(record.item) {
            self.close()?;
            self.open = Some(record.item);
            let part = match (record.start, record.end) {
                (None, None) => String::new(),
                (start, end) => {
                    let words = |time: Option<crate::units::Seconds>| time.map_or(String::new(), |t| t.to_string());
                    format!(" <small>{} – {}</small>", words(start), words(end))
                }
            };
            let picture = std::fs::read(thumbnail_path(self.dir, record.item)).map_or(String::new(), |bytes| {
                format!("<img alt=\"\" src=\"data:image/jpeg;base64,{}\">", STANDARD.encode(bytes))
            });
            writeln!(self.out, "<article>{picture}<div><h2>{}{part}</h2>", escape(&record.video))?;
        }
        let question = record.question.as_deref().map(escape).unwrap_or_default();
        match &record.outcome {
            RecordOutcome::Answered(answered) => {
                let mut note = answered.damage.as_ref().map_or(String::new(), |lost| {
                    let Lost { packets, concealed, files, .. } = lost;
                    let files = match files {
                        0 => String::new(),
                        n => format!("{n} files of the playlist are missing, "),
                    };
                    format!(
                        " <small>({files}{packets} packets of the video are lost, errors are hidden in {concealed} frames)</small>"
                    )
                });
                for warning in &answered.warnings {
                    note += &format!(" <small>({})</small>", escape(warning));
                }
                writeln!(self.out, "<p data-kind=\"answer\"><b>{question}</b> {}{note}</p>", escape(&answered.answer))
            }
            RecordOutcome::Failed { error: FailureRecord { stage, kind, cause, hint } } => {
                let hint = hint.as_ref().map_or(String::new(), |hint| format!(" <small>{}</small>", escape(hint)));
                writeln!(
                    self.out,
                    "<p data-kind=\"failure\"><b>{question}</b> <em>{} ({})</em> {}{hint}</p>",
                    escape(kind),
                    escape(stage),
                    escape(cause)
                )
            }
            RecordOutcome::Resolved { .. } => Ok(()),
        }
    }

    fn close(&mut self) -> std::io::Result<()> {
        if self.open.take().is_some() { self.out.write_all(b"</div></article>\n") } else { Ok(()) }
    }
}

/// A text as HTML: names and answers may say anything.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_an_item_come_together_where_the_first_of_them_is() {
        let records = [3, 1, 3, 2, 1].map(|id| ResultRecord::resolved(Id(id)));
        let ids: Vec<u128> = by_item(records.into()).iter().map(|record| record.item.0).collect();
        assert_eq!(ids, [3, 3, 1, 1, 2]);
    }

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(escape("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
    }
}
