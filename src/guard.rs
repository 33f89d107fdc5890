//! Calls of other crates' parsers that panic on some broken files: the panic becomes a value, and is not printed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether this thread runs a guarded parser.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a parser. Returns `None` if it panics; nothing is printed then.
pub(crate) fn guarded<T>(parse: impl FnOnce() -> T) -> Option<T> {
    silence_guarded_threads();
    let before = IS_GUARDED.replace(true);
    let parsed = catch_unwind(AssertUnwindSafe(parse));
    IS_GUARDED.set(before);
    parsed.ok()
}

/// Installs, once a process, a panic hook that passes on panics of threads that run no guarded parser.
fn silence_guarded_threads() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_GUARDED.get() {
                hook(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_none_and_the_guard_ends() {
        assert_eq!(guarded(|| 7), Some(7));
        assert_eq!(guarded(|| -> u8 { guarded(|| 1).expect("no panic") + "x".parse::<u8>().expect("a digit") }), None);
        assert!(!IS_GUARDED.get());
    }
}
