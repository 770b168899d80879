//! What is typed and what it means: every flag, every bound.

use super::*;
use clap::CommandFactory;

fn parse(line: &str) -> Result<Command, String> {
    let words = std::iter::once("vsr").chain(line.split_whitespace());
    Raw::try_parse_from(words).map_err(|error| error.to_string())?.valid()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The error of a line that must be refused.
fn refused(line: &str) -> String {
    match parse(line) {
        Ok(command) => panic!("{line} was taken for {command:?}"),
        Err(reason) => reason,
    }
}

#[test]
fn clap_accepts_its_own_definition() {
    Raw::command().debug_assert();
}

#[test]
fn help_of_every_command_and_flag_is_ascii_and_there() {
    for command in Raw::command().get_subcommands() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
            let help = argument.get_help().expect("a help text").to_string();
            assert!(help.is_ascii() || help.contains('…'), "{help}");
            assert!(argument.get_short().is_none(), "long flags alone: {}", argument.get_id());
        }
    }
    let help = Raw::command().render_help().to_string();
    for name in
        ["format", "start", "put", "get", "delete", "cas", "scan", "status", "benchmark", "demo"]
    {
        assert!(help.contains(name), "{name}");
    }
    assert!(help.contains("outcome unknown"), "the exit statuses");
}

#[test]
fn format_with_defaults() {
    let Ok(Command::Format(format)) = parse("format --replica=1 --replica-count=3") else {
        panic!("a format");
    };
    assert_eq!(format.path, PathBuf::from("replica-1.vsr"));
    assert_eq!((format.cluster, format.replica), (ClusterId(0), ReplicaIndex(1)));
    assert_eq!(format.replica_count, 3);
    assert_eq!(format.geometry, Geometry::default());
    assert!(!format.development);
}

#[test]
fn format_with_every_flag() {
    let line = "format --replica=0 --replica-count=1 --cluster=0xff --data=/tmp/x \
        --journal-slots=64 --message-size=16KiB --clients-max=7 --block-size=8KiB --pipeline=4 \
        --development";
    let Ok(Command::Format(format)) = parse(line) else { panic!("a format") };
    let geometry = Geometry {
        message_size: 16384,
        journal_slots: 64,
        block_size: 8192,
        pipeline: 4,
        clients_max: 7,
    };
    assert_eq!((format.geometry, format.cluster), (geometry, ClusterId(255)));
    assert_eq!(format.path, PathBuf::from("/tmp/x"));
    assert!(format.development);
}

#[test]
fn format_refuses_with_the_value() {
    assert!(refused("format --replica=3 --replica-count=3").contains("--replica=3"));
    assert!(refused("format --replica=0 --replica-count=7").contains("--replica-count=7"));
    assert!(refused("format --replica=0 --replica-count=0").contains("--replica-count=0"));
    let one = "format --replica=0 --replica-count=1";
    assert!(refused(&format!("{one} --journal-slots=65")).contains("journal slots 65"));
    assert!(refused(&format!("{one} --message-size=5000")).contains("message size 5000"));
    assert!(refused(&format!("{one} --pipeline=33")).contains("pipeline 33"));
    assert!(refused(&format!("{one} --block-size=3KiB")).contains("block size 3072"));
    assert!(refused(&format!("{one} --clients-max=0")).contains("clients 0"));
    assert!(refused(&format!("{one} --cluster=x")).contains('x'));
    assert!(refused("format --replica-count=1").contains("--replica"));
}

#[test]
fn start_with_every_flag() {
    let line = "start --replica=1 --addresses=3000,127.0.0.1:3001,[::1]:3002 --listen=0.0.0.0:1 \
        --data=d --cluster=5 --development --log-level=debug";
    let Ok(Command::Start(start)) = parse(line) else { panic!("a start") };
    assert_eq!(start.addresses[..2], [local(3000), local(3001)]);
    assert_eq!(start.addresses[2].to_string(), "[::1]:3002");
    assert_eq!(start.listen, Some(SocketAddr::from(([0, 0, 0, 0], 1))));
    assert_eq!((start.replica, start.cluster), (ReplicaIndex(1), Some(ClusterId(5))));
    assert_eq!(start.path, PathBuf::from("d"));
    assert_eq!(start.log_level, Some(log::LevelFilter::Debug));
    assert!(start.development);
    let Ok(Command::Start(start)) = parse("start --replica=0 --addresses=0") else { panic!() };
    assert_eq!((start.path, start.cluster), (PathBuf::from("replica-0.vsr"), None));
}

