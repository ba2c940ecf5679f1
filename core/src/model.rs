//! The protocol, tried in every order: two workers, one reaper, one job, and a few faults.
//!
//! The model owns no rule. Its record is a real [`Job`], and every change of it comes from the rooms' own decisions:
//! [`execute::claim`], [`settle::report`], [`settle::order`], [`settle::cancel`], [`settle::retry`], [`reap::look`].
//! What the model adds is the world around them: messages in a bag, workers with a table of their runs, and what may
//! go wrong between a write and what follows it. A breadth-first search meets every interleaving once, so that the
//! trace of a broken promise is the shortest there is.
//!
//! What is left out, and why that is sound:
//!
//! - Moments. The reaper acts at the later of now and `due`, run timeouts outlast every search, and no other decision
//!   reads a clock.
//! - What a record went through: its timeline, how often it was lost or interrupted. Within these bounds no decision
//!   reads it.
//! - Messages of an epoch that is over. Every write is checked to refuse their claims for good, and what a lane shows
//!   is not relied on: the reaper is tried with both answers. Of more than two messages of the present epoch two are
//!   kept: each is only ever one more repetition.
//! - What a run does after its epoch is over. It only keeps its worker's slot; every state is checked to refuse its
//!   report and its claim.
//! - Waiting between a write and its acts that ends well: a bell that rings later is a message that is heard later.
//!   What ends badly there is a fault, and is tried at every write.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;

use crate::dispatch::{self, Act, Decided};
use crate::execute;
use crate::job::{Epoch, Failure, Holder, Job, Nonce, Phase, State, StopCause, TokenHash};
use crate::policies::Situation;
use crate::ports::{Beat, Claim, Message, Outcome, Refusal};
use crate::reap::{self, Ask, Fact};
use crate::route::Limits;
use crate::route::Venue;
use crate::settle::{self, Told};
use crate::testing::{a_job, at};

/// Runs a worker can have at once. Two: it may be given the job again while it still runs it.
const SLOTS: usize = 2;
/// Messages of one epoch that the bag keeps.
const COPIES: u8 = 2;
/// Epochs that a search can reach: one at first, one more for each failed attempt, fault and retry by hand.
const EPOCHS: usize = 8;

/// Which of the protocol's protections are there.
#[derive(Clone, Copy)]
struct Protocol {
    /// A claim whose answer was lost is repeated with the same token.
    nonce: bool,
    /// Every dispatch has an epoch of its own; else only a failed attempt makes a new one.
    epoch_apart_from_attempts: bool,
    /// A beat lists what its holder really runs; else a living holder is taken to run whatever it holds.
    beat_names_runs: bool,
    /// A worker that hears the same doorbell twice goes by its first run.
    entered_once: bool,
}

const WHOLE: Protocol =
    Protocol { nonce: true, epoch_apart_from_attempts: true, beat_names_runs: true, entered_once: true };

/// What is searched: a protocol, and how much may happen to it.
#[derive(Clone, Copy)]
struct Setup {
    protocol: Protocol,
    faults: u8,
    cancels: u8,
    retries: u8,
}

const THREE_FAULTS: Setup = Setup { protocol: WHOLE, faults: 3, cancels: 0, retries: 0 };

/// One process that was started for a claim, numbered by the claim: what nobody in the yard can see.
type Ghost = u8;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Success,
    Failure,
    Interrupted,
    Stopped(StopCause),
}

impl End {
    fn outcome(self) -> Outcome {
        match self {
            Self::Success => Outcome::Succeeded(None),
            Self::Failure => Outcome::Failed { failure: Failure::new("exit_nonzero", "1"), permanent: false },
            Self::Interrupted => Outcome::Interrupted("drained".into()),
            Self::Stopped(cause) => Outcome::Stopped(cause),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Interrupted => 2,
            Self::Stopped(StopCause::Cancel) => 3,
            Self::Stopped(StopCause::Deadline) => 4,
            Self::Stopped(StopCause::Stale) => 5,
            Self::Stopped(StopCause::Drain) => 6,
        }
    }
}

/// Where a worker stands with one of its runs.
#[derive(Clone, Copy)]
enum Task {
    /// It claims, or claims again because no answer came.
    Asking,
    /// The process runs.
    Running,
    /// The process ended; its end is to be recorded.
    Ended(End, Ghost),
    /// Its epoch is over. Whatever it still does or says is refused.
    Over,
}

/// A run in a worker's table.
#[derive(Clone, Copy)]
struct Entry {
    epoch: u32,
    token: u8,
    /// The process of its claim; none before.
    process: Ghost,
    task: Task,
    /// Whether the worker's beat lists it.
    named: bool,
}

#[derive(Clone, Default)]
struct Worker {
    boot: u8,
    /// Its beats do not arrive.
    silent: bool,
    table: Vec<Entry>,
    /// Processes that go on although their run is over, by the epoch they were started for.
    orphans: Vec<(u32, Ghost)>,
}

