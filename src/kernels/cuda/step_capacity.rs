//! Capacity of a recorded decode step: fixed sections of one input buffer, which the words of every replayed step are
//! copied into. `decode_graph` records and replays with it.

use std::ops::Range;

use super::step_plan::{BLOCKS, DecodeWork, JOIN_WORDS, ROW_WORDS, Sections, StepPlan, TASK_ROWS, TASK_WORDS};
use crate::kernels::kv::KvGeometry;

/// Maximum sizes of the sections of a recorded step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepCapacity {
    /// Number of rows, which is fixed.
    pub(super) n_rows: usize,
    /// Number of rotary angles of a row.
    pub(super) n_angles: usize,
    /// Maximum number of entries of the block tables.
    pub(super) n_pages: usize,
    /// Maximum number of attention tasks.
    pub(super) n_tasks: usize,
    /// Maximum number of partial results.
    pub(super) n_slots: usize,
}

impl StepCapacity {
    /// Returns the capacity for every step of `n_rows` sequences with one row each, over at most `n_pages` pages.
    pub(super) fn new(geometry: &KvGeometry, n_rows: usize, n_pages: usize) -> Self {
        // `split_ranges` adds at most BLOCKS / n_kv_heads tasks to the ranges: one of each row, and one of every two
        // rows that share pages.
        let n_tasks = BLOCKS / geometry.n_kv_heads.max(1) + 2 * n_rows;
        let n_slots = n_tasks * n_rows.min(TASK_ROWS);
        Self { n_rows, n_angles: geometry.d_head / 2, n_pages, n_tasks, n_slots }
    }

    /// Returns the range of the rows' ids, before the sections.
    pub(super) fn ids(&self) -> Range<usize> {
        0..self.n_rows
    }

    /// Returns the ranges of the sections; the tables are last.
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

    /// Returns a plan of the maximum sizes, which determines the launches of the recording.
    pub(super) fn plan(&self, max_rows: usize) -> StepPlan {
        let Self { n_rows, n_tasks, n_slots, .. } = *self;
        let decode = DecodeWork { n_tasks, n_joins: n_rows, n_slots, max_rows };
        StepPlan { words: Vec::new(), sections: self.sections(), n_rows, decode, prefill: Vec::new() }
    }

    /// Returns the words of a step in these sections, padded with 0; `None` where the step exceeds the capacity. A task
    /// or a join of zeros does nothing.
    pub(super) fn words(&self, ids: &[u32], plan: &StepPlan) -> Option<Vec<u32>> {
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
