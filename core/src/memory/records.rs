//! What runs emitted, and what is parked.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;

use super::Memory;
use crate::job::{Epoch, JobId};
use crate::ports::{self, Parked, PortError, RecordQuery, Siding};
use crate::records::{Record, Register, RegisterPage, RegisterQuery, Registered};

/// What is kept of it.
#[derive(Default)]
pub(super) struct Kept {
    records: BTreeMap<(JobId, Epoch, u64), Record>,
    registers: BTreeMap<(Register, String), Registered>,
    parked: Vec<Parked>,
}

impl Kept {
    fn keep(&mut self, record: &Record) -> ports::Kept {
        match self.records.get(&record.name()) {
            Some(known) if known.body == record.body => ports::Kept::Known,
            Some(_) => ports::Kept::Conflict,
            None => {
                self.records.insert(record.name(), record.clone());
                if let Some((register, seen)) = Registered::of(record) {
                    let key = (register, seen.id.clone());
                    let entry = match self.registers.remove(&key) {
                        Some(known) => known.with(seen),
                        None => seen,
                    };
                    self.registers.insert(key, entry);
                }
                ports::Kept::New
            }
        }
    }

    pub(super) fn list(&self, query: &RecordQuery) -> Vec<Record> {
        let after = query.after.unwrap_or((Epoch(0), 0));
        let of_job = self.records.values().filter(|record| record.job == query.job);
        let asked = of_job
            .filter(|record| (record.epoch, record.n) > after)
            .filter(|record| query.kind.is_none_or(|kind| record.kind == kind));
        asked.take(query.limit).cloned().collect()
    }

    pub(super) fn page(&self, query: &RegisterQuery) -> RegisterPage {
        let of = |(register, id): &(Register, String)| {
            *register == query.register && query.after.as_ref().is_none_or(|after| id > after)
        };
        let asked = self.registers.iter().filter(|(key, entry)| of(key) && query.asks_for(entry));
        let entries: Vec<Registered> = asked.map(|(_, entry)| entry.clone()).take(query.limit).collect();
        let full = entries.len() == query.limit;
        RegisterPage { next: entries.last().filter(|_| full).map(|last| last.id.clone()), entries }
    }

    pub(super) fn forget(&mut self, id: JobId) {
        self.records.retain(|(job, ..), _| *job != id);
    }

    pub(super) fn forget_before(&mut self, seen_before: Timestamp, limit: usize) -> u64 {
        let old = self.registers.iter().filter(|(_, entry)| entry.last_seen < seen_before);
        let old: Vec<(Register, String)> = old.map(|(key, _)| key.clone()).take(limit).collect();
        for key in &old {
            self.registers.remove(key);
        }
        old.len() as u64
    }
}

impl Memory {
    /// What is parked so far.
    pub fn parked(&self) -> Vec<Parked> {
        self.kept().records.parked.clone()
    }

    pub(super) fn keep_all(&self, records: &[Record]) -> Vec<Result<ports::Kept, PortError>> {
        let mut kept = self.kept();
        let became: Vec<ports::Kept> = records.iter().map(|record| kept.records.keep(record)).collect();
        drop(kept);
        // Each may lose its answer alone.
        became.into_iter().map(|one| self.answer("keep", one)).collect()
    }
}

#[async_trait]
impl Siding for Memory {
    async fn park(&self, parked: &[Parked]) -> Result<(), PortError> {
        let mut kept = self.kept();
        for one in parked {
            let same = |other: &Parked| (&other.name, &other.body) == (&one.name, &one.body);
            if !kept.records.parked.iter().any(same) {
                kept.records.parked.push(one.clone());
            }
        }
        drop(kept);
        self.answer("park", ())
    }
}
