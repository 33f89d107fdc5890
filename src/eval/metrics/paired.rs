//! Paired comparison of two runs on the same questions.
//!
//! The interval of the difference is the percentile interval of a bootstrap over clusters: 10,000 resamples of the
//! videos with replacement, seed 0 (Cameron, Gelbach and Miller 2008, section III, pairs cluster bootstrap). Where all
//! clusters have one difference that is not 0, resamples say nothing, and the interval is Wilson's over clusters. The
//! test is McNemar's exact one (two-sided binomial of the discordant pairs, McNemar 1947) where every score is 0 or 1
//! and every question has a video of its own, else a t test of the mean difference over clusters with the standard
//! error of [`ClusteredScores`](super::ClusteredScores): questions about one video are not independent.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

use super::clustered::wilson;
use super::student_t::two_sided_p;

/// Number of resamples of the bootstrap.
const N_RESAMPLES: usize = 10_000;

/// Scores of one question in two runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScorePair<'a> {
    /// Cluster of the question: its video.
    pub cluster: &'a str,
    /// Score in the first run.
    pub a: f64,
    /// Score in the second run.
    pub b: f64,
    /// Weight of the question.
    pub weight: f64,
}

/// Test of the hypothesis that two runs do not differ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum PairedTest {
    /// McNemar's exact test of right and wrong answers.
    #[serde(rename = "mcnemar")]
    McNemar {
        /// Number of questions that only the first run has right.
        only_a: usize,
        /// Number of questions that only the second run has right.
        only_b: usize,
        /// Two-sided p-value.
        p: f64,
    },
    /// Paired t test over clusters.
    ClusteredT {
        /// Test statistic.
        t: f64,
        /// Degrees of freedom.
        df: usize,
        /// Two-sided p-value.
        p: f64,
    },
}

/// Comparison of two runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairedComparison {
    /// Number of questions of both runs.
    pub n: usize,
    /// Number of clusters.
    pub n_clusters: usize,
    /// Mean of the first run.
    pub mean_a: f64,
    /// Mean of the second run.
    pub mean_b: f64,
    /// Difference of the means, the second less the first.
    pub difference: f64,
    /// 95 % interval of the difference.
    pub interval_95: (f64, f64),
    /// Test, unless there are fewer than two clusters for it.
    pub test: Option<PairedTest>,
}

/// Weighted sums of one cluster.
#[derive(Debug, Clone, Copy, Default)]
struct DifferenceSums {
    weight: f64,
    difference: f64,
}

