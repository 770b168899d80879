//! What the compiler and clippy cannot say of this house, checked as a test of its own.
//!
//! ```text
//!   sources ──► Source { raw, code, product } ──► checks ──► findings "path:line: what"
//!                         │     └ code without its test modules
//!                         └ raw with comments and literals blanked, byte for byte
//! ```
//!
//! **Invariants:** every check is a pure function of text; every check is shown to fail on a
//! made-up text (a check that cannot fail is a defect); `code` and `product` have the length and
//! the lines of `raw`.
//!
//! **Not here:** formatting, names of the language, function lengths: `cargo fmt` and clippy do
//! those.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use vsr::stdx::defect::DEFECTS;

/// Who may use whom: a module, and the `crate::` modules below it. A dot separates nothing here:
/// `client::core` is the client's sans-IO part and stands on a lower floor than `client`.
const FLOORS: &[(&str, &[&str])] = &[
    ("constants", &[]),
    ("fatal", &[]),
    ("stdx", &["constants"]),
    ("wire", &["constants", "stdx"]),
    ("storage", &["constants", "fatal", "stdx", "wire"]),
    ("store", &["constants", "stdx", "wire", "storage"]),
    ("state_machine", &["constants", "stdx", "wire", "store"]),
    ("replica", &["constants", "fatal", "stdx", "wire", "storage", "store", "state_machine"]),
    ("client::core", &["constants", "stdx", "wire"]),
    ("io", &["constants", "stdx"]),
    ("bus", &["constants", "stdx", "wire", "io"]),
    (
        "server",
        &[
            "constants",
            "fatal",
            "stdx",
            "wire",
            "storage",
            "store",
            "state_machine",
            "replica",
            "io",
            "bus",
        ],
    ),
    ("client", &["constants", "stdx", "wire", "state_machine", "io", "bus"]),
    ("recovery", &["constants", "stdx", "wire", "storage", "replica", "io", "client"]),
];

/// Modules of the standard library that only some floors may use. What is not listed is free.
const STD_RESERVED: &[(&str, &[&str])] = &[
    ("fs", &["io"]),
    ("net", &["io", "bus", "server", "client", "recovery"]),
    ("thread", &["io"]),
    ("process", &[]),
    ("env", &[]),
    ("os", &["io"]),
];

/// Packages that only some floors may use.
const PACKAGES_RESERVED: &[(&str, &[&str])] = &[
    ("mio", &["io"]),
    ("socket2", &["io"]),
    ("libc", &["io"]),
    ("signal_hook", &["io"]),
    ("rand_chacha", &["stdx"]),
    ("clap", &[]),
    ("env_logger", &[]),
];

/// Floors without a clock: not even the type of an instant. `Duration` is only a number.
const CLOCKLESS: &[&str] =
    &["constants", "fatal", "stdx", "wire", "storage", "store", "state_machine", "replica"];

/// Floors whose functions assert, and how many asserts a hundred functions have at least. A
/// ratchet: it may only rise.
const ASSERTING: &[(&str, usize)] = &[("storage", 125), ("replica", 150)];
/// A function of so many lines reads one thing, or says one: there is nothing to assert.
const ACCESSOR_LINES_MAX: usize = 5;

const LINE_CHARS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 1500;
const FILE_PRODUCT_LINES_MAX: usize = 1000;
const README_LINES_MAX: usize = 80;

/// Roots of module trees: library, binary, test targets.
const ROOTS: &[&str] = &[
    "src/lib.rs",
    "src/main.rs",
    "scripts/tidy.rs",
    "sim/tests/process.rs",
    "sim/tests/chaos.rs",
    "sim/tests/limits.rs",
    "sim/tests/defects.rs",
    "fuzz/smoke.rs",
];

/// One Rust file.
struct Source {
    path: String,
    raw: String,
    /// `raw` with comments and the contents of literals replaced by spaces.
    code: String,
    /// `code` without `#[cfg(test)]` items; empty for a file that is a test module.
    product: String,
}

impl Source {
    fn new(path: &str, raw: &str) -> Self {
        let code = blank_comments_and_literals(raw);
        let product = if is_test_path(path) { blank(&code) } else { blank_tests(&code) };
        assert_eq!(code.len(), raw.len());
        assert_eq!(product.len(), raw.len());
        Self { path: path.to_string(), raw: raw.to_string(), code, product }
    }

