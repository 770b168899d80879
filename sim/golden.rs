//! Golden traces: what the replica core does, step by step, kept in sim/testdata and drawn in
//! docs/protocol.md.
//!
//! ```text
//!   golden_scenarios ── play ──► text ──┬── compare ──► its file in sim/testdata
//!                                       └── messages ══ arrows of the diagram that names it
//! ```
//!
//! `UPDATE=1 cargo test --bin vsr golden` writes the files anew; the diagrams are drawn by hand.
//!
//! **Invariants:** each diagram of sequences on the page names one trace, and each trace is named
//! by one diagram; its arrows are the messages of the trace, in order, without the commands that
//! the first line of the trace says it leaves out, and what an arrow says, the trace says.
//!
//! **Not here:** what happens in a trace (`golden_scenarios`).

use super::golden_scenarios::{ALL, Scenario};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Lines of a difference that are shown.
const DIFFERENCE_LINES: usize = 12;

/// A message of a trace, or an arrow of a diagram.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arrow {
    from: String,
    to: String,
    is_lost: bool,
    command: String,
    /// What is said of it.
    fields: Vec<(String, String)>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn trace_path(name: &str) -> PathBuf {
    root().join("sim/testdata").join(format!("{name}.txt"))
}

fn text_of(scenario: &Scenario) -> String {
    let omits = if scenario.omits.is_empty() {
        "all of it".to_owned()
    } else {
        format!("without {}", scenario.omits.join(", "))
    };
    format!("# Drawn in docs/protocol.md, {omits}.\n{}", (scenario.play)())
}

/// The first lines from which two texts differ.
fn difference(expected: &str, actual: &str) -> Option<String> {
    if expected == actual {
        return None;
    }
    let (expected, actual): (Vec<&str>, Vec<&str>) =
        (expected.lines().collect(), actual.lines().collect());
    let same = expected.iter().zip(&actual).take_while(|(a, b)| a == b).count();
    let mut text = format!("from line {} on:\n", same + 1);
    let context = same.saturating_sub(2);
    for line in &expected[context..same] {
        text.push_str(&format!("  {line}\n"));
    }
    for (sign, lines) in [("-", &expected), ("+", &actual)] {
        for line in lines.iter().skip(same).take(DIFFERENCE_LINES) {
            text.push_str(&format!("{sign} {line}\n"));
        }
    }
    Some(text)
}

/// The messages of a trace.
fn messages(trace: &str) -> Vec<Arrow> {
    let lines = trace.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(message).collect()
}

/// `tick  from -> to  command  name=value …`; with `-x` it was lost. With `--` there was nobody to
/// get it, which is not drawn.
fn message(line: &str) -> Option<Arrow> {
    let mut words = line.split_whitespace().skip(1);
    let from = words.next()?.to_owned();
    let is_lost = match words.next()? {
        "->" => false,
        "-x" => true,
        _ => return None,
    };
    let (to, command) = (words.next()?.to_owned(), words.next()?.to_owned());
    let field = |word: &str| {
        let (name, value) = word.split_once('=').expect("a field has a name");
        (name.to_owned(), value.to_owned())
    };
    Some(Arrow { from, to, is_lost, command, fields: words.map(field).collect() })
}

/// The sequence diagrams of a page: the name of the trace that the lines before it give, and its
/// lines.
fn diagrams(page: &str) -> Vec<(Option<String>, Vec<&str>)> {
    let mut found = Vec::new();
    let mut before: Option<&str> = None;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line == "```mermaid" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if block.first() == Some(&"sequenceDiagram") {
                let name = before.and_then(|line| {
                    let (_, rest) = line.split_once("sim/testdata/")?;
                    Some(rest.split_once(".txt")?.0.to_owned())
                });
                found.push((name, block));
            }
        } else if !line.is_empty() {
            before = Some(line);
        }
    }
    found
}

/// The arrows of a diagram: `A->>B: command op (name value, …)`, `-->>` likewise, and `-x` for one
/// that is lost. `participant A as replica 0 …` says who A is.
fn arrows(block: &[&str]) -> Vec<Arrow> {
    let mut parties = BTreeMap::new();
    let mut found = Vec::new();
    for line in block.iter().map(|line| line.trim()) {
        if let Some(rest) = line.strip_prefix("participant ") {
            let (letter, who) = rest.split_once(" as ").expect("a participant has a name");
            let mut words = who.split_whitespace();
            let party = match (words.next(), words.next()) {
                (Some("replica"), Some(index)) => index.trim_end_matches(',').to_owned(),
                (Some("client"), Some(index)) => format!("c{index}"),
                _ => panic!("{who}: neither replica N nor client N"),
            };
            parties.insert(letter, party);
        } else if let Some((path, label)) = line.split_once(": ")
            && !line.starts_with("Note")
        {
            let signs = ["-->>", "--x", "->>", "-x"];
            let sign = signs.into_iter().find(|sign| path.contains(sign)).expect("an arrow");
            let (from, to) = path.split_once(sign).expect("it contains it");
            let (command, fields) = label_of(label);
            let party = |letter| parties.get(letter).expect("a participant").clone();
            let is_lost = sign.ends_with('x');
            found.push(Arrow { from: party(from), to: party(to), is_lost, command, fields });
        }
    }
    found
}

