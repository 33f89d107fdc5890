//! Mutated files of every input format. `cargo fuzz` runs the same functions; here a bounded number of mutations of
//! each seed runs, more of them with `VIDENSE_FUZZ_CASES=20000 cargo test --test it fuzz::`.

use std::fs;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::harness::repository;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Mutations of each seed, unless the environment says otherwise.
const CASES: usize = 40;

/// Pieces that parsers take apart, or that are extreme.
const PIECES: [&[u8]; 14] = [
    b"\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"{",
    b"[[[[[[[[[[[[[[[[",
    b"\"",
    b"\n",
    b": ",
    b"- ",
    b"&a [*a]",
    b"-1",
    b"1e400",
    b"\xef\xbb\xbf",
    b"99999999999999999999",
];

/// Mutates bytes in a few places: flips, pieces over or between, parts that are cut out or repeated.
fn mutate(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    for _ in 0..=random.next_u32() % 4 {
        let below = |n: usize, random: &mut ChaCha8Rng| random.next_u64() as usize % n.max(1);
        // Headers decide most: half of all places are among the first bytes.
        let reach = if random.next_u32().is_multiple_of(2) { bytes.len().min(256) } else { bytes.len() };
        let at = below(reach, random);
        let piece = PIECES[below(PIECES.len(), random)];
        let end = (at + 1 + below(64, random)).min(bytes.len());
        match random.next_u32() % 6 {
            0 if at < bytes.len() => bytes[at] ^= 1 << below(8, random),
            1 if at < bytes.len() => bytes[at] = random.next_u32() as u8,
            2 => drop(bytes.splice(at..at, piece.iter().copied())),
            3 => drop(bytes.splice(at..(at + piece.len()).min(bytes.len()), piece.iter().copied())),
            4 => drop(bytes.drain(at.min(end)..end)),
            5 => {
                let part = bytes[at.min(end)..end].to_vec();
                let to = below(bytes.len(), random);
                bytes.splice(to..to, part);
            }
            _ => {}
        }
    }
}

/// Files of a directory, in the order of their names; none without the directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Runs a target over inputs that once made a reader panic, over its seeds, and over mutations of these.
fn run(name: &str, target: fn(&[u8]) -> bool) {
    run_cases(name, target, CASES);
}

fn run_cases(name: &str, target: fn(&[u8]) -> bool, default: usize) {
    let cases = std::env::var("VIDENSE_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    for path in files(&repository("fuzz/regressions").join(name)) {
        assert!(!target(&fs::read(&path).unwrap()), "{name}: {} is understood", path.display());
    }
    let seeds = files(&repository("fuzz/seeds").join(name));
    assert!(!seeds.is_empty(), "{name} has no seed");
    for path in seeds {
        let seed = fs::read(&path).unwrap();
        assert!(target(&seed), "{name}: the seed {} is not understood", path.display());
        for case in 0..cases {
            let mut bytes = seed.clone();
            mutate(&mut bytes, &mut ChaCha8Rng::seed_from_u64(case as u64));
            let result = std::panic::catch_unwind(|| target(&bytes));
            assert!(result.is_ok(), "{name}: mutation {case} of {} panics", path.display());
        }
    }
}

#[test]
fn mutated_pipelines_never_panic() {
    run("pipeline", targets::pipeline);
}

#[test]
fn mutated_manifests_never_panic() {
    run("manifest", targets::manifest);
}

#[test]
fn mutated_questions_never_panic() {
    run("questions", targets::questions);
}

#[test]
fn mutated_results_never_panic() {
    run("results", targets::results);
}

#[test]
fn mutated_tokenizers_never_panic() {
    run("tokenizer", targets::tokenizer);
}

#[test]
fn mutated_safetensors_never_panic() {
    run("safetensors", targets::safetensors);
}

#[test]
fn mutated_gguf_files_never_panic() {
    run("gguf", targets::gguf);
}

/// 10,000 mutations in all.
#[test]
fn mutated_chat_completions_never_panic() {
    let n_seeds = files(&repository("fuzz/seeds/chat")).len();
    run_cases("chat", targets::chat, 10_000_usize.div_ceil(n_seeds));
}
