//! SentencePiece's byte-pair merging (`bpe_model.cc`): the best-scored pair first, of equal scores the leftmost.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::{Kind, SentencePiece};

/// A stretch of the text between its living neighbours.
struct Symbol {
    start: usize,
    /// Zero once it was merged into its left neighbour.
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
    /// A user-defined piece: never merged.
    frozen: bool,
}

/// Two neighbours that may become one.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Their joint length when they were put on the agenda; another one means that they have changed.
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// The state of merging one text.
struct Agenda<'m, 't> {
    model: &'m SentencePiece,
    text: &'t str,
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Candidate>,
    /// How an unused piece was made last: the length of its left part.
    unused: HashMap<&'t str, usize>,
}

impl SentencePiece {
    /// The pieces, in order, that a normalised text is merged into. One that is no piece is a single character.
    pub(super) fn merge<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let symbols = self.split(text);
        let mut agenda = Agenda { model: self, text, symbols, candidates: BinaryHeap::new(), unused: HashMap::new() };
        for right in 1..agenda.symbols.len() {
            agenda.consider(right - 1, right);
        }
        while let Some(candidate) = agenda.candidates.pop() {
            agenda.apply(&candidate);
        }
        let mut pieces = Vec::new();
        for symbol in agenda.symbols.iter().filter(|symbol| symbol.len > 0) {
            agenda.split_unused(&text[symbol.start..symbol.start + symbol.len], &mut pieces);
        }
        pieces
    }

    /// Single characters, and user-defined pieces as a whole.
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

impl<'t> Agenda<'_, 't> {
    /// Puts two neighbours on the agenda if they make a piece.
    fn consider(&mut self, left: usize, right: usize) {
        let (a, b) = (&self.symbols[left], &self.symbols[right]);
        if a.frozen || b.frozen {
            return;
        }
        let joint = &self.text[a.start..b.start + b.len];
        let Some(&id) = self.model.text.get(joint) else { return };
        let piece = &self.model.pieces[id as usize];
        if piece.kind == Kind::Unused {
            self.unused.insert(joint, a.len);
        }
        self.candidates.push(Candidate { score: piece.score, left, right, len: joint.len() });
    }

    /// Merges a pair, unless one of the two has changed since.
    fn apply(&mut self, candidate: &Candidate) {
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

    /// An unused piece helps merging, but is taken apart again in the end.
    fn split_unused(&self, piece: &'t str, pieces: &mut Vec<&'t str>) {
        let is_unused = |id: &u32| self.model.pieces[*id as usize].kind == Kind::Unused;
        match self.unused.get(piece).filter(|_| self.model.text.get(piece).is_some_and(is_unused)) {
            Some(&left) => {
                self.split_unused(&piece[..left], pieces);
                self.split_unused(&piece[left..], pieces);
            }
            None => pieces.push(piece),
        }
    }
}