fn label_of(label: &str) -> (String, Vec<(String, String)>) {
    let (head, rest) = label.split_once(" (").unwrap_or((label, ""));
    let mut words = head.split_whitespace();
    let command = words.next().expect("an arrow has a label").to_owned();
    let op = words.next().map(|op| ("op".to_owned(), op.to_owned()));
    let mut fields: Vec<(String, String)> = op.into_iter().collect();
    for pair in rest.trim_end_matches(')').split(", ").filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once(' ').expect("a name and a value");
        fields.push((name.to_owned(), value.to_owned()));
    }
    (command, fields)
}

/// How a diagram contradicts its trace.
fn contradiction(arrows: &[Arrow], messages: &[Arrow]) -> Option<String> {
    let path = |arrow: &Arrow| {
        let Arrow { from, to, is_lost, command, fields } = arrow;
        let sign = if *is_lost { "-x" } else { "->" };
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name} {value}")).collect();
        format!("{from} {sign} {to} {command} ({})", fields.join(", "))
    };
    for index in 0..arrows.len().max(messages.len()) {
        let (Some(arrow), Some(message)) = (arrows.get(index), messages.get(index)) else {
            let side = |arrow: Option<&Arrow>| arrow.map_or("nothing more".to_owned(), path);
            return Some(format!(
                "{}: the page has {}, the trace {}",
                index + 1,
                side(arrows.get(index)),
                side(messages.get(index))
            ));
        };
        let same = (&arrow.from, &arrow.to, arrow.is_lost, &arrow.command)
            == (&message.from, &message.to, message.is_lost, &message.command);
        if !same || !arrow.fields.iter().all(|field| message.fields.contains(field)) {
            let (page, trace) = (path(arrow), path(message));
            return Some(format!("{}: the page has {page}, the trace {trace}", index + 1));
        }
    }
    None
}

#[test]
fn traces_are_what_the_core_does() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut findings = Vec::new();
    for scenario in ALL {
        let (actual, path) = (text_of(scenario), trace_path(scenario.name));
        assert_eq!(actual, text_of(scenario), "{}: a second time", scenario.name);
        if update {
            std::fs::write(&path, &actual).expect("the folder is there");
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if let Some(text) = difference(&expected, &actual) {
            findings.push(format!("{}, {text}", path.display()));
        }
    }
    let files = std::fs::read_dir(root().join("sim/testdata")).expect("the folder is there");
    for file in files {
        let name = file.expect("an entry").file_name().into_string().expect("a plain name");
        let is_played = ALL.iter().any(|scenario| format!("{}.txt", scenario.name) == name);
        if !is_played {
            findings.push(format!("sim/testdata/{name}: no scenario plays it"));
        }
    }
    let hint = "if that is meant: UPDATE=1 cargo test --bin vsr golden";
    assert!(findings.is_empty(), "{}\n{hint}", findings.join("\n"));
}

#[test]
fn diagrams_are_what_the_traces_say() {
    let page = std::fs::read_to_string(root().join("docs/protocol.md")).expect("the page");
    let mut drawn = BTreeMap::new();
    let mut findings = Vec::new();
    for (name, block) in diagrams(&page) {
        let Some(name) = name else {
            findings.push(format!("a diagram names no trace: {block:?}"));
            continue;
        };
        let Some(scenario) = ALL.iter().find(|scenario| scenario.name == name) else {
            findings.push(format!("{name}: there is no such trace"));
            continue;
        };
        if drawn.insert(name.clone(), ()).is_some() {
            findings.push(format!("{name}: drawn twice"));
        }
        let trace = std::fs::read_to_string(trace_path(&name)).unwrap_or_default();
        let shown: Vec<Arrow> = messages(&trace)
            .into_iter()
            .filter(|message| !scenario.omits.contains(&message.command.as_str()))
            .collect();
        if let Some(text) = contradiction(&arrows(&block), &shown) {
            findings.push(format!("{name}, arrow {text}"));
        }
    }
    for scenario in ALL.iter().filter(|scenario| !drawn.contains_key(scenario.name)) {
        findings.push(format!("{}: docs/protocol.md does not draw it", scenario.name));
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn a_difference_is_found() {
    let trace =
        "# x\n    0  0 -> 1   prepare    view=0 op=2\n    0  1 has\n    1  1 -x 0   ok  op=2\n";
    let diagram = |last: &str| {
        let who = "participant A as replica 0, primary\nparticipant B as replica 1";
        let body = format!("{who}\nNote over A: x\nA->>B: prepare 2 (view 0)\n{last}\n");
        // In two parts, for this file names no file that there is not.
        let file = format!("sim/{}/x.txt", "testdata");
        format!("See `{file}`.\n\n```mermaid\nsequenceDiagram\n{body}```\n")
    };
    let check = |last: &str| {
        let page = diagram(last);
        let found = diagrams(&page);
        let [(name, block)] = &found[..] else { panic!("one diagram: {found:?}") };
        assert_eq!(name.as_deref(), Some("x"));
        contradiction(&arrows(block), &messages(trace))
    };
    assert_eq!(check("B--xA: ok 2"), None);
    assert_eq!(check("B-xA: ok (op 2)"), None);
    for wrong in ["B-->>A: ok 2", "A-xB: ok 2", "B-xA: ok 3", "B-xA: no 2", "Note over A: x"] {
        assert!(check(wrong).is_some(), "{wrong}");
    }
    assert_eq!(difference("a\nb\n", "a\nb\n"), None);
    let text = difference("a\nb\n", "a\nc\n").expect("they differ");
    assert_eq!(text, "from line 2 on:\n  a\n- b\n+ c\n");
}
