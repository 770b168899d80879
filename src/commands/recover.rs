//! F6: `vsr recover`: a new data file in the place of a replica's lost one.
//!
//! ```text
//!   the file is there: refused ──► Recovery: look, prepare, ask, confirm, write ──► what next
//!                                     └ failed: what was created is removed, and how far it came
//! ```
//!
//! **Invariants:** a file that was there before is never written to and never removed; whatever
//! ends it once the cluster may have replaced the old file says so, and that there is no new one.
//!
//! **Not here:** the recovery itself (`vsr::recovery`).

use super::format::{open_fatal, remove};
use super::{Exit, Failure, Result, operating_system, print, tell};
use crate::cli;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use vsr::fatal::{Fatal, FatalKind};
use vsr::io::{IO, MioIO, MioOptions};
use vsr::recovery::{Obstacle, OldFile, Recovered, Recovery, RecoveryConfig, RecoveryError, Stage};

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
    let mut recovery = Recovery::new(&mut io, config)
        .map_err(|error| failed(arguments, error, OldFile::Member, None))?;
    match drive(&mut io, &mut recovery) {
        Ok(recovered) => {
            print(&done(arguments, &recovered))?;
            Ok(Exit::Done)
        }
        Err(error) => {
            let left = if recovery.is_file_created() { remove(path).err() } else { None };
            if let RecoveryError::Obstacle(_) = error {
                if recovery.is_dismissed() {
                    return Err(Failure::Estranged(super::DISMISSED));
                }
                if recovery.is_misdirected() {
                    return Err(Failure::Estranged(super::MISDIRECTED));
                }
            }
            Err(failed(arguments, error, recovery.old_file(), left.as_deref()))
        }
    }
}

