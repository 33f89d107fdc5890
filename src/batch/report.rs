//! HTML report of results: one file with thumbnails, answers, failures and filters. Written by `batch` and `results
//! report`.
//!
//! The static head and tail of the page are files beside this one; everything between them is rendered by maud, which
//! escapes all texts.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};

use super::store::{FailureRecord, PacketLoss, RecordOutcome, ResultRecord, StoredResults, thumbnail_path};
use super::summary::{ResultCounts, read_summary};
use crate::error::Error;
use crate::files::{Durability, OutputFile};
use crate::units::Seconds;

/// File name of the report.
const REPORT: &str = "report.html";
/// Maximum number of answers and of failures on the page: browsers are slow with more, and a table has them all.
const MAX_SHOWN: usize = 5000;
const HEAD: &str = include_str!("report/head.html");
const TAIL: &str = include_str!("report/tail.html");

/// Writes the report of some results beside them, and returns its path.
///
/// # Errors
/// When the results cannot be read, or the file cannot be written.
pub fn write(dir: &Path) -> Result<PathBuf, Error> {
    let results = StoredResults::open(dir)?;
    let path = dir.join(REPORT);
    let io = Error::io(path.clone());
    let mut page = OutputFile::create(&path).map_err(&io)?;
    let summary = summary(&results).into_string();
    write!(page, "{HEAD}{summary}\n<main>\n").map_err(&io)?;
    // Failures come first: they need attention.
    for wants_failures in [true, false] {
        let mut shown = Vec::new();
        results.for_each(&mut |record| {
            if record.failure().is_some() == wants_failures && shown.len() < MAX_SHOWN {
                shown.push(record);
            }
            Ok(())
        })?;
        for records in by_item(shown).chunk_by(|a, b| a.item == b.item) {
            let thumbnail = std::fs::read(thumbnail_path(dir, records[0].item)).ok();
            writeln!(page, "{}", article(records, thumbnail.as_deref()).into_string()).map_err(&io)?;
        }
    }
    page.write_all(TAIL.as_bytes()).map_err(&io)?;
    page.finish(Durability::Renamed).map_err(&io)?;
    Ok(path)
}

/// Groups records by item, in the order of the items' first records: answers about several videos alternate in the
/// file.
fn by_item(mut records: Vec<ResultRecord>) -> Vec<ResultRecord> {
    let mut ranks = HashMap::new();
    for record in &records {
        let next = ranks.len();
        ranks.entry(record.item).or_insert(next);
    }
    records.sort_by_key(|record| ranks.get(&record.item).copied());
    records
}

/// Renders the counts of the results and the skipped files.
fn summary(results: &StoredResults) -> Markup {
    let counts = ResultCounts::of(&results.state);
    let header = &results.header;
    let skipped = read_summary(&results.dir).map(|summary| summary.session.passed_over).unwrap_or_default();
    html! {
        p {
            (counts.answers) " answers, " (counts.failed) " failures. Model " (header.model) ", plan " (header.plan)
            ", vidense " (header.version) "."
        }
        @if !counts.failed_by.is_empty() {
            ul { @for (category, n) in &counts.failed_by { li { (n) " " (category) } } }
        }
        @if !skipped.is_empty() {
            p { "Skipped files:" }
            ul {
                @for (reason, files) in &skipped {
                    li { (files.files) " " (reason) ": " (files.examples.join(", ")) }
                }
            }
        }
        @if counts.answers.max(counts.failed) > MAX_SHOWN as u64 {
            p {
                "The first " (MAX_SHOWN) " answers and failures are shown; " code { "vidense results export" }
                " has them all."
            }
        }
    }
}

/// Renders the records of one item.
fn article(records: &[ResultRecord], thumbnail: Option<&[u8]>) -> Markup {
    let ResultRecord { video, start, end, .. } = &records[0];
    let time = |time: &Option<Seconds>| time.map(|time| time.to_string()).unwrap_or_default();
    html! {
        article {
            @if let Some(jpeg) = thumbnail { img alt="" src={ "data:image/jpeg;base64," (STANDARD.encode(jpeg)) }; }
            div {
                h2 {
                    (video)
                    @if start.is_some() || end.is_some() { " " small { (time(start)) " – " (time(end)) } }
                }
                @for record in records { (line(record)) }
            }
        }
    }
}

/// Renders an answer or a failure.
fn line(record: &ResultRecord) -> Markup {
    let question = record.question.as_deref().unwrap_or_default();
    match &record.outcome {
        RecordOutcome::Answered(answered) => html! {
            p data-kind="answer" {
                b { (question) } " " (answered.answer)
                @if let Some(loss) = &answered.damage { " " small { "(" (describe_loss(loss)) ")" } }
                @for warning in &answered.warnings { " " small { "(" (warning) ")" } }
            }
        },
        RecordOutcome::Failed { error: FailureRecord { stage, kind, cause, hint } } => html! {
            p data-kind="failure" {
                b { (question) } " " em { (kind) " (" (stage) ")" } " " (cause)
                @if let Some(hint) = hint { " " small { (hint) } }
            }
        },
        RecordOutcome::Resolved { .. } => html! {},
    }
}

fn describe_loss(loss: &PacketLoss) -> String {
    let PacketLoss { packets, concealed, files, .. } = loss;
    let missing = if *files == 0 { String::new() } else { format!("{files} files of the playlist are missing, ") };
    format!("{missing}{packets} packets of the video are lost, errors are concealed in {concealed} frames")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::item::Id;

    #[test]
    fn records_are_grouped_at_the_first_record_of_their_item() {
        let records = [3, 1, 3, 2, 1].map(|id| ResultRecord::resolved(Id(id)));
        let ids: Vec<u128> = by_item(records.into()).iter().map(|record| record.item.0).collect();
        assert_eq!(ids, [3, 3, 1, 1, 2]);
    }

    #[test]
    fn texts_of_records_are_escaped() {
        let error = FailureRecord {
            stage: "decode".to_owned(),
            kind: "empty".to_owned(),
            cause: "<a href=\"x\">&".to_owned(),
            hint: None,
        };
        let outcome = RecordOutcome::Failed { error };
        let record = ResultRecord { video: "<b>.mp4".to_owned(), outcome, ..ResultRecord::resolved(Id(1)) };
        assert_eq!(
            article(&[record], None).into_string(),
            "<article><div><h2>&lt;b&gt;.mp4</h2><p data-kind=\"failure\"><b></b> <em>empty (decode)</em> \
             &lt;a href=&quot;x&quot;&gt;&amp;</p></div></article>"
        );
    }
}
