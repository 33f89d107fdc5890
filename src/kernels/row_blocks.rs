//! Blocks of rows for paged attention: rows of sequences that share leading pages are attended to together.
//!
//! A kernel reads a page once for all rows of a block, so a prefix that sequences share is read once. Both the CPU's
//! attention and the plan of a GPU's step (`cuda::step_plan`) use these blocks.

use super::kv::{PAGE_LEN, PageId, StepRows};

/// Rows of one sequence within a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockPart {
    /// Index of the sequence in the step.
    pub(crate) sequence: usize,
    /// First position of the part, relative to the sequence's first new position.
    pub(crate) first: usize,
    /// Number of positions.
    pub(crate) n: usize,
}

/// Rows that a kernel processes together, for each key-value head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowBlock {
    /// Rows of the block, sequence by sequence.
    pub(crate) parts: Vec<BlockPart>,
    /// Number of leading pages that all parts share and attend to as a whole.
    pub(crate) n_shared: usize,
}

/// Cuts a step into blocks of about `max_rows` rows, `group` rows for each position. Sequences with common leading
/// pages are placed in the same blocks.
pub(crate) fn blocks(sequences: &[StepRows], group: usize, max_rows: usize) -> Vec<RowBlock> {
    let at_once = (max_rows / group.max(1)).max(1);
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by(|&a, &b| sequences[a].pages.cmp(&sequences[b].pages));
    let mut blocks: Vec<RowBlock> = Vec::new();
    for sequence in order {
        let StepRows { pages, start, n } = &sequences[sequence];
        for first in (0..*n).step_by(at_once) {
            let part = BlockPart { sequence, first, n: at_once.min(n - first) };
            let whole = (start + first + 1) / PAGE_LEN;
            match blocks.last_mut().and_then(|block| Some((n_shared_with(block, sequences, pages, whole)?, block))) {
                Some((n_shared, block)) if block.parts.iter().map(|part| part.n).sum::<usize>() + part.n <= at_once => {
                    block.n_shared = n_shared;
                    block.parts.push(part);
                }
                _ => blocks.push(RowBlock { parts: vec![part], n_shared: whole }),
            }
        }
    }
    blocks
}

/// Returns the number of leading pages that a block shares after rows that attend to `whole` of `pages` join it; `None`
/// where this is less than half of the pages that either shares on its own.
fn n_shared_with(block: &RowBlock, sequences: &[StepRows], pages: &[PageId], whole: usize) -> Option<usize> {
    let block_pages = &sequences[block.parts.first()?.sequence].pages;
    let common = block_pages.iter().zip(pages).take_while(|(a, b)| a == b).count().min(block.n_shared).min(whole);
    (common > 0 && 2 * common >= block.n_shared.max(whole)).then_some(common)
}
