//! Who is let in: API keys, hosts, origins; ids of requests and what the log says.

use std::io::{BufRead as _, Write as _};

use serde_json::json;

use super::{Server, about_video, vidense};

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn keys_are_required_but_for_health_version_and_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    std::fs::write(&path, "key-of-a\nkey-of-b\n").unwrap();
    let server = Server::start(&["--api-key-file", path.to_str().unwrap()]);
    for path in ["/v1/models", "/metrics", "/v1/pipeline", "/v1/videos/x/frames", "/nowhere"] {
        let reply = server.get(path);
        reply.assert_error(401, "AuthenticationError", "no API key");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    for key in ["key-of-", "key-of-a2", "KEY-OF-A", "key-of-a key-of-b"] {
        let reply = server.send("GET", "/v1/models", &format!("Authorization: Bearer {key}\r\n"), b"");
        reply.assert_error(401, "AuthenticationError", "unknown API key");
    }
    let twice = "Authorization: Bearer wrong\r\nAuthorization: Bearer key-of-a\r\n";
    server.send("GET", "/v1/models", twice, b"").assert_error(401, "AuthenticationError", "unknown API key");
    for open in ["/health", "/version", "/"] {
        assert_eq!(server.get(open).status, 200, "{open}");
    }
    let body = about_video("What color is the circle?").to_string();
    let as_a = format!("{JSON}Authorization: Bearer key-of-a\r\n");
    let reply = server.send("POST", "/v1/chat/completions", &as_a, body.as_bytes());
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "purple");
    // A page of another site cannot send this header without the server's permission.
    let other_site = |key: &str| {
        let headers = format!("{JSON}Origin: http://other.example\r\nAuthorization: Bearer {key}\r\n");
        server.send("POST", "/v1/chat/completions", &headers, b"{}")
    };
    other_site("key-of-a").assert_error(400, "BadRequestError", "messages: missing");
    other_site("key-of-c").assert_error(403, "PermissionDeniedError", "hint: an API key");
    // An upload belongs to its key.
    let video = std::fs::read(crate::harness::repository(super::VIDEO)).unwrap();
    let upload = server.send("POST", "/v1/videos", "Authorization: Bearer key-of-a\r\n", &video).json();
    let frames = format!("/v1/videos/{}/frames", upload["id"].as_str().unwrap());
    assert_eq!(server.send("GET", &frames, "Authorization: Bearer key-of-a\r\n", b"").status, 200);
    let other = server.send("GET", &frames, "Authorization: Bearer key-of-b\r\n", b"");
    other.assert_error(404, "NotFoundError", "unknown upload");
    assert!(!server.log().contains("key-of"), "{}", server.log());
}

