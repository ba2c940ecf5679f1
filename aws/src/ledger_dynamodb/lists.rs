//! Lists and counts, from the indexes. A reaper's round asks them; nothing scans the table.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use jiff::Timestamp;
use switchyard_core::job::{Job, JobId, Phase, Tier};
use switchyard_core::ports::{Depths, PortError, Query, Spend, TierDepth};
use switchyard_core::route::Venue;

use super::item::{
    self, BESIDE, CALLER, CAPABILITY, CAPABILITY_KEY, COST, CREATED, DUE_AT, DUE_KEY, Expression, GONE, Item, PERMIT,
    PHASE, PK, RECENT_KEY, SINCE, SK, TIER, VENUE, capability_pk, created_key, job_of_pk, main_key, n, number, s,
    shards, text, time,
};
use super::{DynamoLedger, lock};
use crate::failure::failed;

/// Records that one list looks at, at most, before it asks for a narrower question. A filter that nothing matches would
/// else read the whole table, a request for each hundred records.
const LOOKED_AT: usize = 20_000;
/// Entries of an index that one page asks for.
const PAGE: i32 = 1000;

/// A condition on a sort key: its name, a comparison, and the values that the comparison names.
pub(super) type Range<'a> = (&'a str, &'a str, Vec<(&'a str, AttributeValue)>);

/// Part of an index: one partition, and a condition on the sort key.
pub(super) struct Part<'a> {
    pub(super) index: Option<&'a str>,
    pub(super) key: (&'a str, String),
    pub(super) range: Option<Range<'a>>,
    /// A condition on what the index shows, with its names and values.
    pub(super) filter: Option<(String, Expression)>,
    pub(super) newest_first: bool,
    pub(super) limit: Option<i32>,
}

impl<'a> Part<'a> {
    pub(super) fn of(index: &'a str, key: &'a str, value: String) -> Self {
        Self { index: Some(index), key: (key, value), range: None, filter: None, newest_first: false, limit: None }
    }
}

/// Where a page of an index ended.
pub(super) type Last = std::collections::HashMap<String, AttributeValue>;

impl DynamoLedger {
    /// One page of a part of an index, and where the next begins.
    pub(super) async fn page(
        &self,
        part: &Part<'_>,
        from: Option<Last>,
        operation: &'static str,
    ) -> Result<(Vec<Item>, Option<Last>), PortError> {
        let mut of = part.filter.as_ref().map(|(_, of)| of.clone()).unwrap_or_default();
        let (name, value) = &part.key;
        let mut condition = format!("{} = {}", of.name(name), of.value("part", s(&**value)));
        if let Some((name, comparison, values)) = &part.range {
            condition.push_str(&format!(" AND {} {comparison}", of.name(name)));
            for (name, value) in values {
                of.value(name, value.clone());
            }
        }
        let query = self.0.client.query().table_name(&self.0.table).set_index_name(part.index.map(str::to_owned));
        let query = query.key_condition_expression(condition).scan_index_forward(!part.newest_first);
        let query = query.set_filter_expression(part.filter.as_ref().map(|(filter, _)| filter.clone()));
        let query = query.set_expression_attribute_names(Some(of.names));
        let query = query.set_expression_attribute_values(Some(of.values));
        // An index is never consistent, and DynamoDB refuses to pretend.
        let query = query.consistent_read(part.index.is_none()).set_exclusive_start_key(from).set_limit(part.limit);
        let found = query.send().await.map_err(|error| failed(operation, self.subject_at(value), &error))?;
        Ok((found.items.unwrap_or_default(), found.last_evaluated_key.filter(|last| !last.is_empty())))
    }

    /// All of a part of an index, page by page, until `enough` says so.
    pub(super) async fn all(
        &self,
        part: &Part<'_>,
        operation: &'static str,
        mut enough: impl FnMut(&[Item]) -> bool + Send,
    ) -> Result<Vec<Item>, PortError> {
        let mut items = Vec::new();
        let mut from = None;
        loop {
            let (some, last) = self.page(part, from, operation).await?;
            items.extend(some);
            if last.is_none() || enough(&items) {
                return Ok(items);
            }
            from = last;
        }
    }

