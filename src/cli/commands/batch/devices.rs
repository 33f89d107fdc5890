//! `vidense batch --devices A,B`: one process for each device, which share an archive and merge their results.
//!
//! The archive is split into as many parts as there were devices when the results were begun. A part is a shard with
//! results of its own below `parts/`, so that any process resumes it after another ended. At the end, the parts are
//! merged.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use vidense::batch::store::{ANSWERS, Lock, SESSIONS, TIMINGS};
use vidense::batch::summary::{SUMMARY, read_summary};
use vidense::batch::{MergeReport, PartEnd, PartTask, Retry, Shard, SharedParts, Summary, merge, report, share};
use vidense::device::DeviceSpec;
use vidense::error::Error;
use vidense::exec::Stop;
use vidense::files::Durability;
use vidense::files::output::{create_directory, rename_over};

use super::process::{bind_to_parent, wait};
use crate::cli::output;
use crate::cli::{SomeFailed, Stopped, interrupt};

/// Directory of the parts' results, inside that of the results.
pub const PARTS: &str = "parts";
/// Directory in which the parts are merged, before it replaces earlier results.
const JOINED: &str = "joined.partial";
/// Variable that sets the GPUs that a process sees.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
/// Kinds of failure that may be caused by the device.
const OF_DEVICE: [&str; 2] = ["compute", "device_memory"];

/// Devices of `--devices`, all of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceList(Vec<DeviceSpec>);

impl std::str::FromStr for DeviceList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let devices = text.split(',').map(|name| name.trim().parse()).collect::<Result<Vec<DeviceSpec>, Error>>()?;
        let kind = |device: &DeviceSpec| device.to_string().split(':').next().unwrap_or_default().to_owned();
        if devices.contains(&DeviceSpec::Auto) {
            return Err(Error::invalid("`auto` is one device").with_hint("cuda:0,cuda:1"));
        }
        match devices.iter().find(|device| kind(device) != kind(&devices[0])) {
            Some(other) => {
                let rule = format!("{} and {other} compute differently, and so may their answers", devices[0]);
                Err(Error::invalid(rule))
            }
            None => Ok(Self(devices)),
        }
    }
}

/// Returns the directory of a part's results.
pub fn part_dir(out: &Path, part: Shard) -> PathBuf {
    out.join(PARTS).join(format!("{}-of-{}", part.index(), part.of()))
}

/// Returns the directories of the parts of results, in order.
pub fn part_dirs(out: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(out.join(PARTS)).into_iter().flatten();
    let mut dirs: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    dirs.retain(|dir| dir.join(ANSWERS).exists());
    dirs.sort();
    dirs
}

/// Batch that is shared among devices.
pub struct DeviceBatch<'a> {
    pub devices: &'a DeviceList,
    pub out: &'a Path,
    /// Set if the command itself has the flag `--retry-failed`.
    pub retries_failed: bool,
}

