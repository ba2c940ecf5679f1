//! A look at how large the pools are and should be: read, decide, act, say.
//!
//! Everything is read at once: all groups in one call, who works in one query, and each queue. The queues say what waits:
//! they are asked directly, because CloudWatch's numbers come once a minute and sleep while a queue idles. Where every
//! slot is taken they show jobs that run, too, and where that decides, the ledger counts: see
//! [`switchyard_core::scale::wants_count`]. The ledger is not asked first, because it reads every open record.
//!
//! At most one call sets a pool's size, and only upward. AWS has no call that only grows: of two looks at once, which
//! happen where the function's concurrency is not reserved, the lesser may come last. What that takes back is instances
//! that boot, and the next look asks for them again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, join3};
use switchyard_core::job::Tier;
use switchyard_core::ports::{Ambient, Lane, Ledger, PortError, Worker};
use switchyard_core::route::{Limits, Pool, PoolName};
use switchyard_core::scale::{Backlog, Counted, GroupSeen, Rules, Seen, Verdict, WorkerSeen, decide, wants_count};

use crate::fleet_autoscaling::{GroupState, Groups, Lifecycle};
use crate::lanes_sqs::SqsLanes;
use crate::ledger_dynamodb::{DynamoLedger, lock};

/// So many boots an instance may be without a worker before it is taken to be no help. A boot that takes twice as long
/// happens; whoever is silent for four has a broken image, role or network.
const SILENT_BOOTS: u32 = 4;

/// Looks at pools. One for each process: it remembers which instances have been silent for how long.
pub struct Scaler {
    groups: Groups,
    lanes: SqsLanes,
    ledger: DynamoLedger,
    silence: Silence,
    /// Pools of which it was said that they have no group.
    without: Mutex<BTreeSet<PoolName>>,
}

/// What a look came to.
#[derive(Debug, Default)]
pub struct Round {
    /// Pool by pool.
    pub pools: Vec<Looked>,
    /// What all of them needed and could not be read.
    pub failures: Vec<PortError>,
}

/// What a look at one pool came to.
#[derive(Debug)]
pub struct Looked {
    /// The pool.
    pub pool: PoolName,
    /// What was decided, and where it is to grow, done; `None`: the pool has no group, and nobody sizes it.
    pub verdict: Option<Verdict>,
    /// Whether this is the first time that this process finds the pool without a group.
    pub first_without: bool,
    /// What could not be read or done for it. The size is as it was then, and the next look tries again.
    pub failures: Vec<PortError>,
}

/// What was read of one pool.
struct Read {
    seen: Seen,
    failures: Vec<PortError>,
}

impl Scaler {
    /// Looks at the pools of these groups, lanes and this ledger.
    pub fn new(groups: Groups, lanes: SqsLanes, ledger: DynamoLedger) -> Self {
        Self { groups, lanes, ledger, silence: Silence::default(), without: Mutex::default() }
    }