#[test]
fn start_refuses_with_the_value() {
    assert!(refused("start --replica=2 --addresses=1,2").contains("--replica=2"));
    assert!(refused("start --replica=0 --addresses=1,1").contains("127.0.0.1:1 is named twice"));
    assert!(refused("start --replica=0 --addresses=1,2,3,4,5,6,7").contains("7 addresses"));
    assert!(refused("start --replica=0 --addresses=1 --listen=x").contains("--listen"));
    assert!(refused("start --replica=0 --addresses=1 --log-level=loud").contains("loud"));
}

#[test]
fn recover_with_every_flag_and_with_none() {
    let flags = "--data=d --cluster=5 --timeout=2s --development";
    let line = format!("recover --replica=1 --addresses=1,2,3 {flags}");
    let expected = Recover {
        path: PathBuf::from("d"),
        replica: ReplicaIndex(1),
        cluster: ClusterId(5),
        addresses: vec![local(1), local(2), local(3)],
        timeout: Duration::from_secs(2),
        development: true,
    };
    assert_eq!(parse(&line), Ok(Command::Recover(expected)));
    let Ok(Command::Recover(recover)) = parse("recover --replica=0 --addresses=1,2,3") else {
        panic!()
    };
    assert_eq!(recover.path, PathBuf::from("replica-0.vsr"));
    assert_eq!((recover.timeout, recover.development), (Duration::from_secs(30), false));
    assert!(refused("recover --replica=3 --addresses=1,2,3").contains("--replica=3"));
}

#[test]
fn client_commands_with_every_flag() {
    let flags = "--addresses=1,2 --cluster=9 --timeout=500ms --json";
    let client = Client {
        cluster: ClusterId(9),
        addresses: vec![local(1), local(2)],
        timeout: Duration::from_millis(500),
        json: true,
    };
    let (key, value) = (b"k".to_vec(), b"v".to_vec());
    let cases = [
        (
            format!("put k v {flags}"),
            Command::Put { key: key.clone(), value: value.clone(), client: client.clone() },
        ),
        (format!("get k {flags}"), Command::Get { key: key.clone(), client: client.clone() }),
        (format!("delete k {flags}"), Command::Delete { key: key.clone(), client: client.clone() }),
        (
            format!("cas k v w {flags}"),
            Command::Cas { key, old: value, new: b"w".to_vec(), client: client.clone() },
        ),
        (
            format!("scan p --limit=3 {flags}"),
            Command::Scan { prefix: b"p".to_vec(), limit: Some(3), client: client.clone() },
        ),
        (
            format!("scan {flags}"),
            Command::Scan { prefix: Vec::new(), limit: None, client: client.clone() },
        ),
        (format!("status {flags}"), Command::Status { client }),
    ];
    for (line, command) in cases {
        assert_eq!(parse(&line), Ok(command), "{line}");
    }
    let Ok(Command::Get { client, .. }) = parse("get k --addresses=1") else { panic!() };
    assert_eq!(client.timeout, Duration::from_secs(10));
    assert_eq!(client.cluster, ClusterId(0));
    assert!(!client.json);
    assert!(refused("scan --limit=0 --addresses=1").contains("limit"));
}

#[test]
fn keys_and_values_need_not_be_text() {
    let words = ["vsr", "put", "--addresses=1"].map(OsString::from).to_vec();
    let bytes = [b"k\xff".to_vec(), b"v\xfe".to_vec()];
    let words = words.into_iter().chain(bytes.map(OsString::from_vec));
    let raw = Raw::try_parse_from(words).expect("bytes");
    let Ok(Command::Put { key, value, .. }) = raw.valid() else { panic!("a put") };
    assert_eq!((&key[..], &value[..]), (&b"k\xff"[..], &b"v\xfe"[..]));
}

#[test]
fn benchmark_with_every_flag() {
    let line = "benchmark --clients=5 --value-size=1KiB --duration=2s --keys=9 --read-ratio=50% \
        --addresses=1 --cluster=2 --json";
    let benchmark = Benchmark {
        clients: 5,
        value_size: 1024,
        duration: Duration::from_secs(2),
        keys: 9,
        read_percent: 50,
        addresses: Some(vec![local(1)]),
        cluster: ClusterId(2),
        json: true,
    };
    assert_eq!(parse(line), Ok(Command::Benchmark(benchmark)));
    assert!(refused("benchmark --clients=0").contains("--clients=0"));
    assert!(refused("benchmark --clients=1001").contains("--clients=1001"));
    assert!(refused("benchmark --read-ratio=101%").contains("101%"));
    assert!(refused("benchmark --value-size=1MiB").contains("--value-size=1048576"));
    assert!(refused("benchmark --keys=0").contains("keys"));
}

