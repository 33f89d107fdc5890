//! Admission of requests by key-value memory, and preemption.
//!
//! A waiting request is admitted when the pages of its known positions are free; pages of its prefix that are in memory
//! are shared, and the beginning of the page after them is copied where it is in memory. A request whose prefix a
//! running sequence is still reading waits for that sequence. Where a running sequence needs a page and none is free,
//! the youngest one gives its pages up and waits again.
//!
//! Counts and keys of pages are the pool's (`engine/pool.rs`), their memory is the store's. Called by
//! [`Engine::step`](super::Engine::step) and on the arrival of a request.

use super::Engine;
use crate::engine::pool::PageBeginning;
use crate::engine::sequence::Sequence;
use crate::error::{Error, Kind};
use crate::kernels::kv::{PAGE_LEN, PageCopy, PageId, pages_for};

impl<'m> Engine<'m> {
    /// Admits waiting requests in their order while slots and memory are free. A request whose prefix a running
    /// sequence is still reading waits for that sequence; requests behind it may pass.
    pub(super) fn admit(&mut self) {
        let mut i = 0;
        while i < self.waiting.len() && self.running.len() < self.config.max_sequences {
            if self.is_being_read(&self.waiting[i]) {
                i += 1;
                continue;
            }
            let Some(mut sequence) = self.waiting.remove(i) else { return };
            let is_new = sequence.ids().is_empty();
            if !self.take_memory(&mut sequence) {
                self.waiting.insert(i, sequence);
                return;
            }
            if is_new {
                self.stats.prefix_hits += sequence.n_stored() as u64;
            }
            let at = self.running.partition_point(|other| other.id < sequence.id);
            self.running.insert(at, sequence);
            self.stats.peak_running = self.stats.peak_running.max(self.running.len());
        }
    }

    /// Returns whether a running sequence is reading more of the prefix of a waiting one than is cached.
    pub(super) fn is_being_read(&self, sequence: &Sequence<'m>) -> bool {
        let readers = self.running.iter().filter(|running| running.is_reading());
        // Pages that a reader has published are found already: most readers have no others in common.
        let unpublished = readers.filter_map(|reader| {
            let n_common = sequence.n_common_pages(reader);
            (n_common > reader.n_published()).then_some(n_common)
        });
        unpublished.max().is_some_and(|n_common| n_common > self.prefix(sequence).count())
    }

    /// Returns the pages in memory that a sequence begins with.
    fn prefix(&self, sequence: &Sequence<'m>) -> impl Iterator<Item = PageId> {
        let mut parent = None;
        (0..sequence.n_sharable_pages()).map_while(move |page| {
            let found = self.pool.find(&sequence.page_key(page, parent));
            parent = found.map(|page| self.pool.serial(page));
            found
        })
    }

    /// Gives a sequence the pages of its prefix that are in memory, and new pages for its other known positions, the
    /// first of which begins with a copy of what is in memory. Returns false if too few are free.
    fn take_memory(&mut self, sequence: &mut Sequence<'m>) -> bool {
        let mut pages: Vec<PageId> = self.prefix(sequence).collect();
        pages.iter().for_each(|page| self.pool.retain(*page));
        let n_shared = pages.len();
        let n_new = pages_for(sequence.n_known()) - n_shared;
        let mut beginning = self.retain_beginning(sequence, &pages, n_new);
        let mut new = self.take_if_room(n_new);
        if new.is_none()
            && let Some(PageBeginning { page, .. }) = beginning.take()
        {
            // The device has less memory than the budget says: that page may be what is missing.
            self.pool.release(page);
            new = self.take_if_room(n_new);
        }
        let is_admitted = new.is_some();
        if let Some(new) = new {
            let n_copied = self.copy_beginning(beginning, &new);
            pages.extend(new);
            sequence.begin(pages, n_shared, n_shared * PAGE_LEN + n_copied);
        } else {
            // The last page first: without its beginning no page of a prefix is found.
            pages.into_iter().rev().for_each(|page| self.pool.release(page));
        }
        if let Some(PageBeginning { page, .. }) = beginning {
            self.pool.release(page);
        }
        is_admitted
    }

