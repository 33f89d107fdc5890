//! The file of a matrix: read and checked as pipelines are, every error at once with its position.

use std::path::{Path, PathBuf};

use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::axis::{problem, read_axes};
use super::plans::PlanMaker;
use super::selector::CellSelector;
use super::{Matrix, MatrixAxis, MatrixQuestions};
use crate::error::{Error, Result};
use crate::eval::benchmark::{Measurement, PublishedMetric};
use crate::spec::{Document, SchemaNode, SpecProblem, plan_of, read_document};

/// Limit of the cells of a matrix: each is a run of its own.
const MAX_CELLS: usize = 1000;
/// Limit of a cell's name, which is that of a directory.
const MAX_NAME: usize = 200;

/// Keys of the file. Paths are relative to it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MatrixFile {
    /// Description of a benchmark's split, which wants --data. Default: `questions`.
    #[serde(default)]
    benchmark: Option<PathBuf>,
    /// File of questions, scored by exact match. Default: `benchmark`.
    #[serde(default)]
    questions: Option<PathBuf>,
    /// Pipeline that every cell begins with. Default: every choice has its default.
    #[serde(default)]
    pipeline: Option<PathBuf>,
    /// Axes: a dotted key of the pipeline, or `frames`, with a list of values as a pipeline has them; or any name with
    /// values `{ label, set: { key: value } }`.
    matrix: Map<String, Value>,
    /// Combinations to leave out: labels by axis. Default: none.
    #[serde(default)]
    exclude: Vec<Map<String, Value>>,
    /// Cell that the others are compared with: labels by axis. Default: the first cell.
    #[serde(default)]
    baseline: Map<String, Value>,
    /// Published results of cells. Default: none.
    #[serde(default)]
    published: Vec<PublishedCell>,
}

/// Published result of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedCell {
    /// Labels by axis; the result is that of every cell that they select.
    pub cell: Map<String, Value>,
    /// Split that it was measured on.
    pub split: String,
    /// Metric.
    pub metric: PublishedMetric,
    /// Value, in percent; a judge's score in points.
    pub value: f64,
    /// Judging model with its version. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<String>,
    /// Judge by whose prompt the answers were scored, a built-in one: `video-chatgpt-qa`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Paper and table.
    pub source: String,
    /// Indices of the selected cells.
    #[serde(skip)]
    #[schemars(skip)]
    pub cells: Vec<usize>,
}

impl PublishedCell {
    pub(super) fn measurement(&self) -> Measurement<'_> {
        let Self { split, metric, judge, prompt, .. } = self;
        Measurement { split, metric: *metric, judge: judge.as_deref(), prompt: prompt.as_deref() }
    }
}

/// Returns whether a YAML file has the key `matrix`, which no other description has.
///
/// # Errors
/// When the file cannot be read.
pub fn is_matrix(path: &Path) -> Result<bool> {
    let schema = schema_for!(MatrixFile).to_value();
    Ok(Document::read(path, SchemaNode::root(&schema))?.value.get("matrix").is_some())
}

/// Reads a matrix, with `--set` assignments over its pipeline.
///
/// # Errors
/// Every error that is known without the models, each with its position: of the file, of the pipeline, of a value on an
/// axis, and of a combination by its cell.
pub fn read_matrix(path: &Path, sets: &[String]) -> Result<Matrix> {
    let schema = schema_for!(MatrixFile).to_value();
    let root = SchemaNode::root(&schema);
    let document = Document::read(path, root)?;
    let mut problems = Vec::new();
    root.check(&document.value, &mut Vec::new(), &mut problems);
    let axes = read_axes(&document, &mut problems);
    let selectors = Selectors::read(&document, &axes, &mut problems);
    let dir = path.parent().unwrap_or(Path::new(""));
    let file = |key: &str| document.value.get(key).and_then(Value::as_str).map(|name| dir.join(name));
    let questions = match (file("benchmark"), file("questions")) {
        (Some(benchmark), None) => Some(MatrixQuestions::Benchmark(benchmark)),
        (None, Some(questions)) => Some(MatrixQuestions::Questions(questions)),
        _ => {
            problems.push(SpecProblem::new("", "wants either `benchmark` or `questions`"));
            None
        }
    };
    let mut errors = Vec::new();
    if !problems.is_empty() {
        errors.push(document.error(&problems));
    }
    let base = read_document(file("pipeline").as_deref(), sets).and_then(|base| plan_of(&base).map(|_| base));
    let maker = base.map(|base| PlanMaker { base, axes: &axes, sets }).map_err(|error| errors.push(error)).ok();
    errors.extend(maker.iter().flat_map(PlanMaker::errors_of_values));
    let (Some(maker), Some(questions)) = (maker.filter(|_| errors.is_empty()), questions) else {
        return Err(Error::all(errors).unwrap_or_else(|| Error::invalid("no questions").about(path)));
    };
    let chosen = selectors.choose(&axes).map_err(|problem| document.error(&[problem]))?;
    let (mut cells, mut errors) = (Vec::new(), Vec::new());
    for values in &chosen.combinations {
        match maker.cell(values) {
            Ok(cell) => cells.push(cell),
            Err(error) => errors.push(error),
        }
    }
    if let Some(error) = Error::all(errors) {
        return Err(error);
    }
    Ok(Matrix { questions, axes, cells, baseline: chosen.baseline, published: chosen.published })
}

