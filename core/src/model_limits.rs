//! A limit of one and two jobs, tried in every order: two that admit at once, a reaper, runs that end in every way,
//! a pause, a limit that is switched on while they run, and a few faults.
//!
//! As in [`crate::model`] every change of a record is a room's own decision: [`brake::admission`],
//! [`brake::hold_back`], [`execute::claim`], [`settle::report`], [`settle::lost`], [`settle::cancel`],
//! [`reap::look`]. What the model adds is the world: an admission that reads at one moment and writes at a later one,
//! a ledger that puts a permit if it is free, and whatever is lost between a write and its acts. What happens between
//! doorbell and report is the other model's affair, and is one step here.
//!
//! Promised: never more than one of the two is dispatched or running, and none is sent on beside one that runs since
//! before there was a limit; whenever nothing is paused and a job is held, one sweep later the permit is used; and both
//! jobs can always end.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;

use crate::brake::{self, Pause, Pauses, Scope};
use crate::dispatch::{self, Act, Decided};
use crate::execute;
use crate::job::{Failure, Job, JobId, Nonce, Phase, State};
use crate::policies::Situation;
use crate::ports::{Outcome, Permits, Refusal};
use crate::reap::{self, Fact};
use crate::route::Venue;
use crate::settle::{self, Told};
use crate::testing::{a_claim, a_job, at, limited};

static OPEN: LazyLock<Situation> = LazyLock::new(|| limited(Some(1)));
static PAUSED: LazyLock<Situation> = LazyLock::new(|| paused(limited(Some(1))));
/// Before the limit is switched on.
static FREE: LazyLock<Situation> = LazyLock::new(|| limited(None));
static FREE_PAUSED: LazyLock<Situation> = LazyLock::new(|| paused(limited(None)));

fn paused(situation: Situation) -> Situation {
    let pause = Pause { scope: Scope::All, by: "ana".into(), at: at(0), reason: String::new() };
    Situation { pauses: Arc::new(Pauses::from_iter([pause])), ..situation }
}

/// Which of the protections are there.
#[derive(Clone, Copy)]
struct Protocol {
    /// The ledger refuses a permit that another job holds.
    put_if_free: bool,
    /// The reaper sweeps.
    sweeps: bool,
    /// An admission counts what runs without a permit.
    counts_all: bool,
}

const WHOLE: Protocol = Protocol { put_if_free: true, sweeps: true, counts_all: true };

/// An admission between its read and its write.
#[derive(Clone)]
struct Plan {
    job: usize,
    /// What the record was, by its revision.
    read: u64,
    decided: Decided,
}

#[derive(Clone)]
struct World {
    jobs: [Rc<Job>; 2],
    /// Whether the doorbell of its present epoch rings somewhere.
    bells: [bool; 2],
    plans: [Option<Plan>; 2],
    /// Somebody is about to look for the next held job.
    wanted: bool,
    paused: bool,
    pauses: u8,
    /// Whether there is a limit by now, and whether there was one from the start.
    limited: (bool, bool),
    faults: u8,
    cancels: u8,
    now: Timestamp,
}

fn moved(job: &Job) -> bool {
    matches!(job.phase(), Phase::Dispatched | Phase::Running)
}

/// Takes one step twice: with whoever wrote it alive, and crashing before it acts.
type Taker<'a> = dyn FnMut(String, &dyn Fn(&mut World, bool)) + 'a;

impl World {
    fn new(faults: u8, limited: bool) -> Self {
        let born = |n: u8| {
            let mut job = a_job(Venue::Fleet);
            job.id = JobId::keyed("tests", &n.to_string());
            job.created = at(i64::from(n));
            job.epoch = crate::job::Epoch(0);
            job.state = State::Held { since: at(0) };
            job.work.run_timeout = std::time::Duration::from_secs(100 * 365 * 24 * 3600);
            (job.work.attempts, job.attempts_allowed) = (2, 2);
            job.timeline.clear();
            Rc::new(job)
        };
        Self {
            jobs: [born(0), born(1)],
            bells: [false; 2],
            plans: [None, None],
            wanted: true,
            paused: false,
            // Each of these is the other world's affair, and would make this one too large to meet whole.
            pauses: u8::from(limited),
            limited: (limited, limited),
            faults,
            cancels: u8::from(limited),
            now: at(10),
        }
    }

