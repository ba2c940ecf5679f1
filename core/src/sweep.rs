//! The sweep, both ways: what runs and has nothing to do with the yard any more, and what the yard believes in and is not
//! there. [`crate::reap`] looks at jobs that are overdue; the sweep looks at what is paid for by the minute.
//!
//! | what is seen | what may be wrong with it | what becomes of it |
//! |---|---|---|
//! | a worker that is listed, and no such machine in its pool's group | the machine was taken away | it is struck out |
//! | a machine at work, and no worker of its that is listed | it never became one, or hangs | it is ended, and its group gets smaller |
//! | a task, and no job that waits for it or runs in it | its stop was lost | it is stopped |
//! | a job in a task, and no task | the task was lost | [`crate::reap`] launches it again, or gives it up after two looks at its beat |
//!
//! Each of these looks like something that is well: a task that ends a moment after its job, a machine that boots, a list
//! that lags. So nothing is done about what is seen once. It is marked; what is still so at a later round is acted on, and what
//! is not any more loses its mark. What could not be looked at keeps its mark, and nothing is done about it. A mark is saved
//! before anything is done about it, in one write that only one of two rounds at once wins.
//!
//! Ages are taken from marks alone, which are the sweep's own: no machine's clock is asked.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use crate::job::{Holder, Job, Phase};
use crate::ports::{Ended, Inventory, Listed, Machines, Message, PortError, Stage, Worker, Yard, describe};
use crate::route::{PoolName, Venue};

#[cfg(test)]
mod tests;

/// The least that lies between a mark and what is done about it: two rounds a minute apart are two looks, also where the
/// second comes early, and two at once are one.
pub const LOOK_AGAIN: Duration = Duration::from_secs(45);
/// How long a machine may be without a worker. Eight boots (routing.yaml: 75 s); one that fails at it waits two minutes and
/// leaves by itself, and a worker that fails again and again is started again for some of it (infra/machine.yaml).
pub const SILENT: Duration = Duration::from_secs(600);
/// When a machine that was told to end and has not is told so again. A group that has taken the order ends it within its
/// lifecycle hook's two minutes; a second order before that could make the group smaller twice.
pub const END_AGAIN: Duration = Duration::from_secs(600);
/// The most that is done in a round. What is left keeps its mark, and the next round goes on.
pub const ACTS_MOST: usize = 20;
/// The most marks that are kept: 60 KB or so, of the 400 that an item holds.
pub const MARKS_MOST: usize = 500;

/// Something that may be none of the yard's any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Suspect {
    /// A worker that is listed, and whose machine is not there.
    Worker(Holder),
    /// A machine at work that no listed worker is on.
    Machine {
        /// Its pool.
        pool: PoolName,
        /// Its id.
        id: String,
    },
    /// A task for a run that no job is at.
    Task(Message),
}

/// What is remembered of a suspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Of which.
    pub suspect: Suspect,
    /// Since when every look has found it so.
    pub since: Timestamp,
    /// When it was last told to end, where telling it twice would do harm.
    pub told: Option<Timestamp>,
}

/// What a round has seen. `None`: it could not be looked at.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Who is listed.
    pub workers: Option<Vec<Worker>>,
    /// Who may be alive, listed or not; `None`: not known.
    pub perhaps: Option<Vec<Holder>>,
    /// The fleet's machines.
    pub machines: Option<Machines>,
    /// The tasks that run, and the jobs that they run for, as the ledger has them now.
    pub tasks: Option<(Listed<Message>, Vec<Job>)>,
}

/// What a round does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// What is remembered from now on, in the order in which it was marked.
    pub marks: Vec<Mark>,
    /// What is done, once that is saved.
    pub acts: Vec<Suspect>,
    /// What was seen and decided.
    pub swept: Swept,
}

/// What became of one kind of suspects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Suspects.
    pub found: u64,
    /// Those that were marked now, for a later round to look at again.
    pub marked: u64,
    /// Those that lost their mark: they are gone, or well.
    pub unmarked: u64,
    /// Those that were struck out, ended or stopped.
    pub done: u64,
    /// Those that turned out to be gone when something was to be done about them.
    pub already_done: u64,
    /// Those about which nothing could be done.
    pub errors: u64,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Listed workers.
    pub workers: Tally,
    /// Machines.
    pub machines: Tally,
    /// Tasks.
    pub tasks: Tally,
    /// Lists that could not be had, and marks that could not be read or kept.
    pub unseen: u64,
}

impl Swept {
    fn of(&mut self, suspect: &Suspect) -> &mut Tally {
        match suspect {
            Suspect::Worker(_) => &mut self.workers,
            Suspect::Machine { .. } => &mut self.machines,
            Suspect::Task(_) => &mut self.tasks,
        }
    }

