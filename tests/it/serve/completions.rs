//! Answers: whole and streamed, with token counts, frames and several turns.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use super::{Server, about, about_video, asked, vidense, video_uri, with};

const QUESTION: &str = "What color is the circle?";

#[test]
fn an_answer_is_that_of_ask_with_frames_and_token_counts() {
    let server = Server::start(&["--served-model-name", "shapes", "--served-model-name", "other"]);
    let reply = server.complete(&with(about_video(QUESTION), json!({ "model": "other", "max_tokens": 16384, "n": 1 })));
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{}", reply.text());
    let object = reply.json();
    assert_eq!(object["choices"][0]["message"], json!({ "role": "assistant", "content": asked(QUESTION) }));
    assert_eq!(object["choices"][0]["finish_reason"], "stop");
    assert_eq!((&object["object"], &object["model"]), (&json!("chat.completion"), &json!("shapes")));
    assert_eq!(object["id"], format!("chatcmpl-{}", reply.header("x-request-id").unwrap()));
    let usage = &object["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(269), &json!(2)), "{usage}");
    assert_eq!(usage["prompt_tokens_details"]["multimodal_tokens"]["video"], 256);
    let details = &object["vidense"];
    assert_eq!(details["frames"][0][0], json!({ "index": 2, "time_seconds": 0.125 }));
    assert_eq!(details["frames"][0].as_array().unwrap().len(), 8);
    assert!(details["timings_ms"]["total"].as_f64().unwrap() > 0.0);
    assert_eq!(details["warnings"], json!([]));

    // The same video again, from memory.
    let again = server.complete(&about_video("How many objects are there?")).json();
    assert_eq!(again["choices"][0]["message"]["content"], asked("How many objects are there?"));
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 200, "{again}");
    assert_eq!(
        (server.metric("vidense_mm_cache_hits_total"), server.metric("vidense_mm_cache_queries_total")),
        (1.0, 2.0)
    );
    assert_eq!(server.metric("vidense_frames_total"), 8.0);
    assert_eq!(server.metric("vidense_request_success_total{finished_reason=\"stop\"}"), 2.0);
    assert_eq!(server.metric("vidense_generation_tokens_total"), 4.0);
    assert_eq!(server.metric("vidense_time_to_first_token_seconds_count"), 2.0);
}

#[test]
fn a_stream_has_openais_chunks_and_the_whole_text() {
    let server = Server::start(&[]);
    let question = "Describe the video.";
    let streaming = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let reply = server.complete(&with(about_video(question), streaming));
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
    assert!(reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    let chunks = reply.events();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let id = &chunks[0]["id"];
    assert!(chunks.iter().all(|chunk| chunk["id"] == *id && chunk["object"] == "chat.completion.chunk"));
    let (usage, before) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["completion_tokens"].as_u64().unwrap() > 2);
    assert!(before.iter().all(|chunk| chunk.as_object().unwrap().get("usage") == Some(&Value::Null)));
    let last = before.last().unwrap();
    assert_eq!((&last["choices"][0]["delta"], &last["choices"][0]["finish_reason"]), (&json!({}), &json!("stop")));
    assert_eq!(last["vidense"]["frames"][0].as_array().unwrap().len(), 8);
    let texts: Vec<&str> = before.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(texts.concat(), asked(question));
    assert!(texts.len() > 3, "it is streamed: {texts:?}");

    let reply = server.complete(&with(about_video(question), json!({ "stream": true, "max_tokens": 2 })));
    let last = reply.events().pop().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(last.as_object().unwrap().get("usage").is_none());
}

