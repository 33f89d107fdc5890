//! Protection of the user's files: no command overwrites its input, waits without end, mixes results of incompatible
//! versions, or drops a name silently.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{ffmpeg, repository};

fn vidense(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command.current_dir(dir).env("VIDENSE_CACHE", dir.join("cache")).env("HF_HUB_OFFLINE", "1");
    command.env_remove("VIDENSE_MODELS").stdin(Stdio::null());
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    vidense(dir).args(arguments).output().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory with the sample video, a link to it, a pipeline and a file of questions.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(repository("samples/three_shapes.mp4"), dir.path().join("a.mp4")).unwrap();
    std::fs::copy(repository("pipelines/mini.yaml"), dir.path().join("p.yaml")).unwrap();
    symlink("a.mp4", dir.path().join("s.png")).unwrap();
    let question = r#"{"video": "a.mp4", "question": "How many?", "answer": "3"}"#;
    std::fs::write(dir.path().join("q.jsonl"), question).unwrap();
    dir
}

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn no_output_is_written_over_an_input_of_its_command() {
    let dir = place();
    let batch = ["batch", "p.yaml", "a.mp4", "--out", "r", "-q", "Why?", "--set", "sample.uniform.frames=1"];
    assert!(run(dir.path(), &batch).status.success());
    let inputs = ["a.mp4", "p.yaml", "q.jsonl", "r/answers.jsonl"].map(|name| dir.path().join(name));
    let before = inputs.clone().map(|path| std::fs::read(path).unwrap());
    for (arguments, output, input) in [
        (&["frames", "a.mp4", "--sheet", "s.png"][..], "s.png", "a.mp4"),
        (&["frames", "a.mp4", "--sheet", "a.mp4"], "a.mp4", "a.mp4"),
        (&["eval", "q.jsonl", "--answers", "q.jsonl"], "q.jsonl", "q.jsonl"),
        (&["eval", "q.jsonl", "--answers", "s.png"], "s.png", "a.mp4"),
        (&["results", "export", "r", "--out", "r/answers.jsonl"], "r/answers.jsonl", "r/answers.jsonl"),
        (&["run", "p.yaml", "a.mp4", "-q", "Why?", "--trace", "s.png"], "s.png", "a.mp4"),
        (&["run", "p.yaml", "a.mp4", "-q", "Why?", "--trace", "p.yaml"], "p.yaml", "p.yaml"),
    ] {
        let found = run(dir.path(), arguments);
        assert_eq!(found.status.code(), Some(2), "{arguments:?}: {}", err(&found));
        let message = format!("`{output}` is `{input}`, which this command reads; hint: another name");
        assert!(err(&found).contains(&message), "{arguments:?}: {}", err(&found));
    }
    assert_eq!(inputs.map(|path| std::fs::read(path).unwrap()), before);
    let nowhere = run(dir.path(), &["frames", "a.mp4", "--sheet", "none/x.png"]);
    assert!(err(&nowhere).contains("none/x.png: ") && !err(&nowhere).contains(".tmp"), "{}", err(&nowhere));
}

#[test]
fn what_a_command_ends_with_names_its_subject() {
    let dir = place();
    let full = run(dir.path(), &["eval", "q.jsonl", "--frames", "1", "--answers", "/dev/full"]);
    assert_eq!(full.status.code(), Some(2));
    assert!(err(&full).contains("/dev/full: No space left"), "{}", err(&full));
    let odd = r#"{"video": "a.mp4", "question": "How many?", "answer": "3", "type": "a\u001b[31m"}"#;
    std::fs::write(dir.path().join("odd.jsonl"), odd).unwrap();
    let table = run(dir.path(), &["eval", "odd.jsonl", "--frames", "1"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("a\\x1b[31m") && !table.contains('\x1b'), "{table:?}");
    std::fs::create_dir(dir.path().join("archive")).unwrap();
    std::fs::rename(dir.path().join("a.mp4"), dir.path().join("archive/a.mp4")).unwrap();
    std::fs::write(dir.path().join("archive/notes.txt"), "notes").unwrap();
    let set = "sample.uniform.frames=1";
    let logged =
        run(dir.path(), &["batch", "p.yaml", "archive", "--out", "r", "-q", "Why?", "--set", set, "--log", "json"]);
    let told = err(&logged);
    let last = told.lines().find(|line| line.contains("the batch ended")).unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["passed_over"], 1, "{told}");
    assert_eq!(last["passed_over_by"]["text"]["files"], 1, "{told}");
    assert!(last["timestamp"].as_str().unwrap().ends_with('Z') && last["level"] == "INFO", "{told}");
}

