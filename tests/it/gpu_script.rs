//! `benches/gpu.sh` in its small form, on the CPU: comparison of ids, table, verdicts.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::repository;

fn measure(binary: &Path, out: &Path) -> (Output, Value) {
    let mut command = Command::new("bash");
    command.arg(repository("benches/gpu.sh")).arg(out).env("VIDENSE", binary).env("HF_HUB_OFFLINE", "1");
    command.env("DEVICE", "cpu").env("DTYPE", "f32").env("RUNS", "1").env("SMOKE", "1");
    let output = command.output().unwrap();
    let json = std::fs::read_to_string(out.join("gpu.json")).unwrap_or_default();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}\n{words}")))
}

fn row<'a>(table: &'a Value, beginning: &str) -> &'a Value {
    let mut rows = table["rows"].as_array().unwrap().iter();
    rows.find(|row| row["name"].as_str().unwrap().starts_with(beginning)).unwrap()
}

#[test]
fn the_script_compares_ids_and_judges_them() {
    let dir = tempfile::tempdir().unwrap();
    let (output, table) = measure(Path::new(env!("CARGO_BIN_EXE_vidense")), &dir.path().join("good"));
    assert_eq!(output.status.code(), Some(0), "{table}");
    for precision in ["f32", "f16"] {
        let found = row(&table, &format!("ids equal to the CPU's f32, {precision}"));
        assert_eq!((&found["value"], &found["verdict"]), (&100.into(), &"met".into()), "{table}");
        let found = row(&table, &format!("next ids equal after the same prefix, {precision}"));
        assert_eq!((&found["value"], &found["verdict"]), (&100.into(), &"met".into()), "{table}");
    }
    assert_eq!(row(&table, "cases without an answer")["value"], 0);
    assert_eq!(row(&table, "SigLIP")["verdict"], "unmeasured");
    assert!(row(&table, "run: 2 videos")["value"].as_f64().unwrap() > 0.0);
    let page = std::fs::read_to_string(dir.path().join("good/gpu.md")).unwrap();
    assert!(page.contains("| the same run twice gives the same ids | 1  | == 1 | met |"), "{page}");

    // A binary whose ids in f16 are others, and never the same twice.
    let wrong = dir.path().join("wrong");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *f16*) sed=\"s/token_ids\\\":\\[/&$$,/\" ;; *) sed= ;; esac\n{} \"$@\" | sed \"$sed\"\n",
        env!("CARGO_BIN_EXE_vidense")
    );
    std::fs::write(&wrong, script).unwrap();
    std::fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (output, table) = measure(&wrong, &dir.path().join("bad"));
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert_eq!(row(&table, "ids equal to the CPU's f32, f32")["verdict"], "met", "{table}");
    assert_eq!(row(&table, "ids equal to the CPU's f32, f16")["verdict"], "missed", "{table}");
    assert_eq!(row(&table, "the same run twice")["verdict"], "missed", "{table}");
}