#[derive(Clone)]
struct World {
    record: Rc<Job>,
    now: Timestamp,
    /// Visible messages of the present epoch.
    bag: u8,
    workers: [Worker; 2],
    faults: u8,
    cancels: u8,
    retries: u8,
    tokens: u8,
    /// The process of the newest claim.
    newest: Ghost,
    /// Whether something really befell the run that the record knows: a crash, or silence.
    harmed: bool,
}

/// Who took a step: what fairness is about. Whoever can act all the time acts in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Actor {
    Reaper,
    Ears(usize),
    /// A worker's run, by how many epochs it is behind the record.
    Run(usize, u32),
    /// It need never happen.
    Chance,
    /// It must not be counted on not to happen.
    Fault,
}

impl Actor {
    fn bit(self) -> u32 {
        match self {
            Self::Reaper => 1,
            Self::Ears(worker) => 2 << worker,
            Self::Run(worker, behind) => 8 << (worker as u32 * EPOCHS as u32 + behind),
            Self::Chance | Self::Fault => 0,
        }
    }
}

/// One step, as a trace tells it.
#[derive(Clone, Copy)]
enum Step {
    Hears(usize, u32),
    HearsTwice(usize, u32),
    MessageComesTwice(usize, u32),
    MessageIsLost,
    Claims(usize, u32),
    ClaimAnswerIsLost(usize, u32),
    ProcessEnds(usize, u32, End),
    IsTold(usize, u32, StopCause),
    IsInterrupted(usize, u32),
    Reports(usize, u32),
    ReportAnswerIsLost(usize, u32),
    DiesAfterReport(usize, u32),
    IsDone(usize, u32),
    OrphanEnds(usize, u32, End),
    TaskDies(usize, u32),
    Crashes(usize),
    FallsSilent(usize),
    IsHeardAgain(usize),
    ReaperLooks,
    ReaperCrashes,
    UserCancels,
    UserRetries,
    UserCrashes,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |end: End| match end {
            End::Success => "succeeds",
            End::Failure => "fails",
            End::Interrupted => "is interrupted",
            End::Stopped(_) => "stops",
        };
        match *self {
            Self::Hears(w, e) => write!(f, "worker {w} hears the doorbell of epoch {e}"),
            Self::HearsTwice(w, e) => write!(f, "worker {w} hears the doorbell of epoch {e}, which it has already"),
            Self::MessageComesTwice(w, e) => {
                write!(f, "FAULT: worker {w} hears the doorbell of epoch {e}, and the message stays")
            }
            Self::MessageIsLost => write!(f, "FAULT: a message is lost"),
            Self::Claims(w, e) => write!(f, "worker {w} claims epoch {e}"),
            Self::ClaimAnswerIsLost(w, e) => write!(f, "FAULT: worker {w} claims epoch {e}, and gets no answer"),
            Self::ProcessEnds(w, e, how) => write!(f, "worker {w}'s process of epoch {e} {}", end(how)),
            Self::IsTold(w, e, cause) => write!(f, "worker {w} is told to end epoch {e}: {cause:?}"),
            Self::IsInterrupted(w, e) => write!(f, "FAULT: worker {w} gives epoch {e} back, and the process goes on"),
            Self::Reports(w, e) => write!(f, "worker {w} reports epoch {e}"),
            Self::ReportAnswerIsLost(w, e) => write!(f, "FAULT: worker {w} reports epoch {e}, and gets no answer"),
            Self::DiesAfterReport(w, e) => write!(f, "FAULT: worker {w} reports epoch {e}, and dies before it rings"),
            Self::IsDone(w, e) => write!(f, "worker {w} is refused for epoch {e}, and done with it"),
            Self::OrphanEnds(w, e, how) => write!(f, "worker {w}'s old process of epoch {e} {}", end(how)),
            Self::TaskDies(w, e) => write!(f, "FAULT: what runs epoch {e} in worker {w} dies, and the worker lives"),
            Self::Crashes(w) => write!(f, "FAULT: worker {w} crashes and starts anew"),
            Self::FallsSilent(w) => write!(f, "FAULT: worker {w}'s beats do not arrive any more"),
            Self::IsHeardAgain(w) => write!(f, "worker {w}'s beats arrive again"),
            Self::ReaperLooks => write!(f, "the reaper looks"),
            Self::ReaperCrashes => write!(f, "FAULT: the reaper looks, saves, and crashes before it rings"),
            Self::UserCancels => write!(f, "somebody cancels"),
            Self::UserRetries => write!(f, "somebody retries"),
            Self::UserCrashes => write!(f, "FAULT: somebody retries, and crashes before it rings"),
        }
    }
}

/// Made once: a search asks for it millions of times.
static SITUATION: LazyLock<Situation> = LazyLock::new(|| Limits::one_machine(8192).into());

fn hash(token: u8) -> TokenHash {
    TokenHash([token; 32])
}

