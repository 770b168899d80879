//! F6: what an inspection has to tell, as a value, and how it is written: for people in aligned
//! columns, for programs as JSON. Both are made of the same facts.
//!
//! ```text
//!   Report ─┬─ sections ─┬─ facts     name  value  (text: one a line; JSON: a field each)
//!           │            └─ tables    (text: columns; JSON: an array of objects)
//!           └─ findings: damages, notes, differences: each with where, what, what it means
//! ```
//!
//! A *damage* is something that is not what was written, whether or not a replica would repair it.
//! A *note* is what a crash or work in progress leaves behind, and no loss. A *difference* is what
//! two files hold otherwise that should hold the same; only a report that compares has any.
//!
//! **Invariants:** all findings are counted and `FINDINGS_MAX` of each kind kept, so that a report
//! of a large and hopeless file is bounded; names are those of the documents.
//!
//! **Not here:** what is damage and what is not.

use crate::commands::json::{self, Object};
use crate::commands::status::aligned;
use std::fmt::Display;

/// Damages, notes and differences that are told one by one.
const FINDINGS_MAX: usize = 1000;

/// A value of a fact or a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing.
    None,
    Number(u64),
    Flag(bool),
    Text(String),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(u64::from(number))
    }
}

impl From<u8> for Value {
    fn from(number: u8) -> Self {
        Self::Number(u64::from(number))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

impl Value {
    fn text(&self) -> String {
        match self {
            Self::None => "-".to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::Text(text) => text.clone(),
        }
    }

    fn json(&self, object: Object, name: &str) -> Object {
        match self {
            Self::None => object.raw(name, "null"),
            Self::Number(number) => object.raw(name, number),
            Self::Flag(flag) => object.raw(name, flag),
            Self::Text(text) => object.text(name, text),
        }
    }
}

#[derive(Debug)]
struct Fact {
    name: &'static str,
    value: Value,
    /// A unit or a remark, for people.
    remark: String,
}

#[derive(Debug)]
struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

/// A part of a report.
#[derive(Debug)]
pub(super) struct Section {
    name: &'static str,
    facts: Vec<Fact>,
    tables: Vec<Table>,
}

impl Section {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, facts: Vec::new(), tables: Vec::new() }
    }

    pub(super) fn fact(&mut self, name: &'static str, value: impl Into<Value>) {
        self.remarked(name, value, "");
    }

    /// A fact with a unit or a remark behind it, which only people are told.
    pub(super) fn remarked(
        &mut self,
        name: &'static str,
        value: impl Into<Value>,
        remark: impl Display,
    ) {
        self.facts.push(Fact { name, value: value.into(), remark: remark.to_string() });
    }

    /// A table; without rows it is not shown to people.
    pub(super) fn table(
        &mut self,
        name: &'static str,
        columns: &'static [&'static str],
        rows: Vec<Vec<Value>>,
    ) {
        assert!(rows.iter().all(|row| row.len() == columns.len()));
        self.tables.push(Table { name, columns, rows });
    }

    fn text(&self, out: &mut String) {
        out.push_str(self.name);
        out.push('\n');
        let words = |name: &str| name.replace('_', " ");
        let rows: Vec<Vec<String>> = self
            .facts
            .iter()
            .map(|fact| {
                let remark = if fact.remark.is_empty() { "" } else { " " };
                let value = format!("{}{remark}{}", fact.value.text(), fact.remark);
                vec![format!("  {}", words(fact.name)), value]
            })
            .collect();
        out.push_str(&aligned(&rows));
        for table in self.tables.iter().filter(|table| !table.rows.is_empty()) {
            out.push_str(&format!("  {}:\n", words(table.name)));
            let head = table.columns.iter().map(|column| words(column));
            let mut rows = vec![head.collect::<Vec<_>>()];
            rows.extend(table.rows.iter().map(|row| row.iter().map(Value::text).collect()));
            for row in &mut rows {
                row[0].insert_str(0, "    ");
            }
            out.push_str(&aligned(&rows));
        }
    }

    fn json(&self) -> String {
        let mut object = Object::default();
        for fact in &self.facts {
            object = fact.value.json(object, fact.name);
        }
        for table in &self.tables {
            let rows = table.rows.iter().map(|row| {
                let cells = table.columns.iter().zip(row);
                cells.fold(Object::default(), |row, (name, cell)| cell.json(row, name)).finish()
            });
            object = object.raw(table.name, json::array(rows));
        }
        object.finish()
    }
}

