//! F2: the superblock: what a replica must not forget and cannot learn from others, in four copies.
//!
//! ```text
//!   write(state) ──► write copy 0 ─► 1 ─► 2 ─► 3 ──► read copy 0 ─► 1 ─► 2 ─► 3 ──► all 4: durable
//!                    (one after the other)          (comparing all bytes)    │
//!                       ▲                                                    │ some are not equal
//!                       └────── those again, ATTEMPTS_MAX times in all ◄─────┤
//!                                                 3 of 4: durable, or dead ◄─┘ after the last
//! ```
//!
//! Copies are written one after the other, since writes that are in one device together can be torn
//! together. They are compared by their bytes and not by their checksum; the number of the copy is
//! the one byte outside of the checksum, so that all four are equal otherwise.
//!
//! *A copy that does not hold what was written* is written again: a lost write that is left alone
//! is a copy that is valid and too old, and together with the next crash it takes the margin that
//! was for damage. One that fails again and again lies on a broken place of the disk. To end there
//! would give up a replica that three good copies serve as well as before, so it goes on without
//! that copy, says so, and remembers: the next update writes that copy first (when nothing else is
//! in doubt), and does not try it again and again. With two such copies it ends.
//!
//! *Opening* takes the highest sequence with at least two equal copies. A completed update has at
//! least three, so one that rots afterwards is never missed. If no sequence has two, an update of a
//! superblock with one bad copy (rotten, torn, or valid and too old) was interrupted: of the other
//! three one is new, one torn and one old. Then the newest is taken, if the one that it directly
//! succeeds is there as well. It cannot be too old, because any completed update after it would
//! have left at most one copy of something else; and not too new, because what a replica wanted to
//! promise and did not tell anybody may be promised. If the newest are two that differ, one is a
//! bad copy, neither was completed, and what both succeed is taken.
//!
//! **Invariants:** [`Superblock::state`] is durable on at least three copies, on all four unless a
//! place of the disk is broken; at most one update is under way; `sequence` grows by one with each;
//! a state never regresses.
//!
//! **Not here:** when a state must be durable before which message: the replica's rules.

use super::layout::{Geometry, Layout, SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SIZE};
use super::{ReadResult, Request, Token};
use crate::constants::{HEADER_SIZE, NUMBER_MAX, PIPELINE_MAX, PROTOCOL, REPLICAS_MAX, VIEW_MAX};
use crate::fatal::{Fatal, FatalKind};
use crate::stdx::{AlignedBuffer, defect, is_zero};
use crate::wire::{
    BlockRef, ClusterId, Header, HeaderSet, IncarnationTable, Op, ReplicaIndex, View,
};

/// The version of the data file. Another one is refused by name.
pub const DATA_FILE_VERSION: u16 = 1;

/// Copies that must be equal after the last attempt.
const QUORUM_WRITE: u32 = 3;
/// How often a copy that does not hold what was written is written, the first time included.
const ATTEMPTS_MAX: u8 = 4;
/// Equal copies that decide when opening.
const QUORUM_OPEN: usize = 2;

const MAGIC: [u8; 8] = *b"vsr data";
/// Where the number of the copy lies, the one byte outside of the checksum.
const COPY_OFFSET: usize = 4;
/// The first byte that the checksum covers.
const CHECKED_OFFSET: usize = 8;
/// Where the fields end and zeros begin.
const FIELDS_END: usize = 152;
/// Where the head lies.
const HEAD_OFFSET: usize = 4096;
/// Room for the head: the table and a header for each prepare in flight and two more.
const HEAD_SIZE_MAX: usize = IncarnationTable::SIZE + (PIPELINE_MAX as usize + 2) * 128;

const _: () = {
    assert!(QUORUM_WRITE as usize + QUORUM_OPEN > SUPERBLOCK_COPIES as usize);
    assert!(ATTEMPTS_MAX > 0);
    assert!(HEADER_SIZE == 128);
    assert!(HEAD_OFFSET + HEAD_SIZE_MAX <= SUPERBLOCK_COPY_SIZE as usize);
};

