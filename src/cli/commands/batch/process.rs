//! Child processes of a batch that is shared among devices: messages, signals, end.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use vidense::exec::Stop;

use crate::cli::output;

/// Interval between two checks of a process.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waits for a process, prints its messages, each line with its device, and forwards requests to stop.
pub(super) fn wait(mut child: Child, name: &str, stop: &Stop) -> std::io::Result<ExitStatus> {
    let messages = child.stderr.take();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for line in
                messages.into_iter().flat_map(|messages| BufReader::new(messages).split(b'\n')).map_while(Result::ok)
            {
                output::passed_on(name, &String::from_utf8_lossy(&line));
            }
        });
        let mut n_asked = 0;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let n_wanted = i32::from(stop.is_draining()) + i32::from(stop.is_aborted());
            if n_asked < n_wanted {
                ask_to_end(&mut child);
                n_asked += 1;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    })
}

/// Asks a process to stop: it finishes the work in progress, and at the second request ends at once.
fn ask_to_end(child: &mut Child) {
    #[cfg(unix)]
    {
        let Ok(pid) = libc::pid_t::try_from(child.id()) else { return };
        // SAFETY: the process was not waited for yet, so its id is not reused.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
    #[cfg(not(unix))]
    {
        let _ = child.kill();
    }
}

/// Directs signals of the terminal to this process alone, which forwards them, and ends the new process with this one.
pub(super) fn bind_to_parent(command: &mut Command) {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        command.process_group(0);
        #[cfg(target_os = "linux")]
        // SAFETY: the call is async-signal-safe, and affects the new process alone.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
    }
    #[cfg(not(unix))]
    let _ = command;
}