    /// What is in all shards of the index `due`, of what is open (`D`) or has ended (`E`).
    async fn everywhere(
        &self,
        letter: char,
        range: Option<(&str, Timestamp)>,
        filter: Option<&(String, Expression)>,
        limit: Option<usize>,
        operation: &'static str,
    ) -> Result<Vec<Item>, PortError> {
        let parts: Vec<Part<'_>> = shards(letter)
            .map(|shard| Part {
                range: range.map(|(comparison, at)| (DUE_AT, comparison, vec![("at", n(at.as_millisecond()))])),
                filter: filter.cloned(),
                limit: limit.map(|limit| i32::try_from(limit).unwrap_or(PAGE).min(PAGE)),
                ..Part::of("due", DUE_KEY, shard)
            })
            .collect();
        let enough = |items: &[Item]| limit.is_some_and(|limit| items.len() >= limit);
        let asked = parts.iter().map(|part| self.all(part, operation, enough));
        let mut items = Vec::new();
        for found in join_all(asked).await {
            items.extend(found?);
        }
        Ok(items)
    }

    /// See [`switchyard_core::ports::Ledger::due`].
    pub(super) async fn due_by(&self, now: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError> {
        let mut items = self.everywhere('D', Some(("<= :at", now)), None, Some(limit), "list due jobs").await?;
        items.sort_by_key(|item| number(item, DUE_AT));
        Ok(items.iter().filter_map(job_of_pk).take(limit).collect())
    }

    /// See [`switchyard_core::ports::Ledger::forgettable`]. Where the table forgets by itself, that is left to it: it
    /// costs nothing. What has something beside it is not.
    pub(super) async fn forgettable_by(&self, before: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError> {
        let filter = self.0.forgetting.retention.map(|_| {
            let mut of = Expression::default();
            let filter = format!("attribute_exists({})", of.name(BESIDE));
            (filter, of)
        });
        let range = Some(("< :at", before));
        let mut items = self.everywhere('E', range, filter.as_ref(), Some(limit), "list jobs to forget").await?;
        items.sort_by_key(|item| number(item, DUE_AT));
        Ok(items.iter().filter_map(job_of_pk).take(limit).collect())
    }

    /// See [`switchyard_core::ports::Ledger::count`].
    pub(super) async fn count_phases(&self) -> Result<Vec<(Phase, u64)>, PortError> {
        let mut counts: BTreeMap<Phase, u64> = BTreeMap::new();
        for letter in ['D', 'E'] {
            for item in self.everywhere(letter, None, None, None, "count jobs").await? {
                if let Some(phase) = phase(&item) {
                    *counts.entry(phase).or_default() += 1;
                }
            }
        }
        Ok(counts.into_iter().collect())
    }

    /// See [`switchyard_core::ports::Ledger::spend`].
    pub(super) async fn spend_since(&self, since: Timestamp) -> Result<Vec<Spend>, PortError> {
        let ended = self.everywhere('E', Some((">= :at", since)), None, None, "add up what jobs cost").await?;
        let mut spent: BTreeMap<(String, Venue), (u64, u64)> = BTreeMap::new();
        for item in &ended {
            let venue = text(item, VENUE).and_then(|venue| Venue::ALL.into_iter().find(|of| of.as_str() == venue));
            let (Some(capability), Some(venue)) = (text(item, CAPABILITY), venue) else { continue };
            let (jobs, cost) = spent.entry((capability.to_owned(), venue)).or_default();
            *jobs += 1;
            *cost += number(item, COST).unwrap_or(0).unsigned_abs();
        }
        let spend = |((capability, venue), (jobs, nanodollars))| Spend { capability, venue, jobs, nanodollars };
        let mut spent: Vec<Spend> = spent.into_iter().map(spend).collect();
        spent.sort_by_key(|spend| Reverse(spend.nanodollars));
        Ok(spent)
    }

    /// See [`switchyard_core::ports::Ledger::depths`].
    pub(super) async fn count_depths(&self, since: Timestamp) -> Result<Depths, PortError> {
        let open = self.everywhere('D', None, None, None, "count what waits").await?;
        let ended = self.everywhere('E', Some((">= :at", since)), None, None, "count what ended").await?;
        Ok(depths(&open, &ended))
    }

    /// See [`switchyard_core::ports::Ledger::open_jobs`].
    pub(super) async fn open_jobs_of(&self, caller: &str, most: u64) -> Result<u64, PortError> {
        let mut of = Expression::default();
        let filter = format!("{} = {}", of.name(CALLER), of.value("caller", s(caller)));
        let filter = (filter, of);
        let items = self.everywhere('D', None, Some(&filter), None, "count a caller's jobs").await?;
        let open = items.iter().filter(|item| phase(item).is_some_and(|phase| !phase.is_settled())).count();
        Ok((open as u64).min(most))
    }

    /// How many jobs of a capability run without a permit. As long as a limit is in force none begins to, so that none
    /// is remembered for a while.
    pub(super) async fn unnumbered(&self, capability: &str) -> Result<usize, PortError> {
        /// A process that does not know of the limit yet may start one: it reads its policies again within as much.
        const REMEMBERED: std::time::Duration = std::time::Duration::from_secs(15);
        let now = std::time::Instant::now();
        if lock(&self.0.numbered).get(capability).is_some_and(|since| now < *since + REMEMBERED) {
            return Ok(0);
        }
        let mut of = Expression::default();
        let filter = format!(
            "{} = {} AND {} = {} AND attribute_not_exists({})",
            of.name(CAPABILITY),
            of.value("cap", s(capability)),
            of.name(PHASE),
            of.value("running", s(Phase::Running.as_str())),
            of.name(PERMIT)
        );
        let filter = (filter, of);
        let running = self.everywhere('D', None, Some(&filter), None, "count the runs of").await?;
        if running.is_empty() {
            lock(&self.0.numbered).insert(capability.to_owned(), now);
        }
        Ok(running.len())
    }

    /// See [`switchyard_core::ports::Ledger::list`].
    pub(super) async fn list_jobs(&self, query: &Query) -> Result<Vec<Job>, PortError> {
        let open = query.phase.is_some_and(|phase| !phase.is_settled());
        if open && query.capability.is_none() {
            return self.list_open(query).await;
        }
        let parts: Vec<Part<'_>> = match &query.capability {
            Some(capability) => vec![Part::of("capability", CAPABILITY_KEY, capability_pk(capability))],
            None => shards('R').map(|shard| Part::of("recent", RECENT_KEY, shard)).collect(),
        };
        let (from, to) = bounds(query);
        let page = i32::try_from(query.limit.clamp(20, 100)).unwrap_or(100);
        let range = ("BETWEEN :from AND :to", vec![("from", s(from)), ("to", s(to))]);
        let mut walks: Vec<Walk<'_>> = parts
            .into_iter()
            .map(|part| Walk {
                part: Part {
                    range: Some((CREATED, range.0, range.1.clone())),
                    newest_first: true,
                    limit: Some(page),
                    ..part
                },
                found: Vec::new(),
                next: Some(None),
            })
            .collect();
        let mut listed = Vec::new();
        let mut looked_at = 0;
        while listed.len() < query.limit {
            // Every walk that has run dry takes its next page, all at once.
            let dry = walks.iter_mut().filter(|walk| walk.found.is_empty() && walk.next.is_some());
            for filled in join_all(dry.map(|walk| walk.fill(self))).await {
                filled?;
            }
            let mut keys = Vec::new();
            while keys.len() < 100 && !walks.iter().any(|walk| walk.found.is_empty() && walk.next.is_some()) {
                // The newest of all heads. Each walk is newest first; its head is at the end.
                let newest = walks.iter_mut().filter(|walk| !walk.found.is_empty()).max_by_key(|walk| walk.head());
                let Some(item) = newest.and_then(|walk| walk.found.pop()) else { break };
                keys.extend(job_of_pk(&item));
            }
            if keys.is_empty() && walks.iter().all(|walk| walk.found.is_empty() && walk.next.is_none()) {
                break;
            }
            looked_at += keys.len();
            listed.extend(self.hydrate(keys, query).await?);
            if looked_at >= LOOKED_AT && listed.len() < query.limit {
                let why = format!(
                    "{LOOKED_AT} records were looked at: ask for a capability, a state that is open, or a shorter time"
                );
                return Err(PortError::permanent("list", self.subject("jobs"), why));
            }
        }
        listed.truncate(query.limit);
        Ok(listed)
    }

    /// Jobs in an open phase: few beside those that have ended, and all in one index.
    async fn list_open(&self, query: &Query) -> Result<Vec<Job>, PortError> {
        let mut of = Expression::default();
        let wanted = query.phase.map_or("", Phase::as_str);
        let filter = format!("{} = {}", of.name(PHASE), of.value("phase", s(wanted)));
        let filter = (filter, of);
        let items = self.everywhere('D', None, Some(&filter), None, "list jobs").await?;
        if items.len() > LOOKED_AT {
            let why = format!("{} jobs are {wanted}: ask for a capability", items.len());
            return Err(PortError::permanent("list", self.subject("jobs"), why));
        }
        let ids: Vec<JobId> = items.iter().filter_map(job_of_pk).collect();
        let mut listed = self.hydrate(ids, query).await?;
        listed.sort_by_key(|job| Reverse((job.created, job.id)));
        listed.truncate(query.limit);
        Ok(listed)
    }

    /// The records of these jobs as they are now, in the same order: those of them that the query asks for still.
    async fn hydrate(&self, ids: Vec<JobId>, query: &Query) -> Result<Vec<Job>, PortError> {
        // A job that moves within an index while that is read stands in two places.
        let once: std::collections::BTreeSet<JobId> = ids.iter().copied().collect();
        let keys = once.into_iter().map(main_key).collect();
        let items = self.get_all(keys, Some(&[PK, SK, item::RECORD, GONE]), "read for a list").await?;
        let mut jobs: BTreeMap<JobId, Job> = BTreeMap::new();
        for item in items.iter().filter(|item| !self.is_over(item)) {
            match item::job(item, "list") {
                Ok(job) => drop(jobs.insert(job.id, job)),
                // One that cannot be read must not hide the others.
                Err(error) => {
                    let error = switchyard_core::ports::describe(&error);
                    tracing::error!(%error, "a job's record cannot be read, and is left out");
                }
            }
        }
        let wanted = |job: &Job| {
            query.phase.is_none_or(|phase| job.phase() == phase)
                && query.capability.as_ref().is_none_or(|name| job.work.capability == *name)
                && query.label.as_ref().is_none_or(|label| job.work.labels.contains(label))
                && query.before.is_none_or(|before| (job.created, job.id) < before)
                && query.since.is_none_or(|since| job.created >= since)
        };
        Ok(ids.iter().filter_map(|id| jobs.remove(id)).filter(wanted).collect())
    }
}

/// A walk down one partition of an index, newest first.
struct Walk<'a> {
    part: Part<'a>,
    /// What was read and not taken yet, the newest last.
    found: Vec<Item>,
    /// Where the next page starts; `None`: there is none.
    next: Option<Option<Last>>,
}

