//! Files of the binary's user: videos that a batch takes from a folder, locations of outputs, messages about mistaken
//! files.

use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{ffmpeg, repository};

/// The binary in a directory of its own, with a hub that nobody can reach: whoever asks it fails in another way than is
/// expected.
fn vidense(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command.current_dir(dir).env_remove("VIDENSE_MODELS").env_remove("HF_HUB_OFFLINE").stdin(Stdio::null());
    command
        .env("HF_HOME", dir.join("hub"))
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("VIDENSE_CACHE", dir.join("cache"));
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    vidense(dir).args(arguments).output().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asks one question of every video of `archive`; returns the names that were answered about, and the summary.
fn batch(dir: &Path, archive: &str, flags: &[&str]) -> (Vec<String>, Value, Output) {
    let pipeline = repository("pipelines/mini.yaml");
    let mut command = vidense(dir);
    command.args([
        "batch",
        pipeline.to_str().unwrap(),
        archive,
        "--out",
        "results",
        "--set",
        "sample.uniform.frames=1",
    ]);
    let output = command.args(flags).output().unwrap();
    let text = std::fs::read_to_string(dir.join("results/answers.jsonl"))
        .unwrap_or_else(|error| panic!("{error}: {}", err(&output)));
    let records = text.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
    let answered = records.filter(|record| record["answer"].is_string());
    let mut names: Vec<String> = answered.map(|record| record["video"].as_str().unwrap().to_owned()).collect();
    names.sort();
    let summary = std::fs::read(dir.join("results/summary.json")).unwrap();
    (names, serde_json::from_slice(&summary).unwrap(), output)
}

const SOURCE: &str = "-f lavfi -i testsrc=size=64x48:rate=25:duration=0.2";

/// A table of a time zone (Africa/Gaborone, IANA), which FFmpeg takes for a picture of H.263.
const TIME_ZONE: &str = "VFppZjIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAABAAAABKAAAAAgkbPaM6OboDPflFwAQIDAgAAGEwAAAAAFRgA\
    BAAAHCAACQAAKjABDUxNVABTQVNUAENBVABDQVNUAFRaaWYyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAAAAAQAAAAS\
    /////2AfcDT/////gkbPaP/////Ojm6A/////89+UXABAgMCAAAYTAAAAAAVGAAEAAAcIAAJAAAqMAENTE1UAFNBU1QAQ0FUAENB\
    U1QACkNBVC0yCg==";

/// A clip, copied to a name of the test's choice.
fn clip(arguments: &str, to: PathBuf) {
    std::fs::copy(ffmpeg(arguments).path, to).unwrap();
}

#[test]
fn a_folder_gives_every_video_by_its_name_or_its_content_and_tells_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join("archive").join(name);
    std::fs::create_dir_all(at("below")).unwrap();
    clip(&format!("{SOURCE} -c:v mpeg2video -f vob a.vob"), at("DVD.VOB"));
    clip(&format!("{SOURCE} -pix_fmt yuv420p a.y4m"), at("raw.y4m"));
    clip(&format!("{SOURCE} -c:v libx264 -pix_fmt yuv420p -f h264 a.264"), at("camera.264"));
    clip(&format!("{SOURCE} -c:v libx264 -pix_fmt yuv420p a.m2ts"), at("below/tape.m2ts"));
    // Names that say nothing.
    clip(&format!("{SOURCE} -c:v libx264 -pix_fmt yuv420p a.mp4"), at("no-ending"));
    clip(&format!("{SOURCE} -c:v libx264 -pix_fmt yuv420p a.mkv"), at("talk.2019"));
    clip(&format!("{SOURCE} -c:v mpeg2video -f mpegts a.ts"), at("tape.bak"));
    clip(&format!("{SOURCE} -c:v mpeg2video -f vob a.vob"), at("AVSEQ01.DAT"));
    clip(&format!("{SOURCE} -c:v flv a.flv"), at("stream"));
    let sound = "-f lavfi -i sine=duration=0.2";
    for (arguments, name) in
        [("-c:a aac a.mp4", "sound"), ("a.wav", "sound2"), ("-c:a mp2 -f mpegts a.ts", "radio.xyz")]
    {
        clip(&format!("{sound} {arguments}"), at(name));
    }
    clip(
        &format!("{sound} {SOURCE} -map 0 -map 1 -c:a aac -c:v mjpeg -frames:v 1 -disposition:v attached_pic a.m4a"),
        at("song"),
    );
    clip(&format!("{SOURCE} -frames:v 1 a.png"), at("picture"));
    clip(&format!("{SOURCE} -frames:v 1 a.jpg"), at("side.JPG"));
    std::fs::write(at("LICENSE"), "text\n".repeat(2000)).unwrap();
    std::fs::write(at("module.ts"), "export const a = 1;\n").unwrap();
    std::fs::write(at("notes.txt"), "text").unwrap();
    std::fs::write(at("video.mp4.part"), "half").unwrap();
    std::fs::write(at(".hidden.mp4"), "x").unwrap();
    std::fs::write(at("nothing"), "").unwrap();
    let zone = base64::engine::general_purpose::STANDARD.decode(TIME_ZONE).unwrap();
    std::fs::write(at("zone"), zone).unwrap();
    std::fs::write(
        at("noise"),
        (0u32..4000).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect::<Vec<u8>>(),
    )
    .unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    symlink("..", at("below/loop")).unwrap();
    let (names, summary, output) = batch(dir.path(), "archive", &["-q", "What is there?"]);
    let expected = [
        "AVSEQ01.DAT",
        "DVD.VOB",
        "below/tape.m2ts",
        "camera.264",
        "no-ending",
        "raw.y4m",
        "stream",
        "talk.2019",
        "tape.bak",
    ];
    assert_eq!(names, expected, "{}", err(&output));
    // The loop alone has failed.
    assert_eq!((output.status.code(), &summary["results"]["failed"]), (Some(1), &1.into()), "{}", err(&output));
    let passed = &summary["session"]["passed_over"];
    for (reason, files) in [
        ("audio", &["radio.xyz", "song", "sound", "sound2"][..]),
        ("image", &["picture", "side.JPG"]),
        ("text", &["LICENSE", "module.ts", "notes.txt"]),
        ("unfinished", &["video.mp4.part"]),
        ("hidden", &[".hidden.mp4"]),
        ("empty", &["nothing"]),
        ("unknown", &["noise", "zone"]),
        ("not_regular", &["pipe"]),
    ] {
        assert_eq!(passed[reason]["files"], files.len(), "{reason}: {passed}");
        let examples: Vec<Value> = files.iter().take(3).map(|&name| name.into()).collect();
        assert_eq!(passed[reason]["examples"], Value::from(examples), "{reason}");
    }
    let told = err(&output);
    assert!(told.contains("passed over: 3 text file(s) (LICENSE, module.ts, notes.txt)"), "{told}");
    assert!(told.contains("passed over: 4 audio file(s) (radio.xyz, song, sound, ...)"), "{told}");
    let page = std::fs::read_to_string(dir.path().join("results/report.html")).unwrap();
    assert!(page.contains("<li>2 image: picture, side.JPG</li>"));
}