#[test]
fn demo_and_version() {
    assert_eq!(parse("demo"), Ok(Command::Demo { keep: false }));
    assert_eq!(parse("demo --keep"), Ok(Command::Demo { keep: true }));
    assert_eq!(parse("version"), Ok(Command::Version));
}

#[test]
fn address_forms() {
    assert_eq!(address("3000"), Ok(local(3000)));
    assert_eq!(address(" 127.0.0.1:80 "), Ok(local(80)));
    assert_eq!(address("[::1]:5").map(|address| address.port()), Ok(5));
    assert_eq!(address("localhost:7").map(|address| address.port()), Ok(7));
    for (text, reason) in [
        ("", "empty"),
        ("65536", "0 to 65535"),
        ("host", "no port"),
        ("::1:5", "brackets"),
        ("host:", "0 to 65535"),
        ("host:99999", "0 to 65535"),
        (":80", "no host"),
    ] {
        let error = address(text).expect_err(text);
        assert!(error.contains(reason), "{text}: {error}");
    }
    assert!(addresses("1,,2").is_err());
    assert_eq!(addresses("0,0,0").map(|found| found.len()), Ok(3));
}

#[test]
fn size_forms() {
    for (text, bytes) in
        [("0", 0), ("4096", 4096), ("12B", 12), ("16KiB", 16384), ("1MiB", 1 << 20)]
    {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in ["", "KiB", "1kb", "1 KiB", "-1", "4096MiB", "1.5MiB", "99999999999999999999"] {
        assert!(size(text).is_err(), "{text}");
    }
}

#[test]
fn duration_forms() {
    for (text, milliseconds) in [("1ms", 1), ("500ms", 500), ("5s", 5000), ("2m", 120_000)] {
        assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["", "5", "0s", "s", "1.5s", "25h", "-1s", "18446744073709551615h"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn cluster_and_percent_forms() {
    assert_eq!(cluster("12"), Ok(ClusterId(12)));
    assert_eq!(cluster("0xfF"), Ok(ClusterId(255)));
    assert!(cluster("").is_err());
    assert!(cluster("-1").is_err());
    assert_eq!(percent("0"), Ok(0));
    assert_eq!(percent("100%"), Ok(100));
    assert!(percent("101").is_err());
    assert!(percent("%").is_err());
}

#[test]
fn inspect_with_every_part() {
    let parts = [
        ("superblock x", Part::Superblock),
        ("journal x", Part::Journal { all: false }),
        ("journal --all x", Part::Journal { all: true }),
        ("checkpoint x", Part::Checkpoint),
        ("op 17 x", Part::Op(17)),
        ("integrity x", Part::Integrity),
    ];
    for (line, part) in parts {
        for json in [false, true] {
            let line = format!("inspect {line}{}", if json { " --json" } else { "" });
            let expected = Inspect { part, path: PathBuf::from("x"), against: None, json };
            assert_eq!(parse(&line), Ok(Command::Inspect(expected)), "{line}");
        }
    }
    let against = Some(PathBuf::from("y"));
    let path = PathBuf::from("x");
    let expected = Inspect { part: Part::Checkpoint, path, against, json: false };
    for line in ["inspect checkpoint x --against y", "inspect checkpoint --against=y x"] {
        assert_eq!(parse(line), Ok(Command::Inspect(expected.clone())), "{line}");
    }
    refused("inspect checkpoint x --against");
    refused("inspect checkpoint --against y");
    refused("inspect integrity x --against y");
    refused("inspect op x");
    refused("inspect superblock");
    refused("inspect superblock --all x");
}

#[test]
fn sim_with_one_seed_or_many() {
    let sim = |line: &str| match parse(line) {
        Ok(Command::Sim(sim)) => (sim.seed, sim.seeds, sim.from),
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(sim("sim 7"), (Some(7), None, 1));
    assert_eq!(sim("sim --seeds 5"), (None, Some(5), 1));
    assert_eq!(sim("sim --seeds 5 --from 9"), (None, Some(5), 9));
    assert!(refused("sim 7 --from 9").contains("cannot be used with '--from"));
    assert!(refused("sim --from 9").contains("--seeds"));
    refused("sim 7 --seeds 5");
    refused("sim --seeds 0");
}