    /// Takes `n` pages, if they are free beside one of each running sequence.
    fn take_if_room(&mut self, n: usize) -> Option<Vec<PageId>> {
        if self.has_room(n) { self.take_pages(n) } else { None }
    }

    /// Returns whether `n` pages are free beside one of each running sequence, which grows as well.
    fn has_room(&self, n: usize) -> bool {
        n + self.running.len() <= self.pool.n_available()
    }

    /// Retains the page in memory that the first of a sequence's new pages has the most leading tokens in common with,
    /// unless its memory is needed for the new pages.
    fn retain_beginning(&mut self, sequence: &Sequence<'m>, found: &[PageId], n_new: usize) -> Option<PageBeginning> {
        if !self.pool.keeps_tails() {
            return None;
        }
        let parent = found.last().map(|page| self.pool.serial(*page));
        let beginning = self.pool.find_beginning(&sequence.reusable_key(found.len(), parent))?;
        self.pool.retain(beginning.page);
        if self.has_room(n_new) {
            return Some(beginning);
        }
        self.pool.release(beginning.page);
        None
    }

    /// Copies the beginning of a page to the first of new pages. Returns the number of positions: none where the device
    /// fails to copy, as they can be computed.
    fn copy_beginning(&mut self, beginning: Option<PageBeginning>, new: &[PageId]) -> usize {
        match (beginning, new.first()) {
            (Some(PageBeginning { page, n }), Some(to))
                if self.store.copy_page(PageCopy { from: page, to: *to }).is_ok() =>
            {
                n
            }
            _ => 0,
        }
    }

    /// Takes `n` free pages and allocates their memory; `None` if too few are free.
    fn take_pages(&mut self, n: usize) -> Option<Vec<PageId>> {
        loop {
            let pages = self.pool.take(n)?;
            let Some(missing) = pages.iter().find(|page| self.store.allocate(**page).is_err()).copied() else {
                return Some(pages);
            };
            // The device has less than the budget says: no page without memory is taken again.
            pages.into_iter().for_each(|page| self.pool.release(page));
            self.pool.give_up_from(missing);
            self.stats.kv_budget_bytes = self.pool.max_pages() * self.store.page_bytes();
        }
    }

    /// Releases the pages of a sequence, the last page first: eviction then begins at the end of a prefix. Without its
    /// beginning no page of a prefix is found.
    pub(super) fn release_pages(&mut self, sequence: &mut Sequence<'m>) {
        sequence.take_pages().into_iter().rev().for_each(|page| self.pool.release(page));
    }

    /// Gives a running sequence pages for `n` more positions, and preempts the youngest sequences if need be. Returns
    /// false if the sequence itself was preempted or ended.
    pub(super) fn make_room(&mut self, index: usize, n: usize) -> bool {
        loop {
            let sequence = &self.running[index];
            let needed = pages_for(sequence.n_stored() + n).saturating_sub(sequence.pages().len());
            if let Some(pages) = self.take_pages(needed) {
                self.running[index].add_pages(pages);
                return true;
            }
            let youngest = self.running.len() - 1;
            if youngest == 0 {
                self.end(0, Err(no_device_memory()));
                return false;
            }
            self.preempt(youngest);
            if youngest == index {
                return false;
            }
        }
    }

    /// Takes the pages of a running sequence, which waits again for memory.
    pub(super) fn preempt(&mut self, index: usize) {
        let mut sequence = self.running.remove(index);
        self.stats.preemptions += 1;
        self.release_pages(&mut sequence);
        let at = self.waiting.partition_point(|other| other.id < sequence.id);
        self.waiting.insert(at, sequence);
    }
}

/// Error of a device without memory for pages that the budget admits.
pub(super) fn no_device_memory() -> Error {
    let error = Error::new(Kind::Compute, "the device has no memory left for keys and values");
    error.with_hint("fewer frames, a smaller model")
}
