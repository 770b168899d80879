//! F6: `vsr status`: asks every replica at once and says whether the cluster takes requests.
//!
//! *Available* means: some replica is primary of its view in status normal, has been born, and
//! enough replicas are normal in that view for its prepares to be acknowledged.
//!
//! **Invariants:** a replica that does not answer within a second is shown as unreachable and holds
//! nobody up; exit status 0 if and only if available.

use super::json::{self, Object};
use super::{Exit, Failure, Result, connect, estranged, print, tell};
use crate::cli;
use std::net::SocketAddr;
use std::time::Duration;
use vsr::constants::TICK_NS;
use vsr::wire::{ReplicaIndex, ReplicaStatus, StatusReport, View};

/// How long the answers are waited for, all together.
const TIMEOUT_MAX: Duration = Duration::from_secs(1);

/// `vsr status`.
pub(super) fn run(arguments: &cli::Client) -> Result {
    let mut client = connect(arguments)?;
    let reports = client.status_all(arguments.timeout.min(TIMEOUT_MAX));
    let estranged = estranged(&client);
    client.close();
    if let Some(count) = replica_count_other(&reports) {
        let named = reports.len();
        return Err(Failure::Usage(format!(
            "--addresses names {named}, but the cluster has {count} replicas: name each of them \
             once, in their order"
        )));
    }
    let primary = primary(&reports);
    if arguments.json {
        print(&(json_of(&arguments.addresses, &reports) + "\n"))?;
    } else {
        print(&table(&arguments.addresses, &reports))?;
    }
    if let (None, Some(why)) = (primary, estranged) {
        tell(why);
    }
    Ok(if primary.is_some() { Exit::Done } else { Exit::Unavailable })
}

/// The replicas that must have a prepare before it is committed.
pub(super) fn quorum_replication(replica_count: usize) -> usize {
    assert!(replica_count > 0);
    if replica_count == 2 { 2 } else { replica_count.div_ceil(2).min(3) }
}

/// The primary that can commit, if there is one, and its view.
pub(super) fn primary(reports: &[Option<StatusReport>]) -> Option<(ReplicaIndex, View)> {
    let normal = |report: &&StatusReport| report.status == ReplicaStatus::Normal && report.born;
    let candidates = reports.iter().flatten().filter(normal);
    let newest = candidates
        .filter(|report| report.primary == report.replica)
        .max_by_key(|report| report.view)?;
    let in_view =
        reports.iter().flatten().filter(normal).filter(|report| report.view == newest.view);
    let enough = in_view.count() >= quorum_replication(reports.len());
    enough.then_some((newest.replica, newest.view))
}

/// How many replicas the cluster has, if it is another number than were asked.
fn replica_count_other(reports: &[Option<StatusReport>]) -> Option<u8> {
    let mut counts = reports.iter().flatten().map(|report| report.replica_count);
    counts.find(|count| usize::from(*count) != reports.len())
}

fn json_of(addresses: &[SocketAddr], reports: &[Option<StatusReport>]) -> String {
    let primary = primary(reports);
    let replicas = addresses.iter().zip(reports).enumerate().map(|(index, (address, report))| {
        let object = Object::default()
            .raw("replica", index)
            .text("address", &address.to_string())
            .raw("reachable", report.is_some());
        match report {
            Some(report) => of_report(object, report).finish(),
            None => object.finish(),
        }
    });
    let replicas: Vec<String> = replicas.collect();
    Object::default()
        .raw("available", primary.is_some())
        .option("primary", primary.map(|(replica, _)| replica))
        .option("view", reports.iter().flatten().map(|report| report.view).max())
        .raw("replicas", json::array(replicas))
        .finish()
}

