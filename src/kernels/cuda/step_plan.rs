//! Plan of a step: block tables, rows, rotary angles and attention tasks in the layout of the kernels, in one buffer
//! that is uploaded once for all layers.
//!
//! Sequences with few new positions are decoded by `paged_decode.cu` or `paged_tiles.cu`: their work is a list of
//! tasks, each a range of keys with the rows that attend to it. Longer sequences are split into chunks for prefill. The
//! plan is device-neutral.

use std::ops::Range;

use candle_core::Result;

use crate::kernels::kv::{KvGeometry, PAGE_LEN, PageId, StepLayout, StepRows, pages_for};
use crate::kernels::row_blocks::{BlockPart, RowBlock, blocks};

/// Maximum number of rows of a task (`TASK_ROWS` of `paged_tasks.cuh`).
pub(super) const TASK_ROWS: usize = 16;
/// Slot of a row with a single task, whose result is final (`DIRECT` of `paged_tasks.cuh`).
const DIRECT: u32 = u32::MAX;
/// Words of `RowInfo` of `pages.cuh`.
pub(super) const ROW_WORDS: usize = 4;
/// Words of `DecodeTask` of `paged_tasks.cuh`.
pub(super) const TASK_WORDS: usize = 4 + 2 * TASK_ROWS;
/// Words of `JoinRow` of `paged_tasks.cuh`.
pub(super) const JOIN_WORDS: usize = 3;
/// Number of blocks that fill a large GPU: four for each of 128 multiprocessors.
pub(super) const BLOCKS: usize = 512;
/// Minimum number of pages of a task: joining its result costs as much as reading fewer pages.
const MIN_PAGES: usize = 4;
/// Maximum bytes of scores that are computed at once, so that they stay in the L2 cache between two matrix products.
const SCORE_BYTES: usize = 32 << 20;

/// Sections of the uploaded words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sections {
    /// Block tables of all sequences, one after the other: addresses of pages, two words each.
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

/// Sizes of the decode attention: sequences with few new positions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DecodeWork {
    /// Number of tasks.
    pub(super) n_tasks: usize,
    /// Number of rows with several partial results.
    pub(super) n_joins: usize,
    /// Number of partial results.
    pub(super) n_slots: usize,
    /// Maximum number of rows of a task.
    pub(super) max_rows: usize,
}

/// Prefill attention of a sequence with many new positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PrefillWork {
    /// Index of the sequence's first page in the block tables.
    pub(super) table: usize,
    /// Number of positions after the step.
    pub(super) n_keys: usize,
    /// Chunks of the new positions.
    pub(super) chunks: Vec<PrefillChunk>,
}

/// Consecutive rows of one sequence whose scores are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PrefillChunk {
    /// First row, as an index in the step.
    pub(super) row: usize,
    /// Position of the first row.
    pub(super) start: usize,
    /// Number of rows.
    pub(super) n: usize,
}

/// Returns the number of key-value heads whose scores over `n_keys` keys are computed at once for a chunk of `n` rows.
pub(super) fn heads_at_once(geometry: &KvGeometry, n: usize, n_keys: usize, element_bytes: usize) -> usize {
    let head = geometry.group() * n * n_keys.next_multiple_of(PAGE_LEN) * element_bytes;
    (SCORE_BYTES / head.max(1)).clamp(1, geometry.n_kv_heads)
}

/// Properties of the store that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageFormat {
    pub(super) geometry: KvGeometry,
    pub(super) element_bytes: usize,
    /// Maximum number of new positions of a sequence that is decoded; longer ones are prefilled.
    pub(super) max_decode_positions: usize,
}

/// Plan of a step.
#[derive(Debug, Clone, Default)]
pub(super) struct StepPlan {
    /// Words of all sections.
    pub(super) words: Vec<u32>,
    pub(super) sections: Sections,
    pub(super) n_rows: usize,
    pub(super) decode: DecodeWork,
    pub(super) prefill: Vec<PrefillWork>,
}

/// Range of keys, in pages, and the rows that attend to all of them.
struct KeyRange {
    table: usize,
    pages: Range<usize>,
    /// Index after the last key.
    end: usize,
    rows: Vec<usize>,
}

/// Sequence of the step with its first row and the index of its first page in the block tables.
struct PlannedSequence<'s> {
    rows: &'s StepRows,
    first_row: usize,
    table: usize,
}

