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

/// Waits until each part was written by a process of ours, and returns the processes' numbers. All locks are read in
/// turns: a part may be finished before another begins.
fn writers<const N: usize>(place: &Place, out: &str, parts: [&str; N]) -> [i32; N] {
    let holder = |part: &str| {
        let lock = place.path(out).join("parts").join(part).join("lock");
        let holder: Value = serde_json::from_str(&std::fs::read_to_string(lock).ok()?).ok()?;
        Some(i32::try_from(holder["pid"].as_i64().unwrap()).unwrap())
    };
    let mut seen = [None; N];
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        for (seen, part) in seen.iter_mut().zip(parts) {
            *seen = seen.or_else(|| holder(part));
        }
        if seen.iter().all(Option::is_some) {
            return seen.map(Option::unwrap);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("the parts {parts:?} of {out} were written by {seen:?}");
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
    let [writer] = writers(&place, "shared", ["0-of-2"]);
    send(writer, libc::SIGKILL);
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
    let place = Place::with_clips(20);
    assert_code(&place.run("archive", "alone", &[]), 0);
    let running = start(&place, "shared");
    let parts = writers(&place, "shared", ["0-of-2", "1-of-2"]);
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
