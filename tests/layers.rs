//! The layering of the crate, read off its `use crate::` lines: a lower layer never imports a higher one, and names
//! that belong to one file stay there.

#![allow(clippy::expect_used, reason = "a test that fails must say so loudly")]

use std::path::{Path, PathBuf};

/// Every module of the library with its layer. The binary's `cli` is layer 8 and imports the library as `vidense::`.
const LAYERS: [(&str, u8); 27] = [
    ("error", 0),
    ("units", 0),
    ("device", 0),
    ("files", 0),
    ("choice", 0),
    ("video", 1),
    ("image", 1),
    ("weights", 1),
    ("text", 1),
    ("world", 1),
    ("exec", 1),
    ("records", 1),
    ("kernels", 2),
    ("nn", 2),
    ("vision", 2),
    ("connector", 2),
    ("projector", 2),
    ("temporal", 2),
    ("language", 2),
    ("vlm", 3),
    ("engine", 4),
    ("spec", 5),
    ("pipeline", 6),
    ("train", 7),
    ("eval", 7),
    ("batch", 7),
    ("bench", 7),
];

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|&(_, layer)| layer)
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Each source file's path below `src`, and its text.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let name = |path: &PathBuf| path.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).expect("a source file"))).collect()
}

/// The module of the library that a file belongs to.
fn module(file: &str) -> &str {
    file.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// The modules that follow each `crate::` in a text, those in braces included.
fn imported(text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let list = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or(rest);
        let names = if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        for name in names {
            let word: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            modules.push(word);
        }
    }
    modules
}

#[test]
fn no_module_imports_a_higher_layer() {
    let mut checked = 0;
    for (file, text) in files() {
        let Some(own) = layer(module(&file)) else { continue };
        for import in imported(&text) {
            let Some(other) = layer(&import) else {
                panic!("{file}: `crate::{import}` is in no layer; add it to LAYERS")
            };
            assert!(other <= own, "{file} (layer {own}) imports {import} (layer {other})");
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} imports were found: is the reading of `use` lines broken?");
}

#[test]
fn every_module_of_the_library_has_a_layer() {
    for (file, _) in files() {
        let module = module(&file);
        assert!(layer(module).is_some() || ["lib", "main", "cli"].contains(&module), "{file} is in no layer");
    }
}

#[test]
fn leaves_do_not_know_each_other() {
    for (file, text) in files() {
        if layer(module(&file)) == Some(1) {
            for import in imported(&text) {
                assert!(layer(&import) == Some(0) || import == module(&file), "{file} imports its sibling {import}");
            }
        }
    }
}

/// The order inside layer 2: kernels, then the layers made of them, then the networks made of those.
const NETWORKS: [(&str, u8); 7] =
    [("kernels", 0), ("nn", 1), ("vision", 2), ("connector", 2), ("projector", 2), ("temporal", 2), ("language", 2)];

fn network(module: &str) -> Option<u8> {
    NETWORKS.iter().find(|(name, _)| *name == module).map(|&(_, rank)| rank)
}

#[test]
fn kernels_come_before_layers_and_layers_before_networks() {
    for (name, rank) in LAYERS {
        assert_eq!(network(name).is_some(), rank == 2, "{name} is in layer 2, or in NETWORKS, but not in both");
    }
    for (file, text) in files() {
        let Some(own) = network(module(&file)) else { continue };
        for import in imported(&text).iter().filter(|import| *import != module(&file)) {
            let is_below = network(import).is_none_or(|other| other < own);
            assert!(is_below, "{file} imports {import}, which does not come before {}", module(&file));
        }
    }
}

#[test]
fn networks_never_ask_for_their_device() {
    for (file, text) in files() {
        if network(module(&file)).is_some_and(|rank| rank > 0) {
            for word in ["is_cpu", "is_cuda", "is_metal"] {
                assert!(
                    !text.contains(word),
                    "{file} calls {word}: what depends on the device is a method of kernels::Kernels"
                );
            }
        }
    }
}

#[test]
fn only_the_codec_files_name_ffmpeg_and_only_the_cli_prints() {
    for (file, text) in files() {
        assert!(
            ["video/demux.rs", "video/detect.rs", "video/encode.rs", "video/linked.rs", "video/streams.rs"]
                .contains(&&*file)
                || file.starts_with("video/decode/")
                || !text.contains("ffmpeg_next"),
            "{file} names ffmpeg_next"
        );
        let outside = file == "main.rs" || file.starts_with("cli/");
        for word in ["println!", "eprintln!", "anyhow", "ExitCode", "process::exit"] {
            assert!(outside || !text.contains(word), "{file} uses {word}");
        }
    }
}

#[test]
fn files_stay_small() {
    for (file, text) in files() {
        assert!(text.lines().count() <= 700, "{file} has {} lines", text.lines().count());
        assert!(file != "main.rs" || text.lines().count() < 60, "main.rs has {} lines", text.lines().count());
    }
}
