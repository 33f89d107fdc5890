//! Byte-pair merging of SentencePiece (`bpe_model.cc`): the pair of the best score first, of equal scores the leftmost.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::{PieceKind, SentencePiece};

/// Symbol of the text, in a doubly linked list of unmerged symbols.
struct Symbol {
    start: usize,
    /// Length in bytes; 0 after the symbol was merged into its left neighbour.
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
    /// The symbol is a user-defined piece, which is never merged.
    frozen: bool,
}

/// Pair of neighbours that may be merged.
struct MergeCandidate {
    score: f32,
    left: usize,
    right: usize,
    /// Joint length when the pair was queued; a different one means that a symbol has changed.
    len: usize,
}

impl Ord for MergeCandidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for MergeCandidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for MergeCandidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for MergeCandidate {}

/// Priority queue of merges of one text.
struct MergeQueue<'m, 't> {
    model: &'m SentencePiece,
    text: &'t str,
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<MergeCandidate>,
    /// Length of the left part of the last merge that made each unused piece.
    unused: HashMap<&'t str, usize>,
}

impl SentencePiece {
    /// Merges a normalized text into pieces, in order. A text outside the vocabulary is a single character.
    pub(super) fn merge<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let symbols = self.split(text);
        let mut queue =
            MergeQueue { model: self, text, symbols, candidates: BinaryHeap::new(), unused: HashMap::new() };
        for right in 1..queue.symbols.len() {
            queue.consider(right - 1, right);
        }
        while let Some(candidate) = queue.candidates.pop() {
            queue.apply(&candidate);
        }
        let mut pieces = Vec::new();
        for symbol in queue.symbols.iter().filter(|symbol| symbol.len > 0) {
            queue.split_unused(&text[symbol.start..symbol.start + symbol.len], &mut pieces);
        }
        pieces
    }

    /// Splits a text into single characters and user-defined pieces.
    fn split(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        let mut start = 0;
        while let Some(first) = text[start..].chars().next() {
            let whole = self.normalizer.user_defined_prefix(&text[start..]);
            let len = whole.unwrap_or(first.len_utf8());
            let here = symbols.len();
            if let Some(last) = symbols.last_mut() {
                last.next = Some(here);
            }
            symbols.push(Symbol { start, len, prev: here.checked_sub(1), next: None, frozen: whole.is_some() });
            start += len;
        }
        symbols
    }
}

impl<'t> MergeQueue<'_, 't> {
    /// Queues a pair of neighbours if they make a piece.
    fn consider(&mut self, left: usize, right: usize) {
        let (a, b) = (&self.symbols[left], &self.symbols[right]);
        if a.frozen || b.frozen {
            return;
        }
        let joint = &self.text[a.start..b.start + b.len];
        let Some(&id) = self.model.text.get(joint) else { return };
        let piece = &self.model.pieces[id as usize];
        if piece.kind == PieceKind::Unused {
            self.unused.insert(joint, a.len);
        }
        self.candidates.push(MergeCandidate { score: piece.score, left, right, len: joint.len() });
    }

    /// Merges a pair, unless a symbol has changed since the pair was queued.
    fn apply(&mut self, candidate: &MergeCandidate) {
        let (left_len, right_len) = (self.symbols[candidate.left].len, self.symbols[candidate.right].len);
        if left_len == 0 || right_len == 0 || left_len + right_len != candidate.len {
            return;
        }
        let next = self.symbols[candidate.right].next;
        self.symbols[candidate.right].len = 0;
        let left = &mut self.symbols[candidate.left];
        left.len = candidate.len;
        left.next = next;
        let prev = left.prev;
        if let Some(next) = next {
            self.symbols[next].prev = Some(candidate.left);
            self.consider(candidate.left, next);
        }
        if let Some(prev) = prev {
            self.consider(prev, candidate.left);
        }
    }

    /// Splits unused pieces, which only serve as intermediate merges.
    fn split_unused(&self, piece: &'t str, pieces: &mut Vec<&'t str>) {
        let is_unused = |id: &u32| self.model.pieces[*id as usize].kind == PieceKind::Unused;
        match self.unused.get(piece).filter(|_| self.model.text.get(piece).is_some_and(is_unused)) {
            Some(&left) => {
                self.split_unused(&piece[..left], pieces);
                self.split_unused(&piece[left..], pieces);
            }
            None => pieces.push(piece),
        }
    }
}
