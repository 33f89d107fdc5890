//! Many clients at once: every request is answered, as alone.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Server, asked};

const QUESTIONS: [&str; 4] = [
    "What color is the circle?",
    "How many objects are there?",
    "What pattern does the red cross have?",
    "Describe the video.",
];

/// Asks from clients at once, and compares with the answers of `ask`.
fn run(n_clients: usize, n_each: usize) {
    let server = Server::start(&[]);
    let expected = QUESTIONS.map(asked);
    let n_answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..n_clients {
            let (server, expected, n_answered) = (&server, &expected, &n_answered);
            scope.spawn(move || {
                for i in 0..n_each {
                    let which = (client + i) % QUESTIONS.len();
                    assert_eq!(server.answer(QUESTIONS[which]), expected[which]);
                    n_answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(n_answered.into_inner(), n_clients * n_each);
    let n = (n_clients * n_each) as f64;
    assert_eq!(server.metric("vidense_request_success_total{finished_reason=\"stop\"}"), n);
    assert_eq!(server.metric("vidense_frames_total"), 8.0, "the video is encoded once");
    assert_eq!(server.metric("vidense_num_requests_waiting"), 0.0);
}

#[test]
fn clients_at_once_have_the_answers_of_each_alone() {
    run(16, 3);
}

#[test]
#[ignore = "slow"]
fn a_burst_of_64_clients_is_answered() {
    run(64, 10);
}
