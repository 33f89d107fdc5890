//! Evaluation on benchmarks.

mod directories;
mod exports;
mod formats;
mod judge;
mod matrix;
mod parsers;
mod resumed;
mod rows;
mod runs;
mod subtitles;

use vidense::eval::benchmark::{BenchmarkSpec, read_benchmark};
use vidense::eval::dataset::BenchmarkQuestion;

/// A data directory, and a description with this format in it.
struct Replica {
    dir: tempfile::TempDir,
}

impl Replica {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self { dir }
    }

    /// Path of a file of the directory.
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the description of a format that is written as YAML in one line.
    fn spec(&self, format: &str) -> Result<BenchmarkSpec, String> {
        let open = ["zero_shot_qa", "vcg_bench", "next_qa_open", "mlvu_generation"];
        let is_open = open.iter().any(|name| format.starts_with(name)) || format.contains("task: captioning");
        let (text, metric) = match (is_open, format.contains("yes_no")) {
            (true, _) => ("{question}", "exact"),
            (_, true) => ("{question}", "yes_no"),
            _ => ("{question}{options}", "choice"),
        };
        let spec = format!(
            "name: x\nsplit: test\nsource: x\nformat: {{ {format} }}\n\
             prompt: {{ text: \"{text}\", source: x }}\nmetrics: [{metric}]\n"
        );
        std::fs::write(self.path("spec.yaml"), spec).unwrap();
        read_benchmark(&self.path("spec.yaml")).map_err(|error| error.to_string())
    }

    /// Reads questions by a format.
    fn read(&self, format: &str) -> Result<Vec<BenchmarkQuestion>, String> {
        let found = self.spec(format)?.format.read(self.dir.path());
        let prefix = format!("{}/", self.dir.path().display());
        found.map(|found| found.questions).map_err(|error| error.to_string().replace(&prefix, ""))
    }
}
