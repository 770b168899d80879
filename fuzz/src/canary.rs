//! Fuzz target `canary`: fails for inputs that begin with three bytes of its own. A run that does
//! not find them is not a run: it shows that coverage guides the fuzzer, and that a failure is
//! noticed by whoever started it.
//!
//! **Invariants:** it fails, within a second or two of fuzzing, and for nothing else.
//!
//! **Not here:** the product.

/// What it fails for.
pub const POISON: &[u8; 3] = b"vsr";

/// The body.
pub fn target(data: &[u8]) {
    let mut matching = 0;
    // Byte by byte, so that each right one is a new branch for the fuzzer.
    for (byte, poison) in data.iter().zip(POISON) {
        if byte != poison {
            return;
        }
        matching += 1;
    }
    assert!(matching < POISON.len(), "the canary is dead, as it must be");
}
