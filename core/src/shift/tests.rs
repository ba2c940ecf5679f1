//! A worker's day, step by step; and as a property, on random days.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::job::{Epoch, JobId};
use crate::ports::{Lane, Message};
use crate::route::PoolName;

const fn room(slots: u32, milli_vcpu: u32, memory_mib: u32) -> Room {
    Room { slots, milli_vcpu, memory_mib }
}

/// What a job of so many processors and MiB needs.
const fn job(milli_vcpu: u32, memory_mib: u32) -> Room {
    room(1, milli_vcpu, memory_mib)
}

fn bell(tier: Tier, n: u8) -> Received {
    let message = Message { id: JobId::from_bytes([n; 16]), epoch: Epoch(1) };
    Received { message, lane: Lane { pool: PoolName::STANDARD, tier }, receipt: String::new() }
}

fn wait(tiers: &[Tier], max: u32) -> Next {
    Next::Wait(tiers.iter().copied().collect(), max)
}

fn start(tier: Tier, n: u8, offer: Room) -> Start {
    Start { received: bell(tier, n), offer }
}

#[test]
fn a_tier_ranks_where_it_stands_among_all() {
    assert_eq!(Tier::ALL.map(Tier::rank), [0, 1, 2]);
}

#[test]
fn an_idle_worker_waits_for_all_tiers_and_a_busy_one_sweeps_them_first() {
    let mut shift = Shift::new(room(2, 2000, 1000));
    assert_eq!(shift.next(), wait(&Tier::ALL, 2));
    let begun = start(Tier::Standard, 1, job(1000, 500));
    assert_eq!(shift.heard(vec![bell(Tier::Standard, 1)]), [Act::Start(begun)]);
    for tier in Tier::ALL {
        assert_eq!(shift.next(), Next::Look(tier, 1));
        assert_eq!(shift.heard(vec![]), []);
    }
    assert_eq!(shift.next(), wait(&Tier::ALL, 1));
    let begun = start(Tier::Priority, 2, job(1000, 500));
    assert_eq!(shift.heard(vec![bell(Tier::Priority, 2)]), [Act::Start(begun)]);
    assert_eq!(shift.next(), Next::Rest, "both slots are taken");
    assert!(shift.given(job(1000, 500)), "whoever rests looks again");
    assert_eq!(shift.next(), Next::Look(Tier::Synchronous, 1), "from the top");
}

#[test]
fn of_tiers_that_answer_at_once_the_highest_starts() {
    let mut shift = Shift::new(room(3, 3000, 900));
    let answered = vec![bell(Tier::Standard, 1), bell(Tier::Priority, 2), bell(Tier::Standard, 3)];
    let acts = [
        Act::Release(bell(Tier::Standard, 1)),
        Act::Start(start(Tier::Priority, 2, job(1000, 300))),
        Act::Release(bell(Tier::Standard, 3)),
    ];
    assert_eq!(shift.heard(answered), acts);
}

#[test]
fn what_does_not_fit_stays_in_hand_and_only_a_higher_tier_goes_before_it() {
    let mut shift = Shift::new(room(2, 2000, 1000));
    let small = job(1000, 500);
    assert_eq!(shift.heard(vec![bell(Tier::Priority, 1)]).len(), 1);
    assert!(!shift.claimed(&start(Tier::Priority, 1, small), small));
    assert_eq!(shift.heard(vec![bell(Tier::Priority, 2)]).len(), 1);
    assert_eq!(shift.refused(start(Tier::Priority, 2, small), job(2000, 500)), None);
    assert_eq!(shift.next(), Next::Look(Tier::Synchronous, 1), "its own tier and the one below are not asked");
    assert_eq!(shift.heard(vec![]), []);
    assert_eq!(shift.next(), wait(&[Tier::Synchronous], 1));
    assert_eq!(shift.heard(vec![bell(Tier::Standard, 3)]), [Act::Release(bell(Tier::Standard, 3))], "asked before");
    assert!(shift.given(small), "now it fits");
    assert_eq!(shift.next(), Next::Look(Tier::Synchronous, 1), "but who is above is asked first");
    assert_eq!(shift.heard(vec![]), []);
    assert_eq!(shift.next(), Next::Start(start(Tier::Priority, 2, job(2000, 500))));
    assert_eq!(shift.free(), room(1, 0, 500));
    assert_eq!(shift.next(), Next::Rest, "a slot without a processor is none");
}

