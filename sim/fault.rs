//! What can go wrong in the simulated world, and how often it did.
//!
//! **Invariants:** a kind is counted when it has happened to somebody, not when it was drawn.
//!
//! **Not here:** when it happens (`network`, `disk`, `cluster`).

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Fault {
            $($(#[$doc])* $kind,)*
        }

        impl Fault {
            /// All kinds, in the order of their report.
            pub(crate) const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its name in reports and logs.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A whole frame is lost.
    FrameLost = "frame_lost",
    /// A whole frame arrives twice.
    FrameDuplicated = "frame_duplicated",
    /// A whole frame arrives before one that was sent earlier on the same connection.
    FrameReordered = "frame_reordered",
    /// One bit of a frame is flipped.
    FrameCorrupted = "frame_corrupted",
    /// A frame is lost since too many are on the path.
    PathOverflow = "path_overflow",
    /// A frame waits for a path that is clogged.
    PathClogged = "path_clogged",
    /// A frame, or the beginning or end of a connection, is lost to a partition.
    PathCut = "path_cut",
    /// A partition begins that cuts both ways.
    PartitionSymmetric = "partition_symmetric",
    /// A partition begins that cuts one way.
    PartitionOneWay = "partition_one_way",
    /// A partition begins that cuts one process from all others.
    PartitionIsolated = "partition_isolated",
    /// A partition has a client on another side than replica 0.
    PartitionClient = "partition_client",
    /// A connect is refused.
    ConnectRefused = "connect_refused",
    /// A connect fails at once.
    ConnectFailed = "connect_failed",
    /// A connect takes long.
    ConnectSlow = "connect_slow",
    /// A connect is never answered.
    ConnectUnanswered = "connect_unanswered",
    /// One side believes in a connection that the other has never heard of.
    ConnectHalfOpen = "connect_half_open",
    /// An accept fails.
    AcceptFailed = "accept_failed",
    /// Connections wait to be accepted together.
    AcceptBurst = "accept_burst",
    /// A connection is reset.
    Reset = "reset",
    /// A connection is reset in the middle of a frame.
    ResetMidFrame = "reset_mid_frame",
    /// A call takes fewer bytes than there are.
    ReadShort = "read_short",
    /// A call sends fewer bytes than there is room for.
    WriteShort = "write_short",
    /// A send finds no room.
    WriteFull = "write_full",
    /// An edge without a reason.
    EdgeSpurious = "edge_spurious",
    /// A sector is damaged while it is written.
    WriteCorrupted = "write_corrupted",
    /// A write is acknowledged and not done.
    WriteLost = "write_lost",
    /// A write is done at another place.
    WriteMisdirected = "write_misdirected",
    /// A read brings other bytes than the disk holds.
    ReadCorrupted = "read_corrupted",
    /// A sector can no longer be read.
    SectorUnreadable = "sector_unreadable",
    /// A sector rots at rest.
    SectorRotten = "sector_rotten",
    /// A crash leaves some sectors of a write.
    WriteTorn = "write_torn",
    /// A crash leaves nothing of a write in flight.
    WriteUndone = "write_undone",
    /// A copy of the superblock is damaged.
    SuperblockDamaged = "superblock_damaged",
    /// A write that makes the file longer finds no room.
    DiskFull = "disk_full",
    /// The file of a dead replica is gone.
    FileLost = "file_lost",
    /// A process is killed; its peers see resets.
    CrashReset = "crash_reset",
    /// A process is killed; its peers see nothing.
    CrashSilent = "crash_silent",
    /// A process is killed while it opens its data file.
    CrashOpening = "crash_opening",
    /// The process that recovers a lost file is killed.
    CrashRecovering = "crash_recovering",
    /// A process is started again.
    Restart = "restart",
    /// All replicas are stopped and started, one after the other.
    RestartRolling = "restart_rolling",
    /// A process stands still for a while.
    Pause = "pause",
    /// A wall clock jumps forward.
    ClockForward = "clock_forward",
    /// A wall clock jumps back.
    ClockBack = "clock_back",
    /// A clock runs too fast or too slowly.
    ClockDrift = "clock_drift",
    /// A client goes away with its session open.
    ClientVanished = "client_vanished",
}

/// How often each kind happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FaultCounts {
    counts: Vec<u64>,
}

impl FaultCounts {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; Fault::ALL.len()] }
    }

    /// It happened once more.
    pub(crate) fn note(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }

    /// How often it happened.
    pub(crate) fn count(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }
}
