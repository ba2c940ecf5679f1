//! However what runs emit is repeated, reordered, cut into batches and lost on the way, every good record is kept once,
//! every bad line is parked with its reason, and the register is the same in the end.

use std::collections::{BTreeMap, BTreeSet};

use futures_lite::future::block_on;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::memory::Memory;
use switchyard_core::policies::Situation;
use switchyard_core::ports::{RecordQuery, Yard};
use switchyard_core::records::{Became, Code, Emitted, Register, RegisterQuery, Registered, judge, take};
use switchyard_core::route::Limits;

const CATALOG: &str = "version: 1
capabilities:
  - name: scan
    summary: emits
    run: { command: [scan] }
    emits:
      asset: { type: object, properties: { port: { type: integer } } }
      finding: true
";

fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn home() -> (Memory, Yard, Vec<JobId>) {
    let home = Memory::new(start(), 1);
    let catalog = Catalog::parse("c.yaml", CATALOG, &[], &BTreeMap::new()).unwrap();
    let yard = home.yard(catalog, Limits::one_machine(1024));
    let jobs = ["a", "b"].map(|key| {
        let (submission, digest) = intake::read(json!({ "capability": "scan" }).to_string().as_bytes()).unwrap();
        let situation = Situation { policies: yard.policies(), ..Situation::default() };
        let sender = Sender { caller: "tests", key: Some(key) };
        let taking = Taking::default();
        let prepared =
            intake::prepare(&submission, digest, sender, &situation, taking, start(), yard.ambient.random()).unwrap();
        block_on(intake::accept(&yard, vec![prepared])).unwrap().remove(0).unwrap().job.id
    });
    (home, yard, jobs.to_vec())
}

fn line(job: JobId, epoch: u32, n: u64, line: &str) -> Emitted {
    let at = start() - SignedDuration::from_secs(i64::try_from(n * 7 % 5).unwrap());
    Emitted { job, epoch: Epoch(epoch), n, at, line: line.to_owned() }
}