/// What the superblock remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuperblockState {
    /// Which cluster this file belongs to.
    pub cluster: ClusterId,
    /// Which replica.
    pub replica: ReplicaIndex,
    /// Of how many, 1 to 6.
    pub replica_count: u8,
    /// Random, drawn when the file was made. Not 0.
    pub incarnation: u64,
    /// What all replicas have in common.
    pub geometry: Geometry,
    /// The highest view this replica takes part in.
    pub view: View,
    /// The last view whose log this replica has taken over. At most `view`.
    pub log_view: View,
    /// An op that is known to be committed.
    pub commit_max: Op,
    /// The root of the newest checkpoint; its op is where the log begins that has to be kept.
    pub checkpoint: BlockRef,
    /// The root of the checkpoint before it, which peers may still want.
    pub checkpoint_previous: BlockRef,
    /// The newest checkpoint of which all blocks were here once. Below `checkpoint` while that one
    /// is being fetched from peers, else its op.
    pub op_complete: Op,
    /// The table of incarnations, and the headers of the last `do_view_change` (`log_view` <
    /// `view`) or `start_view` (equal). At format: the root's header and an empty table.
    pub head: HeaderSet,
}

impl SuperblockState {
    /// The state of a data file that has seen nothing.
    pub fn formatted(
        cluster: ClusterId,
        replica: ReplicaIndex,
        replica_count: u8,
        incarnation: u64,
        geometry: Geometry,
    ) -> Self {
        let root = Header::root(cluster);
        let state = Self {
            cluster,
            replica,
            replica_count,
            incarnation,
            geometry,
            view: View(0),
            log_view: View(0),
            commit_max: 0,
            checkpoint: BlockRef::NONE,
            checkpoint_previous: BlockRef::NONE,
            op_complete: 0,
            head: HeaderSet {
                table: IncarnationTable::default(),
                op: 0,
                headers: vec![Some(root)],
            },
        };
        assert_eq!(state.invalid(), None);
        state
    }

    /// The state of the data file that takes the place of a lost one: `table`, the one that the
    /// recovery wrote into the log, names it, and `view` is one that the lost file never promised
    /// to take part in.
    pub fn recovered(formatted: Self, view: View, table: IncarnationTable) -> Self {
        assert_eq!(formatted.head.table.op, 0);
        assert!(table.names(formatted.replica, formatted.incarnation));
        assert!(table.op_before > 0);
        let head = HeaderSet { table, ..formatted.head };
        // What is in its log up to the recovery is committed.
        let state = Self { view, commit_max: table.op, head, ..formatted };
        assert!(state.is_recovered());
        if defect!("recovered_votes_at_once") {
            return Self { log_view: view, ..state };
        }
        assert_eq!(state.invalid(), None);
        state
    }

    /// Whether this file took the place of a lost one and has not taken over a log since: where
    /// the log ends that it stands for, the others know. Whoever else knows a table has a log.
    pub fn is_recovered(&self) -> bool {
        self.log_view < self.view && self.head.op == 0 && self.head.table.op > 0
    }

    /// Why no correct replica would write this state; `None` for a valid one. Pure and total.
    pub fn invalid(&self) -> Option<String> {
        if self.replica_count == 0 || self.replica_count > REPLICAS_MAX {
            return Some(format!("replica count {}: must be 1 to 6", self.replica_count));
        }
        if self.replica.0 >= self.replica_count {
            return Some(format!("replica {} of {}", self.replica, self.replica_count));
        }
        if self.incarnation == 0 {
            return Some("an incarnation of 0".to_owned());
        }
        if let Some(reason) = self.geometry.invalid() {
            return Some(reason);
        }
        if self.log_view > self.view {
            return Some(format!("log view {} above view {}", self.log_view, self.view));
        }
        if self.view.0 > VIEW_MAX {
            return Some(format!("view {}", self.view));
        }
        let op_max = self.commit_max.max(self.head.op);
        if op_max > NUMBER_MAX {
            return Some(format!("op {op_max}"));
        }
        if let Some(reason) = self.checkpoints_invalid() {
            return Some(reason);
        }
        let head = &self.head;
        if !head.headers.iter().flatten().all(|header| header.cluster == self.cluster) {
            return Some("headers of another cluster".to_owned());
        }
        let size = IncarnationTable::SIZE + head.headers.len() * HEADER_SIZE as usize;
        if size > HEAD_SIZE_MAX {
            return Some(format!("{} headers do not fit", head.headers.len()));
        }
        None
    }

    /// The op of the newest checkpoint; 0 without one.
    pub fn op_checkpoint(&self) -> Op {
        self.checkpoint.op
    }

    /// Whether blocks of the newest checkpoint are still to be fetched from peers.
    pub fn is_syncing(&self) -> bool {
        self.op_complete < self.checkpoint.op
    }