/// Where something was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// `superblock`, `journal`, `grid` or `file`.
    pub(super) zone: &'static str,
    /// Which copy, slot or block.
    pub(super) what: String,
    /// Bytes from the start of the file.
    pub(super) offset: u64,
}

#[derive(Debug)]
struct Finding {
    /// In which of two files; `None` if there is one, or if it is in both.
    file: Option<&'static str>,
    place: Place,
    what: String,
    meaning: String,
}

impl Finding {
    fn json(&self) -> String {
        let object = Object::default();
        let object = match self.file {
            Some(file) => object.text("file", file),
            None => object,
        };
        object
            .text("zone", self.place.zone)
            .text("place", &self.place.what)
            .raw("offset", self.place.offset)
            .text("what", &self.what)
            .text("meaning", &self.meaning)
            .finish()
    }

    fn text(&self, severity: &str) -> String {
        let Place { what: place, offset, .. } = &self.place;
        let file = self.file.map(|file| format!("{file}, ")).unwrap_or_default();
        format!("{severity}: {file}{place}, byte {offset}: {}; {}\n", self.what, self.meaning)
    }
}

/// Findings of one severity.
#[derive(Debug, Default)]
struct Findings {
    list: Vec<Finding>,
    count: u64,
}

impl Findings {
    fn add(&mut self, place: Place, what: impl Display, meaning: impl Display) {
        self.count += 1;
        if self.list.len() < FINDINGS_MAX {
            let (what, meaning) = (what.to_string(), meaning.to_string());
            self.list.push(Finding { file: None, place, what, meaning });
        }
    }

    /// Takes over what was found in one of two files.
    fn absorb(&mut self, other: Self, file: &'static str) {
        self.count += other.count;
        let room = FINDINGS_MAX - self.list.len();
        let taken = other.list.into_iter().take(room);
        self.list.extend(taken.map(|finding| Finding { file: Some(file), ..finding }));
        assert!(self.list.len() <= FINDINGS_MAX);
    }

    fn text(&self, severity: &str) -> String {
        let mut text: String = self.list.iter().map(|finding| finding.text(severity)).collect();
        let left = self.count - self.list.len() as u64;
        if left > 0 {
            text.push_str(&format!("{severity}: and {left} more\n"));
        }
        text
    }
}

/// All that an inspection has to tell.
#[derive(Debug, Default)]
pub(super) struct Report {
    sections: Vec<Section>,
    damages: Findings,
    notes: Findings,
    /// `None`: nothing is compared.
    differences: Option<Findings>,
}

impl Report {
    /// A report of two files.
    pub(super) fn of_comparison() -> Self {
        Self { differences: Some(Findings::default()), ..Self::default() }
    }

    /// Takes over the sections and findings of a report that is about one of two files.
    pub(super) fn absorb(&mut self, other: Self, file: &'static str) {
        assert!(other.differences.is_none());
        self.sections.extend(other.sections);
        self.damages.absorb(other.damages, file);
        self.notes.absorb(other.notes, file);
    }

