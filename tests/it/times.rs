//! Timestamps that are missing, wrong or run backwards; and damage, which gives the same frames each time.

use std::path::Path;
use std::process::Command;

use vidense::error::Error;
use vidense::units::Seconds;
use vidense::video::{Access, Frame, FrameRequest, ReadLimits, ReadReport, Sample, Window, scan};

use crate::harness::{ffmpeg, read_video};

const WHOLE: Window = Window { start: None, end: None };

fn read_within(path: &Path, request: &FrameRequest, limits: &ReadLimits) -> Result<(Vec<Frame>, ReadReport), Error> {
    read_video(path, request, limits)
}

fn read(path: &Path, sample: &str, window: Window) -> Result<(Vec<Frame>, ReadReport), Error> {
    read_within(
        path,
        &FrameRequest { sample: sample.parse().unwrap(), window, stream: None, image_rate: None },
        &ReadLimits::default(),
    )
}

fn indices(frames: &[Frame]) -> Vec<usize> {
    frames.iter().map(|frame| frame.index.0).collect()
}

fn times(frames: &[Frame]) -> Vec<f64> {
    frames.iter().map(|frame| frame.time.unwrap().0).collect()
}

/// Each frame's best-effort time, as `ffprobe` gives it.
fn by_ffprobe(path: &Path) -> Vec<Option<f64>> {
    let run = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-show_entries", "frame=best_effort_timestamp_time"])
        .args(["-of", "default=nokey=1:noprint_wrappers=1"])
        .arg(path)
        .output()
        .unwrap();
    String::from_utf8(run.stdout).unwrap().lines().map(|line| line.parse().ok()).collect()
}

#[test]
fn frames_without_a_time_get_one_and_the_others_keep_theirs() {
    const SOURCE: &str = "-f lavfi -i testsrc=size=96x64:rate=25:duration=4";
    for output in [
        "-c:v mpeg4 -bf 2 a.avi",
        "-c:v libx264 -preset veryfast -bf 3 a.avi",
        "-c:v mpeg2video -bf 2 a.m2v",
        "-c:v mpeg2video -bf 2 a.vob",
        "-c:v mpeg4 -bf 2 a.m4v",
    ] {
        let clip = ffmpeg(&format!("{SOURCE} {output}"));
        let (frames, report) = read(&clip.path, "all", WHOLE).unwrap();
        let expected = by_ffprobe(&clip.path);
        assert_eq!((frames.len(), expected.len()), (100, 100), "{output}");
        let times = times(&frames);
        for (i, (time, expected)) in times.iter().zip(&expected).enumerate() {
            // The last one plus a duration.
            let expected = expected.unwrap_or(times[i.saturating_sub(1)] + 0.04);
            assert!((time - expected).abs() < 1e-5, "{output}: frame {i}: {time}, not {expected}");
        }
        assert_eq!(report.warnings, [""; 0], "{output}");
        // What packets promise is what comes.
        for window in [WHOLE, Window { start: Some(Seconds(1.0)), end: Some(Seconds(2.5)) }] {
            for sample in ["fps:fps=2", "times:times=1.2+2", "uniform"] {
                let request = FrameRequest { sample: sample.parse().unwrap(), window, stream: None, image_rate: None };
                let (frames, _) = read(&clip.path, sample, window).unwrap();
                let scanned = scan(&clip.path, &request, &ReadLimits::default()).unwrap();
                assert_eq!(scanned.n_sampled().unwrap(), frames.len(), "{output}: {sample}");
            }
        }
        let (frames, _) = read(&clip.path, "times:times=1.2+2", WHOLE).unwrap();
        let shown = |time: f64| times.iter().rposition(|begin| *begin <= time + 1e-6).unwrap();
        assert_eq!(indices(&frames), [shown(1.2), shown(2.0)], "{output}");
    }
}

