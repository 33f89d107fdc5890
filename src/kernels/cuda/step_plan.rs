//! A step's work as kernels read it: block tables, rows, rotary angles, and the tasks of attention, in one buffer that
//! is uploaded once and serves all layers.
//!
//! Sequences with few new positions are read by `paged_decode.cu` or `paged_tiles.cu`: their work is a list of tasks,
//! each a range of keys with the rows that read them. Longer ones are cut into pieces whose scores are matrix products.
//! Nothing here knows a device.

use std::ops::Range;

use candle_core::Result;

use crate::kernels::kv::{KvGeometry, PAGE_LEN, PageId, StepLayout, StepRows, pages_for};
use crate::kernels::row_blocks::{BlockPart, RowBlock, blocks};

/// Rows of a task (`TASK_ROWS` of `paged_tasks.cuh`).
pub(super) const TASK_ROWS: usize = 16;
/// Slot of a row's only result (`DIRECT` of `paged_tasks.cuh`).
const DIRECT: u32 = u32::MAX;
/// Words of `RowInfo`, of `DecodeTask` and of `JoinRow`.
const ROW_WORDS: usize = 4;
const TASK_WORDS: usize = 4 + 2 * TASK_ROWS;
const JOIN_WORDS: usize = 3;
/// Blocks that fill a large GPU: four for each of 128 multiprocessors.
const BLOCKS: usize = 512;
/// Pages below which a range of keys is not cut: joining costs as much as reading them.
const MIN_PAGES: usize = 4;
/// Bytes of scores that are made at once: they stay in the cache between two matrix products.
const SCORE_BYTES: usize = 32 << 20;

/// Sections of the uploaded words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sections {
    /// Addresses of pages, two words each: the block tables of all sequences, one after the other.
    pub(super) tables: Range<usize>,
    /// `RowInfo` of each row.
    pub(super) rows: Range<usize>,
    /// Cosines, f32.
    pub(super) cos: Range<usize>,
    /// Sines, f32.
    pub(super) sin: Range<usize>,
    /// `DecodeTask` of each task.
    pub(super) tasks: Range<usize>,
    /// `JoinRow` of each row with several results.
    pub(super) joins: Range<usize>,
}

/// Attention of the rows of sequences with few new positions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DecodeWork {
    pub(super) n_tasks: usize,
    /// Rows with several partial results.
    pub(super) n_joins: usize,
    /// Partial results.
    pub(super) n_slots: usize,
    /// The most rows of a task.
    pub(super) max_rows: usize,
}

/// Attention of a sequence with many new positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PrefillWork {
    /// Index of its first page in the block tables.
    pub(super) table: usize,
    /// Positions after the step.
    pub(super) n_keys: usize,
    pub(super) pieces: Vec<PrefillChunk>,
}

/// Consecutive rows of one sequence whose scores are made together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PrefillChunk {
    /// The first one's row in the step.
    pub(super) row: usize,
    /// The first one's position.
    pub(super) start: usize,
    pub(super) n: usize,
}

/// Sizes that the sections of a recorded step have room for: what a step fills of them may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepCapacity {
    pub(super) n_rows: usize,
    /// Angles of a row.
    pub(super) n_angles: usize,
    pub(super) n_pages: usize,
    pub(super) n_tasks: usize,
    pub(super) n_slots: usize,
}

impl StepCapacity {
    /// Room for every step of `n_rows` sequences with one row each, over at most `n_pages` pages.
    pub(super) fn new(geometry: &KvGeometry, n_rows: usize, n_pages: usize) -> Self {
        // `cut` makes at most BLOCKS / n_kv_heads parts more than there are ranges: one of each row, and one of every
        // two that share pages.
        let n_tasks = BLOCKS / geometry.n_kv_heads.max(1) + 2 * n_rows;
        let n_slots = n_tasks * n_rows.min(TASK_ROWS);
        Self { n_rows, n_angles: geometry.d_head / 2, n_pages, n_tasks, n_slots }
    }

