//! Bodies of known clients, and what is refused with which words.

use serde_json::{Value, json};

use super::*;
use crate::pipeline::ChatContent;
use crate::serve::media::{FrameOptions, FrameTiming, MediaSource};
use crate::spec::Plan;
use crate::units::Seconds;

fn parse(body: &Value) -> Result<ChatCall, ApiError> {
    ChatCall::parse(body.to_string().as_bytes(), &Plan::default())
}

/// A body with a question, and other members.
fn body(members: Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Why?" }] });
    body.as_object_mut().expect("an object").extend(members.as_object().expect("an object").clone());
    body
}

/// A body with these parts as its question.
fn question(parts: Value) -> Value {
    json!({ "messages": [{ "role": "user", "content": parts }] })
}

fn seed(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/chat/");
    std::fs::read(format!("{path}{name}.json")).expect("a seed")
}

fn known(name: &str) -> ChatCall {
    ChatCall::parse(&seed(name), &Plan::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(text: &str) -> ChatContent {
    ChatContent::Text(text.to_owned())
}

#[test]
fn openais_own_body_is_a_conversation_of_two_turns() {
    let call = known("openai");
    assert_eq!((call.model.as_deref(), call.system.as_deref()), (Some("vidense-mini"), Some("Be brief.")));
    assert_eq!(call.turns.len(), 2);
    assert_eq!(call.turns[0].answer.as_deref(), Some("A shape."));
    assert_eq!((&call.turns[1].question[..], &call.turns[1].answer), (&[text("And a square?")][..], &None));
    assert_eq!((call.stream, call.include_usage), (true, true));
    let options = &call.options;
    assert_eq!((options.max_new_tokens, options.stop.len()), (64, 2));
    let sampling = options.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.seed), (Some(0.5), Some(0.9), 7));
}

#[test]
fn evaluation_kits_bodies_have_videos_and_runs_of_images() {
    let call = known("vlmevalkit");
    assert_eq!(call.options.max_new_tokens, 16384);
    assert_eq!(call.media[0].source, MediaSource::Url("data:video/mp4;base64,AAAAIGZ0eXBpc29t".to_owned()));
    assert_eq!(call.media[0].param, "messages[0].content[0].video_url");
    assert_eq!(call.turns[0].question[0], ChatContent::Medium(0));
    let call = known("lmms-eval");
    let frames = ["data:image/jpeg;base64,/9j/4AAQ", "data:image/jpeg;base64,/9j/4AAR"].map(str::to_owned);
    assert_eq!(call.media[0].source, MediaSource::Frames(frames.to_vec()));
    assert_eq!(call.turns[0].question, [ChatContent::Medium(0), text("What moves?")]);
}

#[test]
fn several_media_keep_their_places_and_options() {
    let call = known("vllm");
    let [first, second, third] = &call.media[..] else { panic!("three media") };
    assert_eq!(first.source, MediaSource::Url("https://example.org/a.mp4".to_owned()));
    // The rate beside the address replaces the number of frames of the body.
    let own = FrameOptions { fps: Some(2.0), max_frames: Some(16), do_sample_frames: Some(true), ..Default::default() };
    assert_eq!((first.frames, first.uuid.as_deref()), (own, Some("a")));
    let all = FrameOptions { num_frames: Some(8), do_sample_frames: Some(true), ..Default::default() };
    assert_eq!((&second.source, second.frames), (&MediaSource::Url("file:///videos/b.mp4".to_owned()), all));
    assert_eq!((&third.source, third.uuid.as_deref()), (&MediaSource::Known, Some("c")));
    assert_eq!(call.turns[0].answer.as_deref(), Some("The first"), "the answer to continue");
    assert_eq!(call.options.sampling.top_k, Some(usize::MAX), "all tokens");
    let call = known("llama-cpp");
    let sources: Vec<&MediaSource> = call.media.iter().map(|medium| &medium.source).collect();
    let expected = [MediaSource::Base64("AAAAIGZ0eXBpc29t".to_owned()), MediaSource::Url("upload:vid_0123".to_owned())];
    assert_eq!(sources, expected.iter().collect::<Vec<_>>());
    assert_eq!((call.system.as_deref(), call.options.sampling.seed), (Some("Count."), u64::MAX));
}

