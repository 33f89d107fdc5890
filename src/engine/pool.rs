//! Page pool of the key-value memory: reference counts, prefix sharing, eviction, and a budget.
//!
//! A full page whose content is known is found again by its key: the page before it and its [`PAGE_LEN`] tokens. A
//! sequence whose prompt begins with the same pages shares them in place of computing them. A page without references
//! keeps its content until its memory is needed; of such pages, at most [`PoolConfig::keep_pages`] stay while unused
//! memory is left.
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
    /// The page's tokens: [`PAGE_LEN`].
    pub tokens: Box<[PositionKey]>,
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
    /// Unused pages whose content is kept while memory is left.
    pub keep_pages: usize,
}

/// Reference counts of all pages.
#[derive(Debug)]
pub(crate) struct PagePool {
    config: PoolConfig,
    slots: Vec<Slot>,
    /// Pages without content or reference.
    free: BTreeSet<PageId>,
    by_key: HashMap<PageKey, PageId>,
    /// Unused pages with content, by the time of their release.
    idle: BTreeMap<u64, PageId>,
    clock: u64,
    peak: usize,
}

#[derive(Debug, Default)]
struct Slot {
    n_references: usize,
    key: Option<PageKey>,
    /// Unique for each content that any page ever had.
    serial: u64,
    /// Key of the page in `idle`.
    left_at: Option<u64>,
}

impl PagePool {
    /// Makes a pool whose pages are all unused.
    pub(crate) fn new(config: PoolConfig) -> Self {
        let (free, by_key, idle) = (BTreeSet::new(), HashMap::new(), BTreeMap::new());
        Self { config, slots: Vec::new(), free, by_key, idle, clock: 0, peak: 0 }
    }

    /// Pages that may have memory.
    pub(crate) fn max_pages(&self) -> usize {
        self.config.max_pages
    }

    /// Returns the number of pages in use.
    pub(crate) fn n_in_use(&self) -> usize {
        self.slots.len() - self.free.len() - self.idle.len()
    }

    /// Pages that have had memory: it never becomes less.
    pub(crate) fn n_pages(&self) -> usize {
        self.slots.len()
    }

