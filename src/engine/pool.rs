//! Page pool of the key-value memory: reference counts, prefix sharing, eviction, and a budget.
//!
//! A full page whose content is known is found again by its key: the page before it and its [`PAGE_LEN`] tokens. A
//! sequence whose prompt begins with the same pages shares them in place of computing them. A tail, which is the last
//! page of a sequence and not full, is found by its leading tokens, as is any page that only begins alike: what is
//! common can be copied. A page without references keeps its content until its memory is needed; of such pages, at most
//! [`PoolConfig::keep_pages`] stay while unused memory is left, and at most [`PoolConfig::keep_tails`] tails among
//! them.
//!
//! The pool only counts: [`crate::kernels::kv::KvStore`] has the memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::kernels::kv::{PAGE_LEN, PageId};

/// Identity of the token at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PositionKey {
    /// 0 for a token of text; else the identity of the visual tokens.
    pub source: u64,
    /// The token's id, or the index among the visual tokens.
    pub index: u32,
}

/// Content of a page: the chain of pages before it, and its own tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PageKey {
    /// Serial number of the page before it; of a first page the length that its rotary frequencies depend on.
    pub parent: Parent,
    /// The page's tokens: [`PAGE_LEN`], fewer in a tail.
    pub tokens: Box<[PositionKey]>,
}

impl PageKey {
    fn is_tail(&self) -> bool {
        self.tokens.len() < PAGE_LEN
    }

    /// Number of tokens at the beginning of both contents, which follow the same page.
    fn n_common(&self, other: &Self) -> usize {
        self.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count()
    }
}

/// Leading tokens of a page that another page begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageBeginning {
    /// Page with the tokens.
    pub page: PageId,
    /// Number of tokens, at least one.
    pub n: usize,
}

/// Predecessor of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Parent {
    /// No parent: the page is the first of its sequence. Rotary frequencies may depend on the prompt's length.
    Start {
        /// The length that decides them, 0 where none does.
        rope_length: usize,
    },
    /// The page with this serial number.
    Page(u64),
}

/// Sizes of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolConfig {
    /// Pages that may have memory.
    pub max_pages: usize,
    /// Unused pages whose content is kept while memory is left, tails included.
    pub keep_pages: usize,
    /// Unused tails whose content is kept at most; with 0 no content but that of full pages is found.
    pub keep_tails: usize,
}

/// Most recent pages after one page that are searched for common leading tokens.
const MAX_SEARCHED: usize = 64;

/// Reference counts of all pages.
#[derive(Debug)]
pub(crate) struct PagePool {
    config: PoolConfig,
    slots: Vec<Slot>,
    /// Pages without content or reference.
    free: BTreeSet<PageId>,
    by_key: HashMap<PageKey, PageId>,
    /// Pages with content by the page before them, the most recent last. Empty without tails.
    by_parent: HashMap<Parent, Vec<PageId>>,
    /// Unused full pages with content, by the time of their release.
    idle: BTreeMap<u64, PageId>,
    /// Unused tails with content, by the time of their release.
    idle_tails: BTreeMap<u64, PageId>,
    clock: u64,
    peak: usize,
}

#[derive(Debug, Default)]
struct Slot {
    n_references: usize,
    key: Option<PageKey>,
    /// Unique for each content that any page ever had, and equal for full pages of equal content.
    serial: u64,
    /// Key of the page in `idle` or `idle_tails`.
    left_at: Option<u64>,
}

impl PagePool {
    /// Makes a pool whose pages are all unused.
    pub(crate) fn new(config: PoolConfig) -> Self {
        Self {
            config,
            slots: Vec::new(),
            free: BTreeSet::new(),
            by_key: HashMap::new(),
            by_parent: HashMap::new(),
            idle: BTreeMap::new(),
            idle_tails: BTreeMap::new(),
            clock: 0,
            peak: 0,
        }
    }

    /// Pages that may have memory.
    pub(crate) fn max_pages(&self) -> usize {
        self.config.max_pages
    }

    /// Returns the number of pages in use.
    pub(crate) fn n_in_use(&self) -> usize {
        self.slots.len() - self.free.len() - self.n_idle()
    }

    /// Number of unused pages with content.
    fn n_idle(&self) -> usize {
        self.idle.len() + self.idle_tails.len()
    }

    /// Pages that have had memory: it never becomes less.
    pub(crate) fn n_pages(&self) -> usize {
        self.slots.len()
    }

    /// Returns the largest number of pages in use at once.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    /// Returns whether tails are kept.
    pub(crate) fn keeps_tails(&self) -> bool {
        self.config.keep_tails > 0
    }

    /// Pages that could be taken.
    pub(crate) fn n_available(&self) -> usize {
        self.config.max_pages - self.n_in_use()
    }

    /// Takes `n` pages of undefined content; returns `None`, and changes nothing, where fewer are free.
    pub(crate) fn take(&mut self, n: usize) -> Option<Vec<PageId>> {
        (n <= self.n_available()).then(|| (0..n).filter_map(|_| self.take_one()).collect())
    }

