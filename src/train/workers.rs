//! Micro-batches side by side, one a core.
//!
//! A graph of small kernels gains little from threads inside each kernel and much from threads beside it. Each worker
//! runs its kernels alone, in a pool of one thread; what comes out does not depend on how many workers there are.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// Threads that each run whole micro-batches.
pub(crate) struct Workers {
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// Starts at most `count` workers.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn new(count: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = |i| ThreadPoolBuilder::new().num_threads(1).thread_name(move |_| format!("train-{i}")).build();
        Ok(Self { pools: (0..count.max(1)).map(pool).collect::<Result<_, _>>()? })
    }

    /// Runs every item; the results are in the items' order.
    pub(crate) fn run<I: Sync, T: Send>(&self, items: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
        let n = self.pools.len();
        let mut results: Vec<Option<T>> = items.iter().map(|_| None).collect();
        std::thread::scope(|scope| {
            let mut shares: Vec<Vec<(&I, &mut Option<T>)>> = (0..n).map(|_| Vec::new()).collect();
            for (i, pair) in items.iter().zip(&mut results).enumerate() {
                shares[i % n].push(pair);
            }
            for (pool, share) in self.pools.iter().zip(shares) {
                let work = &work;
                scope.spawn(move || {
                    pool.install(|| share.into_iter().for_each(|(item, result)| *result = Some(work(item))));
                });
            }
        });
        results.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_from_any_number_of_workers() {
        for count in 1..4 {
            let workers = Workers::new(count).expect("threads");
            assert_eq!(workers.run(&[3, 1, 4, 1, 5], |x| x * 2), [6, 2, 8, 2, 10]);
        }
    }
}
