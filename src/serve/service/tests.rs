//! Jobs of many clients against the built-in model: answers, sharing, cancellation, limits and ends.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::*;
use crate::pipeline::{AnswerOptions, ChatContent, ChatTurn, VideoChat, encode_video, open};
use crate::serve::media::Media;
use crate::spec::Plan;

/// Events of one job at most.
const EVENTS: usize = 10_000;
const LONG: Duration = Duration::from_secs(120);

fn model() -> Arc<LoadedModel> {
    static MODEL: OnceLock<Arc<LoadedModel>> = OnceLock::new();
    MODEL.get_or_init(|| Arc::new(open(Plan::default()).expect("the built-in model"))).clone()
}

fn service(max_waiting: usize, cache_bytes: u64) -> Service {
    let config = ServiceConfig { limits: Limits::default(), isolation: None, max_waiting, cache_bytes, features: None };
    Service::start(model(), config).expect("memory is free")
}

fn sample() -> Arc<Media> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/three_shapes.mp4");
    Arc::new(Media::of_file(&path, model().plan.frames(), 8))
}

fn question(text: &str) -> Vec<ChatTurn> {
    let question = vec![ChatContent::Medium(0), ChatContent::Text(text.to_owned())];
    vec![ChatTurn { question, answer: None }]
}

/// Job whose events arrive at a channel.
fn job(turns: Vec<ChatTurn>, media: Vec<Arc<Media>>) -> (ChatJob, Receiver<JobEvent>) {
    let (sender, events) = bounded(EVENTS);
    let listener: JobListener = Box::new(move |event| drop(sender.send(event)));
    (ChatJob { system: None, turns, media, options: AnswerOptions::of(&model().plan), listener }, events)
}

fn about_sample(text: &str) -> (ChatJob, Receiver<JobEvent>) {
    job(question(text), vec![sample()])
}

/// Waits for the end of a job; its texts must add up to the answer.
fn outcome(events: &Receiver<JobEvent>) -> Result<JobAnswer, Error> {
    let mut text = String::new();
    loop {
        match events.recv_timeout(LONG).expect("a job ends") {
            JobEvent::Text(more) => text += &more,
            JobEvent::Done(Ok(answer)) => {
                assert_eq!(text.trim(), answer.answer.text);
                return Ok(answer);
            }
            JobEvent::Done(Err(error)) => return Err(error),
            JobEvent::Encoded { .. } | JobEvent::Prefilling => {}
        }
    }
}