fn of_report(object: Object, report: &StatusReport) -> Object {
    object
        .text("status", report.status.name())
        .raw("born", report.born)
        .raw("view", report.view)
        .raw("log_view", report.log_view)
        .raw("primary", report.primary)
        .raw("op", report.op)
        .raw("commit_min", report.commit_min)
        .raw("commit_max", report.commit_max)
        .raw("op_checkpoint", report.op_checkpoint)
        .raw("lag", lag(report))
        .raw("incarnation", report.incarnation)
        .raw("clock_synchronized", report.clock_synchronized)
        .raw("clock_offset_ns", report.clock_offset_ns)
        .raw("prepares_repaired", report.prepares_repaired)
        .raw("headers_repaired", report.headers_repaired)
        .raw("journal_dirty", report.journal_dirty)
        .raw("journal_faulty", report.journal_faulty)
        .raw("journal_slots", report.journal_slots)
        .raw("log_capacity_left", report.log_capacity_left)
        .raw("sessions_count", report.sessions_count)
        .raw("requests_committed", report.requests_committed)
        .raw("ops_committed", report.ops_committed)
        .raw("uptime_ticks", report.uptime_ticks)
        .raw("store_full", report.store_full)
        .raw("awaits_block", report.awaits_block)
        .raw("blocks_missing", report.blocks_missing)
        .raw("blocks_bad", report.blocks_bad)
        .raw("blocks_repaired", report.blocks_repaired)
        .raw("scrub_laps", report.scrub_laps)
        .option("diverged", (report.op_diverged > 0).then(|| divergence(report)))
        .option("sync", (report.op_sync > 0).then(|| sync(report)))
}

/// What a replica that takes over a checkpoint has got of it.
fn sync(report: &StatusReport) -> String {
    Object::default()
        .raw("op_checkpoint", report.op_sync)
        .raw("ticks", report.sync_ticks)
        .raw("blocks_found", report.sync_blocks_found)
        .raw("blocks_fetched", report.sync_blocks_fetched)
        .raw("blocks_missing", report.sync_blocks_missing)
        .finish()
}

/// Who has another checkpoint than this replica, and of which op.
fn divergence(report: &StatusReport) -> String {
    let others: Vec<String> = replicas_of(report.diverged).map(|index| index.to_string()).collect();
    Object::default()
        .raw("op_checkpoint", report.op_diverged)
        .raw("replicas", json::array(others))
        .finish()
}

/// The replicas whose bits are set.
fn replicas_of(bits: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |index| bits >> index & 1 == 1)
}

/// What of the store of a replica an operator should know: a line each.
fn remarks(report: &StatusReport) -> Vec<String> {
    let replica = report.replica;
    let mut lines = Vec::new();
    if report.op_diverged > 0 {
        let others: Vec<String> =
            replicas_of(report.diverged).map(|index| index.to_string()).collect();
        lines.push(format!(
            "replica {replica} has diverged: its checkpoint {} is not that of replica {}\n",
            report.op_diverged,
            others.join(", ")
        ));
    }
    if report.awaits_block && report.op_sync == 0 {
        lines.push(format!(
            "replica {replica} is waiting for a block: it is damaged here, and no other replica \
             has sent it yet\n"
        ));
    }
    if report.store_full {
        lines.push(format!("replica {replica} has no room for its next checkpoint (store_full)\n"));
    }
    // Those of a sync have a line of their own.
    let missing = if report.op_sync > 0 { 0 } else { report.blocks_missing };
    if missing > 0 || report.blocks_bad > 0 && report.op_sync == 0 {
        lines.push(format!(
            "replica {replica} found {} bad blocks, {} were repaired, {missing} are missing\n",
            report.blocks_bad, report.blocks_repaired
        ));
    }
    lines
}

/// Ops it knows to be committed and has not executed yet.
fn lag(report: &StatusReport) -> u64 {
    report.commit_max.saturating_sub(report.commit_min)
}