    fn situation(&self) -> &'static Situation {
        match (self.limited.0, self.paused) {
            (true, true) => &PAUSED,
            (true, false) => &OPEN,
            (false, true) => &FREE_PAUSED,
            (false, false) => &FREE,
        }
    }

    /// A conditional write; `acts`: whether whoever wrote lives on and acts.
    fn write(&mut self, n: usize, read: u64, decided: Decided, acts: bool, protocol: Protocol) -> bool {
        let Decided { mut job, acts: wanted } = decided;
        let other = &self.jobs[1 - n];
        if self.jobs[n].revision != read || (protocol.put_if_free && job.permit.is_some() && other.permit == job.permit)
        {
            return false;
        }
        job.timeline.clear();
        if job.epoch != self.jobs[n].epoch || job.phase() != Phase::Dispatched {
            self.bells[n] = false;
        }
        self.jobs[n] = Rc::new(job.stamped(Nonce(0)));
        if acts {
            for act in wanted {
                match act {
                    Act::Ring(..) => self.bells[n] = true,
                    Act::Admit(_) => self.wanted = true,
                    Act::RunHere(_) | Act::Launch(..) | Act::Pay(_) => unreachable!("{act:?} for a job of the fleet"),
                }
            }
        }
        true
    }

    /// Writes what was decided just now.
    fn save(&mut self, n: usize, decided: Decided, acts: bool, protocol: Protocol) {
        let read = self.jobs[n].revision;
        assert!(self.write(n, read, decided, acts, protocol), "a permit that is kept is its own");
    }

    /// What somebody who looks now would write, as [`brake::admit`] reads it.
    fn plan(&self, protocol: Protocol) -> Option<Plan> {
        if self.paused {
            return None;
        }
        let runs_without = |job: &&Rc<Job>| job.phase() == Phase::Running && job.permit.is_none();
        let without = if protocol.counts_all { self.jobs.iter().filter(runs_without).count() } else { 0 };
        let taken = Permits { held: self.jobs.iter().filter_map(|job| job.permit).collect(), without };
        let permit = match self.limited.0 {
            true => Some(brake::free_permits(1, &taken, 1).first().copied()?),
            false => None,
        };
        let held = (0..2).filter(|n| self.jobs[*n].phase() == Phase::Held);
        let job = held.min_by_key(|n| (self.jobs[*n].work.tier, self.jobs[*n].created))?;
        let record = &self.jobs[job];
        let decided = brake::admission((**record).clone(), permit, self.situation(), self.now);
        Some(Plan { job, read: record.revision, decided })
    }

    /// Every step from here: its name, what it leads to, and whether it is a fault.
    fn steps(&self, protocol: Protocol, take: &mut dyn FnMut(String, World, bool)) {
        let mut both = |name: String, change: &dyn Fn(&mut World, bool)| {
            let mut world = self.clone();
            change(&mut world, true);
            take(name.clone(), world, false);
            if self.faults > 0 {
                let mut world = self.clone();
                world.faults -= 1;
                change(&mut world, false);
                take(format!("FAULT: {name}, and whoever wrote that crashes before acting"), world, true);
            }
        };
        for (slot, plan) in self.plans.iter().enumerate() {
            match plan {
                None if self.wanted || protocol.sweeps => {
                    both(format!("admitter {slot} looks"), &|world, lives| {
                        // Who crashes here looked in vain; what it was told to do is forgotten.
                        world.wanted = false;
                        world.plans[slot] = if lives { world.plan(protocol) } else { None };
                    });
                }
                None => {}
                Some(plan) => both(format!("admitter {slot} sends job {} on", plan.job), &|world, lives| {
                    world.plans[slot] = None;
                    let Plan { job, read, decided } = plan.clone();
                    // Refused, it looks again.
                    world.wanted |= !world.write(job, read, decided, lives, protocol) && lives;
                }),
            }
        }
        for n in 0..2 {
            self.job_steps(n, protocol, &mut both);
        }
        if self.pauses > 0 && !self.paused {
            both("somebody pauses".to_owned(), &|world, _| {
                (world.paused, world.pauses) = (true, world.pauses - 1);
            });
        }
        if !self.limited.0 {
            both("a limit is switched on".to_owned(), &|world, _| world.limited.0 = true);
        }
        if self.paused {
            both("somebody resumes".to_owned(), &|world, lives| {
                world.paused = false;
                world.wanted |= lives;
            });
        }
    }

    fn job_steps(&self, n: usize, protocol: Protocol, both: &mut Taker<'_>) {
        let job = &self.jobs[n];
        let situation = self.situation();
        if self.bells[n] {
            // Heard once, or once more while the message stays: the claim decides.
            for stays in [false, true] {
                let claim = a_claim(job, if stays { 2 } else { 1 });
                let decided = match execute::claim(job, &claim, situation, self.now) {
                    Ok(claimed) => Some(Decided { job: claimed, acts: vec![] }),
                    Err(Refusal::Braked) => brake::hold_back((**job).clone(), situation, self.now),
                    Err(_) => None,
                };
                both(format!("job {n} is claimed (the message stays: {stays})"), &|world, lives| {
                    if let Some(decided) = decided.clone() {
                        world.save(n, decided, lives, protocol);
                    }
                    world.bells[n] = stays;
                });
            }
        }
        if let State::Running(_) = job.state {
            let failure = Failure::new("exit_nonzero", "1");
            let outcomes = [
                Outcome::Succeeded(None),
                Outcome::Failed { failure, permanent: false },
                Outcome::Interrupted("drained".into()),
            ];
            // What befalls a run again and again is a fault; once is enough to see where it leads.
            let outcomes =
                outcomes.iter().filter(|how| !matches!(how, Outcome::Interrupted(_)) || job.interruptions == 0);
            for outcome in outcomes {
                let told = Told { epoch: job.epoch, token: None, outcome };
                let decided = settle::report((**job).clone(), told, situation, self.now, 0).unwrap();
                both(format!("job {n} reports {outcome:?}"), &|world, lives| {
                    world.save(n, decided.clone(), lives, protocol);
                });
            }
            if job.losses == 0 {
                let lost = settle::lost((**job).clone(), situation, self.now, "no beat");
                both(format!("job {n} loses its holder"), &|world, lives| {
                    world.save(n, lost.clone(), lives, protocol);
                });
            }
        }
        if self.cancels > 0
            && let Ok(Some(decided)) = settle::cancel((**job).clone(), self.now, "user")
        {
            both(format!("somebody cancels job {n}"), &|world, lives| {
                world.cancels -= 1;
                world.save(n, decided.clone(), lives, protocol);
            });
        }
        let runs = matches!(job.state, State::Running(_));
        if let (Some(due), false) = (job.due, runs) {
            let now = self.now.max(due);
            if let Some(decided) = reap::look((**job).clone(), &Fact::Visible(0), situation, now) {
                both(format!("the reaper looks at job {n}"), &|world, lives| {
                    world.now = now;
                    world.save(n, decided.clone(), lives, protocol);
                });
            }
        }
    }

    /// What is promised of every state.
    fn promises(&self, protocol: Protocol) -> Result<(), &'static str> {
        let (limited, from_the_start) = self.limited;
        // What was dispatched without a permit before there was a limit is met at its claim.
        let takes = |job: &&Rc<Job>| job.permit.is_some() || job.phase() == Phase::Running;
        let sent_on = self.jobs.iter().any(|job| job.permit.is_some());
        if limited && sent_on && self.jobs.iter().filter(takes).count() > 1 {
            return Err("more than the limit are dispatched or running");
        }
        if self.jobs.iter().any(|job| job.permit.is_some() && !moved(job)) {
            return Err("a permit is held from the dispatch to the end of the run, and no longer");
        }
        if from_the_start && self.jobs.iter().any(|job| moved(job) && job.permit.is_none()) {
            return Err("a job is sent on without a permit");
        }
        if self.jobs.iter().any(|job| job.is_settled() == job.due.is_some()) {
            return Err("a job is due while it has not ended, and no longer");
        }
        let held = |world: &World| world.jobs.iter().any(|job| job.phase() == Phase::Held);
        if !self.paused && held(self) {
            let mut swept = self.clone();
            if let (Some(plan), true) = (swept.plan(protocol), protocol.sweeps || swept.wanted) {
                swept.write(plan.job, plan.read, plan.decided, true, protocol);
            }
            if held(&swept) && !swept.jobs.iter().any(|job| moved(job)) && !protocol_waits(self) {
                return Err("a job is held although the permit is free, and nobody will look");
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.jobs.iter().all(|job| job.is_settled())
    }

    /// Everything that what comes next depends on.
    fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(24);
        for (job, bell) in self.jobs.iter().zip(self.bells) {
            let looks = match job.state {
                State::Dispatched { looks, .. } => looks.min(reap::LOOKS) as u8,
                State::Delayed { .. } | State::Held { .. } | State::Running(_) | State::Settled(_) => 0,
            };
            let stopping = matches!(&job.state, State::Running(run) if run.stop.is_some());
            key.extend([
                job.phase() as u8,
                job.attempts_spent as u8,
                (job.interruptions + 4 * job.losses) as u8,
                job.permit.map_or(0, |permit| permit as u8 + 1),
                looks | u8::from(bell) << 4 | u8::from(stopping) << 5,
            ]);
        }
        for plan in &self.plans {
            // A plan on a record that has moved on does nothing but end.
            let fresh = plan.as_ref().filter(|plan| self.jobs[plan.job].revision == plan.read);
            key.push(match (plan, fresh) {
                (None, _) => 0,
                (Some(_), None) => 1,
                (Some(_), Some(plan)) => 2 + plan.job as u8,
            });
        }
        key.push(
            self.faults
                | self.cancels << 2
                | self.pauses << 3
                | u8::from(self.paused) << 4
                | u8::from(self.wanted) << 5
                | u8::from(self.limited.0) << 6,
        );
        key
    }
}