    /// The floor this file belongs to, if it is one of the library's modules.
    fn floor(&self) -> Option<&'static str> {
        let path = self.path.strip_prefix("src/")?.trim_end_matches(".rs");
        let module = path.replace('/', "::");
        // The longest name first, so that `client::core` is not taken for `client`.
        let mut names: Vec<&str> = FLOORS.iter().map(|(name, _)| *name).collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        names.into_iter().find(|name| {
            module == *name || module.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"))
        })
    }

    fn finding(&self, offset: usize, what: impl std::fmt::Display) -> String {
        let line = 1 + self.raw[..offset].matches('\n').count();
        format!("{}:{line}: {what}", self.path)
    }
}

fn is_test_path(path: &str) -> bool {
    let name = path.rsplit('/').next().expect("a split has a last part");
    let stem = name.trim_end_matches(".rs");
    stem == "tests" || stem.ends_with("_tests") || stem.starts_with("test_")
}

fn blank(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { "\n".into() } else { " ".repeat(c.len_utf8()) }).collect()
}

/// Replaces comments and what is inside of string and character literals by spaces.
fn blank_comments_and_literals(raw: &str) -> String {
    let mut code = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(first) = rest.chars().next() {
        let after_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let size = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_size(rest)
        } else if let Some(size) = raw_string_size(rest).filter(|_| !after_word) {
            size
        } else if first == '"' {
            quoted_size(rest, '"')
        } else if first == '\'' && is_char_literal(rest) {
            quoted_size(rest, '\'')
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push_str(&blank(&rest[..size]));
        rest = &rest[size..];
    }
    code
}

fn block_comment_size(text: &str) -> usize {
    let mut depth = 0;
    let mut offset = 0;
    while offset < text.len() {
        if text[offset..].starts_with("/*") {
            depth += 1;
            offset += 2;
        } else if text[offset..].starts_with("*/") {
            depth -= 1;
            offset += 2;
            if depth == 0 {
                return offset;
            }
        } else {
            offset += text[offset..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The size of a raw string at the start of `text`, if there is one: r"…", br#"…"#, cr"…".
fn raw_string_size(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['"', '#']))
    })?;
    let hashes = text[prefix.len()..].chars().take_while(|c| *c == '#').count();
    let body = prefix.len() + hashes + 1;
    if !text[prefix.len() + hashes..].starts_with('"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()))
}

fn quoted_size(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (offset, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return offset + 1;
        }
    }
    text.len()
}

/// Tells 'a' from the lifetime 'a.
fn is_char_literal(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => true,
        (Some(_), Some(after)) => after == '\'',
        _ => false,
    }
}

/// Blanks every item under `#[cfg(test)]`: to its closing brace, or to its semicolon.
fn blank_tests(code: &str) -> String {
    let mut product = code.to_string();
    while let Some(start) = product.find("#[cfg(test)]") {
        let end = item_end(&product, start);
        product.replace_range(start..end, &blank(&product[start..end]));
    }
    product
}

fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0i32;
    for (offset, c) in code[start..].char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => {
                depth -= 1;
                if depth == 0 && c == '}' {
                    return start + offset + 1;
                }
            }
            ';' if depth == 0 => return start + offset + 1,
            _ => {}
        }
    }
    code.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands in `code` as a whole path segment or name.
fn occurrences(code: &str, word: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = code[from..].find(word) {
        let offset = from + at;
        let before = code[..offset].chars().next_back();
        if !before.is_some_and(is_word) {
            found.push(offset);
        }
        from = offset + word.len();
    }
    found
}

/// The first segments after `prefix`, which ends in `::`: one name, or each of a `{…}` group.
fn segments_after(code: &str, offset: usize) -> Vec<String> {
    let rest = &code[offset..];
    let Some(group) = rest.strip_prefix('{') else {
        return vec![rest.chars().take_while(|c| is_word(*c)).collect()];
    };
    let mut names = Vec::new();
    let mut depth = 0i32;
    let mut name = String::new();
    let mut taken = false;
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(std::mem::take(&mut name));
                taken = false;
            }
            c if depth == 0 && is_word(c) && !taken => name.push(c),
            c if depth == 0 && !c.is_whitespace() => taken = true,
            _ => taken |= !name.is_empty(),
        }
    }
    names.push(name);
    names.retain(|name| !name.is_empty());
    names
}

