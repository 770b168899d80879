//! F6: from a path to a data file that was read: opens, checks that it is the one that was meant,
//! and says clearly what is wrong if it is not.
//!
//! **Invariants:** nothing is written to a file that is not this replica's.

use super::{ServerConfig, submit};
use crate::fatal::{Fatal, FatalKind};
use crate::io::{Event, FileId, IO, OpenError, OpenMode};
use crate::storage::{Opened, Opening, ReadResult, Request, SuperblockState, Token};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// How long one wait for the disk may be; only a bound for the loop.
const WAIT: Duration = Duration::from_millis(100);

/// Opens and reads the data file of `config`.
pub(super) fn open<I: IO>(io: &mut I, config: &ServerConfig) -> Result<(FileId, Opened), Fatal> {
    let path = &config.path;
    let file = io
        .open_file(path, OpenMode::Existing)
        .map_err(|error| fatal_open(path, &error, &format_command(config)))?;
    let size = io.file_size(file).map_err(|error| fatal_size(config, &error))?;
    let opened = read(io, file, size, config)
        .map_err(|fatal| Fatal::new(fatal.kind, format!("{}: {}", path.display(), fatal.text)))?;
    Ok((file, opened))
}

pub(super) fn fatal_size(config: &ServerConfig, error: &std::io::Error) -> Fatal {
    let path = config.path.display();
    Fatal::new(
        FatalKind::OperatingSystem,
        format!("{path}: cannot tell the size of the data file: {error}"),
    )
}

fn read<I: IO>(
    io: &mut I,
    file: FileId,
    size: u64,
    config: &ServerConfig,
) -> Result<Opened, Fatal> {
    let mut requests: Vec<Request> = Vec::new();
    let mut opening = Opening::new(size, &mut requests);
    let mut tokens: BTreeMap<u64, Token> = BTreeMap::new();
    let mut token_next = 0;
    let mut events = Vec::new();
    let mut checked = false;
    loop {
        if let Some(state) = opening.state().filter(|_| !checked) {
            // Before the first write of the repair.
            check(state, config)?;
            checked = true;
        }
        for request in requests.drain(..) {
            assert!(checked || matches!(request, Request::Read { .. }));
            tokens.insert(token_next, submit(io, file, token_next, request));
            token_next += 1;
        }
        if let Some(opened) = opening.finish() {
            assert!(tokens.is_empty());
            return Ok(opened);
        }
        assert!(!tokens.is_empty(), "opening waits for the disk or is done");
        io.run(WAIT, &mut events);
        for event in events.drain(..) {
            match event {
                Event::ReadDone { token, buffer, unreadable } => {
                    let token = tokens.remove(&token).expect("a read that was begun");
                    let result = ReadResult { buffer, unreadable };
                    opening.on_read_done(token, result, &mut requests)?;
                }
                Event::WriteDone { token, result } => {
                    let token = tokens.remove(&token).expect("a write that was begun");
                    result.map_err(|error| fatal_write(&error))?;
                    opening.on_write_done(token, &mut requests)?;
                }
                Event::Terminate => {
                    return Err(Fatal::new(
                        FatalKind::OperatingSystem,
                        "asked to end while opening",
                    ));
                }
                Event::Socket { .. } => {}
            }
        }
    }
}

/// The file must be the one that was meant.
fn check(state: &SuperblockState, config: &ServerConfig) -> Result<(), Fatal> {
    let mismatch = |text: String| Err(Fatal::new(FatalKind::Mismatch, text));
    if state.replica != config.replica {
        return mismatch(format!(
            "this is the data file of replica {}, not of replica {}: start it with --replica={}, \
             or name the right file with --data",
            state.replica, config.replica, state.replica
        ));
    }
    if let Some(cluster) = config.cluster
        && state.cluster != cluster
    {
        return mismatch(format!(
            "this data file belongs to cluster {}, not to cluster {cluster}: start it with \
             --cluster={}, or name the right file with --data",
            state.cluster, state.cluster
        ));
    }
    if usize::from(state.replica_count) != config.addresses.len() {
        return mismatch(format!(
            "this data file belongs to a cluster of {} replicas, but --addresses names {}: give \
             one address for each replica, in order",
            state.replica_count,
            config.addresses.len()
        ));
    }
    Ok(())
}

fn format_command(config: &ServerConfig) -> String {
    let mut command = format!(
        "vsr format --replica={} --replica-count={}",
        config.replica,
        config.addresses.len()
    );
    if let Some(cluster) = config.cluster.filter(|cluster| cluster.0 != 0) {
        command.push_str(&format!(" --cluster={cluster}"));
    }
    if config.path != Path::new(&format!("replica-{}.vsr", config.replica)) {
        command.push_str(&format!(" --data={}", config.path.display()));
    }
    command
}

/// Why the data file cannot be opened, with what to do; `format` is the command that would make it.
fn fatal_open(path: &Path, error: &OpenError, format: &str) -> Fatal {
    let path = path.display();
    match error {
        OpenError::NotFound => Fatal::new(
            FatalKind::NotFound,
            format!(
                "{path}: there is no data file; a new cluster begins with `{format}` (a replica \
                 whose file was lost is rebuilt with `vsr recover`, never with format)"
            ),
        ),
        other => fatal_open_other(&path, other),
    }
}

fn fatal_open_other(path: &dyn std::fmt::Display, error: &OpenError) -> Fatal {
    let (kind, text) = match error {
        OpenError::NotFound => (FatalKind::NotFound, "there is no such file".to_owned()),
        OpenError::Exists => (
            FatalKind::Exists,
            "the file exists; format never overwrites: move it away first".to_owned(),
        ),
        OpenError::Permission => (
            FatalKind::Permission,
            "permission denied: this user must be able to read and write it".to_owned(),
        ),
        OpenError::Locked => (
            FatalKind::Locked,
            "another process has this data file open: a replica runs only once".to_owned(),
        ),
        OpenError::NoDirectIO => (
            FatalKind::NoDirectIO,
            "the file system does not support direct I/O (O_DIRECT): use another one, or, where \
             losing data is no harm, --development"
                .to_owned(),
        ),
        OpenError::NotAFile => {
            (FatalKind::NotADataFile, "not a regular file or block device".to_owned())
        }
        OpenError::Other(error) => (FatalKind::OperatingSystem, error.to_string()),
    };
    Fatal::new(kind, format!("{path}: {text}"))
}

/// A write failed: after that nothing is known of the file.
pub(super) fn fatal_write(error: &std::io::Error) -> Fatal {
    if error.kind() == ErrorKind::StorageFull {
        return Fatal::new(
            FatalKind::DiskFull,
            format!("the disk is full: {error}; make room and start the replica again"),
        );
    }
    Fatal::new(
        FatalKind::WriteFailed,
        format!(
            "a write to the data file failed: {error}; the disk can no longer be trusted: \
             check it and start the replica again"
        ),
    )
}