/// Whether an admission is under way that will look again.
fn protocol_waits(world: &World) -> bool {
    world.wanted || world.plans.iter().any(Option::is_some)
}

/// Meets every state there is: how many, and the first broken promise with the shortest way there.
fn search(faults: u8, limited: bool, protocol: Protocol) -> (usize, Option<(&'static str, Vec<String>)>) {
    let first = World::new(faults, limited);
    let mut known: HashMap<Vec<u8>, usize> = HashMap::from([(first.key(), 0)]);
    let mut from: Vec<(usize, String)> = vec![(0, String::new())];
    let (mut over, mut back) = (vec![false], vec![Vec::new()]);
    let trace = |from: &[(usize, String)], mut state: usize| {
        let mut told = Vec::new();
        while state != 0 {
            told.push(from[state].1.clone());
            state = from[state].0;
        }
        told.reverse();
        told
    };
    let mut open = VecDeque::from([(0, first)]);
    while let Some((state, world)) = open.pop_front() {
        let mut broken = None;
        world.steps(protocol, &mut |name, next, fault| {
            let new = from.len();
            let to = *known.entry(next.key()).or_insert(new);
            if to == new {
                from.push((state, name));
                over.push(next.is_over());
                back.push(Vec::new());
                if let (Err(promise), None) = (next.promises(protocol), broken) {
                    broken = Some((promise, to));
                }
                open.push_back((to, next));
            }
            if !fault {
                back[to].push(state);
            }
        });
        if let Some((promise, at)) = broken {
            return (from.len(), Some((promise, trace(&from, at))));
        }
    }
    let mut hope = over.clone();
    let mut reached: Vec<usize> = (0..hope.len()).filter(|state| hope[*state]).collect();
    while let Some(state) = reached.pop() {
        for before in &back[state] {
            if !std::mem::replace(&mut hope[*before], true) {
                reached.push(*before);
            }
        }
    }
    let stuck = hope.iter().position(|hope| !hope);
    (from.len(), stuck.map(|state| ("the jobs never end, whoever does what", trace(&from, state))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken_without(limited: bool, protocol: Protocol) -> &'static str {
        let (states, broken) = search(2, limited, protocol);
        let (promise, trace) = broken.expect("a protection that nothing needs is no protection");
        println!("{states} states; {promise}:\n    {}", trace.join("\n    "));
        promise
    }

    #[test]
    fn never_more_than_the_limit_and_never_stuck_below_it() {
        let (states, broken) = search(2, true, WHOLE);
        println!("{states} states");
        assert!(broken.is_none(), "{broken:#?}");
        assert!(states > 1000, "the search has lost its way: {states} states");
    }

    #[test]
    fn nor_where_the_limit_is_switched_on_while_jobs_run() {
        let (states, broken) = search(1, false, WHOLE);
        println!("{states} states");
        assert!(broken.is_none(), "{broken:#?}");
        assert!(states > 1000, "the search has lost its way: {states} states");
    }

    #[test]
    fn a_run_without_a_permit_that_is_not_counted_exceeds_the_limit() {
        let found = broken_without(false, Protocol { counts_all: false, ..WHOLE });
        assert_eq!(found, "more than the limit are dispatched or running");
    }

    #[test]
    fn a_permit_that_is_not_put_if_free_is_held_twice() {
        let found = broken_without(true, Protocol { put_if_free: false, ..WHOLE });
        assert_eq!(found, "more than the limit are dispatched or running");
    }

    #[test]
    fn without_a_sweep_a_crash_leaves_jobs_held() {
        let found = broken_without(true, Protocol { sweeps: false, ..WHOLE });
        assert_eq!(found, "a job is held although the permit is free, and nobody will look");
    }

    #[test]
    fn what_the_last_resort_alone_would_do() {
        let held = dispatch::hold(a_job(Venue::Fleet), brake::Brake::Limited(1), at(1), "limited", "").job;
        let looked = reap::look(held.clone(), &Fact::Nothing, &OPEN, held.due.unwrap()).unwrap();
        assert_eq!((looked.job.phase(), looked.job.state.clone()), (Phase::Held, held.state.clone()));
        assert_eq!(looked.acts, [Act::Admit("file-digest".into())], "the hourly look asks, too");
    }
}
