//! What runs emit: kept once each, listed as it came, and seen last in the register.

use super::*;
use crate::ports::{Emission, Kept, RecordQuery};
use crate::records::{Code, Emitted, Kind, Record, Register, RegisterPage, RegisterQuery};

/// A record of a job's first run.
fn record(job: &Job, n: u64, kind: Kind, id: &str, at: Timestamp) -> Record {
    let id = matches!(kind, Kind::Asset | Kind::Finding).then(|| id.to_owned());
    let body = json!({ "kind": kind.as_str(), "id": id, "n": n }).to_string();
    Record { job: job.id, epoch: Epoch(1), n, at, capability: "greet".to_owned(), kind, id, body }
}

async fn keep(yard: &Yard, records: &[Record]) -> Vec<Kept> {
    let kept = yard.ledger.keep_records(records).await;
    kept.into_iter().map(|kept| kept.expect("keep")).collect()
}

async fn list(yard: &Yard, job: JobId, kind: Option<Kind>, after: Option<(Epoch, u64)>, limit: usize) -> Vec<Record> {
    yard.ledger.records(&RecordQuery { job, kind, after, limit }).await.expect("list")
}

fn all(register: Register) -> RegisterQuery {
    RegisterQuery { register, capability: None, since: None, after: None, limit: 100 }
}

async fn registered(yard: &Yard, query: &RegisterQuery) -> RegisterPage {
    yard.ledger.registered(query).await.expect("list")
}

fn ids(page: &RegisterPage) -> Vec<&str> {
    page.entries.iter().map(|entry| entry.id.as_str()).collect()
}

pub(super) async fn a_record_is_kept_once_and_another_of_its_name_changes_nothing(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "a", now)]).await.remove(0);
    let records = [
        record(&job, 1, Kind::Asset, "host:a", now),
        record(&job, 2, Kind::Metric, "", now),
        record(&job, 3, Kind::Log, "", now),
    ];
    assert_eq!(keep(yard, &[]).await, []);
    assert_eq!(keep(yard, &records[..2]).await, [Kept::New; 2]);
    assert_eq!(keep(yard, &records).await, [Kept::Known, Kept::Known, Kept::New], "each for itself");
    let other = Record { body: r#"{"kind":"metric","another":1}"#.to_owned(), ..records[1].clone() };
    let later = Record { at: now + seconds(9), ..records[0].clone() };
    assert_eq!(keep(yard, &[other, later]).await, [Kept::Conflict, Kept::Known], "what it says counts, not when");
    assert_eq!(list(yard, job.id, None, None, 10).await, records);
}

pub(super) async fn records_are_listed_as_they_were_emitted_and_page_by_page(yard: &Yard) {
    let now = today(yard);
    let jobs = put(yard, [greeting(yard, "a", now), greeting(yard, "b", now)]).await;
    let kinds = [Kind::Metric, Kind::Log];
    let mut records: Vec<Record> =
        (1..=120).map(|n| record(&jobs[0], n, kinds[usize::from(n % 40 == 0)], "", now)).collect();
    records.extend((1..=30).map(|n| Record { epoch: Epoch(10), ..record(&jobs[0], n, Kind::Metric, "", now) }));
    records.extend((1..=2).map(|n| Record { epoch: Epoch(9), ..record(&jobs[0], n, Kind::Metric, "", now) }));
    let stranger = record(&jobs[1], 1, Kind::Metric, "", now);
    // In no order, as a stream may bring them.
    let mut shuffled = records.clone();
    shuffled.reverse();
    shuffled.swap(3, 77);
    shuffled.insert(50, stranger.clone());
    assert_eq!(keep(yard, &shuffled).await, vec![Kept::New; 153]);
    records.sort_by_key(Record::name);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = list(yard, jobs[0].id, None, after, 40).await;
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 40, "no more than asked for");
        after = Some((last.epoch, last.n));
        paged.extend(page);
    }
    assert!(paged == records, "no gap and no repeat, by epoch and then by number");
    let logs: Vec<u64> = list(yard, jobs[0].id, Some(Kind::Log), None, 2).await.iter().map(|log| log.n).collect();
    assert_eq!(logs, [40, 80], "a filter fills its page");
    assert_eq!(list(yard, jobs[1].id, None, None, 10).await, [stranger]);
    assert_eq!(list(yard, JobId::keyed("contract", "never"), None, None, 10).await, []);
}

pub(super) async fn the_register_has_each_thing_once_as_it_was_seen_last(yard: &Yard) {
    let now = today(yard);
    let jobs = put(yard, [greeting(yard, "a", now), greeting(yard, "b", now)]).await;
    let first = record(&jobs[0], 1, Kind::Asset, "host:a", now - seconds(60));
    keep(yard, &[first.clone(), record(&jobs[0], 2, Kind::Finding, "host:a", now)]).await;
    let newest = record(&jobs[1], 1, Kind::Asset, "host:a", now);
    let older = record(&jobs[1], 2, Kind::Asset, "host:a", now - seconds(90));
    keep(yard, std::slice::from_ref(&newest)).await;
    keep(yard, std::slice::from_ref(&older)).await;
    // The same moment: the name decides, and not who comes last.
    let same = record(&jobs[1], 3, Kind::Asset, "host:a", now);
    keep(yard, &[same.clone(), record(&jobs[1], 4, Kind::Metric, "", now)]).await;
    keep(yard, &[first.clone(), newest, older.clone()]).await;
    let entries = registered(yard, &all(Register::Assets)).await.entries;
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!((entry.job, entry.n, &entry.body, entry.last_seen), (same.job, same.n, &same.body, now));
    assert_eq!((entry.first_seen, entry.capability.as_str()), (older.at, "greet"));
    let findings = registered(yard, &all(Register::Findings)).await;
    assert_eq!((ids(&findings), findings.entries[0].job), (vec!["host:a"], jobs[0].id), "a register of their own");
}