/// Every `crate::` module a text names, and every `super::` chain that leaves its floor.
fn crate_uses(source: &Source, code: &str) -> Vec<(usize, String)> {
    let mut uses = Vec::new();
    for offset in occurrences(code, "crate::") {
        for name in segments_after(code, offset + "crate::".len()) {
            let inner = offset + "crate::".len() + name.len();
            let deeper = format!("{name}::");
            let two = if code[offset + "crate::".len()..].starts_with(&deeper) {
                let rest: String = code[inner + 2..].chars().take_while(|c| is_word(*c)).collect();
                format!("{name}::{rest}")
            } else {
                name
            };
            uses.push((offset, two));
        }
    }
    let depth = module_depth(&source.path);
    for offset in occurrences(code, "super::") {
        // Only the head of a chain: `super::super::x` counts once.
        if code[..offset].ends_with("super::") {
            continue;
        }
        let supers = code[offset..].split("::").take_while(|part| *part == "super").count();
        if supers == depth {
            for name in segments_after(code, offset + "super::".len() * supers) {
                uses.push((offset, name));
            }
        }
    }
    uses
}

/// How many `super` lead from a file's module to the crate's root.
fn module_depth(path: &str) -> usize {
    let module = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    if module == "lib" || module == "main" { 0 } else { module.split('/').count() }
}

fn check_floors(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    if !source.path.starts_with("src/") {
        return findings;
    }
    for (offset, name) in crate_uses(source, &source.product) {
        if name == "sim" || name.starts_with("sim::") {
            findings.push(source.finding(offset, "src must not see sim"));
        }
    }
    let Some(floor) = source.floor() else { return findings };
    let below = FLOORS.iter().find(|(name, _)| *name == floor).expect("found by floor()").1;
    let root = floor.split("::").next().expect("a name");
    for (offset, name) in crate_uses(source, &source.product) {
        let top = name.split("::").next().expect("a name");
        let within = if floor == root { top == root } else { name.starts_with(floor) };
        let is_floor = FLOORS.iter().any(|(floor, _)| *floor == top);
        if is_floor && !within && !below.contains(&top) {
            findings.push(source.finding(offset, format_args!("{floor} must not use {top}")));
        }
    }
    findings
}

fn check_reserved(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    let Some(floor) = source.floor() else { return findings };
    for offset in occurrences(&source.product, "std::") {
        for name in segments_after(&source.product, offset + "std::".len()) {
            let reserved = STD_RESERVED.iter().find(|(module, _)| *module == name);
            if reserved.is_some_and(|(_, floors)| !floors.contains(&floor)) {
                let what = format!("{floor} must not use std::{name}");
                findings.push(source.finding(offset, what));
            }
        }
    }
    for (package, floors) in PACKAGES_RESERVED {
        for offset in occurrences(&source.product, &format!("{package}::")) {
            let path = source.product[..offset].ends_with("::");
            if !path && !floors.contains(&floor) {
                let what = format!("{floor} must not use the package {package}");
                findings.push(source.finding(offset, what));
            }
        }
    }
    if CLOCKLESS.contains(&floor) || floor == "client::core" {
        for word in ["Instant", "SystemTime", "std::time", "std::fs", "std::net"] {
            for offset in occurrences(&source.product, word) {
                findings.push(source.finding(offset, format_args!("{floor} must not use {word}")));
            }
        }
    }
    findings
}

fn check_header(source: &Source) -> Vec<String> {
    if source.raw.starts_with("//! ") {
        Vec::new()
    } else {
        vec![source.finding(0, "does not open with a //! sentence of what it is")]
    }
}

