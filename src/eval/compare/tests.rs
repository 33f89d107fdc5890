use super::*;

fn file(dir: &Path, name: &str, lines: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, lines).expect("ours");
    path
}

fn line(id: &str, video: &str, scores: &str) -> String {
    format!(
        "{{\"question_id\": \"{id}\", \"video\": \"{video}\", \"question\": \"?\", \"answer\": [], \"given\": null, \"scores\": {scores}}}\n"
    )
}

#[test]
fn questions_are_paired_by_id_whatever_their_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let a = line("1", "v", r#"{"choice": 1.0}"#)
        + &line("2", "v", r#"{"choice": 0.0}"#)
        + &line("3", "w", r#"{"choice": 0.0}"#);
    let b = line("4", "w", r#"{"choice": 1.0}"#)
        + &line("2", "v", r#"{"choice": 1.0}"#)
        + &line("1", "v", r#"{"choice": 1.0}"#);
    let (a, b) = (file(dir.path(), "a", &a), file(dir.path(), "b", &b));
    let found = compare_runs(&a, &b, None).expect("two runs");
    assert_eq!((found.metric.as_str(), found.paired.n), ("choice", 2));
    assert_eq!((found.only_in_a, found.only_in_b), (vec!["3".to_owned()], vec!["4".to_owned()]));
    assert_eq!((found.paired.mean_a, found.paired.mean_b), (0.5, 1.0));
    let error = compare_runs(&a, &b, Some("exact")).expect_err("no such metric").to_string();
    let expected = "no metric `exact` that every common question has in both files; hint: the first has choice; the second \
                    has choice";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn answers_to_a_file_of_questions_are_compared_by_exact_match() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = |given: &str| {
        format!(
            "{{\"video\": \"v\", \"question\": \"q\", \"answer\": \"red\", \"type\": \"\", \"given\": \"{given}\"}}\n"
        )
    };
    let (a, b) = (file(dir.path(), "a", &text("red ")), file(dir.path(), "b", &text("blue")));
    let found = compare_runs(&a, &b, None).expect("two runs");
    assert_eq!((found.metric.as_str(), found.paired.mean_a, found.paired.mean_b), ("exact", 1.0, 0.0));
    let twice = file(dir.path(), "twice", &(text("x") + &text("y")));
    assert!(
        compare_runs(&a, &twice, None)
            .expect_err("twice")
            .to_string()
            .contains("line 2: the question `v: q` comes twice")
    );
    let other = file(dir.path(), "other", &text("red").replace("\"red\", \"type\"", "\"blue\", \"type\""));
    let error = compare_runs(&a, &other, None).expect_err("another reference").to_string();
    assert!(error.contains("the question `v: q` has another text, video, reference, weight"), "{error}");
    let cut = file(dir.path(), "cut", &(line("1", "v", "{}") + "{\"question_id\": \"2\", \"vid"));
    let error = compare_runs(&a, &cut, None).expect_err("cut").to_string();
    assert!(error.contains("line 2: ") && error.contains("hint: the run that wrote it ended"), "{error}");
    let twice = file(dir.path(), "key", &line("1", "v", r#"{"choice": 1.0, "choice": 0.0}"#));
    let error = compare_runs(&a, &twice, None).expect_err("two scores").to_string();
    assert!(error.contains("key: line 1: the key `choice` comes twice"), "{error}");
    let bad = file(dir.path(), "bad", &line("1", "v", r#"{"choice": 7.0}"#));
    assert!(compare_runs(&a, &bad, None).expect_err("7").to_string().contains("not between 0 and 1"));
}

#[test]
fn other_options_are_another_question() {
    let dir = tempfile::tempdir().expect("a directory");
    let with =
        |options: &str| line("1", "v", "{}").replace("\"answer\"", &format!("\"options\": {options}, \"answer\""));
    let a = file(dir.path(), "a", &with(r#"["x", "y"]"#));
    let b = file(dir.path(), "b", &with(r#"["x", "y", "z", "w"]"#));
    let error = compare_runs(&a, &b, None).expect_err("other options").to_string();
    assert!(error.contains("the question `1` has another text, video, reference, weight or other options"), "{error}");
}

#[test]
fn questions_that_are_wrong_for_want_of_an_answer_are_counted_for_each_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let with = |id: &str, status: &str| {
        line(id, "v", r#"{"choice": 0.0}"#).replace("\"given\"", &format!("\"status\": \"{status}\", \"given\""))
    };
    let a = with("1", "failed") + &with("2", "missing") + &with("3", "missing") + &with("4", "unparsed");
    let b = ["1", "2", "3", "4"].map(|id| with(id, "answered")).concat();
    let found = compare_runs(&file(dir.path(), "a", &a), &file(dir.path(), "b", &b), None).expect("two runs");
    let counts_a = RunCounts { questions: 4, failed: 1, missing: 2, unparsed: 1, without_verdict: 0 };
    assert_eq!((found.counts_a, found.counts_b), (counts_a, RunCounts { questions: 4, ..RunCounts::default() }));
}

/// A judged line of a judge with this model and temperature.
fn judged(id: &str, model: &str, temperature: f64) -> String {
    let (status, replies) = if model.is_empty() { ("missing", "[]") } else { ("judged", "[\"x\"]") };
    let model = if model.is_empty() { "null".to_owned() } else { format!("\"{model}\"") };
    let judge = format!(
        "{{\"name\": \"j\", \"model\": {model}, \"temperature\": {temperature}, \"prompt_hash\": \"p\", \"max_score\": 5, \
         \"judge_hash\": \"h\", \"custom_id\": \"j/q/0\", \"usage\": {{\"prompt_tokens\": 1, \"completion_tokens\": 1}}, \
         \"replies\": {replies}, \"pred\": null, \"score\": null, \"status\": \"{status}\"}}"
    );
    line(id, "v", r#"{"exact": 0.0, "judge_score": 0.5}"#)
        .replace("\"given\"", &format!("\"judge\": {judge}, \"given\""))
}

#[test]
fn judged_scores_compare_by_one_judge_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let m = judged("1", "m", 0.0) + &judged("2", "", 0.0);
    let runs = [
        ("m", m.clone()),
        ("n", judged("1", "n", 0.0) + &judged("2", "n", 0.0)),
        ("warm", judged("1", "m", 1.0) + &judged("2", "m", 1.0)),
        ("mixed", judged("1", "m", 0.0) + &judged("2", "n", 0.0)),
        ("bare", line("1", "v", r#"{"judge_score": 0.5}"#) + &line("2", "v", r#"{"judge_score": 0.5}"#)),
    ];
    let paths = runs.map(|(name, text)| file(dir.path(), name, &text));
    let compare = |other: usize, metric| compare_runs(&paths[0], &paths[other], Some(metric));
    let found = compare(0, "judge_score").expect("one judge");
    assert_eq!(found.judge.as_ref().and_then(|judge| judge.model.as_deref()), Some("m"));
    assert_eq!(found.counts_a.without_verdict, 1);
    for (other, words) in [
        (
            1,
            "different judges: the first file has `j` by m at temperature 0, prompt p, 0 to 5 points, settings h; the second has `j` by n",
        ),
        (2, "the second has `j` by m at temperature 1"),
        (3, "several judges in the second file: `j` by m"),
        (4, "judged scores without their judge in the second file"),
    ] {
        let error = compare(other, "judge_score").expect_err("another judge").to_string();
        assert!(error.contains(words), "{words} in {error}");
    }
    assert!(compare(1, "exact").expect("a metric without a judge").judge.is_none());
}
