//! The bodies of the fuzz targets: plain functions of bytes, which libFuzzer calls
//! (`fuzz_targets`, one binary for each) and `fuzz/smoke.rs` calls on stable Rust.
//!
//! ```text
//!   corpus, mutations ──► target(data) ──► check(data, Plant::Nothing)
//!                                            │ makes a world of the bytes, acts in it,
//!                                            └ compares with a model: a panic is a finding
//!   smoke ──► check(data, Plant::Error) ──► must panic for some data: the body bites
//! ```
//!
//! **Invariants:** a body is a function of its bytes: no clock, no entropy, no file, no network; it
//! ends in time and memory that the length of the input bounds; what it makes of the bytes it seals
//! with right checksums, unless a bit of the input says not to.
//!
//! **Not here:** what to do with a finding (`docs/fuzzing.md`).

pub mod addresses;
pub mod canary;
pub mod cursor;
pub mod disk;
pub mod forgery;
pub mod framing;
pub mod header;
pub mod hostile;
pub mod journal_recovery;
pub mod kv;
pub mod message;
pub mod sim;
pub mod store;
pub mod superblock;
pub mod view_change;

/// What a body does wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Nothing.
    Nothing,
    /// The one thing that the body's documentation calls *planted*.
    Error,
}

/// A target, for whoever runs all of them.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// As in `scripts/fuzz.sh NAME`.
    pub name: &'static str,
    /// The body: how many things it compared.
    pub check: fn(&[u8], Plant) -> u32,
    /// The inputs of the committed corpus.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The longest input that makes sense, bytes.
    pub size_max: usize,
}

macro_rules! targets {
    ($($name:ident $size_max:literal)*) => {
        /// All that must not fail.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            check: $name::check,
            seeds: $name::seeds,
            size_max: $size_max,
        },)*];
    };
}

targets! {
    header 160
    message 2048
    framing 1024
    journal_recovery 1024
    superblock 512
    view_change 512
    store 1024
    kv 2048
    addresses 256
    sim 1024
    hostile 2048
}
