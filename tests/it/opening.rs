//! Opening of unusual inputs: playlists without end, segments or sense; names that look like patterns; covers; several
//! video streams. Reads that may block run in a process of their own, with a deadline.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use vidense::error::Error;
use vidense::video::{
    Access, Bounds, Flow, Frame, FrameRequest, Halt, Patience, ReadLimits, ReadReport, Sample, Window, probe,
    read_frames,
};

use crate::harness::{Clip, ffmpeg, read_video, repository};

/// Longer than anything here takes, shorter than patience.
const DEADLINE: Duration = Duration::from_secs(60);

fn vidense(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command.current_dir(repository("")).args(arguments).env("HF_HUB_OFFLINE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a process, and fails with it if it does not end.
fn finish(mut child: Child, deadline: Duration) -> Output {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > deadline {
            child.kill().unwrap();
            panic!("it hangs: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// Exit code, standard output and standard error of a command that ends.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = finish(vidense(arguments).spawn().unwrap(), DEADLINE);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn inspect(path: &Path) -> (Option<i32>, String, String) {
    run(&["inspect", path.to_str().unwrap()])
}

fn read(path: &Path, request: &FrameRequest, access: Access) -> Result<(Vec<Frame>, ReadReport), Error> {
    read_video(path, request, &ReadLimits { access, ..ReadLimits::default() })
}

fn everything() -> FrameRequest {
    FrameRequest::new(Sample::All, Window::default())
}

const SOURCE: &str = "-f lavfi -i testsrc=size=64x48:rate=10:duration=4 -c:v libx264 -preset ultrafast -g 10";

/// Four segments of ten frames each: `p0.ts` to `p3.ts`.
fn hls() -> Clip {
    ffmpeg(&format!("{SOURCE} -f hls -hls_time 1 -hls_list_size 0 p.m3u8"))
}

/// Four segments of ten frames each: `chunk-stream0-00001.m4s` and so on.
fn dash() -> Clip {
    ffmpeg(&format!("{SOURCE} -f dash -seg_duration 1 -use_template 1 -use_timeline 1 p.mpd"))
}

/// Writes the playlist with some words replaced, beside it.
fn replaced(clip: &Clip, pairs: &[(&str, &str)]) -> std::path::PathBuf {
    let mut text = std::fs::read_to_string(&clip.path).unwrap();
    for (old, new) in pairs {
        assert!(text.contains(old), "{old} is not in {text}");
        text = text.replace(old, new);
    }
    let path = clip.path.with_file_name("other").with_extension(clip.path.extension().unwrap());
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_playlist_without_an_end_is_read_as_far_as_it_goes() {
    let clip = hls();
    let unfinished = replaced(&clip, &[("#EXT-X-ENDLIST", "")]);
    let (code, out, err) = inspect(&unfinished);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("40 decode"), "{out}");
    // The frames are those of the finished one, from its first segment on.
    let frames = |path: &Path| read(path, &everything(), Access::Auto).unwrap().0;
    let (found, expected) = (frames(&unfinished), frames(&clip.path));
    assert!(found.iter().zip(&expected).all(|(a, b)| (a.time, &a.image) == (b.time, &b.image)));
    // Behind a list of variants as well.
    let variants = clip.path.with_file_name("variants.m3u8");
    std::fs::write(&variants, "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nother.m3u8\n").unwrap();
    assert!(inspect(&variants).1.contains("40 decode"));

    let clip = dash();
    let live = replaced(&clip, &[("type=\"static\"", "type=\"dynamic\"")]);
    assert!(inspect(&live).1.contains("40 decode"));
    let nothing_listed = replaced(
        &clip,
        &[
            ("type=\"static\"", "type=\"dynamic\""),
            ("SegmentTimeline", "Other"),
            ("mediaPresentationDuration", "other"),
        ],
    );
    let (code, _, err) = inspect(&nothing_listed);
    assert!(code == Some(2) && err.contains("live DASH manifest"), "{err}");
}

#[test]
fn missing_segments_are_told_and_counted() {
    let (hls, dash) = (hls(), dash());
    for place in 0..4 {
        let name = format!("p{place}.ts");
        let playlist = replaced(&hls, &[(&name, "gone.ts")]);
        let (frames, report) = read(&playlist, &everything(), Access::Auto).unwrap();
        assert_eq!((frames.len(), report.damage.n_missing), (30, 1), "{name}");
        assert_eq!(report.damage.first.as_deref(), Some("gone.ts: no such file"), "{name}");

        let name = format!("chunk-stream0-0000{}.m4s", place + 1);
        let (segment, aside) = (dash.path.with_file_name(&name), dash.path.with_file_name("aside"));
        std::fs::rename(&segment, &aside).unwrap();
        let (frames, report) = read(&dash.path, &everything(), Access::Auto).unwrap();
        assert_eq!((frames.len(), report.damage.n_missing), (30, 1), "{name}");
        assert_eq!(report.damage.first, Some(format!("{name}: no such file")));
        std::fs::rename(&aside, &segment).unwrap();
    }
    let (code, _, err) = inspect(&replaced(&hls, &[("p1.ts", "gone.ts"), ("p2.ts", "away.ts")]));
    assert_eq!(code, Some(0));
    assert!(err.contains("2 file(s) of the playlist missing") && err.contains("gone.ts: no such file"), "{err}");
    assert_eq!(read(&hls.path, &everything(), Access::Auto).unwrap().1.damage.n_missing, 0);
}

#[cfg(unix)]
#[test]
fn what_a_playlist_names_is_a_file_or_is_not_opened() {
    let clip = hls();
    let dir = clip.path.parent().unwrap();
    assert!(Command::new("mkfifo").arg(dir.join("pipe.ts")).status().unwrap().success());
    std::fs::create_dir(dir.join("folder.ts")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.join("device.ts")).unwrap();
    for (name, cause) in [
        ("pipe.ts", "pipe.ts: not a regular file"),
        ("folder.ts", "folder.ts: a directory"),
        ("device.ts", "device.ts: not a regular file"),
        ("http://localhost:9/a.ts", "a.ts: not a local file"),
    ] {
        let (code, out, err) = inspect(&replaced(&clip, &[("p1.ts", name)]));
        assert!(code == Some(0) && out.contains("30 decode") && err.contains(cause), "{name}: {out}{err}");
    }
    // Others open their files past FFmpeg's callback: such a file refuses the whole.
    let script = dir.join("a.ffconcat");
    std::fs::write(&script, "ffconcat version 1.0\nfile p0.ts\nfile pipe.ts\n").unwrap();
    let (code, _, err) = inspect(&script);
    assert!(code == Some(2) && err.contains("pipe.ts: not a regular file"), "{err}");
    std::fs::write(&script, "ffconcat version 1.0\nfile p0.ts\nfile p2.ts\n").unwrap();
    assert!(inspect(&script).1.contains("20 decode"));
    let dash = dash();
    let segment = dash.path.with_file_name("chunk-stream0-00002.m4s");
    std::fs::remove_file(&segment).unwrap();
    assert!(Command::new("mkfifo").arg(&segment).status().unwrap().success());
    let (code, _, err) = inspect(&dash.path);
    assert!(code == Some(2) && err.contains("chunk-stream0-00002.m4s: not a regular file"), "{err}");
}

#[test]
fn a_playlist_that_leads_to_itself_ends() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=2\na.m3u8\n");
    write("b.m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nc.m3u8\n");
    write("c.m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nb.m3u8\n");
    write("d.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nd.m3u8\n");
    write("e.ffconcat", "ffconcat version 1.0\nfile e.ffconcat\n");
    for name in ["a.m3u8", "b.m3u8", "d.m3u8", "e.ffconcat"] {
        let (code, _, err) = inspect(&dir.path().join(name));
        assert!(code == Some(2) && err.contains(name), "{name}: {err}");
    }
}

/// A playlist of one segment many times over: it takes long to read, and little to make.
fn long_playlist() -> Clip {
    let clip = hls();
    let segment = "#EXT-X-DISCONTINUITY\n#EXTINF:1.0,\np0.ts\n".repeat(60_000);
    let text = format!("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n{segment}#EXT-X-ENDLIST\n");
    std::fs::write(&clip.path, text).unwrap();
    clip
}

#[cfg(unix)]
#[test]
#[ignore = "slow"]
fn a_signal_ends_whatever_is_read() {
    let clip = long_playlist();
    let video = clip.path.to_str().unwrap();
    let out = clip.path.with_file_name("out");
    let out = out.to_str().unwrap();
    let pipeline = "pipelines/mini.yaml";
    for (arguments, n_signals) in [
        (&["inspect", video][..], 1),
        (&["frames", video, "--out", out], 1),
        (&["ask", video, "Why?"], 1),
        (&["chat", video], 1),
        (&["bench", "decode", video], 1),
        // The first asks for what is under way to be finished.
        (&["run", pipeline, video, "-q", "Why?"], 2),
        (&["run", pipeline, video, "-q", "Why?", "--isolate"], 2),
    ] {
        for signal in ["-TERM", "-INT"] {
            let mut child = vidense(arguments).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(700));
            assert!(child.try_wait().unwrap().is_none(), "{arguments:?}: it ended too early to be stopped");
            let kill = || Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
            for _ in 0..n_signals {
                assert!(kill().success());
                std::thread::sleep(Duration::from_millis(200));
            }
            let begin = Instant::now();
            let output = finish(child, DEADLINE);
            assert!(!output.status.success(), "{arguments:?}");
            // A second, and what a busy machine adds.
            assert!(begin.elapsed() < Duration::from_secs(5), "{arguments:?}: {:?}", begin.elapsed());
        }
    }
}

/// Waits until a process has started another one.
#[cfg(target_os = "linux")]
fn wait_for_children(id: u32) {
    let has_children = || {
        let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
        let children = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")));
        children.flatten().any(|ids| !ids.is_empty())
    };
    let begin = Instant::now();
    while !has_children() {
        assert!(begin.elapsed() < DEADLINE, "no process was started");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn one_signal_ends_a_run_whose_decoder_waits() {
    let dir = tempfile::tempdir().unwrap();
    let video = dir.path().join("waits.mp4");
    std::fs::copy(repository("samples/three_shapes.mp4"), &video).unwrap();
    let (video, out) = (video.to_str().unwrap(), dir.path().join("out"));
    for (arguments, words) in [
        (&["run", "pipelines/mini.yaml", video, "-q", "Why?", "--isolate"][..], "1 of 1 videos were not processed"),
        (
            &["batch", "pipelines/mini.yaml", video, "-q", "Why?", "--no-cache", "--out", out.to_str().unwrap()],
            "stopped before",
        ),
    ] {
        let child = vidense(arguments).env("VIDENSE_FAULT", "hang=waits.mp4").spawn().unwrap();
        wait_for_children(child.id());
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        let begin = Instant::now();
        let output = finish(child, DEADLINE);
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "{arguments:?}: {:?}", begin.elapsed());
        // Neither looked at nor failed: the next run takes it.
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(words), "{err}");
    }
    assert!(!std::fs::read_to_string(out.join("answers.jsonl")).unwrap_or_default().contains("waits.mp4"));
}

#[test]
fn a_call_of_ffmpeg_that_does_not_return_ends_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let video = dir.path().join("loops.mp4");
    std::fs::copy(repository("samples/three_shapes.mp4"), &video).unwrap();
    let (video, out) = (video.to_str().unwrap(), dir.path().join("out"));
    let out = out.to_str().unwrap();
    let start = |arguments: &[&str]| vidense(arguments).env("VIDENSE_FAULT", "loop=loops.mp4").spawn().unwrap();
    for arguments in [
        &["inspect", video][..],
        &["frames", video, "--out", out],
        &["ask", video, "Why?"],
        &["run", "pipelines/mini.yaml", video, "-q", "Why?"],
    ] {
        let output = finish(start(&[arguments, &["--stall-limit", "0.5s"]].concat()), DEADLINE);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains("loops.mp4: reading stalled: no data for 0.5 s"), "{arguments:?}: {err}");
    }
}

