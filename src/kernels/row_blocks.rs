//! Rows of a step that are worked on together: those of sequences that share pages.
//!
//! Attention over pages reads a page once for all rows of a block, so a prefix that sequences share is read once for
//! them.

use super::kv::{PAGE_LEN, PageId, StepRows};

/// Rows of one sequence within a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockPart {
    /// The sequence, by its index in the step.
    pub(crate) sequence: usize,
    /// Its first position in the block, counted from the sequence's first new position.
    pub(crate) first: usize,
    /// Positions.
    pub(crate) n: usize,
}

/// Positions whose rows are worked on together, for one key-value head after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowBlock {
    pub(crate) parts: Vec<BlockPart>,
    /// Leading pages that all of them share and see whole.
    pub(crate) n_shared: usize,
}

/// Cuts a step into blocks of about `max_rows` rows, `group` for each position. Sequences with the same leading pages
/// come together.
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
            match blocks.last_mut().and_then(|block| Some((shared_with(block, sequences, pages, whole)?, block))) {
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

/// Number of leading pages that a block goes on sharing if rows that see `whole` of `pages` join it; none where that is
/// less than half of what either shares otherwise.
fn shared_with(block: &RowBlock, sequences: &[StepRows], pages: &[PageId], whole: usize) -> Option<usize> {
    let those = &sequences[block.parts.first()?.sequence].pages;
    let common = those.iter().zip(pages).take_while(|(a, b)| a == b).count().min(block.n_shared).min(whole);
    (common > 0 && 2 * common >= block.n_shared.max(whole)).then_some(common)
}