impl DeviceBatch<'_> {
    /// Runs the parts, merges their results, and prints a summary.
    ///
    /// # Errors
    /// When the results cannot be written, no device is left, or some items failed.
    pub fn run(&self) -> anyhow::Result<()> {
        create_directory(self.out)?;
        let _lock = Lock::take(self.out)?;
        if std::fs::metadata(self.out.join(SESSIONS)).is_ok_and(|file| file.len() > 0) {
            let error = Error::invalid("written by a single process, not with --devices");
            return Err(error.with_hint("resume without --devices, or use another --out").about(self.out).into());
        }
        let of = self.n_parts();
        let stop = Stop::new();
        interrupt::stop_on(&stop)?;
        let names = self.names();
        let run = |device: usize, task: &PartTask| {
            let end = self.run_part(device, task, of, &stop);
            match &end {
                PartEnd::Lost(cause) => output::warning(&format!(
                    "{}: {cause}; part {}/{of} resumes on another device",
                    names[device], task.part
                )),
                PartEnd::FailedOnDevice(cause) => {
                    output::warning(&format!("{}: {cause}; retried on another device, if there is one", names[device]))
                }
                PartEnd::Done | PartEnd::Stopped => {}
            }
            end
        };
        let shared = share(of, self.devices.0.len(), &run);
        let joined = self.join()?;
        self.conclude(&shared, joined.as_ref(), &stop)
    }

    /// Returns the number of parts: that of existing results, else one for each device.
    fn n_parts(&self) -> usize {
        let of = |dir: &PathBuf| dir.file_name()?.to_str()?.split_once("-of-")?.1.parse::<usize>().ok();
        part_dirs(self.out).iter().find_map(of).unwrap_or(self.devices.0.len())
    }

    /// Returns unique names of the processes, also where two run on one device.
    fn names(&self) -> Vec<String> {
        let devices = &self.devices.0;
        let is_twice = |device: &DeviceSpec| devices.iter().filter(|other| *other == device).count() > 1;
        let name = |(i, device)| if is_twice(device) { format!("{device} #{i}") } else { device.to_string() };
        devices.iter().enumerate().map(name).collect()
    }

    /// Runs one of `of` parts in a process on a device, and waits for the process.
    fn run_part(&self, device: usize, task: &PartTask, of: usize, stop: &Stop) -> PartEnd {
        if stop.is_draining() {
            return PartEnd::Stopped;
        }
        let shard: Shard = match format!("{}/{of}", task.part).parse() {
            Ok(shard) => shard,
            Err(error) => return PartEnd::Lost(error.to_string()),
        };
        let name = &self.names()[device];
        let ended = self.start(self.devices.0[device], shard, task.retry).and_then(|child| wait(child, name, stop));
        let dir = part_dir(self.out, shard);
        let summary = read_summary(&dir).filter(|summary| summary.complete);
        match (ended, summary) {
            (Ok(status), Some(summary)) if matches!(status.code(), Some(0 | 1)) => failures_of_device(&summary),
            _ if stop.is_draining() => PartEnd::Stopped,
            (Ok(status), _) => PartEnd::Lost(format!("its process ended early ({status})")),
            (Err(error), _) => PartEnd::Lost(format!("its process did not start: {error}")),
        }
    }

    /// Starts this command again for one part on one device.
    fn start(&self, device: DeviceSpec, part: Shard, retry: Retry) -> std::io::Result<Child> {
        // The summary of an earlier process is out of date.
        match std::fs::remove_file(part_dir(self.out, part).join(SUMMARY)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (seen, visible) = visible(device, std::env::var(VISIBLE).ok().as_deref());
        let mut own: Vec<OsString> =
            ["--part", &part.to_string(), "--set", &format!("device={seen}")].map(OsString::from).into();
        if retry == Retry::Failed && !self.retries_failed {
            own.push("--retry-failed".into());
        }
        let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
        arguments.splice(end..end, own);
        let itself = Path::new("/proc/self/exe");
        let mut command = Command::new(if itself.exists() { itself.to_owned() } else { std::env::current_exe()? });
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(visible) = visible {
            command.env(VISIBLE, visible);
        }
        bind_to_parent(&mut command);
        command.spawn()
    }

    /// Merges the parts' results, in place of an earlier merge; `None` where no part has results.
    fn join(&self) -> anyhow::Result<Option<MergeReport>> {
        let parts = part_dirs(self.out);
        if parts.is_empty() {
            return Ok(None);
        }
        let joined = self.out.join(JOINED);
        remove(&joined)?;
        let merged = merge::merge(&parts, &joined)?;
        for name in [ANSWERS, TIMINGS, SUMMARY, "thumbnails"] {
            let (from, to) = (joined.join(name), self.out.join(name));
            if from.exists() {
                if from.is_dir() {
                    remove(&to)?;
                }
                rename_over(&from, &to, Durability::Renamed)?;
            }
        }
        remove(&joined)?;
        report::write(self.out)?;
        Ok(Some(merged))
    }

    fn conclude(&self, shared: &SharedParts, joined: Option<&MergeReport>, stop: &Stop) -> anyhow::Result<()> {
        let summary = read_summary(self.out).filter(|_| joined.is_some()).unwrap_or_default();
        let held = &summary.results;
        output::note(&format!("{}: {} answers, {} failures", self.out.display(), held.answers, held.failed));
        for conflict in joined.iter().flat_map(|merged| &merged.conflicts) {
            output::warning(&format!("answered differently in two parts, the first answer stays: {conflict}"));
        }
        if stop.is_draining() {
            return Err(Stopped.into());
        }
        if !shared.undone.is_empty() {
            let parts: Vec<String> = shared.undone.iter().map(ToString::to_string).collect();
            let error = Error::invalid(format!("no device is left for part(s) {}", parts.join(", ")));
            return Err(error.with_hint("the same command resumes").into());
        }
        for gap in joined.iter().flat_map(|merged| &merged.gaps) {
            output::warning(&format!("a gap: {gap}"));
        }
        match usize::try_from(held.failed).unwrap_or(usize::MAX) {
            0 if summary.complete => Ok(()),
            0 => Err(Stopped.into()),
            n_failed => Err(SomeFailed { n_failed }.into()),
        }
    }
}

/// Returns the end of a part, by whether its failures may be caused by the device.
fn failures_of_device(summary: &Summary) -> PartEnd {
    let is_of_device = |category: &str| category.split_once('/').is_some_and(|(_, kind)| OF_DEVICE.contains(&kind));
    let n: u64 = summary.results.failed_by.iter().filter(|(name, _)| is_of_device(name)).map(|(_, n)| n).sum();
    if n > 0 {
        PartEnd::FailedOnDevice(format!("{n} failure(s) that the device may have caused"))
    } else {
        PartEnd::Done
    }
}

/// Returns a device as a process sees it, and the GPUs that are visible to the process: a single one, so that all
/// processes run the same plan.
fn visible(device: DeviceSpec, outer: Option<&str>) -> (DeviceSpec, Option<String>) {
    let DeviceSpec::Cuda(ordinal) = device else { return (device, None) };
    let outer = outer.and_then(|list| list.split(',').nth(ordinal)).map(|name| name.trim().to_owned());
    (DeviceSpec::Cuda(0), Some(outer.unwrap_or_else(|| ordinal.to_string())))
}

/// Removes a directory, if it exists.
fn remove(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_different_kinds_are_refused() {
        let parse = |text: &str| text.parse::<DeviceList>().map_err(|error| error.to_string());
        assert_eq!(parse("cuda:0, cuda:1").map(|list| list.0), Ok(vec![DeviceSpec::Cuda(0), DeviceSpec::Cuda(1)]));
        assert_eq!(parse("cpu,cuda:1"), Err("cpu and cuda:1 compute differently, and so may their answers".to_owned()));
        assert!(parse("auto,cpu").is_err() && parse("cuda:0,,").is_err() && parse("").is_err());
    }

    #[test]
    fn a_process_sees_its_own_gpu_alone() {
        let cuda = DeviceSpec::Cuda;
        assert_eq!(visible(cuda(2), None), (cuda(0), Some("2".to_owned())));
        assert_eq!(visible(cuda(1), Some("5, GPU-abc")), (cuda(0), Some("GPU-abc".to_owned())));
        assert_eq!(visible(cuda(3), Some("5,6")), (cuda(0), Some("3".to_owned())));
        assert_eq!(visible(DeviceSpec::Cpu, Some("5")), (DeviceSpec::Cpu, None));
    }
}
