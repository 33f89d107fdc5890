//! Errors, each with its status, type and path; and bytes that are not HTTP.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use serde_json::json;

use super::{Server, about, about_video, long_answer, with};

#[test]
fn every_error_has_its_status_and_says_what_is_wrong() {
    let server = Server::start(&["--max-body", "1MiB"]);
    let ask = |members| server.complete(&with(about_video("Why?"), members));
    let reply = ask(json!({ "temperature": -1 }));
    reply.assert_error(400, "BadRequestError", "temperature: invalid number -1; hint: a number from 0");
    assert_eq!(reply.json()["error"]["param"], "temperature");
    ask(json!({ "tmperature": 1 })).assert_error(400, "BadRequestError", "did you mean `temperature`?");
    ask(json!({ "model": "gpt-4o" })).assert_error(404, "NotFoundError", "unknown model `gpt-4o`");
    let long = server.complete(&about_video(&"why ".repeat(2500)));
    long.assert_error(400, "BadRequestError", "over the model's context of 1024");
    let system = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Why?" }]);
    ask(json!({ "messages": system })).assert_error(400, "BadRequestError", "system");
    // 16 bytes that are no video.
    let garbage = server.complete(&about("data:video/mp4;base64,AAECAwQFBgcICQoLDA0ODw==", "Why?"));
    garbage.assert_error(422, "UnprocessableEntityError", "");
    assert_eq!(garbage.json()["error"]["param"], "messages[0].content[0].video_url");
    assert!(!garbage.text().contains(&*server.scratch.path().to_string_lossy()), "{}", garbage.text());
    let broken = server.complete(&about("data:video/mp4;base64,AA-=", "Why?"));
    broken.assert_error(400, "BadRequestError", "base64");
    server.complete(&about("ftp://example.org/a.mp4", "Why?")).assert_error(400, "BadRequestError", "ftp");
    let path = server.get("/v1/completions");
    path.assert_error(404, "NotFoundError", "no such path");
    for path in ["/v1/videos/%ff/frames", "/v1/models/%ff"] {
        server.get(path).assert_error(400, "BadRequestError", "invalid path");
    }
    server.get("/v1/chat/completions").assert_error(405, "MethodNotAllowedError", "GET");
    let form = server.send("POST", "/v1/chat/completions", "Content-Type: text/plain\r\n", b"{}");
    form.assert_error(415, "UnsupportedMediaTypeError", "Content-Type: application/json");
    let large = vec![b' '; (1 << 20) + 1];
    let large = server.send("POST", "/v1/chat/completions", "Content-Type: application/json\r\n", &large);
    large.assert_error(413, "ContentTooLargeError", "over the limit of 1048576 bytes");
    let chunked = format!(
        "POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        server.port,
        format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(17),
    );
    server.exchange(chunked.as_bytes()).assert_error(413, "ContentTooLargeError", "over the limit of 1048576 bytes");
    assert_eq!(server.metric("vidense_request_failure_total{status=\"422\"}"), 1.0);
    assert_eq!(server.metric("vidense_num_requests_running"), 0.0);
    assert!(!server.log().contains("AAECAwQ"), "{}", server.log());
}

#[test]
fn an_error_of_decoding_names_its_part() {
    let server = Server::start(&[]);
    let mut video = std::fs::read(crate::harness::repository(super::VIDEO)).unwrap();
    // The index stays whole, and the packets are zeros: the probe finds frames, and none decodes.
    let packets = video.windows(4).position(|name| name == b"mdat").unwrap();
    let n_bytes = u32::from_be_bytes(video[packets - 4..packets].try_into().unwrap()) as usize;
    video[packets + 4..packets - 4 + n_bytes].fill(0);
    let uri = format!("data:video/mp4;base64,{}", STANDARD.encode(video));
    let mut body = about(&uri, "Why?");
    let content = body["messages"][0]["content"].as_array_mut().unwrap();
    content.insert(0, json!({ "type": "text", "text": "Look:" }));
    for stream in [false, true] {
        let reply = server.complete(&with(body.clone(), json!({ "stream": stream })));
        reply.assert_error(422, "UnprocessableEntityError", "messages[0].content[1].video_url: data: not one frame");
        assert_eq!(reply.json()["error"]["param"], "messages[0].content[1].video_url");
    }
    assert_eq!(server.metric("vidense_request_failure_total{status=\"422\"}"), 2.0);
}

