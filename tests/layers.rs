//! Layers of the crate, read from the table in `src/lib.rs`: a module imports from lower layers only, and inside a
//! layer from modules that the table ranks lower. Names that belong to one file stay there.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Layer of the binary's `cli`, which imports the library as `vidense::`.
const OUTSIDE: usize = 8;

/// Place of a module in the table: its layer, then its rank in the layer.
type Rank = (usize, usize);

/// One source file.
struct Source {
    /// Path below `src`, with `/`.
    file: String,
    text: String,
    syntax: syn::File,
}

impl Source {
    /// Top-level module that the file belongs to.
    fn module(&self) -> &str {
        self.file.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Path of the file's module.
    fn module_path(&self) -> Vec<String> {
        let path = self.file.trim_end_matches(".rs");
        path.trim_end_matches("/mod").split('/').map(str::to_owned).collect()
    }

    /// Absolute paths that the file names, those of other crates included.
    fn paths(&self) -> Vec<Vec<String>> {
        let mut found = PathFinder { module: self.module_path(), paths: Vec::new() };
        found.visit_file(&self.syntax);
        found.paths
    }

    /// Top-level modules of the crate that the file names.
    fn imports(&self) -> Vec<String> {
        self.paths().into_iter().filter(|path| path[0] == "crate").filter_map(|path| path.get(1).cloned()).collect()
    }
}

/// Collects paths; `crate`, `self` and `super` at their beginning are resolved to `crate::...`.
struct PathFinder {
    module: Vec<String>,
    paths: Vec<Vec<String>>,
}

impl PathFinder {
    fn add(&mut self, path: &[String]) {
        let n_up = path.iter().take_while(|segment| *segment == "super").count();
        let path = match path.first().map(String::as_str) {
            Some("super") => {
                let kept = self.module.len().saturating_sub(n_up);
                ["crate".to_owned()].iter().chain(&self.module[..kept]).chain(&path[n_up..]).cloned().collect()
            }
            Some("self") => ["crate".to_owned()].iter().chain(&self.module).chain(&path[1..]).cloned().collect(),
            Some(_) => path.to_vec(),
            None => return,
        };
        self.paths.push(path);
    }

    fn add_tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |name: String| prefix.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&with(path.ident.to_string()), &path.tree),
            syn::UseTree::Name(name) => self.add(&with(name.ident.to_string())),
            syn::UseTree::Rename(rename) => self.add(&with(rename.ident.to_string())),
            syn::UseTree::Glob(_) => self.add(prefix),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(prefix, tree)),
        }
    }

    /// Adds the paths in the tokens of a macro, which are no syntax tree.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut n_colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if n_colons != 2 {
                        self.add(&std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    n_colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => n_colons += 1,
                TokenTree::Group(group) => {
                    self.add(&std::mem::take(&mut path));
                    n_colons = 0;
                    self.add_tokens(group.stream());
                }
                _ => {
                    self.add(&std::mem::take(&mut path));
                    n_colons = 0;
                }
            }
        }
        self.add(&path);
    }
}

impl<'ast> Visit<'ast> for PathFinder {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Source files, parsed.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(&root(), &mut paths);
    let source = |path: &PathBuf| {
        let file = path.strip_prefix(root()).expect("below src").to_string_lossy().replace('\\', "/");
        let text = std::fs::read_to_string(path).expect("a source file");
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        Source { file, text, syntax }
    };
    paths.iter().map(source).collect()
}

/// Reads the table of layers: `| 2 networks | [`kernels`] < [`nn`] < [`vision`], [`connector`] |` ranks `kernels` below
/// `nn`, and both below `vision` and `connector`, which do not import each other.
fn ranks() -> BTreeMap<String, Rank> {
    let lib = std::fs::read_to_string(root().join("lib.rs")).expect("lib.rs");
    let mut ranks = BTreeMap::new();
    for row in lib.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut columns = row.split(" | ");
        let layer = columns.next().and_then(|name| name.split(' ').next()?.parse().ok());
        let Some(layer) = layer.filter(|layer| *layer < OUTSIDE) else { continue };
        for (rank, modules) in columns.next().unwrap_or_default().split('<').enumerate() {
            for module in modules.split('`').skip(1).step_by(2) {
                ranks.insert(module.to_owned(), (layer, rank));
            }
        }
    }
    ranks
}