#[test]
fn frames_that_are_sent_as_images_have_times() {
    let call = known("frames");
    let timing = FrameTiming {
        fps: Some(25.0),
        frames_indices: Some(vec![0, 50]),
        total_num_frames: Some(100),
        duration: Some(4.0),
        do_sample_frames: Some(false),
    };
    assert_eq!(call.media[0].timing, Some(timing));
    let image = json!([{ "type": "image_url", "image_url": { "url": "data:," } }, { "type": "text", "text": "Why?" }]);
    let call = parse(&question(image)).expect("valid");
    assert_eq!(call.media[0].source, MediaSource::Frames(vec!["data:,".to_owned()]));
    assert_eq!(call.media[0].timing, None, "a single image has no time");
}

#[test]
fn images_with_text_between_them_are_images_alone() {
    let image = |url: &str| json!({ "type": "image_url", "image_url": url, "uuid": url });
    let call = parse(&question(json!([image("a"), { "type": "text", "text": "and" }, image("b")]))).expect("valid");
    assert_eq!(call.turns[0].question, [ChatContent::Medium(0), text("and"), ChatContent::Medium(1)]);
    let error = parse(&question(json!([image("a"), image("b")]))).expect_err("two names of one video");
    assert_eq!(error.param.as_deref(), Some("messages[0].content[0].image_url.uuid"));
}

#[test]
fn absent_conditions_are_the_plans() {
    let mut plan = Plan::default();
    plan.generate.max_new_tokens = 33;
    plan.generate.sampling.temperature = Some(0.25);
    let body = body(json!({ "temperature": null, "max_tokens": null, "stop": null, "stream": null }));
    let call = ChatCall::parse(body.to_string().as_bytes(), &plan).expect("valid");
    assert_eq!((call.options.max_new_tokens, call.options.sampling.temperature), (33, Some(0.25)));
    assert_eq!((call.stream, call.model, call.system), (false, None, None));
    let times = json!({ "mm_processor_kwargs": { "start": "0:01:30", "end": 95.5 } });
    let video = json!([{ "type": "video_url", "video_url": { "url": "u" } }]);
    let mut with_video = question(video);
    with_video.as_object_mut().expect("an object").extend(times.as_object().expect("an object").clone());
    let frames = parse(&with_video).expect("valid").media[0].frames;
    assert_eq!((frames.start, frames.end), (Some(Seconds(90.0)), Some(Seconds(95.5))));
}

/// A table of messages has one type of part: Ray sends the columns of the others as `null`.
#[test]
fn null_members_of_other_parts_are_absent() {
    let video = json!({ "type": "video_url", "video_url": { "url": "u", "detail": null }, "text": null });
    let words = json!({ "type": "text", "video_url": null, "text": "Why?", "image_url": null, "zzzzzz": null });
    let call = parse(&question(json!([video, words]))).expect("valid");
    assert_eq!(call.turns[0].question, [ChatContent::Medium(0), text("Why?")]);
    let words = json!({ "type": "text", "video_url": "u", "text": "Why?" });
    let error = parse(&question(json!([words]))).expect_err("a text with a video");
    assert!(error.message.contains("unknown key `video_url`"), "{}", error.message);
}

