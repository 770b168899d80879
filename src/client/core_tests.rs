//! Scripted conversations with a [`ClientCore`]: every rule of its page, one test each.

use super::*;

const CLUSTER: ClusterId = ClusterId(7);
const CLIENT: ClientId = ClientId(99);
const SESSION: u64 = 42;

struct Talk {
    core: ClientCore,
    sends: Vec<Send>,
}

impl Talk {
    fn new(seed: u64) -> Self {
        let config = CoreConfig { cluster: CLUSTER, client: CLIENT, replica_count: 3 };
        Self { core: ClientCore::new(config, Prng::from_seed(seed)), sends: Vec::new() }
    }

    /// With an open session in view 4, whose primary is replica 1.
    fn registered(seed: u64) -> Self {
        let mut talk = Self::new(seed);
        talk.core.register(&mut talk.sends);
        let reply = talk.reply(1, 4, &[]);
        assert_eq!(talk.hear(&reply), Some(Outcome::Registered));
        talk.sends.clear();
        talk
    }

    fn request(&mut self, body: &'static [u8]) {
        self.core.request(Bytes::from_static(body), &mut self.sends);
    }

    fn last(&self) -> (ReplicaIndex, Header, Request) {
        let send = self.sends.last().expect("something was sent");
        let Command::Request(request) = send.message.header().command else {
            panic!("a request was expected: {send:?}");
        };
        (send.replica, *send.message.header(), request)
    }

    fn author(replica: u8, view: u32) -> Author {
        Author {
            cluster: CLUSTER,
            view: View(view),
            replica: ReplicaIndex(replica),
            incarnation: 5,
        }
    }

    /// The right reply to the last request.
    fn reply(&self, replica: u8, view: u32, body: &[u8]) -> Message {
        self.reply_with(replica, view, body, |_| {})
    }

    fn reply_with(
        &self,
        replica: u8,
        view: u32,
        body: &[u8],
        change: impl Fn(&mut Reply),
    ) -> Message {
        let (_, header, request) = self.last();
        let in_session = request.session != 0 || request.operation == Operation::Register as u8;
        let mut reply = Reply {
            client: request.client,
            session: if in_session { SESSION } else { 0 },
            request: request.request,
            op: 1000,
            timestamp: 1,
            request_checksum: header.checksum_body,
            result: 0,
            operation: request.operation,
        };
        change(&mut reply);
        Message::new(&Self::author(replica, view), reply, body)
    }

    fn reject(&self, replica: u8, view: u32, reason: RejectReason) -> Message {
        let (_, _, request) = self.last();
        let reject = Reject { client: CLIENT, request: request.request, reason: reason as u8 };
        Message::new(&Self::author(replica, view), reject, &[])
    }

    fn eviction(session: u64) -> Message {
        let reason = EvictionReason::NoSession as u8;
        Message::new(&Self::author(1, 4), Eviction { client: CLIENT, session, reason }, &[])
    }

    fn pong(view: u32, message_size: u32) -> Message {
        let pong = PongClient {
            client: CLIENT,
            ping_timestamp_monotonic: 0,
            message_size,
            replica_count: 3,
        };
        Message::new(&Self::author(0, view), pong, &[])
    }

    fn hear(&mut self, message: &Message) -> Option<Outcome> {
        self.core.on_message(message, &mut self.sends)
    }

    /// Ticks until one more message was sent; how many ticks that took.
    fn ticks_until_send(&mut self) -> u64 {
        let count = self.sends.len();
        for ticks in 1..1000 {
            self.core.on_tick(&mut self.sends);
            if self.sends.len() > count {
                assert_eq!(self.sends.len(), count + 1);
                return ticks;
            }
        }
        panic!("nothing was sent in 1000 ticks");
    }
}

#[test]
fn register_then_requests_are_numbered_from_one_in_the_session() {
    let mut talk = Talk::registered(1);
    assert!(talk.core.is_registered());
    for number in 1..5 {
        talk.request(b"x");
        let (target, header, request) = talk.last();
        assert_eq!(target, ReplicaIndex(1));
        assert_eq!(header.view, View(4));
        assert_eq!((request.session, request.request), (SESSION, number));
        let reply = talk.reply(1, 4, b"y");
        let Some(Outcome::Answered(answer)) = talk.hear(&reply) else { panic!("no answer") };
        assert_eq!((&answer.body[..], answer.op, answer.view), (&b"y"[..], 1000, View(4)));
        assert_eq!(talk.hear(&reply), None, "a second reply answers nothing");
    }
}

