//! Confinement of a decoding process by itself, at its start and at its request: memory, files, privileges.
//!
//! The limits hold for what a codec does after an error that its authors did not foresee. None of them replaces the
//! checks of the reader, and a system without one of them decodes without it. Called by the process's own command.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::ProcessLifetime;
use crate::video::LinkedFilePolicy;

/// Confinement of a decoding process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confinement {
    /// Bytes of address space of the process at most. Default: none.
    pub memory: Option<u64>,
    /// Lifetime of the process. Default: `Kept`.
    pub lifetime: ProcessLifetime,
}

impl Confinement {
    /// Argument of the process before the number of bytes of its memory.
    pub const MEMORY: &str = "--memory";
    /// Argument of the process that ends after one reading.
    pub const ONCE: &str = "--once";

    /// Returns the arguments of a process that confines itself so.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        if let Some(bytes) = self.memory {
            arguments.extend([Self::MEMORY.into(), bytes.to_string().into()]);
        }
        if self.lifetime == ProcessLifetime::OneReading {
            arguments.push(Self::ONCE.into());
        }
        arguments
    }

    /// Confines this process: no core files, no bytes written to files, no new privileges, no debugger of the same
    /// user, and the limit of memory. A process of one reading ends with the thread that started it.
    ///
    /// # Errors
    /// When the operating system refuses a limit.
    pub fn apply(&self) -> io::Result<()> {
        #[cfg(unix)]
        {
            limit(libc::RLIMIT_CORE, 0)?;
            limit(libc::RLIMIT_FSIZE, 0)?;
            // A write over the limit is an error, not the end of the process.
            // SAFETY: the signal is ignored, so that no handler runs.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            if let Some(bytes) = self.memory {
                limit(libc::RLIMIT_AS, bytes)?;
            }
        }
        #[cfg(target_os = "linux")]
        {
            control(libc::PR_SET_NO_NEW_PRIVS, 1)?;
            control(libc::PR_SET_DUMPABLE, 0)?;
            if self.lifetime == ProcessLifetime::OneReading {
                control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
            }
        }
        Ok(())
    }

    /// Restricts the calling thread, in a process of one reading, to the video that a request names, if the request
    /// allows no other file. Systems without such restrictions do nothing.
    pub(super) fn enter(&self, path: &Path, links: LinkedFilePolicy) {
        #[cfg(target_os = "linux")]
        if self.lifetime == ProcessLifetime::OneReading && links == LinkedFilePolicy::Refuse {
            super::landlock::allow_reading_only(path);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (path, links);
    }
}

/// Type of the resources of `setrlimit`, which differs from one C library to the next.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(all(unix, not(all(target_os = "linux", target_env = "gnu"))))]
type Resource = libc::c_int;

/// Limits a resource of this process, to its present limit where that is lower.
#[cfg(unix)]
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get the address of a limit that outlives them.
    unsafe {
        if libc::getrlimit(resource, &raw mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        let most = limit.rlim_max.min(most as libc::rlim_t);
        limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        if libc::setrlimit(resource, &raw const limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sets an attribute of this process.
#[cfg(target_os = "linux")]
fn control(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options that this module sets take a number and no pointer; the other arguments must be 0.
    match unsafe { libc::prctl(option, value, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_gets_its_confinement_as_arguments() {
        assert_eq!(Confinement::default().arguments(), [""; 0]);
        let confinement = Confinement { memory: Some(1 << 30), lifetime: ProcessLifetime::OneReading };
        assert_eq!(confinement.arguments(), ["--memory", "1073741824", "--once"]);
    }
}
