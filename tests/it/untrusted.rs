//! Videos of strangers: a hostile file reads nothing but itself, and takes nothing down.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use vidense::error::{Error, Kind};
use vidense::video::worker::{Isolation, ProcessLifetime, Worker};
use vidense::video::{
    Bounds, Flow, Frame, FrameRequest, LinkedFilePolicy, ReadEvent, ReadLimits, ReadingForecast, Sample, Window, probe,
    scan,
};

use crate::harness::{Clip, ffmpeg, read_video};

/// Time within which each refusal must come.
const SECONDS: Duration = Duration::from_secs(20);
/// Address space of a decoding process: libraries, threads, and some frames.
const MEMORY: u64 = 1 << 30;

/// Limits of a video of a stranger.
pub fn strict() -> ReadLimits {
    ReadLimits {
        time: Some(Duration::from_secs(10)),
        max_frames: Some(5_000),
        threads: 1,
        links: LinkedFilePolicy::Refuse,
        ..ReadLimits::default()
    }
}

/// A decoding process of a stranger's video.
pub fn isolation(lifetime: ProcessLifetime) -> Isolation {
    Isolation {
        program: env!("CARGO_BIN_EXE_vidense").into(),
        arguments: vec!["decode-worker".into()],
        stall: Duration::from_secs(10),
        lifetime,
        memory: Some(MEMORY),
    }
}

/// All frames of a video.
pub fn all() -> FrameRequest {
    FrameRequest::new(Sample::All, Window::default())
}

/// Frames of a video of a stranger, from a process of its own.
pub fn read_isolated(path: &Path, limits: ReadLimits) -> Result<Vec<Frame>, Error> {
    read_with(&isolation(ProcessLifetime::OneReading), path, limits)
}

/// Frames of a video from a process.
pub fn read_with(isolation: &Isolation, path: &Path, limits: ReadLimits) -> Result<Vec<Frame>, Error> {
    let mut frames = Vec::new();
    Worker::new(isolation).read_frames(path, &all(), &Bounds::from(&limits), &mut |event| {
        match event {
            ReadEvent::Frame(frame) => frames.push(frame),
            ReadEvent::Restart => frames.clear(),
            _ => {}
        }
        Flow::Continue
    })?;
    Ok(frames)
}

/// Fails unless a file is refused in a short time in every way of reading; returns the error.
fn refused(path: &Path) -> Error {
    let start = Instant::now();
    let error = read_video(path, &all(), &strict()).expect_err("a refusal");
    let ways = [
        probe(path, None, &strict()).map(drop),
        scan(path, &all(), &strict()).map(drop),
        read_isolated(path, strict()).map(drop),
    ];
    for way in ways {
        assert_eq!(way.expect_err("a refusal").to_string(), error.to_string());
    }
    assert!(start.elapsed() < SECONDS, "{}: {:?}", path.display(), start.elapsed());
    error
}

/// Fails unless a file is refused because it leads to others.
fn assert_leads_elsewhere(path: &Path) {
    let error = refused(path);
    let rule = "a playlist opens other files, which is not allowed here";
    assert_eq!((error.kind(), error.rule()), (Kind::Refused, rule), "{}: {error}", path.display());
}

/// A directory with a clip, a pipe that blocks whoever opens it, and an address that hears every connection.
struct Bait {
    dir: TempDir,
    listener: TcpListener,
}

impl Bait {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clip = ffmpeg("-f lavfi -i testsrc=s=64x48:r=5:d=1 -c:v mpeg2video -f mpegts canary.ts");
        std::fs::copy(&clip.path, dir.path().join("canary.ts")).unwrap();
        #[cfg(unix)]
        assert!(std::process::Command::new("mkfifo").arg(dir.path().join("pipe.ts")).status().unwrap().success());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { dir, listener }
    }

    /// Names of files and addresses that a playlist may lead to.
    fn names(&self) -> Vec<String> {
        let (dir, port) = (self.dir.path().display(), self.listener.local_addr().unwrap().port());
        vec![
            "canary.ts".to_owned(),
            format!("{dir}/canary.ts"),
            format!("file://{dir}/canary.ts"),
            format!("{dir}/pipe.ts"),
            format!("http://127.0.0.1:{port}/canary.ts"),
            format!("tcp://127.0.0.1:{port}"),
            format!("concat:{dir}/canary.ts|{dir}/canary.ts"),
            format!("subfile,,start,0,end,99999,,:{dir}/canary.ts"),
            format!("data:video/mp2t;base64,{}", STANDARD.encode(std::fs::read(self.path("canary.ts")).unwrap())),
        ]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Bait {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.listener.accept().is_err(), "a connection");
        }
    }
}