#[test]
fn a_raw_stream_goes_by_its_rate_and_says_so() {
    for (rate, codec, file) in [
        ("25", "libx264 -bf 2", "a.h264"),
        ("30000/1001", "libx264 -preset veryfast", "a.264"),
        ("10", "libx265 -preset ultrafast -x265-params log-level=none", "a.hevc"),
    ] {
        let clip = ffmpeg(&format!("-f lavfi -i testsrc=size=96x64:rate={rate}:duration=3 -c:v {codec} {file}"));
        let (frames, report) = read(&clip.path, "all", WHOLE).unwrap();
        let (over, under) = rate.split_once('/').unwrap_or((rate, "1"));
        let rate = over.parse::<f64>().unwrap() / under.parse::<f64>().unwrap();
        for (i, time) in times(&frames).into_iter().enumerate() {
            assert!((time - i as f64 / rate).abs() < 1e-6, "{file}: frame {i}: {time}");
        }
        let [warning] = &report.warnings[..] else { panic!("{:?}", report.warnings) };
        assert!(warning.starts_with("its frames carry no times; taken by the rate of the stream, "), "{warning}");
        let (frames, _) =
            read(&clip.path, "all", Window { start: Some(Seconds(1.0)), end: Some(Seconds(2.0)) }).unwrap();
        assert_eq!(
            indices(&frames),
            (rate.ceil() as usize..(2.0 * rate).ceil() as usize).collect::<Vec<_>>(),
            "{file}"
        );
        let (frames, _) = read(&clip.path, "fps:fps=1", WHOLE).unwrap();
        assert_eq!(frames.len(), 3, "{file}");
    }
}

#[test]
fn times_that_run_backwards_are_told_and_not_gone_by() {
    let part = |source: &str| {
        ffmpeg(&format!("-f lavfi -i {source}=size=96x64:rate=25 -t 2 -c:v libx264 -bf 2 -g 25 -pix_fmt yuv420p a.ts"))
    };
    let (first, second) = (part("testsrc"), part("mandelbrot"));
    let bytes = [&first, &second, &first].map(|part| std::fs::read(&part.path).unwrap()).concat();
    let joined = first.path.with_file_name("joined.ts");
    std::fs::write(&joined, bytes).unwrap();

    let (all, report) = read(&joined, "all", WHOLE).unwrap();
    assert_eq!(indices(&all), (0..150).collect::<Vec<_>>());
    assert!(
        report.warnings[0].starts_with("times run backwards 2 time(s), first at frame 50, from 0:03.440 to 0:01.480")
    );
    // By number, in the order of decoding: the parts do not interleave.
    for access in [Access::Straight, Access::Seek, Access::Auto] {
        for sample in ["uniform:frames=6", "linspace:frames=5", "every:n=40"] {
            let request =
                FrameRequest { sample: sample.parse().unwrap(), window: WHOLE, stream: None, image_rate: None };
            let limits = ReadLimits { access, ..ReadLimits::default() };
            let (frames, report) = read_within(&joined, &request, &limits).unwrap();
            assert!(frames.iter().all(|frame| frame.image == all[frame.index.0].image), "{sample}");
            assert!(report.warnings[0].starts_with("times run backwards"), "{sample}");
        }
    }
    for sample in ["fps", "times:times=2"] {
        let error = read(&joined, sample, WHOLE).unwrap_err().to_string();
        let expected = "times run backwards at frame 50, from 0:03.440 to 0:01.480; hint: ";
        assert!(error.contains(expected), "{error}");
    }
    let error = read(&joined, "all", Window { start: Some(Seconds(2.0)), end: None }).unwrap_err();
    assert_eq!(error.kind().word(), "times_fall");
    assert!(
        error.to_string().contains("--start and --end do not apply: its times run backwards at frame 50"),
        "{error}"
    );
}