fn check_lines(path: &str, text: &str, chars_max: usize) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(format!("{path}:{number}: trailing whitespace"));
        }
        if line.contains('\t') {
            findings.push(format!("{path}:{number}: a tab"));
        }
        let chars = line.chars().count();
        if chars > chars_max {
            findings.push(format!("{path}:{number}: {chars} characters, at most {chars_max}"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(format!("{path}: no newline at the end"));
    }
    findings
}

fn check_file_length(source: &Source) -> Vec<String> {
    let total = source.raw.lines().count();
    let blanked: usize = source
        .code
        .lines()
        .zip(source.product.lines())
        .filter(|(code, product)| code.trim() != product.trim())
        .count();
    let product = total - blanked;
    let mut findings = Vec::new();
    if total > FILE_LINES_MAX {
        findings.push(source.finding(0, format_args!("{total} lines, at most {FILE_LINES_MAX}")));
    }
    if product > FILE_PRODUCT_LINES_MAX && !is_test_path(&source.path) {
        let what = format!("{product} lines without tests, at most {FILE_PRODUCT_LINES_MAX}");
        findings.push(source.finding(0, what));
    }
    findings
}

/// Leftovers. Those of prose are sought in comments too, the others in code alone.
fn check_banned(source: &Source) -> Vec<String> {
    // Written in two parts, so that this file does not find itself.
    let prose = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
    let code = [
        concat!("todo", "!("),
        concat!("dbg", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ig", "nore"),
        concat!("#[al", "low("),
        concat!("#![al", "low("),
        concat!("#[should", "_panic"),
    ];
    let mut findings = Vec::new();
    for word in prose {
        for offset in occurrences(&source.raw, word) {
            let after = source.raw[offset + word.len()..].chars().next();
            if !after.is_some_and(is_word) {
                findings.push(source.finding(offset, format_args!("leftover {word}")));
            }
        }
    }
    for word in code {
        for offset in occurrences(&source.code, word) {
            findings.push(source.finding(offset, format_args!("banned: {word}")));
        }
    }
    findings
}

/// The lines from `fn` to the closing brace; 1 for a declaration without a body.
fn lines_of_function(text: &str) -> usize {
    let (mut nested, mut braces, mut lines) = (0i32, 0i32, 1);
    for c in text.chars() {
        match c {
            '\n' => lines += 1,
            '(' | '[' => nested += 1,
            ')' | ']' => nested -= 1,
            ';' if nested == 0 && braces == 0 => return 1,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return lines;
                }
            }
            _ => {}
        }
    }
    lines
}

/// `fn` items with something to assert, and asserts, of the product code.
fn count_asserts(source: &Source) -> (usize, usize) {
    let mut functions = 0;
    for offset in occurrences(&source.product, "fn ") {
        let item = &source.product[offset + "fn ".len()..];
        // A macro's parameter or a function type is not an item.
        let named = item.trim_start().starts_with(|c: char| c.is_alphabetic() || c == '_');
        functions += usize::from(named && lines_of_function(item) > ACCESSOR_LINES_MAX);
    }
    let mut asserts = 0;
    for word in ["assert", "debug_assert"] {
        for offset in occurrences(&source.product, word) {
            let tail = source.product[offset..].trim_start_matches(is_word);
            let definition = source.product[..offset].ends_with("fn ");
            asserts += usize::from(!definition && tail.starts_with(['!', '(']));
        }
    }
    (functions, asserts)
}

fn check_asserts(floor: &str, percent_min: usize, sources: &[Source]) -> Vec<String> {
    let of_floor = sources.iter().filter(|source| source.floor() == Some(floor));
    let (mut functions, mut asserts) = (0, 0);
    for source in of_floor {
        let (file_functions, file_asserts) = count_asserts(source);
        functions += file_functions;
        asserts += file_asserts;
        println!("{}: {file_functions} functions, {file_asserts} asserts", source.path);
    }
    println!("{floor}: {functions} functions, {asserts} asserts");
    let few = asserts * 100 < percent_min * functions;
    few.then(|| {
        format!("{floor}: {asserts} asserts in {functions} functions, at least {percent_min} %")
    })
    .into_iter()
    .collect()
}

/// The files that `mod` declarations reach from `roots`.
fn reachable(sources: &[Source], roots: &[&str]) -> BTreeSet<String> {
    let by_path: BTreeMap<&str, &Source> =
        sources.iter().map(|source| (source.path.as_str(), source)).collect();
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut queue: Vec<String> = roots.iter().map(|root| (*root).to_string()).collect();
    while let Some(path) = queue.pop() {
        let Some(source) = by_path.get(path.as_str()) else { continue };
        if reached.insert(path) {
            let is_root = roots.contains(&source.path.as_str());
            queue.extend(declared(source, is_root));
        }
    }
    reached
}