#[test]
fn a_stream_is_counted_once_with_the_times_of_its_texts() {
    let server = Server::start(&[]);
    let reply = server.complete(&with(about_video("Describe the video."), json!({ "stream": true })));
    let texts = reply.events().iter().filter(|chunk| chunk["choices"][0]["delta"]["content"] != "").count();
    // The chunk with the reason of the end has no text.
    let n_texts = (texts - 1) as f64;
    for (name, n) in [
        ("request_success_total{finished_reason=\"stop\"}", 1.0),
        ("request_failure_total{status=\"499\"}", 0.0),
        ("time_to_first_token_seconds_count", 1.0),
        ("inter_token_latency_seconds_count", n_texts - 1.0),
        ("e2e_request_latency_seconds_count", 1.0),
    ] {
        assert_eq!(server.metric(&format!("vidense_{name}")), n, "{name}");
    }
    let sum = |stem: &str| server.metric(&format!("vidense_{stem}_seconds_sum"));
    let texts = sum("time_to_first_token") + sum("inter_token_latency");
    assert!(texts > 0.0 && texts <= sum("e2e_request_latency"), "{texts} of {}", sum("e2e_request_latency"));

    // A client that leaves a stream is counted once too.
    let body = super::long_answer().to_string();
    let mut stream = server.connect();
    stream.write_all(&server.request("POST", "/v1/chat/completions", "", body.as_bytes())).unwrap();
    assert!(stream.read(&mut [0; 64]).unwrap() > 0);
    drop(stream);
    server.wait_for_metric("vidense_request_failure_total{status=\"499\"}", |n| n == 1.0);
    assert_eq!(server.metric("vidense_e2e_request_latency_seconds_count"), 1.0);
}

#[test]
fn drawn_answers_repeat_with_their_seed_and_stop_at_strings() {
    let server = Server::start(&[]);
    let draw = |seed: i64| {
        let drawn = json!({ "temperature": 2.5, "top_p": 0.95, "top_k": 50, "seed": seed });
        server.complete(&with(about_video("Describe the video."), drawn)).json()["choices"][0]["message"].clone()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let whole = server.answer("Describe the video.");
    let word = whole.split(' ').nth(2).unwrap();
    let cut = server.complete(&with(about_video("Describe the video."), json!({ "stop": [word] }))).json();
    let cut = cut["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(whole.starts_with(cut) && !cut.contains(word), "{cut} of {whole}, until {word}");
}

#[test]
fn an_answer_is_continued_where_the_client_began_it() {
    let server = Server::start(&[]);
    let whole = server.answer("Describe the video.");
    let (begin, rest) = whole.split_once(' ').unwrap();
    let mut body = about_video("Describe the video.");
    body["messages"].as_array_mut().unwrap().push(json!({ "role": "assistant", "content": begin }));
    let reply =
        server.complete(&with(body.clone(), json!({ "continue_final_message": true, "add_generation_prompt": false })));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["choices"][0]["message"]["content"].as_str().unwrap().trim(), rest);
    server.complete(&body).assert_error(400, "BadRequestError", "continue_final_message: true continues it");
}

#[test]
fn frames_and_images_are_media_too() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let sheet = vidense().args(["frames", super::VIDEO, "--frames", "8", "--out"]).arg(dir.path()).output().unwrap();
    assert!(sheet.status.success(), "{}", String::from_utf8_lossy(&sheet.stderr));
    let mut paths: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let image = |path: &std::path::PathBuf| {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.encode(std::fs::read(path).unwrap());
        json!({ "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{bytes}") } })
    };
    let mut parts: Vec<Value> = paths.iter().map(image).collect();
    assert_eq!(parts.len(), 8);
    parts.push(json!({ "type": "text", "text": QUESTION }));
    let frames = server.complete(&json!({ "messages": [{ "role": "user", "content": parts }] })).json();
    assert_eq!(frames["choices"][0]["message"]["content"], asked(QUESTION), "{frames}");
    assert_eq!(frames["vidense"]["frames"].as_array().unwrap().len(), 1, "one video of eight frames");
    let parts = [image(&paths[0]), json!({ "type": "text", "text": QUESTION })];
    let single = server.complete(&json!({ "messages": [{ "role": "user", "content": parts }] })).json();
    assert_eq!(single["vidense"]["frames"][0].as_array().map(Vec::len), Some(1), "{single}");
}

