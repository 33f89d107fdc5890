//! Tests of the table of a matrix.

use super::*;
use crate::eval::benchmark::{AnswerStatus, Measure, PublishedMetric};
use crate::eval::judge::{JudgeRecord, JudgeStatus, JudgeTable, JudgedAnswer, Judgement, TokenUsage, open_judge};
use crate::eval::matrix::{MatrixCell, MatrixQuestions};
use crate::spec::{Document, Plan};
use std::path::{Path, PathBuf};

fn matrix() -> Matrix {
    let cell = |name: &str| MatrixCell {
        name: name.to_owned(),
        labels: vec![name.to_owned()],
        plan: Plan::default(),
        document: Document::empty(),
    };
    Matrix {
        questions: MatrixQuestions::Questions(PathBuf::from("q.jsonl")),
        axes: Vec::new(),
        cells: vec![cell("a"), cell("b")],
        baseline: 0,
        published: Vec::new(),
    }
}

fn answer(id: usize, task: &str, score: f64) -> ScoredAnswer {
    ScoredAnswer {
        question_id: id.to_string(),
        video: format!("v{id}"),
        question: "?".to_owned(),
        options: Vec::new(),
        answer: vec!["x".to_owned()],
        rubric: None,
        kind: String::new(),
        task: task.to_owned(),
        weight: 1.0,
        given: Some("x".to_owned()),
        parsed: None,
        status: AnswerStatus::Answered,
        error: None,
        scores: BTreeMap::from([("exact".to_owned(), score)]),
    }
}

fn outcome(state: CellState, answers: Vec<ScoredAnswer>) -> CellOutcome {
    CellOutcome { state, answers, cost: None, error: None, judgements: Judgements::default() }
}

#[test]
fn cells_are_compared_with_the_baseline_over_common_questions() {
    let (matrix, spec) = (matrix(), BenchmarkSpec::of_questions(Path::new("q.jsonl")));
    let baseline = [answer(1, "", 1.0), answer(2, "", 0.0), answer(3, "", 0.0), answer(9, "", 1.0)];
    let context = MatrixTableContext { matrix: &matrix, spec: &spec, baseline: &baseline };
    let answers = vec![answer(3, "", 1.0), answer(2, "", 1.0), answer(1, "", 1.0), answer(4, "", 0.0)];
    let row = MatrixRow::new(1, &outcome(CellState::Done, answers), &context);
    let compared = row.compared.expect("compared");
    // Right only here: 2 and 3 of the three common questions; McNemar: 2 · 1/4 = 0.5.
    assert_eq!((compared.questions, compared.p), (3, Some(0.5)));
    assert!((compared.difference - 2.0 / 3.0).abs() < 1e-12 && row.scores["exact"].mean == 0.75);
    let own = MatrixRow::new(0, &outcome(CellState::Done, baseline.to_vec()), &context);
    assert_eq!((own.compared, own.questions), (None, 4));
    let stopped = MatrixRow::new(1, &outcome(CellState::Incomplete, Vec::new()), &context);
    assert!(stopped.scores.is_empty() && stopped.compared.is_none());
    assert_eq!(MatrixTable::new(&context, vec![stopped], &[]).n_failed(), 1);
}

#[test]
fn published_results_stand_beside_whole_splits_alone() {
    let (mut matrix, mut spec) = (matrix(), BenchmarkSpec::of_questions(Path::new("q.jsonl")));
    let published = |split: &str, metric: PublishedMetric| PublishedCell {
        cell: serde_json::Map::new(),
        split: split.to_owned(),
        metric,
        value: 50.0,
        judge: None,
        prompt: None,
        source: "a paper".to_owned(),
        cells: vec![0],
    };
    let (choice, wups) = (PublishedMetric::Choice, PublishedMetric::Wups0);
    matrix.published = vec![published("all", choice), published("val", choice), published("all", wups)];
    (spec.metrics, spec.questions) = (vec![Measure::Choice], Some(2));
    let n = |answers: &[ScoredAnswer]| {
        let context = MatrixTableContext { matrix: &matrix, spec: &spec, baseline: &[] };
        MatrixRow::new(0, &outcome(CellState::Done, answers.to_vec()), &context).published.len()
    };
    let whole = [answer(1, "", 1.0), answer(2, "", 0.0)];
    assert_eq!((n(&whole), n(&whole[..1])), (1, 0));
    let missing = ScoredAnswer { status: AnswerStatus::Missing, ..whole[1].clone() };
    let hidden = ScoredAnswer { scores: BTreeMap::new(), ..whole[1].clone() };
    assert_eq!((n(&[whole[0].clone(), missing]), n(&[whole[0].clone(), hidden])), (0, 0));
}