#[test]
fn an_error_after_the_first_byte_is_an_event() {
    // A comment comes at once. The time limit grows until it ends an answer that has begun.
    for limit in ["50ms", "100ms", "200ms", "400ms", "800ms", "1600ms", "3200ms", "6400ms"] {
        let server = Server::start(&["--keep-alive", "1ms", "--request-timeout", limit]);
        let reply = server.complete(&long_answer());
        if reply.status != 200 {
            reply.assert_error(504, "GatewayTimeoutError", "--request-timeout");
            continue;
        }
        assert!(reply.text().contains(": keep-alive\n\n"), "{}", reply.text());
        let last = reply.events().pop().unwrap();
        assert_eq!(last["error"]["code"], 504, "{last}");
        assert!(reply.text().ends_with("data: [DONE]\n\n"));
        server.wait_for_metric("vidense_num_requests_running", |n| n == 0.0);
        // Counted once, as a failure.
        assert_eq!(server.metric("vidense_request_failure_total{status=\"504\"}"), 1.0);
        assert_eq!(server.metric("vidense_request_failure_total{status=\"499\"}"), 0.0);
        assert_eq!(server.metric("vidense_e2e_request_latency_seconds_count"), 0.0);
        return;
    }
    panic!("no answer begins within 6.4 s");
}

#[test]
fn a_refused_body_is_not_asked_for() {
    let server = Server::start(&["--max-body", "1MiB"]);
    let host = format!("Host: 127.0.0.1:{}\r\n", server.port);
    for (headers, length, status) in [
        (host.clone(), (1 << 20) + 1, 413),
        ("Host: evil.example\r\n".to_owned(), 10, 403),
        (format!("{host}Content-Type: text/plain\r\n"), 10, 415),
    ] {
        let mut stream = server.connect();
        let path = "/v1/chat/completions";
        let headers = format!("{headers}Content-Length: {length}\r\nConnection: close\r\nExpect: 100-continue\r\n");
        let head = format!("POST {path} HTTP/1.1\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // The first status is the final one.
        assert_eq!(super::Reply::read(stream).status, status);
    }
    // Another body is asked for before it is sent.
    let body = about_video("What color is the circle?").to_string();
    let mut stream = server.post_without_body("/v1/chat/completions", body.len());
    stream.write_all(body.as_bytes()).unwrap();
    let reply = super::Reply::read(stream);
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "purple");
}

#[test]
fn garbage_bytes_harm_nobody() {
    let server = Server::start(&[]);
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let valid =
        server.request("POST", "/v1/chat/completions", "Content-Type: application/json\r\n", br#"{"messages": []}"#);
    let mut n_refused = 0;
    for case in 0..150 {
        let mut bytes = if case % 3 == 0 { vec![0; 200] } else { valid.clone() };
        for _ in 0..1 + random.next_u32() % 8 {
            let at = random.next_u64() as usize % bytes.len();
            bytes[at] = random.next_u32() as u8;
        }
        let mut stream = server.connect();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let reply = super::Reply::read(stream);
        assert!(reply.status < 500, "{}: {}", reply.head, reply.text());
        n_refused += usize::from(reply.status >= 400);
    }
    assert!(n_refused > 50, "{n_refused} of 150 are answered with an error");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.answer("What color is the circle?"), "purple");
}

#[test]
fn frames_too_large_to_be_shown_are_refused() {
    let server = Server::start(&[]);
    let (side, mut png) = (7000, Vec::new());
    let encoder = image::codecs::png::PngEncoder::new(&mut png);
    let pixels = vec![0; (side * side) as usize];
    image::ImageEncoder::write_image(encoder, &pixels, side, side, image::ExtendedColorType::L8).unwrap();
    let upload = server.send("POST", "/v1/videos", "", &png).json();
    let frames = server.get(&format!("/v1/videos/{}/frames", upload["id"].as_str().unwrap()));
    // 3 x 7000 x 7000 bytes are over 128 MiB.
    frames.assert_error(422, "UnprocessableEntityError", "the video: not one frame decodes");
}