    fn checkpoints_invalid(&self) -> Option<String> {
        let (new, old) = (self.checkpoint, self.checkpoint_previous);
        let interval = self.geometry.checkpoint_interval();
        if !new.op.is_multiple_of(interval) || !old.op.is_multiple_of(interval) {
            return Some(format!("checkpoints of op {} and {}, every {interval}", new.op, old.op));
        }
        if old.op >= new.op && new.op > 0 || new.op == 0 && old != BlockRef::NONE {
            return Some(format!("a checkpoint of op {} before that of {}", old.op, new.op));
        }
        if new.op == 0 && new != BlockRef::NONE || old.op == 0 && old != BlockRef::NONE {
            return Some("a checkpoint of no op".to_owned());
        }
        if self.op_complete > new.op || self.commit_max < new.op {
            return Some(format!("checkpoint {} of commit {}", new.op, self.commit_max));
        }
        None
    }

    /// Panics if `next` would forget something that this state promised.
    pub fn assert_monotonic(&self, next: &Self) {
        assert_eq!(next.invalid(), None);
        assert_eq!(self.cluster, next.cluster);
        assert_eq!(self.replica, next.replica);
        assert_eq!(self.replica_count, next.replica_count);
        assert_eq!(self.incarnation, next.incarnation);
        assert_eq!(self.geometry, next.geometry);
        assert!(self.view <= next.view, "view {} after {}", next.view, self.view);
        assert!(self.log_view <= next.log_view, "{} after {}", next.log_view, self.log_view);
        assert!(self.commit_max <= next.commit_max, "{} < {}", next.commit_max, self.commit_max);
        assert!(self.op_checkpoint() <= next.op_checkpoint());
        assert!(self.op_complete <= next.op_complete);
        if self.op_checkpoint() == next.op_checkpoint() {
            assert_eq!(self.checkpoint, next.checkpoint, "one checkpoint for one op");
        }
    }
}

/// One copy as it was read, valid in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuperblockCopy {
    /// What it says.
    pub state: SuperblockState,
    /// Which update wrote it, from 1.
    pub sequence: u64,
    /// The checksum of the update before.
    pub parent: u32,
    /// The checksum of this one.
    pub checksum: u32,
    /// All bytes, the number of the copy set to 0.
    image: Vec<u8>,
}

/// Why bytes are not a copy of the superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyInvalid {
    /// It does not begin as a data file does.
    Magic,
    /// Nothing but zeros: the file was begun and not finished.
    Blank,
    /// It is intact and of this other version of the data file.
    Version(u16),
    /// It is intact and holds headers of this other version of the protocol.
    Protocol(u16),
    /// It is this other copy: a misdirected write.
    Misdirected(u8),
    /// Torn, rotten, unreadable.
    Damaged,
}