#[test]
fn a_folder_of_very_many_other_files_is_listed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("archive")).unwrap();
    for i in 0..5000 {
        let ending = [".jpg", "", ".xyz", ".json", ".srt"][i % 5];
        std::fs::write(dir.path().join(format!("archive/{i}{ending}")), "side").unwrap();
    }
    let (names, summary, output) = batch(dir.path(), "archive", &["-q", "Why?", "--log", "json"]);
    assert!(names.is_empty() && output.status.success(), "{}", err(&output));
    let files = |reason: &str| summary["session"]["passed_over"][reason]["files"].as_u64().unwrap();
    assert_eq!((files("image"), files("text")), (1000, 4000));
    let last = err(&output)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .rfind(|line| line["complete"] == true);
    assert_eq!(last.unwrap()["passed_over"], 5000);
}

#[test]
fn numbers_as_ids_reach_the_answers_from_every_format() {
    let big = "340282366920938463463374607431768211456";
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(repository("samples/three_shapes.mp4"), dir.path().join("a.mp4")).unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("m.jsonl", format!("{{\"video\":\"a.mp4\",\"question\":\"x?\",\"question_id\":{big}}}\n"));
    write("m.json", format!("[\n  {{\"video\": \"a.mp4\", \"question\": \"x?\", \"question_id\": {big}}}\n]\n"));
    write("m.csv", format!("\u{feff}video;question;question_id\r\na.mp4;\"x?\";{big}\r\n"));
    write("m.tsv", format!("question_id\tvideo\tquestion\n{big}\ta.mp4\tx?\n"));
    write("m.txt", "a.mp4\n".to_owned());
    write("q.yaml", format!("- id: {big}\n  question: x?\n"));
    write("q.json", format!("[{{\"id\": {big}, \"question\": \"x?\"}}]"));
    write("q.csv", format!("id;question\n{big};x?\n"));
    for (manifest, questions) in [
        ("m.jsonl", None),
        ("m.json", None),
        ("m.csv", None),
        ("m.tsv", None),
        ("m.txt", Some("q.yaml")),
        ("m.txt", Some("q.json")),
        ("m.txt", Some("q.csv")),
    ] {
        let flags = questions.map_or(Vec::new(), |file| vec!["--questions", file]);
        let (names, _, output) = batch(dir.path(), manifest, &flags);
        assert_eq!(names, ["a.mp4"], "{manifest} {questions:?}: {}", err(&output));
        let text = std::fs::read_to_string(dir.path().join("results/answers.jsonl")).unwrap();
        assert!(text.contains(&format!("\"question_id\":\"{big}\"")), "{manifest} {questions:?}: {text}");
        std::fs::remove_dir_all(dir.path().join("results")).unwrap();
    }
    write("one.json", "{\n\"video\": \"a.mp4\"\n}".to_owned());
    let pipeline = repository("pipelines/mini.yaml");
    let refused = run(dir.path(), &["batch", pipeline.to_str().unwrap(), "one.json", "--out", "results", "-q", "x?"]);
    assert!(
        err(&refused).contains("one.json: a single JSON object, not a list; hint: an array of objects"),
        "{}",
        err(&refused)
    );
    // Questions with the answers that are wanted.
    write("e.csv", format!("question_id;video;question;answer\n{big};a.mp4;What color is the circle?;purple\n"));
    let output = run(dir.path(), &["eval", "e.csv", "--answers", "given.jsonl"]);
    assert!(output.status.success(), "{}", err(&output));
    let given: Value = serde_json::from_slice(&std::fs::read(dir.path().join("given.jsonl")).unwrap()).unwrap();
    assert_eq!((&given["question_id"], &given["given"]), (&big.into(), &"purple".into()));
}

