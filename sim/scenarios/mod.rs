//! Scenarios: one thing goes wrong at a time, by name, and the checkers judge the whole of it. The
//! cluster is the simulator's, real servers and clients over the simulated world; nothing in it
//! happens by chance. `dsl` is the language, each other file one area.
//!
//! Known defects of the paper, and of those that followed it:
//!
//! | | defect | scenario |
//! |---|---|---|
//! | D1 | a promise dies in a crash | `view_change_promise_survives_a_restart` |
//! | | | `view_change_crash_while_the_view_is_written_promises_nothing` |
//! | D2 | all restart and none comes back | `recovery_all_restart_together_come_back` |
//! | D3 | the log is cut too early | `view_change_start_view_lost_keeps_the_log_…` |
//! | D4 | the log view is raised too early | the same |
//! | D5 | a late answer is taken | `view_change_start_view_late_for_a_newer_view_…` |
//! | D6 | commit goes back | `view_change_stale_start_views_change_nothing` |
//! | D7 | a view change passes by | `recovery_head_uncertain_while_a_view_change_passes_by` |
//! | | nobody asks again | `recovery_request_start_view_lost_is_asked_again` |
//! | D8 | who recovers votes | `recovery_head_uncertain_casts_no_vote` |
//! | D9 | a view is entered alone | `view_change_backup_cut_off_raises_no_view` |
//! | | nothing is said again | `view_change_messages_lost_are_said_again` |
//! | D10 | a deaf backup raises views | `view_change_backup_cut_off_raises_no_view` |
//! | | a deaf primary stays | `view_change_primary_deaf_to_backups_falls_silent` |
//! | D11 | damage is taken for absence | `view_change_damaged_op_is_not_nacked` |
//! | | | `disk_acknowledged_op_damaged_is_waited_for` |
//! | D12 | a lost file is formatted again | `genesis_file_lost_after_birth_forgets_…` |
//! | | | `lost_file_recovered_forgets_no_acknowledgement` |
//! | D13 | a file of another replica is believed | `recovery_file_of_another_replica_is_refused` |
//! | | bits that no checksum covers | the tests of `storage`, which flip each of them |
//! | D14 | more copies lost than borne | `disk_acknowledged_op_damaged_everywhere_stops_…` |
//! | D15 | numbers used again | `sessions_client_gone_before_its_reply_hurts_nobody` |
//! | | | `sessions_reply_lost_with_its_primary_is_answered_by_the_next` |
//! | D16 | a time-out is told as a failure | `sessions_call_given_up_is_unknown` |
//!
//! Faults of young implementations:
//!
//! | | fault | scenario |
//! |---|---|---|
//! | 1 | too few logs begin a view | `view_change_too_few_logs_begin_no_view` |
//! | 2 | a retry in flight is prepared again | `sessions_request_in_flight_is_prepared_once` |
//! | 3 | a lower view is adopted | `view_change_stale_start_views_change_nothing` |
//! | 4 | the heartbeat says the head | `normal_heartbeat_says_what_is_committed` |
//! | 5 | the tail is executed at once | `view_change_tail_is_executed_once_it_is_…` |
//! | 6 | ops are executed out of order | `normal_prepare_oks_out_of_order_commit_…` |
//! | 7 | execution begins at what a message says | `view_change_lagging_backup_executes_from_…` |
//! | 8 | an answer said twice doubles the log | `repair_answers_said_again_change_nothing` |
//! | 9 | a stray message kills | `normal_messages_of_older_views_change_nothing` |
//! | | | `sessions_replies_of_older_requests_are_not_taken_for_newer` |
//! | 10 | a view is taken for a replica | `view_change_views_beyond_the_count_of_replicas` |
//! | | a view overflows | none: it takes 2^32 view changes, and is asserted |
//! | 11 | a view stalls | `view_change_next_primary_dead_too_goes_on_to_the_one_after` |
//! | | one `request` lost | `normal_request_lost_client_sends_it_again` |
//! | | one `reply` lost | `normal_reply_lost_answers_from_the_table` |
//! | | one `prepare` lost | `normal_prepare_lost_is_sent_again` |
//! | | one `prepare_ok` lost | `normal_prepare_ok_lost_is_said_again` |
//! | | one `commit` lost | `normal_commit_lost_backups_execute_at_the_next` |
//! | 12 | two of three wait for each other | `view_change_any_two_of_three_go_on` |
//! | 13 | the primary alone knows the sessions | `sessions_survive_a_failover` |
//! | 14 | part of a stream is lost | `bus_streams_in_small_pieces_lose_nothing` |
//! | 15 | a connection that fails stays so | `bus_connects_that_fail_are_tried_again` |
//! | | garbage ends the process | `bus_bits_flipped_cost_the_connection_only` |
//! | | EINTR ends the process | none: the world has no system calls; the tests of `io` |
//! | 16 | a client gone panics | `sessions_client_gone_before_its_reply_hurts_nobody` |
//! | 17 | one process takes others down | `bus_process_killed_takes_no_other_down` |
//! | 18 | a simulator that proves nothing | `sim/tests.rs`, and the counts of the checkers |
//!
//! **Invariants:** a scenario has a fixed seed, a bound on every wait, and ends in a judgement;
//! what it does to the network must have hit something.
//!
//! **Not here:** standbys, which there are not.

mod bus;
mod checkpoint;
mod clock;
mod disk;
mod dsl;
mod genesis;
mod lost_files;
mod normal;
mod reads;
mod recovery;
mod repair;
mod script;
mod sessions;
mod sync;
mod view_change;

use crate::sim::checkers::{Call, CallResult};
pub(crate) use crate::sim::disk::hooks::{Image, Survives, Target};
pub(crate) use script::{ANY, ClientScript, Script, Step};