    /// Looks at all pools, or at one of them, and grows those that are too small. `ambient` says how long what waits has
    /// waited.
    pub async fn round(&self, limits: &Limits, only: Option<PoolName>, ambient: &dyn Ambient) -> Round {
        let pools: Vec<&Pool> = limits.pools.iter().filter(|pool| only.is_none_or(|only| pool.name == only)).collect();
        let names: Vec<PoolName> = pools.iter().map(|pool| pool.name).collect();
        if names.is_empty() {
            return Round::default();
        }
        let began = Instant::now();
        let backlogs = join_all(names.iter().map(|pool| self.backlog(*pool)));
        let live = async {
            let workers = self.ledger.workers_now().await?;
            // Read with them.
            Ok::<_, PortError>((workers, self.ledger.pauses().await?))
        };
        let (groups, live, backlogs) = join3(self.groups.look(&names), live, backlogs).await;
        let (workers, pauses) = match live {
            Ok((workers, pauses)) => (Ok(workers), Some(pauses)),
            Err(error) => (Err(error), None),
        };
        let (groups, unseen) = match groups {
            Ok(groups) => (Some(groups), None),
            Err(error) => (None, Some(error)),
        };
        let mut reads: Vec<(&Pool, Rules, Read)> = Vec::with_capacity(pools.len());
        let mut looked = Vec::with_capacity(pools.len());
        for (pool, backlog) in pools.into_iter().zip(backlogs) {
            let name = pool.name;
            let state = match &groups {
                None => None,
                Some(groups) => match groups.get(&name) {
                    Some(state) => Some(state),
                    None => {
                        let first_without = lock(&self.without).insert(name);
                        looked.push(Looked { pool: name, verdict: None, first_without, failures: Vec::new() });
                        continue;
                    }
                },
            };
            let listed = workers.as_ref().ok().map(|workers| of_pool(workers, name));
            let silent = match (state, &listed) {
                (Some(state), Some(listed)) => self.silence.count(pool, state, listed, began),
                (None, _) | (_, None) => 0,
            };
            let mut failures = Vec::new();
            let mut backlog = backlog.map_err(|error| failures.push(error)).ok();
            if let (Some(backlog), Some(pauses)) = (&mut backlog, &pauses) {
                // What is paused rings on, and nobody may answer it: whoever came for it would go home, again and again.
                for (tier, visible) in Tier::ALL.into_iter().zip(&mut backlog.visible) {
                    if pauses.tier_paused(tier) {
                        *visible = 0;
                    }
                }
            }
            let seen = Seen {
                age: Duration::ZERO,
                backlog,
                group: state.map(|state| counted(state, silent)),
                workers: listed.map(|listed| seen_of(&listed, state)),
            };
            reads.push((pool, Rules::of(limits, pool), Read { seen, failures }));
        }
        let asks = reads.iter().any(|(_, rules, read)| wants_count(&read.seen, rules));
        let count = if asks { Some(self.count(ambient).await) } else { None };
        let mut failures: Vec<PortError> = [unseen, workers.err()].into_iter().flatten().collect();
        let acts = reads.into_iter().map(|(pool, rules, read)| {
            let Read { mut seen, mut failures } = read;
            if wants_count(&seen, &rules) {
                match &count {
                    Some(Ok(counted)) => {
                        seen.backlog = seen.backlog.map(|backlog| Backlog { counted: Some(*counted), ..backlog });
                    }
                    // By the queues alone it might be twice as large as it should be.
                    Some(Err(_)) | None => seen.backlog = None,
                }
            }
            seen.age = began.elapsed();
            let mut verdict = decide(&seen, &rules);
            async move {
                if let Some(to) = verdict.grow_to
                    && let Err(error) = self.groups.set(pool.name, to).await
                {
                    verdict.grow_to = None;
                    failures.push(error);
                }
                Looked { pool: pool.name, verdict: Some(verdict), first_without: false, failures }
            }
        });
        looked.extend(join_all(acts).await);
        failures.extend(count.and_then(Result::err));
        Round { pools: looked, failures }
    }

    /// What the queues of a pool hold.
    async fn backlog(&self, pool: PoolName) -> Result<Backlog, PortError> {
        let lanes = Tier::ALL.map(|tier| Lane { pool, tier });
        let depths = join_all(lanes.iter().map(|lane| self.lanes.depth(lane))).await;
        let mut backlog = Backlog::default();
        for (tier, depth) in Tier::ALL.into_iter().zip(depths) {
            let (depth, rank) = (depth?, usize::from(tier.rank()));
            (backlog.visible[rank], backlog.in_flight[rank]) = (depth.visible, depth.in_flight);
        }
        Ok(backlog)
    }

    /// What the ledger says that waits, in all pools.
    async fn count(&self, ambient: &dyn Ambient) -> Result<Counted, PortError> {
        let now = ambient.now();
        let depths = self.ledger.depths(now).await?;
        Ok(Counted::of(&depths, now))
    }
}

/// Instances without a worker, and since when this process has seen them so. A process that starts has seen nothing: it
/// takes them for booting, and knows better after [`SILENT_BOOTS`].
#[derive(Default)]
struct Silence(Mutex<HashMap<String, (PoolName, Instant)>>);

impl Silence {
    /// How many running instances have had no worker for so long.
    fn count(&self, pool: &Pool, state: &GroupState, listed: &[&Worker], now: Instant) -> u32 {
        let (mut since, patience) = (lock(&self.0), pool.boot * SILENT_BOOTS);
        let there: BTreeSet<&str> = state.instances.iter().map(|instance| &*instance.id).collect();
        since.retain(|instance, (of, _)| *of != pool.name || there.contains(&**instance));
        let with_worker: BTreeSet<&str> = listed.iter().map(|worker| worker.holder.instance()).collect();
        let mut count = 0;
        for instance in &state.instances {
            let quiet = instance.lifecycle == Lifecycle::InService && !with_worker.contains(&*instance.id);
            if !quiet {
                since.remove(&instance.id);
            } else if now.duration_since(since.entry(instance.id.clone()).or_insert((pool.name, now)).1) > patience {
                count += 1;
            }
        }
        count
    }
}

