//! `vidense batch` from outside: kills, damage, hostile archives, shards, the cache of visual tokens.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::repository;

mod archive;
#[cfg(unix)]
mod devices;
mod results;

const QUESTIONS: &str = "- How many objects are there?\n- id: color\n  question: What color is the circle?\n";

/// A place for one test: an archive, a cache of its own, results.
struct Place {
    dir: TempDir,
}

impl Place {
    /// `n` clips of the shapes world, some in a directory below.
    fn with_clips(n: usize) -> Self {
        let place = Self::empty();
        for (i, clip) in clips().iter().take(n).enumerate() {
            let below = if i % 3 == 2 { "archive/below" } else { "archive" };
            std::fs::copy(clip, place.path(below).join(format!("{i:02}.mp4"))).unwrap();
        }
        place
    }

    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("archive/below")).unwrap();
        std::fs::write(dir.path().join("q.yaml"), QUESTIONS).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `vidense batch` over two frames a clip.
    fn batch(&self, archive: &str, out: &str, flags: &[&str]) -> Command {
        let mut command = self.vidense();
        command.arg("batch").arg(repository("pipelines/mini.yaml")).arg(archive).args(["--out", out]);
        command.args(["--set", "sample.uniform.frames=2"]).args(flags);
        command
    }

    fn vidense(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
        command.current_dir(self.dir.path()).env("VIDENSE_CACHE", self.path("cache")).env("HF_HUB_OFFLINE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&self, archive: &str, out: &str, flags: &[&str]) -> Output {
        output(&mut self.batch(archive, out, &[&["--questions", "q.yaml"], flags].concat()))
    }

    /// The lines of results, the first one among them, sorted.
    fn lines(&self, out: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(out).join("answers.jsonl")).unwrap();
        assert!(text.ends_with('\n'), "the last line is torn");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// The lines of results but the first one, parsed.
    fn records(&self, out: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(out).join("answers.jsonl")).unwrap();
        text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The failures among them: name, stage, kind.
    fn failures(&self, out: &str) -> BTreeSet<(String, String, String)> {
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let records = self.records(out);
        let failed = records.iter().filter(|record| !record["error"].is_null());
        failed.map(|r| (word(&r["video"]), word(&r["error"]["stage"]), word(&r["error"]["kind"]))).collect()
    }

    fn summary(&self, out: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(out).join("summary.json")).unwrap()).unwrap()
    }
}

fn output(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", err(output));
    assert!(!err(output).contains("panicked"), "{}", err(output));
}

fn failure(video: &str, stage: &str, kind: &str) -> (String, String, String) {
    (video.to_owned(), stage.to_owned(), kind.to_owned())
}

/// Sixty clips, made once.
fn clips() -> &'static [PathBuf] {
    static CLIPS: OnceLock<(TempDir, Vec<PathBuf>)> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Command::new(env!("CARGO_BIN_EXE_vidense"));
        let world = world.args(["world", "--seed", "77", "--videos", "60", "--out"]).arg(dir.path()).output().unwrap();
        assert!(world.status.success(), "{}", err(&world));
        let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut clips: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "mp4")).collect();
        clips.sort();
        assert_eq!(clips.len(), 60);
        (dir, clips)
    };
    &CLIPS.get_or_init(make).1
}