    /// The ids of the rows, before the sections.
    pub(super) fn ids(&self) -> Range<usize> {
        0..self.n_rows
    }

    /// Ranges of the sections; the tables are last.
    pub(super) fn sections(&self) -> Sections {
        let mut end = self.ids().end;
        let mut add = |n: usize| {
            let start = end;
            end += n;
            start..end
        };
        let rows = add(ROW_WORDS * self.n_rows);
        let (cos, sin) = (add(self.n_angles * self.n_rows), add(self.n_angles * self.n_rows));
        let (tasks, joins) = (add(TASK_WORDS * self.n_tasks), add(JOIN_WORDS * self.n_rows));
        let first = joins.end.next_multiple_of(2);
        Sections { tables: first..first + 2 * self.n_pages, rows, cos, sin, tasks, joins }
    }

    /// A plan without a step: what the launches of a recorded step are made by.
    pub(super) fn plan(&self, max_rows: usize) -> StepPlan {
        let Self { n_rows, n_tasks, n_slots, .. } = *self;
        let decode = DecodeWork { n_tasks, n_joins: n_rows, n_slots, max_rows };
        StepPlan { words: Vec::new(), sections: self.sections(), n_rows, decode, prefill: Vec::new() }
    }

    /// The words of a step in these sections, 0 where it has less; none where it has more. A task or a join of zeros
    /// does nothing.
    pub(super) fn place(&self, ids: &[u32], plan: &StepPlan) -> Option<Vec<u32>> {
        let to = self.sections();
        let mut words = vec![0; to.tables.start + plan.sections.tables.len()];
        let from = &plan.sections;
        let pairs = [
            (&from.rows, &to.rows),
            (&from.cos, &to.cos),
            (&from.sin, &to.sin),
            (&from.tasks, &to.tasks),
            (&from.joins, &to.joins),
            (&from.tables, &to.tables),
        ];
        let fits = pairs.iter().all(|(from, to)| from.len() <= to.len()) && plan.decode.n_slots <= self.n_slots;
        if !fits || ids.len() != self.n_rows || plan.n_rows != self.n_rows || !plan.prefill.is_empty() {
            return None;
        }
        words[self.ids()].copy_from_slice(ids);
        for (from, to) in pairs {
            words[to.start..][..from.len()].copy_from_slice(&plan.words[from.clone()]);
        }
        Some(words)
    }
}

/// Key-value heads whose scores over `n_keys` keys are made at once for a piece of `n` rows.
pub(super) fn heads_at_once(geometry: &KvGeometry, n: usize, n_keys: usize, element_bytes: usize) -> usize {
    let head = geometry.group() * n * n_keys.next_multiple_of(PAGE_LEN) * element_bytes;
    (SCORE_BYTES / head.max(1)).clamp(1, geometry.n_kv_heads)
}

/// Pages and their kernels, as far as a plan depends on them.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageFormat {
    pub(super) geometry: KvGeometry,
    pub(super) element_bytes: usize,
    /// New positions up to which a sequence's rows are tasks.
    pub(super) few: usize,
}

/// A step's work.
#[derive(Debug, Clone, Default)]
pub(super) struct StepPlan {
    pub(super) words: Vec<u32>,
    pub(super) sections: Sections,
    pub(super) n_rows: usize,
    pub(super) decode: DecodeWork,
    pub(super) prefill: Vec<PrefillWork>,
}

/// A range of keys, in pages, and the rows that see all of them.
struct KeyRange {
    table: usize,
    pages: Range<usize>,
    /// Keys after the last one.
    end: usize,
    rows: Vec<usize>,
}

/// A sequence of the step with its first row and the index of its first page in the block tables.
struct PlannedSequence<'s> {
    rows: &'s StepRows,
    first_row: usize,
    table: usize,
}

