//! What stands where, counted from the indexes: what the yard at a glance shows.
//!
//! It costs a look at each open job and at each that ended in the time asked for, a microsecond or so each, on the
//! scanner's thread; jobs that ended before are not read, however many are kept.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, Row};
use switchyard_core::job::{Phase, Tier};
use switchyard_core::ports::{Depths, TierDepth};

/// Counts.
pub(crate) fn depths(connection: &Connection, since: Timestamp) -> rusqlite::Result<Depths> {
    let number = |row: &Row<'_>, column: usize| row.get::<_, i64>(column).map(i64::unsigned_abs);
    let by_phase = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        let mut statement = connection.prepare_cached(sql)?;
        let count = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, number(row, 1)?));
        let counted = statement.query_map(values, count)?.collect::<rusqlite::Result<Vec<_>>>()?;
        let mut counts: Vec<(Phase, u64)> =
            counted.into_iter().filter_map(|(phase, count)| Some((phase.parse().ok()?, count))).collect();
        counts.sort();
        Ok::<_, rusqlite::Error>(counts)
    };
    let open =
        by_phase("SELECT phase, count(*) FROM jobs WHERE due IS NOT NULL AND settled IS NULL GROUP BY phase", &[])?;
    let since = since.as_millisecond();
    let ended =
        "SELECT phase, count(*) FROM jobs WHERE settled IS NOT NULL AND due IS NULL AND settled >= ?1 GROUP BY phase";
    let ended = by_phase(ended, &[&since])?;
    let mut tiers: BTreeMap<Tier, TierDepth> = BTreeMap::new();
    let mut add = |tier: Option<Tier>, oldest: i64, waiting: u64, held: u64| {
        let (Some(tier), Ok(oldest)) = (tier, Timestamp::from_millisecond(oldest)) else { return };
        let depth = tiers.entry(tier).or_insert(TierDepth { tier, waiting: 0, held: 0, oldest });
        depth.oldest = depth.oldest.min(oldest);
        (depth.waiting, depth.held) = (depth.waiting + waiting, depth.held + held);
    };
    let ranked = |wanted: u8| Tier::ALL.into_iter().find(|tier| tier.rank() == wanted);
    // A lane's name ends in its tier.
    let lanes = "SELECT lane, count(*), min(rang) FROM jobs WHERE lane IS NOT NULL GROUP BY lane";
    let mut lanes = connection.prepare_cached(lanes)?;
    let mut rows = lanes.query([])?;
    while let Some(row) = rows.next()? {
        let lane: String = row.get(0)?;
        let tier = lane.rsplit('/').next().and_then(|rank| ranked(rank.parse().ok()?));
        add(tier, row.get(2)?, number(row, 1)?, 0);
    }
    let held = "SELECT tier, count(*), min(rang) FROM jobs WHERE phase = 'held' GROUP BY tier";
    let mut held = connection.prepare_cached(held)?;
    let mut rows = held.query([])?;
    while let Some(row) = rows.next()? {
        add(ranked(row.get(0)?), row.get(2)?, 0, number(row, 1)?);
    }
    let mut capabilities: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut count = |sql: &str, held: bool| {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let counts = capabilities.entry(row.get(0)?).or_default();
            *(if held { &mut counts.1 } else { &mut counts.0 }) += number(row, 1)?;
        }
        Ok::<_, rusqlite::Error>(())
    };
    count("SELECT capability, count(*) FROM jobs WHERE permit IS NOT NULL GROUP BY capability", false)?;
    let unnumbered =
        "SELECT capability, count(*) FROM jobs WHERE phase = 'running' AND permit IS NULL GROUP BY capability";
    count(unnumbered, false)?;
    count("SELECT capability, count(*) FROM jobs WHERE phase = 'held' GROUP BY capability", true)?;
    Ok(Depths {
        open,
        tiers: tiers.into_values().collect(),
        capabilities: capabilities.into_iter().map(|(name, (used, held))| (name, used, held)).collect(),
        ended,
    })
}
