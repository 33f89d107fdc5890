//! Executor with toy stages and exact counts of items.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::bounded;

use super::run::Scope;
use super::*;

const ONE: Threads = Threads::MIN;

fn threads(n: usize) -> Threads {
    Threads::new(n).expect("from 1")
}

/// Adds a source of 0, 1, 2, ... that counts its items.
fn counting<'s>(scope: &Scope<'s, '_>, capacity: usize, limit: usize, made: &'s AtomicUsize) -> Inlet<usize> {
    scope.source("count", capacity, move |out| {
        for i in 0..limit {
            if out.is_draining() {
                break;
            }
            made.fetch_add(1, SeqCst);
            if out.send(i).is_err() {
                break;
            }
        }
    })
}

/// Passes every item.
fn pass(inlet: &Inlet<usize>, outlet: &Outlet<usize>) {
    while let Some(item) = inlet.recv() {
        if outlet.send(item).is_err() {
            return;
        }
    }
}

/// Receives up to `n` items, waiting for each.
fn take<T>(inlet: &Inlet<T>, n: usize) -> Vec<T> {
    std::iter::from_fn(|| inlet.recv()).take(n).collect()
}

/// Waits until `value` is `expected` and a little longer, and returns its value.
fn settled(value: &AtomicUsize, expected: usize) -> usize {
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while value.load(SeqCst) < expected && std::time::Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(50));
    value.load(SeqCst)
}

#[test]
fn single_threads_pass_every_item_once_and_in_order() {
    let made = AtomicUsize::new(0);
    let (items, reports) = run(&RunControl::default(), |scope| {
        let numbers = counting(scope, 3, 100, &made);
        let passed = scope.stage(StageConfig::new("pass", ONE, 0), numbers, pass);
        scope.here("gather", passed, |inlet| std::iter::from_fn(|| inlet.recv()).collect::<Vec<_>>())
    })
    .expect("no stage panics");
    assert_eq!(items, (0..100).collect::<Vec<_>>());
    let seen: Vec<_> = reports.iter().map(|r| (r.name.as_str(), r.n_threads, r.n_items)).collect();
    assert_eq!(seen, [("count", 1, 100), ("pass", 1, 100), ("gather", 1, 100)]);
}

#[test]
fn several_threads_pass_every_item_once() {
    let made = AtomicUsize::new(0);
    let (mut items, reports) = run(&RunControl::default(), |scope| {
        let numbers = counting(scope, 2, 1000, &made);
        let passed = scope.stage(StageConfig::new("pass", threads(4), 1), numbers, pass);
        scope.here("gather", passed, |inlet| std::iter::from_fn(|| inlet.recv()).collect::<Vec<_>>())
    })
    .expect("no stage panics");
    items.sort_unstable();
    assert_eq!(items, (0..1000).collect::<Vec<_>>());
    assert_eq!((reports[1].n_threads, reports[1].n_items), (4, 1000));
}