#[cfg(unix)]
#[test]
#[ignore = "slow"]
fn one_signal_ends_a_run_in_whose_process_ffmpeg_does_not_return() {
    let dir = tempfile::tempdir().unwrap();
    let video = dir.path().join("loops.mp4");
    std::fs::copy(repository("samples/three_shapes.mp4"), &video).unwrap();
    let (video, out) = (video.to_str().unwrap(), dir.path().join("out"));
    let batch = ["--no-cache", "--isolate", "false", "--out", out.to_str().unwrap()];
    for arguments in [
        &["run", "pipelines/mini.yaml", video, "-q", "Why?"][..],
        &[&["batch", "pipelines/mini.yaml", video, "-q", "Why?"][..], &batch].concat(),
    ] {
        let child = vidense(arguments).env("VIDENSE_FAULT", "loop=loops.mp4").spawn().unwrap();
        // Time to come to the file, where signals are heard.
        std::thread::sleep(Duration::from_secs(3));
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        let begin = Instant::now();
        let output = finish(child, DEADLINE);
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "{arguments:?}: {:?}", begin.elapsed());
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains("loops.mp4") && err.contains("stopped before"), "{err}");
    }
}

#[test]
fn a_halt_ends_a_reading_from_within() {
    let clip = long_playlist();
    let begin = Instant::now();
    let halt = Halt::new(move || match begin.elapsed() > Duration::from_millis(100) {
        true => Patience::Exhausted,
        false => Patience::Full,
    });
    let bounds = Bounds { halt, ..Bounds::default() };
    let error = read_frames(&clip.path, &everything(), &bounds, &mut |_| Flow::Continue).unwrap_err();
    assert_eq!(error.kind().word(), "stopped");
    assert!(begin.elapsed() < DEADLINE);
}