#[test]
fn what_is_not_carried_out_is_refused_by_name() {
    for (members, param, message) in [
        (json!({ "n": 2 }), "n", "n: 2 is not supported; hint: leave `n` out"),
        (json!({ "logprobs": true }), "logprobs", "logprobs: true is not supported"),
        (json!({ "frequency_penalty": 0.5 }), "frequency_penalty", "frequency_penalty: 0.5 is not supported"),
        (json!({ "tools": [{}] }), "tools", "tools: a list is not supported"),
        (json!({ "response_format": { "type": "json_object" } }), "response_format", "response_format: an object is"),
        (json!({ "temprature": 1 }), "temprature", "unknown key `temprature`; hint: did you mean `temperature`?"),
        (json!({ "zzzzzz": 1 }), "zzzzzz", "unknown key `zzzzzz`; hint: leave it out"),
        (json!({ "temperature": -1 }), "temperature", "temperature: invalid number -1; hint: a number from 0"),
        (json!({ "temperature": "1" }), "temperature", "temperature: a string, not a number"),
        (json!({ "top_p": 0 }), "top_p", "top_p: invalid number 0; hint: a number above 0, at most 1"),
        (json!({ "top_k": -2 }), "top_k", "top_k: invalid number -2; hint: a whole number from 1, or -1"),
        (json!({ "max_tokens": 0 }), "max_tokens", "max_tokens: invalid number 0; hint: a whole number from 1"),
        (json!({ "max_tokens": 1.5 }), "max_tokens", "max_tokens: a number, not a whole number"),
        (
            json!({ "max_tokens": 1, "max_completion_tokens": 2 }),
            "max_completion_tokens",
            "max_completion_tokens: 2, but",
        ),
        (json!({ "max_tokens": 1e30 }), "max_tokens", "max_tokens: a whole number over 64 bits"),
        (json!({ "seed": 2f64.powi(64) }), "seed", "seed: a whole number over 64 bits"),
        (
            json!({ "mm_processor_kwargs": { "start": 1e308 } }),
            "mm_processor_kwargs.start",
            "mm_processor_kwargs.start: invalid time 1e308 s; hint: at most 1000000000 s",
        ),
        (json!({ "stop": ["a", ""] }), "stop[1]", "stop[1]: empty"),
        (json!({ "stop": vec!["a"; 17] }), "stop", "stop: 17 strings, over the limit of 16"),
        (json!({ "stop": "x".repeat(257) }), "stop", "stop: 257 characters, over the limit of 256"),
        (json!({ "stream_options": {} }), "stream_options", "stream_options: without `stream`"),
        (
            json!({ "stream": true, "stream_options": { "a": 1 } }),
            "stream_options.a",
            "stream_options: unknown key `a`",
        ),
        (json!({ "continue_final_message": true }), "messages[0]", "messages[0]: continue_final_message, but the last"),
        (json!({ "add_generation_prompt": false }), "add_generation_prompt", "add_generation_prompt: false is not"),
        (
            json!({ "media_io_kwargs": { "video": { "hw_decoders": 1 } } }),
            "media_io_kwargs.video.hw_decoders",
            "media_io_kwargs.video: unknown key `hw_decoders`",
        ),
        (
            json!({ "media_io_kwargs": { "video": { "fps": 1 } }, "mm_processor_kwargs": { "fps": 2 } }),
            "mm_processor_kwargs.fps",
            "mm_processor_kwargs.fps: another value than in media_io_kwargs.video",
        ),
        (
            json!({ "media_io_kwargs": { "video": { "frames_indices": [0] } } }),
            "media_io_kwargs.video.frames_indices",
            "media_io_kwargs.video.frames_indices: it is about frames that are sent as images",
        ),
    ] {
        let error = parse(&body(members)).expect_err(message);
        assert!(error.message.starts_with(message), "{}, not {message}", error.message);
        assert_eq!((error.param.as_deref(), error.status), (Some(param), ErrorStatus::BadRequest), "{message}");
    }
}

#[test]
fn messages_out_of_turn_are_refused() {
    let message = |role: &str| json!({ "role": role, "content": "x" });
    for (roles, param, expected) in [
        (&[][..], "messages", "messages: empty"),
        (&["system"], "messages[0]", "messages[0]: no question"),
        (&["assistant"], "messages[0]", "messages[0]: an answer without a question"),
        (&["user", "user"], "messages[1]", "messages[1]: a question after a question without an answer"),
        (
            &["user", "assistant"],
            "messages[1]",
            "messages[1]: the last message is the assistant's; hint: continue_final",
        ),
        (&["user", "assistant", "assistant"], "messages[2]", "messages[2]: an answer without a question"),
        (&["user", "assistant", "system", "user"], "messages[2]", "messages[2]: a system text after a question"),
        (&["tool"], "messages[0].role", "messages[0].role: the role `tool` is not supported; hint: system, developer"),
        (&["usr"], "messages[0].role", "messages[0].role: unknown role `usr`; hint: did you mean `user`?"),
    ] {
        let messages: Vec<Value> = roles.iter().map(|role| message(role)).collect();
        let error = parse(&json!({ "messages": messages })).expect_err(expected);
        assert!(error.message.starts_with(expected), "{}, not {expected}", error.message);
        assert_eq!(error.param.as_deref(), Some(param));
    }
}

