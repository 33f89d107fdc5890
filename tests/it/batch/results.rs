//! Use of results: merged shards, exported tables.

use std::process::Stdio;

use serde_json::Value;

use super::*;

#[test]
fn shards_joined_are_one_run() {
    let place = Place::with_clips(20);
    damage(&place.path("archive"));
    assert_code(&place.run("archive", "whole", &[]), 1);
    for shard in ["1/3", "2/3", "3/3"] {
        let output = place.run("archive", &format!("shard-{}", &shard[..1]), &["--shard", shard]);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", err(&output));
    }
    let merge =
        |parts: &[&str], out: &str| output(place.vidense().args(["results", "merge"]).args(parts).args(["--out", out]));
    let merged = merge(&["shard-1", "shard-2", "shard-3"], "merged");
    assert_code(&merged, 0);
    assert_eq!(place.lines("merged"), place.lines("whole"));
    assert!(place.path("merged/report.html").is_file() && place.path("merged/thumbnails").is_dir());

    // A gap, and an overlap.
    assert_code(&merge(&["shard-1"], "merged"), 2);
    let gap = merge(&["shard-1", "shard-2", "shard-1"], "gap");
    assert_code(&gap, 1);
    assert!(err(&gap).contains("a gap: shard 0/3 is missing"), "{}", err(&gap));
    let n_first = place.records("shard-1").len();
    let words = String::from_utf8(gap.stdout).unwrap();
    assert!(words.contains(&format!(" {n_first} overlap")), "{words}");
    // A part that was asked more than the others, and one with a damaged line.
    assert_code(&place.run("archive", "shard-2", &["--shard", "2/3", "-q", "What shape is red?"]), 1);
    let more = merge(&["shard-1", "shard-2", "shard-3"], "more");
    assert_code(&more, 1);
    assert!(err(&more).contains("a gap: shard-1 was not asked: What shape is red?"), "{}", err(&more));
    std::fs::create_dir(place.path("torn")).unwrap();
    let text = std::fs::read_to_string(place.path("shard-1/answers.jsonl")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[2] = "{";
    std::fs::write(place.path("torn/answers.jsonl"), lines.join("\n") + "\n").unwrap();
    let torn = merge(&["torn", "shard-2", "shard-3"], "from-torn");
    assert_code(&torn, 1);
    assert!(err(&torn).contains("a gap: torn has 1 unreadable line(s)"), "{}", err(&torn));
    // Two that do not agree.
    let path = place.path("shard-1/answers.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let changed: Vec<String> =
        text.lines().map(|line| line.replace("\"prompt_tokens\":", "\"prompt_tokens\":1")).collect();
    std::fs::create_dir(place.path("other")).unwrap();
    std::fs::write(place.path("other/answers.jsonl"), changed.join("\n") + "\n").unwrap();
    let conflict = merge(&["shard-1", "other"], "conflict");
    assert_code(&conflict, 1);
    assert!(err(&conflict).contains("answered differently in two parts"), "{}", err(&conflict));
    // Another plan.
    assert_code(&place.run("archive", "plan", &["--set", "generate.max_new_tokens=3"]), 1);
    let refused = merge(&["shard-1", "plan"], "never");
    assert_code(&refused, 2);
    assert!(err(&refused).contains("generate.max_new_tokens: 512 there, 3 here (plan)"), "{}", err(&refused));
}

#[test]
fn tables_have_a_row_a_line_with_types() {
    let place = Place::with_clips(4);
    std::fs::write(place.path("archive/empty.mp4"), "").unwrap();
    assert_code(&place.run("archive", "results", &[]), 1);
    let export = |flags: &[&str]| output(place.vidense().args(["results", "export", "results"]).args(flags));
    let jsonl = export(&["--format", "jsonl"]);
    assert_code(&jsonl, 0);
    let rows: Vec<Value> =
        String::from_utf8(jsonl.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 9);
    let answered = rows.iter().find(|row| row["answer"].is_string()).unwrap();
    assert!(answered["generate_ms"].as_f64().is_some_and(|time| time > 0.0), "{answered}");
    assert_eq!(answered["frame_indices"].as_array().unwrap().len(), 2);
    let failed = rows.iter().find(|row| row["error_kind"] == "empty").unwrap();
    assert_eq!((&failed["question"], &failed["answer"]), (&Value::Null, &Value::Null));

    assert_code(&export(&["--out", "t.csv"]), 0);
    let mut table = csv::Reader::from_path(place.path("t.csv")).unwrap();
    let names: Vec<String> = table.headers().unwrap().iter().map(str::to_owned).collect();
    assert_eq!(names, answered.as_object().unwrap().keys().cloned().collect::<Vec<_>>());
    assert_eq!(table.records().filter(Result::is_ok).count(), 9);

    assert_code(&export(&["--out", "t.parquet"]), 0);
    let bytes = std::fs::read(place.path("t.parquet")).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    assert_code(&export(&[]), 2);
    assert_code(&export(&["--format", "parquet"]), 2);
    // Whoever reads may have enough.
    let mut command = place.vidense();
    let mut child =
        command.args(["results", "export", "results", "--format", "csv"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
