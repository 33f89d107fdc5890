//! `--metrics`: HTTP endpoint of a batch's counters in the OpenMetrics format, for Prometheus.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use vidense::batch::Snapshot;
use vidense::error::{About as _, Error};

/// Server that is bound to its address.
pub struct Server(tiny_http::Server);

impl Server {
    /// Binds an address.
    ///
    /// # Errors
    /// When the address is invalid or in use.
    pub fn bind(address: &str) -> anyhow::Result<Self> {
        let server = tiny_http::Server::http(address);
        Ok(server.map(Self).map_err(|error| Error::invalid(error.to_string()).about(format!("--metrics {address}")))?)
    }

    /// Serves `/metrics` from now on, on a thread that ends with the process.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn serve(self, ask: impl Fn() -> Snapshot + Send + 'static) -> anyhow::Result<()> {
        let answer = move || {
            for request in self.0.incoming_requests() {
                let found = request.url().split('?').next() == Some("/metrics");
                let (text, status) = if found { (page(&ask()), 200) } else { ("see /metrics\n".to_owned(), 404) };
                let mut response = tiny_http::Response::from_string(text).with_status_code(status);
                let kind = if found { OPEN_METRICS } else { "text/plain" };
                if let Ok(header) = tiny_http::Header::from_bytes("Content-Type", kind) {
                    response.add_header(header);
                }
                // A client that has disconnected is no error.
                let _ = request.respond(response);
            }
        };
        std::thread::Builder::new().name("metrics".to_owned()).spawn(answer).about("--metrics")?;
        Ok(())
    }
}

/// Content type of a page.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Encodes a snapshot as the text of one scrape.
fn page(snapshot: &Snapshot) -> String {
    let mut registry = Registry::with_prefix("vidense");
    registry.register_collector(Box::new(SnapshotCollector(snapshot.clone())));
    let mut page = String::new();
    // Writing to memory does not fail.
    let _ = text::encode(&mut page, &registry);
    page
}

/// Collector of the metrics of a snapshot.
#[derive(Debug)]
struct SnapshotCollector(Snapshot);

type Labels<'l> = Vec<(&'l str, &'l str)>;

impl Collector for SnapshotCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self(now) = self;
        let mut family = |(name, help): (&str, &str), is_counter: bool, rows: &[(Labels<'_>, f64)]| {
            if rows.is_empty() {
                return Ok(());
            }
            let kind = if is_counter { MetricType::Counter } else { MetricType::Gauge };
            let write = |value: f64, row: MetricEncoder<'_>| match is_counter {
                true => ConstCounter::new(value).encode(row),
                false => ConstGauge::new(value).encode(row),
            };
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            if let [(labels, value)] = rows
                && labels.is_empty()
            {
                return write(*value, metric);
            }
            for (labels, value) in rows {
                write(*value, metric.encode_family(labels)?)?;
            }
            Ok(())
        };
        let items = [("answered", now.done), ("failed", now.failed), ("skipped", now.skipped)];
        let items: Vec<_> = items.iter().map(|(outcome, n)| (vec![("outcome", *outcome)], *n as f64)).collect();
        family(("items", "Items that are done, by outcome"), true, &items)?;
        let categories = now.failed_by.iter().map(|(category, n)| {
            let (stage, kind) = category.split_once('/').unwrap_or((category, ""));
            (vec![("stage", stage), ("kind", kind)], *n as f64)
        });
        family(("failures", "Items and questions that failed"), true, &categories.collect::<Vec<_>>())?;
        let passed_over = now.passed_over.iter().map(|(reason, left)| (vec![("reason", &**reason)], left.files as f64));
        let rows: Vec<_> = passed_over.collect();
        family(("passed_over", "Files of the folder that are not videos"), true, &rows)?;
        for (name, help, value) in [
            ("answers", "Answers", now.answers as f64),
            ("frames_decoded", "Decoded frames, sampled or not", now.frames_decoded as f64),
            ("frames_encoded", "Frames encoded by the tower", now.frames_encoded as f64),
            ("cache_hits", "Items whose visual tokens were cached by an earlier run", now.found_in_cache as f64),
            ("tokens_generated", "Tokens of answers", now.tokens as f64),
            ("video_seconds", "Seconds of video with answers", now.video_hours * 3600.0),
            ("decoder_restarts", "Decoding processes that were restarted", now.decoder_restarts as f64),
        ] {
            family((name, help), true, &[(Vec::new(), value)])?;
        }
        let stages = |of: fn(&vidense::batch::StageUse) -> f64| -> Vec<_> {
            let row = |stage| (labels(stage), of(stage));
            now.stages.iter().map(row).collect()
        };
        family(("stage_busy_seconds", "Seconds that a stage's threads were busy"), true, &stages(|s| s.busy_seconds))?;
        family(
            ("stage_utilisation", "Share of recent time that a stage's threads were busy, 0 to 1"),
            false,
            &stages(|s| s.utilisation),
        )?;
        let gauges = [
            ("items_expected", "Items of the archive", now.expected.map(|n| n as f64)),
            ("seconds_left", "Estimated seconds left, by the sizes of files", now.seconds_left),
            ("video_hours_left", "Estimated hours of video left, by the sizes of files", now.video_hours_left),
        ];
        for (name, help, value) in gauges {
            let rows: Vec<_> = value.iter().map(|value| (Vec::new(), *value)).collect();
            family((name, help), false, &rows)?;
        }
        Ok(())
    }
}

fn labels(stage: &vidense::batch::StageUse) -> Labels<'_> {
    vec![("stage", &stage.name), ("device", &stage.device)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use vidense::batch::StageUse;

    #[test]
    fn a_page_contains_every_metric_with_its_labels() {
        let stage = StageUse { name: "encode".into(), device: "cpu".into(), utilisation: 0.5, busy_seconds: 2.0 };
        let snapshot = Snapshot {
            done: 3,
            failed: 1,
            failed_by: [("decode/empty".to_owned(), 1)].into(),
            expected: Some(9),
            stages: vec![stage],
            ..Snapshot::default()
        };
        let page = page(&snapshot);
        for line in [
            "# TYPE vidense_items counter",
            "vidense_items_total{outcome=\"answered\"} 3.0",
            "vidense_failures_total{stage=\"decode\",kind=\"empty\"} 1.0",
            "vidense_stage_utilisation{stage=\"encode\",device=\"cpu\"} 0.5",
            "vidense_items_expected 9.0",
            "# EOF",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
        }
        assert!(!page.contains("seconds_left"), "unknown values are left out");
    }
}