impl StepPlan {
    /// Plans a step whose layout fits the geometry; `address` gives the device address of a page.
    ///
    /// # Errors
    /// When a page has no memory.
    pub(super) fn new(
        layout: &StepLayout,
        format: &PageFormat,
        address: impl Fn(PageId) -> Result<u64>,
    ) -> Result<Self> {
        let PageFormat { geometry, element_bytes, few } = format;
        let mut plan = Self { n_rows: layout.n_rows(), ..Self::default() };
        let placed = plan.add_tables(&layout.sequences, address)?;
        let (few, many): (Vec<&PlannedSequence<'_>>, Vec<_>) = placed.iter().partition(|placed| placed.rows.n <= *few);
        plan.prefill = many.iter().map(|placed| prefill(placed, geometry, *element_bytes)).collect();
        plan.add_rows(&placed);
        plan.sections.cos = plan.add(layout.cos.iter().map(|x| x.to_bits()));
        plan.sections.sin = plan.add(layout.sin.iter().map(|x| x.to_bits()));
        plan.add_tasks(cut(key_ranges(&few, geometry.group()), geometry.n_kv_heads));
        Ok(plan)
    }

    fn add(&mut self, words: impl Iterator<Item = u32>) -> Range<usize> {
        let start = self.words.len();
        self.words.extend(words);
        start..self.words.len()
    }

    fn add_tables<'s>(
        &mut self,
        sequences: &'s [StepRows],
        address: impl Fn(PageId) -> Result<u64>,
    ) -> Result<Vec<PlannedSequence<'s>>> {
        let (mut placed, mut first_row) = (Vec::with_capacity(sequences.len()), 0);
        for rows in sequences {
            placed.push(PlannedSequence { rows, first_row, table: self.words.len() / 2 });
            first_row += rows.n;
            for page in &rows.pages[..pages_for(rows.end())] {
                let address = address(*page)?;
                self.words.extend([address as u32, (address >> 32) as u32]);
            }
        }
        self.sections.tables = 0..self.words.len();
        Ok(placed)
    }

    fn add_rows(&mut self, placed: &[PlannedSequence<'_>]) {
        let mut pieces = self.prefill.iter().flat_map(|work| &work.pieces).copied().peekable();
        let mut words = Vec::with_capacity(ROW_WORDS * self.n_rows);
        for PlannedSequence { rows, first_row, table } in placed {
            let mut row = *first_row;
            while row < first_row + rows.n {
                let of_row = pieces.next_if(|piece| piece.row == row);
                let whole = PrefillChunk { row, start: rows.start + row - first_row, n: rows.n };
                let piece = of_row.unwrap_or(whole);
                let info = |i| [*table, piece.start + i, piece.row, piece.n];
                words.extend((0..piece.n).flat_map(info).map(|word| word as u32));
                row += piece.n;
            }
        }
        self.sections.rows = self.add(words.into_iter());
    }

    /// Adds tasks, and gives each row with several of them consecutive slots.
    fn add_tasks(&mut self, tasks: Vec<KeyRange>) {
        let mut n_results = vec![0u32; self.n_rows];
        tasks.iter().flat_map(|task| &task.rows).for_each(|row| n_results[*row] += 1);
        let mut next_slots = vec![DIRECT; self.n_rows];
        let (mut n_slots, mut joins) = (0, Vec::new());
        for (row, n) in n_results.into_iter().enumerate().filter(|(_, n)| *n > 1) {
            joins.push([row as u32, n_slots, n]);
            next_slots[row] = n_slots;
            n_slots += n;
        }
        let mut words = Vec::new();
        for KeyRange { table, pages, end, rows } in &tasks {
            words.extend([*table, pages.start * PAGE_LEN, *end, rows.len()].map(|word| word as u32));
            let padded = |row: &dyn Fn(usize) -> u32| {
                (0..TASK_ROWS).map(|i| rows.get(i).map_or(0, |r| row(*r))).collect::<Vec<u32>>()
            };
            words.extend(padded(&|row| row as u32));
            words.extend(padded(&|row| next_slots[row]));
            for row in rows {
                if next_slots[*row] != DIRECT {
                    next_slots[*row] += 1;
                }
            }
        }
        self.decode = DecodeWork {
            n_tasks: tasks.len(),
            n_joins: joins.len(),
            n_slots: n_slots as usize,
            max_rows: tasks.iter().map(|task| task.rows.len()).max().unwrap_or(0),
        };
        self.sections.tasks = self.add(words.into_iter());
        self.sections.joins = self.add(joins.into_iter().flatten());
    }
}