#[test]
fn an_upload_is_shown_asked_about_and_removed() {
    let server = Server::start(&[]);
    let video = std::fs::read(crate::harness::repository(super::VIDEO)).unwrap();
    let reply = server.send("POST", "/v1/videos", "Content-Type: video/mp4\r\nX-Filename: a.mp4\r\n", &video);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let object = reply.json();
    assert_eq!((&object["object"], &object["bytes"]), (&json!("video"), &json!(video.len())));
    let id = object["id"].as_str().unwrap();
    let frames = server.get(&format!("/v1/videos/{id}/frames")).json();
    let frames = frames["data"].as_array().unwrap().clone();
    assert_eq!((frames.len(), &frames[0]["index"], &frames[0]["time_seconds"]), (8, &json!(2), &json!(0.125)));
    assert!(frames[0]["jpeg"].as_str().unwrap().starts_with("data:image/jpeg;base64,/9j/"));
    let answer = server.complete(&about(&format!("upload:{id}"), QUESTION)).json();
    assert_eq!(answer["choices"][0]["message"]["content"], asked(QUESTION), "{answer}");
    let removed = server.send("DELETE", &format!("/v1/videos/{id}"), "", b"");
    assert_eq!(removed.json()["deleted"], true);
    server.get(&format!("/v1/videos/{id}/frames")).assert_error(404, "NotFoundError", "unknown upload");
    server.complete(&about(&format!("upload:{id}"), QUESTION)).assert_error(404, "NotFoundError", "unknown upload");
    server.send("DELETE", "/v1/videos/..%2f..%2fetc", "", b"").assert_error(404, "NotFoundError", "unknown upload");
}

#[test]
fn a_pipeline_file_takes_the_place_of_flags() {
    let server = Server::start(&["pipelines/mini.yaml", "--set", "generate.max_new_tokens=1"]);
    let pipeline = server.get("/v1/pipeline").json();
    assert!(pipeline["yaml"].as_str().unwrap().contains("max_new_tokens: 1\n"), "{pipeline}");
    let reply = server.complete(&about_video("Describe the video.")).json();
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][0]["max_model_len"], 1024, "{models}");
    assert_eq!(models["data"][0]["id"], "vidense-mini");
    let refused = vidense().args(["serve", "pipelines/mini.yaml", "--frames", "4"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot be used with"));
}

#[test]
fn a_served_model_is_retrieved_by_its_name() {
    let server = Server::start(&["--served-model-name", "shapes/mini"]);
    let listed = server.get("/v1/models").json();
    for path in ["/v1/models/shapes/mini", "/v1/models/shapes%2Fmini"] {
        assert_eq!(server.get(path).json(), listed["data"][0], "{path}");
    }
    let unknown = "unknown model `mini`; hint: shapes/mini";
    server.get("/v1/models/mini").assert_error(404, "NotFoundError", unknown);
}

#[test]
fn a_local_file_is_read_below_its_directory_alone() {
    let sample = crate::harness::repository("samples").canonicalize().unwrap();
    let file = |name: &str| about(&format!("file://{}/{name}", sample.display()), QUESTION);
    let server = Server::start(&["--allow-files", "samples"]);
    let answer = server.complete(&file("three_shapes.mp4")).json();
    assert_eq!(answer["choices"][0]["message"]["content"], asked(QUESTION), "{answer}");
    server.complete(&file("../Cargo.toml")).assert_error(403, "PermissionDeniedError", "");
    let closed = Server::start(&[]);
    closed.complete(&file("three_shapes.mp4")).assert_error(403, "PermissionDeniedError", "--allow-files");
    let web = about("http://127.0.0.1:1/a.mp4", QUESTION);
    closed.complete(&web).assert_error(403, "PermissionDeniedError", "--allow-hosts");
    let _ = video_uri();
}
