//! Pixels: conversion of every pixel format to RGB like FFmpeg's, and orientation.

use std::path::Path;
use std::process::Command;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage};
use vidense::video::{Access, Flow, Frame, FrameRequest, ReadEvent, ReadLimits, Sample, Window, read_frames, scan};

use crate::harness::{ffmpeg, repository};

fn read(path: &Path, sample: Sample, access: Access) -> Vec<Frame> {
    let mut frames = Vec::new();
    let limits = ReadLimits { access, ..ReadLimits::default() };
    let request = FrameRequest::new(sample, Window::default());
    let report = read_frames(path, &request, &limits, &mut |event| {
        match event {
            ReadEvent::Frame(frame) => frames.push(frame),
            ReadEvent::Restart => frames.clear(),
            ReadEvent::Expected { .. } | ReadEvent::Progress { .. } | ReadEvent::Waiting => {}
        }
        Flow::Continue
    });
    report.unwrap_or_else(|error| panic!("{error}"));
    frames
}

/// The first frame by `ffmpeg` itself.
fn by_ffmpeg(path: &Path) -> Vec<u8> {
    let run = Command::new("ffmpeg")
        .args(["-v", "error", "-noautorotate", "-i"])
        .arg(path)
        .args(["-sws_flags", "bicubic", "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .unwrap();
    run.stdout
}

#[test]
#[ignore = "slow"]
fn every_pixel_format_is_turned_to_rgb_as_ffmpeg_does() {
    let rgb = "gbrp9le gbrp10le gbrp12le gbrp14le gbrp16le gbrap10le gbrap12le gbrap16le rgb48le rgba64le bgr0 bgra";
    let yuv = "yuv420p yuv422p yuv444p yuv420p10le yuv422p12le yuv444p16le yuva420p yuva444p10le yuv411p yuv410p";
    let gray = "gray gray9le gray10le gray12le gray16le ya8";
    let packed =
        "nv12 p010le p016le x2rgb10le rgb565le bgr8 rgb48be bgr48le rgba64be gray16be pal8 monob uyvy422 gbrp yuvj420p";
    let clips =
        [("ffv1 -level 3 -strict -2", "mkv", [rgb, yuv, gray].join(" ")), ("rawvideo", "nut", packed.to_owned())];
    let stills = [
        ("png", "png", "rgb24 rgba rgb48be rgba64be pal8 gray ya8 gray16be ya16be monob"),
        ("exr", "exr", "gbrpf32le gbrapf32le grayf32le"),
        ("tiff", "tiff", "rgb24 rgb48le rgba64le gray16le pal8"),
        ("libx265 -x265-params log-level=none:lossless=1", "mp4", "gbrp10le gbrp12le yuv444p12le gray10le"),
    ];
    let stills = stills.map(|(codec, ending, formats)| (codec, ending, formats.to_owned()));
    for (codec, ending, formats) in clips.into_iter().chain(stills) {
        for format in formats.split_whitespace() {
            let source = "-f lavfi -i testsrc2=size=66x50:rate=1:duration=1 -frames:v 1 -c:v";
            let clip = ffmpeg(&format!("{source} {codec} -pix_fmt {format} a.{ending}"));
            let (frames, expected) = (read(&clip.path, Sample::All, Access::Auto), by_ffmpeg(&clip.path));
            let found = frames[0].image.as_raw();
            assert_eq!(found.len(), expected.len(), "{codec} {format}");
            let most = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(most <= Some(1), "{codec} {format}: differs by {most:?}");
        }
    }
}

/// Expected pixels of `tests/golden/make_jpeg.py`, read by Pillow with libjpeg-turbo.
#[test]
fn jpeg_images_are_decoded_as_pillow_does() {
    let mut n_images = 0;
    for entry in std::fs::read_dir(repository("tests/golden/jpeg")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().unwrap() == "png" {
            continue;
        }
        n_images += 1;
        let expected = image::open(path.with_extension("png")).unwrap().into_rgb8();
        // By itself, in a directory, and under another extension.
        let dir = tempfile::tempdir().unwrap();
        for name in ["1.jpg", "2.png"] {
            std::fs::copy(&path, dir.path().join(name)).unwrap();
        }
        let mut frames = read(&path, Sample::All, Access::Auto);
        frames.extend(read(dir.path(), Sample::All, Access::Auto));
        assert_eq!(frames.len(), 3, "{}", path.display());
        for frame in frames {
            assert_eq!(frame.image.dimensions(), expected.dimensions(), "{}", path.display());
            let levels = frame.image.as_raw().iter().zip(expected.as_raw());
            let most = levels.map(|(a, b)| a.abs_diff(*b)).max();
            // FFmpeg multiplies black into the chroma of YCCK, and rounds, before the conversion to RGB.
            let tolerance = if path.to_string_lossy().contains("ycck") { 6 } else { 3 };
            assert!(most <= Some(tolerance), "{}: differs by {most:?}", path.display());
        }
    }
    assert_eq!(n_images, 31);
}

/// An EXIF block with an orientation alone: a TIFF header, a directory of one entry.
fn exif(orientation: u8) -> Vec<u8> {
    let entry = [0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
    [&b"II*\0\x08\0\0\0\x01\0"[..], &entry, &[0; 4]].concat()
}

/// A TIFF of gray stripes with an orientation: width, height, bits, no compression, gray, one strip, orientation, one
/// sample.
fn tiff(picture: &[u8], (width, height): (u8, u8), orientation: u8) -> Vec<u8> {
    let entries: [(u8, u8, u16); 9] = [
        (0x00, 3, u16::from(width)),
        (0x01, 3, u16::from(height)),
        (0x02, 3, 8),
        (0x03, 3, 1),
        (0x06, 3, 1),
        (0x11, 4, 8 + 2 + 9 * 12 + 4),
        (0x12, 3, u16::from(orientation)),
        (0x16, 3, u16::from(height)),
        (0x17, 4, picture.len() as u16),
    ];
    let mut bytes = b"II*\0\x08\0\0\0\x09\0".to_vec();
    for (tag, kind, value) in entries {
        bytes.extend([tag, 1, kind, 0, 1, 0, 0, 0]);
        bytes.extend(value.to_le_bytes());
        bytes.extend([0, 0]);
    }
    [&bytes, &[0; 4][..], picture].concat()
}

/// A WebP of FFmpeg's as an extended file with EXIF data (`VP8X`, the picture, `EXIF`).
fn webp(simple: &[u8], (width, height): (u8, u8), orientation: u8) -> Vec<u8> {
    let chunk = |name: &[u8; 4], data: &[u8]| [&name[..], &(data.len() as u32).to_le_bytes(), data].concat();
    // The flag of EXIF data, and the size less one.
    let header = chunk(b"VP8X", &[8, 0, 0, 0, width - 1, 0, 0, height - 1, 0, 0]);
    let body = [&b"WEBP"[..], &header, &simple[12..], &chunk(b"EXIF", &exif(orientation))].concat();
    chunk(b"RIFF", &body)
}

#[test]
fn exif_orientation_is_obeyed_in_a_directory_as_for_a_single_file() {
    // Dark in the upper left corner, gray in the upper right, light below.
    let level = |x: u32, y: u32| {
        if y >= 8 {
            250
        } else if x < 16 {
            10
        } else {
            120
        }
    };
    let picture = RgbImage::from_fn(32, 16, |x, y| Rgb([level(x, y); 3]));
    let gray: Vec<u8> = picture.pixels().map(|pixel| pixel.0[0]).collect();
    let flat = tempfile::tempdir().unwrap();
    let png = flat.path().join("a.png");
    picture.save(&png).unwrap();
    let simple = ffmpeg(&format!("-i {} -c:v libwebp -lossless 1 a.webp", png.display()));
    let simple = std::fs::read(&simple.path).unwrap();
    for orientation in 1..=8 {
        let encoded = |encode: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            encode(&mut bytes);
            bytes
        };
        let jpeg = encoded(&|bytes| {
            let mut encoder = JpegEncoder::new_with_quality(bytes, 95);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder.write_image(&picture, 32, 16, ExtendedColorType::Rgb8).unwrap();
        });
        let png = encoded(&|bytes| {
            let mut encoder = PngEncoder::new(bytes);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder.write_image(&picture, 32, 16, ExtendedColorType::Rgb8).unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("1.jpg", jpeg),
            ("2.png", png),
            ("3.tiff", tiff(&gray, (32, 16), orientation)),
            ("4.webp", webp(&simple, (32, 16), orientation)),
        ] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        // By where the stored upper left and upper right corners are shown (EXIF 2.32, 4.6.4).
        let (w, h) = if orientation < 5 { (31, 15) } else { (15, 31) };
        let (dark, gray) = match orientation {
            1 => ((0, 0), (w, 0)),
            2 => ((w, 0), (0, 0)),
            3 => ((w, h), (0, h)),
            4 => ((0, h), (w, h)),
            5 => ((0, 0), (0, h)),
            6 => ((w, 0), (w, h)),
            7 => ((w, h), (w, 0)),
            _ => ((0, h), (0, 0)),
        };
        let frames = read(dir.path(), Sample::All, Access::Auto);
        assert_eq!(frames.len(), 4, "{orientation}");
        for (i, name) in ["1.jpg", "2.png", "3.tiff", "4.webp"].iter().enumerate() {
            let single = read(&dir.path().join(name), Sample::All, Access::Auto);
            // Before a pixel is decoded: of a file, and of a directory with it alone.
            let alone = tempfile::tempdir().unwrap();
            std::fs::copy(dir.path().join(name), alone.path().join(name)).unwrap();
            for path in [&dir.path().join(name), alone.path()] {
                let request = FrameRequest::new(Sample::All, Window::default());
                let scanned = scan(path, &request, &ReadLimits::default()).unwrap();
                assert_eq!(scanned.single_image(), Some((w + 1, h + 1)), "{}, {orientation}", path.display());
            }
            for image in [&frames[i].image, &single[0].image] {
                let at = |(x, y): (u32, u32)| image.get_pixel(x, y).0[1];
                assert_eq!(image.dimensions(), (w + 1, h + 1), "{name}, {orientation}");
                assert!(
                    at(dark) < 40 && (90..150).contains(&at(gray)),
                    "{name}, {orientation}: {} {}",
                    at(dark),
                    at(gray)
                );
            }
        }
    }
}

#[test]
fn frames_of_a_directory_are_in_the_order_of_their_numbers_without_hidden_ones() {
    let dir = tempfile::tempdir().unwrap();
    for i in 1..=12 {
        RgbImage::from_pixel(4, 4, Rgb([i * 10; 3])).save(dir.path().join(format!("frame{i}.png"))).unwrap();
    }
    RgbImage::new(2, 2).save(dir.path().join(".thumb.png")).unwrap();
    std::fs::write(dir.path().join("._frame1.png"), [0; 80]).unwrap();
    let frames = read(dir.path(), Sample::All, Access::Auto);
    let levels: Vec<u8> = frames.iter().map(|frame| frame.image.get_pixel(0, 0).0[0]).collect();
    assert_eq!(levels, (1..=12).map(|i| i * 10).collect::<Vec<u8>>());
}

/// A second of pictures that are dark on the left, with a message of their orientation at each key frame.
fn with_messages(display: &str, name: &str) -> crate::harness::Clip {
    ffmpeg(&format!(
        "-f lavfi -i color=black:size=32x48:rate=25:duration=2 -f lavfi -i color=white:size=32x48:rate=25:duration=2 \
         -filter_complex hstack -c:v libx264 -preset ultrafast -bf 2 -g 25 -pix_fmt yuv420p \
         -bsf:v h264_metadata=display_orientation=insert:{display} {name}"
    ))
}

/// Where the dark side is: left, top, right or bottom.
fn dark_side(image: &RgbImage) -> &'static str {
    let (w, h) = image.dimensions();
    let is_dark = |x: u32, y: u32| image.get_pixel(x, y).0[1] < 60;
    match [is_dark(3, 3), is_dark(w - 4, 3), is_dark(3, h - 4), is_dark(w - 4, h - 4)] {
        [true, false, true, false] => "left",
        [true, true, false, false] => "top",
        [false, true, false, true] => "right",
        [false, false, true, true] => "bottom",
        corners => panic!("{corners:?}"),
    }
}

#[test]
fn an_orientation_that_a_stream_tells_holds_until_the_next_one() {
    for (display, side) in [
        // Anticlockwise.
        ("rotate=90", "bottom"),
        ("rotate=180", "right"),
        ("rotate=270", "top"),
        ("flip=horizontal", "right"),
        ("flip=vertical", "left"),
        ("rotate=90:flip=horizontal", "top"),
    ] {
        for name in ["a.ts", "a.mp4", "a.mkv", "a.h264"] {
            let clip = with_messages(display, name);
            for access in [Access::Straight, Access::Seek] {
                let frames = read(&clip.path, Sample::All, access);
                assert_eq!(frames.len(), 50, "{display}, {name}");
                for frame in &frames {
                    assert_eq!(dark_side(&frame.image), side, "{display}, {name}, {access:?}: frame {}", frame.index);
                }
                // From the middle of a group, where no message is near.
                let frames = read(&clip.path, Sample::uniform(3), access);
                assert!(frames.iter().all(|frame| dark_side(&frame.image) == side), "{display}, {name}, {access:?}");
            }
        }
    }
}

#[test]
fn another_orientation_in_the_middle_is_obeyed() {
    let (first, second) = (with_messages("rotate=90", "a.mp4"), with_messages("rotate=270", "b.mp4"));
    let upright = with_messages("rotate=0", "c.mp4");
    let list = first.path.with_file_name("list.ffconcat");
    let lines = [&first, &second, &upright].map(|clip| format!("file '{}'\n", clip.path.display())).concat();
    std::fs::write(&list, format!("ffconcat version 1.0\n{lines}")).unwrap();
    for name in ["a.mp4", "a.mkv", "a.ts"] {
        let joined = ffmpeg(&format!("-f concat -safe 0 -i {} -c copy {name}", list.display()));
        for access in [Access::Straight, Access::Seek] {
            for sample in [Sample::All, Sample::uniform(9)] {
                for frame in read(&joined.path, sample, access) {
                    let side = ["bottom", "top", "left"][frame.index.0 / 50];
                    assert_eq!(dark_side(&frame.image), side, "{name}, {access:?}: frame {}", frame.index);
                }
            }
        }
    }
}