impl SuperblockCopy {
    /// The bytes of the update, as copy 0.
    fn encode(state: &SuperblockState, sequence: u64, parent: u32) -> Vec<u8> {
        assert_eq!(state.invalid(), None);
        let head = state.head.encode();
        assert!(head.len() <= HEAD_SIZE_MAX);
        let mut bytes = vec![0; SUPERBLOCK_COPY_SIZE as usize];
        let mut put = |offset: usize, field: &[u8]| {
            bytes[offset..offset + field.len()].copy_from_slice(field);
        };
        put(8, &MAGIC);
        put(16, &DATA_FILE_VERSION.to_le_bytes());
        put(18, &PROTOCOL.to_le_bytes());
        put(20, &[state.replica.0, state.replica_count]);
        put(24, &sequence.to_le_bytes());
        put(32, &state.cluster.0.to_le_bytes());
        put(48, &state.incarnation.to_le_bytes());
        put(56, &state.commit_max.to_le_bytes());
        put(64, &state.op_complete.to_le_bytes());
        put(72, &state.view.0.to_le_bytes());
        put(76, &state.log_view.0.to_le_bytes());
        put(80, &parent.to_le_bytes());
        put(84, &u32::try_from(head.len()).expect("bounded just above").to_le_bytes());
        put(88, &state.geometry.message_size.to_le_bytes());
        put(92, &state.geometry.journal_slots.to_le_bytes());
        put(96, &state.geometry.block_size.to_le_bytes());
        put(100, &state.geometry.pipeline.to_le_bytes());
        put(104, &state.geometry.clients_max.to_le_bytes());
        put(112, &state.checkpoint.encode());
        put(132, &state.checkpoint_previous.encode());
        put(HEAD_OFFSET, &head);
        let checksum = crc32c::crc32c(&bytes[CHECKED_OFFSET..]);
        bytes[0..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// What copy `copy` says. Total.
    ///
    /// # Errors
    /// See [`CopyInvalid`].
    pub fn decode(bytes: &[u8], copy: u8) -> Result<Self, CopyInvalid> {
        assert_eq!(bytes.len(), SUPERBLOCK_COPY_SIZE as usize);
        let u16_at = |at: usize| u16::from_le_bytes(*bytes[at..].first_chunk().expect("inside"));
        let u32_at = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("inside"));
        let u64_at = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside"));
        let block_ref_at = |at: usize| BlockRef::decode(bytes[at..].first_chunk().expect("inside"));
        if bytes[8..16] != MAGIC {
            return Err(if is_zero(bytes) { CopyInvalid::Blank } else { CopyInvalid::Magic });
        }
        let checksum = u32_at(0);
        if checksum != crc32c::crc32c(&bytes[CHECKED_OFFSET..]) {
            return Err(CopyInvalid::Damaged);
        }
        if u16_at(16) != DATA_FILE_VERSION {
            return Err(CopyInvalid::Version(u16_at(16)));
        }
        if u16_at(18) != PROTOCOL {
            return Err(CopyInvalid::Protocol(u16_at(18)));
        }
        if bytes[COPY_OFFSET] != copy {
            return Err(CopyInvalid::Misdirected(bytes[COPY_OFFSET]));
        }
        let head_end = HEAD_OFFSET + u32_at(84) as usize;
        let zeros = [5..8, 22..24, 108..112, FIELDS_END..HEAD_OFFSET];
        if head_end > HEAD_OFFSET + HEAD_SIZE_MAX
            || !zeros.into_iter().all(|range| is_zero(&bytes[range]))
            || !is_zero(&bytes[head_end..])
        {
            return Err(CopyInvalid::Damaged);
        }
        let head = HeaderSet::decode_body(&bytes[HEAD_OFFSET..head_end])
            .map_err(|_| CopyInvalid::Damaged)?;
        let cluster = *bytes[32..].first_chunk().expect("inside");
        let state = SuperblockState {
            cluster: ClusterId(u128::from_le_bytes(cluster)),
            replica: ReplicaIndex(bytes[20]),
            replica_count: bytes[21],
            incarnation: u64_at(48),
            geometry: Geometry {
                message_size: u32_at(88),
                journal_slots: u32_at(92),
                block_size: u32_at(96),
                pipeline: u32_at(100),
                clients_max: u32_at(104),
            },
            view: View(u32_at(72)),
            log_view: View(u32_at(76)),
            commit_max: u64_at(56),
            checkpoint: block_ref_at(112),
            checkpoint_previous: block_ref_at(132),
            op_complete: u64_at(64),
            head,
        };
        let sequence = u64_at(24);
        if state.invalid().is_some() || !(1..=NUMBER_MAX).contains(&sequence) {
            return Err(CopyInvalid::Damaged);
        }
        let mut image = bytes.to_vec();
        image[COPY_OFFSET] = 0;
        Ok(Self { state, sequence, parent: u32_at(80), checksum, image })
    }

    /// [`SuperblockCopy::decode`] of what was read; unreadable sectors are damage.
    ///
    /// # Errors
    /// See [`CopyInvalid`].
    pub fn decode_read(result: &ReadResult, copy: u8) -> Result<Self, CopyInvalid> {
        match Self::decode(result.buffer.as_ref(), copy) {
            decoded if result.unreadable.is_empty() => decoded,
            // Zeros stand for what could not be read.
            Err(CopyInvalid::Blank) => Err(CopyInvalid::Magic),
            decoded => decoded.and(Err(CopyInvalid::Damaged)),
        }
    }
}

/// The copies as read, in the order of their numbers.
pub type SuperblockCopies = [Result<SuperblockCopy, CopyInvalid>; SUPERBLOCK_COPIES as usize];

/// Which copy is the superblock, by its number.
///
/// # Errors
/// `NotADataFile` when nothing looks like one of this version, `SuperblockLost` when too few copies
/// are left to be sure which is the newest.
pub fn superblock_select(copies: &SuperblockCopies) -> Result<u8, Fatal> {
    let valid: Vec<(u8, &SuperblockCopy)> = (0..SUPERBLOCK_COPIES)
        .zip(copies)
        .filter_map(|(number, copy)| Some((number, copy.as_ref().ok()?)))
        .collect();
    let equal =
        |copy: &SuperblockCopy| valid.iter().filter(|(_, other)| other.image == copy.image).count();
    let quorums: Vec<_> =
        valid.iter().filter(|(_, copy)| equal(copy) >= QUORUM_OPEN).copied().collect();
    if let Some((number, best)) = quorums.iter().max_by_key(|(_, copy)| copy.sequence) {
        let fork = quorums
            .iter()
            .find(|(_, other)| other.sequence == best.sequence && other.image != best.image);
        return match fork {
            None => Ok(*number),
            Some((other, _)) => Err(lost(format!(
                "copies {number} and {other} of the superblock are both intact, both of sequence \
                 {}, and differ",
                best.sequence
            ))),
        };
    }
    if valid.is_empty() {
        return Err(nothing_valid(copies));
    }
    select_interrupted(&valid).ok_or_else(|| {
        let sequences: Vec<String> =
            valid.iter().map(|(number, copy)| format!("{number}: {}", copy.sequence)).collect();
        lost(format!(
            "of the 4 copies of the superblock too few are intact to tell which is the newest \
             (copy: sequence of the intact ones: {})",
            sequences.join(", ")
        ))
    })
}

/// Of copies that all differ: the newest, if the one before it is there too; or the one before, if
/// two claim to be the newest.
fn select_interrupted(valid: &[(u8, &SuperblockCopy)]) -> Option<u8> {
    let sequence = valid.iter().map(|(_, copy)| copy.sequence).max()?;
    let newest: Vec<_> = valid.iter().filter(|(_, copy)| copy.sequence == sequence).collect();
    let (before, _) = valid
        .iter()
        .find(|(_, copy)| newest.iter().all(|(_, newest)| is_successor(newest, copy)))?;
    match newest.as_slice() {
        [(number, _)] => Some(*number),
        _ => Some(*before),
    }
}

fn is_successor(next: &SuperblockCopy, copy: &SuperblockCopy) -> bool {
    next.sequence == copy.sequence + 1 && next.parent == copy.checksum
}

fn nothing_valid(copies: &SuperblockCopies) -> Fatal {
    let reasons: Vec<CopyInvalid> =
        copies.iter().filter_map(|copy| copy.as_ref().err().copied()).collect();
    for reason in &reasons {
        match reason {
            CopyInvalid::Version(version) => {
                return Fatal::new(
                    FatalKind::NotADataFile,
                    format!(
                        "data file of version {version}, this program reads version \
                         {DATA_FILE_VERSION}: use the program that wrote it"
                    ),
                );
            }
            CopyInvalid::Protocol(protocol) => {
                return Fatal::new(
                    FatalKind::NotADataFile,
                    format!(
                        "data file with protocol {protocol}, this program speaks {PROTOCOL}: use \
                         the program that wrote it"
                    ),
                );
            }
            _ => {}
        }
    }
    if reasons.iter().all(|reason| *reason == CopyInvalid::Blank) {
        return unfinished();
    }
    let is_foreign = |reason| matches!(reason, CopyInvalid::Magic | CopyInvalid::Blank);
    if reasons.iter().copied().all(is_foreign) {
        return Fatal::new(
            FatalKind::NotADataFile,
            "not a data file: none of the 4 copies of the superblock begins with \"vsr data\"; \
             check the path, or make a data file with `vsr format`",
        );
    }
    lost("none of the 4 copies of the superblock is intact".to_owned())
}

/// The file was begun by a `format` or a `recover` that did not come to its end.
pub(super) fn unfinished() -> Fatal {
    Fatal::new(
        FatalKind::NotADataFile,
        "not a data file: it has no superblock, so it is what a `vsr format` or `vsr recover` has \
         left that was interrupted: remove it, and run that command again",
    )
}

fn lost(what: String) -> Fatal {
    Fatal::new(
        FatalKind::SuperblockLost,
        format!("{what}: replace the disk, then rebuild the file from the others by `vsr recover`"),
    )
}

/// The superblock of an open data file.
#[derive(Debug)]
pub struct Superblock {
    layout: Layout,
    state: SuperblockState,
    sequence: u64,
    checksum: u32,
    update: Option<Update>,
    /// Copies that the last update could not make hold it.
    broken: Copies,
}

/// A set of copies: bit n is copy n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Copies(u8);

impl Copies {
    const NONE: Self = Self(0);
    const ALL: Self = Self((1 << SUPERBLOCK_COPIES) - 1);

