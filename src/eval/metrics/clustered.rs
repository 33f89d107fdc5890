//! Means of scores with 95 % intervals that respect clusters: questions about one video are not independent.
//!
//! Estimator: the weighted mean `ȳ = Σ w y / Σ w` is a ratio of totals over `G` clusters, with the linearized variance
//!
//! `G / (G - 1) · Σ_g (Σ_{i in g} w_i (y_i - ȳ))² / (Σ w)²`
//!
//! (Cochran, Sampling Techniques, 3rd ed., 1977, chapter 9A; Miller 2024, arXiv 2411.00640, section 2.2, without the
//! factor). The interval is `ȳ ± t · SE`, with the 0.975 quantile of Student's t with `G - 1` degrees of freedom, cut
//! to the range of scores, 0 to 1. Where all clusters agree, the variance is 0 and says nothing: the interval is then
//! Wilson's over clusters. A stratum of one cluster says nothing of its variance: its mean may be anything from 0 to 1.

use std::collections::BTreeMap;

use super::student_t::student_t_quantile;

/// Sums of the scores of one cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct ClusterSums {
    weight: f64,
    weighted: f64,
}

/// Scores between 0 and 1, collected by cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusteredScores {
    clusters: BTreeMap<String, ClusterSums>,
}

/// Mean of scores, with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct ClusteredMean {
    /// Weighted mean.
    pub mean: f64,
    /// 95 % interval.
    pub interval_95: (f64, f64),
    /// Number of clusters.
    pub n_clusters: usize,
}

impl ClusteredMean {
    /// Formats the mean and its interval: in points of a maximum, or in percent without one.
    pub fn shown(&self, max_points: Option<f64>) -> [String; 2] {
        let (mean, (low, high)) = (self.mean, self.interval_95);
        match max_points {
            Some(points) => [format!("{:.2}", points * mean), format!("{:.2} to {:.2}", points * low, points * high)],
            None => [format!("{:.1} %", 100.0 * mean), format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high)],
        }
    }
}

impl ClusteredScores {
    /// Adds a score of a cluster, with its weight.
    pub fn add(&mut self, cluster: &str, score: f64, weight: f64) {
        let sums = match self.clusters.get_mut(cluster) {
            Some(sums) => sums,
            None => self.clusters.entry(cluster.to_owned()).or_default(),
        };
        sums.weight += weight;
        sums.weighted += weight * score;
    }

    /// Returns the mean with its interval; the interval of less than two clusters is 0 to 1.
    pub fn mean(&self) -> ClusteredMean {
        let n_clusters = self.clusters.len();
        let weight: f64 = self.clusters.values().map(|sums| sums.weight).sum();
        let weighted: f64 = self.clusters.values().map(|sums| sums.weighted).sum();
        if weight <= 0.0 {
            return ClusteredMean { mean: 0.0, interval_95: (0.0, 1.0), n_clusters };
        }
        let mean = weighted / weight;
        let interval_95 = match self.standard_error(mean, weight) {
            None => (0.0, 1.0),
            Some(error) if error < 1e-12 => wilson(mean, n_clusters),
            Some(error) => {
                let half = student_t_quantile(0.975, (n_clusters - 1) as f64) * error;
                ((mean - half).max(0.0), (mean + half).min(1.0))
            }
        };
        ClusteredMean { mean, interval_95, n_clusters }
    }

    /// Returns the mean over the means of strata, such as tasks (macro average). A cluster may be in several strata:
    /// the variance sums its residuals over all of them. The interval holds any mean of a stratum of one cluster.
    pub fn macro_mean(strata: &[Self]) -> ClusteredMean {
        let n_strata = strata.len().max(1) as f64;
        let (mut mean, mut unknown, mut n_unknown) = (0.0, 0.0, 0.0);
        for stratum in strata {
            let of_stratum = stratum.mean();
            mean += of_stratum.mean / n_strata;
            if of_stratum.n_clusters < 2 {
                unknown += of_stratum.mean / n_strata;
                n_unknown += 1.0;
            }
        }
        let widened =
            |(low, high): (f64, f64)| ((low - unknown).max(0.0), (high - unknown + n_unknown / n_strata).min(1.0));
        let mut residuals: BTreeMap<&str, f64> = BTreeMap::new();
        for stratum in strata {
            let (own, weight) = (stratum.mean().mean, stratum.clusters.values().map(|sums| sums.weight).sum::<f64>());
            for (cluster, sums) in stratum.clusters.iter().filter(|_| weight > 0.0) {
                *residuals.entry(cluster).or_default() += (sums.weighted - own * sums.weight) / (n_strata * weight);
            }
        }
        let n_clusters = residuals.len();
        let n = n_clusters as f64;
        let error = (n / (n - 1.0) * residuals.values().map(|residual| residual * residual).sum::<f64>()).sqrt();
        let interval_95 = match n_clusters {
            0 | 1 => (0.0, 1.0),
            _ if error < 1e-12 => widened(wilson(mean, n_clusters)),
            _ => {
                let half = student_t_quantile(0.975, n - 1.0) * error;
                widened((mean - half, mean + half))
            }
        };
        ClusteredMean { mean, interval_95, n_clusters }
    }