/// The candidate paths of the modules a file declares.
fn declared(source: &Source, is_root: bool) -> Vec<String> {
    let path = Path::new(&source.path);
    let folder = path.parent().expect("a file has a folder");
    let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a UTF-8 name");
    let own = if is_root || stem == "mod" { folder.to_path_buf() } else { folder.join(stem) };
    let mut paths = Vec::new();
    for offset in occurrences(&source.code, "mod ") {
        let rest = &source.code[offset + "mod ".len()..];
        let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
        if name.is_empty() || !rest[name.len()..].trim_start().starts_with(';') {
            continue;
        }
        if let Some(explicit) = path_attribute(source, offset) {
            paths.push(normalize(&folder.join(explicit)));
        } else {
            paths.push(normalize(&own.join(format!("{name}.rs"))));
            paths.push(normalize(&own.join(&name).join("mod.rs")));
        }
    }
    paths
}

/// The value of a `#[path = "…"]` right before the item at `offset`.
fn path_attribute(source: &Source, offset: usize) -> Option<String> {
    let start = source.code[..offset].rfind([';', '}']).map_or(0, |at| at + 1);
    let attributes = &source.raw[start..offset];
    let at = source.code[start..offset].find("#[path")?;
    let value = &attributes[at..];
    let open = value.find('"')? + 1;
    let close = open + value[open..].find('"')?;
    Some(value[open..close].to_string())
}