    fn contains(self, copy: u8) -> bool {
        assert!(copy < SUPERBLOCK_COPIES);
        self.0 >> copy & 1 == 1
    }

    fn insert(&mut self, copy: u8) {
        assert!(copy < SUPERBLOCK_COPIES);
        self.0 |= 1 << copy;
    }

    fn count(self) -> u32 {
        self.0.count_ones()
    }

    fn others(self) -> Self {
        Self(Self::ALL.0 & !self.0)
    }

    fn iter(self) -> impl Iterator<Item = u8> {
        (0..SUPERBLOCK_COPIES).filter(move |copy| self.contains(*copy))
    }
}

/// An update or repair under way.
#[derive(Debug)]
struct Update {
    state: SuperblockState,
    sequence: u64,
    /// All bytes, as copy 0.
    image: Vec<u8>,
    /// Copies to write in this attempt, in this order.
    writes: Vec<u8>,
    /// Copies to read back after it, in this order.
    reads: Vec<u8>,
    stage: Stage,
    /// Which attempt this is, from 1.
    attempt: u8,
    /// Copies found equal so far.
    equal: Copies,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The write of `writes[index]` is in flight.
    Write(usize),
    /// The read of `reads[index]` is in flight.
    Read(usize),
}

impl Superblock {
    /// The superblock that `copy`, selected when opening, says.
    pub(super) fn opened(copy: &SuperblockCopy) -> Self {
        Self {
            layout: Layout::new(copy.state.geometry),
            state: copy.state.clone(),
            sequence: copy.sequence,
            checksum: copy.checksum,
            update: None,
            broken: Copies::NONE,
        }
    }

