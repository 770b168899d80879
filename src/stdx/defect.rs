//! Defects on purpose: points in the product that do the wrong thing when they are told to, so that
//! the simulator can be shown to see it. Ground floor.
//!
//! ```text
//!   vsr sim SEED --defect NAME ──► switch_on(NAME) ──► ON, of this thread
//!                                                       ▲
//!   if defect!("NAME") { the wrong thing }  ────────────┘   only with the feature `defects`;
//!                                                           else the literal `false`
//! ```
//!
//! **Invariants:** without the feature nothing can be switched on, and the points cost nothing; a
//! thread has at most one defect, for ever; the names at the points are those of [`DEFECTS`].
//!
//! **Not here:** which runs show a defect (`sim/tests/defects.rs`).

/// Something that can be made wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defect {
    /// As in `--defect NAME`.
    pub name: &'static str,
    /// What a replica (or a client) then does.
    pub breaks: &'static str,
}

macro_rules! defects {
    ($($name:literal: $breaks:literal,)*) => {
        /// All of them.
        pub const DEFECTS: &[Defect] = &[$(Defect { name: $name, breaks: $breaks },)*];
    };
}

defects! {
    "prepare_ok_early": "acknowledges a prepare before it is durable",
    "view_spoken_early": "speaks of a view before it is durable",
    "start_view_lower": "accepts the start_view of a lower view",
    "replication_quorum_small": "commits with one acknowledgement too few",
    "view_change_quorum_small": "begins a view with one log too few",
    "nack_quorum_small": "cuts an op from the log of a new view with one nack too few",
    "head_nack_quorum_small": "takes its uncertain head for certain with one nack too few",
    "nack_corrupt": "says of a damaged prepare that it never had it",
    "torn_taken_for_valid": "takes a prepare for whole whose body was torn",
    "uncertain_head_votes": "votes though the head of its log is damaged",
    "restart_forgets_uncommitted": "cuts its log at the commit point when it starts",
    "commit_is_op": "announces as committed what is only prepared",
    "commit_off_chain": "executes what no hash chain binds to the head",
    "batch_reversed": "executes a batch in the opposite order, on one replica",
    "deposed_primary_replies": "executes and answers what it had in flight when it is deposed",
    "deposed_primary_reads": "answers a query from its own state, perhaps deposed",
    "table_at_prepare": "enters a request into the sessions when it is gathered",
    "retry_executed_twice": "prepares a request that is in flight again, and executes it again",
    "reply_not_stored": "keeps the number of a request without its reply",
    "own_wall_clock": "gives prepares the time of its own wall clock",
    "timeout_is_not_done": "says of a request that was sent and not answered that it was not done",
    "lost_file_let_in": "takes over the place of the file that was there before, with an empty log",
    "genesis_by_quorum": "commits the genesis before all replicas have acknowledged it",
    "recovered_votes_at_once": "votes with the empty log of a file in the place of a lost one",
    "second_genesis": "prepares a genesis for a cluster that is born, and acknowledges it",
    "block_reused_early": "uses a block again that the checkpoint before still refers to",
    "superblock_early": "switches its superblock to a checkpoint whose blocks are not durable",
    "sync_unproven": "takes over a checkpoint that no quorum is known to have",
    "sync_without_sessions": "takes over a checkpoint without its sessions",
    "checkpoint_elsewhere": "freezes a checkpoint one op late, if blocks were missed before",
    "suspend_leaves_writes": "keeps what an attempt wrote before it was suspended",
    "prepare_ok_before_header": "acknowledges a prepare before its redundant header is durable",
    "prepare_ok_beyond": "acknowledges ops that its checkpoint leaves no proof of",
    "nack_corrupt_named": "says of a damaged prepare whose header is whole that it never had it",
    "lost_log_kept": "takes what is left of a log that lost for its own when it starts",
    "sync_complete_early": "calls a checkpoint that it takes over complete before it has all of it",
    "timestamp_forgotten": "forgets the time of the op that its checkpoint is of",
    "gathers_without_end": "takes requests however many wait",
    "write_cut_short": "takes the write of a prepare for complete that ended after one sector",
    "header_coalesced": "takes a redundant header for written with a write that began before it",
    "refusal_leaves_writes": "keeps what a request wrote that was then refused",
}

#[cfg(not(feature = "defects"))]
macro_rules! defect {
    ($name:literal) => {
        false
    };
}

#[cfg(feature = "defects")]
macro_rules! defect {
    ($name:literal) => {
        $crate::stdx::defect::is_on($name)
    };
}

pub(crate) use defect;

#[cfg(feature = "defects")]
thread_local! {
    /// The defect of this thread.
    static ON: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

#[cfg(feature = "defects")]
pub(crate) fn is_on(name: &str) -> bool {
    ON.get().is_some_and(|on| on == name)
}

/// Makes everything that runs in this thread from now on behave as defect `name` says.
///
/// # Errors
/// There is no such defect, or none in this build; the text says which there are.
pub fn switch_on(name: &str) -> Result<(), String> {
    let known = DEFECTS.iter().find(|defect| defect.name == name);
    let Some(defect) = known else {
        let names: Vec<&str> = DEFECTS.iter().map(|defect| defect.name).collect();
        return Err(format!("{name}: no such defect; there are {}", names.join(", ")));
    };
    switch(defect)
}

#[cfg(feature = "defects")]
fn switch(defect: &Defect) -> Result<(), String> {
    assert_eq!(ON.get(), None, "one defect at a time");
    ON.set(Some(defect.name));
    Ok(())
}

#[cfg(not(feature = "defects"))]
fn switch(defect: &Defect) -> Result<(), String> {
    Err(format!(
        "{}: this build has no defects; build one that has: cargo build --features defects",
        defect.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_defects_are_refused_with_the_names_of_all() {
        let error = switch_on("no_such").expect_err("there is no such defect");
        for defect in DEFECTS {
            assert!(error.contains(defect.name), "{error}");
        }
    }

    #[cfg(not(feature = "defects"))]
    #[test]
    fn without_the_feature_there_are_none() {
        for defect in DEFECTS {
            let error = switch_on(defect.name).expect_err("a build without defects");
            assert!(error.contains("--features defects"), "{error}");
        }
        assert_eq!([defect!("prepare_ok_early")], [false]);
    }

    #[cfg(feature = "defects")]
    #[test]
    fn a_defect_is_on_where_it_was_switched_on() {
        assert_eq!([defect!("prepare_ok_early")], [false]);
        assert_eq!(switch_on("prepare_ok_early"), Ok(()));
        assert!(defect!("prepare_ok_early"));
        assert!(!defect!("nack_corrupt"));
    }
}