/// Returns an answer that `video-chatgpt-qa` has accepted by the model `m`, or to which there is no reply.
fn judged(answer: &ScoredAnswer, status: JudgeStatus) -> JudgedAnswer {
    let judge = open_judge("video-chatgpt-qa").expect("built in");
    let is_judged = status == JudgeStatus::Judged;
    let share = if is_judged { 1.0 } else { 0.0 };
    let judge = JudgeRecord {
        model: is_judged.then(|| "m".to_owned()),
        temperature: judge.temperature,
        prompt_hash: judge.prompt_hash(),
        max_score: 5.0,
        judge_hash: judge.hash(),
        custom_id: answer.question_id.clone(),
        usage: TokenUsage::default(),
        price: None,
        replies: is_judged.then(|| "{'pred': 'yes', 'score': 5}".to_owned()).into_iter().collect(),
        pred: is_judged.then(|| "yes".to_owned()),
        score: is_judged.then_some(5.0),
        status,
        error: None,
        name: judge.name,
    };
    let scores = BTreeMap::from([("judge_accuracy".to_owned(), share)]);
    JudgedAnswer { answer: ScoredAnswer { scores, ..answer.clone() }, judge }
}

#[test]
fn published_scores_of_a_judge_stand_beside_whole_judging_by_the_same_prompt_model_and_metric() {
    let (mut matrix, mut spec) = (matrix(), BenchmarkSpec::of_questions(Path::new("q.jsonl")));
    spec.questions = Some(2);
    let published = |prompt: &str, judge: &str, metric: PublishedMetric| PublishedCell {
        cell: serde_json::Map::new(),
        split: "all".to_owned(),
        metric,
        value: 50.0,
        judge: Some(judge.to_owned()),
        prompt: Some(prompt.to_owned()),
        source: "a paper".to_owned(),
        cells: vec![0],
    };
    let (accuracy, score) = (PublishedMetric::JudgeAccuracy, PublishedMetric::JudgeScore);
    matrix.published = vec![
        published("video-chatgpt-qa", "m", accuracy),
        published("video-chatgpt-detail", "m", accuracy),
        published("video-chatgpt-qa", "other", accuracy),
        published("video-chatgpt-qa", "m", score),
    ];
    let context = MatrixTableContext { matrix: &matrix, spec: &spec, baseline: &[] };
    let answers = vec![answer(1, "", 1.0), answer(2, "", 0.0)];
    let row = |second: JudgeStatus| {
        let judged = vec![judged(&answers[0], JudgeStatus::Judged), judged(&answers[1], second)];
        let file = PathBuf::from("judged.jsonl");
        let all = vec![Judgement { file, table: JudgeTable::new(&judged), answers: judged }];
        let judgements = Judgements { all, notes: Vec::new() };
        let outcome = CellOutcome { judgements, ..outcome(CellState::Done, answers.clone()) };
        let row = MatrixRow::new(0, &outcome, &context);
        MatrixTable::new(&context, vec![row], &[]).rows.remove(0)
    };
    let whole = row(JudgeStatus::Judged);
    assert_eq!((whole.published.as_slice(), whole.judged[0].counts.judged), (&matrix.published[..1], 2));
    let incomplete = row(JudgeStatus::Missing);
    assert_eq!((incomplete.published.len(), incomplete.judged[0].counts.missing), (0, 1));
}

#[test]
fn the_score_is_the_average_that_the_benchmark_reports() {
    let (matrix, mut spec) = (matrix(), BenchmarkSpec::of_questions(Path::new("q.jsonl")));
    let answers = vec![answer(1, "t", 1.0), answer(2, "t", 1.0), answer(3, "t", 1.0), answer(4, "u", 0.0)];
    let score = |spec: &BenchmarkSpec| {
        let context = MatrixTableContext { matrix: &matrix, spec, baseline: &[] };
        MatrixRow::new(0, &outcome(CellState::Done, answers.clone()), &context).scores["exact"].mean
    };
    assert_eq!(score(&spec), 0.75);
    spec.average = AverageOver::Tasks;
    assert_eq!(score(&spec), 0.5);
}