    /// The durable state.
    pub fn state(&self) -> &SuperblockState {
        &self.state
    }

    /// How many updates the file has seen, the one of `format` included.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether an update is under way.
    pub fn is_writing(&self) -> bool {
        self.update.is_some()
    }

    /// Begins to make `state` durable. One update at a time; a state never regresses.
    pub fn write(&mut self, state: SuperblockState, requests: &mut Vec<Request>) {
        assert!(!self.is_writing());
        self.state.assert_monotonic(&state);
        let sequence = self.sequence + 1;
        let image = SuperblockCopy::encode(&state, sequence, self.checksum);
        // A copy that was bad before comes first: while it is written the others agree.
        let copies = self.broken.iter().chain(self.broken.others().iter()).collect();
        self.begin(state, sequence, image, copies, requests);
    }

    /// Begins to write the selected `copy` over `copies`, the damaged ones first: while one of them
    /// is written nothing is lost, so a crash in between leaves at least what there was.
    pub(super) fn repair(
        &mut self,
        copy: &SuperblockCopy,
        copies: Vec<u8>,
        requests: &mut Vec<Request>,
    ) {
        assert!(!self.is_writing());
        assert_eq!(copy.sequence, self.sequence);
        self.begin(copy.state.clone(), copy.sequence, copy.image.clone(), copies, requests);
    }

    fn begin(
        &mut self,
        state: SuperblockState,
        sequence: u64,
        image: Vec<u8>,
        writes: Vec<u8>,
        requests: &mut Vec<Request>,
    ) {
        assert!(!writes.is_empty());
        self.update = Some(Update {
            state,
            sequence,
            image,
            writes,
            reads: Copies::ALL.iter().collect(),
            stage: Stage::Write(0),
            attempt: 1,
            equal: Copies::NONE,
        });
        self.push(requests);
    }

    /// Asks for what the update waits for.
    fn push(&self, requests: &mut Vec<Request>) {
        let update = self.update.as_ref().expect("an update is under way");
        requests.push(match update.stage {
            Stage::Write(index) => {
                let copy = update.writes[index];
                Request::Write {
                    token: Token::WriteSuperblock { copy },
                    offset: self.layout.superblock_offset(copy),
                    sectors: copy_sectors(&update.image, copy).freeze(),
                }
            }
            Stage::Read(index) => {
                let copy = update.reads[index];
                Request::Read {
                    token: Token::ReadSuperblock { copy },
                    offset: self.layout.superblock_offset(copy),
                    size: SUPERBLOCK_COPY_SIZE,
                }
            }
        });
    }