#[test]
fn playlists_are_refused_whatever_they_name_and_however_they_are_named() {
    let bait = Bait::new();
    for (n, name) in bait.names().into_iter().enumerate() {
        let hls = format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{name}\n#EXT-X-ENDLIST\n");
        let key = hls.replace("#EXTINF", &format!("#EXT-X-KEY:METHOD=AES-128,URI=\"{name}\"\n#EXTINF"));
        let map = hls.replace("#EXTINF", &format!("#EXT-X-MAP:URI=\"{name}\"\n#EXTINF"));
        let concat = format!("ffconcat version 1.0\nfile '{name}'\n");
        let dash = format!(
            "<?xml version=\"1.0\"?>\n<MPD type=\"static\" mediaPresentationDuration=\"PT1S\"><Period><AdaptationSet \
             contentType=\"video\"><Representation id=\"1\"><BaseURL>{name}</BaseURL></Representation></AdaptationSet>\
             </Period></MPD>\n"
        );
        for (kind, text) in [("hls", hls), ("key", key), ("map", map), ("concat", concat), ("dash", dash)] {
            // The content decides, not the name.
            let ending = ["mp4", "m3u8", "ts", "jpg", "mpd"][n % 5];
            assert_leads_elsewhere(&bait.write(&format!("{kind}{n}.{ending}"), text));
        }
    }
}

#[test]
fn descriptions_of_sessions_are_refused() {
    let bait = Bait::new();
    let port = bait.listener.local_addr().unwrap().port();
    let sdp = format!(
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video {port} RTP/AVP 96\r\na=rtpmap:96 \
         H264/90000\r\n"
    );
    assert_leads_elsewhere(&bait.write("session.mp4", &sdp));
    assert_leads_elsewhere(&bait.write("session.sdp", &sdp));
    let pair =
        "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\ntimestamp: 00:00:01:000, filepos: 0\n";
    assert_leads_elsewhere(&bait.write("subtitles.idx", pair));
}

#[test]
fn media_files_read_the_same_alone() {
    for (arguments, n_frames) in [
        ("-f lavfi -i testsrc=s=64x48:r=5:d=2 -pix_fmt yuv420p video.mp4", 10),
        ("-f lavfi -i testsrc=s=64x48:r=5:d=2 -c:v mjpeg -q:v 2 video.mkv", 10),
        ("-f lavfi -i testsrc=s=64x48:r=5:d=2 video.gif", 10),
        ("-f lavfi -i testsrc=s=64x48:r=5:d=2 -c:v mpeg2video -f mpegts video.ts", 10),
        ("-f lavfi -i testsrc=s=64x48:r=5:d=2 -pix_fmt yuv420p -c:v h264 video.h264", 10),
        ("-f lavfi -i testsrc=s=64x48:r=5:d=2 -pix_fmt yuv420p video.avi", 10),
        ("-f lavfi -i testsrc=s=64x48:r=5:d=2 -pix_fmt yuv420p video.flv", 10),
        ("-f lavfi -i testsrc=s=64x48 -frames:v 1 image.png", 1),
        ("-f lavfi -i testsrc=s=64x48 -frames:v 1 image.jpg", 1),
        ("-f lavfi -i testsrc=s=64x48 -frames:v 1 image%d.bmp", 1),
    ] {
        let clip = ffmpeg(arguments);
        let path = match clip.path.exists() {
            true => clip.path.clone(),
            false => clip.path.with_file_name("image1.bmp"),
        };
        let (frames, _) = read_video(&path, &all(), &ReadLimits::default()).unwrap();
        assert_eq!(frames.len(), n_frames, "{arguments}");
        let same = |other: &[Frame]| {
            other.len() == n_frames && frames.iter().zip(other).all(|(a, b)| (a.time, &a.image) == (b.time, &b.image))
        };
        assert!(same(&read_video(&path, &all(), &strict()).unwrap().0), "{arguments}");
        assert!(same(&read_isolated(&path, strict()).unwrap()), "{arguments}");
        // Without an ending, as an upload is stored.
        let bare = path.with_file_name("upload");
        std::fs::rename(&path, &bare).unwrap();
        assert!(same(&read_isolated(&bare, strict()).unwrap()), "{arguments} without an ending");
    }
}