/// Whether the acts ring. A job of the fleet asks for nothing else.
fn rings(acts: &[Act]) -> bool {
    acts.iter().any(|act| match act {
        Act::Ring(..) => true,
        Act::RunHere(_) | Act::Launch(..) | Act::Pay(_) | Act::Admit(_) => {
            unreachable!("{act:?} for a job of the fleet")
        }
    })
}

impl World {
    fn new(setup: Setup) -> Self {
        let mut job = a_job(Venue::Fleet);
        job.work.run_timeout = Duration::from_secs(100 * 365 * 24 * 3600);
        job.work.attempts = 2;
        job.attempts_allowed = 2;
        job.work.labels.clear();
        job.timeline.clear();
        Self {
            record: Rc::new(job),
            now: at(0),
            bag: 1,
            workers: Default::default(),
            faults: setup.faults,
            cancels: setup.cancels,
            retries: setup.retries,
            tokens: 0,
            newest: 0,
            harmed: false,
        }
    }

    fn holder(&self, worker: usize) -> Holder {
        Holder(format!("{worker}.{}", self.workers[worker].boot))
    }

    fn message(&self, epoch: u32) -> Message {
        Message { id: self.record.id, epoch: Epoch(epoch) }
    }

    fn ring(&mut self) {
        self.bag = (self.bag + 1).min(COPIES);
    }

    /// The worker that the record says runs it, if that worker is still the same.
    fn runner(&self) -> Option<usize> {
        match &self.record.state {
            State::Running(run) => {
                (0..2).find(|w| run.holder.0.as_bytes() == [b'0' + *w as u8, b'.', b'0' + self.workers[*w].boot])
            }
            State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Settled(_) => None,
        }
    }

    /// Whether whoever shows this token speaks for the job now.
    fn accepts(&self, entry: &Entry) -> bool {
        match &self.record.state {
            State::Running(run) => self.record.epoch.0 == entry.epoch && run.token == hash(entry.token),
            State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Settled(_) => false,
        }
    }

    fn try_claim(&self, worker: usize, epoch: u32, token: u8) -> Result<Job, Refusal> {
        let claim = Claim {
            id: self.record.id,
            epoch: Epoch(epoch),
            holder: self.holder(worker),
            token: hash(token),
            at_most: None,
            room: None,
        };
        execute::claim(&self.record, &claim, &SITUATION, self.now)
    }