#[test]
fn other_machines_are_let_in_with_a_key_only() {
    let refused = vidense().args(["serve", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        message.contains("reachable from other machines, which requires an API key; hint: --api-key-file"),
        "{message}"
    );
    let rate = vidense().args(["serve", "--image-rate", "2", "--listen", "127.0.0.1:0"]).output().unwrap();
    let error = String::from_utf8_lossy(&rate.stderr).into_owned();
    assert_eq!(rate.status.code(), Some(2), "{error}");
    assert!(error.contains("image_rate: a server reads no directories of images"), "{error}");
    let missing = vidense().args(["serve", "--api-key-file", "no-such-file"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such-file: No such file"));
}

#[test]
fn pages_of_other_sites_are_refused() {
    let server = Server::start(&[]);
    let own = format!("127.0.0.1:{}", server.port);
    let evil = format!("evil.example:{}", server.port);
    for host in ["evil.example", &evil, "127.0.0.1.evil.example", "192.168.0.1", ""] {
        let reply = server.send("GET", "/v1/models", &format!("Host: {host}\r\n"), b"");
        reply.assert_error(403, "PermissionDeniedError", "the host is not this machine");
    }
    for name in ["localhost", "127.0.0.1", "[::1]"] {
        for host in [name.to_owned(), format!("{name}:{}", server.port)] {
            assert_eq!(server.send("GET", "/v1/models", &format!("Host: {host}\r\n"), b"").status, 200, "{host}");
        }
    }
    for origin in [
        "http://evil.example",
        "null",
        &format!("http://localhost:{}", server.port),
        &format!("https://{own}.evil.example"),
    ] {
        let headers = format!("{JSON}Origin: {origin}\r\n");
        let reply = server.send("POST", "/v1/chat/completions", &headers, b"{}");
        reply.assert_error(403, "PermissionDeniedError", "a page of another site");
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    let headers = format!("{JSON}Origin: http://{own}\r\n");
    let same = server.send("POST", "/v1/chat/completions", &headers, b"{}");
    same.assert_error(400, "BadRequestError", "messages: missing");
    // Without keys, none is known.
    let headers = format!("{JSON}Origin: http://evil.example\r\nAuthorization: Bearer any\r\n");
    let placeholder = server.send("POST", "/v1/chat/completions", &headers, b"{}");
    placeholder.assert_error(403, "PermissionDeniedError", "hint: --api-key-file of the server");
    server.send("OPTIONS", "/v1/chat/completions", "Origin: http://evil.example\r\n", b"").assert_error(
        403,
        "PermissionDeniedError",
        "",
    );
}

#[test]
fn names_of_this_machine_are_those_of_ipv6_too() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let mut child = vidense()
        .args(["serve", "--model", super::MODEL, "--no-cache", "--listen", "[::1]:0"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    std::io::BufReader::new(child.stderr.take().unwrap()).read_line(&mut first).unwrap();
    let address = first.trim_end().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{first}"));
    let status = |host: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        super::Reply::read(stream).status
    };
    let statuses = [address, "[::1]", "localhost", "evil.example", "[::2]"].map(status);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(statuses, [200, 200, 200, 403, 403]);
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    let server = Server::start(&[]);
    let page = server.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    for rule in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(page.text().contains(&format!("<script nonce=\"{nonce}\">")) && !page.text().contains("<script>"));
    assert_ne!(server.get("/").header("content-security-policy"), Some(policy), "a nonce is used once");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn ids_of_requests_are_echoed_unless_they_are_harmful() {
    let server = Server::start(&["--log", "json"]);
    let id = |sent: &str| {
        let reply = server.send("GET", "/health", &format!("X-Request-Id: {sent}\r\n"), b"");
        reply.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(id("job-17_a.B"), "job-17_a.B");
    for harmful in ["a b", "a;b", "<script>", &"x".repeat(129), ""] {
        assert_eq!(id(harmful).len(), 32, "{harmful}");
    }
    // A line break ends the header; what follows is a header of its own and is not echoed.
    let reply = server.send("GET", "/health", "X-Request-Id: a\r\nSet-Cookie: b\r\n", b"");
    assert_eq!((reply.header("x-request-id"), reply.header("set-cookie")), (Some("a"), None));
    let missing = server.send("GET", "/%1b%5b31mnowhere%0aerror?secret=1", "X-Request-Id: odd\r\n", b"");
    missing.assert_error(404, "NotFoundError", "no such path");
    let deadline = std::time::Instant::now() + super::PATIENCE;
    let line = loop {
        let log = server.log();
        let found = log.lines().find(|line| line.contains("\"id\":\"odd\"")).map(str::to_owned);
        if let Some(line) = found {
            break line;
        }
        assert!(std::time::Instant::now() < deadline, "{log}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&object["method"], &object["status"]), (&json!("GET"), &json!(404)), "{object}");
    assert!(!line.contains("secret"), "{line}");
}

#[test]
fn a_server_says_what_it_is() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/version").json(), json!({ "version": env!("CARGO_PKG_VERSION") }));
    let models = server.get("/v1/models").json();
    assert_eq!((&models["object"], &models["data"][0]["object"]), (&json!("list"), &json!("model")));
    assert_eq!(models["data"][0]["id"], "samples/mini");
    let metrics = server.get("/metrics");
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = metrics.text();
    for stem in [
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "mm_cache_queries_total",
        "prompt_tokens_total",
        "generation_tokens_total",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "decode_seconds",
        "encode_seconds",
        "frames_total",
    ] {
        assert!(text.contains(&format!("vidense_{stem}")), "{stem} is not in:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