pub(super) async fn a_register_is_listed_by_id_page_by_page_and_narrowed(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "a", now)]).await.remove(0);
    let names: Vec<String> = (0..70).map(|n| format!("host:{:02}", n * 9 % 70)).collect();
    let records: Vec<Record> = (1..)
        .zip(&names)
        .map(|(n, id)| Record {
            capability: if id.ends_with('5') { "knock" } else { "greet" }.to_owned(),
            ..record(&job, n, Kind::Asset, id, now - seconds(u64::from(id.ends_with('0')) * 600))
        })
        .collect();
    keep(yard, &records).await;
    let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let walk = async |query: RegisterQuery| {
        let (mut found, mut query) = (Vec::new(), query);
        loop {
            let page = registered(yard, &query).await;
            assert!(page.entries.len() <= query.limit, "no more than asked for");
            found.extend(page.entries.into_iter().map(|entry| entry.id));
            let Some(next) = page.next else { return found };
            assert!(query.after.as_ref() < Some(&next), "a page begins after the last");
            query.after = Some(next);
        }
    };
    for limit in [1, 9, 70, 100] {
        let query = RegisterQuery { limit, ..all(Register::Assets) };
        assert_eq!(walk(query.clone()).await, sorted, "no gap and no repeat, {limit} a page");
        let of = |last: char, is: bool| {
            sorted.iter().filter(move |id| id.ends_with(last) == is).copied().collect::<Vec<_>>()
        };
        let knock = RegisterQuery { capability: Some("knock".to_owned()), ..query.clone() };
        assert_eq!(walk(knock).await, of('5', true));
        let lately = RegisterQuery { since: Some(now - seconds(60)), ..query };
        assert_eq!(walk(lately).await, of('0', false));
    }
    let strange = ["", "a/b#c", "host:10.0.0.1", "ä🚂", "~"].map(|id| format!("x{id}"));
    let records: Vec<Record> = (100..).zip(&strange).map(|(n, id)| record(&job, n, Kind::Finding, id, now)).collect();
    keep(yard, &records).await;
    let mut strange = strange.to_vec();
    strange.sort_unstable();
    let page = registered(yard, &all(Register::Findings)).await;
    assert_eq!(ids(&page), strange, "by their bytes");
}

pub(super) async fn what_a_job_emitted_goes_with_it_and_the_register_stays(yard: &Yard) {
    let long_ago = today(yard) - Duration::from_secs(30 * 24 * 3600);
    let jobs = put(yard, [greeting(yard, "a", long_ago), greeting(yard, "b", long_ago)]).await;
    for job in &jobs {
        keep(yard, &[record(job, 1, Kind::Asset, "host:a", long_ago), record(job, 2, Kind::Log, "", long_ago)]).await;
    }
    succeed(yard, &jobs[0], 1, long_ago).await;
    yard.ledger.forget(&[jobs[0].id, jobs[1].id]).await.expect("forget");
    assert_eq!(list(yard, jobs[0].id, None, None, 10).await, []);
    assert_eq!(registered(yard, &all(Register::Assets)).await.entries.len(), 1, "what was seen is known still");
}

pub(super) async fn what_a_run_emits_is_taken_as_long_as_it_holds_its_job(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "a", now)]).await.remove(0);
    let running = win(yard, &claim_of(&job, 1), now).await;
    let desk = YardDesk(yard.clone());
    let line = |n: u64, line: &str| Emitted { job: job.id, epoch: job.epoch, n, at: now, line: line.to_owned() };
    let lines = [
        line(1, r#"{"kind":"asset","id":"host:a"}"#),
        line(2, "{"),
        line(3, r#"{"kind":"metric","name":"ports","value":2}"#),
        line(4, r#"{"kind":"log","message":"not of this capability"}"#),
        line(1, r#"{"kind":"asset","id":"host:a"}"#),
    ];
    for _ in 0..2 {
        let taken = desk.emit(&voucher(&job, 1), &lines).await.expect("emit");
        let Emission::Taken(refused) = taken else { panic!("it is the run's own: {taken:?}") };
        let refused: Vec<(u64, Code)> = refused.into_iter().map(|(n, refused)| (n, refused.code)).collect();
        assert_eq!(refused, [(2, Code::NotJson), (4, Code::NotEmitted)], "also when it is handed over again");
    }
    let kept: Vec<(u64, Kind)> =
        list(yard, job.id, None, None, 10).await.iter().map(|record| (record.n, record.kind)).collect();
    assert_eq!(kept, [(1, Kind::Asset), (3, Kind::Metric)]);
    let stranger = desk.emit(&voucher(&job, 2), &[line(9, r#"{"kind":"asset","id":"host:b"}"#)]).await;
    assert_eq!(stranger.expect("emit"), Emission::Stale, "with another's token");
    let others = Emitted { epoch: Epoch(7), ..line(9, "{}") };
    assert!(desk.emit(&voucher(&job, 1), &[others]).await.is_err(), "a run speaks of itself alone");
    let outcome = Outcome::Succeeded(None);
    let told = settle::Told { epoch: running.epoch, token: Some(token(1).hash()), outcome: &outcome };
    let decided = settle::report(running, told, &rules(yard), now, 0).expect("its own report");
    save(yard, decided.job).await;
    let late = desk.emit(&voucher(&job, 1), &[line(9, r#"{"kind":"asset","id":"host:b"}"#)]).await;
    assert_eq!((late.expect("emit"), list(yard, job.id, None, None, 10).await.len()), (Emission::Stale, 2));
}