/// Counters once the engine has published that nothing runs.
fn settled(service: &Service) -> ServiceLoad {
    let deadline = Instant::now() + LONG;
    while Instant::now() < deadline {
        let load = service.load();
        if (load.n_open, load.n_running, load.kv_bytes) == (0, 0, 0) {
            return load;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("memory is still in use: {:?}", service.load())
}

const QUESTIONS: [&str; 4] =
    ["What color is the circle?", "How many objects are there?", "What shape is red?", "Which object moves?"];

/// Answers of a conversation of its own for each question.
fn alone() -> Vec<Vec<u32>> {
    let model = model();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/three_shapes.mp4");
    let video = encode_video(&model.vlm, &path, &model.plan, &|_| {}).expect("a good video");
    let ask = |text: &&str| {
        let mut chat = VideoChat::new(model.asking(), &video, &Limits::default()).expect("memory is free");
        chat.ask(text, &mut |_| std::ops::ControlFlow::Continue(())).expect("it fits").token_ids
    };
    QUESTIONS.iter().map(ask).collect()
}

#[test]
fn jobs_side_by_side_get_the_answers_of_ask_and_share_one_encoding() {
    let (service, expected) = (service(1000, 1 << 30), alone());
    let jobs: Vec<_> = (0..24)
        .map(|i| {
            let (job, events) = about_sample(QUESTIONS[i % QUESTIONS.len()]);
            service.submit(job).expect("there is room");
            events
        })
        .collect();
    let answers: Vec<JobAnswer> = jobs.iter().map(|events| outcome(events).expect("a good video")).collect();
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!(answer.answer.token_ids, expected[i % QUESTIONS.len()], "job {i}");
        assert_eq!(answer.media[0].frames.len(), 8);
    }
    assert_eq!(answers.iter().filter(|answer| !answer.media[0].is_cached).count(), 1);
    let load = settled(&service);
    assert_eq!((load.media_queries, load.media_hits, load.n_cached, load.n_frames), (24, 23, 1, 8));
    assert!(load.engine.prefix_hits > 0, "conversations about one video share its pages");
}

#[test]
fn a_medium_over_the_limit_of_the_cache_is_encoded_again() {
    let service = service(10, 0);
    for _ in 0..2 {
        let (job, events) = about_sample(QUESTIONS[0]);
        service.submit(job).expect("there is room");
        assert!(!outcome(&events).expect("a good video").media[0].is_cached);
        assert!(service.known(&sample().key).is_none());
    }
    assert_eq!(settled(&service).n_frames, 16);
}

#[test]
fn a_broken_video_fails_its_own_jobs_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broken.mp4");
    std::fs::write(&path, [7; 4000]).expect("a small file");
    let broken = Arc::new(Media::of_file(&path, model().plan.frames(), 8));
    let service = service(10, 1 << 30);
    let jobs: Vec<_> = [broken.clone(), sample(), broken]
        .into_iter()
        .map(|media| {
            let (job, events) = job(question(QUESTIONS[0]), vec![media]);
            service.submit(job).expect("there is room");
            events
        })
        .collect();
    let outcomes: Vec<_> = jobs.iter().map(outcome).collect();
    for failed in [&outcomes[0], &outcomes[2]] {
        assert_eq!(failed.as_ref().expect_err("no video").kind(), Kind::NotMedia);
    }
    assert!(outcomes[1].is_ok());
    settled(&service);
}

#[test]
fn clients_of_one_broken_content_see_their_own_name_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broken.mp4");
    std::fs::write(&path, [7; 4000]).expect("a small file");
    let service = service(10, 1 << 30);
    let jobs = ["first", "second"].map(|name| {
        let mut media = Media::of_file(&path, model().plan.frames(), 8);
        media.name = name.to_owned();
        let (job, events) = job(question(QUESTIONS[0]), vec![Arc::new(media)]);
        service.submit(job).expect("there is room");
        (name, events)
    });
    for (name, events) in &jobs {
        let error = outcome(events).expect_err("no video").to_string();
        let subjects = format!("messages[0].content[0].video_url: {name}: ");
        assert!(error.starts_with(&subjects) && !error.contains("broken.mp4"), "{error}");
    }
}

#[test]
fn a_cancelled_job_frees_its_slot_wherever_it_is() {
    let service = service(10, 1 << 30);
    // Before its medium is encoded.
    let (first, events) = about_sample(QUESTIONS[0]);
    let id = service.submit(first).expect("there is room");
    service.cancel(id);
    assert_eq!(outcome(&events).expect_err("cancelled").kind(), Kind::Stopped);
    // While its tokens are made; a job beside it is not affected.
    let (mut running, events) = about_sample(QUESTIONS[0]);
    running.options.max_new_tokens = 4;
    let (beside, others) = about_sample(QUESTIONS[1]);
    let id = service.submit(running).expect("there is room");
    service.submit(beside).expect("there is room");
    let prefilling = |event| matches!(event, JobEvent::Prefilling);
    while !prefilling(events.recv_timeout(LONG).expect("it is encoded")) {}
    service.cancel(id);
    let ended = events.iter().find_map(|event| match event {
        JobEvent::Done(outcome) => Some(outcome),
        _ => None,
    });
    // The answer may have been complete already.
    assert!(ended.expect("it ends").map_or_else(|error| error.kind() == Kind::Stopped, |_| true));
    assert!(outcome(&others).is_ok());
    service.cancel(id);
    settled(&service);
}