    /// Writes a decision, holds it to what is promised of every write, and answers whether it rings.
    fn write(&mut self, decided: Decided, by_hand: bool, protocol: Protocol) -> Result<bool, &'static str> {
        let Decided { mut job, mut acts } = decided;
        let before = Rc::clone(&self.record);
        if before.is_settled() && !by_hand {
            return Err("a job that had ended was changed");
        }
        if job.losses > before.losses && !self.harmed {
            return Err("a run was buried although nothing had befallen it");
        }
        if job.losses >= settle::LOSSES {
            return Err("a job was given up for losses that so few faults cannot have made");
        }
        if by_hand && job.epoch <= before.epoch {
            return Err("a job can end twice at one epoch");
        }
        if job.epoch > before.epoch && !protocol.epoch_apart_from_attempts {
            job.epoch = Epoch(job.attempts_spent + 1);
            acts = dispatch::acts(&job);
        }
        let over = job.is_settled() || job.epoch > before.epoch;
        job.timeline.clear();
        self.record = Rc::new(job.stamped(Nonce(0)));
        if over {
            self.bag = 0;
            let first_open = self.record.epoch.0 + u32::from(self.record.is_settled());
            for worker in &mut self.workers {
                worker.orphans.retain(|(epoch, _)| *epoch >= first_open);
                for entry in worker.table.iter_mut().filter(|entry| entry.epoch < first_open) {
                    entry.task = Task::Over;
                }
            }
            let stale = |epoch: u32| self.try_claim(0, epoch, u8::MAX).is_err_and(Refusal::is_final);
            if !(1..first_open).all(stale) {
                return Err("a doorbell of an epoch that is over still means something");
            }
        }
        Ok(rings(&acts))
    }

    fn claim(&mut self, worker: usize, slot: usize, answered: bool, protocol: Protocol) -> Result<(), &'static str> {
        let Entry { epoch, token, .. } = self.workers[worker].table[slot];
        match self.try_claim(worker, epoch, token) {
            Ok(claimed) => {
                if claimed != *self.record {
                    self.newest += 1;
                    self.workers[worker].table[slot].process = self.newest;
                    self.harmed = self.workers[worker].silent;
                    self.write(Decided { job: claimed, acts: vec![] }, false, protocol)?;
                }
                let entry = &mut self.workers[worker].table[slot];
                if answered {
                    entry.task = Task::Running;
                } else if !protocol.nonce {
                    self.tokens += 1;
                    (entry.token, entry.process) = (self.tokens, 0);
                }
            }
            Err(refusal) => {
                self.leave(worker, slot, !refusal.is_final());
            }
        }
        Ok(())
    }

    /// Reports the end of a process; answers whether the record changed, and asks for a bell.
    fn report(&mut self, entry: Entry, end: End, by: Ghost, protocol: Protocol) -> Result<Option<bool>, &'static str> {
        let outcome = end.outcome();
        let told = Told { epoch: Epoch(entry.epoch), token: Some(hash(entry.token)), outcome: &outcome };
        match settle::report((*self.record).clone(), told, &SITUATION, self.now, 0) {
            Ok(decided) => {
                if by != self.newest {
                    return Err("a stale result won: the report of an older run was taken for the newest one's");
                }
                let spent = decided.job.attempts_spent - self.record.attempts_spent;
                let asked = matches!(&self.record.state, State::Running(run) if run.stop.is_some());
                if spent != u32::from(end == End::Failure && !asked) {
                    return Err("attempts spent are not the runs that failed");
                }
                self.write(decided, false, protocol).map(Some)
            }
            Err(settle::Refused::Already | settle::Refused::Stale) => Ok(None),
        }
    }

    /// What the reaper can find out now. A lane's answer is not relied on, so both are tried.
    fn facts(&self, protocol: Protocol) -> Vec<Fact> {
        match (reap::ask(&self.record), &self.record.state) {
            (Ask::Lane(_), _) => vec![Fact::Visible(0), Fact::Visible(1)],
            (Ask::Beat(holder), State::Running(run)) => {
                let present = self.message(self.record.epoch.0);
                let beat = |counter, listed: bool| {
                    let running = if listed { vec![present] } else { vec![] };
                    vec![Fact::Beat(Some(Beat { holder: holder.clone(), counter, running }))]
                };
                match self.runner() {
                    Some(worker) if !self.workers[worker].silent => {
                        let lists = |entry: &Entry| entry.epoch == present.epoch.0 && entry.named;
                        let listed = !protocol.beat_names_runs || self.workers[worker].table.iter().any(lists);
                        beat(run.watch.counter + 1, listed)
                    }
                    Some(_) | None => beat(run.watch.counter, true),
                }
            }
            (Ask::Nothing | Ask::Beat(_), _) => vec![Fact::Nothing],
            (Ask::Task(..), _) => unreachable!("a job of the fleet has no task"),
        }
    }

    fn look(&mut self, fact: &Fact, rings: bool, protocol: Protocol) -> Result<(), &'static str> {
        self.now = self.now.max(self.record.due.unwrap_or(self.now));
        let (runner, losses) = (self.runner(), self.record.losses);
        if let Some(decided) = reap::look((*self.record).clone(), fact, &SITUATION, self.now)
            && self.write(decided, false, protocol)?
            && rings
        {
            self.ring();
        }
        if let (Some(worker), true) = (runner, self.record.losses > losses) {
            // One silence buries one run.
            self.workers[worker].silent = false;
        }
        Ok(())
    }

    /// A run leaves its worker's table; where nobody deletes its message, that becomes visible again.
    fn leave(&mut self, worker: usize, slot: usize, visible_again: bool) {
        let entry = self.workers[worker].table.remove(slot);
        if visible_again && entry.epoch == self.record.epoch.0 && !self.record.is_settled() {
            self.ring();
        }
    }

    /// A run leaves because something befell it.
    fn perish(&mut self, worker: usize, slot: usize) {
        self.harmed |= self.accepts(&self.workers[worker].table[slot]);
        self.leave(worker, slot, true);
    }

    /// Every step that can be taken from here.
    fn steps(&self, protocol: Protocol, mut take: impl FnMut(Step, Actor, Result<World, &'static str>)) {
        let mut step = |step: Step, actor: Actor, change: &mut dyn FnMut(&mut World) -> Result<(), &'static str>| {
            if actor == Actor::Fault && self.faults == 0 {
                return;
            }
            let mut world = self.clone();
            world.faults -= u8::from(actor == Actor::Fault);
            let changed = change(&mut world);
            take(step, actor, changed.map(|()| world));
        };
        if self.bag > 0 {
            step(Step::MessageIsLost, Actor::Fault, &mut |world| {
                world.bag -= 1;
                Ok(())
            });
        }
        for w in 0..2 {
            self.hearing(w, protocol, &mut step);
            for slot in 0..self.workers[w].table.len() {
                self.running(w, slot, protocol, &mut step);
            }
            self.breaking(w, &mut step);
        }
        if self.record.due.is_some() {
            for fact in self.facts(protocol) {
                step(Step::ReaperLooks, Actor::Reaper, &mut |world| world.look(&fact, true, protocol));
                step(Step::ReaperCrashes, Actor::Fault, &mut |world| world.look(&fact, false, protocol));
            }
        }
        if self.cancels > 0
            && let Ok(Some(decided)) = settle::cancel((*self.record).clone(), self.now, "user")
        {
            step(Step::UserCancels, Actor::Chance, &mut |world| {
                world.cancels -= 1;
                world.write(decided.clone(), false, protocol).map(|_| ())
            });
        }
        if self.retries > 0
            && let Ok(decided) = settle::retry((*self.record).clone(), &SITUATION, self.now, "user")
        {
            for (label, actor) in [(Step::UserRetries, Actor::Chance), (Step::UserCrashes, Actor::Fault)] {
                step(label, actor, &mut |world| {
                    world.retries -= 1;
                    if world.write(decided.clone(), true, protocol)? && actor != Actor::Fault {
                        world.ring();
                    }
                    Ok(())
                });
            }
        }
    }

    /// What a worker's ears can do.
    fn hearing(&self, w: usize, protocol: Protocol, step: &mut Taker<'_>) {
        let epoch = self.record.epoch.0;
        let table = &self.workers[w].table;
        // A doorbell that must wait is put back: nothing has changed.
        let not_now = self.record.phase() == Phase::Delayed;
        // While both are idle they are the same, and one stands for the other.
        let idle = |worker: &Worker| worker.table.is_empty() && worker.orphans.is_empty() && !worker.silent;
        let same = w > 0 && self.workers.iter().all(idle) && self.runner().is_none();
        if self.bag == 0 || table.len() == SLOTS || not_now || same {
            return;
        }
        if let Some(slot) = table.iter().position(|entry| entry.epoch == epoch) {
            step(Step::HearsTwice(w, epoch), Actor::Ears(w), &mut |world| {
                world.bag -= 1;
                world.workers[w].table[slot].named &= protocol.entered_once;
                Ok(())
            });
            return;
        }
        for (label, actor) in
            [(Step::Hears(w, epoch), Actor::Ears(w)), (Step::MessageComesTwice(w, epoch), Actor::Fault)]
        {
            step(label, actor, &mut |world| {
                world.bag -= u8::from(actor != Actor::Fault);
                world.tokens += 1;
                let entry = Entry { epoch, token: world.tokens, process: 0, task: Task::Asking, named: true };
                world.workers[w].table.push(entry);
                Ok(())
            });
        }
    }

    /// What can happen to one of a worker's runs.
    fn running(&self, w: usize, slot: usize, protocol: Protocol, step: &mut Taker<'_>) {
        let entry = self.workers[w].table[slot];
        let epoch = entry.epoch;
        let run = Actor::Run(w, self.record.epoch.0 - epoch);
        match entry.task {
            Task::Over => {
                step(Step::IsDone(w, epoch), run, &mut |world| {
                    world.leave(w, slot, false);
                    Ok(())
                });
                return;
            }
            Task::Asking => {
                step(Step::Claims(w, epoch), run, &mut |world| world.claim(w, slot, true, protocol));
                step(Step::ClaimAnswerIsLost(w, epoch), Actor::Fault, &mut |world| {
                    world.claim(w, slot, false, protocol)
                });
            }
            Task::Running => {
                let mut end = |label: Step, actor: Actor, end: End| {
                    step(label, actor, &mut |world| {
                        let worker = &mut world.workers[w];
                        worker.table[slot].task = Task::Ended(end, entry.process);
                        if end == End::Interrupted {
                            worker.orphans.push((epoch, entry.process));
                        }
                        Ok(())
                    });
                };
                for how in [End::Success, End::Failure] {
                    end(Step::ProcessEnds(w, epoch, how), run, how);
                }
                let order = settle::order(self.message(epoch), &self.holder(w), Some(&self.record));
                if let (Some(order), false) = (order, self.workers[w].silent) {
                    end(Step::IsTold(w, epoch, order.cause), Actor::Chance, End::Stopped(order.cause));
                }
                end(Step::IsInterrupted(w, epoch), Actor::Fault, End::Interrupted);
            }
            Task::Ended(end, by) => {
                step(Step::Reports(w, epoch), run, &mut |world| {
                    let changed = world.report(entry, end, by, protocol)?;
                    world.leave(w, slot, false);
                    if changed == Some(true) {
                        world.ring();
                    }
                    Ok(())
                });
                step(Step::ReportAnswerIsLost(w, epoch), Actor::Fault, &mut |world| {
                    world.report(entry, end, by, protocol).map(|_| ())
                });
                step(Step::DiesAfterReport(w, epoch), Actor::Fault, &mut |world| {
                    world.report(entry, end, by, protocol)?;
                    world.leave(w, slot, true);
                    Ok(())
                });
            }
        }
        step(Step::TaskDies(w, epoch), Actor::Fault, &mut |world| {
            world.perish(w, slot);
            Ok(())
        });
    }

    /// What can happen to a worker as a whole, and to what it left behind.
    fn breaking(&self, w: usize, step: &mut Taker<'_>) {
        let worker = &self.workers[w];
        for (n, (epoch, process)) in worker.orphans.iter().copied().enumerate() {
            for end in [End::Success, End::Failure] {
                step(Step::OrphanEnds(w, epoch, end), Actor::Chance, &mut |world| {
                    let worker = &mut world.workers[w];
                    worker.orphans.remove(n);
                    let running = |entry: &&mut Entry| entry.epoch == epoch && matches!(entry.task, Task::Running);
                    // It knows its epoch and reports by way of the table, as whatever stands there.
                    if let Some(entry) = worker.table.iter_mut().find(running) {
                        entry.task = Task::Ended(end, process);
                        let left = (epoch, entry.process);
                        worker.orphans.push(left);
                    }
                    Ok(())
                });
            }
        }
        if !worker.table.is_empty() || !worker.orphans.is_empty() {
            step(Step::Crashes(w), Actor::Fault, &mut |world| {
                world.harmed |= world.runner() == Some(w);
                while !world.workers[w].table.is_empty() {
                    world.perish(w, 0);
                }
                world.workers[w] = Worker { boot: world.workers[w].boot + 1, ..Worker::default() };
                Ok(())
            });
        }
        if worker.silent {
            step(Step::IsHeardAgain(w), Actor::Chance, &mut |world| {
                world.workers[w].silent = false;
                Ok(())
            });
        } else if self.runner() == Some(w) {
            step(Step::FallsSilent(w), Actor::Fault, &mut |world| {
                world.workers[w].silent = true;
                world.harmed = true;
                Ok(())
            });
        }
    }

    /// What is promised of every state.
    fn promises(&self) -> Result<(), &'static str> {
        if self.record.is_settled() == self.record.due.is_some() {
            return Err("a job is due while it has not ended, and no longer");
        }
        let mut speakers = 0;
        for (w, worker) in self.workers.iter().enumerate() {
            for entry in &worker.table {
                speakers += u32::from(self.accepts(entry));
                if let Task::Over = entry.task
                    && (self.answers(entry) || self.try_claim(w, entry.epoch, entry.token).is_ok())
                {
                    return Err("a run whose epoch is over can still change its job");
                }
            }
        }
        if speakers > 1 { Err("two claims are accepted at once") } else { Ok(()) }
    }

    /// Whether a report from there would change the record.
    fn answers(&self, entry: &Entry) -> bool {
        let outcome = Outcome::Succeeded(None);
        let told = Told { epoch: Epoch(entry.epoch), token: Some(hash(entry.token)), outcome: &outcome };
        settle::report((*self.record).clone(), told, &SITUATION, self.now, 0).is_ok()
    }

    /// Everything that what comes next depends on, and nothing else.
    fn key(&self) -> Key {
        let mut key = KeyWriter::default();
        let record = &self.record;
        let behind = |epoch: u32| (record.epoch.0 - epoch) as u8;
        key.put(record.phase() as u8 | ((record.attempts_allowed - record.attempts_spent) as u8) << 4);
        key.put(match &record.state {
            State::Dispatched { looks, .. } => (*looks).min(reap::LOOKS) as u8,
            State::Running(run) => {
                let runner = self.runner().map_or(2, |worker| worker as u8);
                runner | (run.watch.misses as u8) << 2 | u8::from(run.stop.is_some()) << 4
            }
            State::Delayed { .. } | State::Held { .. } | State::Settled(_) => 0,
        });
        key.put(self.faults | self.cancels << 2 | self.retries << 3 | self.bag << 4 | u8::from(self.harmed) << 6);
        let known = |entry: &Entry| match &record.state {
            State::Running(run) => run.token == hash(entry.token),
            State::Settled(settlement) => settlement.token == Some(hash(entry.token)),
            State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } => false,
        };
        let newest = |process: Ghost| u8::from(process == self.newest);
        for worker in &self.workers {
            key.put(u8::from(worker.silent) | (worker.table.len() as u8) << 1 | (worker.orphans.len() as u8) << 4);
            for entry in &worker.table {
                let flags = u8::from(known(entry)) | u8::from(entry.named) << 1 | newest(entry.process) << 2;
                let (flags, task) = match entry.task {
                    Task::Asking => (flags, 0),
                    Task::Running => (flags, 1),
                    Task::Ended(end, by) => (flags, 16 | end.code() << 1 | newest(by)),
                    Task::Over => (0, 2),
                };
                key.put(behind(entry.epoch) << 3 | flags);
                key.put(task);
            }
            let orphan = |(epoch, process): &(u32, Ghost)| behind(*epoch) << 1 | newest(*process);
            let mut orphans: Vec<u8> = worker.orphans.iter().map(orphan).collect();
            orphans.sort_unstable();
            orphans.into_iter().for_each(|orphan| key.put(orphan));
        }
        key.bytes
    }
}

