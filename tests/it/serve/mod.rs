//! `vidense serve` from outside: the binary on a free port of the loopback interface, and a client of a few lines.

mod access;
mod completions;
mod errors;
#[cfg(all(debug_assertions, target_os = "linux"))]
mod hanging;
mod lifecycle;
mod load;
mod reply;
mod slow_clients;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::reply::Reply;
use crate::harness::repository;

const MODEL: &str = "samples/mini";
const VIDEO: &str = "samples/three_shapes.mp4";
/// Time in which a server must load, answer or end. Far more than it takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// The binary, run from the repository, with no model directories, keys or hub of the machine's own.
fn vidense() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command
        .current_dir(repository(""))
        .env_remove("VIDENSE_MODELS")
        .env_remove("VIDENSE_API_KEYS")
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", "/nonexistent");
    command
}

/// A server in a process of its own, which is killed when it is dropped.
struct Server {
    child: Child,
    port: u16,
    log: Arc<Mutex<String>>,
    scratch: Arc<TempDir>,
}

impl Server {
    /// Starts a server of vidense-mini with further flags, and waits until it has loaded.
    fn start(flags: &[&str]) -> Self {
        Self::with_scratch(flags, Arc::new(tempfile::tempdir().unwrap()))
    }

    fn with_scratch(flags: &[&str], scratch: Arc<TempDir>) -> Self {
        let server = Self::spawn(flags, scratch);
        server.wait_until_loaded();
        server
    }

    /// Starts a server whose decoders have a fault that a variable of the environment describes.
    #[cfg(all(debug_assertions, target_os = "linux"))]
    fn with_fault(fault: &str, flags: &[&str]) -> Self {
        let mut command = vidense();
        command.env("VIDENSE_FAULT", fault);
        let server = Self::spawn_as(command, flags, Arc::new(tempfile::tempdir().unwrap()));
        server.wait_until_loaded();
        server
    }

    fn wait_until_loaded(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/health").status != 200 {
            assert!(Instant::now() < deadline, "not loaded: {}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    /// Starts a server, and waits until it listens.
    fn spawn(flags: &[&str], scratch: Arc<TempDir>) -> Self {
        Self::spawn_as(vidense(), flags, scratch)
    }

    fn spawn_as(mut command: Command, flags: &[&str], scratch: Arc<TempDir>) -> Self {
        command.args(["serve", "--listen", "127.0.0.1:0", "--no-cache", "--scratch"]).arg(scratch.path());
        if !flags.contains(&"--model") && !flags.iter().any(|flag| flag.ends_with(".yaml")) {
            command.args(["--model", MODEL]);
        }
        let mut child =
            command.args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let log = Arc::new(Mutex::new(first.clone()));
        let collected = log.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = collected.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let port = first
            .trim_end()
            .trim_end_matches('"')
            .rsplit(':')
            .next()
            .and_then(|port| port.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok());
        let port = port.unwrap_or_else(|| panic!("the first line names no port: {first}"));
        Self { child, port, log, scratch }
    }

    /// Standard error so far.
    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes, closes the sending half if the request says so, and reads the reply to its end.
    fn exchange(&self, request: &[u8]) -> Reply {
        let mut stream = self.connect();
        // A server that refuses early may close before all is sent.
        let _ = stream.write_all(request);
        Reply::read(stream)
    }

    /// Sends a request with headers of its own, each with a line break.
    fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        self.exchange(&self.request(method, path, headers, body))
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let host = if headers.lines().any(|line| line.to_lowercase().starts_with("host:")) {
            String::new()
        } else {
            format!("Host: 127.0.0.1:{}\r\n", self.port)
        };
        let length = if method == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        let head = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{length}{headers}\r\n");
        [head.as_bytes(), body].concat()
    }

    fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", b"")
    }

    /// Begins a request whose body of a declared length does not come, and waits until the server asks for it.
    fn post_without_body(&self, path: &str, n_bytes: usize) -> TcpStream {
        let host = format!("Host: 127.0.0.1:{}\r\n", self.port);
        let length = format!("Content-Length: {n_bytes}\r\n");
        let mut stream = self.connect();
        let head = format!("POST {path} HTTP/1.1\r\n{host}{length}Connection: close\r\nExpect: 100-continue\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut consent = [0; 25];
        stream.read_exact(&mut consent).unwrap();
        assert_eq!(&consent, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream
    }

    /// Sends a chat completion.
    fn complete(&self, body: &Value) -> Reply {
        self.send("POST", "/v1/chat/completions", "Content-Type: application/json\r\n", body.to_string().as_bytes())
    }

    /// Returns the answer to a question about a video.
    fn answer(&self, question: &str) -> String {
        let reply = self.complete(&about_video(question));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    /// Returns a value of /metrics; 0 for a metric without a value.
    fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").text();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a metric satisfies a condition.
    fn wait_for_metric(&self, name: &str, is_reached: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_reached(self.metric(name)) {
            assert!(Instant::now() < deadline, "{name} is {}: {}", self.metric(name), self.log());
            sleep(Duration::from_millis(20));
        }
    }

    #[cfg(unix)]
    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the process ends.
    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sample as a `data:` URI.
fn video_uri() -> String {
    let bytes = std::fs::read(repository(VIDEO)).unwrap();
    format!("data:video/mp4;base64,{}", STANDARD.encode(bytes))
}

/// A body with a question about the sample.
fn about_video(question: &str) -> Value {
    about(&video_uri(), question)
}

/// A body with a question about the video at an address.
fn about(url: &str, question: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": [
        { "type": "video_url", "video_url": { "url": url } },
        { "type": "text", "text": question },
    ] }] })
}

/// A body with further members.
fn with(mut body: Value, members: Value) -> Value {
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    body
}

/// A body whose answer is as long as the limit of its tokens: drawn at a high temperature, with a seed that never draws
/// the end.
fn long_answer() -> Value {
    let drawn = json!({ "temperature": 50.0, "seed": 24, "max_tokens": 700, "stream": true });
    with(about_video("Describe the video."), drawn)
}

/// The answer of `ask`.
fn asked(question: &str) -> String {
    let output = vidense().args(["ask", "--model", MODEL, VIDEO, question]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
}
