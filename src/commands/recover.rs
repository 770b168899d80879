//! F6: `vsr recover`: a new data file in the place of a replica's lost one.
//!
//! ```text
//!   the file is there: refused ──► Recovery: look, ask, confirm, write ──► what to do next
//!                                     └ failed: what was created is removed, and how far it came
//! ```
//!
//! **Invariants:** a file that was there before is never written to and never removed.
//!
//! **Not here:** the recovery itself (`vsr::recovery`).

use super::format::{open_fatal, remove, write_fatal};
use super::{Exit, Failure, Result, operating_system, print, tell};
use crate::cli;
use std::io::ErrorKind;
use std::time::Duration;
use vsr::fatal::{Fatal, FatalKind};
use vsr::io::{IO, MioIO, MioOptions};
use vsr::recovery::{Recovered, Recovery, RecoveryConfig, RecoveryError, Stage};

/// `vsr recover`.
pub(super) fn run(arguments: &cli::Recover) -> Result {
    let path = &arguments.path;
    // Before anything is asked of the cluster. The file is created exclusively all the same.
    if path.symlink_metadata().is_ok() {
        return Err(Failure::Fatal(Fatal::new(
            FatalKind::Exists,
            format!(
                "{} exists, and recover never overwrites: if it is whole, start it; if it is \
                 damaged, or what an interrupted recover left, move it away first",
                path.display()
            ),
        )));
    }
    let options =
        MioOptions { development: arguments.development, signals: true, ..MioOptions::default() };
    let mut io = MioIO::new(options).map_err(operating_system)?;
    let config = RecoveryConfig {
        path: path.clone(),
        replica: arguments.replica,
        cluster: arguments.cluster,
        addresses: arguments.addresses.clone(),
        timeout: arguments.timeout,
    };
    let mut recovery = Recovery::new(&mut io, config).map_err(|error| failed(arguments, error))?;
    match drive(&mut io, &mut recovery) {
        Ok(recovered) => {
            print(&done(arguments, &recovered))?;
            Ok(Exit::Done)
        }
        Err(error) => {
            if recovery.is_file_created() {
                let removed = remove(path);
                if let RecoveryError::Write(error) = &error
                    && error.kind() != ErrorKind::StorageFull
                {
                    return Err(Failure::Fatal(write_fatal(path, error, &removed)));
                }
                tell(&removed);
            }
            if let RecoveryError::Obstacle(_) = error {
                if recovery.is_dismissed() {
                    return Err(Failure::Estranged(super::DISMISSED));
                }
                if recovery.is_misdirected() {
                    return Err(Failure::Estranged(super::MISDIRECTED));
                }
            }
            Err(failed(arguments, error))
        }
    }
}

/// Runs the recovery to its end, and tells how far it is.
fn drive<I: IO>(
    io: &mut I,
    recovery: &mut Recovery,
) -> std::result::Result<Recovered, RecoveryError> {
    let mut events = Vec::new();
    let mut told: Option<Stage> = None;
    loop {
        if told != Some(recovery.stage()) {
            told = Some(recovery.stage());
            tell(&format!("{} …", recovery.stage()));
        }
        let wait = recovery.wait(io.monotonic()).min(Duration::from_millis(100));
        io.run(wait, &mut events);
        for event in events.drain(..) {
            recovery.on_event(io, event)?;
        }
        if let Some(recovered) = recovery.turn(io)? {
            return Ok(recovered);
        }
    }
}

fn done(arguments: &cli::Recover, recovered: &Recovered) -> String {
    let cli::Recover { path, replica, .. } = arguments;
    let addresses: Vec<String> = arguments.addresses.iter().map(ToString::to_string).collect();
    let mut start = format!("vsr start --replica={replica} --addresses={}", addresses.join(","));
    if *path != cli::data_path(*replica) {
        start.push_str(&format!(" --data={}", path.display()));
    }
    format!(
        "recovered {}: replica {replica} of {}, cluster {}, {} MiB, incarnation {:016x}, op {}, \
         view {}\nnow start it, and wait until `vsr status` shows it without lag before another \
         replica is touched:\n    {start}\n",
        path.display(),
        arguments.addresses.len(),
        arguments.cluster,
        recovered.size >> 20,
        recovered.incarnation,
        recovered.op,
        recovered.view,
    )
}

fn failed(arguments: &cli::Recover, error: RecoveryError) -> Failure {
    let cli::Recover { path, replica, .. } = arguments;
    match error {
        RecoveryError::TooFewReplicas(count) => Failure::Usage(format!(
            "--addresses names {count}: a lost file is recovered in a cluster of 3 or more, where \
             the others are a view-change quorum; restore this one from a backup"
        )),
        RecoveryError::Alive => Failure::Refused(format!(
            "replica {replica} answers at {}: it runs, so its data file is not lost",
            arguments.addresses[replica.index()]
        )),
        RecoveryError::Obstacle(obstacle) => Failure::Refused(obstacle.to_string()),
        RecoveryError::Unknown => Failure::Unknown(
            "the primary was asked and has not answered in time: the old data file may be no \
             member any more, and there is no new one: run this command again"
                .to_owned(),
        ),
        RecoveryError::NotConfirmed => Failure::Unknown(
            "the recovery is committed, but too few replicas say in which view: the old data file \
             is no member any more, and there is no new one: run this command again"
                .to_owned(),
        ),
        RecoveryError::Open(error) => Failure::Fatal(open_fatal(path, &error)),
        RecoveryError::Write(error) if error.kind() == ErrorKind::StorageFull => {
            Failure::Fatal(Fatal::new(
                FatalKind::DiskFull,
                format!(
                    "{}: the disk is full ({error}): free some space and run this command again",
                    path.display()
                ),
            ))
        }
        RecoveryError::Write(error) => Failure::Fatal(write_fatal(path, &error, "")),
        RecoveryError::Terminated => Failure::Fatal(Fatal::new(
            FatalKind::OperatingSystem,
            "interrupted by a signal: run this command again",
        )),
    }
}