/// For people: one line for each replica, and one for the cluster.
pub(super) fn table(addresses: &[SocketAddr], reports: &[Option<StatusReport>]) -> String {
    let head = [
        "replica",
        "address",
        "status",
        "role",
        "view",
        "op",
        "commit",
        "lag",
        "checkpoint",
        "clock",
        "repaired",
        "faulty",
        "log left",
        "uptime",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (index, (address, report)) in addresses.iter().zip(reports).enumerate() {
        let mut row = vec![index.to_string(), address.to_string()];
        match report {
            Some(report) => row.extend(cells(report)),
            None => row.push("unreachable".into()),
        }
        rows.push(row);
    }
    let mut text = aligned(&rows);
    for report in reports.iter().flatten().filter(|report| report.op_sync > 0) {
        text.push_str(&format!(
            "replica {} takes over checkpoint {} since {}s: {} blocks were here, {} came from \
             others, {} are known to be missing\n",
            report.replica,
            report.op_sync,
            seconds(report.sync_ticks),
            report.sync_blocks_found,
            report.sync_blocks_fetched,
            report.sync_blocks_missing
        ));
    }
    for report in reports.iter().flatten() {
        remarks(report).iter().for_each(|line| text.push_str(line));
    }
    text.push_str(&match primary(reports) {
        Some((replica, view)) => {
            format!("available: replica {replica} is primary of view {view}\n")
        }
        None => format!("not available: {}\n", reason_unavailable(reports)),
    });
    text
}

fn cells(report: &StatusReport) -> [String; 12] {
    let is_primary = report.primary == report.replica;
    let normal = report.status == ReplicaStatus::Normal;
    [
        report.status.name().into(),
        if is_primary && normal { "primary" } else { "backup" }.into(),
        report.view.to_string(),
        report.op.to_string(),
        report.commit_min.to_string(),
        lag(report).to_string(),
        report.op_checkpoint.to_string(),
        clock(report),
        (report.prepares_repaired + report.headers_repaired).to_string(),
        report.journal_faulty.to_string(),
        report.log_capacity_left.to_string(),
        format!("{}s", seconds(report.uptime_ticks)),
    ]
}

fn seconds(ticks: u64) -> u64 {
    ticks.saturating_mul(TICK_NS) / 1_000_000_000
}

fn clock(report: &StatusReport) -> String {
    if !report.clock_synchronized {
        return "no agreement".into();
    }
    let offset_us = report.clock_offset_ns / 1000;
    format!("{offset_us:+}us")
}

fn reason_unavailable(reports: &[Option<StatusReport>]) -> String {
    let count = reports.len();
    let reachable = reports.iter().flatten().count();
    let needed = quorum_replication(count);
    if reachable < needed {
        return format!("{reachable} of {count} replicas answer, {needed} are needed");
    }
    if !reports.iter().flatten().any(|report| report.born) {
        return "the cluster is not born yet: all its replicas must have met once".into();
    }
    format!("{reachable} of {count} replicas answer, and {needed} of them are not in one view yet")
}

/// Columns of equal width, two blanks apart.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(replica: u8, view: u32, status: ReplicaStatus) -> Option<StatusReport> {
        Some(StatusReport {
            replica: ReplicaIndex(replica),
            replica_count: 3,
            status,
            born: true,
            primary: View(view).primary(3),
            view: View(view),
            op: 12,
            commit_min: 10,
            commit_max: 11,
            uptime_ticks: 250,
            ..StatusReport::default()
        })
    }

    fn addresses() -> Vec<SocketAddr> {
        (1..4).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    #[test]
    fn quorums_as_in_the_table() {
        assert_eq!([1, 2, 3, 4, 5, 6].map(quorum_replication), [1, 2, 2, 2, 3, 3]);
    }

    #[test]
    fn available_needs_a_normal_primary_and_a_quorum_in_its_view() {
        use ReplicaStatus::{Normal, ViewChange};
        let found = Some((ReplicaIndex(1), View(4)));
        assert_eq!(primary(&[None, report(1, 4, Normal), report(2, 4, Normal)]), found);
        assert_eq!(primary(&[None, report(1, 4, Normal), None]), None);
        assert_eq!(primary(&[report(0, 4, Normal), None, report(2, 4, Normal)]), None);
        assert_eq!(primary(&[None, report(1, 4, ViewChange), report(2, 4, Normal)]), None);
        assert_eq!(primary(&[report(0, 3, Normal), report(1, 4, Normal), None]), None);
        // A primary of an old view that has not heard yet does not hide the new one.
        let reports = [report(0, 3, Normal), report(1, 4, Normal), report(2, 4, Normal)];
        assert_eq!(primary(&reports), found);
        let unborn = report(1, 4, Normal).map(|report| StatusReport { born: false, ..report });
        assert_eq!(primary(&[None, unborn, report(2, 4, Normal)]), None);
    }

    #[test]
    fn addresses_of_another_count_are_noticed() {
        let normal = |replica| report(replica, 4, ReplicaStatus::Normal);
        assert_eq!(replica_count_other(&[normal(0), None, None]), None);
        assert_eq!(replica_count_other(&[normal(0), normal(1)]), Some(3));
        assert_eq!(replica_count_other(&[None, None, None, normal(2)]), Some(3));
        assert_eq!(replica_count_other(&[None, None]), None);
    }

    #[test]
    fn json_names_what_the_documents_name() {
        let reports =
            [None, report(1, 4, ReplicaStatus::Normal), report(2, 4, ReplicaStatus::Normal)];
        let text = json_of(&addresses(), &reports);
        assert!(text.starts_with(r#"{"available": true, "primary": 1, "view": 4, "replicas": ["#));
        assert!(text.contains(r#"{"replica": 0, "address": "127.0.0.1:1", "reachable": false}"#));
        assert!(text.contains(r#""status": "normal", "born": true, "view": 4"#));
        assert!(
            text.contains(r#""op": 12, "commit_min": 10, "commit_max": 11, "op_checkpoint": 0"#)
        );
        let text = json_of(&addresses(), &[None, None, None]);
        assert!(text.starts_with(r#"{"available": false, "primary": null, "view": null"#));
    }

    #[test]
    fn a_sync_is_shown_while_it_lasts() {
        let syncing = report(2, 4, ReplicaStatus::Normal).map(|report| StatusReport {
            op_sync: 512,
            sync_ticks: 320,
            sync_blocks_found: 7,
            sync_blocks_fetched: 8,
            sync_blocks_missing: 9,
            ..report
        });
        let reports = [None, report(1, 4, ReplicaStatus::Normal), syncing];
        let line = "replica 2 takes over checkpoint 512 since 3s: 7 blocks were here, 8 came from \
                    others, 9 are known to be missing\n";
        assert!(table(&addresses(), &reports).contains(line));
        let json = json_of(&addresses(), &reports);
        let sync = [
            r#""sync": {"op_checkpoint": 512, "ticks": 320, "blocks_found": 7, "#,
            r#""blocks_fetched": 8, "blocks_missing": 9}"#,
        ]
        .concat();
        assert_eq!((json.matches(&sync).count(), json.matches(r#""sync": null"#).count()), (1, 1));
    }

    #[test]
    fn what_is_wrong_with_a_store_is_shown() {
        let damaged = report(2, 4, ReplicaStatus::Normal).map(|report| StatusReport {
            store_full: true,
            awaits_block: true,
            diverged: 0b011,
            op_diverged: 96,
            blocks_missing: 7,
            blocks_bad: 9,
            blocks_repaired: 2,
            scrub_laps: 3,
            ..report
        });
        let reports = [None, report(1, 4, ReplicaStatus::Normal), damaged];
        let text = table(&addresses(), &reports);
        for line in [
            "replica 2 has diverged: its checkpoint 96 is not that of replica 0, 1\n",
            "replica 2 is waiting for a block: it is damaged here",
            "replica 2 has no room for its next checkpoint (store_full)\n",
            "replica 2 found 9 bad blocks, 2 were repaired, 7 are missing\n",
        ] {
            assert_eq!(text.matches(line).count(), 1, "{text}");
        }
        assert!(!text.contains("replica 1 has") && !text.contains("replica 1 found"), "{text}");
        let json = json_of(&addresses(), &reports);
        let part = [
            r#""store_full": true, "awaits_block": true, "blocks_missing": 7, "blocks_bad": 9, "#,
            r#""blocks_repaired": 2, "scrub_laps": 3, "#,
            r#""diverged": {"op_checkpoint": 96, "replicas": [0, 1]}"#,
        ]
        .concat();
        assert_eq!(json.matches(&part).count(), 1, "{json}");
        assert_eq!(json.matches(r#""diverged": null"#).count(), 1, "{json}");
    }

    #[test]
    fn table_has_a_line_for_each_and_one_for_all() {
        let reports =
            [None, report(1, 4, ReplicaStatus::Normal), report(2, 4, ReplicaStatus::Normal)];
        let text = table(&addresses(), &reports);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(lines[1].contains("unreachable"));
        assert!(lines[2].contains("primary"));
        assert!(lines[3].contains("backup"));
        assert_eq!(lines[4], "available: replica 1 is primary of view 4");
        let text = table(&addresses(), &[None, None, None]);
        assert!(text.ends_with("not available: 0 of 3 replicas answer, 2 are needed\n"));
    }
}