    /// Returns the standard error of the mean, if there are at least two clusters.
    fn standard_error(&self, mean: f64, weight: f64) -> Option<f64> {
        let n = self.clusters.len() as f64;
        let residual = |sums: &ClusterSums| (sums.weighted - mean * sums.weight).powi(2);
        let sum: f64 = self.clusters.values().map(residual).sum();
        (n > 1.0).then(|| (n / (n - 1.0) * sum).sqrt() / weight)
    }
}

/// Returns Wilson's 95 % confidence interval of a proportion `p` of `total` (Wilson 1927, "Probable inference, the law
/// of succession").
pub(super) fn wilson(p: f64, total: usize) -> (f64, f64) {
    const Z: f64 = 1.959_964;
    if total == 0 {
        return (0.0, 1.0);
    }
    let n = total as f64;
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(of: &[(&str, f64)]) -> ClusteredScores {
        let mut scores = ClusteredScores::default();
        of.iter().for_each(|(cluster, score)| scores.add(cluster, *score, 1.0));
        scores
    }

    #[test]
    fn the_wilson_interval_agrees_with_newcombe_1998() {
        // 81 of 263: 0.255 to 0.366 (Newcombe 1998, table I, method 3).
        let (low, high) = wilson(81.0 / 263.0, 263);
        assert!((low - 0.2553).abs() < 5e-4 && (high - 0.3662).abs() < 5e-4, "{low} {high}");
        assert_eq!(wilson(0.0, 0), (0.0, 1.0));
        assert!(wilson(1.0, 5).1 > 0.9999);
    }

    #[test]
    fn the_interval_agrees_with_the_estimator_worked_out_by_hand() {
        // Clusters of (1, 1), (0, 0), (1): mean 3/5; residuals 0.8, -1.2, 0.4; their squares sum to 2.24;
        // SE = sqrt(3/2 · 2.24) / 5 = 0.366606; t(2) = 4.302653: half the width is 1.577, over the range.
        let mean = scores(&[("a", 1.0), ("a", 1.0), ("b", 0.0), ("b", 0.0), ("c", 1.0)]).mean();
        assert!((mean.mean - 0.6).abs() < 1e-12 && mean.interval_95 == (0.0, 1.0) && mean.n_clusters == 3);
        let error = scores(&[("a", 1.0), ("a", 1.0), ("b", 0.0), ("b", 0.0), ("c", 1.0)]).standard_error(0.6, 5.0);
        assert!((error.expect("three clusters") - 0.366_606).abs() < 1e-6);
    }

    #[test]
    fn clusters_of_one_give_the_interval_of_the_mean() {
        let of: Vec<(String, f64)> = (0..100).map(|i| (i.to_string(), f64::from(i % 4 == 0))).collect();
        let of: Vec<(&str, f64)> = of.iter().map(|(name, score)| (name.as_str(), *score)).collect();
        let mean = scores(&of).mean();
        // Sample standard deviation sqrt(100/99 · 0.1875), over 10; t(99) = 1.984217.
        let half = 1.984_217 * (0.1875 / 99.0f64).sqrt();
        assert!((mean.interval_95.1 - 0.25 - half).abs() < 1e-5, "{mean:?}");
    }

    #[test]
    fn questions_about_one_video_count_as_one_where_they_agree() {
        let repeated = scores(&[("a", 1.0), ("a", 1.0), ("a", 1.0), ("b", 1.0), ("b", 1.0)]).mean();
        assert_eq!(repeated.interval_95, wilson(1.0, 2));
        // A judge's scores are no proportion of right answers.
        let (low, high) = scores(&[("a", 0.8), ("b", 0.8), ("c", 0.8)]).mean().interval_95;
        let expected = wilson(0.8, 3);
        assert!(low < 0.8 && 0.8 < high, "{low} {high}");
        assert!((low - expected.0).abs() < 1e-9 && (high - expected.1).abs() < 1e-9, "{low} {high}");
        assert_eq!(scores(&[("a", 1.0), ("a", 0.0)]).mean().interval_95, (0.0, 1.0));
        assert_eq!(scores(&[]).mean().mean, 0.0);
    }

    #[test]
    fn the_macro_average_weighs_tasks_alike() {
        // Task means 3/4 and 0: their mean is 0.375, while 3 of 6 questions are right.
        let first = scores(&[("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 0.0)]);
        let second = scores(&[("a", 0.0), ("e", 0.0)]);
        let mean = ClusteredScores::macro_mean(&[first, second]);
        assert_eq!((mean.mean, mean.n_clusters), (0.375, 5));
        // Residuals 1/32 (three times) and -3/32, 0: SE = sqrt(5/4 · 12/1024) = 0.121031; t(4) = 2.776445.
        assert!((mean.interval_95.1 - (0.375 + 2.776_445 * 0.121_031)).abs() < 1e-5, "{mean:?}");
    }

    #[test]
    fn a_task_of_one_video_widens_the_macro_average_by_all_that_it_may_be() {
        let known: Vec<(String, f64)> = (0..200).map(|i| (i.to_string(), f64::from(i % 2))).collect();
        let known: Vec<(&str, f64)> = known.iter().map(|(name, score)| (name.as_str(), *score)).collect();
        let mean = ClusteredScores::macro_mean(&[scores(&known), scores(&[("one", 1.0)])]);
        let (low, high) = mean.interval_95;
        assert_eq!(mean.mean, 0.75);
        // Half of 0.5 ± 0.07, and of anything from 0 to 1.
        assert!((low - 0.215).abs() < 0.002 && (high - 0.785).abs() < 0.002, "{low} {high}");
    }
}
