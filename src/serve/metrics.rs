//! Counters and histograms of a server in the OpenMetrics format, for Prometheus: vLLM's stems with our prefix.
//!
//! Labels have a fixed set of values: no name of a client, a model or a file is one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::api::{ErrorStatus, finish_word};
use super::service::{JobAnswer, ServiceLoad};
use crate::exec::lock;

/// Upper bounds of the buckets of times, in seconds.
const SECONDS: [f64; 18] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0];

/// Label of a metric: its name and its value.
type Label = [(&'static str, &'static str); 1];
/// Value that is neither counted nor summed.
type FloatGauge = Gauge<f64, AtomicU64>;

/// Metrics of a server.
pub struct ServeMetrics {
    registry: Mutex<Registry>,
    first_token: Histogram,
    inter_token: Histogram,
    per_output_token: Histogram,
    total: Histogram,
    queue: Histogram,
    prefill: Histogram,
    generate: Histogram,
    decode: Histogram,
    encode: Histogram,
    success: Family<Label, Counter>,
    failure: Family<Label, Counter>,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    polled: PolledMetrics,
}

/// Metrics that are read from the service when they are asked for.
#[derive(Default)]
struct PolledMetrics {
    running: Gauge,
    waiting: Gauge,
    encoding: Gauge,
    kv_usage: FloatGauge,
    cached_media: Gauge,
    cached_bytes: Gauge,
    queries: Counter,
    hits: Counter,
    frames: Counter,
    preemptions: Counter,
}

impl Default for ServeMetrics {
    fn default() -> Self {
        let times = || Histogram::new(SECONDS);
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("vidense")),
            first_token: times(),
            inter_token: times(),
            per_output_token: times(),
            total: times(),
            queue: times(),
            prefill: times(),
            generate: times(),
            decode: times(),
            encode: times(),
            success: Family::default(),
            failure: Family::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            polled: PolledMetrics::default(),
        };
        metrics.register();
        metrics
    }
}

impl ServeMetrics {
    fn register(&self) {
        let registry = &mut *lock(&self.registry);
        for (name, help, histogram) in [
            ("time_to_first_token_seconds", "Time from a request to the first text of its answer", &self.first_token),
            ("inter_token_latency_seconds", "Time between two texts of an answer", &self.inter_token),
            (
                "request_time_per_output_token_seconds",
                "Share of the engine's steps for each token",
                &self.per_output_token,
            ),
            ("e2e_request_latency_seconds", "Time from a request to the end of its answer", &self.total),
            ("request_queue_time_seconds", "Time from a prompt's media to its first token", &self.queue),
            ("request_prefill_time_seconds", "Share of the engine's steps that read a prompt", &self.prefill),
            ("request_decode_time_seconds", "Share of the engine's steps that generated an answer", &self.generate),
            ("decode_seconds", "Time of decoding a video", &self.decode),
            ("encode_seconds", "Time of encoding the frames of a video", &self.encode),
        ] {
            registry.register(name, help, histogram.clone());
        }
        registry.register("request_success", "Answers, by the reason of their end", self.success.clone());
        registry.register("request_failure", "Requests without an answer, by status", self.failure.clone());
        registry.register("prompt_tokens", "Tokens of prompts, text and visual", self.prompt_tokens.clone());
        registry.register("generation_tokens", "Tokens of answers", self.generation_tokens.clone());
        let polled = &self.polled;
        registry.register("num_requests_running", "Sequences that the engine runs", polled.running.clone());
        registry.register("num_requests_waiting", "Requests that wait", polled.waiting.clone());
        registry.register("num_media_encoding", "Media that are read and encoded", polled.encoding.clone());
        let help = "Share of the key-value memory in use, 0 to 1";
        registry.register("kv_cache_usage_perc", help, polled.kv_usage.clone());
        registry.register("mm_cache_media", "Media whose visual tokens are in memory", polled.cached_media.clone());
        registry.register("mm_cache_bytes", "Bytes of these tokens", polled.cached_bytes.clone());
        registry.register("mm_cache_queries", "Media that requests asked for", polled.queries.clone());
        registry.register("mm_cache_hits", "Media that were found encoded", polled.hits.clone());
        registry.register("frames", "Frames that were encoded", polled.frames.clone());
        registry.register("num_preemptions", "Sequences whose memory went to others", polled.preemptions.clone());
    }