#[test]
fn first_target_is_random_until_a_view_is_heard() {
    let mut seen = [0; 3];
    for seed in 0..60 {
        let mut talk = Talk::new(seed);
        talk.core.register(&mut talk.sends);
        seen[talk.last().0.index()] += 1;
    }
    assert!(seen.iter().all(|count| *count > 5), "{seen:?}");
}

#[test]
fn reply_that_differs_in_any_field_is_ignored() {
    let mut talk = Talk::registered(2);
    talk.request(b"body");
    let changes: [fn(&mut Reply); 5] = [
        |reply| reply.client = ClientId(1),
        |reply| reply.session += 1,
        |reply| reply.request += 1,
        |reply| reply.request_checksum ^= 1,
        |reply| reply.operation = Operation::Query as u8,
    ];
    for change in changes {
        let reply = talk.reply_with(1, 4, b"", change);
        assert_eq!(talk.hear(&reply), None);
        assert!(talk.core.is_in_flight());
    }
    let other = Author { cluster: ClusterId(8), ..Talk::author(1, 4) };
    let (_, header, request) = talk.last();
    let reply = Reply {
        client: CLIENT,
        session: SESSION,
        request: request.request,
        request_checksum: header.checksum_body,
        operation: request.operation,
        ..Reply::default()
    };
    assert_eq!(talk.hear(&Message::new(&other, reply, &[])), None, "another cluster");
    let reply = talk.reply(1, 4, b"");
    assert!(matches!(talk.hear(&reply), Some(Outcome::Answered(_))));
}

#[test]
fn resend_backs_off_and_takes_turns_between_primary_and_others() {
    let mut talk = Talk::registered(3);
    talk.request(b"x");
    for replica in 0..3 {
        talk.core.on_connection(ReplicaIndex(replica), true);
    }
    let first = talk.last();
    let mut others = [0; 3];
    for attempt in 1..60 {
        let ticks = talk.ticks_until_send();
        let pause = pause_ticks(attempt);
        assert!((pause..=pause + pause / 2).contains(&ticks), "{attempt}: {ticks} ticks");
        let (target, header, request) = talk.last();
        assert_eq!(request, first.2, "the same request each time");
        assert_eq!(header.checksum_body, first.1.checksum_body);
        if attempt.is_multiple_of(2) {
            assert_eq!(target, ReplicaIndex(1));
        } else {
            assert_ne!(target, ReplicaIndex(1));
            others[target.index()] += 1;
        }
        talk.core.on_connection(target, true);
    }
    assert!(others[0] > 5);
    assert!(others[2] > 5);
    assert_eq!(pause_ticks(1), RESEND_TICKS_MIN);
    assert_eq!(pause_ticks(u32::MAX), RESEND_TICKS_SLOW);
}

#[test]
fn primary_that_cannot_be_reached_is_passed_over() {
    let mut talk = Talk::registered(4);
    talk.core.on_connection(ReplicaIndex(1), true);
    talk.request(b"x");
    talk.core.on_connection(ReplicaIndex(1), false);
    assert!(talk.ticks_until_send() <= RESEND_TICKS_MIN, "no pause for the dead");
    for _ in 0..8 {
        let target = talk.last().0;
        if talk.sends.len().is_multiple_of(2) {
            assert_ne!(target, ReplicaIndex(1));
        }
        talk.core.on_connection(ReplicaIndex(0), true);
        talk.core.on_connection(ReplicaIndex(2), true);
        talk.ticks_until_send();
    }
}

#[test]
fn not_primary_with_news_goes_to_the_primary_at_once_and_once() {
    let mut talk = Talk::registered(5);
    talk.request(b"x");
    let reject = talk.reject(1, 5, RejectReason::NotPrimary);
    assert_eq!(talk.hear(&reject), None);
    assert_eq!(talk.sends.len(), 2);
    assert_eq!((talk.last().0, talk.last().1.view), (ReplicaIndex(2), View(5)));
    assert_eq!(talk.hear(&reject), None);
    let old = talk.reject(0, 3, RejectReason::NotPrimary);
    assert_eq!(talk.hear(&old), None);
    assert_eq!(talk.sends.len(), 2, "no news, no copy");
    assert_eq!(talk.core.view(), View(5));
}

#[test]
fn busy_is_tried_again_until_it_is_answered() {
    let mut talk = Talk::registered(6);
    talk.request(b"x");
    for _ in 0..10 {
        let reject = talk.reject(1, 4, RejectReason::Busy);
        assert_eq!(talk.hear(&reject), None);
        talk.ticks_until_send();
    }
    let reply = talk.reply(1, 4, b"");
    assert!(matches!(talk.hear(&reply), Some(Outcome::Answered(_))));
}