/// Takes one step: its name, whose it is, and what it does.
type Taker<'a> = dyn FnMut(Step, Actor, &mut dyn FnMut(&mut World) -> Result<(), &'static str>) + 'a;

type Key = [u8; 24];

#[derive(Default)]
struct KeyWriter {
    bytes: Key,
    length: usize,
}

impl KeyWriter {
    fn put(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }
}

/// What a search found.
struct Searched {
    states: usize,
    /// The first promise that does not hold, with the shortest way there.
    broken: Option<(&'static str, Vec<Step>)>,
}

impl fmt::Display for Searched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} states", self.states)?;
        if let Some((promise, trace)) = &self.broken {
            write!(f, "; {promise}:")?;
            for step in trace {
                write!(f, "\n    {step}")?;
            }
        }
        Ok(())
    }
}

/// The states met so far, and what leads from one to the other.
#[derive(Default)]
struct Graph {
    known: HashMap<Key, u32>,
    /// How each state was first reached.
    from: Vec<(u32, Step)>,
    settled: Vec<bool>,
    /// Where each state's steps begin among `edges`.
    starts: Vec<u32>,
    /// Steps that are no faults.
    edges: Vec<(u32, Actor)>,
}

impl Graph {
    fn trace(&self, mut state: u32, last: Option<Step>) -> Vec<Step> {
        let mut trace: Vec<Step> = last.into_iter().collect();
        while state != 0 {
            let (before, step) = self.from[state as usize];
            trace.push(step);
            state = before;
        }
        trace.reverse();
        trace
    }

