//! Contents of archives: hostile files, manifests with windows and questions, streams, very many lines.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::*;

#[cfg(unix)]
#[test]
fn whatever_lies_in_an_archive_is_told_item_by_item() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::with_clips(3);
    let at = |name: &str| place.path("archive").join(name);
    std::fs::write(at("empty.mp4"), "").unwrap();
    std::fs::write(at("text.mkv"), "no video\n".repeat(100)).unwrap();
    std::fs::write(at("notes.txt"), "not looked at").unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe.mp4")).status().unwrap().success());
    std::os::unix::fs::symlink("..", at("below/loop")).unwrap();
    std::os::unix::fs::symlink("nowhere.mp4", at("link.mp4")).unwrap();
    std::fs::create_dir(at("directory.mp4")).unwrap();
    let odd = place.path("archive").join(std::ffi::OsStr::from_bytes(b"odd\xff\n.mp4"));
    std::fs::copy(at("00.mp4"), &odd).unwrap();
    let output = place.run("archive", "results", &[]);
    assert_code(&output, 1);
    let expected = [
        failure("below/loop", "list", "loop"),
        failure("empty.mp4", "decode", "empty"),
        failure("link.mp4", "list", "not_found"),
        failure("pipe.mp4", "decode", "not_regular"),
        failure("text.mkv", "decode", "not_media"),
    ];
    assert_eq!(place.failures("results"), BTreeSet::from(expected));
    let records = place.records("results");
    // The odd name is a name like any other.
    let answers = |video: &str| -> Vec<&Value> {
        records.iter().filter(|record| record["video"] == video).map(|record| &record["token_ids"]).collect()
    };
    assert_eq!(answers("odd\\xff\n.mp4"), answers("00.mp4"));
    for record in records.iter().filter(|record| !record["error"].is_null()) {
        assert!(record["error"]["hint"].is_string(), "{record}");
    }
    // Results among the videos are none of them, whatever a glob says.
    for _ in 0..2 {
        assert_code(&place.run("archive/**/*.{mp4,jpg}", "archive/below/results", &[]), 1);
        let lines = place.lines("archive/below/results").len();
        assert_eq!(lines, place.lines("results").len() - 1, "the text that is no .mp4 is left out");
    }
    std::fs::remove_dir_all(at("below/results")).unwrap();
    // Once they are gone, nothing is left to tell.
    for name in ["empty.mp4", "text.mkv", "pipe.mp4", "below/loop", "link.mp4"] {
        std::fs::remove_file(at(name)).unwrap();
    }
    let again = place.run("archive", "results", &["--retry-failed"]);
    assert_code(&again, 1);
    let left = place.summary("results")["results"]["failed_by"].clone();
    assert_eq!(left, serde_json::json!({ "decode/empty": 1, "decode/not_media": 1, "decode/not_regular": 1 }));
}