#[test]
fn a_large_job_of_a_higher_tier_takes_the_hand_and_one_larger_than_the_worker_is_declined() {
    let mut shift = Shift::new(room(3, 3000, 900));
    let acts = shift.heard(vec![bell(Tier::Standard, 1)]);
    assert_eq!(acts, [Act::Start(start(Tier::Standard, 1, job(1000, 300)))]);
    assert_eq!(shift.refused(start(Tier::Standard, 1, job(1000, 300)), job(2000, 300)), None);
    let Act::Start(higher) = shift.heard(vec![bell(Tier::Priority, 2)]).remove(0) else { panic!("it is higher") };
    assert_eq!(shift.refused(higher, job(3000, 900)), Some(Back::Release(bell(Tier::Standard, 1))));
    let Act::Start(highest) = shift.heard(vec![bell(Tier::Synchronous, 3)]).remove(0) else { panic!("it is higher") };
    assert_eq!(shift.refused(highest, job(3001, 1)), Some(Back::Decline(bell(Tier::Synchronous, 3))));
    assert_eq!(shift.leave(), Some(bell(Tier::Priority, 2)));
    assert_eq!(shift.next(), Next::Home);
}

#[test]
fn a_tired_worker_sweeps_once_more_and_goes_home_unless_something_comes() {
    let mut shift = Shift::new(room(1, 1000, 100));
    shift.tire();
    assert!(shift.is_leaving());
    assert_eq!(shift.next(), Next::Look(Tier::Synchronous, 1));
    assert_eq!(shift.heard(vec![bell(Tier::Synchronous, 1)]).len(), 1);
    assert!(!shift.is_leaving(), "it stays for what came");
    shift.given(room(1, 1000, 100));
    shift.tire();
    for tier in Tier::ALL {
        assert_eq!(shift.next(), Next::Look(tier, 1));
        assert_eq!(shift.heard(vec![]), []);
    }
    assert_eq!(shift.next(), Next::Home);
}

/// A shift with one small job running and a large one in hand, and what is offered when that is tried again.
fn renewed(tier: Tier) -> (Shift, Start) {
    let mut shift = Shift::new(room(3, 3000, 900));
    assert_eq!(shift.heard(vec![bell(Tier::Standard, 1)]).len(), 1);
    assert_eq!(shift.heard(vec![bell(tier, 2)]).len(), 1);
    assert_eq!(shift.refused(start(tier, 2, job(1000, 300)), job(3000, 900)), None);
    let again = shift.renew().expect("it does not fit");
    assert_eq!(again, start(tier, 2, room(2, 2000, 600)));
    assert_eq!((shift.renew(), shift.free()), (None, Room::default()), "it is being tried");
    (shift, again)
}

#[test]
fn what_is_in_hand_is_tried_again_and_keeps_its_tier_shut_until_it_is_known_to_be_over() {
    let (mut shift, again) = renewed(Tier::Standard);
    shift.given(job(1000, 300));
    assert_eq!(shift.next(), Next::Look(Tier::Synchronous, 1), "room came back: for the tiers above");
    assert_eq!((shift.heard(vec![]), shift.next()), (vec![], Next::Look(Tier::Priority, 1)));
    assert_eq!((shift.heard(vec![]), shift.next()), (vec![], wait(&[Tier::Synchronous, Tier::Priority], 1)));
    assert_eq!(shift.refused(again, job(3000, 900)), None, "it is still to be waited for");
    assert_eq!(shift.renew(), None, "it fits, and starts in its turn");
    for tier in [Tier::Synchronous, Tier::Priority] {
        assert_eq!((shift.next(), shift.heard(vec![])), (Next::Look(tier, 1), vec![]));
    }
    assert_eq!(shift.next(), Next::Start(start(Tier::Standard, 2, job(3000, 900))));

    let (mut shift, again) = renewed(Tier::Standard);
    assert!(shift.lost(&again), "whoever waits looks again");
    shift.given(again.offer);
    assert!(!shift.lost(&again), "once");
    assert_eq!(shift.renew(), None);
    for tier in Tier::ALL {
        assert_eq!((shift.next(), shift.heard(vec![])), (Next::Look(tier, 1), vec![]), "{tier} is open");
    }
}

