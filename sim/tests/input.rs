//! Everything a person can get wrong: an exit status and one clear line each, and no harm done.

use crate::harness::{Cluster, Folder, GEOMETRY, Status, free_ports, pass, run, vsr};
use std::fs;
use std::net::TcpListener;
use std::time::Duration;
use vsr::stdx::Prng;
use vsr::storage::Geometry;

const SMALL: Geometry = Geometry { journal_slots: 64, ..GEOMETRY };

#[test]
fn usage_is_explained_and_exits_with_2() {
    let usage = |arguments: &[&str], says: &[&str]| {
        run(vsr().args(arguments)).exits(2).says(says);
    };
    usage(&[], &["usage"]);
    usage(&["frobnicate"], &["frobnicate"]);
    usage(&["put", "only-a-key", "--addresses=3000"], &["value"]);
    usage(&["get", "key"], &["addresses"]);
    usage(&["get", "key", "--addresses=3000", "--timeout=soon"], &["soon"]);
    usage(&["get", "key", "--addresses=3000", "--cluster=x"], &["cluster"]);
    usage(&["get", "key", "--addresses=no such place"], &["no such place"]);
    usage(&["get", "key", "--addresses=3000,,3001"], &["addresses"]);
    usage(&["get", "key", "--addresses=1,2,3,4,5,6,7"], &["6"]);
    usage(&["get", "key", "--addresses=70000"], &["70000"]);
    usage(&["format", "--replica=3", "--replica-count=3"], &["replica", "3"]);
    usage(&["format", "--replica=0", "--replica-count=7"], &["7"]);
    usage(&["format", "--replica=0", "--replica-count=0"], &["0"]);
    usage(&["format", "--replica=0"], &["replica-count"]);
    usage(&["start", "--replica=3", "--addresses=1,2,3"], &["replica", "3"]);
    usage(&["start", "--replica=0", "--addresses=nowhere:port"], &["nowhere:port"]);
    usage(&["start", "--replica=0"], &["addresses"]);
    let geometry = |flag: &str, says: &[&str]| {
        let mut arguments = vec!["format", "--replica=0", "--replica-count=1"];
        arguments.push(flag);
        usage(&arguments, says);
    };
    geometry("--journal-slots=63", &["63"]);
    geometry("--message-size=5000", &["5000"]);
    geometry("--message-size=32MiB", &["message"]);
    geometry("--pipeline=0", &["pipeline"]);
    geometry("--pipeline=64", &["pipeline", "64"]);
    geometry("--block-size=5000", &["5000"]);
    geometry("--clients-max=0", &["0"]);
}

#[test]
fn exit_status_does_not_depend_on_a_reader_of_stderr() {
    let cluster = Cluster::new(1);
    let status = |arguments: &[&str]| {
        let full = fs::File::options().write(true).open("/dev/full").expect("a full device");
        let mut client = cluster.client(arguments);
        client.stderr(full).status().expect("the binary under test starts").code()
    };
    assert_eq!(status(&["get", "nothing"]), Some(1));
    assert_eq!(status(&["cas", "nothing", "a", "b"]), Some(1));
    assert_eq!(status(&["get", ""]), Some(2));
    assert_eq!(status(&["get", "key", "--cluster=3", "--timeout=100ms"]), Some(3));
}

#[test]
fn help_and_version_are_results() {
    let help = run(vsr().arg("--help")).exits(0);
    for command in
        ["format", "start", "put", "get", "delete", "cas", "scan", "status", "recover", "demo"]
    {
        assert!(help.stdout.contains(command), "{command} is not in the help: {help:?}");
        let one = run(vsr().args([command, "--help"])).exits(0);
        assert!(one.stdout.contains("Usage"), "{one:?}");
    }
    let version = run(vsr().arg("version")).exits(0);
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
}

#[test]
fn format_never_overwrites() {
    let cluster = Cluster::formatted(1, SMALL);
    let before = fs::read(cluster.data(0)).expect("the data file");
    let size = SMALL.journal_slots as usize * SMALL.message_size as usize;
    assert!(before.len() > size);
    run(&mut cluster.format_command(0)).exits(11).says(&["replica-0.vsr"]);
    assert_eq!(fs::read(cluster.data(0)).expect("the data file"), before);
    // Neither anything else that happens to have the name.
    fs::write(cluster.data(0), b"a letter").expect("a file");
    run(&mut cluster.format_command(0)).exits(11).says(&["replica-0.vsr"]);
    assert_eq!(fs::read(cluster.data(0)).expect("the letter"), b"a letter");
}

#[test]
fn format_where_there_is_no_folder_is_refused() {
    let folder = Folder::new();
    let path = folder.path("no/such/folder/x.vsr");
    let mut format = vsr();
    format.args(["format", "--replica=0", "--replica-count=1", "--data"]).arg(&path);
    let finished = run(&mut format);
    assert!(matches!(finished.status, Some(10..=24)), "{finished:#?}");
    finished.says(&["x.vsr"]);
}