/// Returns a reproducible delay that differs between items.
fn uneven(item: usize) -> Duration {
    Duration::from_micros((item as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54)
}

#[test]
fn an_ordered_stage_keeps_the_order_whichever_item_is_slowest() {
    for (n_threads, capacity) in [(1, 0), (2, 0), (4, 1), (7, 3)] {
        let made = AtomicUsize::new(0);
        let (items, reports) = run(&RunControl::default(), |scope| {
            let numbers = counting(scope, 2, 300, &made);
            let tens = scope.map_in_order(StageConfig::new("ten", threads(n_threads), capacity), numbers, |item| {
                // All other items wait for the first one.
                std::thread::sleep(if item == 0 { Duration::from_millis(30) } else { uneven(item) });
                10 * item
            });
            scope.here("gather", tens, |inlet| std::iter::from_fn(|| inlet.recv()).collect::<Vec<_>>())
        })
        .expect("no stage panics");
        assert_eq!(items, (0..300).map(|i| 10 * i).collect::<Vec<_>>(), "{n_threads} threads");
        assert_eq!((reports[1].n_threads, reports[1].n_items, reports[2].n_items), (n_threads, 300, 300));
    }
}

#[test]
fn an_ordered_stage_continues_beside_a_slow_item() {
    let made = AtomicUsize::new(0);
    let begun = AtomicUsize::new(0);
    let (items, _) = run(&RunControl::default(), |scope| {
        let numbers = counting(scope, 0, 50, &made);
        let passed = scope.map_in_order(StageConfig::new("pass", threads(3), 0), numbers, |item| {
            begun.fetch_add(1, SeqCst);
            if item == 0 {
                // Two wait in the buffer, two in the other threads.
                assert_eq!(settled(&begun, 5), 5);
            }
            item
        });
        scope.here("gather", passed, |inlet| std::iter::from_fn(|| inlet.recv()).collect::<Vec<_>>())
    })
    .expect("no stage panics");
    assert_eq!(items, (0..50).collect::<Vec<_>>());
}

#[test]
fn a_blocked_sink_blocks_an_ordered_stage() {
    for (first, second, n_threads, consumed) in [(0, 0, 1, 1), (3, 2, 2, 1), (4, 1, 3, 5), (1, 0, 5, 2)] {
        let made = AtomicUsize::new(0);
        // Consumed items, the two channels, one per thread, one in the buffer per thread but the first, and one in the
        // source.
        let expected = consumed + first + second + n_threads + (n_threads - 1) + 1;
        let (found, _) = run(&RunControl::default(), |scope| {
            let numbers = counting(scope, first, 1000, &made);
            let passed = scope.map_in_order(StageConfig::new("pass", threads(n_threads), second), numbers, |item| item);
            scope.here("block", passed, |inlet| {
                assert_eq!(take(inlet, consumed), (0..consumed).collect::<Vec<_>>());
                settled(&made, expected)
            })
        })
        .expect("no stage panics");
        assert_eq!(found, expected, "capacities {first} and {second}, {n_threads} threads");
    }
}

#[test]
fn an_ordered_stage_drains_and_ends_with_its_consumer() {
    let (made, stop) = (AtomicUsize::new(0), Stop::new());
    let (n, _) = run(&RunControl::until(&stop), |scope| {
        let numbers = counting(scope, 5, usize::MAX, &made);
        let passed = scope.map_in_order(StageConfig::new("pass", threads(3), 5), numbers, |item| item);
        scope.here("gather", passed, |inlet| {
            let first = take(inlet, 10).len();
            stop.request();
            first + std::iter::from_fn(|| inlet.recv()).count()
        })
    })
    .expect("no stage panics");
    assert_eq!(n, made.load(SeqCst), "an item that was made was lost");

    let made = AtomicUsize::new(0);
    let (items, _) = run(&RunControl::default(), |scope| {
        let numbers = counting(scope, 1, usize::MAX, &made);
        let passed = scope.map_in_order(StageConfig::new("pass", threads(3), 1), numbers, |item| item);
        scope.here("three", passed, |inlet| take(inlet, 3))
    })
    .expect("a closed outlet ends a stage without an error");
    assert_eq!(items, [0, 1, 2]);
}

#[test]
fn an_abort_ends_an_ordered_stage_that_waits_at_either_end() {
    for waits_for_input in [false, true] {
        let (made, stop) = (AtomicUsize::new(0), Stop::new());
        let limit = if waits_for_input { 4 } else { usize::MAX };
        let (n, _) = run(&RunControl::until(&stop), |scope| {
            let numbers = scope.source("count", 0, |out: &Outlet<usize>| {
                for i in 0..limit {
                    made.fetch_add(1, SeqCst);
                    if out.send(i).is_err() {
                        return;
                    }
                }
                // A channel that stays open without an item.
                let _ = out.stop().aborted().recv();
            });
            let passed = scope.map_in_order(StageConfig::new("pass", threads(4), 0), numbers, |item| item);
            scope.here("wait", passed, |inlet| {
                let n = if waits_for_input { take(inlet, 4).len() } else { settled(&made, 8).min(4) };
                stop.abort();
                n + usize::from(inlet.recv().is_some())
            })
        })
        .expect("no stage panics");
        assert_eq!(n, 4, "an item came after the abort");
    }
}

#[test]
fn a_panic_in_an_ordered_stage_ends_the_threads_that_wait_for_its_item() {
    for at in [0, 1, 17] {
        let made = AtomicUsize::new(0);
        let failed = run(&RunControl::default(), |scope| {
            let numbers = counting(scope, 1, usize::MAX, &made);
            let passed = scope.map_in_order(StageConfig::new("pass", threads(4), 1), numbers, move |item| {
                if item == at {
                    // Meanwhile the other threads begin to wait for this item.
                    std::thread::sleep(Duration::from_millis(30));
                    panic!("item {at}");
                }
                item
            });
            scope.here("sink", passed, |inlet| std::iter::from_fn(|| inlet.recv()).collect::<Vec<_>>())
        });
        let error = failed.expect_err("a stage panicked");
        assert_eq!(error.to_string(), format!("the stage `pass` panicked: item {at}"));
    }
}

#[test]
fn a_blocked_sink_blocks_the_source_after_the_capacities_and_one_item_per_thread() {
    for (first, second, n_threads, consumed) in [(0, 0, 1, 1), (3, 2, 1, 1), (4, 1, 3, 5), (1, 0, 2, 2)] {
        let made = AtomicUsize::new(0);
        // Consumed items, the two channels, one per passing thread, and one in the source.
        let expected = consumed + first + second + n_threads + 1;
        let (found, _) = run(&RunControl::default(), |scope| {
            let numbers = counting(scope, first, 1000, &made);
            let passed = scope.stage(StageConfig::new("pass", threads(n_threads), second), numbers, pass);
            scope.here("block", passed, |inlet| {
                assert_eq!(take(inlet, consumed).len(), consumed);
                settled(&made, expected)
            })
        })
        .expect("no stage panics");
        assert_eq!(found, expected, "capacities {first} and {second}, {n_threads} threads");
    }
}

#[test]
fn a_consumer_that_returns_early_ends_the_run_without_an_error() {
    let made = AtomicUsize::new(0);
    let (sum, _) = run(&RunControl::default(), |scope| {
        let numbers = counting(scope, 1, usize::MAX, &made);
        let passed = scope.stage(StageConfig::new("pass", threads(2), 1), numbers, pass);
        scope.here("three", passed, |inlet| take(inlet, 3).len())
    })
    .expect("a closed outlet ends a stage without an error");
    assert_eq!(sum, 3);
    assert!(made.load(SeqCst) <= 3 + 1 + 1 + 2 + 1, "{made:?}");
}

#[test]
fn a_drain_finishes_items_under_way() {
    let (made, stop) = (AtomicUsize::new(0), Stop::new());
    let (n, _) = run(&RunControl::until(&stop), |scope| {
        let numbers = counting(scope, 5, usize::MAX, &made);
        let passed = scope.stage(StageConfig::new("pass", ONE, 5), numbers, pass);
        scope.here("gather", passed, |inlet| {
            let first = take(inlet, 10).len();
            stop.request();
            first + std::iter::from_fn(|| inlet.recv()).count()
        })
    })
    .expect("no stage panics");
    assert_eq!(n, made.load(SeqCst), "an item that was made was lost");
}

#[test]
fn an_abort_ends_stages_that_wait_at_either_end() {
    let (made, stop) = (AtomicUsize::new(0), Stop::new());
    let (wake, asleep) = bounded::<()>(0);
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            asleep.recv().expect("the sink tells");
            stop.abort();
        });
        let (n, _) = run(&RunControl::until(stop), |scope| {
            // The source is blocked by the sink, the second chain waits for items that never come.
            let numbers = counting(scope, 1, usize::MAX, &made);
            let (_silent, never) = bounded::<usize>(0);
            let silent = scope.source("silent", 0, move |out: &Outlet<usize>| {
                let _ = never.recv_timeout(Duration::from_millis(200));
                let _ = out.send(0);
            });
            let both = scope.stage(StageConfig::new("pass", ONE, 0), silent, pass);
            wake.send(()).expect("someone listens");
            let n = scope.here("wait", both, |inlet| usize::from(inlet.recv().is_some()));
            drop(numbers);
            n
        })
        .expect("no stage panics");
        assert_eq!(n, 0, "an item came after the abort");
    });
}