#[test]
fn a_module_imports_lower_ranks_only() {
    let (ranks, mut checked) = (ranks(), 0);
    for source in sources() {
        let Some(&own) = ranks.get(source.module()) else { continue };
        for import in source.imports() {
            // Items of lib.rs itself, such as a macro, have no module.
            let Some(&other) = ranks.get(&import) else { continue };
            let file = &source.file;
            assert!(
                other < own || import == source.module(),
                "{file} (layer {}, rank {}) imports {import} (layer {}, rank {})",
                own.0,
                own.1,
                other.0,
                other.1
            );
            checked += 1;
        }
    }
    assert!(checked > 500, "only {checked} imports were found: are paths read as they are written?");
}

#[test]
fn every_module_of_the_library_is_in_the_table() {
    let ranks = ranks();
    for source in sources() {
        let module = source.module();
        assert!(ranks.contains_key(module) || ["lib", "main", "cli"].contains(&module), "{} has no layer", source.file);
    }
    for module in ranks.keys() {
        let exists = root().join(module).is_dir() || root().join(format!("{module}.rs")).is_file();
        assert!(exists, "the table in lib.rs names `{module}`, which does not exist");
    }
}

#[test]
fn paths_are_resolved() {
    let paths = |file: &str, text: &str| {
        let syntax = syn::parse_file(text).expect("Rust");
        let source = Source { file: file.to_owned(), text: text.to_owned(), syntax };
        source.paths().into_iter().map(|path| path.join("::")).collect::<Vec<_>>()
    };
    let text = "use super::{x::{Y, Z as W}, super::engine::*}; fn f() { let _ = crate::spec::Plan; }";
    let expected = ["crate::vlm::x::Y", "crate::vlm::x::Z", "crate::engine", "crate::spec::Plan"];
    assert_eq!(paths("vlm/load.rs", text), expected);
    let text = "mod tests { use super::super::vlm; } fn f() { m!(a, crate::batch::B { c: std::fs::read }); }";
    let found = paths("units.rs", text);
    for path in ["crate::vlm", "crate::batch::B", "std::fs::read"] {
        assert!(found.iter().any(|other| other == path), "{path} in {found:?}");
    }
    assert_eq!(paths("vlm/mod.rs", "use super::units;"), ["crate::units"]);
}

#[test]
fn networks_never_ask_for_their_device_and_never_open_a_file() {
    let ranks = ranks();
    let kernels = ranks["kernels"];
    for source in sources() {
        let Some(&rank) = ranks.get(source.module()) else { continue };
        if rank.0 != kernels.0 || rank == kernels {
            continue;
        }
        for word in ["is_cpu", "is_cuda", "is_metal"] {
            let rule = "what depends on the device is a method of kernels::Kernels";
            assert!(!source.text.contains(word), "{} calls {word}: {rule}", source.file);
        }
        for path in source.paths() {
            let is_file = path.starts_with(&["std".to_owned(), "fs".to_owned()]) || path[0] == "memmap2";
            assert!(!is_file, "{} names {}: a network takes tensors, never a path", source.file, path.join("::"));
        }
    }
}

#[test]
fn libraries_with_one_owner_are_named_by_it_alone() {
    let owners: [(&str, &[&str]); 4] = [
        ("serde_yaml", &["spec/yaml.rs"]),
        (
            "ffmpeg_next",
            &[
                "video/demux.rs",
                "video/detect.rs",
                "video/encode.rs",
                "video/linked.rs",
                "video/media.rs",
                "video/scale.rs",
                "video/standalone.rs",
                "video/streams.rs",
                "video/decode/",
            ],
        ),
        ("anyhow", &["main.rs", "cli/"]),
        ("clap", &["main.rs", "cli/"]),
    ];
    for source in sources() {
        let paths = source.paths();
        for (library, files) in owners {
            let is_owner = files.iter().any(|file| source.file.starts_with(file));
            let names = paths.iter().any(|path| path[0] == library);
            assert!(is_owner || !names, "{} names {library}, which belongs to {files:?}", source.file);
        }
    }
}

#[test]
fn only_the_binary_prints() {
    for source in sources() {
        let outside = source.file == "main.rs" || source.file.starts_with("cli/");
        for word in ["println!", "eprintln!", "ExitCode", "process::exit"] {
            assert!(outside || !source.text.contains(word), "{} uses {word}", source.file);
        }
    }
}

#[test]
fn files_stay_small() {
    for Source { file, text, .. } in sources() {
        assert!(text.lines().count() <= 700, "{file} has {} lines", text.lines().count());
        assert!(file != "main.rs" || text.lines().count() < 60, "main.rs has {} lines", text.lines().count());
    }
}