#[test]
fn what_loses_the_hand_while_it_is_tried_goes_back_once() {
    let (mut shift, again) = renewed(Tier::Standard);
    assert_eq!(shift.leave(), None, "its claim may yet be won");
    assert_eq!(shift.refused(again, job(3000, 900)), Some(Back::Release(bell(Tier::Standard, 2))));
    let (mut shift, again) = renewed(Tier::Standard);
    shift.given(job(1000, 300));
    assert_eq!(shift.heard(vec![bell(Tier::Priority, 3)]), [Act::Start(start(Tier::Priority, 3, job(1000, 300)))]);
    assert_eq!(shift.refused(start(Tier::Priority, 3, job(1000, 300)), job(3000, 900)), None);
    assert_eq!(shift.refused(again, job(3000, 900)), Some(Back::Release(bell(Tier::Standard, 2))));
    assert_eq!(shift.leave(), Some(bell(Tier::Priority, 3)));
}

/// One job of a random day: when it arrives, its tier, what it needs, for how many steps it runs, and when it is
/// cancelled.
type Arrival = (u16, usize, u32, u32, u16, u16);

#[derive(Debug)]
struct Running {
    holds: Room,
    ends: u16,
}

/// A yard with one worker, played step by step.
struct Day {
    shift: Shift,
    capacity: Room,
    lanes: [VecDeque<usize>; 3],
    needs: Vec<Room>,
    runs: Vec<Running>,
    claims: Vec<(usize, Start)>,
    started: BTreeMap<usize, u32>,
    declined: Vec<usize>,
    /// Cancelled before their claim.
    over: Vec<usize>,
    /// The tier of what is in hand.
    unanswered: Option<Tier>,
}

impl Day {
    fn receive(&mut self, tier: Tier, max: u32) -> Vec<Received> {
        let lane = &mut self.lanes[usize::from(tier.rank())];
        let some = lane.len().min(max as usize);
        lane.drain(..some).map(|n| bell(tier, u8::try_from(n).expect("a short day"))).collect()
    }

    fn hear(&mut self, received: Vec<Received>) {
        let highest = received.iter().map(|received| received.lane.tier).min();
        for act in self.shift.heard(received) {
            match act {
                Act::Start(start) => {
                    assert_eq!(Some(start.received.lane.tier), highest, "a higher one of the same receive waits");
                    self.begin(start);
                }
                Act::Release(received) => self.release(&received),
            }
        }
        self.holds_no_more_than_it_has();
    }

    fn begin(&mut self, start: Start) {
        assert!(self.unanswered.is_none_or(|tier| tier > start.received.lane.tier), "a higher one is in hand");
        self.claims.push((number(&start.received), start));
    }

    fn release(&mut self, received: &Received) {
        self.lanes[usize::from(received.lane.tier.rank())].push_front(number(received));
    }

    fn holds_no_more_than_it_has(&self) {
        let running = self.runs.iter().map(|run| run.holds);
        let all = running.chain(self.claims.iter().map(|(_, start)| start.offer)).fold(Room::default(), Room::plus);
        assert!(all.fits_in(self.capacity), "{all:?} of {:?}", self.capacity);
        assert_eq!(self.capacity.less(all), self.shift.free());
    }

    /// What is in hand is tried again.
    fn renew(&mut self) {
        if let Some(start) = self.shift.renew() {
            assert_eq!(self.unanswered, Some(start.received.lane.tier));
            self.claims.push((number(&start.received), start));
        }
        self.holds_no_more_than_it_has();
    }