#[test]
fn reject_of_the_only_copy_is_not_done() {
    for reason in [RejectReason::Invalid, RejectReason::StoreFull, RejectReason::TooLarge] {
        let mut talk = Talk::registered(7);
        talk.request(b"x");
        let reject = talk.reject(1, 4, reason);
        assert_eq!(talk.hear(&reject), Some(Outcome::Rejected(reason)));
        assert!(talk.core.is_ended(), "the number is not used again");
    }
}

#[test]
fn reject_after_a_second_copy_says_nothing() {
    let mut talk = Talk::registered(8);
    talk.request(b"x");
    talk.core.on_connection(ReplicaIndex(1), true);
    talk.ticks_until_send();
    for reason in [RejectReason::Invalid, RejectReason::TooLarge] {
        let reject = talk.reject(1, 4, reason);
        assert_eq!(talk.hear(&reject), None);
    }
    assert_eq!(talk.core.give_up(), GaveUp::Unknown);
    assert!(talk.core.is_ended());
}

#[test]
fn store_full_is_not_done_only_in_the_newest_view_that_a_copy_names() {
    let mut talk = Talk::registered(8);
    talk.request(b"x");
    let old = talk.reject(1, 4, RejectReason::StoreFull);
    let news = talk.reject(2, 5, RejectReason::NotPrimary);
    assert_eq!(talk.hear(&news), None);
    assert_eq!((talk.sends.len(), talk.last().1.view), (2, View(5)));
    assert_eq!(talk.hear(&old), None, "the primary of view 5 may take the second copy");
    let new = talk.reject(2, 5, RejectReason::StoreFull);
    assert_eq!(talk.hear(&new), Some(Outcome::Rejected(RejectReason::StoreFull)));
    assert!(talk.core.is_ended(), "the number is not used again");
}

#[test]
fn reject_of_another_request_is_ignored() {
    let mut talk = Talk::registered(9);
    talk.core.query(Bytes::from_static(b"q"), &mut talk.sends);
    let of_query = talk.reject(1, 4, RejectReason::Invalid);
    assert_eq!(talk.hear(&of_query), Some(Outcome::Rejected(RejectReason::Invalid)));
    talk.request(b"x");
    assert_eq!(talk.hear(&of_query), None);
    assert!(talk.core.is_in_flight());
}

#[test]
fn reject_of_register_and_query_is_final_after_any_number_of_copies() {
    let mut talk = Talk::new(10);
    talk.core.register(&mut talk.sends);
    for _ in 0..3 {
        talk.ticks_until_send();
    }
    let reject = talk.reject(0, 0, RejectReason::StoreFull);
    assert_eq!(talk.hear(&reject), Some(Outcome::Rejected(RejectReason::StoreFull)));
    assert!(!talk.core.is_ended());
    talk.core.query(Bytes::from_static(b"q"), &mut talk.sends);
    for _ in 0..3 {
        talk.ticks_until_send();
    }
    let reject = talk.reject(0, 0, RejectReason::StoreFull);
    assert_eq!(talk.hear(&reject), Some(Outcome::Rejected(RejectReason::StoreFull)));
    assert!(!talk.core.is_ended());
}

#[test]
fn eviction_with_a_request_in_flight_ends_the_core() {
    let mut talk = Talk::registered(11);
    talk.request(b"x");
    assert_eq!(talk.hear(&Talk::eviction(SESSION - 1)), None, "another session's");
    let reason = EvictionReason::NoSession;
    assert_eq!(talk.hear(&Talk::eviction(SESSION)), Some(Outcome::Evicted(reason)));
    assert!(talk.core.is_ended());
    assert_eq!(talk.hear(&Talk::eviction(SESSION)), None, "once");
    let count = talk.sends.len();
    for _ in 0..500 {
        talk.core.on_tick(&mut talk.sends);
    }
    assert_eq!(talk.sends.len(), count, "the dead send nothing");
}

#[test]
fn eviction_of_a_session_does_not_end_a_query() {
    let mut talk = Talk::registered(12);
    talk.core.query(Bytes::from_static(b"q"), &mut talk.sends);
    assert_eq!(talk.hear(&Talk::eviction(SESSION)), None);
    let reply = talk.reply(1, 4, b"answer");
    assert!(matches!(talk.hear(&reply), Some(Outcome::Answered(_))));
}

