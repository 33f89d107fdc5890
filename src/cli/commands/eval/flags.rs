//! Flags of `vidense eval BENCHMARK.yaml`, and which of them apply where.

use std::path::PathBuf;

use clap::Args;
use vidense::batch::Shard;
use vidense::error::Error;

use crate::cli::plan_flags::PLAN_FLAGS;

/// Flags of a run beside those of its plan, which mean nothing where results are only scored.
const RUNNING: [&str; 12] = [
    "shard",
    "retry_failed",
    "cache",
    "cache_limit",
    "timings",
    "sets",
    "allow_unused",
    "stall_limit",
    "kv_memory",
    "isolate",
    "time_limits",
    "frame_limit",
];

/// Flags of a benchmark.
#[derive(Args)]
pub(super) struct BenchmarkArgs {
    /// Directory of the benchmark's files and videos, to which the paths of its description are relative
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Directory of the evaluation, new or to be resumed: run/ as vidense batch writes it, scored.jsonl,
    /// evaluation.json, report.html and report.md; of a matrix, a directory for each cell, and the table [default:
    /// none, a stopped run begins anew]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Part I of the videos, of N parts that together are the benchmark: 0/3, 1/3, 2/3; vidense results merge joins
    /// their run/ directories
    #[arg(long, value_name = "I/N", default_value = "0/1", hide_default_value = true, requires = "out")]
    pub(super) shard: Shard,
    /// Retry earlier failures
    #[arg(long, requires = "out")]
    pub(super) retry_failed: bool,
    /// Score these results of vidense batch or eval, and ask nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = RUNNING, conflicts_with_all = PLAN_FLAGS)]
    pub(super) results: Option<PathBuf>,
    /// Share of the videos that must be there; above it, questions about missing videos count as wrong [default: 100]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(super) min_coverage: Option<f64>,
    /// Directory of WordNet's database files (dict), for WUPS
    #[arg(long, value_name = "DIR")]
    pub(super) wordnet: Option<PathBuf>,
    /// File in the benchmark's own format for its server or official script (EgoSchema, LongVideoBench, MLVU,
    /// Video-MME)
    #[arg(long, value_name = "FILE")]
    pub(super) submission: Option<PathBuf>,
}

/// Parses a percentage from 0 to 100, with or without its sign.
pub(super) fn percent(text: &str) -> Result<f64, Error> {
    let value = text.trim_end_matches('%').parse().ok().filter(|value: &f64| (0.0..=100.0).contains(value));
    value.ok_or_else(|| Error::invalid("expected a number from 0 to 100"))
}

impl BenchmarkArgs {
    /// Refuses the flags for a file of questions.
    ///
    /// # Errors
    /// The first flag that is set.
    pub(super) fn refuse(&self) -> anyhow::Result<()> {
        let Self { data, out, shard, retry_failed, results, min_coverage, wordnet, submission } = self;
        let set = [
            ("--data", data.is_some()),
            ("--out", out.is_some()),
            ("--shard", *shard != Shard::default()),
            ("--retry-failed", *retry_failed),
            ("--results", results.is_some()),
            ("--min-coverage", min_coverage.is_some()),
            ("--wordnet", wordnet.is_some()),
            ("--submission", submission.is_some()),
        ];
        match set.iter().find(|(_, is_set)| *is_set) {
            Some((flag, _)) => {
                let error = Error::invalid("a flag of benchmarks, not of files of questions").about(*flag);
                Err(error.with_hint("a description such as evals/egoschema-subset.yaml").into())
            }
            None => Ok(()),
        }
    }

    /// Refuses the flags for a matrix.
    ///
    /// # Errors
    /// The first flag that is set.
    pub(super) fn refuse_for_matrix(&self) -> anyhow::Result<()> {
        let set = [
            ("--shard", self.shard != Shard::default()),
            ("--results", self.results.is_some()),
            ("--submission", self.submission.is_some()),
        ];
        match set.iter().find(|(_, is_set)| *is_set) {
            Some((flag, _)) => Err(Error::invalid("a flag of one benchmark, not of a matrix").about(*flag).into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::super::Eval;
    use super::*;

    #[test]
    fn no_flag_of_a_run_is_ignored_where_results_are_scored() {
        let command = Eval::augment_args(clap::Command::new("eval"));
        let scoring = [
            "questions",
            "data",
            "out",
            "results",
            "min_coverage",
            "wordnet",
            "submission",
            "limit",
            "answers",
            "json",
        ];
        let unknown = command.get_arguments().map(|argument| argument.get_id().as_str());
        let unknown: Vec<&str> =
            unknown.filter(|id| !scoring.contains(id) && !RUNNING.contains(id) && !PLAN_FLAGS.contains(id)).collect();
        assert_eq!(unknown, [""; 0]);
    }

    #[test]
    fn flags_of_a_plan_and_of_a_run_are_refused_beside_results() {
        let parse = |flags: &[&str]| {
            let command = Eval::augment_args(clap::Command::new("eval"));
            command.try_get_matches_from([&["eval", "b.yaml", "--data", "d", "--results", "r"], flags].concat())
        };
        assert!(parse(&[]).is_ok());
        for flags in [&["--temperature", "0"][..], &["--timings"]] {
            let error = parse(flags).expect_err("a conflict");
            assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict, "{flags:?}");
        }
    }
}