/// Saves a picture of 16 x 8 in one gray, as its ending says.
fn save(path: &Path, level: u8) {
    if path.extension().is_none_or(|ending| ending != "bmp") {
        return RgbImage::from_pixel(16, 8, Rgb([level; 3])).save(path).unwrap();
    }
    // A file header of 14 bytes, a picture header of 40, and rows of 48 bytes.
    let header = [b"BM".as_slice(), &(54_u32 + 384).to_le_bytes(), &[0; 4], &54_u32.to_le_bytes()].concat();
    let picture = [40_u32, 16, 8, 1 | 24 << 16, 0, 384, 0, 0, 0, 0].map(u32::to_le_bytes).concat();
    std::fs::write(path, [header, picture, vec![level; 384]].concat()).unwrap();
}

#[test]
fn a_name_is_no_pattern() {
    let dir = tempfile::tempdir().unwrap();
    let level = |name: &str| dir.path().join(name);
    let names = [
        "g%d.bmp",
        "100%d.png",
        "a%03d.jpg",
        "b*.png",
        "c?.bmp",
        "d[1].png",
        "e%%f.png",
        "f{1,2}.bmp",
        "-i.bmp",
        "h:i.png",
    ];
    // What the patterns would stand for.
    for name in ["g1.bmp", "1001.png", "a001.jpg", "bx.png", "cx.bmp", "d1.png", "e%f.png", "f1.bmp"] {
        save(&level(name), 200);
    }
    for name in names {
        save(&level(name), 7);
        let (frames, _) =
            read(&level(name), &everything(), Access::Auto).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(frames.len(), 1, "{name}");
        assert!(frames[0].image.get_pixel(3, 3).0[1].abs_diff(7) < 3, "{name}: {:?}", frames[0].image.get_pixel(3, 3));
    }
    let (frames, report) = read(dir.path(), &everything(), Access::Auto).unwrap();
    let dark = frames.iter().filter(|frame| frame.image.get_pixel(3, 3).0[1] < 10).count();
    assert_eq!((frames.len(), dark, report.damage.n_lost), (18, names.len(), 0));
}

