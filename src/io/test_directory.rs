//! F5, tests only: a directory of its own for each test, gone when the test is over.
//!
//! **Invariants:** no two tests share one, in this process or another.
//!
//! **Not here:** what is put in it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A new, empty directory, removed with all that is in it when dropped.
pub(super) struct TestDirectory {
    root: PathBuf,
}

impl TestDirectory {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("vsr-io-{}-{count}", std::process::id()));
        // One of a process that died may be left under the same name.
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir(&root).unwrap();
        Self { root }
    }

    /// The path of `name` in the directory.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}