#[test]
fn start_without_a_file_prints_the_command_that_makes_one() {
    let folder = Folder::new();
    let path = folder.path("missing.vsr");
    let mut start = vsr();
    start.args(["start", "--replica=1", "--addresses=3000,3001,3002", "--data"]).arg(&path);
    run(&mut start).exits(10).says(&[
        "vsr format",
        "--replica=1",
        "--replica-count=3",
        "missing.vsr",
    ]);
    assert!(!path.exists());
}

#[test]
fn start_on_what_is_no_data_file_is_refused() {
    let cluster = Cluster::formatted(1, SMALL);
    let whole = fs::read(cluster.data(0)).expect("the data file");
    let start = |bytes: &[u8]| {
        fs::write(cluster.data(0), bytes).expect("a file");
        run(&mut cluster.start_command(0))
    };
    let mut noise = vec![0; whole.len()];
    Prng::from_seed(15).fill(&mut noise);
    start(&noise).exits(15).says(&["replica-0.vsr"]);
    start(&vec![0; whole.len()]).exits(15).says(&["replica-0.vsr"]);
    for size in [0, 1, 100, 4096] {
        let finished = start(&noise[..size]);
        assert!(matches!(finished.status, Some(15 | 16)), "{finished:#?}");
        finished.says(&["replica-0.vsr"]);
    }
    for size in [whole.len() - 4096, whole.len() / 2, 64 * 1024] {
        start(&whole[..size]).exits(16).says(&["replica-0.vsr"]);
    }
    // A copy that lost nothing is as good as the original.
    fs::write(cluster.data(0), &whole).expect("a file");
    let mut again = cluster;
    again.start(0);
    again.wait_available();
}

#[test]
fn start_on_a_folder_is_refused() {
    let cluster = Cluster::formatted(1, SMALL);
    fs::remove_file(cluster.data(0)).expect("the data file");
    fs::create_dir(cluster.data(0)).expect("a folder in its place");
    let finished = run(&mut cluster.start_command(0));
    assert!(matches!(finished.status, Some(10..=24)), "{finished:#?}");
    finished.says(&["replica-0.vsr"]);
}

#[test]
fn start_on_a_file_in_use_is_refused_and_its_owner_goes_on() {
    let mut cluster = Cluster::formatted(1, SMALL);
    cluster.start(0);
    cluster.wait_available();
    run(&mut cluster.start_command(0)).exits(13).says(&["replica-0.vsr"]);
    cluster.vsr(&["put", "key", "value"]).exits(0);
    cluster.assert_alive();
}

#[test]
fn start_with_another_replicas_file_is_refused() {
    let cluster = Cluster::formatted(3, SMALL);
    let addresses = cluster.addresses_text();
    let start = |arguments: &[&str], file: usize| {
        let mut start = vsr();
        start.arg("start").args(arguments).arg("--data").arg(cluster.data(file));
        run(&mut start)
    };
    let all = format!("--addresses={addresses}");
    start(&["--replica=1", &all], 0).exits(19).says(&["replica", "0", "1"]);
    let two = format!("--addresses={}", addresses.rsplit_once(',').expect("three addresses").0);
    start(&["--replica=0", &two], 0).exits(19).says(&["3", "2"]);
    start(&["--replica=0", &all, "--cluster=4711"], 0).exits(19).says(&["cluster", "4711"]);
}

#[test]
fn start_on_a_port_in_use_is_refused() {
    let cluster = Cluster::formatted(1, SMALL);
    let address = cluster.addresses()[0];
    let _listener = TcpListener::bind(address).expect("a free port");
    run(&mut cluster.start_command(0)).exits(20).says(&[&address.to_string()]);
}

#[test]
fn start_on_port_0_prints_the_port() {
    let mut cluster = Cluster::formatted(1, SMALL);
    cluster.ports[0] = 0;
    cluster.start(0);
    let line = crate::harness::wait_for("the port", crate::harness::DEADLINE, || {
        let log = cluster.log(0);
        let line = log.lines().find(|line| line.starts_with("listening on "));
        line.map(ToString::to_string)
    });
    let address = line.trim_start_matches("listening on ").to_string();
    assert!(!address.ends_with(":0"), "{line}");
    let mut put = vsr();
    put.args(["put", "key", "value"]).arg(format!("--addresses={address}"));
    run(&mut put).exits(0);
}

