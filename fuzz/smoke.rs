//! The fuzz targets on stable Rust, in every `cargo test`: each body with its committed corpus and
//! thousands of inputs that a seeded mutator makes of it.
//!
//! ```text
//!   fuzz/corpus/TARGET/* ──┬──► as they are
//!                          └──► mutated, spliced, or random bytes ──► check(data) ──► counts
//! ```
//!
//! `UPDATE=1 cargo test --test smoke` writes the seeds of the corpora anew; what else lies there
//! stays. An input that failed is written to `target/fuzz-smoke`, and the message says how to run
//! it again.
//!
//! **Invariants:** the inputs are a function of the corpus, so a failure comes again; a target that
//! compares next to nothing has failed; each body is shown to fail for an error that is planted.
//!
//! **Not here:** coverage: `scripts/fuzz.sh` lets libFuzzer search.

#[path = "src/lib.rs"]
pub mod bodies;

use bodies::{Plant, TARGETS, Target, canary};
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use vsr::stdx::Prng;

/// All corpora together, bytes.
const CORPORA_SIZE_MAX: u64 = 300 << 10;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn corpus_folder(name: &str) -> PathBuf {
    root().join("fuzz/corpus").join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    files
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The committed inputs of a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let corpus: Vec<Vec<u8>> = files(&corpus_folder(name)).iter().map(|path| read(path)).collect();
    assert!(!corpus.is_empty(), "{name} has no corpus: UPDATE=1 cargo test --test smoke");
    corpus
}

/// Makes inputs of a corpus.
struct Mutator {
    corpus: Vec<Vec<u8>>,
    prng: Prng,
    size_max: usize,
}

impl Mutator {
    fn byte(&mut self) -> u8 {
        // Small and extreme values decide more than those in between.
        let edges = [0, 1, 2, 3, 4, 8, 16, 32, 64, 127, 128, 254, 255];
        if self.prng.below(2) == 0 {
            edges[self.prng.index(edges.len())]
        } else {
            u8::try_from(self.prng.below(256)).expect("below 256")
        }
    }