/// Selectors of the file.
struct Selectors {
    exclude: Vec<CellSelector>,
    baseline: CellSelector,
    published: Vec<(PublishedCell, CellSelector)>,
}

/// Combinations that run, as indices of values on each axis.
struct ChosenCells {
    combinations: Vec<Vec<usize>>,
    baseline: usize,
    published: Vec<PublishedCell>,
}

impl Selectors {
    fn read(document: &Document, axes: &[MatrixAxis], problems: &mut Vec<SpecProblem>) -> Self {
        let list = |key: &str| document.value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let map = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let mut exclude = Vec::new();
        for (index, value) in list("exclude").iter().enumerate() {
            let selected = map(value);
            if selected.is_empty() {
                problems.push(problem(&["exclude", &index.to_string()], "wants a label on at least one axis"));
            }
            exclude.push(CellSelector::read(&selected, axes, &["exclude", &index.to_string()], problems));
        }
        let baseline = document.value.get("baseline").map(map).unwrap_or_default();
        let baseline = CellSelector::read(&baseline, axes, &["baseline"], problems);
        let mut published = Vec::new();
        for (index, value) in list("published").into_iter().enumerate() {
            let Ok(row) = serde_json::from_value::<PublishedCell>(value) else { continue };
            problems.extend(row.measurement().problem_of_prompt(index));
            let index = index.to_string();
            if row.metric.is_judged() != row.judge.is_some() {
                let rule = "a judged metric has a judge, and no other has one";
                problems.push(problem(&["published", &index, "judge"], rule));
            }
            let selector = CellSelector::read(&row.cell, axes, &["published", &index, "cell"], problems);
            published.push((row, selector));
        }
        Self { exclude, baseline, published }
    }

    /// Returns the combinations that are not excluded.
    fn choose(self, axes: &[MatrixAxis]) -> Result<ChosenCells, SpecProblem> {
        let n_cells = axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.labels.len()));
        if n_cells.is_none_or(|n| n > MAX_CELLS) {
            return Err(problem(&["matrix"], format!("over {MAX_CELLS} combinations")));
        }
        let mut combinations: Vec<Vec<usize>> = vec![Vec::new()];
        for axis in axes {
            let with_each = |values: Vec<usize>| {
                (0..axis.labels.len()).map(move |value| values.iter().copied().chain([value]).collect())
            };
            combinations = combinations.into_iter().flat_map(with_each).collect();
        }
        combinations.retain(|values| !self.exclude.iter().any(|selector| selector.selects(values)));
        if combinations.is_empty() {
            return Err(problem(&["exclude"], "leaves no combination"));
        }
        let longest = combinations.iter().map(|values| cell_name(axes, values).len()).max().unwrap_or(0);
        if longest > MAX_NAME {
            return Err(problem(&["matrix"], format!("a cell's name of {longest} characters, over {MAX_NAME}"))
                .hint("shorter labels"));
        }
        let selected = |selector: &CellSelector| -> Vec<usize> {
            (0..combinations.len()).filter(|&index| selector.selects(&combinations[index])).collect()
        };
        let baseline = selected(&self.baseline);
        if self.baseline.is_free() || baseline.len() == 1 {
            let baseline = baseline.first().copied().unwrap_or(0);
            let published = self.published.iter();
            let published =
                published.map(|(row, selector)| PublishedCell { cells: selected(selector), ..row.clone() }).collect();
            return Ok(ChosenCells { combinations, baseline, published });
        }
        let hint = "a label on every axis";
        Err(problem(&["baseline"], format!("selects {} cells, not one", baseline.len())).hint(hint))
    }
}

/// Returns the name of a cell: `connector=dci,frames=8`.
pub(super) fn cell_name(axes: &[MatrixAxis], values: &[usize]) -> String {
    let named = axes.iter().zip(values).map(|(axis, &value)| format!("{}={}", axis.name, axis.labels[value]));
    named.collect::<Vec<_>>().join(",")
}
