//! F6: `vsr demo`: three replicas on this machine, some requests through the real command line, the
//! end of the primary, and what that looks like from outside.
//!
//! ```text
//!   format, start ──► put get cas scan ──► SIGKILL to the primary ──► get put ──► restart, status
//!                                              │ pause measured │
//! ```
//!
//! It is a check as well: every answer is compared with what it must be, and a wrong one is a
//! failure. With a terminal, or `--keep`, the cluster then runs until Ctrl-C.
//!
//! **Invariants:** nothing is left behind, no process and no file.

use super::cluster::LocalCluster;
use super::{Exit, Failure, Result, io_new, print, status};
use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::time::Duration;
use vsr::client::Client;
use vsr::fatal::{Fatal, FatalKind};
use vsr::io::{IO, MioIO};
use vsr::state_machine::kv::Request;
use vsr::storage::Geometry;
use vsr::wire::ReplicaIndex;

/// Small files, many ops: 128 MiB for each replica.
const GEOMETRY: Geometry = Geometry {
    message_size: 16 << 10,
    journal_slots: 8192,
    block_size: 4096,
    pipeline: 8,
    clients_max: 4096,
};
/// How long a restarted replica may take to catch up.
const CATCH_UP_TIMEOUT_NS: u64 = 30_000_000_000;

/// `vsr demo`.
pub(super) fn run(keep: bool) -> Result {
    // Before anything is made that would have to be removed.
    let mut io = io_new(true)?;
    print("formatting three data files of 128 MiB in a temporary folder\n")?;
    let mut cluster = LocalCluster::new(&mut io, "demo", GEOMETRY)?;
    print(&format!("starting three replicas in {}\n", cluster.folder().display()))?;
    let mut client = cluster.start_all(io)?;
    let done = show(&mut cluster, &mut client);
    if client.is_terminated() {
        return Ok(Exit::Done);
    }
    done?;
    let addresses = cluster.addresses_text();
    if keep || std::io::stdin().is_terminal() {
        print(&format!(
            "\nThe cluster runs until you press Ctrl-C. In another terminal:\n\
             \n  export VSR_ADDRESSES={addresses}\n  vsr put color green\n  vsr get color\n  \
             vsr scan\n  vsr status\n  vsr benchmark --duration=5s\n\
             \nLogs and data files are in {}.\n",
            cluster.folder().display()
        ))?;
        while !client.is_terminated() {
            client.pause(Duration::from_secs(3600));
        }
    } else {
        print("\nThe demo is over; with --keep the cluster goes on running.\n")?;
    }
    client.close();
    Ok(Exit::Done)
}

fn show(cluster: &mut LocalCluster, client: &mut Client<MioIO>) -> Result<()> {
    print("\nThree replicas answer. Through the command line:\n")?;
    vsr(cluster, &["put", "greeting", "hello"], Some(""))?;
    vsr(cluster, &["get", "greeting"], Some("hello\n"))?;
    vsr(cluster, &["cas", "greeting", "hello", "hello, world"], Some(""))?;
    vsr(cluster, &["scan", "gr"], Some("greeting\thello, world\n"))?;
    request(client, b"before")?;

    let primary = primary(client)?;
    print(&format!("\nReplica {primary} is primary. It is killed now (SIGKILL):\n"))?;
    cluster.kill(primary);
    let start_ns = client.io().monotonic();
    request(client, b"after")?;
    let pause_ms = (client.io().monotonic() - start_ns) / 1_000_000;
    print(&format!("  the next write was done {pause_ms} ms later, by the others\n"))?;
    vsr(cluster, &["get", "greeting"], Some("hello, world\n"))?;
    vsr(cluster, &["put", "greeting", "still here"], Some(""))?;

    print(&format!("\nReplica {primary} is started again, and catches up:\n"))?;
    cluster.start(primary)?;
    catch_up(client, primary)?;
    vsr(cluster, &["get", "greeting"], Some("still here\n"))?;
    vsr(cluster, &["status"], None)
}

/// Runs a command of this binary as a user would, shows it and what it printed, and compares.
fn vsr(cluster: &LocalCluster, arguments: &[&str], expected: Option<&str>) -> Result<()> {
    let quoted: Vec<String> = arguments.iter().map(|argument| quote(argument)).collect();
    print(&format!("  $ vsr {}\n", quoted.join(" ")))?;
    let output = std::env::current_exe()
        .and_then(|binary| {
            Command::new(binary)
                .args(arguments)
                .env("VSR_ADDRESSES", cluster.addresses_text())
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()
        })
        .map_err(super::operating_system)?;
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines() {
        print(&format!("  {line}\n"))?;
    }
    if !output.status.success() {
        return Err(wrong(&format!("`vsr {}` ended with {}", quoted.join(" "), output.status)));
    }
    match expected {
        Some(expected) if expected != text => {
            Err(wrong(&format!("`vsr {}` must print {expected:?}", quoted.join(" "))))
        }
        _ => Ok(()),
    }
}

fn request(client: &mut Client<MioIO>, value: &[u8]) -> Result<()> {
    client.request(&Request::put(b"demo", value).encode())?;
    Ok(())
}

/// The primary, once there is one.
fn primary(client: &mut Client<MioIO>) -> Result<ReplicaIndex> {
    let deadline_ns = client.io().monotonic() + CATCH_UP_TIMEOUT_NS;
    while client.io().monotonic() < deadline_ns && !client.is_terminated() {
        let reports = client.status_all(Duration::from_secs(1));
        if let Some((primary, _)) = status::primary(&reports) {
            return Ok(primary);
        }
        client.pause(Duration::from_millis(20));
    }
    Err(wrong("no replica is primary"))
}

/// Waits until `replica` has executed what was committed when it was asked first.
fn catch_up(client: &mut Client<MioIO>, replica: ReplicaIndex) -> Result<()> {
    let deadline_ns = client.io().monotonic() + CATCH_UP_TIMEOUT_NS;
    let mut goal = 0;
    while client.io().monotonic() < deadline_ns && !client.is_terminated() {
        let reports = client.status_all(Duration::from_millis(500));
        if goal == 0 {
            let commits = reports.iter().flatten().map(|report| report.commit_max);
            goal = commits.max().unwrap_or(0);
        }
        let caught_up = reports[replica.index()].is_some_and(|report| report.commit_min >= goal);
        if goal > 0 && caught_up {
            return Ok(());
        }
        client.pause(Duration::from_millis(20));
    }
    Err(wrong(&format!("replica {replica} did not catch up to op {goal}")))
}

fn wrong(what: &str) -> Failure {
    let text = format!("the demo failed: {what}");
    Failure::Fatal(Fatal::new(FatalKind::OperatingSystem, text))
}

/// As one would type it.
fn quote(argument: &str) -> String {
    if argument.contains(' ') { format!("\"{argument}\"") } else { argument.into() }
}