#[test]
fn deregister_is_done_by_its_reply_and_by_an_eviction() {
    let mut talk = Talk::registered(13);
    talk.core.deregister(&mut talk.sends);
    let reply = talk.reply(1, 4, b"");
    assert_eq!(talk.hear(&reply), Some(Outcome::Deregistered));
    assert!(talk.core.is_ended());

    let mut talk = Talk::registered(13);
    talk.core.deregister(&mut talk.sends);
    assert_eq!(talk.hear(&Talk::eviction(SESSION)), Some(Outcome::Deregistered));
}

#[test]
fn giving_up_before_any_connection_is_not_done() {
    let mut talk = Talk::registered(14);
    talk.request(b"x");
    for _ in 0..5 {
        talk.ticks_until_send();
    }
    assert_eq!(talk.core.give_up(), GaveUp::NotDone);

    let mut talk = Talk::registered(14);
    talk.request(b"x");
    talk.core.on_dropped(ReplicaIndex(1));
    talk.core.on_connection(ReplicaIndex(1), true);
    assert_eq!(talk.core.give_up(), GaveUp::NotDone, "it was dropped before");

    let mut talk = Talk::registered(14);
    talk.request(b"x");
    talk.core.on_connection(ReplicaIndex(0), true);
    talk.core.on_connection(ReplicaIndex(1), true);
    talk.core.on_connection(ReplicaIndex(1), false);
    assert_eq!(talk.core.give_up(), GaveUp::Unknown);
    assert!(talk.core.is_ended());
}

#[test]
fn giving_up_register_or_query_is_not_done_and_the_core_goes_on() {
    let mut talk = Talk::new(15);
    talk.core.register(&mut talk.sends);
    let late = talk.reply(0, 0, b"");
    for replica in 0..3 {
        talk.core.on_connection(ReplicaIndex(replica), true);
    }
    assert_eq!(talk.core.give_up(), GaveUp::NotDone);
    assert_eq!(talk.hear(&late), None);
    talk.core.query(Bytes::from_static(b"q"), &mut talk.sends);
    assert_eq!(talk.core.give_up(), GaveUp::NotDone);
    talk.core.register(&mut talk.sends);
    assert_eq!(talk.hear(&late), Some(Outcome::Registered), "the session that exists");
}

#[test]
fn large_body_is_held_until_the_message_size_is_known() {
    let body = Bytes::from(vec![1; BODY_SIZE_SURE as usize + 1]);
    let mut talk = Talk::registered(16);
    talk.core.request(body.clone(), &mut talk.sends);
    let is_ping = |send: &Send| matches!(send.message.header().command, Command::PingClient(_));
    assert!(is_ping(talk.sends.last().expect("a ping")));
    talk.ticks_until_send();
    assert!(is_ping(talk.sends.last().expect("a ping")));
    assert_eq!(talk.hear(&Talk::pong(4, 8192)), None);
    assert_eq!(talk.last().2.request, 1);
    let reject = talk.reject(1, 4, RejectReason::StoreFull);
    assert!(talk.hear(&reject).is_some(), "pings are not copies");

    let mut talk = Talk::registered(16);
    talk.core.request(body, &mut talk.sends);
    let outcome = talk.hear(&Talk::pong(4, 4096));
    assert_eq!(outcome, Some(Outcome::Rejected(RejectReason::TooLarge)));
    assert!(talk.core.is_registered());
    talk.request(b"small");
    assert_eq!(talk.last().2.request, 1, "the number was not used");
}

#[test]
fn random_talk_never_panics_and_ends_in_a_reply() {
    for seed in 0..200 {
        let mut prng = Prng::from_seed(seed);
        let mut talk = Talk::registered(seed);
        talk.request(b"x");
        for _ in 0..200 {
            let replica = u8::try_from(prng.below(4)).expect("small");
            let view = u32::try_from(prng.below(9)).expect("small");
            let message = match prng.below(5) {
                0 => talk.reject(replica, view, RejectReason::NotPrimary),
                1 => talk.reject(replica, view, RejectReason::Busy),
                2 => Talk::pong(view, 1 << 20),
                3 => Talk::eviction(prng.below(SESSION)),
                _ => talk.reply_with(replica, view, b"", |reply| reply.request += 1),
            };
            assert_eq!(talk.hear(&message), None);
            talk.core.on_tick(&mut talk.sends);
            assert!(talk.core.is_in_flight());
            if replica < 3 {
                talk.core.on_connection(ReplicaIndex(replica), prng.below(2) == 0);
            }
        }
        let reply = talk.reply(0, 9, b"done");
        assert!(matches!(talk.hear(&reply), Some(Outcome::Answered(_))));
    }
}