#[test]
fn outputs_are_written_through_links_and_never_over_what_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("real")).unwrap();
    let video = repository("samples/three_shapes.mp4");
    let frames =
        |flags: &[&str]| run(dir.path(), &[&["frames", video.to_str().unwrap(), "--frames", "2"], flags].concat());
    symlink("real/sheet.png", at("sheet.png")).unwrap();
    symlink("real/pngs", at("pngs")).unwrap();
    assert!(frames(&["--sheet", "sheet.png"]).status.success());
    assert!(frames(&["--out", "pngs"]).status.success());
    assert!(at("sheet.png").is_symlink() && image::open(at("real/sheet.png")).is_ok());
    assert!(at("pngs").is_symlink() && std::fs::read_dir(at("real/pngs")).unwrap().count() == 2);

    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    for (name, what) in [("pipe", "a pipe that nobody reads"), ("real", "a directory")] {
        for arguments in [
            &["frames", video.to_str().unwrap(), "--sheet", name][..],
            &["run", "p.yaml", "v.mp4", "-q", "?", "--trace", name],
        ] {
            if arguments[0] == "run" {
                std::fs::copy(repository("pipelines/mini.yaml"), at("p.yaml")).unwrap();
                std::fs::copy(&video, at("v.mp4")).unwrap();
            }
            let output = run(dir.path(), arguments);
            assert_eq!(output.status.code(), Some(2), "{}", err(&output));
            assert!(
                err(&output).contains(&format!("{what} cannot be written to; hint: name a file")),
                "{}",
                err(&output)
            );
        }
    }
    assert!(std::fs::symlink_metadata(at("pipe")).unwrap().file_type().is_fifo());
    assert!(frames(&["--sheet", "/dev/null"]).status.success());
    assert!(std::fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
    // The picture alone, with nothing behind it.
    let piped = frames(&["--sheet", "/dev/stdout"]).stdout;
    assert_eq!(piped, std::fs::read(at("real/sheet.png")).unwrap());

    // A batch's results, and a table of them.
    symlink("real/results", at("results")).unwrap();
    std::fs::create_dir(at("archive")).unwrap();
    std::fs::copy(&video, at("archive/a.mp4")).unwrap();
    let (names, _, output) = batch(dir.path(), "archive", &["-q", "Why?"]);
    assert_eq!(names, ["a.mp4"], "{}", err(&output));
    assert!(at("results").is_symlink() && at("real/results/answers.jsonl").is_file());
    std::fs::rename(at("real/results/report.html"), at("real/page.html")).unwrap();
    symlink("../page.html", at("real/results/report.html")).unwrap();
    std::fs::write(at("real/page.html"), "old").unwrap();
    assert!(run(dir.path(), &["results", "report", "results"]).status.success());
    assert!(at("real/results/report.html").is_symlink());
    assert!(std::fs::read_to_string(at("real/page.html")).unwrap().contains("a.mp4"));
    for format in ["csv", "parquet"] {
        symlink(format!("real/table.{format}"), at(&format!("t.{format}"))).unwrap();
        assert!(run(dir.path(), &["results", "export", "results", "--out", &format!("t.{format}")]).status.success());
        assert!(at(&format!("t.{format}")).is_symlink() && at(&format!("real/table.{format}")).is_file());
    }
    std::fs::remove_file(at("real/results/answers.jsonl")).unwrap();
    assert!(Command::new("mkfifo").arg(at("real/results/answers.jsonl")).status().unwrap().success());
    let refused = run(dir.path(), &["results", "report", "results"]);
    assert!(err(&refused).contains("not a regular file"), "{}", err(&refused));
}