impl StepPlan {
    /// Plans a step with a checked layout; `address` returns the device address of a page.
    ///
    /// # Errors
    /// When a page is not allocated.
    pub(super) fn new(
        layout: &StepLayout,
        format: &PageFormat,
        address: impl Fn(PageId) -> Result<u64>,
    ) -> Result<Self> {
        let PageFormat { geometry, element_bytes, max_decode_positions } = format;
        let mut plan = Self { n_rows: layout.n_rows(), ..Self::default() };
        let sequences = plan.add_tables(&layout.sequences, address)?;
        let (decoded, prefilled): (Vec<&PlannedSequence<'_>>, Vec<_>) =
            sequences.iter().partition(|sequence| sequence.rows.n <= *max_decode_positions);
        plan.prefill = prefilled.iter().map(|sequence| split_prefill(sequence, geometry, *element_bytes)).collect();
        plan.add_rows(&sequences);
        plan.sections.cos = plan.add(layout.cos.iter().map(|x| x.to_bits()));
        plan.sections.sin = plan.add(layout.sin.iter().map(|x| x.to_bits()));
        plan.add_tasks(split_ranges(key_ranges(&decoded, geometry.group()), geometry.n_kv_heads));
        Ok(plan)
    }

    /// Appends words and returns their range.
    fn add(&mut self, words: impl Iterator<Item = u32>) -> Range<usize> {
        let start = self.words.len();
        self.words.extend(words);
        start..self.words.len()
    }

    /// Adds the block tables of all sequences.
    fn add_tables<'s>(
        &mut self,
        sequences: &'s [StepRows],
        address: impl Fn(PageId) -> Result<u64>,
    ) -> Result<Vec<PlannedSequence<'s>>> {
        let (mut planned, mut first_row) = (Vec::with_capacity(sequences.len()), 0);
        for rows in sequences {
            planned.push(PlannedSequence { rows, first_row, table: self.words.len() / 2 });
            first_row += rows.n;
            for page in &rows.pages[..pages_for(rows.end())] {
                let address = address(*page)?;
                self.words.extend([address as u32, (address >> 32) as u32]);
            }
        }
        self.sections.tables = 0..self.words.len();
        Ok(planned)
    }

    /// Adds `RowInfo` of all rows.
    fn add_rows(&mut self, sequences: &[PlannedSequence<'_>]) {
        let mut chunks = self.prefill.iter().flat_map(|work| &work.chunks).copied().peekable();
        let mut words = Vec::with_capacity(ROW_WORDS * self.n_rows);
        for PlannedSequence { rows, first_row, table } in sequences {
            let mut row = *first_row;
            while row < first_row + rows.n {
                let prefill_chunk = chunks.next_if(|chunk| chunk.row == row);
                let whole = PrefillChunk { row, start: rows.start + row - first_row, n: rows.n };
                let chunk = prefill_chunk.unwrap_or(whole);
                let info = |i| [*table, chunk.start + i, chunk.row, chunk.n];
                words.extend((0..chunk.n).flat_map(info).map(|word| word as u32));
                row += chunk.n;
            }
        }
        self.sections.rows = self.add(words.into_iter());
    }

    /// Adds tasks, and assigns consecutive slots to each row with several tasks.
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

/// Splits a sequence's rows into chunks whose scores of one key-value head are at most [`SCORE_BYTES`]. A chunk has at
/// least [`PAGE_LEN`] rows.
fn split_prefill(sequence: &PlannedSequence<'_>, geometry: &KvGeometry, element_bytes: usize) -> PrefillWork {
    let PlannedSequence { rows, first_row, table } = sequence;
    let n_keys = rows.end();
    let row_bytes = geometry.group() * n_keys.next_multiple_of(PAGE_LEN) * element_bytes;
    let at_once = (SCORE_BYTES / row_bytes / PAGE_LEN * PAGE_LEN).max(PAGE_LEN);
    let chunk = |first: usize| PrefillChunk {
        row: first_row + first,
        start: rows.start + first,
        n: at_once.min(rows.n - first),
    };
    PrefillWork { table: *table, n_keys, chunks: (0..rows.n).step_by(at_once).map(chunk).collect() }
}

/// Returns the ranges of visible keys of decoded sequences: shared pages once for all rows, then the other keys of each
/// row.
fn key_ranges(decoded: &[&PlannedSequence<'_>], group: usize) -> Vec<KeyRange> {
    let sequences: Vec<StepRows> = decoded.iter().map(|sequence| sequence.rows.clone()).collect();
    let mut ranges = Vec::new();
    for RowBlock { parts, n_shared } in blocks(&sequences, group, TASK_ROWS * group) {
        let rows_of = |part: &BlockPart| {
            let (sequence, first) = (decoded[part.sequence], part.first);
            (first..first + part.n).map(move |i| (sequence, sequence.first_row + i, sequence.rows.start + i + 1))
        };
        let rows: Vec<_> = parts.iter().flat_map(rows_of).collect();
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
        ranges.extend(own.map(|(sequence, row, end)| KeyRange {
            table: sequence.table,
            pages: n_shared..pages_for(end),
            end,
            rows: vec![row],
        }));
    }
    ranges
}

/// Splits ranges evenly into tasks, so that there are about as many blocks as a GPU runs at once.
fn split_ranges(ranges: Vec<KeyRange>, n_kv_heads: usize) -> Vec<KeyRange> {
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
