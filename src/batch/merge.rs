//! Merging the results of several machines or devices, and reporting overlaps, conflicts and gaps. Called by `results
//! merge`, and at the end of a batch on several devices.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::error::other_plan;
use super::item::{Id, Shard};
use super::store::{Header, ResultRecord, Store, StoredResults, holder, read_sessions, thumbnail_path};
use super::summary::{ResultCounts, Summary, read_summary};
use crate::error::Error;

/// Report of a merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeReport {
    /// Number of lines added.
    pub n_lines: u64,
    /// Number of lines whose question or item was there already.
    pub n_overlaps: u64,
    /// Questions with different answers in several parts; the first answer stays.
    pub conflicts: Vec<String>,
    /// Descriptions of what is missing.
    pub gaps: Vec<String>,
}

/// Maximum number of conflicts in a report.
const MAX_CONFLICTS: usize = 20;

/// Merges results into a new directory. An answer takes precedence over a failure.
///
/// # Errors
/// [`Error`] when a part cannot be read, the parts are of different plans, or the directory cannot be written.
pub fn merge(parts: &[PathBuf], out: &Path) -> Result<MergeReport, Error> {
    let parts: Vec<StoredResults> = parts.iter().map(|dir| StoredResults::open(dir)).collect::<Result<_, _>>()?;
    let Some(first) = parts.first() else { return Ok(MergeReport::default()) };
    for part in &parts[1..] {
        let differences = first.header.differences(&part.header);
        if !differences.is_empty() {
            let dir = first.dir.clone();
            let differences =
                differences.iter().map(|text| format!("{text} ({})", part.dir.display())).collect::<Vec<_>>();
            return Err(other_plan(&dir, &differences));
        }
    }
    let (shards, missing) = coverage(&parts);
    let n_missing = missing.len();
    let header = Header { shards, ..first.header.clone() };
    let (mut store, state) = Store::open(out, &header)?;
    if state.n_answered() + state.n_failed() > 0 {
        return Err(Error::invalid("results of an earlier merge").with_hint("another directory").about(out));
    }
    let report = MergeReport { gaps: missing, ..MergeReport::default() };
    let mut merge = MergeState { report, lines: HashMap::new() };
    // Failures of whole items first: an answer in any part takes precedence.
    for pass in [MergePass::Items, MergePass::Questions] {
        for part in &parts {
            merge.add(part, pass, &mut store)?;
        }
    }
    for part in &parts {
        merge.report.gaps.extend(unfinished(part)?);
        let n_damaged = part.state.damaged.len();
        if n_damaged > 0 {
            merge.report.gaps.push(format!("{} has {n_damaged} unreadable line(s)", part.dir.display()));
        }
    }
    merge.report.gaps.extend(unasked(&parts)?);
    store.sync()?;
    // Complete with respect to the shards in the header, as the summary of a single shard is.
    let complete = merge.report.gaps.len() == n_missing;
    Summary { complete, results: ResultCounts::of(&StoredResults::open(out)?.state), ..Summary::default() }
        .write(out)?;
    Ok(merge.report)
}

/// State of a merge.
struct MergeState {
    report: MergeReport,
    /// Lines written so far, by their key.
    lines: HashMap<Id, MergedLine>,
}

/// Lines of one pass over the parts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MergePass {
    /// Lines about whole items.
    Items,
    /// Lines about questions.
    Questions,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct MergedLine {
    is_failure: bool,
    /// Hash of the whole line.
    hash: [u8; 16],
}

impl MergedLine {
    fn of(record: &ResultRecord) -> Self {
        let mut hash = [0; 16];
        // Serialization does not fail: the keys are texts.
        let line = serde_json::to_vec(record).unwrap_or_default();
        hash.copy_from_slice(&blake3::hash(&line).as_bytes()[..16]);
        Self { is_failure: record.failure().is_some(), hash }
    }
}