    fn input(&mut self) -> Vec<u8> {
        let size_max = self.size_max;
        if self.prng.below(8) == 0 {
            let size = self.prng.index(size_max + 1);
            let mut bytes = vec![0; size];
            self.prng.fill(&mut bytes);
            return bytes;
        }
        let index = self.prng.index(self.corpus.len());
        let mut bytes = self.corpus[index].clone();
        for _ in 0..self.prng.range_inclusive(1, 6) {
            self.mutate(&mut bytes);
        }
        bytes.truncate(size_max);
        bytes
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.prng.index(bytes.len() + 1);
        let end = (at + 1 + self.prng.index(16)).min(bytes.len());
        match self.prng.below(7) {
            0 | 1 if at < bytes.len() => bytes[at] = self.byte(),
            2 if at < bytes.len() => bytes[at] ^= 1 << self.prng.below(8),
            3 => bytes.insert(at, self.byte()),
            4 => drop(bytes.drain(at..end.max(at))),
            5 => {
                let again = bytes[at..end.max(at)].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let index = self.prng.index(self.corpus.len());
                let other = &self.corpus[index];
                let from = self.prng.index(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target of the table")
}

/// Runs a target with its corpus and `count` inputs made of it. At least one of `part` inputs must
/// lead to a comparison.
fn run(name: &str, count: u64, part: u64) {
    let target = target(name);
    let corpus = corpus(name);
    let (mut inputs, mut compared, mut total) = (0u64, 0u64, 0u64);
    let mut one = |data: &[u8]| {
        let comparisons = guarded(target, data);
        inputs += 1;
        compared += u64::from(comparisons > 0);
        total += u64::from(comparisons);
    };
    corpus.iter().for_each(|data| one(data));
    let prng = Prng::from_seed(1);
    let mut mutator = Mutator { corpus, prng, size_max: target.size_max };
    for _ in 0..count {
        one(&mutator.input());
    }
    println!("{name}: {inputs} inputs, {compared} of them compared something, {total} in all");
    assert!(compared * part >= inputs, "{name} compares next to nothing");
}

/// Runs one input; one that fails is kept.
fn guarded(target: &Target, data: &[u8]) -> u32 {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| (target.check)(data, Plant::Nothing)));
    outcome.unwrap_or_else(|cause| {
        let folder = root().join("target/fuzz-smoke");
        fs::create_dir_all(&folder).expect("a writable target folder");
        let path = folder.join(format!("{}-{:08x}", target.name, crc32c::crc32c(data)));
        fs::write(&path, data).expect("a writable target folder");
        eprintln!(
            "{} failed: run it again by FUZZ_INPUT={} cargo test --test smoke one_input",
            target.name,
            path.display()
        );
        panic::resume_unwind(cause)
    })
}

/// With the planted error some input must fail.
fn bites(name: &str) {
    let target = target(name);
    let corpus = corpus(name);
    let prng = Prng::from_seed(2);
    let mut mutator = Mutator { corpus: corpus.clone(), prng, size_max: target.size_max };
    let mutated = std::iter::from_fn(|| Some(mutator.input())).take(2000);
    let fails = corpus.into_iter().chain(mutated).any(|data| {
        panic::catch_unwind(AssertUnwindSafe(|| (target.check)(&data, Plant::Error))).is_err()
    });
    assert!(fails, "{name} does not see the error that is planted");
}

macro_rules! smoke {
    ($($name:ident $count:literal $part:literal $bites:ident)*) => {$(
        #[test]
        fn $name() {
            run(stringify!($name), $count, $part);
        }

        #[test]
        fn $bites() {
            bites(stringify!($name));
        }
    )*};
}

smoke! {
    header 20_000 10 header_bites
    message 20_000 4 message_bites
    framing 10_000 4 framing_bites
    journal_recovery 2_000 2 journal_recovery_bites
    superblock 2_000 2 superblock_bites
    view_change 2_000 4 view_change_bites
    store 1_000 2 store_bites
    kv 5_000 2 kv_bites
    addresses 5_000 60 addresses_bites
    sim 1_000 2 sim_bites
    hostile 1_000 2 hostile_bites
}

#[test]
fn canary_fails_for_its_own_bytes_alone() {
    canary::target(b"");
    canary::target(b"vs");
    canary::target(b"raft");
    let poisoned = [canary::POISON, &b"and more"[..]].concat();
    assert!(panic::catch_unwind(|| canary::target(&poisoned)).is_err());
}

#[test]
fn corpora_hold_their_seeds_and_are_small() {
    let update = std::env::var("UPDATE").is_ok_and(|value| value == "1");
    let mut size = 0;
    for target in TARGETS {
        let folder = corpus_folder(target.name);
        for (index, seed) in (target.seeds)().iter().enumerate() {
            assert!(seed.len() <= target.size_max, "{} seed {index} is too long", target.name);
            let path = folder.join(format!("seed-{index:02}"));
            if update {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&path, seed).unwrap();
            }
            let found = fs::read(&path).unwrap_or_default();
            assert_eq!(found, *seed, "{}: UPDATE=1 cargo test --test smoke", path.display());
        }
        let sizes = files(&folder).into_iter().map(|path| path.metadata().unwrap().len());
        size += sizes.sum::<u64>();
    }
    assert!(size <= CORPORA_SIZE_MAX, "the corpora take {size} bytes");
}

/// Every target has its binary, and the other way round.
#[test]
fn targets_and_binaries_are_the_same() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    names.push("canary");
    for name in &names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
    assert_eq!(files(&root().join("fuzz/fuzz_targets")).len(), names.len());
}

/// An input that failed, from the file that `FUZZ_INPUT` names; its name begins with the target's.
#[test]
fn one_input() {
    let Ok(path) = std::env::var("FUZZ_INPUT") else { return };
    let data = read(Path::new(&path));
    let name = Path::new(&path).file_name().unwrap().to_string_lossy().into_owned();
    let target = TARGETS.iter().find(|target| name.starts_with(&format!("{}-", target.name)));
    let target = target.expect("the name of the file begins with that of a target");
    println!("{}: {} comparisons", target.name, (target.check)(&data, Plant::Nothing));
}