    fn edges(&self, state: u32) -> &[(u32, Actor)] {
        &self.edges[self.starts[state as usize] as usize..self.starts[state as usize + 1] as usize]
    }

    /// A state from which no luck whatever leads to an end without another fault.
    fn hopeless(&self) -> Option<u32> {
        let states = self.from.len();
        let mut back: Vec<Vec<u32>> = vec![vec![]; states];
        for state in 0..states as u32 {
            for (next, _) in self.edges(state) {
                back[*next as usize].push(state);
            }
        }
        let mut hope = self.settled.clone();
        let mut open: Vec<u32> = (0..states as u32).filter(|state| hope[*state as usize]).collect();
        while let Some(state) = open.pop() {
            for before in &back[state as usize] {
                if !std::mem::replace(&mut hope[*before as usize], true) {
                    open.push(*before);
                }
            }
        }
        hope.iter().position(|hope| !hope).map(|state| state as u32)
    }

    /// A circle of unsettled states that a fair schedule need not leave: whoever could act all the way round and
    /// leave it, would.
    fn circle(&self) -> Option<u32> {
        for component in self.components() {
            let inside = |state: u32| component.binary_search(&state).is_ok();
            let (mut always, mut stays, mut turns) = (u32::MAX, 0, false);
            for state in &component {
                let mut can = 0;
                for (next, actor) in self.edges(*state) {
                    can |= actor.bit();
                    if inside(*next) {
                        turns = true;
                        stays |= actor.bit();
                    }
                }
                always &= can;
            }
            if turns && always & !stays == 0 {
                return component.first().copied();
            }
        }
        None
    }

