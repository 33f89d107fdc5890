//! `vidense decode-worker`: the process that decodes for another one, which it does not outlive.

use std::io::{BufReader, BufWriter};

use clap::Args;
use vidense::video::worker::{Request, serve};

/// Decode what standard input asks for; started by vidense itself
#[derive(Args)]
#[command(hide = true)]
pub struct DecodeWorker {}

impl DecodeWorker {
    /// Runs the command.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn run(self) -> anyhow::Result<()> {
        // Whoever started it ends it; a signal to all of its processes is not meant for this one.
        ctrlc::set_handler(|| {})?;
        let (sender, requests) = crossbeam_channel::bounded(1);
        std::thread::Builder::new().name("requests".to_owned()).spawn(move || {
            let mut input = BufReader::new(std::io::stdin());
            while let Ok(Some(request)) = Request::read(&mut input) {
                if sender.send(request).is_err() {
                    return;
                }
            }
            // Also in the middle of a frame: nobody is there to want it.
            std::process::exit(0);
        })?;
        let mut replies = BufWriter::with_capacity(1 << 18, std::io::stdout().lock());
        Ok(serve(requests.iter(), &mut replies)?)
    }
}