impl PairedComparison {
    /// Compares two runs by their pairs of scores.
    pub fn of(pairs: &[ScorePair<'_>]) -> Self {
        let weight: f64 = pairs.iter().map(|pair| pair.weight).sum();
        let mean = |score: fn(&ScorePair<'_>) -> f64| {
            let sum: f64 = pairs.iter().map(|pair| pair.weight * score(pair)).sum();
            if weight > 0.0 { sum / weight } else { 0.0 }
        };
        let (mean_a, mean_b) = (mean(|pair| pair.a), mean(|pair| pair.b));
        let difference = mean_b - mean_a;
        let mut clusters: BTreeMap<&str, DifferenceSums> = BTreeMap::new();
        for pair in pairs {
            let sums = clusters.entry(pair.cluster).or_default();
            sums.weight += pair.weight;
            sums.difference += pair.weight * (pair.b - pair.a);
        }
        let clusters: Vec<DifferenceSums> = clusters.into_values().collect();
        let is_binary = pairs.iter().all(|pair| [pair.a, pair.b].iter().all(|&score| score == 0.0 || score == 1.0));
        let is_independent = clusters.len() == pairs.len();
        let test = if is_binary && is_independent { Some(mcnemar(pairs)) } else { clustered_t(&clusters, difference) };
        let interval_95 = interval(&clusters, difference);
        Self { n: pairs.len(), n_clusters: clusters.len(), mean_a, mean_b, difference, interval_95, test }
    }
}

fn mcnemar(pairs: &[ScorePair<'_>]) -> PairedTest {
    let only_a = pairs.iter().filter(|pair| pair.a > pair.b).count();
    let only_b = pairs.iter().filter(|pair| pair.b > pair.a).count();
    PairedTest::McNemar { only_a, only_b, p: binomial_p(only_a.min(only_b), only_a + only_b) }
}

/// Returns the two-sided p-value of at most `k` of `n` at odds of one half: `min(1, 2 Σ_{i <= k} C(n, i) / 2^n)`.
fn binomial_p(k: usize, n: usize) -> f64 {
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = log_term.exp();
    for i in 0..k {
        log_term += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
        sum += log_term.exp();
    }
    (2.0 * sum).min(1.0)
}

fn clustered_t(clusters: &[DifferenceSums], difference: f64) -> Option<PairedTest> {
    let (n, weight) = (clusters.len(), clusters.iter().map(|sums| sums.weight).sum::<f64>());
    if n < 2 || weight <= 0.0 {
        return None;
    }
    let residuals: f64 = clusters.iter().map(|sums| (sums.difference - difference * sums.weight).powi(2)).sum();
    let error = (n as f64 / (n - 1) as f64 * residuals).sqrt() / weight;
    let t = if error > 0.0 {
        difference / error
    } else if difference == 0.0 {
        0.0
    } else {
        f64::INFINITY
    };
    Some(PairedTest::ClusteredT { t, df: n - 1, p: two_sided_p(t, (n - 1) as f64) })
}

/// Returns the 95 % interval of the mean difference.
fn interval(clusters: &[DifferenceSums], difference: f64) -> (f64, f64) {
    let is_mean = |sums: &DifferenceSums| (sums.difference - difference * sums.weight).abs() < 1e-12;
    if clusters.len() < 2 || difference == 0.0 || !clusters.iter().all(is_mean) {
        return bootstrap(clusters);
    }
    let (low, high) = wilson(difference.abs(), clusters.len());
    if difference > 0.0 { (low, high) } else { (-high, -low) }
}

/// Returns the percentile interval of the mean difference over resampled clusters.
fn bootstrap(clusters: &[DifferenceSums]) -> (f64, f64) {
    if clusters.len() < 2 {
        return (-1.0, 1.0);
    }
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let n = clusters.len() as u128;
    let mut means: Vec<f64> = (0..N_RESAMPLES)
        .map(|_| {
            let mut total = DifferenceSums::default();
            for _ in 0..n {
                let index = (u128::from(random.next_u64()) * n) >> 64;
                let drawn = clusters[index as usize];
                total.weight += drawn.weight;
                total.difference += drawn.difference;
            }
            if total.weight > 0.0 { total.difference / total.weight } else { 0.0 }
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let tail = N_RESAMPLES / 40;
    (means[tail], means[N_RESAMPLES - 1 - tail])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(cluster: &str, a: f64, b: f64) -> ScorePair<'_> {
        ScorePair { cluster, a, b, weight: 1.0 }
    }

    #[test]
    fn mcnemar_is_the_exact_binomial_test() {
        // 1 against 8 discordant: 2 · (1 + 9) / 2^9.
        assert!((binomial_p(1, 9) - 20.0 / 512.0).abs() < 1e-12);
        assert!((binomial_p(5, 10) - 1.0).abs() < 1e-12 && binomial_p(0, 0) == 1.0);
        // 2 · (1 + 100 + 4950 + 161700) / 2^100.
        assert!((binomial_p(3, 100) / (2.0 * 166_751.0 / 2f64.powi(100)) - 1.0).abs() < 1e-9);
        let pairs = [pair("u", 1.0, 0.0), pair("v", 1.0, 1.0), pair("w", 0.0, 1.0), pair("x", 0.0, 1.0)];
        let found = PairedComparison::of(&pairs);
        assert_eq!(found.test, Some(PairedTest::McNemar { only_a: 1, only_b: 2, p: 1.0 }));
        assert_eq!((found.mean_a, found.mean_b, found.difference), (0.5, 0.75, 0.25));
        // Thirty questions about three videos are not thirty independent ones.
        let names = ["u", "v", "w"];
        let pairs: Vec<ScorePair<'_>> =
            (0..30).map(|i| pair(names[i % 3], 0.0, f64::from(u8::from(i % 2 == 0)))).collect();
        assert!(matches!(PairedComparison::of(&pairs).test, Some(PairedTest::ClusteredT { df: 2, .. })));
    }

    #[test]
    fn videos_that_agree_leave_the_interval_of_their_number() {
        let lost = [pair("u", 1.0, 0.0), pair("v", 1.0, 0.0), pair("w", 1.0, 0.0)];
        let (low, high) = PairedComparison::of(&lost).interval_95;
        assert!(low == -1.0 && (-0.5..-0.4).contains(&high), "{low} {high}");
        assert_eq!(PairedComparison::of(&[pair("u", 1.0, 1.0), pair("v", 0.0, 0.0)]).interval_95, (0.0, 0.0));
    }

    #[test]
    fn fractional_scores_are_tested_over_clusters() {
        // Cluster sums of the differences 0.2, 0.4, 0.6, one question each: mean 0.4, standard deviation 0.2,
        // t = 0.4 / (0.2 / sqrt 3) = 3.464102, df 2: p = 0.074180.
        let pairs = [pair("u", 0.1, 0.3), pair("v", 0.1, 0.5), pair("w", 0.1, 0.7)];
        let Some(PairedTest::ClusteredT { t, df: 2, p }) = PairedComparison::of(&pairs).test else {
            panic!("no t test")
        };
        assert!((t - 3.464_102).abs() < 1e-6 && (p - 0.074_180).abs() < 1e-5, "{t} {p}");
        assert_eq!(PairedComparison::of(&[pair("u", 0.1, 0.3)]).test, None);
        assert_eq!(PairedComparison::of(&[]).n, 0);
    }

    #[test]
    fn the_bootstrap_interval_holds_the_difference_and_repeats() {
        let names: Vec<String> = (0..60).map(|i| i.to_string()).collect();
        let pairs: Vec<ScorePair<'_>> =
            (0..60).map(|i| pair(&names[i], 0.0, f64::from(u8::from(i % 3 == 0)))).collect();
        let found = PairedComparison::of(&pairs);
        let (low, high) = found.interval_95;
        // The normal interval is 1/3 ± 1.96 · sqrt(2/9 / 60) = 0.214 to 0.453.
        assert!((low - 0.214).abs() < 0.02 && (high - 0.453).abs() < 0.02, "{low} {high}");
        assert_eq!(PairedComparison::of(&pairs), found);
    }
}