    /// The strongly connected components of the unsettled states, each sorted (Tarjan 1972, without recursion).
    fn components(&self) -> Vec<Vec<u32>> {
        let states = self.from.len();
        let (mut index, mut low) = (vec![u32::MAX; states], vec![0_u32; states]);
        let mut on_stack = vec![false; states];
        let (mut stack, mut components, mut counter) = (Vec::new(), Vec::new(), 0);
        for root in 0..states as u32 {
            if index[root as usize] != u32::MAX || self.settled[root as usize] {
                continue;
            }
            let mut calls: Vec<(u32, usize)> = vec![(root, 0)];
            while let Some((state, next)) = calls.last_mut() {
                let s = *state as usize;
                if *next == 0 {
                    (index[s], low[s]) = (counter, counter);
                    counter += 1;
                    stack.push(*state);
                    on_stack[s] = true;
                }
                let edge = self.edges(*state).get(*next).map(|(to, _)| *to);
                *next += 1;
                match edge {
                    Some(to) if self.settled[to as usize] => {}
                    Some(to) if index[to as usize] == u32::MAX => calls.push((to, 0)),
                    Some(to) if on_stack[to as usize] => low[s] = low[s].min(index[to as usize]),
                    Some(_) => {}
                    None => {
                        let state = *state;
                        calls.pop();
                        if let Some((caller, _)) = calls.last() {
                            low[*caller as usize] = low[*caller as usize].min(low[s]);
                        }
                        if low[s] == index[s] {
                            let mut component = Vec::new();
                            while let Some(member) = stack.pop() {
                                on_stack[member as usize] = false;
                                component.push(member);
                                if member == state {
                                    break;
                                }
                            }
                            component.sort_unstable();
                            components.push(component);
                        }
                    }
                }
            }
        }
        components
    }
}