    /// Returns the largest number of pages in use at once.
    pub(crate) fn peak(&self) -> usize {
        self.peak
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
            None if self.idle.len() <= self.config.keep_pages && self.slots.len() < self.config.max_pages => {
                let page = PageId(u32::try_from(self.slots.len()).ok()?);
                self.slots.push(Slot::default());
                page
            }
            None => {
                let (_, page) = self.idle.pop_first()?;
                if let Some(key) = self.slots[page.index()].key.take() {
                    self.by_key.remove(&key);
                }
                page
            }
        };
        self.clock += 1;
        self.slots[page.index()] = Slot { n_references: 1, serial: self.clock, ..Slot::default() };
        self.peak = self.peak.max(self.n_in_use());
        Some(page)
    }

    /// Returns the page with this content.
    pub(crate) fn find(&self, key: &PageKey) -> Option<PageId> {
        self.by_key.get(key).copied()
    }

    /// Adds a reference to a page that was found.
    pub(crate) fn retain(&mut self, page: PageId) {
        let slot = &mut self.slots[page.index()];
        slot.n_references += 1;
        if let Some(left_at) = slot.left_at.take() {
            self.idle.remove(&left_at);
        }
        self.peak = self.peak.max(self.n_in_use());
    }

    /// Returns the serial number of a page's content.
    pub(crate) fn serial(&self, page: PageId) -> u64 {
        self.slots[page.index()].serial
    }

    /// Publishes the content of a page in use, so that prefixes find it. Where another page has the same content
    /// already, that one is found.
    pub(crate) fn fill(&mut self, page: PageId, key: PageKey) {
        debug_assert!(key.tokens.len() == PAGE_LEN, "a full page");
        let slot = &mut self.slots[page.index()];
        if slot.key.is_none() && !self.by_key.contains_key(&key) {
            slot.key = Some(key.clone());
            self.by_key.insert(key, page);
        }
    }

    /// Removes a reference to a page. The content of a page without references can still be found.
    pub(crate) fn release(&mut self, page: PageId) {
        let slot = &mut self.slots[page.index()];
        slot.n_references = slot.n_references.saturating_sub(1);
        if slot.n_references > 0 {
            return;
        }
        if slot.key.is_some() {
            self.clock += 1;
            slot.left_at = Some(self.clock);
            self.idle.insert(self.clock, page);
        } else {
            self.free.insert(page);
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
mod tests {
    use super::*;

    fn pool(max_pages: usize, keep_pages: usize) -> PagePool {
        PagePool::new(PoolConfig { max_pages, keep_pages })
    }

    fn key(parent: Parent, id: u32) -> PageKey {
        PageKey { parent, tokens: vec![PositionKey { source: 0, index: id }; PAGE_LEN].into() }
    }

    const START: Parent = Parent::Start { rope_length: 0 };

    fn take(pool: &mut PagePool) -> PageId {
        pool.take(1).expect("a page is left")[0]
    }

    #[test]
    fn a_page_is_found_by_all_that_stands_before_it() {
        let mut pool = pool(8, 8);
        let (a, b) = (take(&mut pool), take(&mut pool));
        pool.fill(a, key(START, 1));
        let after_a = key(Parent::Page(pool.serial(a)), 2);
        pool.fill(b, after_a.clone());
        assert_eq!((pool.find(&key(START, 1)), pool.find(&after_a)), (Some(a), Some(b)));
        // The same tokens after nothing, after another page, or at another rotary length are other pages.
        for other in [key(START, 2), key(Parent::Page(pool.serial(b)), 2), key(Parent::Start { rope_length: 9 }, 1)] {
            assert_eq!(pool.find(&other), None);
        }
    }

    #[test]
    fn content_stays_until_its_memory_is_needed_the_oldest_first() {
        let mut pool = pool(3, 3);
        let pages = pool.take(3).expect("three");
        for (id, page) in (0..).zip(&pages) {
            pool.fill(*page, key(START, id));
        }
        pool.release(pages[1]);
        pool.release(pages[0]);
        assert_eq!((pool.n_in_use(), pool.n_available()), (1, 2));
        let page = take(&mut pool);
        assert_eq!(page, pages[1]);
        assert_eq!(pool.find(&key(START, 1)), None, "it was the first to be left");
        assert_eq!(pool.find(&key(START, 0)), Some(pages[0]));
        pool.retain(pages[0]);
        assert_eq!(pool.take(1), None, "all are in use");
        // A content that was evicted and comes again is another one.
        assert!(pool.serial(page) > pool.serial(pages[2]));
    }

    #[test]
    fn no_more_than_so_many_idle_pages_stay_while_memory_could_grow() {
        let mut pool = pool(100, 1);
        for id in 0..50 {
            let pages = pool.take(2).expect("far from the budget");
            pool.fill(pages[0], key(START, id));
            pages.iter().for_each(|page| pool.release(*page));
        }
        assert!(pool.n_pages() <= 4, "{} pages", pool.n_pages());
        assert_eq!((pool.n_in_use(), pool.peak()), (0, 2));
    }

    #[test]
    fn a_shared_page_is_released_with_its_last_reference() {
        let mut pool = pool(1, 1);
        let page = take(&mut pool);
        pool.fill(page, key(START, 1));
        assert_eq!(pool.find(&key(START, 1)), Some(page));
        pool.retain(page);
        pool.release(page);
        assert_eq!(pool.n_in_use(), 1);
        pool.release(page);
        assert_eq!((pool.n_in_use(), pool.n_available()), (0, 1));
    }

    #[test]
    fn idle_pages_are_taken_in_place_of_those_that_got_no_memory() {
        let mut pool = pool(8, 8);
        let pages = pool.take(2).expect("two");
        pool.fill(pages[0], key(START, 1));
        pages.iter().for_each(|page| pool.release(*page));
        let more = pool.take(3).expect("one that is free, two new ones");
        assert_eq!(more, [PageId(1), PageId(2), PageId(3)]);
        more.iter().for_each(|page| pool.release(*page));
        pool.give_up_from(PageId(2));
        assert_eq!((pool.n_pages(), pool.max_pages(), pool.n_available()), (2, 2, 2));
        assert_eq!(pool.take(3), None);
        assert_eq!(pool.take(2), Some(vec![PageId(1), PageId(0)]));
    }

    #[test]
    fn the_same_content_computed_twice_is_found_once() {
        let mut pool = pool(2, 2);
        let (a, b) = (take(&mut pool), take(&mut pool));
        pool.fill(a, key(START, 1));
        pool.fill(b, key(START, 1));
        pool.release(b);
        assert_eq!(pool.find(&key(START, 1)), Some(a));
        // Nothing finds the other: its memory is free at once.
        assert_eq!(pool.take(1), Some(vec![b]));
    }
}