#[test]
fn jitter_and_the_wrap_of_a_transport_streams_clock_are_no_falls() {
    const SOURCE: &str = "-f lavfi -i testsrc=size=96x64:rate=25:duration=3 -c:v libx264 -bf 0";
    for (options, n_levelled) in [
        // Every second frame half a frame late, and the next one before it.
        ("-bsf:v setts=ts=TS+60*eq(mod(N\\,4)\\,1) -muxdelay 0 a.mkv", true),
        ("-output_ts_offset 95442 a.ts", false),
        ("-output_ts_offset -2.4 -avoid_negative_ts disabled a.ts", false),
    ] {
        let clip = ffmpeg(&format!("{SOURCE} {options}"));
        let (frames, report) = read(&clip.path, "all", WHOLE).unwrap();
        let times = times(&frames);
        assert_eq!((frames.len(), &report.warnings[..]), (75, &[][..]), "{options}");
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{options}: {times:?}");
        let n_same = times.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert_eq!(n_same > 0, n_levelled, "{options}: {n_same}");
        assert_eq!(read(&clip.path, "fps", WHOLE).unwrap().0.len(), 3, "{options}");
    }
}

/// Kinds of damage to the bytes behind the header, by a small generator.
fn damaged(bytes: &[u8], kind: usize) -> Vec<u8> {
    let mut state = kind as u64 + 1;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut damaged = bytes.to_vec();
    let first = bytes.len() / 10;
    match kind {
        0 => damaged.truncate(bytes.len() * 2 / 3),
        1 => {
            let at = bytes.len() / 2;
            damaged[at..at + 600].fill(0);
        }
        _ => {
            for _ in 0..30 * kind {
                let at = first + random(bytes.len() - first);
                damaged[at] ^= 1 << random(8);
            }
        }
    }
    damaged
}

#[test]
fn a_damaged_file_gives_the_same_each_time_whatever_the_threads() {
    const SOURCE: &str = "-f lavfi -i testsrc2=size=160x96:rate=25:duration=2";
    for (codec, file) in [
        ("libx264 -preset veryfast -bf 3 -g 25", "a.mkv"),
        ("libx265 -preset ultrafast -x265-params log-level=none:keyint=25:bframes=3", "a.mkv"),
        ("libx265 -preset ultrafast -x265-params log-level=none:keyint=25:bframes=3:slices=3", "a.mkv"),
        ("mpeg4 -bf 2 -g 25", "a.avi"),
        ("mpeg2video -bf 2 -g 25", "a.ts"),
        ("libvpx -deadline realtime -cpu-used 8 -g 25", "a.webm"),
        ("libvpx-vp9 -deadline realtime -cpu-used 8 -g 25", "a.webm"),
    ] {
        let clip = ffmpeg(&format!("{SOURCE} -c:v {codec} {file}"));
        let bytes = std::fs::read(&clip.path).unwrap();
        for kind in 0..5 {
            let path = clip.path.with_file_name(format!("{kind}-{file}"));
            std::fs::write(&path, damaged(&bytes, kind)).unwrap();
            let request = FrameRequest { sample: Sample::All, window: WHOLE, stream: None, image_rate: None };
            let read = |threads| {
                let read = read_within(&path, &request, &ReadLimits { threads, ..ReadLimits::default() });
                read.map(|(frames, report)| (frames, ReadReport { n_decoded: 0, ..report })).map_err(|e| e.to_string())
            };
            let expected = read(1);
            for threads in [8, 2, 5, 8] {
                let found = read(threads);
                let (Ok((frames, report)), Ok((found, found_report))) = (&expected, &found) else {
                    assert_eq!(found.err(), expected.as_ref().err().cloned(), "{codec}: {kind}");
                    continue;
                };
                assert_eq!(found_report, report, "{codec}: {kind} on {threads} threads");
                assert_eq!((indices(found), times(found)), (indices(frames), times(frames)), "{codec}: {kind}");
                let other = frames.iter().zip(found).find(|(frame, found)| frame.image != found.image);
                let other = other.map(|(frame, _)| frame.index);
                assert!(other.is_none(), "{codec}: {kind} on {threads} threads: frame {other:?}");
            }
        }
    }
}