/// Meets every state there is, or the first broken promise.
fn search(setup: Setup) -> Searched {
    let mut graph = Graph::default();
    let first = World::new(setup);
    graph.known.insert(first.key(), 0);
    graph.from.push((0, Step::ReaperLooks));
    graph.settled.push(false);
    let mut open = VecDeque::from([first]);
    let mut state = 0;
    while let Some(world) = open.pop_front() {
        let start = u32::try_from(graph.edges.len()).unwrap();
        graph.starts.push(start);
        let mut broken = None;
        if world.record.is_settled() && world.retries == 0 {
            // Every run is over, and was seen to be refused: nothing can happen any more.
            state += 1;
            continue;
        }
        world.steps(setup.protocol, |step, actor, next| {
            let next = match next {
                Ok(next) => next,
                Err(promise) => {
                    broken.get_or_insert((promise, step));
                    return;
                }
            };
            let new = u32::try_from(graph.from.len()).unwrap();
            let to = *graph.known.entry(next.key()).or_insert(new);
            if to == new {
                if let Err(promise) = next.promises() {
                    broken.get_or_insert((promise, step));
                }
                graph.from.push((state, step));
                graph.settled.push(next.record.is_settled());
                open.push_back(next);
            }
            if actor != Actor::Fault {
                graph.edges.push((to, actor));
            }
        });
        if let Some((promise, step)) = broken {
            return Searched { states: graph.from.len(), broken: Some((promise, graph.trace(state, Some(step)))) };
        }
        state += 1;
    }
    graph.starts.push(u32::try_from(graph.edges.len()).unwrap());
    let broken = match (graph.hopeless(), graph.circle()) {
        (Some(state), _) => Some(("the job never ends, whoever does what", graph.trace(state, None))),
        (None, Some(state)) => Some(("the job need never end, though nobody rests", graph.trace(state, None))),
        (None, None) => None,
    };
    Searched { states: graph.from.len(), broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(setup: Setup) {
        let found = search(setup);
        println!("{found}");
        assert!(found.broken.is_none(), "{found}");
    }

    /// The promise that three faults break when a protection is missing.
    fn broken_without(protocol: Protocol) -> &'static str {
        let found = search(Setup { protocol, ..THREE_FAULTS });
        println!("{found}");
        found.broken.expect("a protection that nothing needs is no protection").0
    }

    #[test]
    fn whatever_three_faults_do_the_job_ends_once_and_rightly() {
        holds(THREE_FAULTS);
    }

    #[test]
    fn a_cancellation_and_a_retry_by_hand_change_nothing_about_that() {
        holds(Setup { cancels: 1, retries: 1, ..THREE_FAULTS });
    }

    #[test]
    fn a_claim_that_cannot_be_repeated_strands_a_job_or_costs_it_a_loss() {
        let forgetful = Protocol { nonce: false, ..WHOLE };
        assert_eq!(broken_without(forgetful), "a run was buried although nothing had befallen it");
        let deaf = Protocol { beat_names_runs: false, ..forgetful };
        assert_eq!(broken_without(deaf), "the job never ends, whoever does what");
    }

    #[test]
    fn one_number_for_dispatches_and_attempts_lets_a_stale_result_win() {
        let found = broken_without(Protocol { epoch_apart_from_attempts: false, ..WHOLE });
        assert_eq!(found, "a stale result won: the report of an older run was taken for the newest one's");
    }

    /// What dies inside a living worker is missed by nobody else, until the run's own time is over.
    #[test]
    fn a_beat_that_does_not_name_its_runs_strands_a_job() {
        let found = broken_without(Protocol { beat_names_runs: false, ..WHOLE });
        assert_eq!(found, "the job never ends, whoever does what");
    }

    #[test]
    fn a_run_entered_twice_is_buried_alive() {
        let found = broken_without(Protocol { entered_once: false, ..WHOLE });
        assert_eq!(found, "a run was buried although nothing had befallen it");
    }

    /// The check on fair schedules finds what there is to find: two states that the reaper goes back and forth
    /// between are left only by who can always leave them.
    #[test]
    fn a_circle_is_one_that_nobody_is_always_able_to_leave() {
        let graph = |edges: [&[(u32, Actor)]; 3]| Graph {
            known: HashMap::new(),
            from: vec![(0, Step::ReaperLooks); 3],
            settled: vec![false, false, true],
            starts: edges
                .iter()
                .scan(0, |start, edges| Some(std::mem::replace(start, *start + edges.len() as u32)))
                .chain([edges.iter().map(|edges| edges.len() as u32).sum()])
                .collect(),
            edges: edges.concat(),
        };
        let (on, back, out) = ((1, Actor::Reaper), (0, Actor::Reaper), (2, Actor::Ears(0)));
        let sometimes = graph([&[on, out], &[back], &[]]);
        assert_eq!((sometimes.hopeless(), sometimes.circle()), (None, Some(0)));
        let always = graph([&[on, out], &[back, out], &[]]);
        assert_eq!((always.hopeless(), always.circle()), (None, None));
        assert_eq!(graph([&[on], &[back], &[]]).hopeless(), Some(0));
    }
}