#[test]
fn item_errors_travel_as_values_in_order() {
    let made = AtomicUsize::new(0);
    let (outcomes, reports) = run(&RunControl::default(), |scope| {
        let numbers = counting(scope, 2, 9, &made);
        let halved =
            scope.stage(StageConfig::new("halve", ONE, 1), numbers, |inlet, outlet: &Outlet<Result<usize, String>>| {
                while let Some(item) = inlet.recv() {
                    let half = if item % 2 == 0 { Ok(item / 2) } else { Err(format!("halve: {item} is odd")) };
                    if outlet.send(half).is_err() {
                        return;
                    }
                }
            });
        scope.here("gather", halved, |inlet| std::iter::from_fn(|| inlet.recv()).collect::<Vec<_>>())
    })
    .expect("item errors do not fail the run");
    assert_eq!(outcomes.len(), 9);
    assert_eq!((&outcomes[4], &outcomes[5]), (&Ok(2), &Err("halve: 5 is odd".to_owned())));
    assert_eq!(reports[2].n_items, 9);
}

#[test]
fn a_panic_fails_the_run_and_names_its_stage() {
    for (at, expected) in [("pass", "pass"), ("sink", "sink")] {
        let made = AtomicUsize::new(0);
        let failed = run(&RunControl::default(), |scope| {
            let numbers = counting(scope, 1, usize::MAX, &made);
            let passed = scope.stage(StageConfig::new("pass", threads(2), 1), numbers, move |inlet, outlet| {
                while let Some(item) = inlet.recv() {
                    assert!(at != "pass" || item != 7, "seven");
                    if outlet.send(item).is_err() {
                        return;
                    }
                }
            });
            scope.here("sink", passed, |inlet| {
                while let Some(item) = inlet.recv() {
                    assert!(at != "sink" || item != 7, "seven");
                }
            });
        });
        let failed = failed.expect_err("a stage panicked");
        assert_eq!(failed.to_string(), format!("the stage `{expected}` panicked: seven"));
    }
}