/// A directory with files that are often mistaken for videos or models.
fn mistaken() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    write("lfs.mp4", pointer);
    write("page.mp4", b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n");
    write("packed.mp4", b"PK\x03\x04\x14\0\0\0\x08\0");
    write("packed.mkv", b"\x1f\x8b\x08\0\0\0\0\0");
    write("empty.mp4", b"");
    write("half.mp4.part", &[&b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"[..], &b"\0\0\xff\xffmdat"[..], &[7; 500]].concat());
    write("model.gguf", b"GGUF\x03\0\0\0");
    write("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      ");
    let whole = std::fs::read(ffmpeg(&format!("{SOURCE} -c:v libx264 -pix_fmt yuv420p a.mp4")).path).unwrap();
    let moov = whole.windows(4).position(|word| word == b"moov").unwrap() - 4;
    write("unfinished.mp4", &whole[..moov]);
    for (name, files) in
        [("lora", &["adapter_config.json", "adapter_model.safetensors"][..]), ("videos", &["a.mp4"]), ("none", &[])]
    {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        files.iter().for_each(|file| write(&format!("{name}/{file}"), b"{\"base_model_name_or_path\": \"org/base\"}"));
    }
    for (name, file) in
        [("lfs-weights", "model.safetensors"), ("lfs-config", "config.json"), ("lfs-tokenizer", "tokenizer.json")]
    {
        let to = dir.path().join(name);
        std::fs::create_dir(&to).unwrap();
        for from in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(repository("samples/mini").join(from), to.join(from)).unwrap();
        }
        std::fs::create_dir(to.join("vision_tower")).unwrap();
        for from in ["config.json", "model.safetensors", "preprocessor_config.json"] {
            let from = Path::new("vision_tower").join(from);
            std::fs::copy(repository("samples/mini").join(&from), to.join(&from)).unwrap();
        }
        write(&format!("{name}/{file}"), pointer);
    }
    dir
}

#[test]
fn what_is_not_a_video_is_called_what_it_is() {
    let dir = mistaken();
    for (video, message) in [
        ("lfs.mp4", "a Git LFS pointer, not the file itself; hint: `git lfs pull`"),
        ("page.mp4", "a web page (HTML), not the file itself; hint: download the file"),
        ("packed.mp4", "a ZIP archive; hint: unpack it"),
        ("packed.mkv", "a gzip file; hint: unpack it"),
        ("empty.mp4", "the file is empty (0 bytes)"),
        ("half.mp4.part", "without its index (no moov box)"),
        ("unfinished.mp4", "an MP4 or QuickTime file without its index (no moov box); hint: an unfinished recording"),
        ("videos", "no image in this directory; hint: it holds videos: name one, such as videos/a.mp4"),
        ("none", "no image in this directory; hint: it takes png"),
        ("lora", "hint: "),
        ("gone/a.mp4", "no such file or directory"),
        ("https://example.org/a.mp4", "a URL, which is not fetched; hint: download it first"),
    ] {
        for arguments in [&["inspect", video][..], &["ask", video, "Why?"], &["frames", video]] {
            // What `inspect` is given may be a model too.
            if arguments[0] == "inspect" && video == "lora" {
                continue;
            }
            let output = run(dir.path(), arguments);
            assert_eq!(output.status.code(), Some(2), "{video}: {}", err(&output));
            let told = err(&output);
            assert!(told.starts_with(&format!("error: {video}: ")) && told.contains(message), "{arguments:?}: {told}");
            assert!(!told.contains("download failed") && !told.contains("127.0.0.1"), "{told}");
        }
    }
}

#[test]
fn what_is_not_a_model_is_called_what_it_is_and_not_looked_for_in_the_network() {
    let dir = mistaken();
    for (model, message) in [
        (
            "lora",
            "lora: an adapter (adapter_config.json), which is not applied; hint: merge it into its base model `org/base` first",
        ),
        ("model.gguf", "model.gguf: a file, not a model's directory; hint: a GGUF file is named with --llm"),
        ("model.safetensors", "model.safetensors: a file, not a model's directory; hint: its directory, ."),
        ("models/gone.gguf", "models/gone.gguf: no such file or directory; hint: a model is named by its directory"),
        ("none/gone", "none/gone: no such file or directory; hint: `none` is a directory, so this is a path"),
        ("./gone", "./gone: no such directory, and not a hub id"),
        ("org\\name", "org\\name: no such directory, and not a hub id"),
        ("https://huggingface.co/org/name", "a URL, which is not fetched; hint: the hub id alone: org/name"),
        ("videos", "videos: not a model: no config.json here"),
        ("lfs-weights", "lfs-weights/model.safetensors: not a readable safetensors file: a Git LFS pointer"),
        ("lfs-config", "lfs-config/config.json: a Git LFS pointer, not the file itself; hint: `git lfs pull`"),
        ("lfs-tokenizer", "lfs-tokenizer/tokenizer.json: a Git LFS pointer, not the file itself"),
    ] {
        let video = repository("samples/three_shapes.mp4");
        let output = run(dir.path(), &["ask", video.to_str().unwrap(), "Why?", "--model", model]);
        assert_eq!(output.status.code(), Some(2), "{model}: {}", err(&output));
        assert!(err(&output).contains(message), "{model}: {}", err(&output));
        assert!(!err(&output).contains("download failed"), "{model}: {}", err(&output));
    }
    // A hub id is one still, and is looked for where the hub is.
    let video = repository("samples/three_shapes.mp4");
    let output = run(dir.path(), &["ask", video.to_str().unwrap(), "Why?", "--model", "org/name"]);
    assert!(err(&output).contains("org/name: the download failed"), "{}", err(&output));
    let output = run(dir.path(), &["inspect", "lora"]);
    assert!(err(&output).contains("an adapter (adapter_config.json)"), "{}", err(&output));
}

#[test]
fn names_are_printable_wherever_they_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let odd = "a\x1b[31m\nerror: b\u{202e}4pm.mp4";
    let shown = "a\\x1b[31m\\nerror: b\\u{202e}4pm.mp4";
    let printable = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
        text
    };
    let pipeline = repository("pipelines/mini.yaml");
    let pipeline = pipeline.to_str().unwrap();
    for arguments in [
        &["inspect", odd][..],
        &["ask", odd, "Why?"],
        &["frames", odd],
        &["run", pipeline, odd, odd, "-q", "Why?"],
        &["batch", pipeline, odd, "--out", "results", "-q", "Why?"],
        &["ask", "a.mp4", "Why?", "--model", odd],
        &["ask", "a.mp4", "Why?", odd],
        &["eval", odd],
    ] {
        let output = run(dir.path(), arguments);
        assert!(!output.status.success());
        let told = printable(&output.stderr);
        let is_told = told.contains(shown) || arguments.contains(&"--model");
        assert!(is_told && !told.lines().any(|line| line.starts_with("error: b")), "{arguments:?}: {told}");
    }
    std::fs::create_dir(dir.path().join("archive")).unwrap();
    std::fs::copy(repository("samples/three_shapes.mp4"), dir.path().join("archive").join(odd)).unwrap();
    std::fs::write(dir.path().join("archive").join(odd.replace("4pm", "txt").replace(".mp4", ".txt")), "x").unwrap();
    let (names, _, output) = batch(dir.path(), "archive", &["-q", "Why?"]);
    assert_eq!(names, [odd]);
    printable(&output.stderr);
    let path = format!("archive/{odd}");
    printable(&run(dir.path(), &["inspect", &path]).stdout);
    printable(&run(dir.path(), &["run", pipeline, &path, &path, "-q", "Why?"]).stdout);
    let asked = run(dir.path(), &["ask", &path, "Why?", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&asked.stdout).unwrap()["video"], path);
}