#[test]
fn every_bad_line_has_its_reason_and_takes_no_other_along() {
    let (home, yard, jobs) = home();
    let good = r#"{"kind":"asset","id":"host:a","port":22}"#;
    let lines = [
        (line(jobs[0], 1, 1, good), None),
        (line(jobs[0], 1, 2, "{"), Some(Code::NotJson)),
        (line(jobs[0], 1, 3, "[]"), Some(Code::NotAnObject)),
        (line(jobs[0], 1, 4, r#"{"kind":"asset","id":"a","port":"x"}"#), Some(Code::DoesNotFit)),
        (line(jobs[0], 1, 5, r#"{"kind":"metric","name":"m","value":1}"#), Some(Code::NotEmitted)),
        (line(jobs[0], 0, 6, good), Some(Code::UnknownEpoch)),
        (line(jobs[0], 2, 7, good), Some(Code::UnknownEpoch)),
        (line(JobId::keyed("tests", "never"), 1, 8, good), Some(Code::UnknownJob)),
        (line(jobs[0], 1, 1, r#"{"kind":"asset","id":"another"}"#), Some(Code::Conflict)),
        (line(jobs[0], 1, 9, &"x".repeat(300_000)), Some(Code::TooLarge)),
        (line(jobs[1], 1, 1, good), None),
    ];
    let (emitted, codes): (Vec<Emitted>, Vec<Option<Code>>) = lines.into_iter().unzip();
    let became = block_on(take(&yard, "stream", &emitted));
    for ((line, code), became) in emitted.iter().zip(&codes).zip(&became) {
        match (code, became) {
            (None, Became::Stored) => {}
            (Some(code), Became::Refused(refused)) => assert_eq!(refused.code, *code, "{:.80}", line.line),
            other => panic!("{:.80}: {other:?}", line.line),
        }
    }
    let parked = home.parked();
    assert_eq!(parked.len(), codes.iter().flatten().count());
    assert!(parked.iter().any(|one| one.body == "{" && one.refused.reason.starts_with("it is not JSON")));
    let again = block_on(take(&yard, "stream", &emitted));
    assert_eq!(again.iter().filter(|became| **became == Became::Known).count(), 2, "the same again changes nothing");
    assert_eq!(home.parked().len(), parked.len(), "and is parked once");
}

#[test]
fn what_cannot_be_parked_or_kept_comes_again() {
    let (home, yard, jobs) = home();
    let lines = [line(jobs[0], 1, 1, r#"{"kind":"asset","id":"a"}"#), line(jobs[0], 1, 2, "{")];
    home.lose(2);
    let became = block_on(take(&yard, "stream", &lines));
    assert!(became.iter().all(|became| matches!(became, Became::Later(_))), "{became:?}");
    let became = block_on(take(&yard, "stream", &lines));
    assert!(matches!(became[..], [Became::Known, Became::Refused(_)]), "{became:?}");
}

/// What runs emit: good lines and bad ones, of two jobs.
fn lines(jobs: &[JobId], said: &[(usize, u8)]) -> Vec<Emitted> {
    let text = |n: u64, what: u8| match what {
        0..4 => json!({ "kind": "asset", "id": format!("host:{what}"), "port": n }).to_string(),
        4..6 => json!({ "kind": "finding", "id": format!("f-{what}"), "n": n }).to_string(),
        6 => json!({ "kind": "log", "message": "not emitted" }).to_string(),
        _ => "{".to_owned(),
    };
    let of = |(n, (job, what)): (u64, &(usize, u8))| line(jobs[*job], 1, n, &text(n, *what));
    (1..).zip(said).map(of).collect()
}

proptest! {
    #[test]
    fn duplicates_and_reorderings_change_nothing(
        said in prop::collection::vec((0..2_usize, 0..8_u8), 1..40),
        order in prop::collection::vec((any::<prop::sample::Index>(), 1..12_usize), 1..60),
        losses in prop::collection::vec(0..4_u64, 60),
    ) {
        let (home, yard, jobs) = home();
        let lines = lines(&jobs, &said);
        // Batches from anywhere, of any length, again and again; at last all of them, until nothing is to come again.
        for ((from, length), loss) in order.iter().zip(&losses) {
            let from = from.index(lines.len());
            let mut batch: Vec<Emitted> = lines[from..lines.len().min(from + length)].to_vec();
            batch.reverse();
            home.lose(*loss);
            block_on(take(&yard, "stream", &batch));
        }
        home.lose(0);
        let became = block_on(take(&yard, "stream", &lines));
        prop_assert!(became.iter().all(|became| !matches!(became, Became::Later(_))));
        // What there must be, by the pure decision alone.
        let mut kept: BTreeSet<(JobId, u64)> = BTreeSet::new();
        let mut parked: BTreeSet<String> = BTreeSet::new();
        let mut entries: BTreeMap<(Register, String), Registered> = BTreeMap::new();
        for line in &lines {
            let job = block_on(yard.ledger.load(line.job)).unwrap();
            match judge(line, job.as_ref(), &yard.policies(), start()) {
                Ok(record) => {
                    kept.insert((record.job, record.n));
                    if let Some((register, seen)) = Registered::of(&record) {
                        let at = (register, seen.id.clone());
                        let entry = match entries.remove(&at) {
                            Some(known) => known.with(seen),
                            None => seen,
                        };
                        entries.insert(at, entry);
                    }
                }
                Err(_) => drop(parked.insert(format!("{}/{}/{}", line.job, line.epoch, line.n))),
            }
        }
        let mut found = BTreeSet::new();
        for job in &jobs {
            let query = RecordQuery { job: *job, kind: None, after: None, limit: 500 };
            let records = block_on(yard.ledger.records(&query)).unwrap();
            found.extend(records.iter().map(|record| (record.job, record.n)));
            prop_assert_eq!(records.len(), kept.iter().filter(|(of, _)| of == job).count());
        }
        prop_assert_eq!(found, kept);
        let names: Vec<String> = home.parked().into_iter().map(|one| one.name).collect();
        prop_assert_eq!(names.len(), parked.len(), "each is parked once");
        prop_assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), parked);
        for register in Register::ALL {
            let query = RegisterQuery { register, capability: None, since: None, after: None, limit: 500 };
            let page = block_on(yard.ledger.registered(&query)).unwrap();
            let wanted: Vec<Registered> =
                entries.iter().filter(|((of, _), _)| *of == register).map(|(_, entry)| entry.clone()).collect();
            prop_assert_eq!(page.entries, wanted);
        }
    }
}