    /// The kinds, by the names that metrics and logs have for them.
    pub fn kinds(&self) -> [(&'static str, Tally); 3] {
        [("worker", self.workers), ("machine", self.machines), ("task", self.tasks)]
    }

    /// Whatever went wrong.
    pub fn errors(&self) -> u64 {
        self.unseen + self.kinds().iter().map(|(_, tally)| tally.errors).sum::<u64>()
    }
}

/// Whether an instance's name is that of a machine of a fleet and not one that somebody gave theirs: `i-` and hexadecimal
/// digits (EC2, "Resource IDs").
fn is_machine(instance: &str) -> bool {
    let digits = instance.strip_prefix("i-").unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a job waits for this task or runs in it.
fn is_wanted(run: Message, jobs: &HashMap<crate::job::JobId, &Job>) -> bool {
    jobs.get(&run.id).is_some_and(|job| {
        let under_way = match job.phase() {
            Phase::Dispatched | Phase::Running => true,
            Phase::Delayed
            | Phase::Held
            | Phase::Succeeded
            | Phase::Failed
            | Phase::TimedOut
            | Phase::Cancelled
            | Phase::Expired => false,
        };
        under_way && job.epoch == run.epoch && job.route.venue() == Venue::Fargate
    })
}

impl Seen {
    /// What may be wrong with what was seen.
    fn suspects(&self) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        if let (Some(workers), Some(_), Some(fleet)) = (&self.workers, &self.perhaps, &self.machines) {
            let there: HashSet<&str> = fleet.machines.iter().map(|machine| machine.id.as_str()).collect();
            let of_a_group =
                |worker: &&Worker| is_machine(worker.holder.instance()) && fleet.pools.contains(&worker.pool);
            let gone = workers.iter().filter(of_a_group).filter(|one| !there.contains(one.holder.instance()));
            suspects.extend(gone.map(|worker| Suspect::Worker(worker.holder.clone())));
            let listed: HashSet<&str> = self.perhaps.iter().flatten().map(Holder::instance).collect();
            let silent = fleet.machines.iter().filter(|one| one.stage == Stage::AtWork);
            let silent = silent.filter(|one| !listed.contains(one.id.as_str()));
            suspects.extend(silent.map(|one| Suspect::Machine { pool: one.pool, id: one.id.clone() }));
        }
        if let Some((tasks, jobs)) = &self.tasks {
            let jobs: HashMap<_, _> = jobs.iter().map(|job| (job.id, job)).collect();
            let orphans = tasks.found.iter().filter(|run| !is_wanted(**run, &jobs));
            suspects.extend(orphans.map(|run| Suspect::Task(*run)));
        }
        suspects
    }

    /// Whether this round could have seen that a suspect is one no more.
    fn would_show(&self, suspect: &Suspect) -> bool {
        match suspect {
            Suspect::Worker(_) | Suspect::Machine { .. } => {
                self.workers.is_some() && self.perhaps.is_some() && self.machines.is_some()
            }
            Suspect::Task(run) => {
                self.tasks.as_ref().is_some_and(|(tasks, _)| tasks.whole || tasks.found.contains(run))
            }
        }
    }
}

impl Mark {
    /// Whether it is time to do something about it.
    fn is_ripe(&self, now: Timestamp) -> bool {
        match &self.suspect {
            // Doing these twice does no harm.
            Suspect::Worker(_) | Suspect::Task(_) => now >= self.since + LOOK_AGAIN,
            Suspect::Machine { .. } => {
                now >= self.since + SILENT && self.told.is_none_or(|told| now >= told + END_AGAIN)
            }
        }
    }
}

/// Decides what is remembered of a round, and what is done.
pub fn judge(before: &[Mark], seen: &Seen, now: Timestamp) -> Judgement {
    let mut swept = Swept::default();
    let suspects = seen.suspects();
    let suspected: HashSet<&Suspect> = suspects.iter().collect();
    let mut marks = Vec::with_capacity(before.len());
    for mark in before {
        if !seen.would_show(&mark.suspect) {
            // A machine is ended for a silence that was heard all the time: what was not looked at begins anew.
            let since = if matches!(mark.suspect, Suspect::Machine { .. }) { now } else { mark.since };
            marks.push(Mark { since, ..mark.clone() });
        } else if suspected.contains(&mark.suspect) {
            marks.push(mark.clone());
        } else {
            swept.of(&mark.suspect).unmarked += 1;
        }
    }
    let known: HashSet<&Suspect> = before.iter().map(|mark| &mark.suspect).collect();
    let mut new = HashSet::new();
    for suspect in &suspects {
        swept.of(suspect).found += 1;
        if !known.contains(suspect) && new.insert(suspect) && marks.len() < MARKS_MOST {
            swept.of(suspect).marked += 1;
            marks.push(Mark { suspect: suspect.clone(), since: now, told: None });
        }
    }
    let ripe = marks.iter_mut().filter(|mark| suspected.contains(&mark.suspect) && mark.is_ripe(now));
    let mut acts = Vec::new();
    for mark in ripe.take(ACTS_MOST) {
        if matches!(mark.suspect, Suspect::Machine { .. }) {
            mark.told = Some(now);
        }
        acts.push(mark.suspect.clone());
    }
    Judgement { marks, acts, swept }
}

/// One round: everything is looked at once; what was so before is acted on, each for itself.
///
/// It has no errors of its own: what failed is counted, and met again in the next round.
pub async fn round(yard: &Yard, inventory: &dyn Inventory) -> Swept {
    let mut unseen = 0;
    let mut or_unseen = |what: &'static str, error: &PortError| {
        unseen += 1;
        warn!(part = what, error = %describe(error), "not swept in this round");
    };
    // Of one list: what fails of it is told once, and then nothing of it is known.
    let (workers, perhaps) = match (yard.workers.list().await, yard.workers.perhaps().await) {
        (Ok(workers), Ok(perhaps)) => (Some(workers), Some(perhaps)),
        (Err(error), _) | (_, Err(error)) => {
            or_unseen("workers", &error);
            (None, None)
        }
    };
    let seen = Seen {
        workers,
        perhaps,
        machines: inventory.machines().await.inspect_err(|error| or_unseen("machines", error)).ok(),
        tasks: tasks(yard, inventory).await.inspect_err(|error| or_unseen("tasks", error)).ok(),
    };
    let before = match inventory.marks().await {
        Ok(before) => before,
        Err(error) => {
            or_unseen("marks", &error);
            return Swept { unseen, ..Swept::default() };
        }
    };
    let Judgement { marks, acts, mut swept } = judge(&before.marks, &seen, yard.ambient.now());
    swept.unseen = unseen;
    if marks != before.marks {
        match inventory.remember(&before, marks).await {
            Ok(true) => {}
            // Another round was at it, and does what is to be done.
            Ok(false) => return Swept { unseen, ..Swept::default() },
            Err(error) => {
                warn!(part = "marks", error = %describe(&error), "nothing is swept without them");
                return Swept { unseen: unseen + 1, ..Swept::default() };
            }
        }
    }
    for suspect in &acts {
        let outcome = act(yard, inventory, suspect).await;
        tell(suspect, &outcome);
        let tally = swept.of(suspect);
        match outcome {
            Ok(Ended::Done) => tally.done += 1,
            Ok(Ended::Gone) => tally.already_done += 1,
            Err(_) => tally.errors += 1,
        }
    }
    yard.meters.swept(&swept);
    for (part, tally) in swept.kinds() {
        let Tally { found, marked, unmarked, done, already_done, errors } = tally;
        if tally != Tally::default() {
            info!(part, found, marked, unmarked, done, already_done, errors, "swept");
        }
    }
    swept
}

