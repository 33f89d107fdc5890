//! Tests of the limits of a reading: stalls, halts, and time that does not count.

use super::*;
use crate::video::limits::{DRAINING_STALL, Halt, Patience};

#[test]
fn a_call_without_data_is_given_up() {
    let path = Path::new("a.m3u8");
    let limits = ReadLimits { stall: Duration::from_millis(30), ..ReadLimits::default() };
    let timer = ReadTimer::new(Bounds::from(&limits));
    assert!(!timer.is_over() && timer.check(path).is_ok());
    std::thread::sleep(Duration::from_millis(40));
    // Outside of a call nothing is given up; a new call has its own time.
    assert!(timer.check(path).is_ok());
    timer.begin_call();
    assert!(!timer.is_over());
    std::thread::sleep(Duration::from_millis(40));
    assert!(timer.is_over());
    let error = timer.check(path).expect_err("it waited beyond the limit").to_string();
    assert_eq!(
        error,
        "a.m3u8: reading stalled: no data for 0.03 s; hint: a longer --stall-limit, if the disk is that slow"
    );
}

#[test]
fn a_call_that_does_not_return_is_stuck_a_while_after_its_limit() {
    let path = Path::new("a.mpd");
    let limits = ReadLimits { stall: Duration::ZERO, ..ReadLimits::default() };
    let timer = ReadTimer::new(Bounds::from(&limits));
    let pause = || std::thread::sleep(GRACE + Duration::from_millis(50));
    // Outside of a call nothing is stuck.
    assert!(timer.stuck(path).is_none());
    pause();
    assert!(timer.stuck(path).is_none());
    let inside = timer.enter();
    std::thread::sleep(Duration::from_millis(1));
    assert!(timer.stuck(path).is_none());
    pause();
    assert_eq!(timer.stuck(path).expect("it did not return").kind(), Kind::Stall);
    // Observation from outside gives nothing up, and the next call has its own time.
    assert!(timer.check(path).is_ok());
    drop(inside);
    assert!(timer.stuck(path).is_none());
    let _inside = timer.enter();
    assert!(timer.stuck(path).is_none());
}

#[test]
fn a_halt_ends_what_waits_and_at_last_everything() {
    let path = Path::new("a.m3u8");
    let patience = Arc::new(std::sync::Mutex::new(Patience::WhileMoving));
    let asked = patience.clone();
    let halt = Halt::new(move || *asked.lock().expect("no panic"));
    let timer = ReadTimer::new(Bounds { halt, ..Bounds::default() });
    assert!(!timer.is_over());
    *patience.lock().expect("no panic") = Patience::Exhausted;
    assert!(timer.is_over());
    assert_eq!(timer.check(path).expect_err("it is given up").kind(), Kind::Halted);
    let halt = Halt::new(|| Patience::WhileMoving);
    assert!(!halt.gives_up(DRAINING_STALL) && halt.gives_up(2 * DRAINING_STALL));
    assert!(!Halt::default().gives_up(Duration::MAX));
}

#[test]
fn the_consumers_time_does_not_count() {
    let limit = Duration::from_millis(40);
    let mut slow = |_| {
        std::thread::sleep(Duration::from_millis(60));
        Flow::Continue
    };
    let limits = ReadLimits { time: Some(limit), ..ReadLimits::default() };
    let mut watch = ReadWatch::new(Bounds::from(&limits), &mut slow);
    assert_eq!(watch.emit(ReadEvent::Waiting), Flow::Continue);
    assert!(watch.timer.consumer_time.load(Ordering::Relaxed) >= 60_000_000);
    std::thread::sleep(Duration::from_millis(60));
    let error = watch.check(Path::new("a.mp4")).expect_err("it slept beyond the limit").to_string();
    assert_eq!(error, "a.mp4: reading took longer than the limit of 0.04 s; hint: a longer --time-limit decode=");
}

#[test]
fn a_pause_does_not_count_and_what_follows_has_bounds_of_its_own() {
    let path = Path::new("a.mp4");
    let limits = |time| ReadLimits { time, stall: Duration::from_millis(30), ..ReadLimits::default() };
    let mut ignore = |_| Flow::Continue;
    let first = ReadWatch::new(Bounds::from(&limits(None)), &mut ignore);
    let (timer, paused) = (first.timer.clone(), Instant::now());
    std::thread::sleep(Duration::from_millis(60));
    let limit = Duration::from_secs(20);
    let bounds = Bounds::from(&limits(Some(limit)));
    let resumed = ReadWatch::resume(timer.clone(), paused.elapsed(), bounds, &mut ignore);
    // Neither the wait, longer than a stall, nor its time is held against the reading.
    assert!(!timer.is_over() && resumed.check(path).is_ok());
    assert!(timer.worked() < timer.begin.elapsed().saturating_sub(Duration::from_millis(59)));
    assert_eq!((resumed.limits.time, timer.limits().time), (Some(limit), Some(limit)));
    // What is asked whether to go on is the new reader.
    let halt = Halt::new(|| Patience::Exhausted);
    timer.resume(Bounds { halt, ..Bounds::default() }, Duration::ZERO);
    assert!(timer.is_over());
    assert_eq!(resumed.check(path).expect_err("it is given up").kind(), Kind::Halted);
}

#[test]
fn a_frame_may_take_what_the_limit_says() {
    let limits = ReadLimits { frame_bytes: 300, ..ReadLimits::default() };
    assert!(limits.check_frame(Path::new("a.mp4"), 10, 10).is_ok());
    let error = limits.check_frame(Path::new("a.mp4"), 10, 11).expect_err("330 bytes").to_string();
    assert_eq!(
        error,
        "a.mp4: frames of 10 x 11 take 330 bytes as RGB, over the limit of 300; hint: a higher --frame-limit"
    );
}
