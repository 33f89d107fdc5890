//! Work made of many small parallel parts, on the threads that share them.

/// Runs something on a thread of the pool: each parallel part of it then begins at once, where a thread from outside would hand every
/// one of them over, go to sleep, and be woken.
pub fn on_workers<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    match rayon::current_thread_index() {
        Some(_) => run(),
        None => rayon::scope(|_| run()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_on_a_worker_stays_there() {
        let index = on_workers(|| (rayon::current_thread_index(), on_workers(rayon::current_thread_index)));
        assert!(index.0.is_some() && index.0 == index.1);
    }
}
