//! `vidense batch --devices`: processes that share an archive, one of which may die.

use super::*;

const DEVICES: [&str; 2] = ["--devices", "cpu,cpu"];

/// The answers and failures of results, sorted; timings and order aside, they are those of one process.
fn answers(place: &Place, out: &str) -> Vec<String> {
    let mut records: Vec<String> = place.records(out).iter().map(Value::to_string).collect();
    records.sort();
    records
}

fn start(place: &Place, out: &str) -> Child {
    let mut command = place.batch("archive", out, &[&["--questions", "q.yaml"], &DEVICES[..]].concat());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for a process of ours to write a part, and returns its number.
fn writer(place: &Place, out: &str, part: &str) -> i32 {
    let lock = place.path(out).join("parts").join(part).join("lock");
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        let text = std::fs::read_to_string(&lock).unwrap_or_default();
        if let Ok(holder) = serde_json::from_str::<Value>(&text) {
            return i32::try_from(holder["pid"].as_i64().unwrap()).unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nobody writes {}", lock.display());
}

fn send(pid: i32, signal: i32) {
    // SAFETY: the process is ours, and still there: nobody has waited for it.
    unsafe { libc::kill(pid, signal) };
}

#[test]
fn devices_share_an_archive_and_their_results_are_one() {
    let place = Place::with_clips(9);
    damage(&place.path("archive"));
    assert_code(&place.run("archive", "alone", &[]), 1);
    let shared = place.run("archive", "shared", &DEVICES);
    assert_code(&shared, 1);
    assert_eq!(answers(&place, "shared"), answers(&place, "alone"));
    let words = err(&shared);
    assert!(words.contains("[cpu #0] ") && words.contains("[cpu #1] "), "{words}");
    let summary = place.summary("shared");
    assert_eq!((&summary["complete"], &summary["results"]), (&Value::Bool(true), &place.summary("alone")["results"]));
    assert!(place.path("shared/report.html").exists() && !place.path("shared/joined.partial").exists());
    for part in ["0-of-2", "1-of-2"] {
        assert!(place.path("shared/parts").join(part).join("answers.jsonl").exists());
    }
    // Further questions, by another number of devices: the parts stay those that they are.
    let more = ["-q", "What shape is red?", "--devices", "cpu"];
    assert_code(&place.run("archive", "shared", &more), 1);
    assert_code(&place.run("archive", "alone", &more[..2]), 1);
    assert_eq!(answers(&place, "shared"), answers(&place, "alone"));
    let status = output(place.vidense().args(["batch", "status", "shared"]));
    assert_code(&status, 0);
    // What one process began is not shared, and the other way round it is told.
    let refused = place.run("archive", "alone", &DEVICES);
    assert_code(&refused, 2);
    assert!(err(&refused).contains("written by a single process"), "{}", err(&refused));
}

#[test]
fn the_part_of_a_process_that_is_killed_is_done_by_another() {
    let place = Place::with_clips(8);
    assert_code(&place.run("archive", "alone", &[]), 0);
    let running = start(&place, "shared");
    send(writer(&place, "shared", "0-of-2"), libc::SIGKILL);
    let ended = running.wait_with_output().unwrap();
    assert_code(&ended, 0);
    let words = err(&ended);
    assert!(
        words.contains("its process ended early (signal: 9") && words.contains("resumes on another device"),
        "{words}"
    );
    assert_eq!(answers(&place, "shared"), answers(&place, "alone"));
    assert_eq!(place.summary("shared")["complete"], true);
}

#[test]
fn a_signal_drains_every_process_and_the_same_command_goes_on() {
    let place = Place::with_clips(12);
    assert_code(&place.run("archive", "alone", &[]), 0);
    let running = start(&place, "shared");
    let parts = ["0-of-2", "1-of-2"].map(|part| writer(&place, "shared", part));
    send(i32::try_from(running.id()).unwrap(), libc::SIGTERM);
    let ended = running.wait_with_output().unwrap();
    assert_code(&ended, 1);
    assert!(err(&ended).contains("the same command resumes"), "{}", err(&ended));
    for pid in parts {
        // SAFETY: signal 0 is none; it only asks whether the process is there.
        assert_eq!(unsafe { libc::kill(pid, 0) }, -1, "process {pid} outlived the command");
    }
    assert_code(&place.run("archive", "shared", &DEVICES), 0);
    assert_eq!(answers(&place, "shared"), answers(&place, "alone"));
}

#[test]
fn a_plan_that_no_device_can_run_is_told_once_all_have_failed() {
    let place = Place::with_clips(1);
    let flags = [&DEVICES[..], &["--set", "temporal=nonsense"]].concat();
    let output = place.run("archive", "shared", &flags);
    assert_code(&output, 2);
    let words = err(&output);
    assert!(words.contains("unknown choice `nonsense`") && words.contains("no device is left"), "{words}");
    for (devices, rule) in
        [("cpu,cuda:0", "compute differently"), ("gpu", "unknown device `gpu`"), ("auto", "one device")]
    {
        let output = place.run("archive", "shared", &["--devices", devices]);
        assert!(output.status.code() == Some(2) && err(&output).contains(rule), "{}", err(&output));
    }
    let output = place.run("-", "shared", &DEVICES);
    assert!(output.status.code() == Some(2) && err(&output).contains("standard input"), "{}", err(&output));
}
