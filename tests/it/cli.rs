//! The binary from outside: standard output, standard error, exit codes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::{ids, json, repository};

const MODEL: &str = "samples/mini";
const VIDEO: &str = "samples/three_shapes.mp4";

/// The binary, run from the repository, with no model directories or hub of the machine's own.
fn vidense() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command
        .current_dir(repository(""))
        .env_remove("VIDENSE_MODELS")
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", "/nonexistent");
    command
}

fn run(arguments: &[&str]) -> Output {
    vidense().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn ask(question: &str, flags: &[&str]) -> Output {
    run(&[&["ask", "--model", MODEL, VIDEO, question], flags].concat())
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Fails unless the command could not do it, said why on standard error alone, and did not panic.
fn assert_refused(output: &Output, message: &str) {
    assert_eq!(output.status.code(), Some(2), "{}", err(output));
    assert_eq!(out(output), "");
    assert!(err(output).contains(message), "{} does not say: {message}", err(output));
    assert!(!err(output).contains("panicked"), "{}", err(output));
}

#[test]
fn the_sample_is_answered_with_its_text_alone() {
    let output = ask("What color is the circle?", &[]);
    assert_eq!((out(&output).as_str(), err(&output).as_str(), output.status.code()), ("purple\n", "", Some(0)));
}

#[test]
#[ignore = "slow"]
fn answers_over_all_frames_are_those_of_pytorch() {
    let golden = json(&repository("tests/golden/mini/expected.json"));
    let answers = golden["answers"].as_array().unwrap();
    assert!(answers.len() >= 24);
    for answer in answers {
        let question = answer["question"].as_str().unwrap();
        let temporal = answer["temporal"].as_str().unwrap_or("max_pool:2");
        let frames = answer["frames"].as_u64().unwrap_or(8).to_string();
        let object = ask(question, &["--json", "--temporal", temporal, "--frames", &frames]);
        let object: serde_json::Value = serde_json::from_slice(&object.stdout).unwrap();
        assert_eq!(ids(&object["token_ids"]), ids(&answer["ids"]), "{question} {temporal} {frames}");
        assert_eq!(object["answer"], answer["answer"], "{question}");
        let indices: Vec<_> = object["frames"].as_array().unwrap().iter().map(|frame| frame["index"].clone()).collect();
        let wanted = answer.get("frame_indices").unwrap_or(&golden["frame_indices"]);
        assert_eq!(&serde_json::Value::from(indices), wanted);
    }
}

#[test]
fn json_is_one_object_with_stable_names() {
    let output = ask("What color is the circle?", &["--json"]);
    assert_eq!(out(&output).lines().count(), 1);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = [
        "video",
        "question",
        "answer",
        "token_ids",
        "finish_reason",
        "frames",
        "prompt_tokens",
        "visual_tokens",
        "model",
        "plan",
        "arithmetic",
        "timings_ms",
    ];
    assert_eq!(names, wanted);
    let timings: Vec<&str> = object["timings_ms"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(timings, ["load", "decode", "preprocess", "encode", "connect", "prefill", "generate", "total"]);
    assert_eq!(object["frames"][0]["index"], 2);
    assert_eq!(object["frames"][0]["time_seconds"], 0.125);
    assert_eq!(
        (&object["finish_reason"], &object["visual_tokens"], &object["prompt_tokens"]),
        (&"stop".into(), &256.into(), &13.into())
    );
}

#[test]
fn the_same_question_has_the_same_plan_and_another_choice_another() {
    let plan = |flags: &[&str]| {
        let object: serde_json::Value =
            serde_json::from_slice(&ask("Why?", &[&["--json"], flags].concat()).stdout).unwrap();
        object["plan"].as_str().unwrap().to_owned()
    };
    assert_eq!(plan(&[]), plan(&[]));
    assert_eq!(plan(&[]), plan(&["--frames", "8"]));
    assert_ne!(plan(&[]), plan(&["--frames", "7"]));
    assert_ne!(plan(&[]), plan(&["--temporal", "concat"]));
}

#[test]
fn drawn_answers_repeat_with_their_seed() {
    let draw = |seed: &str| {
        out(&ask("Describe the video.", &["--temperature", "2.5", "--top-p", "0.95", "--top-k", "50", "--seed", seed]))
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn the_answer_stops_at_the_limit() {
    let output = ask("Describe the video.", &["--max-new-tokens", "3", "--json"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((object["finish_reason"].as_str(), object["token_ids"].as_array().unwrap().len()), (Some("length"), 3));
}

#[test]
fn a_window_asks_about_a_part() {
    let output = ask("How many objects are there?", &["--start", "1", "--end", "0:02", "--json"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["answer"], "three");
    let frames = object["frames"].as_array().unwrap();
    assert!(frames.iter().all(|frame| (1.0..2.0).contains(&frame["time_seconds"].as_f64().unwrap())));
}

#[test]
fn what_cannot_be_is_refused_before_any_weight_is_read() {
    let question = "why ".repeat(2500);
    assert_refused(&ask(&question, &[]), "temporal max_pool:2: 8 frames x 32 tokens (64 / 2) = 256 visual tokens + ");
    assert_refused(&ask(&question, &[]), "over the model's context of 1024; hint: shorten the question");
    assert_refused(&ask("Why?", &["--frames", "16", "--temporal", "concat"]), "hint: use 15 frames, or max_pool:2");
    assert_refused(&ask("  ", &[]), "the question is empty");
    assert_refused(&ask("Why?", &["--sample", "all", "--frames", "3"]), "--frames does not apply");
    assert_refused(&ask("Why?", &["--start", "3", "--end", "1"]), "--start 0:03.000 is not before --end 0:01.000");
    assert_refused(
        &ask("Why?", &["--start", "1:00"]),
        "no frame in the window 1:00.000 - end: its 36 frames run from 0:00.000 to 0:02.188",
    );
    assert_refused(&ask("Why?", &["--template", "alpaca"]), "unknown template `alpaca`; hint: vicuna_v1, llama_3");
    assert_refused(
        &ask("Why?", &["--temporal", "max_pool:65"]),
        "temporal max_pool:65: 8 frames x 0 tokens (64 / 65) = no visual token; hint: a stride of at most 64",
    );
    assert_refused(
        &ask("Why?", &["--system", "Be brief."]),
        "prompt.system (--system) does not apply: the template `custom` has no system text",
    );
    assert_refused(&ask("Why?", &["--temporal", "max_pool:0"]), "the stride is a whole number from 1");
    assert_refused(&ask("Why?", &["--temperature", "-1"]), "expected a number from 0");
    if cfg!(not(feature = "metal")) {
        assert_refused(
            &ask("Why?", &["--device", "metal"]),
            "metal:0: the candle crate has not been built with metal support; hint: ",
        );
    }
    assert_refused(&ask("Why?", &["--device", "tpu"]), "unknown device `tpu`; hint: auto, cpu, cuda");
}

#[test]
fn wrong_paths_are_named() {
    assert_refused(&run(&["ask", "--model", MODEL, "no.mp4", "Why?"]), "no.mp4: no such file or directory");
    assert_refused(
        &run(&["ask", "--model", "no-model", VIDEO, "Why?"]),
        "no-model: no such directory, and not a hub id",
    );
    assert_refused(&run(&["ask", "--model", "samples", VIDEO, "Why?"]), "samples: not a model: no config.json here");
    assert_refused(&run(&["ask", "--model", "org/name", VIDEO, "Why?"]), "HF_HUB_OFFLINE forbids the download; hint:");
    let tower = run(&["inspect", "tests/golden/siglip"]);
    assert_refused(
        &tower,
        "model_type: \"siglip\" is not usable; this is a vision tower alone; hint: name it with --vision-tower",
    );
    assert_refused(&run(&["inspect", "no-such-thing"]), "no-such-thing: no such directory");
}

#[test]
fn chat_encodes_once_and_answers_line_by_line() {
    let mut child = vidense()
        .args(["chat", "--model", MODEL, VIDEO, "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let too_long = "why ".repeat(2500);
    write!(input, "What color is the circle?\n\n{too_long}\nWhere is the red one?\n/quit\nnever asked\n").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let answers: Vec<serde_json::Value> =
        out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<&str> = answers.iter().map(|answer| answer["answer"].as_str().unwrap()).collect();
    assert_eq!(texts, ["purple", "bottom right"]);
    assert!(err(&output).contains("over the model's context of 1024"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn frames_writes_a_sheet_or_pngs() {
    let dir = tempfile::tempdir().unwrap();
    let video = repository(VIDEO);
    let frames =
        |flags: &[&str]| vidense().current_dir(dir.path()).arg("frames").arg(&video).args(flags).output().unwrap();

    let output = frames(&["--frames", "4"]);
    assert_eq!(out(&output), "three_shapes.frames.png\n", "{}", err(&output));
    let sheet = image::open(dir.path().join("three_shapes.frames.png")).unwrap();
    assert!(sheet.width() > 256 && sheet.height() > 256);

    let output = frames(&["--frames", "4", "--out", "pngs", "--json"]);
    let objects: Vec<serde_json::Value> =
        out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects[1]["path"], "pngs/0001-frame13.png");
    assert_eq!(objects[1]["frames"][0]["index"], 13);
    let picture = image::open(dir.path().join("pngs/0001-frame13.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (128, 96));
    assert_eq!(std::fs::read_dir(dir.path().join("pngs")).unwrap().count(), 4);
}

#[test]
fn a_directory_of_its_pngs_is_the_video() {
    let dir = tempfile::tempdir().unwrap();
    let pngs = dir.path().join("pngs");
    assert!(run(&["frames", VIDEO, "--out", pngs.to_str().unwrap()]).status.success());
    let output = run(&[
        "ask",
        "--model",
        MODEL,
        pngs.to_str().unwrap(),
        "What color is the circle?",
        "--sample",
        "all",
        "--json",
    ]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&object["answer"], &object["frames"][7]["index"]), (&"purple".into(), &7.into()));
    assert!(object["frames"][7]["time_seconds"].is_null());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_that_names_the_file() {
    assert_refused(&run(&["frames", VIDEO, "--sheet", "/dev/full/x.png"]), "/dev/full/x.png: cannot be written: ");
    // /dev/full takes no byte: the answer cannot be printed either.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = vidense().args(["ask", "--model", MODEL, VIDEO, "Why?"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("No space left on device"), "{}", err(&output));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let mut child = vidense().args(["inspect", MODEL]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
}

#[test]
fn inspect_tells_streams_and_shapes() {
    let video = out(&run(&["inspect", VIDEO]));
    for part in
        ["h264, 128 x 96, yuv420p", "<- decoded", "frames      36 decode, counted one by one", "0:02.188 (last frame)"]
    {
        assert!(video.contains(part), "{video} lacks {part}");
    }
    let model = out(&run(&["inspect", MODEL]));
    for part in [
        "dci: hidden state 6 and the means of states 0..3 and 3..6",
        "pixels         (8, 3, 64, 64)",
        "hidden states  7 of (8, 65, 128)",
        "connector      (8, 64, 384)",
        "concat                            512  8 frames x 64 tokens (512 left for question and answer)",
        "2273152 parameters, stored as f16",
        "keys and values, here on the CPU: ",
        " by default (--kv-memory)",
        "    in f32: ",
        " whole contexts, the default beside quantized weights",
    ] {
        assert!(model.contains(part), "{model} lacks {part}");
    }
}

#[test]
fn completions_of_a_shell_name_commands_and_flags() {
    for (shell, begin) in [("bash", "_vidense()"), ("zsh", "#compdef vidense"), ("fish", "# Print an optspec")] {
        let output = run(&["completions", shell]);
        assert_eq!((err(&output).as_str(), output.status.code()), ("", Some(0)));
        let script = out(&output);
        assert!(script.starts_with(begin), "{shell}: {}", script.lines().next().unwrap_or_default());
        assert!(script.contains("inspect") && script.contains("retry-failed"), "{shell}");
        assert!(!script.contains("decode-worker") && script.contains("version"), "{shell}");
    }
    assert_refused(&run(&["completions", "tcsh"]), "tcsh");
}

#[test]
fn every_visible_command_has_a_manual_page() {
    let page = out(&run(&["man"]));
    assert!(page.contains(".TH vidense 1") && page.contains("vidense\\-ask(1)"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let output = run(&["man", "--out", pages.to_str().unwrap()]);
    assert_eq!((err(&output).as_str(), output.status.code()), ("", Some(0)));
    for name in ["vidense.1", "vidense-ask.1", "vidense-batch.1", "vidense-batch-status.1", "vidense-man.1"] {
        assert!(pages.join(name).is_file(), "{name} is not in:\n{}", out(&output));
    }
    assert!(!pages.join("vidense-decode-worker.1").exists());
}

#[test]
fn a_damaged_video_is_answered_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(repository(VIDEO)).unwrap();
    let path = dir.path().join("damaged.mp4");
    let data = bytes.windows(4).position(|window| window == b"mdat").unwrap();
    let keep = data + 4 + (bytes.len() - data) / 2;
    let index_is_first = bytes.windows(4).position(|window| window == b"moov").unwrap() < data;
    if index_is_first {
        bytes.truncate(keep);
    } else {
        bytes[keep - 900..keep].fill(0xff);
    }
    std::fs::write(&path, &bytes).unwrap();
    let output = run(&["ask", "--model", MODEL, path.to_str().unwrap(), "What color is the circle?"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(out(&output), "purple\n");
    assert!(err(&output).contains("damaged") && err(&output).contains("packet(s) lost"), "{}", err(&output));
}

#[test]
fn help_names_every_flag_of_ask() {
    let help = out(&run(&["ask", "--help"]));
    for flag in [
        "--model",
        "--vision-tower",
        "--frames",
        "--sample",
        "--temporal",
        "--template",
        "--system",
        "--start",
        "--end",
        "--max-new-tokens",
        "--temperature",
        "--top-k",
        "--top-p",
        "--repetition-penalty",
        "--seed",
        "--device",
        "--dtype",
        "--json",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
    assert!(Path::new(env!("CARGO_BIN_EXE_vidense")).exists());
}

/// The most memory that a run of the binary held, in kB: the kernel's own high-water mark, looked at until the end.
#[cfg(target_os = "linux")]
fn peak_memory(arguments: &[&str]) -> u64 {
    let mut child = vidense().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(now.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_length_of_the_video() {
    let dir = tempfile::tempdir().unwrap();
    let clip = |seconds: u32| {
        let path = dir.path().join(format!("{seconds}.mp4"));
        let source = format!("testsrc2=size=320x240:rate=25:duration={seconds}");
        let encode = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
        let made =
            Command::new("ffmpeg").args(["-v", "error", "-f", "lavfi", "-i", &source]).args(encode).arg(&path).status();
        assert!(made.unwrap().success());
        path
    };
    let ask =
        |path: &Path| peak_memory(&["ask", "--model", MODEL, path.to_str().unwrap(), "Why?", "--max-new-tokens", "2"]);
    let (short, long) = (clip(10), clip(400));
    assert!(long.metadata().unwrap().len() > 30_000_000);
    let (short, long) = (ask(&short), ask(&long));
    // 36 MB more of video, 9,750 more frames of 230 kB each.
    assert!(long < short + 16_000, "{short} kB for 10 seconds, {long} kB for 400");
}

/// Returns the JSON object that a command prints.
fn object(arguments: &[&str]) -> serde_json::Value {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn bench_agreement_compares_with_f32_on_the_cpu() {
    let agreement = |arguments: &[&str]| {
        let question = ["bench", "agreement", VIDEO, "What color is the circle?", "--new", "12", "--device", "cpu"];
        let found = object(&[&question[..], arguments].concat());
        assert_eq!((found["tokens"].as_u64(), found["reference"].as_str()), (Some(12), Some("f32 on cpu")), "{found}");
        assert!(found["equal_ids"].as_u64() <= Some(12) && found["equal_next_ids"].as_u64() <= Some(12), "{found}");
        (found["mean_kl"].as_f64().unwrap(), found)
    };
    let (kl, same) = agreement(&["--dtype", "f32"]);
    assert_eq!((kl, same["tested"].as_str()), (0.0, Some("f32 on cpu")));
    assert_eq!((same["equal_ids"].as_u64(), same["equal_next_ids"].as_u64()), (Some(12), Some(12)));
    let (kl, quantized) = agreement(&["--dtype", "f32", "--", "--quant", "q8_0", "--temporal", "concat"]);
    assert_eq!(quantized["quantization"], "q8_0");
    assert!(kl > 0.0 && kl < 0.1, "{quantized}");
    let (kl, half) = agreement(&["--dtype", "bf16"]);
    assert_eq!(half["tested"], "bf16 on cpu");
    assert!(kl > 0.0 && kl < 0.5, "{half}");
    assert_refused(&run(&["bench", "agreement", "nothing.mp4"]), "nothing.mp4: no such file");
    assert_refused(&run(&["bench", "agreement", VIDEO, "--", "--quant", "q9"]), "q9");
    for flag in ["--max-new-tokens", "--top-k", "--seed"] {
        assert_refused(&run(&["bench", "agreement", VIDEO, "--", flag, "5"]), &format!("{flag}: not used; hint: "));
    }
}

#[test]
fn bench_reads_the_frames_that_are_sampled_and_asks_as_ask_does() {
    let decode = object(&["bench", "decode", VIDEO, "--frames", "3", "--runs", "1"]);
    let asked = object(&["ask", VIDEO, "What color is the circle?", "--frames", "3", "--json"]);
    let frames = asked["frames"].as_array().unwrap();
    let indices: Vec<_> = frames.iter().map(|frame| frame["index"].clone()).collect();
    assert_eq!(decode["indices"].as_array().unwrap(), &indices);
    assert!(decode["seconds"].as_f64().unwrap() > 0.0 && decode["mean_rgb"].as_array().unwrap().len() == 3);
    let flags = ["--runs", "1", "--device", "cpu", "--dtype", "f32", "--", "--model", MODEL];
    let ask = object(&[&["bench", "ask", VIDEO, "What color is the circle?"][..], &flags].concat());
    assert_refused(&run(&["bench", "ask", VIDEO, "--runs", "1", "--dtype", "f8"]), "unknown precision `f8`");
    assert_eq!((ask["answer_tokens"].as_u64(), ask["runs"].as_u64()), (Some(2), Some(1)));
    assert!(ask["seconds"].as_f64().unwrap() * 1000.0 >= ask["timings_ms"]["total"].as_f64().unwrap());
    assert_refused(&run(&["bench", "ask", "nothing.mp4", "--runs", "1"]), "nothing.mp4: no such file");
    assert_refused(&run(&["bench", "decode", "nothing.mp4", "--runs", "1"]), "nothing.mp4: no such file");
    assert_refused(&run(&["bench", "decode", VIDEO, "--runs", "0"]), "0 is not in 1..");
    assert_refused(&run(&["bench", "decode", VIDEO, "--runs", "18446744073709551615"]), "too large");
    assert_refused(&run(&["bench", "decode", VIDEO, "--threads", "65"]), "65 is not in 0..=64");
    assert_refused(&run(&["bench", "ask", VIDEO, "--runs", "1", "--", "--json"]), "--json: already given");
    assert_refused(&run(&["bench", "ask", VIDEO, "--runs", "1", "--", "--help"]), "printed no answer as JSON");
}

#[test]
fn bench_runs_a_pipeline_over_videos() {
    let pipeline = repository("pipelines/mini.yaml");
    let pipeline = pipeline.to_str().unwrap();
    let question = "What color is the circle?";
    let flags = ["--device", "cpu", "--dtype", "f32", "--batch", "2", "--sequences", "1", "--runs", "1"];
    let output =
        run(&[&["bench", "run", pipeline, VIDEO, VIDEO, "-q", question, "-q", "Describe."][..], &flags].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let bench: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((bench["videos"].as_u64(), bench["answers"].as_u64()), (Some(1), Some(4)), "{bench}");
    assert!(bench["answer_tokens"].as_u64().unwrap() >= 8 && bench["tokens_per_second"].as_f64().unwrap() > 0.0);
    let refused = run(&["bench", "run", pipeline, "nothing.mp4", "-q", question, "--runs", "1"]);
    assert_refused(&refused, "nothing.mp4: no such file");
}

#[test]
fn timings_tell_what_the_engine_did() {
    let pipeline = repository("pipelines/mini.yaml");
    let pipeline = pipeline.to_str().unwrap();
    let questions = ["-q", "What color is the circle?", "-q", "How many objects are there?"];
    let arguments = ["run", pipeline, VIDEO, "--timings", "--kv-memory", "16MiB"];
    let output = run(&[&arguments[..], &questions[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let told = err(&output);
    let line = told.lines().find(|line| line.starts_with("engine: ")).expect("a line about the engine");
    assert!(line.contains("4 tokens in ") && line.contains("most 2 running"), "{line}");
    assert!(line.contains(" of 16.0 MiB key-value memory") && !line.contains(" and 0 shared"), "{line}");
}

#[test]
fn answers_are_the_same_at_every_number_of_threads() {
    for flags in [&[][..], &["--quant", "q8_0"], &["--temporal", "concat", "--frames", "4"]] {
        let answers: Vec<serde_json::Value> = ["1", "2", "5", "16"]
            .map(|threads| {
                let arguments = [&["ask", VIDEO, "Describe the video.", "--json"], flags].concat();
                let output = vidense().args(arguments).env("RAYON_NUM_THREADS", threads).output().unwrap();
                serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["token_ids"].clone()
            })
            .into();
        assert!(answers[0].as_array().unwrap().len() > 2, "{flags:?}: {:?}", answers[0]);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{flags:?}: {answers:?}");
    }
}