#[cfg(unix)]
#[test]
fn any_bytes_are_a_name() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    for name in [&b"a\xff%d.bmp"[..], b"line\nbreak.bmp", b" .bmp"] {
        let path = dir.path().join(std::ffi::OsStr::from_bytes(name));
        save(&path, 7);
        assert_eq!(read(&path, &everything(), Access::Auto).unwrap().0.len(), 1, "{name:?}");
    }
    assert_eq!(read(dir.path(), &everything(), Access::Auto).unwrap().0.len(), 3);
}

/// Adds a cover of 40 x 30 as an attached picture.
fn with_cover(arguments: &str) -> Clip {
    let cover = ffmpeg("-f lavfi -i color=red:size=40x30 -frames:v 1 cover.png");
    ffmpeg(&format!("-i {} {arguments}", cover.path.display()))
}

#[test]
fn a_cover_is_no_video_unless_it_is_chosen() {
    for (name, codec) in [("a.mp3", "-c:a libmp3lame"), ("a.m4a", "-c:a aac"), ("a.flac", "-c:a flac")] {
        let sine = "-f lavfi -i sine=duration=1 -map 1:a -map 0:v";
        let audio = with_cover(&format!("{sine} {codec} -c:v png -disposition:v attached_pic -t 1 {name}"));
        let error = read(&audio.path, &everything(), Access::Auto).unwrap_err();
        let rule = "no video stream: its only image is a cover (png 40 x 30); hint: --stream 1 takes the image";
        assert_eq!(error.to_string(), format!("{}: {rule}", audio.path.display()));
        let (code, out, err) = inspect(&audio.path);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("container") && out.contains("duration") && out.contains("stream 0    audio"), "{out}");
        assert!(
            out.contains("png, 40 x 30") && out.contains("a cover picture") && !out.contains("frames      "),
            "{out}"
        );
        assert!(err.contains("no video: its only image is a cover; hint: --stream 1"), "{err}");
        let chosen = FrameRequest { stream: Some(1), ..everything() };
        for access in [Access::Straight, Access::Seek] {
            let (frames, _) = read(&audio.path, &chosen, access).unwrap();
            assert_eq!((frames.len(), frames[0].image.dimensions()), (1, (40, 30)), "{name}");
        }
    }
    // A cover that is larger than the video, which is not marked as default.
    let both = with_cover(
        "-f lavfi -i testsrc=size=32x24:rate=10:duration=1 -map 0 -map 1 -c:v:0 png -c:v:1 libx264 \
         -disposition:v:0 attached_pic -disposition:v:1 0 a.mp4",
    );
    assert_eq!(read(&both.path, &everything(), Access::Auto).unwrap().0[0].image.dimensions(), (32, 24));
}