/// Ends a process with a signal, and waits for its end for a while.
fn terminate(mut child: Child) -> bool {
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(30) {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

#[test]
fn a_manifest_that_has_not_begun_is_not_waited_for_once_the_batch_is_to_end() {
    let dir = place();
    make_pipe(&dir.path().join("list"));
    // Begun, but never ended; silent from the beginning; a pipe that nobody writes.
    for (archive, begin) in [("-", "[{\"video\":\n"), ("-", ""), ("list", "")] {
        let out = format!("r{}{}", archive.len(), begin.len());
        let mut command = vidense(dir.path());
        command.args(["batch", "p.yaml", archive, "--out", &out, "-q", "Why?"]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, begin.as_bytes()).unwrap();
        // The results' first session is noted once signals are taken.
        let sessions = dir.path().join(&out).join("sessions.jsonl");
        let since = Instant::now();
        while std::fs::metadata(&sessions).map_or(0, |meta| meta.len()) == 0 {
            assert!(since.elapsed() < Duration::from_secs(120), "the batch has not begun");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(terminate(child), "`{archive}` after {begin:?} is still waited for");
    }
    make_pipe(&dir.path().join("b.mp4"));
    let found = run(dir.path(), &["batch", "p.yaml", "b.mp4", "--out", "r", "-q", "Why?"]);
    assert_eq!(found.status.code(), Some(2));
    assert!(err(&found).contains("b.mp4: not a regular file; hint: "), "{}", err(&found));
}

#[test]
fn pipes_and_devices_are_no_files_of_questions_or_pipelines() {
    let dir = place();
    make_pipe(&dir.path().join("pipe"));
    for arguments in [
        &["eval", "pipe"][..],
        &["eval", "/dev/zero"],
        &["run", "pipe", "a.mp4", "-q", "Why?"],
        &["batch", "p.yaml", "a.mp4", "--out", "r", "--questions", "pipe"],
        &["train", "pipe", "--out", "t"],
    ] {
        let found = run(dir.path(), arguments);
        assert_eq!(found.status.code(), Some(2), "{arguments:?}: {}", err(&found));
        assert!(err(&found).contains(": not a regular file; hint: "), "{arguments:?}: {}", err(&found));
    }
}

#[test]
fn a_url_is_called_one_wherever_a_file_is_wanted() {
    let dir = place();
    let (url, local) = ("https://example.org/x", "file:///x/a.mp4");
    for arguments in [
        &["run", url, "a.mp4", "-q", "Why?"][..],
        &["batch", "p.yaml", url, "--out", "r", "-q", "Why?"],
        &["ask", "a.mp4", "Why?", "--llm", url],
        &["eval", url],
        &["ask", local, "Why?"],
        &["run", local, "a.mp4", "-q", "Why?"],
    ] {
        let found = run(dir.path(), arguments);
        assert_eq!(found.status.code(), Some(2), "{arguments:?}: {}", err(&found));
        let hint = if arguments.contains(&local) { "hint: name the path, /x/a.mp4" } else { "hint: download it first" };
        assert!(
            err(&found).contains("a URL, which is not ") && err(&found).contains(hint),
            "{arguments:?}: {}",
            err(&found)
        );
    }
}

#[test]
fn whole_videos_under_the_endings_of_segments_and_weights_are_listed() {
    let dir = place();
    std::fs::create_dir(dir.path().join("archive")).unwrap();
    let at = |name: &str| dir.path().join("archive").join(name);
    let clip = "-f lavfi -i testsrc=size=64x48:rate=25:duration=0.2 -c:v libx264 -pix_fmt yuv420p";
    let whole = ffmpeg(&format!("{clip} -movflags frag_keyframe+empty_moov a.mp4"));
    for name in ["whole.m4s", "whole.CMFV", "dump.bin", "disk.img"] {
        std::fs::copy(&whole.path, at(name)).unwrap();
    }
    // A segment alone has no moov box; weights are no video.
    let bytes = std::fs::read(&whole.path).unwrap();
    let moof = bytes.windows(4).position(|word| word == b"moof").unwrap() - 4;
    std::fs::write(at("part.m4s"), &bytes[moof..]).unwrap();
    std::fs::write(at("weights.bin"), b"PK\x03\x04rest").unwrap();
    let flags = ["--out", "r", "-q", "Why?", "--set", "sample.uniform.frames=1"];
    let found = run(dir.path(), &[&["batch", "p.yaml", "archive"], &flags[..]].concat());
    assert!(found.status.success(), "{}", err(&found));
    let text = std::fs::read_to_string(dir.path().join("r/answers.jsonl")).unwrap();
    let records = text.lines().skip(1).map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut names: Vec<String> = records.map(|record| record["video"].as_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["disk.img", "dump.bin", "whole.CMFV", "whole.m4s"]);
}

#[test]
fn results_of_another_revision_are_read_but_not_gone_on_with() {
    let dir = place();
    let batch = ["batch", "p.yaml", "a.mp4", "--out", "r", "-q", "Why?", "--set", "sample.uniform.frames=1"];
    assert!(run(dir.path(), &batch).status.success());
    let answers = dir.path().join("r/answers.jsonl");
    let text = std::fs::read_to_string(&answers).unwrap();
    let header: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let older = text.replacen(&format!("\"revision\":{},", header["revision"]), "", 1);
    assert_ne!(older, text);
    std::fs::write(&answers, &older).unwrap();
    let found = run(dir.path(), &batch);
    assert_eq!(found.status.code(), Some(2));
    let told = err(&found);
    assert!(told.contains("r: begun by another version of vidense"), "{told}");
    assert!(told.contains("whose frames or answers may differ; hint: another directory"), "{told}");
    assert_eq!(std::fs::read_to_string(&answers).unwrap(), older);
    for arguments in
        [&["results", "report", "r"][..], &["results", "export", "r", "--format", "csv"], &["batch", "status", "r"]]
    {
        let found = run(dir.path(), arguments);
        assert!(found.status.success(), "{arguments:?}: {}", err(&found));
    }
}

#[test]
fn a_second_id_of_a_question_is_warned_of_and_counted() {
    let dir = place();
    let rows =
        "video,question,question_id\na.mp4,How many?,1\na.mp4,How many?,2\na.mp4,Why?,3\ns.png,Why?,4\na.mp4,Why?,5\n";
    std::fs::write(dir.path().join("m.csv"), rows).unwrap();
    let batch = ["batch", "p.yaml", "m.csv", "--out", "r", "--set", "sample.uniform.frames=1"];
    for _ in 0..2 {
        let found = run(dir.path(), &batch);
        let told = err(&found);
        assert!(told.contains("warning: a.mp4: `How many?` has another id besides `2`"), "{told}");
        assert!(told.contains("warning: 2 ids are in no answer"), "{told}");
    }
    let text = std::fs::read_to_string(dir.path().join("r/answers.jsonl")).unwrap();
    assert_eq!(text.lines().skip(1).filter(|line| line.contains("\"video\":\"a.mp4\"")).count(), 2);
}