#[test]
fn a_panic_while_stages_are_added_ends_the_run() {
    let made = AtomicUsize::new(0);
    let failed = run(&RunControl::default(), |scope| {
        let _numbers = counting(scope, 1, usize::MAX, &made);
        panic!("nothing built");
    });
    let failed: Result<((), _), _> = failed;
    assert_eq!(failed.expect_err("it panicked").to_string(), "the stage `run` panicked: nothing built");
}

#[test]
fn no_thread_outlives_a_run() {
    struct Alive(Arc<AtomicUsize>);
    impl Drop for Alive {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(20));
            self.0.fetch_sub(1, SeqCst);
        }
    }
    for stops in [false, true] {
        let (made, alive, stop) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)), Stop::new());
        let born = || {
            alive.fetch_add(1, SeqCst);
            Alive(alive.clone())
        };
        run(&RunControl::until(&stop), |scope| {
            let numbers = counting(scope, 1, 50, &made);
            let passed = scope.stage(StageConfig::new("pass", threads(3), 1), numbers, |inlet, outlet| {
                let _alive = born();
                pass(inlet, outlet);
            });
            scope.here("gather", passed, |inlet| {
                take(inlet, 5);
                if stops {
                    stop.abort();
                }
            });
        })
        .expect("no stage panics");
        assert_eq!(alive.load(SeqCst), 0);
    }
}

#[test]
fn busy_and_waiting_times_add_up_and_spans_tell_them() {
    let spans = Arc::new(Mutex::new(Vec::new()));
    let heard = spans.clone();
    let on_span: Arc<OnSpan> = Arc::new(move |span: Span<'_>| {
        heard.lock().expect("no panic").push((span.stage.to_owned(), span.end - span.begin));
    });
    let made = AtomicUsize::new(0);
    let begin = std::time::Instant::now();
    let ((), reports) = run(&RunControl::default().with_spans(Some(on_span)), |scope| {
        let numbers = counting(scope, 0, 5, &made);
        let slow = scope.stage(StageConfig::new("slow", ONE, 0), numbers, |inlet, outlet| {
            while let Some(item) = inlet.recv() {
                std::thread::sleep(Duration::from_millis(20));
                let _ = outlet.send(item);
            }
        });
        scope.here("gather", slow, |inlet| while inlet.recv().is_some() {});
    })
    .expect("no stage panics");
    let wall = begin.elapsed();
    let slow = &reports[1];
    assert!(slow.busy >= Duration::from_millis(100) && slow.busy <= wall, "{slow:?}");
    assert!(reports[2].waiting_for_input >= Duration::from_millis(100), "{:?}", reports[2]);
    assert!(slow.utilisation(wall) > reports[0].utilisation(wall));
    let of_spans: Duration = spans.lock().expect("no panic").iter().filter(|(s, _)| s == "slow").map(|(_, d)| *d).sum();
    assert_eq!(of_spans, slow.busy);
}

#[test]
fn a_stage_may_wait_for_more_until_a_time() {
    let (send, receive) = bounded::<()>(0);
    let (pairs, _) = run(&RunControl::default(), |scope| {
        let numbers = scope.source("numbers", 0, move |out| {
            // Two at once, and a third that comes only after the wait is over.
            let _ = out.send(1).and_then(|()| out.send(2));
            let _ = receive.recv();
            let _ = out.send(3);
        });
        scope.here("pairs", numbers, |inlet| {
            let first = inlet.recv();
            let second = inlet.recv_until(std::time::Instant::now() + Duration::from_secs(20));
            let none = inlet.recv_until(std::time::Instant::now() + Duration::from_millis(20));
            drop(send);
            let third = inlet.recv_until(std::time::Instant::now() + Duration::from_secs(20));
            // The source has ended: nothing is waited for.
            [first, second, none, third, inlet.recv_until(std::time::Instant::now() + Duration::from_secs(60))]
        })
    })
    .expect("no stage panics");
    assert_eq!(pairs, [Some(1), Some(2), None, Some(3), None]);
}