    pub(super) fn section(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// Something is not what was written.
    pub(super) fn damage(&mut self, place: Place, what: impl Display, meaning: impl Display) {
        self.damages.add(place, what, meaning);
    }

    /// Something is worth knowing, and no loss.
    pub(super) fn note(&mut self, place: Place, what: impl Display, meaning: impl Display) {
        self.notes.add(place, what, meaning);
    }

    /// Two files hold something otherwise that should be the same.
    pub(super) fn difference(&mut self, place: Place, what: impl Display, meaning: impl Display) {
        let differences = self.differences.as_mut().expect("a report of two files");
        differences.add(place, what, meaning);
    }

    /// So many more differences that nobody looked into.
    pub(super) fn differences_more(&mut self, count: u64) {
        self.differences.as_mut().expect("a report of two files").count += count;
    }

    pub(super) fn differences_count(&self) -> u64 {
        self.differences.as_ref().map_or(0, |differences| differences.count)
    }

    pub(super) fn damages_count(&self) -> u64 {
        self.damages.count
    }

    #[cfg(test)]
    pub(super) fn notes_count(&self) -> u64 {
        self.notes.count
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for section in &self.sections {
            section.text(&mut text);
        }
        text.push_str(&self.notes.text("note"));
        text.push_str(&self.damages.text("damage"));
        if let Some(differences) = &self.differences {
            text.push_str(&differences.text("difference"));
        }
        text
    }

    /// For programs: the sections, then what was found, and `head` in front.
    pub(super) fn json(&self, head: Object) -> String {
        let mut object = head;
        for section in &self.sections {
            object = object.raw(section.name, section.json());
        }
        let list = |findings: &Findings| json::array(findings.list.iter().map(Finding::json));
        let object = object
            .raw("sound", self.damages.count == 0)
            .raw("damages_count", self.damages.count)
            .raw("damages", list(&self.damages))
            .raw("notes_count", self.notes.count)
            .raw("notes", list(&self.notes));
        let object = match &self.differences {
            Some(found) => {
                object.raw("differences_count", found.count).raw("differences", list(found))
            }
            None => object,
        };
        object.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { zone: "grid", what: "block 3".into(), offset: 4096 }
    }

    #[test]
    fn people_and_programs_are_told_the_same() {
        let mut section = Section::new("journal");
        section.remarked("journal_slots", 64_u32, "slots");
        section.fact("view", None::<u32>);
        section.table("ranges", &["op_min", "state"], vec![vec![1_u32.into(), "intact".into()]]);
        let mut report = Report::default();
        report.section(section);
        report.damage(place(), "rotten", "it is fetched");
        report.note(place(), "old", "no loss");
        let text = "journal\n  journal slots  64 slots\n  view           -\n  ranges:\n    \
                    op min  state\n    1       intact\nnote: block 3, byte 4096: old; no loss\n\
                    damage: block 3, byte 4096: rotten; it is fetched\n";
        assert_eq!(report.text(), text);
        let json = [
            r#"{"journal": {"journal_slots": 64, "view": null, "#,
            r#""ranges": [{"op_min": 1, "state": "intact"}]}, "sound": false, "#,
            r#""damages_count": 1, "damages": [{"zone": "grid", "place": "block 3", "#,
            r#""offset": 4096, "what": "rotten", "meaning": "it is fetched"}], "#,
            r#""notes_count": 1, "notes": [{"zone": "grid", "place": "block 3", "#,
            r#""offset": 4096, "what": "old", "meaning": "no loss"}]}"#,
        ];
        assert_eq!(report.json(Object::default()), json.concat());
    }

    #[test]
    fn a_report_of_two_files_says_in_which_of_them() {
        let mut here = Report::default();
        here.note(place(), "old", "no loss");
        let mut there = Report::default();
        there.damage(place(), "rotten", "it is fetched");
        let mut report = Report::of_comparison();
        report.absorb(here, "here");
        report.absorb(there, "there");
        report.difference(place(), "other", "one is wrong");
        let text = "note: here, block 3, byte 4096: old; no loss\n\
                    damage: there, block 3, byte 4096: rotten; it is fetched\n\
                    difference: block 3, byte 4096: other; one is wrong\n";
        assert_eq!(report.text(), text);
        assert_eq!((report.damages_count(), report.differences_count()), (1, 1));
        let json = report.json(Object::default());
        assert!(json.contains(r#""damages": [{"file": "there", "zone": "grid", "#), "{json}");
        let differences = r#""differences_count": 1, "differences": [{"zone": "grid", "#;
        assert!(json.contains(differences), "{json}");
        let mut many = Report::default();
        (0..FINDINGS_MAX).for_each(|_| many.damage(place(), "rotten", "it is fetched"));
        report.absorb(many, "here");
        assert_eq!(report.damages_count(), FINDINGS_MAX as u64 + 1);
        assert_eq!(report.text().matches("rotten").count(), FINDINGS_MAX);
    }

    #[test]
    fn a_report_is_bounded() {
        let mut report = Report::default();
        for _ in 0..FINDINGS_MAX + 7 {
            report.damage(place(), "rotten", "it is fetched");
        }
        assert_eq!(report.damages_count(), FINDINGS_MAX as u64 + 7);
        assert_eq!(report.text().lines().count(), FINDINGS_MAX + 1);
        assert!(report.text().ends_with("damage: and 7 more\n"));
    }
}
