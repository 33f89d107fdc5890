//! Download of a hub id: once, over the hub's own protocol, from a server inside the test.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use crate::harness::{ids, json, repository};

/// A hub with one model, and the paths that were asked of it.
struct FakeHub {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeHub {
    fn serve(model: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (model, log) = (model.clone(), Arc::clone(&log));
                std::thread::spawn(move || while answer(stream.as_ref().unwrap(), &model, &log).is_some() {});
            }
        });
        Self { endpoint, asked }
    }
}

/// Answers one request; `None` when the client has gone.
fn answer(mut stream: &TcpStream, model: &Path, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    log.lock().unwrap().push(path.clone());
    let reply = if path.starts_with("/api/models/org/tiny") {
        let files = std::fs::read_dir(model).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let siblings: Vec<_> =
            files.chain(["README.md".to_owned()]).map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"sha": "abc", "siblings": siblings}).to_string();
        ("200 OK", String::new(), body.into_bytes())
    } else if let Some(bytes) =
        path.strip_prefix("/org/tiny/resolve/main/").and_then(|name| std::fs::read(model.join(name)).ok())
    {
        let range =
            headers.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let (start, end) = range.as_deref().and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
        let (start, last) =
            (start.parse::<usize>().unwrap(), end.parse().unwrap_or(bytes.len() - 1).min(bytes.len() - 1));
        let extra = format!(
            "etag: \"{}-{}\"\r\nx-repo-commit: abc\r\ncontent-range: bytes {start}-{last}/{}\r\n",
            path.len(),
            bytes.len(),
            bytes.len()
        );
        ("206 Partial Content", extra, bytes[start..=last].to_vec())
    } else {
        ("404 Not Found", String::new(), Vec::new())
    };
    let (status, extra, body) = reply;
    write!(stream, "HTTP/1.1 {status}\r\n{extra}content-length: {}\r\n\r\n", body.len()).ok()?;
    stream.write_all(&body).ok()
}

fn ask(home: &Path, endpoint: &str, offline: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vidense"))
        .args([
            "ask",
            "--model",
            "org/tiny",
            "--sample",
            "all",
            "--temporal",
            "concat",
            "--max-new-tokens",
            "16",
            "--template",
            "vicuna_v1",
            "--json",
        ])
        .arg(repository("tests/golden/checkpoints/frames"))
        .arg("What is happening?")
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HUB_OFFLINE", offline)
        .env_remove("VIDENSE_MODELS")
        .output()
        .unwrap()
}

#[test]
fn a_hub_id_is_fetched_once_and_found_again_offline() {
    let hub = FakeHub::serve(repository("tests/golden/checkpoints/hf-4"));
    let home = tempfile::tempdir().unwrap();
    let expected = json(&repository("tests/golden/checkpoints/expected.json"));
    for offline in ["0", "1"] {
        let output = ask(home.path(), &hub.endpoint, offline);
        let object: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(ids(&object["token_ids"]), ids(&expected["answers"][0]["ids"]));
    }
    let asked = hub.asked.lock().unwrap();
    assert!(asked.iter().any(|path| path.ends_with("/model.safetensors")));
    assert!(!asked.iter().any(|path| path.ends_with("README.md")), "{asked:?}");
}

#[test]
fn what_the_hub_does_not_have_is_told_with_a_way_out() {
    let hub = FakeHub::serve(repository("samples"));
    let home = tempfile::tempdir().unwrap();
    let output = ask(home.path(), &hub.endpoint, "0");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(error.contains("org/tiny: ") && error.contains("VIDENSE_MODELS=<dir>"), "{error}");
}
