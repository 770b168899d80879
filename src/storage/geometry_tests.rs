//! Which geometries are refused, and where the zones of one lie: both sides of every bound, and the
//! numbers of `docs/data_file.md`.

use super::layout::{SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SIZE};
use super::{Geometry, Layout};
use crate::constants::{ENTRY_SIZE, HEADER_SIZE, PIPELINE_MAX};

#[test]
fn a_geometry_out_of_bounds_is_refused_by_the_name_of_its_field() {
    type Change = fn(&mut Geometry);
    let cases: [(&str, Change); 17] = [
        ("message size 0:", |geometry| geometry.message_size = 0),
        ("message size 2048:", |geometry| geometry.message_size = 2048),
        ("message size 5000:", |geometry| geometry.message_size = 5000),
        ("message size 16781312:", |geometry| geometry.message_size = (16 << 20) + 4096),
        ("journal slots 0:", |geometry| geometry.journal_slots = 0),
        ("journal slots 32:", |geometry| geometry.journal_slots = 32),
        ("journal slots 100:", |geometry| geometry.journal_slots = 100),
        ("journal slots 1048640:", |geometry| geometry.journal_slots = (1 << 20) + 64),
        ("block size 2048:", |geometry| geometry.block_size = 2048),
        ("block size 12288:", |geometry| geometry.block_size = 12288),
        ("block size 131072:", |geometry| geometry.block_size = 131_072),
        ("pipeline 0:", |geometry| geometry.pipeline = 0),
        ("pipeline 9:", |geometry| (geometry.pipeline, geometry.journal_slots) = (9, 64)),
        ("its headers do not fit a message of 4096 bytes", |geometry| {
            (geometry.pipeline, geometry.message_size) = (30, 4096);
        }),
        ("clients 0:", |geometry| geometry.clients_max = 0),
        ("clients 65537:", |geometry| geometry.clients_max = 65537),
        ("pipeline 33:", |geometry| geometry.pipeline = PIPELINE_MAX + 1),
    ];
    for (reason, change) in cases {
        let mut geometry = Geometry::default();
        change(&mut geometry);
        let invalid = geometry.invalid().expect(reason);
        assert!(invalid.contains(reason), "{invalid}");
    }
}

#[test]
fn a_geometry_at_its_bounds_is_valid() {
    let cases: [fn(&mut Geometry); 9] = [
        |_| {},
        |geometry| geometry.message_size = 4096,
        |geometry| geometry.message_size = 16 << 20,
        |geometry| geometry.journal_slots = 64,
        |geometry| geometry.journal_slots = 1 << 20,
        |geometry| geometry.block_size = 65536,
        |geometry| geometry.clients_max = 1,
        |geometry| geometry.clients_max = 65536,
        // The table and 31 more headers are 32, the whole of the message.
        |geometry| (geometry.pipeline, geometry.message_size) = (29, 4096),
    ];
    for change in cases {
        let mut geometry = Geometry::default();
        change(&mut geometry);
        assert_eq!(geometry.invalid(), None);
    }
    for (journal_slots, pipeline) in [(64, 1), (64, 8), (1024, PIPELINE_MAX)] {
        let geometry = Geometry { journal_slots, pipeline, ..Geometry::default() };
        assert_eq!(geometry.invalid(), None);
    }
}

#[test]
fn the_zones_lie_where_the_documentation_says() {
    let layout = Layout::new(Geometry::default());
    assert_eq!((SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SIZE), (4, 16384));
    assert_eq!([0, 1, 3].map(|copy| layout.superblock_offset(copy)), [0, 16384, 49152]);
    assert_eq!(layout.header_sectors(), 32);
    assert_eq!([0, 1, 31].map(|sector| layout.headers_offset(sector)), [65536, 69632, 192_512]);
    let mib = 1 << 20;
    assert_eq!(layout.prepare_offset(0), 196_608);
    assert_eq!(layout.prepare_offset(2), 196_608 + 2 * mib);
    assert_eq!(layout.grid_offset(), 196_608 + 1024 * mib);
    assert_eq!(layout.geometry.request_size_max(), (1 << 20) - HEADER_SIZE - ENTRY_SIZE);
    assert_eq!([0, 5, 1023, 1024, 5000].map(|op| layout.geometry.slot(op)), [0, 5, 1023, 0, 904]);
}

/// S = 1024, P = 8: I = 512, X = 504, and C = 512.
#[test]
fn the_ops_of_checkpoints_are_those_of_the_documentation() {
    let geometry = Geometry::default();
    assert_eq!(geometry.checkpoint_interval(), 512);
    assert_eq!(geometry.write_behind_window(), 504);
    assert_eq!([0, 1, 511, 512, 513, 1024].map(|op| geometry.is_checkpoint(op)), {
        [false, false, false, true, false, true]
    });
    assert_eq!((geometry.op_prepare_max(512), geometry.op_prepare_ok_max(512)), (1536, 1528));
    assert!(geometry.is_proven(0, 0));
    assert!(!geometry.is_proven(512, 1016));
    assert!(geometry.is_proven(512, 1017));
    assert!(!geometry.is_proven(1024, 1528));
    assert!(geometry.is_proven(1024, 1529));
    assert_eq!([1, 512, 1024, 1025, 1536, 1537].map(|op| geometry.checkpoint_named_by(op)), {
        [0, 0, 0, 512, 512, 1024]
    });
}