/// Damages every sixth clip of an archive, each in its own way.
fn damage(archive: &Path) {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut clips: Vec<PathBuf> = ["", "below"]
        .iter()
        .flat_map(|below| std::fs::read_dir(archive.join(below)).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.is_file())
        .collect();
    clips.sort();
    for (way, path) in clips.iter().skip(3).step_by(6).enumerate() {
        let mut bytes = std::fs::read(path).unwrap();
        let n = bytes.len();
        match way {
            0 => bytes.clear(),
            1 => bytes.truncate(n / 2),
            2 => bytes.truncate(n - 7),
            3 => bytes = b"this is no video\n".repeat(20),
            4 => bytes[..n / 2].fill(0),
            5 => bytes[n / 2..].fill(0xff),
            6 => (0..40).for_each(|_| bytes[rng.next_u32() as usize % n] ^= 1 << (rng.next_u32() % 8)),
            7 => bytes.drain(n / 3..n / 3 + 100).for_each(drop),
            8 => rng.fill_bytes(&mut bytes[64..]),
            _ => bytes.truncate(8),
        }
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn every_question_of_every_video_is_answered_as_ask_answers_it() {
    let place = Place::with_clips(7);
    let output = place.run("archive", "results", &[]);
    assert_code(&output, 0);
    let records = place.records("results");
    assert_eq!(records.len(), 14);
    for record in &records[..4] {
        let (video, question) = (record["video"].as_str().unwrap(), record["question"].as_str().unwrap());
        let mut ask = place.vidense();
        ask.args(["ask", "--json", "--frames", "2"]).arg(place.path("archive").join(video)).arg(question);
        let asked: Value = serde_json::from_slice(&self::output(&mut ask).stdout).unwrap();
        for key in ["answer", "token_ids", "finish_reason", "frames", "prompt_tokens", "visual_tokens"] {
            assert_eq!(record[key], asked[key], "{video} {question} {key}");
        }
    }
    let named = records.iter().filter(|record| record["question_id"] == "color").count();
    assert_eq!(named, 7);
    let summary = place.summary("results");
    assert_eq!((&summary["complete"], &summary["results"]["answers"]), (&Value::Bool(true), &14.into()));
    let page = std::fs::read_to_string(place.path("results/report.html")).unwrap();
    assert_eq!(page.matches("data:image/jpeg;base64,").count(), 7);
    assert_eq!(page.matches("data-kind=\"answer\"").count(), 14);
    assert!(!page.contains("http://") && !page.contains("https://"), "the page needs something else");
}

#[test]
fn what_is_done_is_skipped_and_new_questions_decode_no_frame() {
    let place = Place::with_clips(5);
    assert_code(&place.run("archive", "results", &[]), 0);
    let first = place.summary("results");
    assert!(first["session"]["frames_decoded"].as_u64().unwrap() >= 10);
    let before = place.lines("results");
    assert_code(&place.run("archive", "results", &[]), 0);
    assert_eq!(place.lines("results"), before);
    assert_eq!(place.summary("results")["session"]["skipped"], 5);
    // Into the same results, and into others.
    for out in ["results", "others"] {
        assert_code(&place.run("archive", out, &["-q", "What shape is red?", "-q", "Describe the video."]), 0);
        let session = &place.summary(out)["session"];
        assert_eq!((&session["frames_decoded"], &session["found_in_cache"]), (&0.into(), &5.into()), "{out}");
    }
    assert_eq!(place.lines("results"), place.lines("others"));
    // The same without a cache.
    assert_code(
        &place.run(
            "archive",
            "plain",
            &["--no-cache", "--isolate", "false", "-q", "What shape is red?", "-q", "Describe the video."],
        ),
        0,
    );
    assert_eq!(place.lines("plain"), place.lines("others"));
    assert!(place.summary("plain")["session"]["frames_decoded"].as_u64().unwrap() > 0);
}

#[test]
fn damaged_entries_of_the_cache_are_made_again() {
    let place = Place::with_clips(4);
    assert_code(&place.run("archive", "results", &[]), 0);
    let stats = |action: &str| -> Value {
        serde_json::from_slice(&output(place.vidense().args(["cache", action, "--json"])).stdout).unwrap()
    };
    assert_eq!(stats("stats")["entries"], 4);
    let entries: Vec<PathBuf> = walk(&place.path("cache"));
    for (i, entry) in entries.iter().enumerate() {
        let mut bytes = std::fs::read(entry).unwrap();
        let n = bytes.len();
        match i {
            0 => bytes.truncate(n / 2),
            1 => bytes[n - 1] ^= 1,
            2 => bytes.clear(),
            _ => continue,
        }
        std::fs::write(entry, bytes).unwrap();
    }
    assert_code(&place.run("archive", "again", &[]), 0);
    assert_eq!(place.lines("again"), place.lines("results"));
    assert_eq!(place.summary("again")["session"]["found_in_cache"], 1);
    // A video that was changed in its place is another video.
    std::fs::copy(place.path("archive/00.mp4"), place.path("archive/01.mp4")).unwrap();
    assert_code(&place.run("archive", "changed", &[]), 0);
    let answers = |video: &str| -> Vec<Value> {
        let records = place.records("changed").into_iter().filter(|record| record["video"] == video);
        records.map(|record| record["token_ids"].clone()).collect()
    };
    assert_eq!(answers("00.mp4"), answers("01.mp4"));
    assert_eq!(stats("clear")["entries"], 5);
    assert_eq!(stats("stats")["entries"], 0);
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn two_processes_may_share_a_cache() {
    let place = Place::with_clips(6);
    // So small that they throw out each other's entries.
    let begin =
        |out: &str| place.batch("archive", out, &["--questions", "q.yaml", "--cache-limit", "40000"]).spawn().unwrap();
    for _ in 0..2 {
        let mut both = [begin("a"), begin("b")];
        both.iter_mut().for_each(|child| assert_eq!(child.wait().unwrap().code(), Some(0)));
        assert_eq!(place.lines("a"), place.lines("b"));
        std::fs::remove_dir_all(place.path("a")).unwrap();
        std::fs::remove_dir_all(place.path("b")).unwrap();
    }
    let bytes: u64 = walk(&place.path("cache")).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes <= 80_000, "{bytes}");
}

/// Kills in CI; `VIDENSE_KILLS` asks for more.
const KILLS: usize = 50;

#[test]
#[ignore = "slow"]
fn killed_at_any_moment_and_resumed_the_results_are_those_of_one_run() {
    let place = Place::with_clips(60);
    damage(&place.path("archive"));
    // One that never fits the context: a failure of a question, not of a video.
    let long = format!("{QUESTIONS}- {}\n", "How many objects are there in this picture? ".repeat(100));
    std::fs::write(place.path("q.yaml"), long).unwrap();
    let start = Instant::now();
    assert_code(&place.run("archive", "whole", &["--cache", "cache-whole"]), 1);
    let whole_run = start.elapsed();
    let whole = place.lines("whole");
    let lost: BTreeSet<_> = place.failures("whole").into_iter().filter(|(_, stage, _)| stage == "decode").collect();
    assert!((3..=10).contains(&lost.len()), "{lost:?}");
    let kills = std::env::var("VIDENSE_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(2405);
    let (mut n_killed, mut n_rounds, mut n_begun) = (0, 0, 0);
    while n_killed < kills {
        n_rounds += 1;
        let _ = std::fs::remove_dir_all(place.path("killed"));
        // Decoding is under way in one round, and what was kept is asked about in the next.
        if n_rounds % 2 == 1 {
            let _ = std::fs::remove_dir_all(place.path("cache"));
        }
        for n_in_round in 0.. {
            let mut child = place.batch("archive", "killed", &["--questions", "q.yaml"]).spawn().unwrap();
            if n_in_round < 8 {
                std::thread::sleep(whole_run.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX) / 3.0));
                child.kill().unwrap();
            }
            let status = child.wait().unwrap();
            if status.code().is_some() {
                assert_eq!(status.code(), Some(1));
                break;
            }
            n_killed += 1;
            let answers = std::fs::read(place.path("killed/answers.jsonl")).unwrap_or_default();
            n_begun += usize::from(answers.iter().filter(|&&byte| byte == b'\n').count() > 1);
        }
        assert!(place.lines("killed") == whole, "round {n_rounds} after {n_killed} kills");
    }
    assert!(n_begun > kills / 4, "only {n_begun} of {n_killed} kills came while answers were being made");
    let _ = writeln!(std::io::stderr(), "{n_killed} kills in {n_rounds} rounds, {n_begun} of them among answers");
}

#[test]
fn a_question_that_does_not_fit_fails_alone_whatever_is_left_beside_it() {
    let place = Place::with_clips(2);
    let long = "How many objects are there in this picture? ".repeat(100);
    assert_code(&place.run("archive", "both", &["-q", &long]), 1);
    let expected: BTreeSet<_> = ["00.mp4", "01.mp4"].map(|name| failure(name, "generate", "token_budget")).into();
    assert_eq!(place.failures("both"), expected);
    // As if a kill had come before the last lines of each video.
    let path = place.path("both/answers.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("token_budget")).collect();
    let whole = place.lines("both");
    std::fs::write(&path, kept.join("\n") + "\n").unwrap();
    assert_code(&place.run("archive", "both", &["-q", &long]), 1);
    assert_eq!(place.lines("both"), whole);
    // Alone it fails before anything is decoded, and a shorter one may come later.
    let only = |out: &str, question: &str| output(&mut place.batch("archive", out, &["--no-cache", "-q", question]));
    assert_code(&only("alone", &long), 1);
    assert_eq!(place.summary("alone")["session"]["frames_decoded"], 0);
    assert_code(&only("alone", "How many objects are there?"), 1);
    let held = &place.summary("alone")["results"];
    assert_eq!((&held["answers"], &held["failed"]), (&2.into(), &2.into()));
}

#[test]
fn torn_and_lost_lines_are_asked_again_and_nothing_else() {
    let place = Place::with_clips(3);
    assert_code(&place.run("archive", "results", &[]), 0);
    let whole = place.lines("results");
    let path = place.path("results/answers.jsonl");
    let text = std::fs::read(&path).unwrap();
    let cuts = [text.len() - 1, text.len() - 20, text.len() / 2, 100, 0];
    for cut in cuts {
        std::fs::write(&path, &text[..cut]).unwrap();
        assert_code(&place.run("archive", "results", &[]), 0);
        assert_eq!(place.lines("results"), whole, "cut at {cut}");
    }
    // A line in the middle that says nothing: told, and its question asked again.
    let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    lines[2] = b"{\"item\":";
    std::fs::write(&path, lines.join(&b'\n')).unwrap();
    let output = place.run("archive", "results", &[]);
    assert_code(&output, 0);
    assert!(err(&output).contains("1 unreadable line(s), the first is line 3"), "{}", err(&output));
    assert_eq!(place.records_that_parse("results"), 6);
}

impl Place {
    fn records_that_parse(&self, out: &str) -> usize {
        let text = std::fs::read_to_string(self.path(out).join("answers.jsonl")).unwrap();
        text.lines().skip(1).filter(|line| serde_json::from_str::<Value>(line).is_ok()).count()
    }
}

#[test]
fn another_plans_results_are_refused_choice_by_choice() {
    let place = Place::with_clips(1);
    assert_code(&place.run("archive", "results", &[]), 0);
    let before = std::fs::read(place.path("results/answers.jsonl")).unwrap();
    let other =
        place.run("archive", "results", &["--set", "temporal.max_pool.stride=4", "--set", "generate.max_new_tokens=3"]);
    assert_code(&other, 2);
    for words in ["temporal.max_pool.stride: 2 there, 4 here", "generate.max_new_tokens: 512 there, 3 here"] {
        assert!(err(&other).contains(words), "{}", err(&other));
    }
    let shard = place.run("archive", "results", &["--shard", "1/3"]);
    assert_code(&shard, 2);
    assert!(err(&shard).contains("all of the archive there, shard 1/3 here"), "{}", err(&shard));
    assert_eq!(std::fs::read(place.path("results/answers.jsonl")).unwrap(), before);
    // A file of somebody else's is left as it is.
    std::fs::create_dir(place.path("theirs")).unwrap();
    std::fs::write(place.path("theirs/answers.jsonl"), "theirs\nmore").unwrap();
    let theirs = place.run("archive", "theirs", &[]);
    assert_code(&theirs, 2);
    assert!(err(&theirs).contains("no results: first line"), "{}", err(&theirs));
    assert_eq!(std::fs::read(place.path("theirs/answers.jsonl")).unwrap(), b"theirs\nmore");
    std::fs::write(place.path("theirs/answers.jsonl"), "without an end").unwrap();
    assert_code(&place.run("archive", "theirs", &[]), 2);
    assert_eq!(std::fs::read(place.path("theirs/answers.jsonl")).unwrap(), b"without an end");
    // A first line that lacks its end is another plan's all the same.
    let first = before.split(|&byte| byte == b'\n').next().unwrap();
    std::fs::write(place.path("results/answers.jsonl"), first).unwrap();
    assert_code(&place.run("archive", "results", &["--set", "generate.max_new_tokens=3"]), 2);
    assert_code(&place.run("archive", "results", &[]), 0);
    assert_eq!(std::fs::read(place.path("results/answers.jsonl")).unwrap(), before);
}

/// Waits until something holds.
fn until(what: &str, holds: &mut dyn FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waited for a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A batch that hangs in its last clip, for tests that look at one that runs.
#[cfg(debug_assertions)]
fn hanging(place: &Place, flags: &[&str]) -> Child {
    let flags = [&["--questions", "q.yaml", "--stall-limit", "600"], flags].concat();
    let mut command = place.batch("archive", "results", &flags);
    let child = command.env("VIDENSE_FAULT", "hang=03.mp4").stderr(Stdio::piped()).spawn().unwrap();
    let answers = place.path("results/answers.jsonl");
    until("three clips are answered", &mut || {
        std::fs::read_to_string(&answers).is_ok_and(|text| text.lines().count() == 7)
    });
    child
}

#[cfg(debug_assertions)]
#[test]
fn one_writes_others_look_and_the_lock_of_the_dead_is_taken() {
    let place = Place::with_clips(4);
    let mut child = hanging(&place, &[]);
    let second = place.run("archive", "results", &[]);
    assert_code(&second, 2);
    assert!(err(&second).contains(&format!("process {} on ", child.id())), "{}", err(&second));
    let status = || -> Value {
        serde_json::from_slice(&output(place.vidense().args(["batch", "status", "results", "--json"])).stdout).unwrap()
    };
    until("the status tells", &mut || status()["session"]["done"] == 3);
    let now = status();
    assert_eq!((&now["running"], &now["holder"]["pid"]), (&Value::Bool(true), &child.id().into()));
    assert_eq!((&now["results"]["answers"], &now["session"]["expected"]), (&6.into(), &4.into()));
    assert!(now["session"]["seconds_left"].as_f64().is_some_and(|seconds| seconds > 0.0));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(status()["running"], false);
    let third = place.run("archive", "results", &[]);
    assert_code(&third, 0);
    assert!(err(&third).contains("ended without releasing the lock; resuming"), "{}", err(&third));
    assert_eq!(place.records("results").len(), 8);
}

#[cfg(debug_assertions)]
#[test]
fn a_running_batch_is_measured() {
    let place = Place::with_clips(4);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let child = hanging(&place, &["--metrics", &address, "--log", "json"]);
    let scrape = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    until("the sums are told", &mut || scrape("/metrics").contains("vidense_items_total{outcome=\"answered\"} 3"));
    let page = scrape("/metrics");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    for line in [
        "vidense_answers_total 6",
        "vidense_items_expected 4",
        "vidense_stage_utilisation{stage=\"decode\",device=\"cpu\"}",
        "# EOF",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
    assert!(scrape("/").starts_with("HTTP/1.1 404"));
    // The first signal lets what is under way be finished, which hangs; the second ends at once.
    let pid = child.id().to_string();
    for _ in 0..2 {
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    let output = child.wait_with_output().unwrap();
    assert_code(&output, 1);
    for line in err(&output).lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object["timestamp"].is_string() && object["level"].is_string(), "{line}");
    }
}

/// The decoder processes of a batch.
#[cfg(target_os = "linux")]
fn workers(parent: u32) -> Vec<String> {
    let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
        (fields.get(1)? == &parent.to_string() && fields[0] != "Z").then(|| entry.file_name().into_string().ok())?
    });
    children.collect()
}

#[cfg(debug_assertions)]
#[test]
#[ignore = "slow"]
fn a_crash_and_a_hang_of_a_codec_cost_one_item_each() {
    let place = Place::with_clips(8);
    let flags = ["--questions", "q.yaml", "--stall-limit", "10"];
    let mut command = place.batch("archive", "results", &flags);
    let output = output(command.env("VIDENSE_FAULT", "crash=01.mp4,hang=04.mp4"));
    assert_code(&output, 1);
    let expected = [failure("01.mp4", "decode", "crash"), failure("04.mp4", "decode", "hang")];
    assert_eq!(place.failures("results"), BTreeSet::from(expected));
    assert_eq!(place.records("results").len(), 2 + 6 * 2);
    let summary = place.summary("results");
    assert_eq!(summary["session"]["decoder_restarts"], 2);
    assert_eq!(summary["results"]["failed_by"], serde_json::json!({ "decode/crash": 1, "decode/hang": 1 }));
    let crash = place.records("results").into_iter().find(|record| record["error"]["kind"] == "crash").unwrap();
    assert!(crash["error"]["cause"].as_str().unwrap().ends_with("its decoder crashed (signal 6, SIGABRT)"), "{crash}");
    // What failed is left alone, until it is wanted again.
    assert_code(&place.run("archive", "results", &[]), 1);
    assert_eq!(place.summary("results")["session"]["skipped"], 8);
    assert_code(&place.run("archive", "results", &["--retry-failed"]), 0);
    let summary = place.summary("results");
    assert_eq!((&summary["results"]["answers"], &summary["results"]["failed"]), (&16.into(), &0.into()));
    assert_eq!(summary["session"]["skipped"], 6);
    let exported = self::output(place.vidense().args(["results", "export", "results", "--format", "jsonl"]));
    let rows = String::from_utf8(exported.stdout).unwrap();
    assert_eq!((rows.lines().count(), rows.contains("SIGABRT")), (16, false));
}

#[cfg(all(debug_assertions, target_os = "linux"))]
#[test]
fn a_decoder_that_is_killed_from_outside_costs_nothing_and_none_outlives_its_parent() {
    let place = Place::with_clips(4);
    let mut child = hanging(&place, &[]);
    let before = workers(child.id());
    assert!(!before.is_empty());
    for pid in &before {
        Command::new("kill").args(["-9", pid]).status().unwrap();
    }
    // Another one hangs in the same clip.
    until("it is replaced", &mut || {
        let now = workers(child.id());
        !now.is_empty() && now.iter().all(|pid| !before.contains(pid))
    });
    assert_eq!(place.failures("results"), BTreeSet::new());
    let orphans = workers(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    until("the decoders are gone", &mut || {
        let is_alive =
            |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
        !orphans.iter().any(is_alive)
    });
}

/// Has the files of a process grow no further than this, as a disk that fills up.
#[cfg(target_os = "linux")]
fn limit_files(command: &mut Command, bytes: u64) {
    use std::os::unix::process::CommandExt;
    // SAFETY: both calls are async-signal-safe, and change the new process alone.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_the_run_with_the_item_and_nothing_kept_is_lost() {
    let place = Place::with_clips(3);
    assert_code(&place.run("archive", "whole", &[]), 0);
    let n_bytes = std::fs::metadata(place.path("whole/answers.jsonl")).unwrap().len();
    let mut full = place.batch("archive", "results", &["--questions", "q.yaml", "--no-cache"]);
    limit_files(&mut full, n_bytes - 1);
    let output = output(&mut full);
    assert_code(&output, 2);
    let error = err(&output);
    assert!(
        error.contains("answers.jsonl: File too large") && error.contains("could not be kept; hint: make room"),
        "{error}"
    );
    // Neither is a device taken for results that are read again.
    std::fs::create_dir(place.path("device")).unwrap();
    std::os::unix::fs::symlink("/dev/full", place.path("device/timings.jsonl")).unwrap();
    let on_a_device = place.run("archive", "device", &[]);
    assert_code(&on_a_device, 2);
    assert!(err(&on_a_device).contains("device/timings.jsonl: not a regular file"), "{}", err(&on_a_device));
    assert_code(&place.run("archive", "results", &[]), 0);
    assert_eq!(place.lines("results"), place.lines("whole"));
    // A cache that is full, or no directory, is only missed.
    std::fs::write(place.path("no-directory"), "").unwrap();
    let output = place.run("archive", "uncached", &["--cache", "no-directory"]);
    assert_code(&output, 0);
    assert!(err(&output).contains("visual tokens are not kept"), "{}", err(&output));
    assert_eq!(place.lines("uncached"), place.lines("whole"));
    // Results that cannot be begun are refused before a model is read.
    let output = place.run("archive", "no-directory/results", &[]);
    assert_code(&output, 2);
    assert!(err(&output).contains("no-directory/results: Not a directory"), "{}", err(&output));
}

#[test]
fn limits_fail_the_item_that_reaches_them() {
    let place = Place::with_clips(2);
    let small = place.run("archive", "small", &["--no-cache", "--frame-limit", "1KB"]);
    assert_code(&small, 1);
    let names = ["00.mp4", "01.mp4"];
    let expected =
        |stage: &str, kind: &str| -> BTreeSet<_> { names.iter().map(|name| failure(name, stage, kind)).collect() };
    assert_eq!(place.failures("small"), expected("decode", "frame_size"));
    for stage in ["decode", "encode", "generate"] {
        for isolate in ["true", "false"] {
            let (limit, out) = (format!("{stage}=0.000001"), format!("{stage}-{isolate}"));
            let flags = ["--no-cache", "--time-limit", &limit, "--isolate", isolate];
            assert_code(&place.run("archive", &out, &flags), 1);
            assert_eq!(place.failures(&out), expected(stage, "time_limit"), "{out}");
        }
    }
    let wrong = place.run("archive", "wrong", &["--time-limit", "tower=1"]);
    assert_code(&wrong, 2);
    assert!(err(&wrong).contains("unknown stage `tower`; hint: decode, preprocess"), "{}", err(&wrong));
}
