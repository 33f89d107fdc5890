//! Evaluation on benchmarks.

mod formats;
mod parsers;
mod runs;

use vidense::eval::benchmark::read_benchmark;
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

    /// Reads questions by a format written as YAML in one line.
    fn read(&self, format: &str) -> Result<Vec<BenchmarkQuestion>, String> {
        let is_open = ["zero_shot_qa", "vcg_bench", "next_qa_open"].iter().any(|name| format.starts_with(name));
        let (text, metric) = if is_open { ("{question}", "exact") } else { ("{question}{options}", "choice") };
        let (text, metric) = if format.contains("yes_no") { ("{question}", "yes_no") } else { (text, metric) };
        let path = self.dir.path().join("spec.yaml");
        let spec = format!(
            "name: x\nsplit: test\nsource: x\nformat: {{ {format} }}\nprompt: {{ text: \"{text}\", source: x }}\nmetrics: [{metric}]\n"
        );
        std::fs::write(&path, spec).unwrap();
        let spec = read_benchmark(&path).map_err(|error| error.to_string())?;
        let found = spec
            .format
            .read(self.dir.path())
            .map_err(|error| error.to_string().replace(&format!("{}/", self.dir.path().display()), ""))?;
        Ok(found.questions)
    }
}
