//! A fake service on loopback.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{PREDICTED, completion};

/// Response of a fake service to one request.
pub(super) enum Reaction {
    /// The text of a judge.
    Says(&'static str),
    /// A response with a status, headers and a body.
    Responds(&'static str, &'static str, String),
    /// The end of the connection.
    Closes,
    /// Nothing until the client ends the connection.
    Hangs,
}

/// An OpenAI-compatible service on loopback that knows a request by its predicted answer.
pub(super) struct FakeJudge {
    pub(super) port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeJudge {
    /// Starts a service; `react` gets the predicted answer and the number of earlier requests about it.
    pub(super) fn start(react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, react) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(react));
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, react) = (seen.clone(), react.clone());
                std::thread::spawn(move || serve(stream, &seen, &*react));
            }
        });
        Self { port, asked }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked
    }
}

/// Answers one request. A client that goes away is a part of some tests.
fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>, react: &dyn Fn(&str, usize) -> Reaction) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
        let lower = line.to_ascii_lowercase();
        length = lower.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap());
        line.clear();
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let user = body["messages"][1]["content"].as_str().unwrap();
    let name = user.split(PREDICTED).nth(1).unwrap().lines().next().unwrap().to_owned();
    let n_earlier = {
        let mut seen = seen.lock().unwrap();
        seen.push(name.clone());
        seen.iter().filter(|other| **other == name).count() - 1
    };
    let (status, headers, body) = match react(&name, n_earlier) {
        Reaction::Says(text) => ("200 OK", "", completion(text).to_string()),
        Reaction::Responds(status, headers, body) => (status, headers, body),
        Reaction::Closes => return,
        Reaction::Hangs => {
            let _ = reader.read(&mut [0]);
            return;
        }
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    let _ = stream.write_all((head + &body).as_bytes());
}
