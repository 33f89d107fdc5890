//! Subtitles between the frames of a video, as LongVideoBench has them.

use serde_json::{Value, json};

use super::Replica;
use super::runs::vidense;
use crate::harness::repository;

/// Two questions about a sample clip of two seconds, the first with subtitles in a part of a longer file, and two
/// descriptions: with subtitles and without.
fn replica(first: &str) -> Replica {
    let row = |id: &str, subtitles: &str| {
        json!({
            "id": id, "video_path": "clip.mp4", "question": "what?", "candidates": ["a", "b"], "correct_choice": 0,
            "duration_group": 15, "question_category": "S2E", "duration": 2.0, "subtitle_path": subtitles,
            "starting_timestamp_for_subtitles": 60.0,
        })
    };
    let rows = json!([row("x_0", "one.json"), row("x_1", "none.json")]).to_string();
    let spec = |subtitles: &str| {
        format!(
            "name: LVB\nsplit: val\nsource: x\n\
             format: {{ long_video_bench: {{ questions: lvb.json, videos: videos{subtitles} }} }}\n\
             prompt: {{ text: \"{{question}}{{options}}\", source: x }}\nmetrics: [choice]\n"
        )
    };
    let (with, without) = (spec(", subtitles: subtitles"), spec(""));
    let replica = Replica::new(&[
        ("lvb.json", &rows),
        ("subtitles/one.json", first),
        // Before the clip begins: it covers no frame.
        ("subtitles/none.json", r#"[{"timestamp": [1.0, 3.0], "text": "red red red red"}]"#),
        ("with.yaml", &with),
        ("without.yaml", &without),
        ("videos/.keep", ""),
    ]);
    std::fs::copy(repository("samples/clips/clip-00000.mp4"), replica.path("videos/clip.mp4")).unwrap();
    replica
}

const SPOKEN: &str = r#"[{"start": "00:01:00.000", "end": "00:01:02.000", "line": "red blue green circle"}]"#;

/// Runs a description, and returns the lines of its results by the id of the question.
fn run(replica: &Replica, name: &str, more: &[&str]) -> (Option<i32>, String, Vec<Value>) {
    let at = |name: &str| replica.path(name).to_str().unwrap().to_owned();
    let (spec, data, out) = (at(&format!("{name}.yaml")), at("."), at(&format!("{name}-out")));
    let arguments = ["eval", &spec, "--data", &data, "--out", &out, "--frames", "4", "--max-new-tokens", "1"];
    let output = vidense(&[&arguments[..], more].concat());
    let text = std::fs::read_to_string(replica.path(&format!("{name}-out/run/answers.jsonl"))).unwrap_or_default();
    let mut lines: Vec<Value> = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["question_id"].to_string());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), lines)
}

#[test]
fn subtitles_are_read_between_the_frames_that_they_cover() {
    let replica = replica(SPOKEN);
    let (code, error, without) = run(&replica, "without", &["--temporal", "concat"]);
    assert_eq!(code, Some(0), "{error}");
    let (code, error, with) = run(&replica, "with", &["--temporal", "concat"]);
    assert_eq!(code, Some(0), "{error}");
    // Without subtitles the two questions are one prompt about one item.
    assert_eq!((without.len(), with.len()), (1, 2));
    let tokens = |line: &Value| line["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&with[0]) > tokens(&with[1]), "{with:?}");
    // Subtitles without a frame are left out, and each frame is a line.
    assert!(tokens(&with[1]) > tokens(&without[0]));
    assert!(with[0]["item"] != with[1]["item"] && with[1]["item"] != without[0]["item"], "parts of the identity");
    assert_eq!(with[0]["visual_tokens"], without[0]["visual_tokens"]);
}

#[test]
fn subtitles_are_refused_where_they_have_no_place_and_where_they_are_not_understood() {
    let replica = replica(SPOKEN);
    let (code, error, _) = run(&replica, "with", &["--temporal", "temporal_mean"]);
    assert!(
        code == Some(2) && error.contains("temporal: subtitles stand between frames, but temporal_mean"),
        "{error}"
    );
    let at = |name: &str| replica.path(name).to_str().unwrap().to_owned();
    let (spec, data, out) = (at("with.yaml"), at("."), at("export"));
    for format in ["manifest", "lmms-eval", "hugging-face"] {
        let output = vidense(&["eval", "export", &spec, "--data", &data, "--to", format, "--out", &out]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("an export has no subtitles between the frames of a video"), "{format}: {error}");
    }
    std::fs::write(replica.path("subtitles/one.json"), "[{\"text\": \"x\"}]").unwrap();
    let (code, error, _) = run(&replica, "with", &[]);
    assert!(code == Some(2) && error.contains("one.json: entry 1: missing field `start`"), "{error}");
    std::fs::remove_file(replica.path("subtitles/one.json")).unwrap();
    let (code, error, _) = run(&replica, "with", &[]);
    assert!(code == Some(2) && error.contains("one.json"), "{error}");
    let rows = std::fs::read_to_string(replica.path("lvb.json")).unwrap();
    std::fs::write(replica.path("lvb.json"), rows.replace("one.json", "../lvb.json")).unwrap();
    let (code, error, _) = run(&replica, "with", &[]);
    assert!(code == Some(2) && error.contains("the name `../lvb.json` of the subtitles"), "{error}");
}