/// The tasks that run, and then their jobs: a job is saved before its task is launched, so that none of these is older.
async fn tasks(yard: &Yard, inventory: &dyn Inventory) -> Result<(Listed<Message>, Vec<Job>), PortError> {
    let tasks = inventory.tasks().await?;
    if !tasks.whole {
        warn!(tasks = tasks.found.len(), "more tasks run than one round looks at");
    }
    let mut ids: Vec<_> = tasks.found.iter().map(|run| run.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let jobs = if ids.is_empty() { Vec::new() } else { yard.ledger.load_all(&ids).await? };
    Ok((tasks, jobs))
}

async fn act(yard: &Yard, inventory: &dyn Inventory, suspect: &Suspect) -> Result<Ended, PortError> {
    match suspect {
        Suspect::Worker(holder) => inventory.strike_out(holder).await.map(|()| Ended::Done),
        Suspect::Machine { pool, id } => inventory.end_machine(*pool, id).await,
        Suspect::Task(run) => yard.launcher.stop(run.id, run.epoch, Venue::Fargate).await.map(|()| Ended::Done),
    }
}

fn tell(suspect: &Suspect, outcome: &Result<Ended, PortError>) {
    let (outcome, error) = match outcome {
        Ok(Ended::Done) => ("done", None),
        Ok(Ended::Gone) => ("gone", None),
        Err(error) => ("failed", Some(describe(error))),
    };
    match suspect {
        Suspect::Worker(holder) => warn!(%holder, outcome, error, "a worker is listed whose machine is not there"),
        Suspect::Machine { pool, id } => {
            warn!(%pool, instance = id, outcome, error, "a machine has no worker that is listed");
        }
        Suspect::Task(run) => {
            warn!(job.id = %run.id, job.epoch = %run.epoch, outcome, error, "a task runs that no job is at");
        }
    }
}