fn normalize(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.iter().map(|part| part.to_str().expect("a UTF-8 path")) {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn check_reachable(sources: &[Source], roots: &[&str]) -> Vec<String> {
    let reached = reachable(sources, roots);
    let dead = sources.iter().filter(|source| !reached.contains(&source.path));
    dead.map(|source| format!("{}: no module declares it", source.path)).collect()
}

/// Paths of this repository that a document or a comment names, and relative links.
fn mentioned_paths(folder: &str, text: &str, is_document: bool) -> Vec<(usize, String)> {
    let mut mentions = Vec::new();
    let delimiters = |c: char| c.is_whitespace() || "`()[]<>\"',;{}|".contains(c);
    for (index, line) in text.lines().enumerate() {
        for word in line.split(delimiters) {
            let word = word.trim_end_matches(['.', ':', '!', '?']);
            let roots = ["src/", "sim/", "fuzz/", "scripts/", "docs/", ".ci/"];
            let rooted = roots.iter().any(|root| word.starts_with(root) && word.len() > root.len());
            let plain = word.chars().all(|c| is_word(c) || "./-".contains(c));
            let file = word.rsplit('/').next().expect("a last part").contains('.');
            // Comments speak of files only; documents name folders as well.
            if rooted && plain && (is_document || file) {
                mentions.push((index + 1, word.to_string()));
            }
        }
        if is_document {
            for link in line.split("](").skip(1) {
                let target = link.split([')', '#']).next().expect("a split has a first part");
                if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                    mentions.push((index + 1, normalize(&Path::new(folder).join(target))));
                }
            }
        }
    }
    mentions
}

fn check_mentions(
    path: &str,
    text: &str,
    is_document: bool,
    exists: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let folder = Path::new(path).parent().and_then(Path::to_str).expect("a UTF-8 path");
    mentioned_paths(folder, text, is_document)
        .into_iter()
        .filter(|(_, mention)| !exists(mention))
        .map(|(line, mention)| format!("{path}:{line}: there is no {mention}"))
        .collect()
}

/// The points of defects in the product are those of the table: each name has one, at least.
fn check_defects(sources: &[Source], names: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut unused: BTreeSet<&str> = names.iter().copied().collect();
    for source in sources {
        for offset in occurrences(&source.product, "defect") {
            let Some(rest) = source.raw[offset..].strip_prefix("defect!(\"") else { continue };
            let name = rest.split('"').next().expect("a split has a first part");
            unused.remove(name);
            if !names.contains(&name) {
                findings.push(source.finding(offset, format!("no defect is called {name}")));
            }
        }
    }
    findings.extend(unused.iter().map(|name| format!("defect {name} has no point in src")));
    findings
}

fn check_readme(text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let long = lines > README_LINES_MAX;
    long.then(|| format!("README.md: {lines} lines, at most {README_LINES_MAX}"))
        .into_iter()
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` with one of the `extensions`, sorted, relative to the root.
fn files(folder: &str, extensions: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
                let relative = path.strip_prefix(root()).expect("below the root");
                found.push(relative.to_str().expect("a UTF-8 path").to_string());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in ["src", "sim", "scripts", "fuzz"] {
        for path in files(folder, &["rs"]) {
            sources.push(Source::new(&path, &read(&path)));
        }
    }
    assert!(sources.len() > 10, "the sources are not where they were");
    sources
}

fn documents() -> Vec<(String, String)> {
    let mut paths = files("docs", &["md"]);
    paths.push("README.md".to_string());
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

#[track_caller]
fn assert_none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn floors_import_only_downwards() {
    assert_none(sources().iter().flat_map(check_floors).collect());
}

#[test]
fn floors_use_only_what_is_theirs_of_std_and_packages() {
    assert_none(sources().iter().flat_map(check_reserved).collect());
}

#[test]
fn every_module_of_the_library_has_a_floor() {
    let library = Source::new("src/lib.rs", &read("src/lib.rs"));
    for offset in occurrences(&library.product, "mod ") {
        let rest = &library.product[offset + "mod ".len()..];
        let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
        assert!(FLOORS.iter().any(|(floor, _)| *floor == name), "{name} has no floor in the table");
    }
}

#[test]
fn files_open_with_what_they_are() {
    assert_none(sources().iter().flat_map(check_header).collect());
}

#[test]
fn lines_and_files_are_short() {
    let mut findings = Vec::new();
    for source in sources() {
        findings.extend(check_lines(&source.path, &source.raw, LINE_CHARS_MAX));
        findings.extend(check_file_length(&source));
    }
    for (path, text) in documents() {
        findings.extend(check_lines(&path, &text, usize::MAX));
    }
    for path in ["scripts/ci.sh", ".ci/run", "Cargo.toml", ".clippy.toml"] {
        findings.extend(check_lines(path, &read(path), usize::MAX));
    }
    findings.extend(check_readme(&read("README.md")));
    assert_none(findings);
}

#[test]
fn nothing_is_left_over() {
    assert_none(sources().iter().flat_map(check_banned).collect());
}

#[test]
fn every_source_is_compiled() {
    let manifest = read("Cargo.toml");
    for root in ROOTS {
        assert!(manifest.contains(&format!("path = \"{root}\"")), "{root} is no target");
    }
    // `fuzz` is a package of its own, with its own roots.
    let ours = sources().into_iter().filter(|source| !source.path.starts_with("fuzz/"));
    assert_none(check_reachable(&ours.collect::<Vec<_>>(), ROOTS));
}

#[test]
fn storage_and_replica_assert_what_they_rely_on() {
    let sources = sources();
    let check = |(floor, min): &(&str, usize)| check_asserts(floor, *min, &sources);
    assert_none(ASSERTING.iter().flat_map(check).collect());
}

#[test]
fn defects_are_those_of_their_table() {
    let product = sources().into_iter().filter(|source| source.path.starts_with("src/"));
    let names: Vec<&str> = DEFECTS.iter().map(|defect| defect.name).collect();
    assert_none(check_defects(&product.collect::<Vec<_>>(), &names));
}

#[test]
fn documents_and_comments_name_only_what_exists() {
    let exists = |path: &str| root().join(path).exists();
    let mut findings = Vec::new();
    for (path, text) in documents() {
        findings.extend(check_mentions(&path, &text, true, &exists));
    }
    // This file makes up paths to show that the check bites.
    for source in sources().iter().filter(|source| source.path != "scripts/tidy.rs") {
        findings.extend(check_mentions(&source.path, &source.raw, false, &exists));
    }
    assert_none(findings);
}

/// Every check on made-up text: silent on what is right, loud on what is wrong.
mod bites {
    use super::*;

    fn count(findings: &[String], expected: usize) {
        assert_eq!(findings.len(), expected, "{findings:?}");
    }

    #[test]
    fn blanking_keeps_code_and_drops_the_rest() {
        let raw = r###"let a = "crate::io"; // crate::io
            let b = r#"crate::io"#; /* crate::io /* */ crate::io */ let c = '"'; let d: &'a u8;
            let e = b"\"crate::io"; let f = '\''; crate::bus"###;
        let code = blank_comments_and_literals(raw);
        assert_eq!(code.len(), raw.len());
        assert_eq!(occurrences(&code, "crate::io"), Vec::<usize>::new());
        assert_eq!(occurrences(&code, "crate::bus").len(), 1);
        assert!(code.contains("&'a u8"));
    }

    #[test]
    fn test_modules_are_not_product() {
        let source = Source::new(
            "src/wire/x.rs",
            "fn a() {\n\n\n\n\n}\n#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod tests;\n\
             fn b() {\n{\n}\n\n\n}\nfn accessor() -> [u8; 4] { self.x }\nfn declared();\n\
             #[cfg(test)]\nmod more { fn c() {\n\n\n\n\n { } } }\nfn d(\n\n\n\n\n) {}\n",
        );
        assert_eq!(count_asserts(&source), (3, 0));
        assert_eq!(Source::new("src/wire/x_tests.rs", "fn a() {}\n").product.trim(), "");
    }

    #[test]
    fn an_import_upwards_is_found() {
        let floors = |path: &str, text: &str| check_floors(&Source::new(path, text));
        count(&floors("src/wire/mod.rs", "use crate::constants::A;\nuse super::stdx;\n"), 0);
        count(&floors("src/wire/mod.rs", "use crate::storage::Journal;\n"), 1);
        count(&floors("src/wire/mod.rs", "fn f() { crate::io::x() }\n"), 1);
        count(&floors("src/wire/a.rs", "use super::super::bus::Bus;\n"), 1);
        count(&floors("src/wire/a.rs", "use super::bus::Bus;\n"), 0);
        count(&floors("src/storage/mod.rs", "use crate::{wire::Op, bus::{A, B}, io};\n"), 2);
        count(&floors("src/io/mod.rs", "use crate::wire::Message;\n"), 1);
        count(&floors("src/replica/mod.rs", "use crate::storage::{io, bus};\n"), 0);
        count(&floors("src/replica/mod.rs", "// crate::io\n#[cfg(test)]\nuse crate::io;\n"), 0);
        count(&floors("src/client/core.rs", "use crate::bus::MessageBus;\n"), 1);
        count(&floors("src/client/core.rs", "use crate::client::Client;\n"), 1);
        count(&floors("src/client/mod.rs", "use crate::client::core::X;\n"), 0);
        count(&floors("src/commands/sim.rs", "use crate::sim::World;\n"), 1);
    }

    #[test]
    fn a_reserved_module_or_package_is_found() {
        let reserved = |path: &str, text: &str| check_reserved(&Source::new(path, text));
        for floor in ["wire", "storage", "store", "state_machine", "replica"] {
            let path = format!("src/{floor}/mod.rs");
            for module in ["fs", "net", "time", "thread"] {
                assert!(!reserved(&path, &format!("use std::{module}::X;\n")).is_empty());
                let group = format!("use std::{{fmt, {module}::{{A, B}}}};\n");
                let expected = usize::from(module != "time");
                count(&reserved(&path, &group), expected);
            }
            count(&reserved(&path, "fn f(now: Instant) {}\n"), 1);
            count(&reserved(&path, "use std::fmt;\nuse std::collections::BTreeMap;\n"), 0);
        }
        assert!(!reserved("src/client/core.rs", "use std::time::Duration;\n").is_empty());
        count(&reserved("src/bus/mod.rs", "use std::net::SocketAddr;\n"), 0);
        count(&reserved("src/bus/mod.rs", "use mio::Poll;\n"), 1);
        count(&reserved("src/io/mio.rs", "use mio::Poll;\nuse std::fs;\n"), 0);
        count(&reserved("src/server/mod.rs", "std::thread::spawn(f);\n"), 1);
    }

    #[test]
    fn a_missing_header_is_found() {
        count(&check_header(&Source::new("src/a.rs", "use std::fmt;\n")), 1);
        count(&check_header(&Source::new("src/a.rs", "//! F1: what.\n")), 0);
    }

    #[test]
    fn long_and_untidy_lines_are_found() {
        let long = "é".repeat(101);
        count(&check_lines("a", &format!("{long}\n"), 100), 1);
        count(&check_lines("a", &format!("{}\n", &long[2..]), 100), 0);
        count(&check_lines("a", "x \n", 100), 1);
        count(&check_lines("a", "\tx\n", 100), 1);
        count(&check_lines("a", "x", 100), 1);
    }

    #[test]
    fn long_files_are_found() {
        let lines = |path: &str, product: usize, tests: usize| {
            let test = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "f();\n".repeat(tests));
            check_file_length(&Source::new(path, &("f();\n".repeat(product) + &test)))
        };
        count(&lines("src/a.rs", 1000, 400), 0);
        count(&lines("src/a.rs", 1001, 0), 1);
        count(&lines("src/a.rs", 900, 700), 1);
        count(&lines("src/a_tests.rs", 1400, 0), 0);
        count(&check_readme(&"x\n".repeat(81)), 1);
        count(&check_readme(&"x\n".repeat(80)), 0);
    }

    #[test]
    fn leftovers_are_found() {
        let banned = |text: &str| check_banned(&Source::new("src/a.rs", text));
        count(&banned(concat!("// FIX", "ME: later\n")), 1);
        count(&banned(concat!("/// TO", "DO later\n")), 1);
        count(&banned(concat!("fn f() { todo", "!() }\n")), 1);
        count(&banned(concat!("fn f() { dbg", "!(x); unimplemented", "!() }\n")), 2);
        count(&banned(concat!("#[al", "low(dead_code)]\n#[ig", "nore]\n")), 2);
        count(&banned(concat!("#[should", "_panic]\n")), 1);
        count(&banned(concat!("// no #[al", "low(…)] here\n")), 0);
        count(&banned("#[expect(dead_code, reason = \"why\")]\n"), 0);
    }

    #[test]
    fn too_few_asserts_are_found() {
        let of =
            |text: &str| check_asserts("storage", 200, &[Source::new("src/storage/a.rs", text)]);
        let a = "fn a() {\n\n\n\n\n assert!(x); }\n";
        count(&of("fn a() {\n\n\n\n\n assert!(x); assert_eq!(a, b); }\n"), 0);
        count(&of(&format!("{a}fn b() {{\n\n\n\n\n debug_assert!(y); self.assert_z(); }}\n")), 1);
        count(&of(&format!("{a}#[cfg(test)]\nmod tests {{ fn b() {{ assert!(x); }} }}\n")), 1);
        count(&of("fn assert_a() {\n\n\n\n\n assert!(x); }\n"), 1);
    }

    #[test]
    fn a_file_without_a_declaration_is_found() {
        let tree = |root: &str| {
            let sources = [
                Source::new("src/lib.rs", root),
                Source::new(
                    "src/a/mod.rs",
                    "mod b;\n#[cfg(test)]\n#[path = \"c_tests.rs\"]\nmod t;\n",
                ),
                Source::new("src/a/b.rs", "mod d;\n"),
                Source::new("src/a/b/d.rs", ""),
                Source::new("src/a/c_tests.rs", ""),
                Source::new("sim/mod.rs", ""),
            ];
            check_reachable(&sources, &["src/lib.rs"])
        };
        count(&tree("pub mod a;\n#[path = \"../sim/mod.rs\"]\nmod sim;\n"), 0);
        count(&tree("pub mod a;\n"), 1);
        count(&tree("// mod a;\nmod a { }\n"), 6 - 1);
    }

    #[test]
    fn defects_without_a_name_or_a_point_are_found() {
        let of = |text: &str| check_defects(&[Source::new("src/a.rs", text)], &["a", "b"]);
        count(&of("fn f() { if defect!(\"a\") || defect!(\"b\") {} }\n"), 0);
        count(&of("fn f() { if defect!(\"a\") || defect!(\"c\") {} }\n"), 2);
        count(&of("fn f() { defect!(\"a\") } // defect!(\"b\")\n"), 1);
    }

    #[test]
    fn a_name_of_nothing_is_found() {
        let exists =
            |path: &str| ["src/wire/mod.rs", "docs", "docs/a.md", "src/wire"].contains(&path);
        let text = "See `src/wire/mod.rs`, [a](a.md#part), `docs/a.md`. And `src/wire/*`.\n";
        count(&check_mentions("docs/b.md", text, true, &exists), 0);
        count(
            &check_mentions("docs/b.md", "See `src/gone.rs` and [x](gone.md).\n", true, &exists),
            2,
        );
        count(&check_mentions("src/x.rs", "//! docs/gone.md has it.\n", false, &exists), 1);
        count(
            &check_mentions("README.md", "[a](docs/a.md) [b](https://x.y/z)\n", true, &exists),
            0,
        );
    }
}
