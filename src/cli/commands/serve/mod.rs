//! `vidense serve`: an OpenAI-compatible server and a page, closed by default.
//!
//! The only module with an async runtime: sockets, headers and streams are here; conversations, media and metrics are
//! in [`vidense::serve`]. The listener is bound and answers 503 before a weight is read.

mod access;
mod args;
mod body;
mod chat;
mod info;
mod job;
mod keys;
mod listen;
pub mod log;
mod open;
mod pace;
mod path;
mod reply;
mod request_id;
mod run;
mod state;
mod stdio;
mod stream;
mod videos;
mod waiting;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use clap::Args;
use tower_http::catch_panic::CatchPanicLayer;
use vidense::error::Error;
use vidense::exec::Stop;
use vidense::spec::Document;

use self::args::{HttpArgs, MediaArgs};
use self::keys::ApiKeys;
use self::listen::address;
use self::open::ServerPlan;
use self::run::HttpServer;
use self::state::ServerState;
use self::stdio::{LineGrace, StdioLimits, StdioServer};
use crate::cli::args::PlanArgs;
use crate::cli::interrupt;
use crate::cli::limits::{CacheArgs, ItemLimitArgs, Supervision};
use crate::cli::output::{self, LogFormat};
use crate::cli::plan_flags::PLAN_FLAGS;

/// Requests on standard input that are open at once.
const MAX_OPEN_LINES: usize = 256;

/// Flags that are about connections alone.
const HTTP_FLAGS: [&str; 5] = ["listen", "api_key_file", "request_timeout", "read_timeout", "keep_alive"];

/// Serve an OpenAI-compatible API and a page
///
/// POST /v1/chat/completions answers questions about videos of any OpenAI client, streamed or not; / is a page for
/// people; /health, /metrics and /version are for machines. Requests of all clients share the engine's steps, and a
/// video that is asked about twice is encoded once. No local file and no address is read unless it is allowed.
/// SIGTERM or Ctrl-C finishes the requests in progress; a second one ends at once.
#[derive(Args)]
pub struct Serve {
    /// Pipeline file (YAML), in place of the flags of the model, frames, prompt and generation
    #[arg(conflicts_with_all = PLAN_FLAGS)]
    pipeline: Option<PathBuf>,
    /// Value that overrides that of the pipeline, such as temporal.max_pool.stride=4; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "pipeline")]
    sets: Vec<String>,
    /// Answer requests on standard input, one a line, on standard output, without a listener
    ///
    /// A line is the body of a chat completion with an `id` of any type, or a line of OpenAI's batch files. Its answer
    /// is {"id": ..., "response": {...}} or {"id": ..., "error": {...}}, in any order.
    #[arg(long, conflicts_with_all = HTTP_FLAGS)]
    stdio: bool,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    media: MediaArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Format of standard error: text, or json with one object a line
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log: LogFormat,
    #[command(flatten)]
    items: ItemLimitArgs,
    #[command(flatten)]
    plan: PlanArgs,
}

impl Serve {
    /// Runs the command until a signal ends it.
    ///
    /// # Errors
    /// Any error that keeps the server from answering.
    pub fn run(self) -> anyhow::Result<()> {
        output::log_as(self.log);
        if self.stdio {
            return self.run_on_lines();
        }
        let keys = ApiKeys::read(self.http.api_key_file.as_deref())?;
        let address = address(&self.http.listen)?;
        if keys.is_empty() && !address.ip().is_loopback() {
            let rule = format!("{address} is reachable from other machines, which requires an API key");
            return Err(Error::invalid(rule)
                .with_hint("--api-key-file FILE, or --listen 127.0.0.1:8000")
                .about("--listen")
                .into());
        }
        let (limits, grace) = (self.http.limits(), self.http.grace_after_signal());
        let plan = self.server_plan()?;
        let scratch = plan.open_scratch()?;
        HttpServer { address, keys, limits, grace }.run(move || plan.open(scratch))
    }

    /// Answers requests on standard input.
    fn run_on_lines(self) -> anyhow::Result<()> {
        let stop = Stop::new();
        interrupt::stop_on(&stop)?;
        let limits = StdioLimits {
            max_line: self.http.max_body.as_u64(),
            max_open: self.http.max_requests.min(MAX_OPEN_LINES),
            grace: LineGrace { signal: self.http.grace_after_signal(), input: self.http.grace },
        };
        let plan = self.server_plan()?;
        let scratch = plan.open_scratch()?;
        StdioServer { ready: plan.open(scratch)?, limits }.run(&stop)
    }

    fn server_plan(self) -> anyhow::Result<ServerPlan> {
        let Self { pipeline, sets, http, media, cache, items, plan, .. } = self;
        let read = plan.read().clone();
        let isolation = items.isolation(Supervision::Unattended, &read)?.ok_or_else(|| {
            Error::invalid("a server decodes in separate processes").with_hint("leave it out").about("--isolate")
        })?;
        let limits = items.limits(Supervision::Unattended, &read)?;
        let (plan, document) = match &pipeline {
            Some(pipeline) => plan.of_pipeline(pipeline, &sets)?,
            None => (plan.plan()?, Document::empty()),
        };
        if plan.image_rate.is_some() {
            let error = Error::invalid("a server reads no directories of images, which alone have a rate");
            return Err(error
                .with_hint("media_io_kwargs.video.fps of a request with images")
                .about("image_rate")
                .into());
        }
        Ok(ServerPlan {
            plan,
            document,
            limits,
            isolation,
            max_bytes: http.max_body.as_u64(),
            names: http.served_model_name,
            max_waiting: http.max_waiting,
            media,
            cache,
        })
    }
}

/// Makes the router of all paths.
fn router(state: &Arc<ServerState>) -> Router {
    Router::new()
        .route("/", get(info::page))
        .route("/health", get(info::health))
        .route("/version", get(info::version))
        .route("/metrics", get(info::metrics))
        .route("/v1/models", get(info::models))
        .route("/v1/models/{*name}", get(info::model))
        .route("/v1/pipeline", get(info::pipeline))
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/videos", post(videos::upload))
        .route("/v1/videos/{id}", delete(videos::remove))
        .route("/v1/videos/{id}/frames", get(videos::frames))
        .fallback(access::not_found)
        .method_not_allowed_fallback(access::method_not_allowed)
        .layer(CatchPanicLayer::custom(reply::after_panic))
        .layer(from_fn_with_state(state.clone(), access::admit))
        .with_state(state.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_flag_of_a_plan_excludes_a_pipeline_file() {
        let command = PlanArgs::augment_args(clap::Command::new("serve"));
        let flags: BTreeSet<&str> = command.get_arguments().map(|flag| flag.get_id().as_str()).collect();
        // Flags beside a plan, which a pipeline file does not set either.
        let beside = ["allow_unused", "kv_memory", "stall_limit"];
        let known: BTreeSet<&str> = PLAN_FLAGS.into_iter().chain(beside).collect();
        assert_eq!(flags, known);
    }
}