#[test]
fn a_manifest_names_parts_and_questions() {
    let place = Place::with_clips(3);
    let csv = "video,start,end,question,label\n00.mp4,0,0.4,What color is the circle?,x\n00.mp4,0,0.4,What shape is red?,y\n\
               00.mp4,,,What shape is red?,z\nmissing.mp4,,,Why?,\n01.mp4,9,1,Why?,\n";
    std::fs::write(place.path("archive/list.csv"), csv).unwrap();
    let output = output(&mut place.batch("archive/list.csv", "results", &[]));
    assert_code(&output, 1);
    assert!(err(&output).contains("unused keys of the manifest: label"), "{}", err(&output));
    let expected = [failure("missing.mp4", "decode", "not_found"), failure("list.csv:6", "list", "manifest")];
    assert_eq!(place.failures("results"), BTreeSet::from(expected));
    let records = place.records("results");
    let parts = records.iter().filter(|record| record["end"] == 0.4).count();
    assert_eq!((parts, records.len()), (2, 5));
    let mut ask = place.vidense();
    ask.args([
        "ask",
        "archive/00.mp4",
        "What shape is red?",
        "--json",
        "--frames",
        "2",
        "--start",
        "0",
        "--end",
        "0.4",
    ]);
    let asked: Value = serde_json::from_slice(&self::output(&mut ask).stdout).unwrap();
    let found =
        records.iter().find(|record| record["end"] == 0.4 && record["question"] == "What shape is red?").unwrap();
    assert_eq!((&found["frames"], &found["token_ids"]), (&asked["frames"], &asked["token_ids"]));

    // On standard input, with a question for all; a video that is named twice is asked once.
    let lines = "{\"video\": \"00.mp4\", \"questions\": [\"Where is the circle?\"]}\n{\"video\": \"01.mp4\"}\n{\"video\": \"00.mp4\"}\n";
    let mut command = place.batch("-", "streamed", &["--root", "archive", "-q", "What color is the circle?"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let asked = place
        .records("streamed")
        .into_iter()
        .map(|record| (record["video"].as_str().unwrap().to_owned(), record["question"].as_str().unwrap().to_owned()));
    let pair = |video: &str, question: &str| (video.to_owned(), question.to_owned());
    let expected = BTreeSet::from([
        pair("00.mp4", "What color is the circle?"),
        pair("00.mp4", "Where is the circle?"),
        pair("01.mp4", "What color is the circle?"),
    ]);
    assert_eq!(asked.collect::<BTreeSet<_>>(), expected);
    // Nothing is asked: of any, which is refused at once; of one, which is that one's failure until something is.
    std::fs::write(place.path("archive/list.txt"), "00.mp4\n").unwrap();
    let refused = self::output(&mut place.batch("archive/list.txt", "unasked", &[]));
    assert_code(&refused, 2);
    assert!(err(&refused).contains("no questions; hint: --questions"), "{}", err(&refused));
    std::fs::write(place.path("archive/list.jsonl"), "{\"video\": \"00.mp4\"}\n").unwrap();
    for flags in [&[][..], &["--retry-failed"]] {
        assert_code(&self::output(&mut place.batch("archive/list.jsonl", "unasked", flags)), 1);
        assert_eq!(place.summary("unasked")["results"]["failed_by"], serde_json::json!({ "list/no_question": 1 }));
    }
    let asked = self::output(&mut place.batch("archive/list.jsonl", "unasked", &["-q", "What color is the circle?"]));
    assert_code(&asked, 0);
    // A video that is missing fails once, however often it is named.
    let twice: String = (0..30).map(|i| format!("video-{i}.mp4,a?\nx.mp4,?\nvideo-{i}.mp4,b?\n")).collect();
    std::fs::write(place.path("archive/twice.csv"), format!("video,question\n{twice}")).unwrap();
    assert_code(&self::output(&mut place.batch("archive/twice.csv", "twice", &[])), 1);
    assert_eq!(place.records("twice").len(), 31);
}

#[cfg(unix)]
#[test]
fn a_run_ends_when_it_is_told_to_though_its_manifest_never_does() {
    let place = Place::with_clips(2);
    for n_signals in 1..=2 {
        let out = format!("results-{n_signals}");
        let mut command = place.batch("-", &out, &["--root", "archive", "--questions", "q.yaml"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut manifest = child.stdin.take().unwrap();
        manifest.write_all(b"00.mp4\n01.mp4\n").unwrap();
        let answers = place.path(&out).join("answers.jsonl");
        until("both are answered", &mut || {
            std::fs::read_to_string(&answers).is_ok_and(|text| text.lines().count() == 5)
        });
        for _ in 0..n_signals {
            Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert_eq!(place.summary(&out)["complete"], false);
    }
}

/// Lines of a manifest of missing files in CI; `VIDENSE_LINES` asks for more.
const LINES: usize = 20_000;

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_missing_files() {
    let place = Place::empty();
    let lines = std::env::var("VIDENSE_LINES").map_or(LINES, |text| text.parse().unwrap());
    let peak = |n: usize, out: &str| {
        let text: String = (0..n).map(|i| format!("missing/{i}.mp4\n")).collect();
        std::fs::write(place.path("list.txt"), text).unwrap();
        let mut child = place.batch("list.txt", out, &["--questions", "q.yaml"]).spawn().unwrap();
        let (status, mut peak) = (format!("/proc/{}/status", child.id()), 0);
        while child.try_wait().unwrap().is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let resident =
                text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
            peak = resident.unwrap_or(0).max(peak);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert_eq!(place.records(out).len(), n);
        peak
    };
    let (few, many): (usize, usize) = (peak(lines / 10, "few"), peak(lines, "many"));
    let grown = many.saturating_sub(few);
    // What is known of each line is some hundred bytes.
    assert!(grown < 8_000 + lines / 4, "{few} kB for {}, {many} kB for {lines}", lines / 10);
}
