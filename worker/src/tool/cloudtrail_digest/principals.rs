//! Who called, and what of it is worth a word: the riskiest by name, the rest counted together.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};
use switchyard_core::job::one_line;

use super::record::Record;
use super::risk::{Reason, denied};

/// Principals that are held: when there are so many, the less risky half is let go.
const HELD: usize = 2000;
/// Principals that are told by name.
const SHOWN: usize = 100;
/// Source addresses that are kept of one principal.
const ADDRESSES: usize = 10;
/// What is kept of a name: an ARN is at most 2,048 bytes, and most are under a hundred.
const NAME_BYTES: usize = 200;
/// What is kept of a source address, which can be a service's name.
const ADDRESS_BYTES: usize = 64;
/// Refused calls of one principal in ten minutes by the clock that are no longer a mistake.
const BURST: u64 = 50;
const BURST_REASON: Reason =
    Reason { code: "denied_burst", points: 20, because: "it was refused again and again, as who tries what it may" };

/// All that called.
#[derive(Debug, Default)]
pub(super) struct Principals {
    held: HashMap<String, Principal>,
    let_go: Others,
    /// How often each reason was met by anybody.
    totals: BTreeMap<&'static str, u64>,
}

/// One that called.
#[derive(Debug, Default)]
pub(super) struct Principal {
    calls: u64,
    failed: u64,
    denied: u64,
    first: Option<String>,
    last: Option<String>,
    addresses: BTreeSet<String>,
    addresses_more: bool,
    reasons: BTreeMap<Reason, Count>,
    /// The ten minutes that the last refused call was in (`2026-01-31T12:0`), and the refused calls in them.
    burst: (String, u64),
}

/// How often there was a reason.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    calls: u64,
    failed: u64,
}

/// Those that are not told by name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Others {
    /// How many; one that was let go and came back counts again.
    pub(super) principals: u64,
    calls: u64,
    failed: u64,
}

impl Principals {
    /// Counts a record.
    pub(super) fn add(&mut self, record: &Record<'_>, reasons: &[Reason]) {
        let name = one_line(&record.principal(), NAME_BYTES);
        if !self.held.contains_key(&name) && self.held.len() >= HELD {
            self.let_go();
        }
        for reason in reasons {
            *self.totals.entry(reason.code).or_default() += 1;
        }
        if self.held.entry(name).or_default().add(record, reasons) {
            *self.totals.entry(BURST_REASON.code).or_default() += 1;
        }
    }

    /// How often each reason was met, also by those that are not told by name.
    pub(super) fn totals(&self) -> &BTreeMap<&'static str, u64> {
        &self.totals
    }

    /// Makes room: the riskier half stays.
    fn let_go(&mut self) {
        let mut all: Vec<(String, Principal)> = self.held.drain().collect();
        all.sort_by(|one, other| rank(one).cmp(&rank(other)));
        for (_, principal) in all.drain(HELD / 2..) {
            self.let_go.add(&principal);
        }
        self.held.extend(all);
    }

    /// The riskiest by name, and the others counted together.
    pub(super) fn ranked(&self) -> (Vec<(&str, &Principal)>, Others) {
        let mut all: Vec<(&str, &Principal)> = self.held.iter().map(|(name, one)| (name.as_str(), one)).collect();
        all.sort_by(|one, other| rank_of(one.0, one.1).cmp(&rank_of(other.0, other.1)));
        let mut others = self.let_go;
        all.iter().skip(SHOWN).for_each(|(_, principal)| others.add(principal));
        all.truncate(SHOWN);
        (all, others)
    }
}

type Rank<'a> = (Reverse<u16>, Reverse<u64>, &'a str);

fn rank((name, principal): &(String, Principal)) -> Rank<'_> {
    rank_of(name, principal)
}

/// The riskiest first, then who called most.
fn rank_of<'a>(name: &'a str, principal: &Principal) -> Rank<'a> {
    (Reverse(principal.risk()), Reverse(principal.calls), name)
}

impl Principal {
    /// Counts a record, and says whether it made a burst of refusals.
    fn add(&mut self, record: &Record<'_>, reasons: &[Reason]) -> bool {
        let failed = record.failed();
        self.calls += 1;
        self.failed += u64::from(failed);
        for reason in reasons {
            let count = self.reasons.entry(*reason).or_default();
            count.calls += 1;
            count.failed += u64::from(failed);
        }
        if let Some(address) = &record.source_address {
            let address = one_line(address, ADDRESS_BYTES);
            if self.addresses.len() < ADDRESSES {
                self.addresses.insert(address);
            } else if !self.addresses.contains(&address) {
                self.addresses_more = true;
            }
        }
        let at = record.at();
        if let Some(at) = at {
            if self.first.as_deref().is_none_or(|first| at < first) {
                self.first = Some(at.to_owned());
            }
            if self.last.as_deref().is_none_or(|last| at > last) {
                self.last = Some(at.to_owned());
            }
        }
        if !denied(record) {
            return false;
        }
        self.denied += 1;
        // What has no time counts as one span of its own.
        let span = at.map_or("", |at| &at[..15]);
        if self.burst.0 != span {
            self.burst = (span.to_owned(), 0);
        }
        self.burst.1 += 1;
        if self.burst.1 == BURST {
            self.reasons.entry(BURST_REASON).or_default().calls += 1;
        }
        self.burst.1 == BURST
    }

    /// The points of its reasons, each once, and half of those whose calls all failed; at most 100.
    pub(super) fn risk(&self) -> u16 {
        self.reasons.iter().map(|(reason, count)| points(reason, *count)).sum::<u16>().min(100)
    }

    /// Its reasons, the weightiest first.
    fn weighed(&self) -> Vec<(&Reason, Count)> {
        let mut all: Vec<(&Reason, Count)> = self.reasons.iter().map(|(reason, count)| (reason, *count)).collect();
        all.sort_by_key(|(reason, count)| (Reverse(points(reason, *count)), reason.code));
        all
    }

    /// What it did, for people, one reason a line.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |(reason, count): (&Reason, Count)| {
            let failed = if count.failed > 0 { format!(", failed: {}", count.failed) } else { String::new() };
            format!(
                "{:>3}  {}: {} (calls: {}{failed})",
                points(reason, count),
                reason.code,
                reason.because,
                count.calls
            )
        };
        self.weighed().into_iter().map(line).collect()
    }

    pub(super) fn to_json(&self, name: &str) -> Value {
        let reason = |(reason, count): (&Reason, Count)| {
            json!({
                "code": reason.code,
                "points": points(reason, count),
                "because": reason.because,
                "calls": count.calls,
                "failed": count.failed,
            })
        };
        json!({
            "principal": name,
            "risk": self.risk(),
            "reasons": self.weighed().into_iter().map(reason).collect::<Vec<_>>(),
            "calls": self.calls,
            "failed_calls": self.failed,
            "denied_calls": self.denied,
            "first": self.first,
            "last": self.last,
            "source_addresses": self.addresses,
            "more_source_addresses": self.addresses_more,
        })
    }
}

/// What a reason weighs: who only tried is half as bad.
fn points(reason: &Reason, count: Count) -> u16 {
    if count.failed == count.calls { reason.points / 2 } else { reason.points }
}

impl Others {
    fn add(&mut self, principal: &Principal) {
        self.principals += 1;
        self.calls += principal.calls;
        self.failed += principal.failed;
    }

    pub(super) fn to_json(self) -> Value {
        json!({ "principals": self.principals, "calls": self.calls, "failed_calls": self.failed })
    }
}
