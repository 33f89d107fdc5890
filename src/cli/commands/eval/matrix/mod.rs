//! `vidense eval MATRIX.yaml --out DIR`: ablations. Every cell of the file is checked before the first runs; each has a
//! directory of its own, which resumes, and one table at the end puts them side by side.

mod cells;
mod outcome;

use std::path::{Path, PathBuf};

use vidense::error::{About as _, Error};
use vidense::eval::benchmark::{BenchmarkSpec, CoverageRecord, EvaluationRecord, ScoredAnswer, read_benchmark};
use vidense::eval::matrix::{
    CellState, Matrix, MatrixCell, MatrixQuestions, MatrixRow, MatrixTable, MatrixTableContext, read_matrix,
    running_order,
};
use vidense::exec::Stop;
use vidense::files::Durability;
use vidense::files::output::{create_directory, replace};
use vidense::pipeline::{CheckedPlan, OpenEvent, Opening, check_plan};
use vidense::spec::Plan;

use self::cells::CellRunner;
use self::outcome::CellFiles;
use super::Eval;
use super::benchmark::{PreparedBenchmark, with_prompt};
use crate::cli::{SomeFailed, Stopped, interrupt, output};

/// Files of the table.
const MARKDOWN: &str = "table.md";
const CSV: &str = "table.csv";
/// Directory of the cache of visual tokens, inside that of the matrix.
const CACHE: &str = "cache";

/// Matrix whose questions are read and whose plans are checked.
struct PreparedMatrix {
    matrix: Matrix,
    benchmark: PreparedBenchmark,
    /// Plan of each cell.
    checked: Vec<CheckedPlan>,
    out: PathBuf,
}

impl Eval {
    /// Runs the cells of a matrix that are not done, and prints the table of all.
    ///
    /// # Errors
    /// When the file, a cell's plan or the questions are wrong, or a cell failed.
    pub(super) fn run_matrix(&self, file: &Path) -> anyhow::Result<()> {
        let prepared = self.prepare_matrix(file)?;
        let stop = Stop::new();
        interrupt::stop_on(&stop)?;
        let errors = self.run_cells(&prepared, &stop)?;
        let table = prepared.table(&errors)?;
        let write = |name: &str, bytes: &[u8]| {
            let path = prepared.out.join(name);
            replace(&path, bytes, Durability::Synced).about(&path)
        };
        write(MARKDOWN, table.to_markdown().as_bytes())?;
        write(CSV, &table.to_csv()?)?;
        if self.json {
            output::json(&table)?
        } else {
            table.to_text().lines().try_for_each(|line| output::line(&output::printable(line)))?
        }
        match table.n_failed() {
            _ if stop.is_draining() => Err(Stopped.into()),
            0 => Ok(()),
            n_failed => Err(SomeFailed { n_failed }.into()),
        }
    }

    /// Refuses flags that do not apply, and reads and checks everything that is known before weights are read.
    fn prepare_matrix(&self, file: &Path) -> anyhow::Result<PreparedMatrix> {
        self.benchmark.refuse_for_matrix()?;
        if self.answers.is_some() {
            return Err(Error::invalid("a flag of one run, not of a matrix").about("--answers").into());
        }
        if self.plan.sets_plan()? {
            let error = Error::invalid("the flags of a plan do not apply to a matrix, whose cells are pipelines");
            return Err(error.with_hint("--set KEY=VALUE, such as --set model=DIR").about(file).into());
        }
        let matrix = read_matrix(file, &self.sets)?;
        let Some(out) = self.benchmark.out.clone() else {
            return Err(Error::invalid("a matrix needs --out DIR").about(file).into());
        };
        let benchmark = self.questions_of(&matrix, file)?;
        let checked = self.check_cells(&matrix, &benchmark.spec)?;
        for cell in &matrix.cells {
            EvaluationRecord::check_directory(&out.join(&cell.name), &benchmark.spec)?;
        }
        create_directory(&out).about(&out)?;
        Ok(PreparedMatrix { matrix, benchmark, checked, out })
    }

    fn questions_of(&self, matrix: &Matrix, file: &Path) -> anyhow::Result<PreparedBenchmark> {
        match &matrix.questions {
            MatrixQuestions::Benchmark(description) => {
                let spec = read_benchmark(description)?;
                let Some(data) = self.benchmark.data.as_deref() else {
                    let error = Error::invalid("a benchmark needs --data DIR").about(file);
                    return Err(error.with_hint(spec.source).into());
                };
                self.prepare_split(spec, data, description)
            }
            MatrixQuestions::Questions(_) if self.benchmark.data.is_some() => {
                Err(Error::invalid("a flag of benchmarks, not of files of questions").about("--data").into())
            }
            MatrixQuestions::Questions(questions) => {
                let data = questions.parent().unwrap_or(Path::new("")).to_owned();
                self.prepare_split(BenchmarkSpec::of_questions(questions), &data, questions)
            }
        }
    }