fn of_pool(workers: &[Worker], pool: PoolName) -> Vec<&Worker> {
    workers.iter().filter(|worker| worker.pool == pool).collect()
}

/// A group's instances, counted.
fn counted(state: &GroupState, silent: u32) -> GroupSeen {
    let count = |lifecycle| {
        let of = state.instances.iter().filter(|instance| instance.lifecycle == lifecycle).count();
        u32::try_from(of).unwrap_or(u32::MAX)
    };
    GroupSeen {
        min: state.min,
        desired: state.desired,
        max: state.max,
        coming: count(Lifecycle::Coming),
        in_service: count(Lifecycle::InService),
        aside: count(Lifecycle::Aside),
        leaving: count(Lifecycle::Leaving),
        silent,
    }
}

/// Workers beside the group that they are in, or not.
fn seen_of(listed: &[&Worker], state: Option<&GroupState>) -> Vec<WorkerSeen> {
    let members: BTreeMap<&str, Lifecycle> = state
        .into_iter()
        .flat_map(|state| &state.instances)
        .map(|instance| (&*instance.id, instance.lifecycle))
        .collect();
    let in_group = |worker: &Worker| match members.get(worker.holder.instance()) {
        Some(Lifecycle::InService | Lifecycle::Coming) => true,
        Some(Lifecycle::Aside | Lifecycle::Leaving) | None => false,
    };
    listed.iter().map(|worker| WorkerSeen::of(worker, in_group(worker))).collect()
}

#[cfg(test)]
mod tests {
    use switchyard_core::job::Holder;
    use switchyard_core::ports::Room;

    use super::*;
    use crate::fleet_autoscaling::Instance;

    fn group(instances: &[(&str, Lifecycle)]) -> GroupState {
        let instance = |(id, lifecycle): &(&str, Lifecycle)| Instance {
            id: (*id).to_owned(),
            lifecycle: *lifecycle,
            healthy: true,
        };
        GroupState { min: 0, desired: 2, max: 9, instances: instances.iter().map(instance).collect() }
    }

    #[test]
    fn an_instance_is_silent_when_it_has_run_for_four_boots_without_a_worker() {
        let pool = &Limits::default().pools[0];
        let room = Room { slots: 2, milli_vcpu: 2000, memory_mib: 1024 };
        let worker = Worker {
            holder: Holder("i-1/0".to_owned()),
            pool: pool.name,
            capacity: room,
            free: room,
            since: jiff::Timestamp::UNIX_EPOCH,
            leaving: false,
        };
        let (silence, began) = (Silence::default(), Instant::now());
        let two = group(&[("i-1", Lifecycle::InService), ("i-2", Lifecycle::InService)]);
        let at = |boots: u32| began + pool.boot * boots + Duration::from_millis(1);
        assert_eq!(silence.count(pool, &two, &[&worker], began), 0);
        assert_eq!(silence.count(pool, &two, &[&worker], at(3)), 0);
        assert_eq!(silence.count(pool, &two, &[&worker], at(4)), 1);
        assert_eq!(silence.count(pool, &two, &[], at(5)), 1, "i-1 has been silent for a moment");
        // Its worker has come after all; and an instance that left and came again starts anew.
        assert_eq!(silence.count(pool, &group(&[("i-2", Lifecycle::Leaving)]), &[], at(6)), 0);
        assert_eq!(silence.count(pool, &two, &[], at(7)), 0);
        assert_eq!(silence.count(pool, &group(&[("i-3", Lifecycle::Coming)]), &[], at(20)), 0, "it boots");
    }

    #[test]
    fn a_worker_stands_where_its_instance_does() {
        let worker = |id: &str, leaving| Worker {
            holder: Holder(format!("{id}/0")),
            pool: PoolName::STANDARD,
            capacity: Room { slots: 2, milli_vcpu: 2000, memory_mib: 1024 },
            free: Room::default(),
            since: jiff::Timestamp::UNIX_EPOCH,
            leaving,
        };
        let state = group(&[("i-1", Lifecycle::InService), ("i-2", Lifecycle::Leaving), ("i-3", Lifecycle::Aside)]);
        let workers = [worker("i-1", false), worker("i-1", true), worker("i-2", true), worker("i-3", false)];
        let listed: Vec<&Worker> = workers.iter().collect();
        let seen: Vec<_> = seen_of(&listed, Some(&state)).into_iter().map(|seen| seen.standing).collect();
        use switchyard_core::scale::Standing::{Elsewhere, Leaves, Stays};
        assert_eq!(seen, [Stays, Leaves, Elsewhere, Elsewhere]);
    }
}