    /// The write of `copy` is complete.
    pub fn on_write_done(&mut self, copy: u8, requests: &mut Vec<Request>) {
        let update = self.update.as_mut().expect("a write was in flight");
        let Stage::Write(index) = update.stage else { panic!("a copy is being read, not written") };
        assert_eq!(update.writes[index], copy);
        update.stage =
            if index + 1 < update.writes.len() { Stage::Write(index + 1) } else { Stage::Read(0) };
        self.push(requests);
    }

    /// The read back of `copy` is complete. True: the new state is durable.
    ///
    /// # Errors
    /// Fewer than three copies hold what was written, however often: the disk cannot be trusted
    /// with a promise.
    pub fn on_read_done(
        &mut self,
        copy: u8,
        result: ReadResult,
        requests: &mut Vec<Request>,
    ) -> Result<bool, String> {
        let update = self.update.as_mut().expect("a read was in flight");
        let Stage::Read(index) = update.stage else { panic!("a copy is being written, not read") };
        assert_eq!(update.reads[index], copy);
        let expected = copy_sectors(&update.image, copy);
        if result.unreadable.is_empty() && result.buffer.as_ref() == expected.as_ref() {
            update.equal.insert(copy);
        }
        if index + 1 < update.reads.len() {
            update.stage = Stage::Read(index + 1);
            self.push(requests);
            return Ok(false);
        }
        if self.wants_another_attempt() {
            let update = self.update.as_mut().expect("it was there just above");
            update.attempt += 1;
            update.writes = update.equal.others().iter().collect();
            update.reads.clone_from(&update.writes);
            update.stage = Stage::Write(0);
            self.push(requests);
            return Ok(false);
        }
        self.complete().map(|()| true)
    }

    /// After all copies were read back: whether those that are not equal are to be written again.
    fn wants_another_attempt(&self) -> bool {
        let update = self.update.as_ref().expect("an update is under way");
        assert!(update.attempt <= ATTEMPTS_MAX);
        let missing = update.equal.others();
        let is_known = missing == self.broken && missing.count() <= 1;
        missing != Copies::NONE && !is_known && update.attempt < ATTEMPTS_MAX
    }

    /// Ends the update.
    fn complete(&mut self) -> Result<(), String> {
        let update = self.update.take().expect("an update is under way");
        let missing = update.equal.others();
        if update.equal.count() < QUORUM_WRITE {
            return Err(format!(
                "after writing sequence {} of the superblock {} times only {} of \
                 {SUPERBLOCK_COPIES} copies hold it, {QUORUM_WRITE} must: replace the disk",
                update.sequence,
                update.attempt,
                update.equal.count()
            ));
        }
        if missing != Copies::NONE && missing != self.broken {
            let copies: Vec<u8> = missing.iter().collect();
            log::warn!(
                "superblock: copy {copies:?} does not hold what was written {} times: going on \
                 with the others; replace the disk before another one fails",
                update.attempt
            );
        }
        self.broken = missing;
        assert!(self.broken.count() <= 1);
        assert!(update.sequence == self.sequence || update.sequence == self.sequence + 1);
        self.checksum = u32::from_le_bytes(*update.image.first_chunk().expect("16 KiB"));
        self.sequence = update.sequence;
        self.state = update.state;
        Ok(())
    }
}

/// The sectors of copy `copy` of an update.
fn copy_sectors(image: &[u8], copy: u8) -> AlignedBuffer {
    assert!(copy < SUPERBLOCK_COPIES);
    assert_eq!(image[COPY_OFFSET], 0);
    let mut sectors = AlignedBuffer::copy_of(image);
    sectors.as_mut()[COPY_OFFSET] = copy;
    sectors
}

/// The superblock zone of a fresh file: four copies of `state`, sequence 1.
pub fn superblock_zone(state: &SuperblockState) -> AlignedBuffer {
    let image = SuperblockCopy::encode(state, 1, 0);
    let mut zone = Vec::with_capacity(image.len() * usize::from(SUPERBLOCK_COPIES));
    for copy in 0..SUPERBLOCK_COPIES {
        zone.extend_from_slice(copy_sectors(&image, copy).as_ref());
    }
    AlignedBuffer::copy_of(&zone)
}

#[cfg(test)]
#[path = "superblock_tests.rs"]
mod tests;