impl Walk<'_> {
    fn head(&self) -> Option<String> {
        self.found.last().and_then(|item| text(item, CREATED)).map(str::to_owned)
    }

    async fn fill(&mut self, ledger: &DynamoLedger) -> Result<(), PortError> {
        while self.found.is_empty()
            && let Some(from) = self.next.take()
        {
            let (mut found, last) = ledger.page(&self.part, from, "list jobs").await?;
            found.reverse();
            self.found = found;
            self.next = last.map(Some);
        }
        Ok(())
    }
}

/// Between which sort keys the wanted jobs lie. Both ends are included, and judged again.
fn bounds(query: &Query) -> (String, String) {
    let from = query.since.map_or_else(|| "0".to_owned(), |since| created_key(since, ""));
    let to = query.before.map_or_else(|| "9~".to_owned(), |(created, id)| created_key(created, id));
    (from, to)
}

fn phase(item: &Item) -> Option<Phase> {
    text(item, PHASE)?.parse().ok()
}

/// What stands where, by what the index shows.
fn depths(open: &[Item], ended: &[Item]) -> Depths {
    let mut phases: BTreeMap<Phase, u64> = BTreeMap::new();
    let mut tiers: BTreeMap<Tier, TierDepth> = BTreeMap::new();
    let mut capabilities: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for item in open {
        let Some(phase) = phase(item).filter(|phase| !phase.is_settled()) else { continue };
        *phases.entry(phase).or_default() += 1;
        let rank = number(item, TIER);
        let tier = Tier::ALL.into_iter().find(|tier| Some(i64::from(tier.rank())) == rank);
        if let (Some(tier), Some(since)) = (tier, time(item, SINCE)) {
            let depth = tiers.entry(tier).or_insert(TierDepth { tier, waiting: 0, held: 0, oldest: since });
            depth.oldest = depth.oldest.min(since);
            *(if phase == Phase::Held { &mut depth.held } else { &mut depth.waiting }) += 1;
        }
        let Some(capability) = text(item, CAPABILITY) else { continue };
        let uses = item.contains_key(PERMIT) || phase == Phase::Running;
        if uses || phase == Phase::Held {
            let (used, held) = capabilities.entry(capability.to_owned()).or_default();
            *used += u64::from(uses);
            *held += u64::from(phase == Phase::Held);
        }
    }
    let mut done: BTreeMap<Phase, u64> = BTreeMap::new();
    for phase in ended.iter().filter_map(phase) {
        *done.entry(phase).or_default() += 1;
    }
    Depths {
        open: phases.into_iter().collect(),
        tiers: tiers.into_values().collect(),
        capabilities: capabilities.into_iter().map(|(name, (used, held))| (name, used, held)).collect(),
        ended: done.into_iter().collect(),
    }
}