#[test]
fn parts_that_are_not_understood_are_refused_at_their_place() {
    let long = "x".repeat(1 << 20);
    for (parts, param, expected) in [
        (json!([]), "", ": empty"),
        (json!(" "), "", ": empty"),
        (json!(3), "", ": a number, not a string or a list of parts"),
        (json!([{}]), "[0].type", "[0].type: missing"),
        (json!([{ "type": "input_audio" }]), "[0].type", "[0].type: unknown type of content `input_audio`; hint: "),
        (json!([{ "type": "text" }]), "[0].text", "[0].text: missing"),
        (json!([{ "type": "text", "text": "a", "b": 1 }]), "[0].b", "[0]: unknown key `b`"),
        (json!([{ "type": "video_url" }]), "[0].video_url", "[0].video_url: missing"),
        (json!([{ "type": "video_url", "video_url": {} }]), "[0].video_url.url", "[0].video_url.url: missing"),
        (json!([{ "type": "video_url", "video_url": [] }]), "[0].video_url", "[0].video_url: a list, not an address"),
        (
            json!([{ "type": "video_url", "video_url": { "url": "u", "ftp": 1 } }]),
            "[0].video_url.ftp",
            "[0].video_url: unknown key `ftp`; hint: did you mean `fps`?",
        ),
        (
            json!([{ "type": "input_video", "input_video": { "url": "u", "data": "d" } }]),
            "[0].input_video.url",
            "[0].input_video.url: beside `data`",
        ),
        (json!([{ "video_url": "u", "uuid": "" }]), "[0].uuid", "[0].uuid: 0 bytes; hint: from 1 to 256"),
        (json!(["a"]), "[0]", "[0]: a string, not an object"),
        (json!([{ "type": "text", "text": long + "y" }]), "[0].text", "[0].text: 1048577 bytes of text up to here"),
    ] {
        let error = parse(&question(parts)).expect_err(expected);
        let expected = format!("messages[0].content{expected}");
        assert!(error.message.starts_with(&expected), "{}, not {expected}", error.message);
        assert_eq!(error.param, Some(format!("messages[0].content{param}")));
    }
    let error = json!({ "messages": [{ "role": "system", "content": [{ "video_url": "u" }] }] });
    let error = parse(&error).expect_err("a video of the system");
    assert!(error.message.starts_with("messages[0].content[0].video_url: a medium in a message"), "{error}");
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    for (text, expected) in [
        ("[]", "the body is a list, not an object"),
        ("", "invalid JSON: EOF"),
        ("{}", "messages: missing"),
        (r#"{"messages": [], "messages": []}"#, "invalid JSON: duplicate key `messages`"),
        (r#"{"temperature": NaN}"#, "temperature: invalid JSON: "),
    ] {
        let error = ChatCall::parse(text.as_bytes(), &Plan::default()).expect_err(text);
        assert!(error.message.starts_with(expected), "{}, not {expected}", error.message);
        assert_eq!(error.status, ErrorStatus::BadRequest);
    }
}

#[test]
fn an_unknown_model_is_not_found() {
    let call = parse(&body(json!({ "model": "gpt-4o" }))).expect("valid");
    let error = call.check_model(&["vidense-mini".to_owned()]).expect_err("another model");
    let expected = json!({ "error": {
        "message": "unknown model `gpt-4o`; hint: vidense-mini",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    } });
    assert_eq!(error.body(), expected);
    assert!(parse(&body(json!({}))).expect("valid").check_model(&[]).is_ok());
}