    fn take_one(&mut self) -> Option<PageId> {
        let page = match self.free.pop_first() {
            Some(page) => page,
            None if self.n_idle() <= self.config.keep_pages && self.slots.len() < self.config.max_pages => {
                let page = PageId(u32::try_from(self.slots.len()).ok()?);
                self.slots.push(Slot::default());
                page
            }
            None => {
                let page = self.pop_idle()?;
                self.forget(page);
                page
            }
        };
        self.clock += 1;
        self.slots[page.index()] = Slot { n_references: 1, serial: self.clock, ..Slot::default() };
        self.peak = self.peak.max(self.n_in_use());
        Some(page)
    }

    /// Removes the page that is unused for the longest time from the unused ones.
    fn pop_idle(&mut self) -> Option<PageId> {
        let left_at = |pages: &BTreeMap<u64, PageId>| pages.keys().next().copied().unwrap_or(u64::MAX);
        let is_tail = left_at(&self.idle_tails) < left_at(&self.idle);
        let oldest = if is_tail { self.idle_tails.pop_first() } else { self.idle.pop_first() };
        oldest.map(|(_, page)| page)
    }

    /// Returns the page with this content.
    pub(crate) fn find(&self, key: &PageKey) -> Option<PageId> {
        self.by_key.get(key).copied()
    }

    /// Returns the page that has the most leading tokens in common with this content; `None` without any.
    pub(crate) fn find_beginning(&self, key: &PageKey) -> Option<PageBeginning> {
        let pages = self.by_parent.get(&key.parent)?.iter().rev().take(MAX_SEARCHED);
        let common = pages.map(|&page| {
            let n = self.slots[page.index()].key.as_ref().map_or(0, |own| own.n_common(key));
            PageBeginning { page, n }
        });
        common.max_by_key(|beginning| beginning.n).filter(|beginning| beginning.n > 0)
    }

    /// Adds a reference to a page that was found.
    pub(crate) fn retain(&mut self, page: PageId) {
        let slot = &mut self.slots[page.index()];
        slot.n_references += 1;
        if let Some(left_at) = slot.left_at.take() {
            self.idle.remove(&left_at);
            self.idle_tails.remove(&left_at);
        }
        self.peak = self.peak.max(self.n_in_use());
    }

    /// Returns the serial number of a page's content.
    pub(crate) fn serial(&self, page: PageId) -> u64 {
        self.slots[page.index()].serial
    }

    /// Publishes the content of a page in use, so that prefixes find it; a tail that has grown is published again.
    /// Of two pages with the same content, the one published first is found.
    pub(crate) fn fill(&mut self, page: PageId, key: PageKey) {
        debug_assert!(key.tokens.len() <= PAGE_LEN, "at most a full page");
        if self.slots[page.index()].key.as_ref().is_some_and(|own| own.tokens.len() >= key.tokens.len()) {
            return;
        }
        self.forget(page);
        let is_known = if key.is_tail() {
            self.find_beginning(&key).is_some_and(|found| found.n == key.tokens.len())
        } else {
            self.by_key.contains_key(&key)
        };
        if is_known {
            // What follows the page is then known to be a duplicate as well. Nothing follows it yet.
            if let Some(known) = self.by_key.get(&key).copied() {
                self.slots[page.index()].serial = self.slots[known.index()].serial;
            }
            return;
        }
        if self.keeps_tails() {
            self.by_parent.entry(key.parent).or_default().push(page);
        }
        if !key.is_tail() {
            self.by_key.insert(key.clone(), page);
        }
        self.slots[page.index()].key = Some(key);
    }

    /// Removes the content of a page: it is found no longer.
    fn forget(&mut self, page: PageId) {
        let Some(key) = self.slots[page.index()].key.take() else { return };
        if !key.is_tail() {
            self.by_key.remove(&key);
        }
        if let Some(pages) = self.by_parent.get_mut(&key.parent) {
            pages.retain(|other| *other != page);
            if pages.is_empty() {
                self.by_parent.remove(&key.parent);
            }
        }
    }

    /// Removes a reference to a page. The content of a page without references can still be found.
    pub(crate) fn release(&mut self, page: PageId) {
        let slot = &mut self.slots[page.index()];
        slot.n_references = slot.n_references.saturating_sub(1);
        if slot.n_references > 0 {
            return;
        }
        let Some(key) = &slot.key else {
            self.free.insert(page);
            return;
        };
        self.clock += 1;
        slot.left_at = Some(self.clock);
        if !key.is_tail() {
            self.idle.insert(self.clock, page);
            return;
        }
        self.idle_tails.insert(self.clock, page);
        if self.idle_tails.len() > self.config.keep_tails
            && let Some((_, oldest)) = self.idle_tails.pop_first()
        {
            self.forget(oldest);
            self.slots[oldest.index()].left_at = None;
            self.free.insert(oldest);
        }
    }

    /// Removes all pages from `first` on, which are unused and without memory: they are never taken again.
    pub(crate) fn give_up_from(&mut self, first: PageId) {
        self.free.split_off(&first);
        self.slots.truncate(first.index());
        self.config.max_pages = self.config.max_pages.min(first.index());
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