    /// Counts the first text of an answer, `since` its request.
    pub fn first_text(&self, since: Duration) {
        self.first_token.observe(since.as_secs_f64());
    }

    /// Counts a further text of an answer, `since` the one before.
    pub fn further_text(&self, since: Duration) {
        self.inter_token.observe(since.as_secs_f64());
    }

    /// Counts an answer, `since` its request.
    pub fn answered(&self, done: &JobAnswer, since: Duration) {
        let answer = &done.answer;
        let n_new = answer.token_ids.len();
        self.total.observe(since.as_secs_f64());
        self.queue.observe(done.times.first_token.saturating_sub(answer.prefill).as_secs_f64());
        self.prefill.observe(answer.prefill.as_secs_f64());
        self.generate.observe(answer.generate.as_secs_f64());
        self.per_output_token.observe(answer.generate.as_secs_f64() / n_new.max(1) as f64);
        for medium in done.media.iter().filter(|medium| !medium.is_cached) {
            self.decode.observe(medium.timings.decode.as_secs_f64());
            self.encode.observe(medium.timings.encode.as_secs_f64());
        }
        self.success.get_or_create(&[("finished_reason", finish_word(answer.finish_reason))]).inc();
        self.prompt_tokens.inc_by((answer.prompt_tokens.0 + answer.visual_tokens.0) as u64);
        self.generation_tokens.inc_by(n_new as u64);
    }

    /// Counts a request without an answer.
    pub fn failed(&self, status: ErrorStatus) {
        self.failure.get_or_create(&[("status", status.word())]).inc();
    }

    /// Counts a request whose client went away.
    pub fn cancelled(&self) {
        self.failure.get_or_create(&[("status", "499")]).inc();
    }

    /// Encodes the page of one scrape; without a load while the model is not loaded.
    pub fn page(&self, load: Option<&ServiceLoad>) -> String {
        if let Some(load) = load {
            self.polled.set(load);
        }
        let mut page = String::new();
        // Writing to memory does not fail.
        let _ = encode(&mut page, &lock(&self.registry));
        page
    }
}

impl PolledMetrics {
    fn set(&self, load: &ServiceLoad) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.running.set(number(load.n_running));
        self.waiting.set(number(load.n_waiting));
        self.encoding.set(number(load.n_encoding));
        self.kv_usage.set(load.kv_bytes as f64 / load.engine.kv_budget_bytes.max(1) as f64);
        self.cached_media.set(number(load.n_cached));
        self.cached_bytes.set(i64::try_from(load.cached_bytes).unwrap_or(i64::MAX));
        for (counter, value) in [
            (&self.queries, load.media_queries),
            (&self.hits, load.media_hits),
            (&self.frames, load.n_frames),
            (&self.preemptions, load.engine.preemptions),
        ] {
            counter.inner().store(value, Ordering::Relaxed);
        }
    }
}

/// Content type of a page.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_vllms_stems_with_our_prefix() {
        let metrics = ServeMetrics::default();
        metrics.failed(ErrorStatus::BadRequest);
        metrics.first_text(Duration::from_millis(20));
        let mut load =
            ServiceLoad { n_running: 2, n_waiting: 3, kv_bytes: 50, media_hits: 4, ..ServiceLoad::default() };
        load.engine.kv_budget_bytes = 200;
        let page = metrics.page(Some(&load));
        for line in [
            "vidense_num_requests_running 2",
            "vidense_num_requests_waiting 3",
            "vidense_kv_cache_usage_perc 0.25",
            "vidense_mm_cache_hits_total 4",
            "vidense_request_failure_total{status=\"400\"} 1",
            "vidense_time_to_first_token_seconds_bucket{le=\"0.025\"} 1",
            "# EOF",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
        }
    }
}
