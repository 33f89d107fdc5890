//! Sharing, eviction and bounds of the page pool.

use super::*;

fn pool(max_pages: usize, keep_pages: usize) -> PagePool {
    PagePool::new(PoolConfig { max_pages, keep_pages, keep_tails: 2 })
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
#[test]
fn what_follows_a_page_of_known_content_is_found_once_too() {
    let mut pool = pool(8, 8);
    let pages: [PageId; 4] = std::array::from_fn(|_| take(&mut pool));
    for (first, second) in [(pages[0], pages[1]), (pages[2], pages[3])] {
        pool.fill(first, key(START, 1));
        let parent = Parent::Page(pool.serial(first));
        pool.fill(second, key(parent, 2));
    }
    assert_eq!(pool.serial(pages[0]), pool.serial(pages[2]));
    assert_eq!(pool.find(&key(Parent::Page(pool.serial(pages[2])), 2)), Some(pages[1]));
    // Duplicates keep no memory.
    let before = pool.n_available();
    pages.iter().rev().for_each(|page| pool.release(*page));
    assert_eq!(pool.n_available(), before + 4);
    let fresh: [PageId; 6] = std::array::from_fn(|_| take(&mut pool));
    assert!(!fresh.contains(&pages[0]) && !fresh.contains(&pages[1]), "{fresh:?}");
}

fn tokens(parent: Parent, ids: &[u32]) -> PageKey {
    PageKey { parent, tokens: ids.iter().map(|&index| PositionKey { source: 0, index }).collect() }
}

#[test]
fn the_longest_common_beginning_is_found_in_tails_and_full_pages() {
    let mut pool = pool(8, 8);
    let pages = pool.take(3).expect("three");
    pool.fill(pages[0], tokens(START, &[1, 2, 3]));
    pool.fill(pages[1], tokens(START, &[1, 2, 4, 5]));
    pool.fill(pages[2], key(START, 7));
    let found = |pool: &PagePool, ids: &[u32]| pool.find_beginning(&tokens(START, ids)).map(|b| (b.page, b.n));
    assert_eq!(found(&pool, &[1, 2, 4, 9]), Some((pages[1], 3)));
    assert_eq!(found(&pool, &[1, 2, 3, 9]), Some((pages[0], 3)));
    assert_eq!(found(&pool, &[7, 7, 1]), Some((pages[2], 2)));
    assert_eq!(found(&pool, &[2, 2]), None);
    assert_eq!(pool.find_beginning(&tokens(Parent::Page(pool.serial(pages[0])), &[1, 2])), None);
    // A tail that has grown replaces what it was; one that another begins with is not kept twice.
    pool.fill(pages[0], tokens(START, &[1, 2, 3, 6]));
    assert_eq!(found(&pool, &[1, 2, 3, 6, 8]), Some((pages[0], 4)));
    let again = take(&mut pool);
    pool.fill(again, tokens(START, &[1, 2, 3]));
    pool.release(again);
    assert_eq!(take(&mut pool), again, "free at once");
}

#[test]
fn unused_tails_are_bounded_and_evicted_in_the_order_of_their_release() {
    let mut pool = pool(4, 4);
    let pages = pool.take(4).expect("four");
    pool.fill(pages[0], key(START, 9));
    for (id, page) in (1..).zip(&pages[1..]) {
        pool.fill(*page, tokens(START, &[id]));
    }
    pages.iter().for_each(|page| pool.release(*page));
    let is_found = |pool: &PagePool, id| pool.find_beginning(&tokens(START, &[id])).is_some();
    assert_eq!([1, 2, 3].map(|id| is_found(&pool, id)), [false, true, true], "two are kept");
    assert_eq!((pool.n_in_use(), pool.n_available()), (0, 4));
    // The full page is unused for longer than the tails.
    assert_eq!(pool.take(2), Some(vec![pages[1], pages[0]]));
    assert_eq!([9, 2, 3].map(|id| is_found(&pool, id)), [false, true, true]);
    assert_eq!(pool.take(1), Some(vec![pages[2]]));
    assert_eq!([2, 3].map(|id| is_found(&pool, id)), [false, true]);
}

#[test]
fn a_pool_without_tails_finds_full_pages_alone() {
    let mut pool = PagePool::new(PoolConfig { max_pages: 2, keep_pages: 2, keep_tails: 0 });
    let page = take(&mut pool);
    pool.fill(page, key(START, 1));
    assert_eq!((pool.find(&key(START, 1)), pool.find_beginning(&key(START, 1))), (Some(page), None));
}