#[test]
fn a_stream_is_chosen_by_its_index() {
    let clip = ffmpeg(
        "-f lavfi -i testsrc=size=64x48:rate=10:duration=1 -f lavfi -i sine=duration=1 \
         -f lavfi -i testsrc=size=32x24:rate=5:duration=1 -map 0 -map 1 -map 2 -c:v libx264 -c:a aac a.mkv",
    );
    let of = |stream: Option<usize>| FrameRequest { stream, ..everything() };
    for (stream, size, n) in [(None, (64, 48), 10), (Some(0), (64, 48), 10), (Some(2), (32, 24), 5)] {
        for access in [Access::Straight, Access::Seek] {
            let (frames, report) = read(&clip.path, &of(stream), access).unwrap();
            assert_eq!((frames[0].image.dimensions(), frames.len(), report.n_frames), (size, n, n), "{stream:?}");
        }
    }
    let refused = |stream| read(&clip.path, &of(Some(stream)), Access::Auto).unwrap_err().to_string();
    let hint = "hint: video streams: 0 (h264 64 x 48), 2 (h264 32 x 24)";
    let name = clip.path.display();
    assert_eq!(refused(1), format!("{name}: stream 1: not a video stream but audio aac; {hint}"));
    assert_eq!(refused(7), format!("{name}: stream 7: not among the 3 stream(s) of the file; {hint}"));
    let path = clip.path.to_str().unwrap();
    assert!(run(&["inspect", path, "--stream", "2"]).1.contains("5 decode"));
    // In every command, as a flag and as a key, and in the process of its own.
    let dir = tempfile::tempdir().unwrap();
    let sheet = dir.path().join("a.png");
    let (_, out, err) = run(&["frames", path, "--stream", "2", "--json", "--sheet", sheet.to_str().unwrap()]);
    assert_eq!(out.matches("\"index\"").count(), 5, "{out}{err}");
    let n_frames = |arguments: &[&str]| {
        let (code, out, err) = run(arguments);
        assert_eq!(code, Some(0), "{err}");
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        (object["frames"].as_array().unwrap().len(), object["plan"].as_str().unwrap().to_owned())
    };
    let ask = &["ask", path, "Why?", "--sample", "all", "--json"][..];
    let (n, plan) = n_frames(ask);
    let (n_chosen, plan_chosen) = n_frames(&[ask, &["--stream", "2"]].concat());
    assert_eq!((n, n_chosen), (10, 5));
    assert_ne!(plan, plan_chosen);
    let asked = &["run", "pipelines/mini.yaml", path, "-q", "Why?", "--json", "--set", "sample=all"][..];
    assert_eq!(n_frames(&[asked, &["--set", "stream=2"]].concat()).0, 5);
    assert_eq!(n_frames(&[asked, &["--stream", "2", "--isolate"]].concat()).0, 5);
    let (code, _, err) = run(&[ask, &["--stream", "1"]].concat());
    assert!(code == Some(2) && err.contains("not a video stream but audio aac"), "{err}");
    let directory = tempfile::tempdir().unwrap();
    RgbImage::new(4, 4).save(directory.path().join("a.png")).unwrap();
    let error = read(directory.path(), &of(Some(1)), Access::Auto).unwrap_err().to_string();
    assert!(error.contains("stream 1: a directory of images is one stream"), "{error}");
}

