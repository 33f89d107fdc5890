//! Swapped names of local files, and broken addresses.

use super::*;

#[cfg(target_os = "linux")]
#[test]
fn a_local_file_is_the_one_that_was_opened_whatever_becomes_of_its_name() {
    let root = tempfile::tempdir().expect("room");
    let allowed = root.path().join("allowed");
    std::fs::create_dir(&allowed).expect("ours");
    let file = allowed.join("a b.mp4");
    std::fs::write(&file, "video").expect("ours");
    std::fs::write(root.path().join("canary"), "canary").expect("ours");
    let files = AllowedDirectories::new([&allowed]).expect("a directory");
    let toy = ToyResolver::new(MediaPolicy { files, ..MediaPolicy::default() });
    let url = format!("file://{}/a%20b.mp4", allowed.display());
    let media = toy.url(&url).expect("allowed");
    assert_eq!((toy.n_bytes(), &*media.name), (0, &*file.display().to_string()), "nothing is copied");
    assert_eq!(toy.url(&url).expect("allowed").key, media.key);
    assert_eq!(toy.n_probes(), 1);
    std::fs::remove_file(&file).expect("ours");
    std::os::unix::fs::symlink(root.path().join("canary"), &file).expect("ours");
    assert_eq!(std::fs::read(&media.path).expect("open"), b"video");
    assert_eq!(toy.url(&url).expect_err("a link to the outside").kind(), Kind::Refused);
    let closed = ToyResolver::new(MediaPolicy::default());
    assert_eq!(closed.url(&url).expect_err("closed by default").kind(), Kind::Refused);
}

/// Returns the next number of a sequence without a pattern (xorshift64).
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 8) as usize
}

#[test]
fn broken_addresses_are_errors_and_leave_nothing() {
    const N: usize = 10_000;
    let toy = ToyResolver::new(MediaPolicy { max_bytes: 4096, max_frames: 64, ..MediaPolicy::default() });
    let seeds = [
        data(b"video"),
        frame_list(3),
        "file:///etc/passwd".to_owned(),
        "upload:vid_00000000000000000000000000000000".to_owned(),
        "data:video/webm;codecs=vp8,opus;base64,AAAA".to_owned(),
    ];
    let signs: Vec<char> = ";,:/=%.+-_A0é\0\n\u{202e} ".chars().collect();
    let (mut state, mut n_valid) = (0x9e37_79b9_7f4a_7c15, 0);
    for i in 0..N {
        let mut text: Vec<char> = seeds[i % seeds.len()].chars().collect();
        for _ in 0..1 + next(&mut state) % 4 {
            let at = next(&mut state) % (text.len() + 1);
            match next(&mut state) % 4 {
                0 if at < text.len() => drop(text.remove(at)),
                1 => text.insert(at, signs[next(&mut state) % signs.len()]),
                2 if at < text.len() => text[at] = signs[next(&mut state) % signs.len()],
                3 => text.truncate(at.max(1)),
                _ => text.extend(text.clone().iter().take(64)),
            }
        }
        let text: String = text.into_iter().collect();
        let source = if i % 3 == 0 { MediaSource::Frames(vec![text]) } else { MediaSource::Url(text) };
        n_valid += usize::from(toy.resolve(source).is_ok());
    }
    assert!(n_valid > 0 && n_valid < N / 2, "{n_valid} of {N} were valid");
    assert_eq!(toy.n_bytes(), 0);
}