#[test]
fn a_medium_that_was_given_up_is_encoded_for_the_next_job() {
    let service = service(10, 1 << 30);
    for _ in 0..3 {
        let (job, events) = about_sample(QUESTIONS[0]);
        let id = service.submit(job).expect("there is room");
        service.cancel(id);
        assert!(outcome(&events).is_err());
    }
    let (job, events) = about_sample(QUESTIONS[0]);
    service.submit(job).expect("there is room");
    assert!(outcome(&events).is_ok());
}

#[test]
fn a_job_over_the_budget_is_refused_with_the_arithmetic_before_it_waits() {
    let service = service(10, 1 << 30);
    let (job, events) = about_sample(&"why ".repeat(5000));
    let error = service.submit(job).expect_err("too long");
    assert_eq!(error.kind(), Kind::TokenBudget);
    assert!(error.to_string().contains("over the model's context of"), "{error}");
    assert!(events.recv().is_err(), "the listener hears nothing");
    assert_eq!(service.load().n_open, 0);
}

#[test]
fn jobs_beyond_the_queue_are_refused_and_find_room_later() {
    let service = service(0, 1 << 30);
    let most = service.max_open;
    let open: Vec<_> = (0..most)
        .map(|_| {
            let (job, events) = about_sample(QUESTIONS[0]);
            service.submit(job).expect("there is room");
            events
        })
        .collect();
    // Jobs may have ended meanwhile; as many again cannot all have.
    let refused = (0..most).filter(|_| service.submit(about_sample(QUESTIONS[0]).0).is_err()).count();
    assert!(refused > 0);
    open.iter().for_each(|events| assert!(outcome(events).is_ok()));
    settled(&service);
}

#[test]
fn a_drained_service_finishes_what_is_open_and_takes_nothing_new() {
    let service = service(10, 1 << 30);
    let (job, events) = about_sample(QUESTIONS[0]);
    service.submit(job).expect("there is room");
    service.drain(LONG);
    assert!(outcome(&events).is_ok());
    let error = service.submit(about_sample(QUESTIONS[0]).0).expect_err("it is over");
    assert_eq!(error.to_string(), "the server is shutting down");
}

#[test]
fn jobs_over_the_grace_and_those_of_a_dropped_service_hear_that_it_ends() {
    for ends in [Service::drain as fn(&Service, Duration), |_, _| {}] {
        let service = service(100, 1 << 30);
        let open: Vec<_> = (0..20)
            .map(|_| {
                let (job, events) = about_sample(QUESTIONS[0]);
                service.submit(job).expect("there is room");
                events
            })
            .collect();
        ends(&service, Duration::ZERO);
        drop(service);
        for events in &open {
            if let Err(error) = outcome(events) {
                assert_eq!(error.to_string(), "the server is shutting down");
            }
        }
    }
}

#[test]
fn a_conversation_without_media_is_answered_from_its_text() {
    let service = service(10, 1 << 30);
    let turns = vec![ChatTurn { question: vec![ChatContent::Text("Hello".to_owned())], answer: None }];
    let (job, events) = job(turns, Vec::new());
    service.submit(job).expect("there is room");
    let answer = outcome(&events).expect("text alone");
    assert!(answer.media.is_empty() && !answer.answer.token_ids.is_empty());
}

#[test]
fn a_template_of_one_turn_warns_that_earlier_questions_are_left_out() {
    let service = service(10, 1 << 30);
    let mut turns = question(QUESTIONS[0]);
    turns[0].answer = Some("purple".to_owned());
    turns.push(ChatTurn { question: vec![ChatContent::Text(QUESTIONS[1].to_owned())], answer: None });
    assert!(!model().template.has_turns(), "vidense-mini takes single questions");
    for (turns, n_warnings) in [(turns, 1), (question(QUESTIONS[1]), 0)] {
        let (job, events) = job(turns, vec![sample()]);
        service.submit(job).expect("there is room");
        assert_eq!(outcome(&events).expect("it fits").warnings.len(), n_warnings);
    }
}
