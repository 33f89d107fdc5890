//! Videos named by URL, from outside: no command leads the binary to an address of this machine or its networks.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::repository;

fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command.current_dir(dir).env("VIDENSE_CACHE", dir.join("cache")).env("HF_HUB_OFFLINE", "1").env("TMPDIR", dir);
    // A proxy would connect for the command.
    for variable in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env(variable, "http://127.0.0.1:9");
    }
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Listener on all addresses of this machine, which counts as untouched while nothing connects.
struct Canary(TcpListener);

impl Canary {
    fn new() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    fn is_untouched(&self) -> bool {
        self.0.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

#[test]
fn no_list_of_hosts_leads_to_this_machine() {
    let (dir, canary) = (tempfile::tempdir().unwrap(), Canary::new());
    let port = canary.port();
    // Other names are not looked up: that would ask a server of names. Names of other machines are left alone.
    let known = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let is_loopback = |words: &Vec<&str>| {
        words
            .first()
            .and_then(|word| word.parse::<std::net::IpAddr>().ok())
            .is_some_and(|address| address.is_loopback())
    };
    let lines = known.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace().collect());
    let known = lines.filter(is_loopback).flat_map(|words: Vec<&str>| words.into_iter().skip(1));
    let literal = [
        "127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "user:secret@localhost",
    ];
    for (i, host) in literal.into_iter().chain(known.take(8)).enumerate() {
        let url = format!("http://{host}:{port}/a.mp4?token=secret");
        let commands = [&["frames", &url][..], &["ask", &url, "Why?"], &["inspect", &url], &["chat", &url]];
        let n_commands = if i < 2 { commands.len() } else { 1 };
        for command in &commands[..n_commands] {
            let flags = ["--allow-hosts", &format!("*,*:{port},8.8.8.8:{port}"), "--download-time", "5s"];
            let found = run(dir.path(), &[command, &flags[..]].concat());
            assert_eq!(found.status.code(), Some(2), "{command:?}: {}", err(&found));
            let told = err(&found);
            assert!(told.starts_with("error: http://") && !told.contains("secret"), "{command:?}: {told}");
            assert!(canary.is_untouched(), "{command:?}");
        }
    }
    // Not even a directory for the download is left.
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("vidense-")), "{left:?}");
}

#[test]
fn lists_of_local_hosts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for hosts in ["localhost", "127.0.0.1:8080", "10.0.0.1", "[::1]", "*.local", "http://example.org", ""] {
        let found = run(dir.path(), &["ask", "https://example.org/a.mp4", "Why?", "--allow-hosts", hosts]);
        assert_eq!(found.status.code(), Some(2), "{hosts}: {}", err(&found));
        assert!(err(&found).contains("--allow-hosts"), "{hosts}: {}", err(&found));
    }
}

#[test]
fn a_host_outside_of_the_list_is_named_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let url = "https://example.org/a.mp4?token=secret";
    let found = run(dir.path(), &["ask", url, "Why?", "--allow-hosts", "example.com"]);
    let expected =
        "error: https://example.org/a.mp4: host `example.org` is not allowed; hint: --allow-hosts example.org\n";
    assert_eq!((found.status.code(), err(&found).as_str()), (Some(2), expected));
    let found = run(dir.path(), &["ask", url, "Why?"]);
    let expected = "error: https://example.org/a.mp4: a URL, which is not fetched; hint: download it first, or allow \
                    its host: --allow-hosts example.org\n";
    assert_eq!((found.status.code(), err(&found).as_str()), (Some(2), expected));
}

#[test]
fn urls_of_a_manifest_fail_alone_without_a_connection() {
    let (dir, canary) = (tempfile::tempdir().unwrap(), Canary::new());
    std::fs::copy(repository("samples/three_shapes.mp4"), dir.path().join("a.mp4")).unwrap();
    let port = canary.port();
    let manifest = format!(
        "a.mp4\nhttp://localhost:{port}/x\nhttp://127.0.0.1:{port}/x\nhttp://user:secret@a.org/x\nhttps://example.org/x\n"
    );
    std::fs::write(dir.path().join("m.txt"), manifest).unwrap();
    let pipeline = repository("pipelines/mini.yaml");
    let batch = |out: &str, more: &[&str]| {
        let arguments = ["batch", pipeline.to_str().unwrap(), "m.txt", "--out", out, "-q", "Why?"];
        let found = run(dir.path(), &[&arguments[..], &["--set", "sample.uniform.frames=1"], more].concat());
        assert_eq!(found.status.code(), Some(1), "{}", err(&found));
        let text = std::fs::read_to_string(dir.path().join(out).join("answers.jsonl")).unwrap();
        text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    let kinds = |lines: &[serde_json::Value]| {
        let kind = |line: &serde_json::Value| match line["error"]["kind"].as_str() {
            Some(kind) => {
                format!("{} {} {kind}", line["video"].as_str().unwrap(), line["error"]["stage"].as_str().unwrap())
            }
            None => format!("{} answered", line["video"].as_str().unwrap()),
        };
        let mut kinds: Vec<String> = lines.iter().map(kind).collect();
        kinds.sort();
        kinds
    };
    let lines = batch("r", &["--allow-hosts", &format!("*:{port}")]);
    let expected = [
        "a.mp4 answered".to_owned(),
        format!("http://127.0.0.1:{port}/x decode refused"),
        format!("http://localhost:{port}/x decode refused"),
        "https://example.org/x decode refused".to_owned(),
        "m.txt:4 list manifest".to_owned(),
    ];
    assert_eq!(kinds(&lines), expected);
    assert!(lines.iter().all(|line| !line.to_string().contains("secret")), "{lines:?}");
    assert!(!dir.path().join("r/downloads").exists() && canary.is_untouched());
    // Without the flag, URLs are paths without a file.
    let without = batch("s", &[]);
    assert_eq!(without.iter().filter(|line| line["error"]["kind"] == "not_found").count(), 4, "{without:?}");
    assert!(canary.is_untouched());
}