impl MergeState {
    /// Adds the lines of a part in one pass.
    fn add(&mut self, part: &StoredResults, pass: MergePass, store: &mut Store) -> Result<(), Error> {
        let timings = part.timings()?;
        part.for_each(&mut |record| {
            if record.question.is_none() == (pass == MergePass::Items) && self.is_new(&record) {
                store.add(&record, timings.get(&record.key()).copied())?;
                if let Ok(jpeg) = std::fs::read(thumbnail_path(&part.dir, record.item)) {
                    store.add_thumbnail(record.item, &jpeg).map_err(Error::io(store.dir()))?;
                }
            }
            Ok(())
        })
    }

    /// Returns whether a line is new, or an answer in place of a failure; counts overlaps and conflicts.
    fn is_new(&mut self, record: &ResultRecord) -> bool {
        let (key, new) = (record.key(), MergedLine::of(record));
        match self.lines.get(&key) {
            Some(old) if *old == new => {
                self.report.n_overlaps += 1;
                return false;
            }
            Some(old) if old.is_failure && !new.is_failure => self.report.n_overlaps += 1,
            Some(old) => {
                self.report.n_overlaps += 1;
                if old.is_failure == new.is_failure && self.report.conflicts.len() < MAX_CONFLICTS {
                    let question = record.question.as_deref().unwrap_or("no question");
                    self.report.conflicts.push(format!("{} ({question})", record.video));
                }
                return false;
            }
            None => {}
        }
        self.lines.insert(key, new);
        self.report.n_lines += 1;
        true
    }
}

/// Returns the shards of the parts, for the merged header, and descriptions of the missing ones.
fn coverage(parts: &[StoredResults]) -> (Vec<String>, Vec<String>) {
    if parts.iter().any(|part| part.header.shards.is_empty()) {
        return (Vec::new(), Vec::new());
    }
    let mut names: Vec<String> = parts.iter().flat_map(|part| part.header.shards.iter().cloned()).collect();
    names.sort();
    names.dedup();
    let shards: Vec<Shard> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let Some(of) = shards.first().map(Shard::of).filter(|of| shards.iter().all(|shard| shard.of() == *of)) else {
        let gap = format!("unknown coverage of the archive: shards {}", names.join(", "));
        return (names, vec![gap]);
    };
    let missing: Vec<String> = (0..of)
        .filter(|index| shards.iter().all(|shard| shard.index() != *index))
        .map(|index| format!("shard {index}/{of} is missing"))
        .collect();
    if missing.is_empty() { (Vec::new(), missing) } else { (names, missing) }
}

/// Describes why a part may lack items, if it may.
fn unfinished(part: &StoredResults) -> Result<Option<String>, Error> {
    let dir = part.dir.display();
    if let Some(holder) = holder(&part.dir) {
        return Ok(Some(format!("{dir} is not finished: {holder} writes there")));
    }
    let complete = match read_sessions(&part.dir)?.pop() {
        Some(session) => session.summary.is_some_and(|summary| summary.complete),
        // Merged results have no sessions; their summary says whether the parts were complete.
        None => read_summary(&part.dir).is_some_and(|summary| summary.complete),
    };
    let gap = || Error::invalid(format!("{dir} is not finished")).with_hint("run its command again").to_string();
    Ok((!complete).then(gap))
}

/// Describes the questions that were asked about every item of some parts, but not of others.
fn unasked(parts: &[StoredResults]) -> Result<Vec<String>, Error> {
    let asked = |part: &StoredResults| -> Result<BTreeSet<String>, Error> {
        Ok(read_sessions(&part.dir)?.into_iter().flat_map(|session| session.questions).collect())
    };
    let asked = parts.iter().map(asked).collect::<Result<Vec<_>, _>>()?;
    let all: BTreeSet<&String> = asked.iter().flatten().collect();
    // Merged results have no sessions.
    let lacking = parts.iter().zip(&asked).filter(|(_, asked)| !asked.is_empty());
    Ok(lacking
        .flat_map(|(part, asked)| all.iter().filter(|question| !asked.contains(**question)).map(move |q| (part, q)))
        .map(|(part, question)| format!("{} was not asked: {question}", part.dir.display()))
        .collect())
}
