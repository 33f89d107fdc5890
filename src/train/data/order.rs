//! Order of the images: a new shuffle per epoch, a pure function of seed and step.

use crate::world::Draw;

/// The order of a dataset's images.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    all: Vec<usize>,
    simple: Vec<usize>,
    /// Steps in which only simple images come.
    n_simple_steps: usize,
    batch: usize,
    seed: u64,
}

impl Order {
    /// Batches of `batch` of the images `0..n`; in the first `n_simple_steps` steps only of those that are simple.
    pub(crate) fn new(
        n: usize,
        is_simple: impl Fn(usize) -> bool,
        n_simple_steps: usize,
        batch: usize,
        seed: u64,
    ) -> Self {
        let simple = if n_simple_steps > 0 { (0..n).filter(|&i| is_simple(i)).collect() } else { Vec::new() };
        Self { all: (0..n).collect(), simple, n_simple_steps, batch, seed }
    }

    /// Returns the images of a step.
    pub(crate) fn batch(&self, step: usize) -> Vec<usize> {
        let (pool, step, stream) = if step < self.n_simple_steps && !self.simple.is_empty() {
            (&self.simple, step, 0)
        } else {
            (&self.all, step - self.n_simple_steps.min(step), 1 << 32)
        };
        let begin = step * self.batch;
        let mut epoch = None;
        let pick = |at: usize| {
            let number = at / pool.len();
            if epoch.as_ref().is_none_or(|(current, _)| *current != number) {
                let mut shuffled = pool.clone();
                Draw::new(self.seed, stream + number as u64).shuffle(&mut shuffled);
                epoch = Some((number, shuffled));
            }
            epoch.as_ref().map_or(0, |(_, shuffled)| shuffled[at % pool.len()])
        };
        (begin..begin + self.batch).map(pick).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_comes_once_an_epoch() {
        let order = Order::new(10, |_| true, 0, 4, 1);
        let mut seen: Vec<usize> = (0..5).flat_map(|step| order.batch(step)).collect();
        assert_ne!(seen[..10], seen[10..]);
        seen[..10].sort_unstable();
        seen[10..].sort_unstable();
        let all: Vec<usize> = (0..10).collect();
        assert_eq!((&seen[..10], &seen[10..]), (&all[..], &all[..]));
    }

    #[test]
    fn simple_images_come_first() {
        let order = Order::new(10, |i| i % 2 == 0, 3, 4, 1);
        assert!((0..3).flat_map(|step| order.batch(step)).all(|i| i % 2 == 0));
        assert!((3..6).flat_map(|step| order.batch(step)).any(|i| i % 2 == 1));
    }
}
