//! Playlists that FFmpeg reads wrongly or without end: segments that are byte ranges, missing ends, types in other
//! quotes, missing or empty keys and segments. Each is inspected in a process of its own, with a deadline.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Clip, ffmpeg, repository};

const DEADLINE: Duration = Duration::from_secs(40);
const SOURCE: &str = "-f lavfi -i testsrc=size=64x48:rate=10:duration=4 -c:v libx264 -preset ultrafast -g 10";

/// Exit code and both outputs of a command, which must end.
fn bounded(command: &mut Command) -> (Option<i32>, String, String) {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("it hangs: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn inspect(path: &Path) -> (Option<i32>, String, String) {
    bounded(Command::new(env!("CARGO_BIN_EXE_vidense")).current_dir(repository("")).arg("inspect").arg(path))
}

/// Four segments of ten frames each: `p0.ts` to `p3.ts`.
fn hls() -> Clip {
    ffmpeg(&format!("{SOURCE} -f hls -hls_time 1 -hls_list_size 0 p.m3u8"))
}

/// Writes a file beside the clip.
fn beside(clip: &Clip, name: &str, text: &str) -> PathBuf {
    let path = clip.path.with_file_name(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn text(clip: &Clip) -> String {
    std::fs::read_to_string(&clip.path).unwrap()
}

#[track_caller]
fn assert_refused(path: &Path, words: &str) {
    let (code, _, err) = inspect(path);
    assert!(code == Some(2) && err.contains(words), "{}: {code:?} {err}", path.display());
}

/// All 40 frames without a warning.
#[track_caller]
fn assert_whole(path: &Path) {
    let (code, out, err) = inspect(path);
    assert!(code == Some(0) && out.contains("frames      40 decode") && err.is_empty(), "{code:?} {out}{err}");
}

#[test]
fn segments_that_are_byte_ranges_of_one_file_are_refused() {
    let clip = ffmpeg(&format!("{SOURCE} -f dash -single_file 1 -seg_duration 1 p.mpd"));
    let words = "byte ranges of one file (mediaRange=\"";
    assert_refused(&clip.path, words);
    let manifest = text(&clip);
    assert!(manifest.contains("<SegmentList"), "{manifest}");
    let line = |word: &str| manifest.lines().find(|line| line.contains(word)).unwrap().to_owned();
    assert_refused(&beside(&clip, "noinit.mpd", &manifest.replace(&line("<Initialization"), "")), words);
    let (start, end) = (manifest.find("<SegmentList").unwrap(), manifest.find("</SegmentList>").unwrap());
    let list = &manifest[start..end + "</SegmentList>".len()];
    // Each part after the first begins with the value and its quote.
    let mut parts = list.split(" indexRange=\"");
    let first = parts.next().unwrap();
    let no_index = [first].into_iter().chain(parts.map(|part| part.split_once('"').unwrap().1)).collect::<String>();
    assert_refused(&beside(&clip, "noidx.mpd", &manifest.replace(list, &no_index)), "mediaRange");
    // One file as a whole is read, with the place of its index or without.
    assert_whole(&beside(&clip, "plain.mpd", &manifest.replace(list, "")));
    let range = line("<Initialization").split('"').nth(1).unwrap().to_owned();
    let base = format!("<SegmentBase><Initialization range=\"{range}\"/></SegmentBase>");
    assert_whole(&beside(&clip, "base.mpd", &manifest.replace(list, &base)));
}

#[test]
fn only_a_line_ends_a_playlist() {
    let clip = hls();
    for (i, end) in ["# no #EXT-X-ENDLIST", " #EXT-X-ENDLIST", "#NOTE #EXT-X-ENDLIST"].iter().enumerate() {
        assert_whole(&beside(&clip, &format!("{i}.m3u8"), &text(&clip).replace("#EXT-X-ENDLIST", end)));
    }
}

#[test]
fn a_live_manifest_is_known_by_its_attribute_and_a_document_type_is_allowed() {
    let clip = ffmpeg(&format!("{SOURCE} -f dash -seg_duration 1 -use_template 1 -use_timeline 1 p.mpd"));
    let manifest = text(&clip);
    for (i, kind) in ["type = \"dynamic\"", "type='dynamic'", "note='>' type\n=\n'dynamic'"].iter().enumerate() {
        assert_whole(&beside(&clip, &format!("{i}.mpd"), &manifest.replace("type=\"static\"", kind)));
    }
    assert_whole(&beside(&clip, "type.mpd", &manifest.replace("<MPD", "<!DOCTYPE MPD>\n<MPD")));
}

#[test]
fn names_of_any_ending_are_read_and_missing_keys_are_named() {
    let clip = hls();
    let names = text(&clip).replace(".ts", ".segment");
    for i in 0..4 {
        let segment = clip.path.with_file_name(format!("p{i}.ts"));
        std::fs::copy(&segment, segment.with_extension("segment")).unwrap();
    }
    assert_whole(&beside(&clip, "other.m3u8", &names));

    let keys = tempfile::tempdir().unwrap();
    let (key, info) = (keys.path().join("k.key"), keys.path().join("k.info"));
    std::fs::write(&key, [7; 16]).unwrap();
    std::fs::write(&info, format!("k.key\n{}\n", key.display())).unwrap();
    let clip =
        ffmpeg(&format!("{SOURCE} -f hls -hls_time 1 -hls_list_size 0 -hls_key_info_file {} p.m3u8", info.display()));
    let copy = clip.path.with_file_name("k.key");
    std::fs::copy(&key, &copy).unwrap();
    assert_whole(&clip.path);
    std::fs::remove_file(&copy).unwrap();
    assert_refused(&clip.path, "k.key: no such file");
}

#[test]
fn beginnings_and_lists_without_a_segment_are_told() {
    let clip = hls();
    let playlist = text(&clip);
    assert_refused(
        &beside(&clip, "bom.m3u8", &format!("\u{feff}{playlist}")),
        "a byte order mark before `#EXTM3U`; hint: ",
    );
    assert_refused(
        &beside(&clip, "blank.m3u8", &format!("\n\n{playlist}")),
        "blank lines or spaces before `#EXTM3U`; hint: ",
    );
    assert_refused(&beside(&clip, "empty.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n"), "the playlist names no segment");
}

#[test]
fn a_segment_without_a_byte_is_counted_as_missing() {
    let clip = hls();
    std::fs::write(clip.path.with_file_name("p2.ts"), "").unwrap();
    let (code, out, err) = inspect(&clip.path);
    assert!(code == Some(0) && out.contains("30 decode"), "{out}{err}");
    assert!(
        err.contains("1 file(s) of the playlist missing") && err.contains("p2.ts: an empty file (0 bytes)"),
        "{err}"
    );
    let dash = ffmpeg(&format!("{SOURCE} -f dash -seg_duration 1 -use_template 1 -use_timeline 1 p.mpd"));
    std::fs::write(dash.path.with_file_name("chunk-stream0-00003.m4s"), "").unwrap();
    let (_, out, err) = inspect(&dash.path);
    // FFmpeg's DASH demuxer takes it for the end.
    assert!(out.contains("20 decode") && err.contains("chunk-stream0-00003.m4s: an empty file"), "{out}{err}");
}