#[test]
fn client_without_a_cluster_is_unavailable_in_its_time() {
    let ports = free_ports(3);
    let addresses = format!("--addresses={},{},{}", ports[0], ports[1], ports[2]);
    for command in [&["put", "k", "v"][..], &["get", "k"], &["delete", "k"], &["scan"]] {
        let mut client = vsr();
        client.args(command).args([&addresses, "--timeout=500ms"]);
        run(&mut client).exits(3).says(&["unavailable"]);
    }
    let mut status = vsr();
    status.args(["status", &addresses, "--timeout=500ms"]);
    run(&mut status).exits(3);
    // A port on which somebody listens who never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("--addresses={}", silent.local_addr().expect("bound"));
    let mut client = vsr();
    client.args(["put", "k", "v", &address, "--timeout=500ms"]);
    let finished = run(&mut client);
    assert!(matches!(finished.status, Some(3 | 4)), "{finished:#?}");
}

#[test]
fn client_of_another_cluster_or_order_is_told() {
    let cluster = Cluster::new(3);
    let put = ["put", "k", "v", "--timeout=1s"];
    let mut other = cluster.client(&put);
    run(other.arg("--cluster=4711")).exits(3).says(&["another cluster", "--cluster"]);
    let mut status = cluster.client(&["status", "--timeout=500ms"]);
    run(status.arg("--cluster=4711")).exits(3).says(&["another cluster", "--cluster"]);
    let addresses = cluster.addresses();
    let order = |order: &[usize]| {
        let texts: Vec<String> = order.iter().map(|index| addresses[*index].to_string()).collect();
        let mut status = vsr();
        status.args(["status", &format!("--addresses={}", texts.join(","))]);
        run(&mut status)
    };
    order(&[0, 1, 2]).exits(0);
    order(&[1, 2, 0]).exits(3).says(&["order"]);
    order(&[0, 1]).exits(2).says(&["--addresses", "2", "3"]);
}

#[test]
fn keys_out_of_bounds_are_refused() {
    let cluster = Cluster::new(1);
    let long = "k".repeat(1025);
    for key in ["", &long] {
        let put = cluster.vsr(&["put", key, "value"]);
        assert!(matches!(put.status, Some(2 | 3)), "{put:#?}");
        assert!(!put.stderr.is_empty());
    }
    let longest = "k".repeat(1024);
    cluster.vsr(&["put", &longest, "value"]).exits(0);
    cluster.vsr(&["get", &longest]).exits(0).prints("value");
}

#[test]
fn replicas_of_different_geometry_are_no_cluster_and_say_so() {
    let mut cluster = Cluster::formatted(2, SMALL);
    fs::remove_file(cluster.data(1)).expect("the data file");
    cluster.geometry.journal_slots = 128;
    run(&mut cluster.format_command(1)).exits(0);
    cluster.start_all();
    let named = |log: &str| log.contains("128") && log.contains("64") && log.contains("journal");
    crate::harness::wait_for("the log names both values", crate::harness::DEADLINE, || {
        (0..2).any(|replica| named(&cluster.log(replica))).then_some(())
    });
    never_available(&cluster);
}

#[test]
fn replicas_of_different_clusters_are_no_cluster_and_say_so() {
    let mut cluster = Cluster::formatted(2, SMALL);
    fs::remove_file(cluster.data(1)).expect("the data file");
    let mut format = cluster.format_command(1);
    run(format.arg("--cluster=4711")).exits(0);
    cluster.start_all();
    crate::harness::wait_for("a log names the other cluster", crate::harness::DEADLINE, || {
        (0..2).any(|replica| cluster.log(replica).contains("4711")).then_some(())
    });
    never_available(&cluster);
}

/// Looks for a while, because what must not happen gives no sign.
#[track_caller]
fn never_available(cluster: &Cluster) {
    for _ in 0..5 {
        let status: Status = cluster.status();
        assert!(!status.available, "{status:?}");
        pass(Duration::from_millis(200));
    }
    let put = cluster.vsr(&["put", "key", "value", "--timeout=500ms"]);
    assert!(matches!(put.status, Some(3 | 4)), "{put:#?}");
}

#[test]
fn replica_formatted_anew_is_refused_naming_recover() {
    let mut cluster = Cluster::formatted(3, SMALL);
    cluster.start_all();
    cluster.wait_available();
    cluster.vsr(&["put", "key", "value"]).exits(0);
    let victim = (cluster.wait_all().primary.expect("available") + 1) % 3;
    cluster.kill(victim);
    fs::remove_file(cluster.data(victim)).expect("the data file");
    run(&mut cluster.format_command(victim)).exits(0);
    cluster.start(victim);
    // Its file has forgotten what it promised: it must not take part, and says why.
    assert_eq!(cluster.wait_exit(victim), Some(23));
    assert!(cluster.log(victim).contains("recover"), "{}", cluster.log(victim));
    cluster.vsr(&["get", "key"]).exits(0).prints("value");
    cluster.wait_available();
}
