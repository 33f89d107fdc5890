//! `vidense decode-worker`: decoding process of another vidense process, which it does not outlive.

use std::io::{BufReader, BufWriter};

use clap::Args;
use vidense::video::worker::{Confinement, DecodeRequest, ProcessLifetime, serve};

/// Decode the requests of standard input; started by vidense itself
#[derive(Args)]
#[command(hide = true)]
pub struct DecodeWorker {
    /// Limit of the address space of this process
    #[arg(long, value_name = "BYTES")]
    memory: Option<u64>,
    /// End after one request
    #[arg(long)]
    once: bool,
}

impl DecodeWorker {
    /// Runs the command.
    ///
    /// # Errors
    /// When standard output is closed, or the operating system refuses a limit.
    pub fn run(self) -> anyhow::Result<()> {
        let lifetime = if self.once { ProcessLifetime::OneReading } else { ProcessLifetime::Kept };
        let confinement = Confinement { memory: self.memory, lifetime };
        confinement.apply()?;
        // The parent ends this process; a signal to the whole group is not meant for it.
        ctrlc::set_handler(|| {})?;
        let (sender, requests) = crossbeam_channel::bounded(1);
        std::thread::Builder::new().name("requests".to_owned()).spawn(move || {
            let mut input = BufReader::new(std::io::stdin());
            while let Ok(Some(request)) = DecodeRequest::read(&mut input) {
                if sender.send(request).is_err() {
                    return;
                }
            }
            // Also in the middle of a frame: the parent is gone.
            std::process::exit(0);
        })?;
        let mut replies = BufWriter::with_capacity(1 << 18, std::io::stdout().lock());
        Ok(serve(&confinement, requests.iter(), &mut replies)?)
    }
}