#[test]
fn pixel_aspect_fields_and_dynamic_range_are_told() {
    let source = "-f lavfi -i testsrc=size=64x48:rate=10:duration=0.5";
    let told = |output: &str| inspect(&ffmpeg(&format!("{source} {output}")).path).1;
    let hdr = |transfer: &str| {
        format!(
            "-pix_fmt yuv420p10le -c:v libx265 -x265-params \
             log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc a.mp4"
        )
    };
    for (output, words) in [
        ("-vf setsar=16/15 -c:v libx264 a.mp4", "64 x 48, pixel aspect 16:15,"),
        ("-c:v mpeg2video -flags +ildct+ilme -top 1 a.ts", "interlaced, top field first"),
        ("-c:v libx264 -flags +ildct+ilme -x264-params bff=1 a.mp4", "interlaced, bottom field first"),
        (&hdr("smpte2084"), "HDR PQ (smpte2084), primaries bt2020"),
        (&hdr("arib-std-b67"), "HDR HLG (arib-std-b67), primaries bt2020"),
    ] {
        let out = told(output);
        assert!(out.contains(words), "{output}: {out}");
    }
    let plain = told("-c:v libx264 a.mp4");
    assert!(!["aspect", "interlaced", "HDR"].iter().any(|word| plain.contains(word)), "{plain}");
    let clip = ffmpeg(&format!("{source} -c:v libx264 a.mp4"));
    assert_eq!(probe(&clip.path, None, &ReadLimits::default()).unwrap().best, Some(0));
}

#[test]
fn the_limit_of_a_stall_is_a_flag_of_every_command_that_reads() {
    for command in
        [&["ask"][..], &["chat"], &["run"], &["batch"], &["frames"], &["inspect"], &["eval"], &["bench", "decode"]]
    {
        let (_, out, _) = run(&[command, &["--help"]].concat());
        assert!(out.contains("--stall-limit") && out.contains("--stream"), "{command:?}: {out}");
    }
    let mut text = String::new();
    std::fs::File::open(repository("pipelines/pipeline.schema.json")).unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("\"stream\""));
}