#[test]
fn a_forecast_is_what_the_reading_expects_and_keeps_the_process() {
    let clip = ffmpeg("-f lavfi -i testsrc=s=64x48:r=5:d=2 -pix_fmt yuv420p video.mp4");
    let image = ffmpeg("-f lavfi -i testsrc=s=66x48 -frames:v 1 image.jpg");
    let request = FrameRequest::new(Sample::uniform(4), Window::default());
    let bounds = Bounds::from(&strict());
    for lifetime in [ProcessLifetime::Kept, ProcessLifetime::OneReading] {
        let isolation = isolation(lifetime);
        let mut worker = Worker::new(&isolation);
        let video = ReadingForecast { n_frames: 10, n_sampled: 4, is_single_image: false, size: None };
        let single = ReadingForecast { n_frames: 1, n_sampled: 1, is_single_image: true, size: Some((66, 48)) };
        for _ in 0..3 {
            assert_eq!(worker.probe(&clip.path, &request, &bounds).unwrap(), video);
            assert_eq!(worker.probe(&image.path, &all(), &bounds).unwrap(), single);
            let missing = worker.probe(Path::new("nowhere.mp4"), &request, &bounds).expect_err("no file");
            assert_eq!(missing.kind(), Kind::NotFound);
            let mut n_frames = 0;
            let report = worker.read_frames(&clip.path, &request, &bounds, &mut |event| {
                n_frames += usize::from(matches!(event, ReadEvent::Frame(_)));
                Flow::Continue
            });
            assert_eq!((report.unwrap().n_inside, n_frames), (10, 4));
        }
        assert_eq!(worker.n_restarts(), 0, "{lifetime:?}");
    }
}

/// A directory of three images.
pub fn directory() -> Clip {
    ffmpeg("-f lavfi -i testsrc=s=64x48:r=3:d=1 frames-%d.png")
}

#[cfg(unix)]
#[test]
fn links_inside_a_directory_are_refused_and_its_names_are_no_patterns() {
    let bait = Bait::new();
    let clip = directory();
    let dir = clip.path.parent().unwrap();
    assert_eq!(read_isolated(dir, strict()).unwrap().len(), 3);
    // A name that is a pattern names one file.
    std::fs::copy(dir.join("frames-1.png"), dir.join("frames-%d.png")).unwrap();
    assert_eq!(read_isolated(dir, strict()).unwrap().len(), 4);
    // A playlist among the images is one broken image.
    std::fs::write(
        dir.join("frames-5.gif"),
        format!("ffconcat version 1.0\nfile {}\n", bait.path("pipe.ts").display()),
    )
    .unwrap();
    assert_eq!(read_isolated(dir, strict()).unwrap().len(), 4);
    let secret = ffmpeg("-f lavfi -i testsrc=s=64x48 -frames:v 1 secret.png");
    for target in [&*secret.path, &bait.path("pipe.ts"), Path::new("/dev/zero")] {
        let link = dir.join("frames-9.png");
        std::os::unix::fs::symlink(target, &link).unwrap();
        let error = refused(dir);
        assert_eq!((error.kind(), error.rule()), (Kind::Refused, "a symbolic link, which is not followed here"));
        std::fs::remove_file(link).unwrap();
    }
}

#[test]
fn names_are_paths_and_never_addresses() {
    let bait = Bait::new();
    let (dir, port) = (bait.dir.path().display(), bait.listener.local_addr().unwrap().port());
    for name in [
        format!("concat:{dir}/canary.ts|{dir}/canary.ts"),
        format!("subfile,,start,0,end,0,,:{dir}/canary.ts"),
        format!("http://127.0.0.1:{port}/canary.ts"),
        format!("tcp://127.0.0.1:{port}"),
        format!("file://{dir}/canary.ts"),
        "data:video/mp2t;base64,R0ABEA==".to_owned(),
        "pipe:0".to_owned(),
        "lavfi:testsrc".to_owned(),
        "/dev/stdin\0.mp4".to_owned(),
    ] {
        let error = read_isolated(Path::new(&name), strict()).expect_err("a refusal");
        assert!(matches!(error.kind(), Kind::NotFound | Kind::Unreadable), "{name:?}: {error}");
    }
    #[cfg(unix)]
    for name in ["/dev/zero", "/dev/stdin", bait.path("pipe.ts").to_str().unwrap()] {
        assert_eq!(read_isolated(Path::new(name), strict()).expect_err("a refusal").kind(), Kind::NotRegular, "{name}");
    }
}