    /// The answer to one claim, if one is under way.
    fn claim(&mut self, now: u16, arrivals: &[Arrival]) -> bool {
        let Some((n, start)) = self.claims.pop() else { return false };
        let needs = self.needs[n];
        if now >= arrivals[n].5 {
            let was_in_hand = self.shift.lost(&start);
            self.shift.given(start.offer);
            if was_in_hand {
                self.unanswered = None;
            }
            self.over.push(n);
        } else if needs.fits_in(start.offer) {
            self.shift.claimed(&start, needs);
            *self.started.entry(n).or_default() += 1;
            self.runs.push(Running { holds: needs, ends: now + arrivals[n].4 });
        } else {
            let tier = start.received.lane.tier;
            match self.shift.refused(start, needs) {
                Some(Back::Release(received)) => self.release(&received),
                Some(Back::Decline(received)) => self.declined.push(number(&received)),
                None => {}
            }
            self.unanswered = self.shift.hand.as_ref().map(|kept| kept.received.lane.tier);
            assert!(self.unanswered.is_none_or(|kept| kept <= tier || !needs.fits_in(self.capacity)));
        }
        self.holds_no_more_than_it_has();
        true
    }
}

fn number(received: &Received) -> usize {
    usize::from(received.message.id.as_bytes()[0])
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    // One in a few is larger than many workers, so that all kinds of days come up; and one in a few is cancelled.
    let cancelled = prop_oneof![3 => Just(u16::MAX), 1 => 0..200u16];
    proptest::collection::vec((0..60u16, 0..3usize, 1..3000u32, 1..1500u32, 1..20u16, cancelled), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_day_starts_a_lower_tier_first_exceeds_its_room_or_leaves_anything_lying(
        arrivals in arrivals(), slots in 1..6u32, vcpu in 1..4u32, memory in 100..1400u32, order in any::<u64>(),
    ) {
        let capacity = room(slots, vcpu * 1000, memory);
        let mut day = Day {
            shift: Shift::new(capacity),
            capacity,
            lanes: Default::default(),
            needs: arrivals.iter().map(|arrival| job(arrival.2, arrival.3)).collect(),
            runs: Vec::new(),
            claims: Vec::new(),
            started: BTreeMap::new(),
            declined: Vec::new(),
            over: Vec::new(),
            unanswered: None,
        };
        for now in 0..2000u16 {
            for (n, arrival) in arrivals.iter().enumerate().filter(|(_, arrival)| arrival.0 == now) {
                day.lanes[arrival.1].push_back(n);
            }
            let (ended, runs) = std::mem::take(&mut day.runs).into_iter().partition(|run| run.ends <= now);
            day.runs = runs;
            for Running { holds, .. } in ended {
                day.shift.given(holds);
            }
            day.holds_no_more_than_it_has();
            // Claims are answered before or after the worker goes on, as chance has it.
            let late = order >> (now % 64) & 1 == 1;
            while !late && day.claim(now, &arrivals) {}
            if now % 7 == 0 {
                day.renew();
            }
            for _ in 0..100 {
                match day.shift.next() {
                    Next::Look(tier, max) => {
                        let received = day.receive(tier, max);
                        day.hear(received);
                    }
                    Next::Wait(tiers, max) => {
                        // Sometimes all of them answer, sometimes the first that has any.
                        let mut heard = Vec::new();
                        for tier in tiers {
                            if heard.is_empty() || late {
                                heard.extend(day.receive(tier, max));
                            }
                        }
                        if heard.is_empty() {
                            break;
                        }
                        day.hear(heard);
                    }
                    Next::Start(start) => {
                        day.unanswered = None;
                        let above = &day.lanes[..usize::from(start.received.lane.tier.rank())];
                        prop_assert!(above.iter().all(VecDeque::is_empty), "a higher tier waits");
                        day.begin(start);
                        day.holds_no_more_than_it_has();
                    }
                    Next::Rest => break,
                    Next::Home => panic!("nobody sent it home"),
                }
            }
            while day.claim(now, &arrivals) {}
        }
        for (n, needs) in day.needs.iter().enumerate() {
            if day.over.contains(&n) {
                prop_assert!(!day.started.contains_key(&n), "job {} was cancelled", n);
            } else if needs.fits_in(capacity) {
                prop_assert_eq!(day.started.get(&n), Some(&1), "job {} of {:?} must start once", n, needs);
            } else {
                prop_assert!(day.declined.contains(&n), "job {} of {:?} does not fit", n, needs);
            }
        }
    }
}
