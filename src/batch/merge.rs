//! Joining results that several machines made of parts of an archive, and finding what overlaps and what is missing.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::BatchError;
use super::item::{Id, Shard};
use super::store::{Header, ResultRecord, Store, StoredResults, holder, read_sessions, thumbnail_path};
use super::summary::{ResultCounts, Summary, read_summary};

/// What joining found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeReport {
    /// Lines that were added.
    pub n_lines: u64,
    /// Lines that were there already, word for word.
    pub n_overlaps: u64,
    /// Lines that were there already with other words: those that came first stay.
    pub conflicts: Vec<String>,
    /// What is missing, in words.
    pub gaps: Vec<String>,
}

/// Conflicts that are told one by one.
const MAX_TOLD: usize = 20;

/// Joins results into a directory of their own. An answer counts more than a failure.
///
/// # Errors
/// [`BatchError`] when some of them cannot be read, or are another plan's, or the disk refuses.
pub fn merge(parts: &[PathBuf], out: &Path) -> Result<MergeReport, BatchError> {
    let parts: Vec<StoredResults> = parts.iter().map(|dir| StoredResults::open(dir)).collect::<Result<_, _>>()?;
    let Some(first) = parts.first() else { return Ok(MergeReport::default()) };
    for part in &parts[1..] {
        let differences = first.header.differences(&part.header);
        if !differences.is_empty() {
            let dir = first.dir.clone();
            let differences = differences.iter().map(|text| format!("{text} ({})", part.dir.display())).collect();
            return Err(BatchError::OtherPlan { dir, differences });
        }
    }
    let (shards, missing) = coverage(&parts);
    let n_missing = missing.len();
    let header = Header { shards, ..first.header.clone() };
    let (mut store, state) = Store::open(out, &header)?;
    if state.n_answered() + state.n_failed() > 0 {
        let cause = io::Error::other("it holds results already; hint: another directory");
        return Err(BatchError::io(out)(cause));
    }
    let mut joining = Merge { merged: MergeReport { gaps: missing, ..MergeReport::default() }, kept: HashMap::new() };
    // Failures of whole items first: what was answered in any part counts more.
    for wants_items in [true, false] {
        for part in &parts {
            joining.add(part, wants_items, &mut store)?;
        }
    }
    for part in &parts {
        joining.merged.gaps.extend(unfinished(part)?);
        let n_damaged = part.state.damaged.len();
        if n_damaged > 0 {
            joining.merged.gaps.push(format!("{} has {n_damaged} unreadable line(s)", part.dir.display()));
        }
    }
    joining.merged.gaps.extend(unasked(&parts)?);
    store.sync()?;
    // Of the shards that it names, as a shard's own summary is.
    let complete = joining.merged.gaps.len() == n_missing;
    Summary { complete, results: ResultCounts::of(&StoredResults::open(out)?.state), ..Summary::default() }
        .write(out)?;
    Ok(joining.merged)
}

/// What was kept so far.
struct Merge {
    merged: MergeReport,
    kept: HashMap<Id, MergedLine>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct MergedLine {
    is_failure: bool,
    /// Of the whole line.
    hash: [u8; 16],
}

impl MergedLine {
    fn of(record: &ResultRecord) -> Self {
        let mut hash = [0; 16];
        // A record is always written: its keys are texts.
        let line = serde_json::to_vec(record).unwrap_or_default();
        hash.copy_from_slice(&blake3::hash(&line).as_bytes()[..16]);
        Self { is_failure: record.failure().is_some(), hash }
    }
}

impl Merge {
    /// Adds the lines of a part: those about whole items, or those about questions.
    fn add(&mut self, part: &StoredResults, wants_items: bool, store: &mut Store) -> Result<(), BatchError> {
        let timings = part.timings()?;
        part.for_each(&mut |record| {
            if record.question.is_none() == wants_items && self.wants(&record) {
                store.add(&record, timings.get(&record.key()).copied())?;
                if let Ok(picture) = std::fs::read(thumbnail_path(&part.dir, record.item)) {
                    store.add_thumbnail(record.item, &picture).map_err(BatchError::io(store.dir()))?;
                }
            }
            Ok(())
        })
    }

    /// Whether a line adds something.
    fn wants(&mut self, record: &ResultRecord) -> bool {
        let (key, new) = (record.key(), MergedLine::of(record));
        match self.kept.get(&key) {
            Some(old) if *old == new => {
                self.merged.n_overlaps += 1;
                return false;
            }
            Some(old) if old.is_failure && !new.is_failure => self.merged.n_overlaps += 1,
            Some(old) => {
                self.merged.n_overlaps += 1;
                if old.is_failure == new.is_failure && self.merged.conflicts.len() < MAX_TOLD {
                    let question = record.question.as_deref().unwrap_or("no question");
                    self.merged.conflicts.push(format!("{} ({question})", record.video));
                }
                return false;
            }
            None => {}
        }
        self.kept.insert(key, new);
        self.merged.n_lines += 1;
        true
    }
}

/// The shards that the parts are, as the joined header says it, and which are missing.
fn coverage(parts: &[StoredResults]) -> (Vec<String>, Vec<String>) {
    if parts.iter().any(|part| part.header.shards.is_empty()) {
        return (Vec::new(), Vec::new());
    }
    let mut names: Vec<String> = parts.iter().flat_map(|part| part.header.shards.iter().cloned()).collect();
    names.sort();
    names.dedup();
    let shards: Vec<Shard> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let Some(of) = shards.first().map(Shard::of).filter(|of| shards.iter().all(|shard| shard.of() == *of)) else {
        let gap = format!("whether they are all of the archive cannot be told: shards {}", names.join(", "));
        return (names, vec![gap]);
    };
    let missing: Vec<String> = (0..of)
        .filter(|index| shards.iter().all(|shard| shard.index() != *index))
        .map(|index| format!("shard {index}/{of} is missing"))
        .collect();
    if missing.is_empty() { (Vec::new(), missing) } else { (names, missing) }
}

/// Why a part may lack items, if it may.
fn unfinished(part: &StoredResults) -> Result<Option<String>, BatchError> {
    let dir = part.dir.display();
    if let Some(holder) = holder(&part.dir) {
        return Ok(Some(format!("{dir} is not finished: {holder} writes there")));
    }
    let complete = match read_sessions(&part.dir)?.pop() {
        Some(session) => session.summary.is_some_and(|summary| summary.complete),
        // What was joined before has no sessions, and says itself whether its parts were whole.
        None => read_summary(&part.dir).is_some_and(|summary| summary.complete),
    };
    Ok((!complete).then(|| format!("{dir} is not finished; hint: run its command again")))
}

/// Questions that were asked about every item of some parts, but not of others.
fn unasked(parts: &[StoredResults]) -> Result<Vec<String>, BatchError> {
    let asked = |part: &StoredResults| -> Result<BTreeSet<String>, BatchError> {
        Ok(read_sessions(&part.dir)?.into_iter().flat_map(|session| session.questions).collect())
    };
    let asked = parts.iter().map(asked).collect::<Result<Vec<_>, _>>()?;
    let all: BTreeSet<&String> = asked.iter().flatten().collect();
    // What was joined before has no sessions.
    let lacking = parts.iter().zip(&asked).filter(|(_, asked)| !asked.is_empty());
    Ok(lacking
        .flat_map(|(part, asked)| all.iter().filter(|question| !asked.contains(**question)).map(move |q| (part, q)))
        .map(|(part, question)| format!("{} was not asked: {question}", part.dir.display()))
        .collect())
}