    /// Checks every cell against the description of its model.
    ///
    /// # Errors
    /// Those of all cells.
    fn check_cells(&self, matrix: &Matrix, spec: &BenchmarkSpec) -> anyhow::Result<Vec<CheckedPlan>> {
        let (mut checked, mut errors) = (Vec::new(), Vec::new());
        for cell in &matrix.cells {
            match self.check_cell(cell, spec) {
                Ok(plan) => checked.push(plan),
                Err(error) => errors.push(error.about(cell.name.clone())),
            }
        }
        match Error::all(errors) {
            Some(error) => Err(error.into()),
            None => Ok(checked),
        }
    }

    fn check_cell(&self, cell: &MatrixCell, spec: &BenchmarkSpec) -> Result<CheckedPlan, Error> {
        let plan = with_prompt(self.plan.beside(cell.plan.clone()), spec, "prompt.system")?;
        let name = cell.name.clone();
        let on_open = std::sync::Arc::new(move |event: OpenEvent<'_>| {
            if let OpenEvent::Warning(text) = event {
                output::warning(&format!("{name}: {text}"));
            }
        });
        check_plan(plan, &Opening { document: &cell.document, first: None, on_open })
    }

    /// Runs the cells in the order in which they share most. Returns the error of each cell that failed as a whole.
    fn run_cells(&self, prepared: &PreparedMatrix, stop: &Stop) -> anyhow::Result<Vec<Option<String>>> {
        let mut errors: Vec<Option<String>> = vec![None; prepared.checked.len()];
        let mut left = Vec::new();
        for index in running_order(&prepared.plans()) {
            match prepared.files(index).is_done(self.benchmark.retry_failed) {
                Ok(true) => {
                    output::note(&format!("{}: done before", prepared.name(index)));
                    // A process that ended between the last answer and the files left them out.
                    errors[index] = prepared.files(index).write_evaluation().err().map(|error| error.to_string());
                }
                Ok(false) => left.push(index),
                Err(error) => errors[index] = Some(error.to_string()),
            }
        }
        let mut runner = CellRunner::new(self, prepared, stop);
        for (position, &index) in left.iter().enumerate() {
            if stop.is_draining() {
                break;
            }
            let name = prepared.name(index);
            output::note(&format!("{name}: cell {} of {}", position + 1, left.len()));
            if let Err(error) = runner.run(index, &left[position + 1..]) {
                output::warning(&format!("{name}: {error:#}"));
                errors[index] = Some(format!("{error:#}"));
            }
        }
        Ok(errors)
    }
}

impl PreparedMatrix {
    fn name(&self, index: usize) -> &str {
        &self.matrix.cells[index].name
    }

    fn plans(&self) -> Vec<Plan> {
        self.checked.iter().map(|checked| checked.plan.clone()).collect()
    }

    fn files(&self, index: usize) -> CellFiles<'_> {
        let dir = self.out.join(self.name(index));
        CellFiles { dir, benchmark: &self.benchmark, fingerprint: &self.checked[index].fingerprint }
    }

    /// Makes the table from the results of all cells, of which one at a time is in memory besides the baseline.
    fn table(&self, errors: &[Option<String>]) -> anyhow::Result<MatrixTable> {
        let baseline = self.matrix.baseline;
        let baseline = self.files(baseline).outcome(errors[baseline].as_deref())?;
        let answers: &[ScoredAnswer] = if baseline.state == CellState::Done { &baseline.answers } else { &[] };
        let context = MatrixTableContext { matrix: &self.matrix, spec: &self.benchmark.spec, baseline: answers };
        let mut rows = Vec::new();
        for (index, error) in errors.iter().enumerate() {
            let outcome = self.files(index).outcome(error.as_deref())?;
            rows.push(MatrixRow::new(index, &outcome, &context));
        }
        let mut notes = self.benchmark.dataset.notes.clone();
        notes.extend(CoverageRecord::from(&self.benchmark.tasks.coverage).note());
        notes.extend(self.mixed_arithmetic());
        Ok(MatrixTable::new(&context, rows, &notes))
    }

    /// Describes cells that were computed in different precisions or on different devices.
    fn mixed_arithmetic(&self) -> Option<String> {
        let mut found: Vec<String> =
            (0..self.checked.len()).filter_map(|index| self.files(index).arithmetic()).collect();
        found.sort();
        found.dedup();
        (found.len() > 1).then(|| format!("the cells were computed with different arithmetic: {}", found.join("; ")))
    }
}