/// Runs the recovery to its end, and tells how far it is.
fn drive<I: IO>(
    io: &mut I,
    recovery: &mut Recovery,
) -> std::result::Result<Recovered, RecoveryError> {
    let mut events = Vec::new();
    let mut told = Told::default();
    loop {
        for line in told.news(recovery.stage(), recovery.obstacle()) {
            tell(&line);
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

/// What was told of a recovery: it goes back and forth, and says each thing once.
#[derive(Debug, Default)]
struct Told {
    /// The furthest stage.
    stage: Option<Stage>,
    obstacles: Vec<Obstacle>,
}

impl Told {
    /// The lines that are new.
    fn news(&mut self, stage: Stage, obstacle: Obstacle) -> Vec<String> {
        let mut lines = Vec::new();
        // How many of the others there are is told at the end, if it is too few then.
        let is_refusal = !matches!(obstacle, Obstacle::TooFew(..));
        if stage == Stage::Looking && is_refusal && !self.obstacles.contains(&obstacle) {
            self.obstacles.push(obstacle);
            lines.push(format!("waiting: {obstacle}"));
        }
        if self.stage < Some(stage) {
            self.stage = Some(stage);
            lines.push(format!("{stage} …"));
        }
        lines
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

/// How a recovery failed: `left` is what is to be said of a file that it had created and could not
/// remove.
fn failed(
    arguments: &cli::Recover,
    error: RecoveryError,
    old_file: OldFile,
    left: Option<&str>,
) -> Failure {
    let cli::Recover { path, replica, .. } = arguments;
    let then = consequence(old_file, left);
    let fatal =
        |fatal: Fatal| Failure::Fatal(Fatal::new(fatal.kind, format!("{}; {then}", fatal.text)));
    match error {
        RecoveryError::TooFewReplicas(count) => Failure::Usage(format!(
            "--addresses names {count}: a lost file is recovered in a cluster of 3 or more, where \
             the others are a view-change quorum; restore this one from a backup"
        )),
        RecoveryError::Alive if old_file == OldFile::Member => Failure::Refused(format!(
            "replica {replica} answers at {}: it runs, so its data file is not lost",
            arguments.addresses[replica.index()]
        )),
        RecoveryError::Alive => Failure::Unknown(format!(
            "replica {replica} answers at {}, so it was started meanwhile; end it; {then}",
            arguments.addresses[replica.index()]
        )),
        RecoveryError::Obstacle(obstacle) => Failure::Refused(obstacle.to_string()),
        RecoveryError::Unknown => {
            Failure::Unknown(format!("the primary was asked and has not answered in time; {then}"))
        }
        RecoveryError::NotConfirmed => Failure::Unknown(format!(
            "the recovery is committed, but too few replicas say in which view; {then}"
        )),
        RecoveryError::Open(error) => fatal(open_fatal(path, &error)),
        RecoveryError::Write(error) => fatal(not_written(path, &error)),
        RecoveryError::Terminated => {
            fatal(Fatal::new(FatalKind::OperatingSystem, "interrupted by a signal"))
        }
    }
}

/// What a failure means for the replica, and what to do.
fn consequence(old_file: OldFile, left: Option<&str>) -> String {
    let new_file = left.unwrap_or("there is no new one");
    match old_file {
        OldFile::Member => format!(
            "the cluster was asked for nothing, and the old data file is what it was: {}run this \
             command again",
            left.map(|left| format!("{left}, and ")).unwrap_or_default()
        ),
        OldFile::Unknown => format!(
            "the old data file may be no member of the cluster any more, and {new_file}: run this \
             command again"
        ),
        OldFile::Replaced => format!(
            "the old data file is no member of the cluster any more, and {new_file}: run this \
             command again"
        ),
    }
}

fn not_written(path: &Path, error: &std::io::Error) -> Fatal {
    let path = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Fatal::new(
            FatalKind::DiskFull,
            format!("{path}: the disk is full ({error}): free some space"),
        ),
        _ => Fatal::new(
            FatalKind::WriteFailed,
            format!("{path}: a write failed: {error}: check the disk"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr::io::OpenError;
    use vsr::wire::{ClusterId, RejectReason, ReplicaIndex};

    fn arguments() -> cli::Recover {
        cli::Recover {
            path: "replica-2.vsr".into(),
            replica: ReplicaIndex(2),
            cluster: ClusterId(0),
            addresses: (1..4).map(|port| ([127, 0, 0, 1], port).into()).collect(),
            timeout: Duration::from_secs(30),
            development: false,
        }
    }

    #[test]
    fn failures_say_what_became_of_the_old_file() {
        let errors: [fn() -> RecoveryError; 6] = [
            || RecoveryError::Alive,
            || RecoveryError::Unknown,
            || RecoveryError::NotConfirmed,
            || RecoveryError::Write(ErrorKind::StorageFull.into()),
            || RecoveryError::Write(ErrorKind::Other.into()),
            || RecoveryError::Terminated,
        ];
        for error in errors {
            for (old_file, said) in [
                (OldFile::Unknown, "the old data file may be no member"),
                (OldFile::Replaced, "the old data file is no member"),
            ] {
                let text = failed(&arguments(), error(), old_file, None);
                let text = text.to_string();
                for part in [said, "there is no new one", "run this command again"] {
                    assert!(text.contains(part), "{text}");
                }
                assert!(!text.contains("nothing was done"), "{text}");
                let left = failed(&arguments(), error(), old_file, Some("remove the file by hand"));
                assert!(left.to_string().contains("remove the file by hand"), "{left}");
            }
        }
        for error in [RecoveryError::Open(OpenError::NotFound), RecoveryError::Terminated] {
            let text = failed(&arguments(), error, OldFile::Member, None).to_string();
            assert!(text.contains("asked for nothing"), "{text}");
        }
        let full = RecoveryError::Write(ErrorKind::StorageFull.into());
        assert_eq!(failed(&arguments(), full, OldFile::Replaced, None).status(), 22);
        let write = RecoveryError::Write(ErrorKind::Other.into());
        assert_eq!(failed(&arguments(), write, OldFile::Member, None).status(), 21);
        assert_eq!(
            failed(&arguments(), RecoveryError::Unknown, OldFile::Unknown, None).status(),
            4
        );
    }

    #[test]
    fn each_thing_is_told_once() {
        let mut told = Told::default();
        let too_few = Obstacle::TooFew(0, 2);
        let full = Obstacle::Rejected(RejectReason::StoreFull);
        let mut lines = Vec::new();
        for (stage, obstacle) in [
            (Stage::Looking, too_few),
            (Stage::Preparing, too_few),
            (Stage::Looking, Obstacle::TooFew(1, 2)),
            (Stage::Looking, Obstacle::Heard),
            (Stage::Asking, Obstacle::Heard),
            (Stage::Looking, full),
            (Stage::Asking, full),
            (Stage::Looking, full),
            (Stage::Looking, Obstacle::Heard),
            (Stage::Asking, full),
            (Stage::Confirming, full),
            (Stage::Writing, full),
        ] {
            lines.extend(told.news(stage, obstacle));
        }
        let stages = lines.iter().filter(|line| line.ends_with('…'));
        assert_eq!(stages.count(), 5, "{lines:#?}");
        let refusals: Vec<_> = lines.iter().filter(|line| line.starts_with("waiting: ")).collect();
        assert_eq!(refusals.len(), 2, "{lines:#?}");
        assert!(refusals[0].contains("replica_heard") && refusals[1].contains("StoreFull"));
        assert_eq!(lines.len(), 7);
    }
}