/// Cuts a sequence's rows so that the scores of one key-value head stay within [`SCORE_BYTES`], as far as pieces of
/// [`PAGE_LEN`] rows allow.
fn prefill(placed: &PlannedSequence<'_>, geometry: &KvGeometry, element_bytes: usize) -> PrefillWork {
    let PlannedSequence { rows, first_row, table } = placed;
    let n_keys = rows.end();
    let row_bytes = geometry.group() * n_keys.next_multiple_of(PAGE_LEN) * element_bytes;
    let at_once = (SCORE_BYTES / row_bytes / PAGE_LEN * PAGE_LEN).max(PAGE_LEN);
    let piece = |first: usize| PrefillChunk {
        row: first_row + first,
        start: rows.start + first,
        n: at_once.min(rows.n - first),
    };
    PrefillWork { table: *table, n_keys, pieces: (0..rows.n).step_by(at_once).map(piece).collect() }
}

/// The keys that rows of few new positions see: pages that rows share once for all of them, then what each sees alone.
fn key_ranges(few: &[&PlannedSequence<'_>], group: usize) -> Vec<KeyRange> {
    let sequences: Vec<StepRows> = few.iter().map(|placed| placed.rows.clone()).collect();
    let mut ranges = Vec::new();
    for RowBlock { parts, n_shared } in blocks(&sequences, group, TASK_ROWS * group) {
        let of_part = |part: &BlockPart| {
            let (placed, first) = (few[part.sequence], part.first);
            (first..first + part.n).map(move |i| (placed, placed.first_row + i, placed.rows.start + i + 1))
        };
        let rows: Vec<_> = parts.iter().flat_map(of_part).collect();
        let n_shared = if rows.len() > 1 { n_shared } else { 0 };
        if n_shared > 0 {
            let shared = KeyRange {
                table: rows[0].0.table,
                pages: 0..n_shared,
                end: n_shared * PAGE_LEN,
                rows: rows.iter().map(|(_, row, _)| *row).collect(),
            };
            ranges.push(shared);
        }
        let own = rows.into_iter().filter(|(.., end)| *end > n_shared * PAGE_LEN);
        ranges.extend(own.map(|(placed, row, end)| KeyRange {
            table: placed.table,
            pages: n_shared..pages_for(end),
            end,
            rows: vec![row],
        }));
    }
    ranges
}

/// Cuts ranges evenly, so that there are about as many blocks as a GPU runs at once.
fn cut(ranges: Vec<KeyRange>, n_kv_heads: usize) -> Vec<KeyRange> {
    let n_pages: usize = ranges.iter().map(|range| range.pages.len()).sum();
    let at_once = (n_pages * n_kv_heads).div_ceil(BLOCKS).max(MIN_PAGES);
    let mut tasks = Vec::new();
    for KeyRange { table, pages, end, rows } in ranges {
        let n_parts = pages.len().div_ceil(at_once).max(1);
        let n = pages.len().div_ceil(n_parts).max(1);
        for first in pages.clone().step_by(n) {
            let last = (first + n).min(pages.end);
            let range = KeyRange { table, pages: first..last, end: end.min(last * PAGE_LEN), rows: rows.clone() };
            tasks.push(range);
        }
    }
    tasks
}

#[cfg(test)]
#[path = "step_plan_tests.rs"]
mod tests;
