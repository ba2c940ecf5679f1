//! The suite that every home must pass. A home that does is one the rooms can rely on.
//!
//! Each case gets a fresh yard in which nobody works: no worker, no reaper. A case never lets a clock jump. It hands
//! the moments it needs to the doors that take one, so that it holds on a home whose clock is the machine's own.
//! Lanes may be derived from the ledger, so a case only rings for a job that is really dispatched to that lane, and
//! counts jobs heard, not messages.
//!
//! The home has as much room for unmapped events as [`UNMAPPED_ROOM`] says: little, so that a case can fill it.
//!
//! A home's test opens its home, runs one case on it, and hands that function to [`contract_suite!`](crate::contract_suite), which makes one
//! test of each case:
//!
//! ```
//! use switchyard_core::contract::{Case, UNMAPPED_ROOM};
//! use switchyard_core::{catalog::Catalog, contract_suite, memory::Memory, route::Limits};
//!
//! fn on_memory(case: Case) {
//!     let home = Memory::new(jiff::Timestamp::UNIX_EPOCH, 1);
//!     home.make_unmapped_room(UNMAPPED_ROOM);
//!     futures_lite::future::block_on(case(&home.yard(Catalog::default(), Limits::default())));
//! }
//!
//! contract_suite!(on_memory);
//! ```

mod brakes;
mod loans;
mod records;
mod unmapped;

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures_lite::future::{or, yield_now, zip};
use jiff::Timestamp;
use serde_json::{Value, json};

use self::brakes::*;
use self::loans::*;
use self::records::*;
pub use self::unmapped::UNMAPPED_ROOM;
use self::unmapped::*;
use crate::brake::{Brake, Pause, Scope};
use crate::catalog::Catalog;
use crate::dispatch::{self, commit};
use crate::execute::{self, Holding, Ran, Runs};
use crate::intake::{self, Prepared, Rejected, Sender, Taken, Taking};
use crate::job::{ClaimToken, Epoch, Failure, Holder, Job, JobId, Nonce, Phase, State, StopCause, Tier};
use crate::policies::{Policies, Shelf, Situation};
use crate::ports::{
    Acceptance, Assignment, Beat, Bell, Body, Claim, Claimed, Depths, Desk, Executor, Lane, LogLine, LogSink, Message,
    NewJob, Order, Outcome, Permits, Query, Received, Refusal, Report, Reported, Room, Saved, Spend, Stream, TierDepth,
    Usage, Voucher, Yard, describe,
};
use crate::reap::{self, Fact};
use crate::route::{Limits, Place, Venue};
use crate::schedule::{self, Schedules, Ticked};
use crate::settle::{self, YardDesk};
use crate::wire;

/// A case: what it is given is a fresh home's yard, and it panics where the home breaks the contract.
pub type Case = for<'a> fn(&'a Yard) -> Running<'a>;

/// A case under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Makes one `#[test]` of each case. The argument is the home's own function from a [`Case`] to nothing: it opens a
/// fresh home and runs the case on its yard.
#[macro_export]
macro_rules! contract_suite {
    ($run:path) => { $crate::contract_suite! { @names tests $run } };
    (@tests ($run:path) $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $run($crate::contract::named(stringify!($name)));
            }
        )*
    };
    (@table () $($name:ident)*) => {
        /// Every case with its name, which says what it shows.
        pub fn cases() -> Vec<(&'static str, Case)> {
            vec![$((stringify!($name), |yard| Box::pin(async move { $name(&ruled(yard)).await }))),*]
        }
    };
    (@names $what:ident $($run:path)?) => {
        $crate::contract_suite! { @$what ($($run)?)
            // The ledger.
            acceptance_answers_in_order_and_keeps_what_it_took
            a_repeated_acceptance_returns_the_first_job_and_changes_nothing
            one_batch_may_hold_new_jobs_old_ones_and_the_same_one_twice
            nothing_is_known_of_a_job_that_never_was
            a_save_is_conditional_on_the_revision
            of_many_writers_at_once_one_succeeds
            a_result_is_kept_by_its_epoch
            of_many_claimers_at_once_one_wins
            a_claim_repeated_with_its_token_wins_again_and_writes_nothing
            a_claim_decides_as_the_pure_decision_does
            a_claim_brings_the_payload
            what_is_due_comes_longest_overdue_first
            a_list_is_newest_first_and_filtered
            pages_of_a_list_have_no_gap_and_no_repeat
            counts_are_by_phase
            spend_is_by_capability_and_venue_since_a_moment
            a_watch_returns_at_once_when_there_is_news
            a_watch_hears_of_a_later_save
            a_watch_ends_with_its_patience
            the_newest_beat_is_kept
            only_what_settled_long_ago_and_owes_nothing_is_forgettable
            what_is_forgotten_leaves_nothing_and_frees_its_id
            what_is_remembered_of_schedules_is_kept_replaced_and_forgotten
            // Permits, pauses, quotas.
            a_permit_is_held_by_one_job_at_a_time
            of_many_writers_of_one_permit_one_succeeds
            held_jobs_come_highest_tier_first_then_oldest
            a_pause_is_in_force_until_it_is_lifted
            depths_say_what_waits_and_what_ended
            open_jobs_are_the_caller_s_own_that_have_not_ended
            each_caller_draws_from_its_own_bucket
            a_caller_over_its_quota_hears_which_and_when_to_come_again
            // Loans.
            a_loan_is_for_the_run_that_shows_its_token_and_is_written_down_either_way
            loans_are_listed_newest_first_page_by_page_and_each_once
            // Unmapped events.
            an_unmapped_event_is_kept_whole_and_once_however_often_it_comes
            unmapped_events_are_listed_last_seen_first_and_page_by_page
            a_forgotten_unmapped_event_leaves_nothing_and_is_new_when_it_comes_again
            the_longest_unseen_events_make_room_and_are_counted
            // What runs emit.
            a_record_is_kept_once_and_another_of_its_name_changes_nothing
            records_are_listed_as_they_were_emitted_and_page_by_page
            the_register_has_each_thing_once_as_it_was_seen_last
            a_register_is_listed_by_id_page_by_page_and_narrowed
            what_a_job_emitted_goes_with_it_and_the_register_stays
            what_a_run_emits_is_taken_as_long_as_it_holds_its_job
            // The lanes.
            a_rung_job_is_heard_in_its_own_lane_only
            jobs_of_one_batch_ring_each_in_its_own_lane
            what_one_receiver_has_another_does_not_get
            a_released_message_is_heard_again
            a_deleted_message_of_a_claimed_job_is_never_heard_again
            a_receive_takes_no_more_than_it_may
            a_waiting_receive_is_woken_by_an_acceptance
            a_receive_that_is_dropped_hides_nothing
            a_paused_tier_rings_for_nobody_until_it_is_resumed
            // Blobs, logs, the herald.
            blobs_are_kept_replaced_and_forgotten
            logs_are_read_in_order_from_a_cursor
            a_long_log_is_read_page_by_page
            an_announcement_is_taken
            // From room to room.
            a_job_goes_from_the_door_to_its_result
            a_run_reports_what_its_executor_made_and_printed
            large_payloads_and_results_go_through_blobs
            the_same_key_with_another_body_is_refused
            a_delayed_job_is_dispatched_when_its_moment_comes
            a_failed_attempt_waits_and_is_dispatched_again
            attempts_without_a_pause_are_dispatched_by_the_next_round
            an_interrupted_run_is_dispatched_again_and_spends_nothing
            a_lost_holder_s_job_goes_to_another_and_its_late_report_is_refused
            a_lost_doorbell_is_rung_again
            a_report_of_another_run_is_refused
            a_repeated_report_is_recorded_once
            a_waiting_job_is_cancelled_at_once
            a_running_job_is_cancelled_by_way_of_its_beat
            a_failed_job_is_retried_by_hand_and_a_success_is_not
            log_lines_of_a_run_that_is_over_are_dropped
            an_announced_settlement_owes_nothing_in_the_end
            a_key_is_free_again_after_its_retention
            a_missed_tick_becomes_one_job_however_often_it_is_run
            a_limit_is_reached_and_never_exceeded
            what_a_crash_left_held_is_sent_on_by_the_next_round
            a_paused_job_is_held_at_the_door_and_at_its_claim_until_it_is_resumed
            a_job_whose_capability_left_the_catalog_waits_until_it_is_back
            a_changed_limit_holds_for_what_starts_from_now_on
            what_runs_without_a_permit_counts_when_a_limit_comes
            an_end_sends_one_on_and_a_sweep_so_many_and_no_more
        }
    };
}

contract_suite! { @names table }

/// The case of that name.
///
/// # Panics
///
/// There is no such case.
pub fn named(name: &str) -> Case {
    let found = cases().into_iter().find(|(other, _)| *other == name);
    found.map_or_else(|| panic!("there is no case `{name}`"), |(_, case)| case)
}

/// What the suite's yards may run.
const CAPABILITIES: &str = r#"
version: 1
capabilities:
  - name: greet
    summary: Says hello
    run: { command: [echo, "{{name}}"] }
    input: { type: object, required: [name], properties: { name: { type: string } } }
    needs: { timeout_seconds: 3600 }
    retry: { attempts: 2, backoff_seconds: 60 }
    emits: { asset: true, finding: true, metric: true }
  - name: knock
    summary: Tries again at once
    run: { command: [echo] }
    retry: { attempts: 2, backoff_seconds: 0 }
  - name: guarded
    summary: Two at once
    run: { command: [echo] }
    retry: { attempts: 2, backoff_seconds: 60 }
    limits: { concurrent: 2 }
  - name: borrow
    summary: Needs a key
    run: { command: [echo] }
    may_borrow: [ { kind: global, secret: key }, { kind: global, secret: down } ]
"#;

/// The same doors under the suite's own rules, so that no case depends on what the home's operator wrote.
fn ruled(yard: &Yard) -> Yard {
    let catalog = Catalog::parse("contract", CAPABILITIES, &[], &BTreeMap::new()).expect("the suite's own catalog");
    // Every second day: a case that looks back that far meets one tick, or two.
    let text = "version: 1\nschedules:\n  - { name: rarely, rate_minutes: 2880, capability: knock }\n";
    let schedules = Schedules::parse("contract", text).expect("the suite's own schedules");
    let policies = Policies { catalog, limits: Limits::one_machine(4096), schedules, ..Policies::default() };
    Yard { shelf: Arc::new(Shelf::new(policies)), ..yard.clone() }
}

/// The home's time as records keep it: in milliseconds.
fn today(yard: &Yard) -> Timestamp {
    Timestamp::from_millisecond(yard.ambient.now().as_millisecond()).expect("a time between -9999 and 9999")
}

/// The suite's rules, with nothing paused.
fn rules(yard: &Yard) -> Situation {
    Situation { policies: yard.policies(), ..Situation::default() }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The submission `body`, prepared at `now`.
fn submission(yard: &Yard, key: Option<&str>, body: &Value, now: Timestamp) -> Prepared {
    submission_under(yard, &rules(yard), key, body, now)
}

/// The same under rules that may hold it.
fn submission_under(yard: &Yard, situation: &Situation, key: Option<&str>, body: &Value, now: Timestamp) -> Prepared {
    let (submission, digest) = intake::read(body.to_string().as_bytes()).expect("the suite's own submission");
    let sender = Sender { caller: "contract", key };
    intake::prepare(&submission, digest, sender, situation, Taking::default(), now, yard.ambient.random())
        .expect("the suite's own submission")
}

/// A greeting at the door, under `key`.
fn greeting(yard: &Yard, key: &str, now: Timestamp) -> NewJob {
    let Prepared { job, payload } =
        submission(yard, Some(key), &json!({ "capability": "greet", "payload": { "name": key } }), now);
    NewJob { job, payload: Body::Inline(payload) }
}

/// Puts jobs into the ledger, and no more: nothing is rung.
async fn put(yard: &Yard, jobs: impl IntoIterator<Item = NewJob>) -> Vec<Job> {
    let new: Vec<NewJob> = jobs.into_iter().collect();
    let jobs: Vec<Job> = new.iter().map(|new| new.job.clone()).collect();
    let acceptances = yard.ledger.accept(new).await.expect("accept");
    assert_eq!(acceptances, vec![Acceptance::Accepted; jobs.len()], "jobs with new ids are accepted");
    jobs
}

/// Takes one submission through the door: accepted, and its doorbell rung.
async fn submit(yard: &Yard, key: &str, body: &Value) -> Job {
    let prepared = submission_under(yard, &yard.situation().await, Some(key), body, today(yard));
    let taken = intake::accept(yard, vec![prepared]).await.expect("accept").pop().expect("one answer");
    let Taken { job, fresh } = taken.expect("accepted");
    assert!(fresh, "a new key is a new job");
    job
}

fn greet() -> Value {
    json!({ "capability": "greet", "payload": { "name": "Ada" } })
}

async fn load(yard: &Yard, id: JobId) -> Job {
    yard.ledger.load(id).await.expect("load").expect("the record is there")
}

/// Writes `job` as its next revision, which must succeed, and answers the record as written.
async fn save(yard: &Yard, job: Job) -> Job {
    let job = job.stamped(yard.ambient.nonce());
    assert_eq!(yard.ledger.save(job.clone(), None).await.expect("save"), Saved::Saved, "a save in its turn");
    job
}

fn token(n: u8) -> ClaimToken {
    ClaimToken::new([n; 32])
}

fn holder(n: u8) -> Holder {
    Holder::new(&format!("worker-{n}"), Nonce(u64::from(n)))
}

/// The claim of holder `n` for a job at its epoch.
fn claim_of(job: &Job, n: u8) -> Claim {
    Claim { id: job.id, epoch: job.epoch, holder: holder(n), token: token(n).hash(), at_most: None, room: None }
}

fn voucher(job: &Job, n: u8) -> Voucher {
    Voucher { id: job.id, epoch: job.epoch, token: token(n) }
}

async fn win(yard: &Yard, claim: &Claim, now: Timestamp) -> Job {
    match yard.ledger.claim(claim, &rules(yard), now).await.expect("claim") {
        Claimed::Won(job, _) => *job,
        Claimed::Lost(refusal) => panic!("the claim of {} was refused: {refusal:?}", claim.holder),
    }
}

async fn report(yard: &Yard, job: &Job, n: u8, outcome: Outcome) -> Reported {
    let report = Report { voucher: voucher(job, n), outcome, usage: Usage::default() };
    YardDesk(yard.clone()).settle(&report).await.expect("settle")
}

fn failed() -> Outcome {
    Outcome::Failed { failure: Failure::new("exit_nonzero", "it exited with 1").with_exit(1), permanent: false }
}

/// The job, ended with success at `now` by a run of holder `n`.
async fn succeed(yard: &Yard, job: &Job, n: u8, now: Timestamp) -> Job {
    let running = win(yard, &claim_of(job, n), now).await;
    let outcome = Outcome::Succeeded(None);
    let told = settle::Told { epoch: job.epoch, token: Some(token(n).hash()), outcome: &outcome };
    let decided = settle::report(running, told, &yard.situation().await, now, 0).expect("its own report");
    save(yard, decided.job).await
}

/// Waits for all of them together, so that they are under way at once.
async fn together<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(|future| (Some(Box::pin(future)), None)).collect();
    poll_fn(|context| {
        let mut all = true;
        for (future, answer) in &mut waiting {
            if let Some(running) = future {
                match running.as_mut().poll(context) {
                    Poll::Ready(ready) => (*future, *answer) = (None, Some(ready)),
                    Poll::Pending => all = false,
                }
            }
        }
        if all { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, answer)| answer).collect()
}

/// Receives without waiting until nothing comes any more.
async fn drain(yard: &Yard, lane: &Lane) -> Vec<Received> {
    let mut all = Vec::new();
    // A queue of many servers may answer with less than it has; three empty answers in a row are an empty lane.
    let mut empty = 0;
    while empty < 3 {
        let some = yard.lanes.receive(lane, 10, false).await.expect("receive");
        empty = if some.is_empty() { empty + 1 } else { 0 };
        all.extend(some);
    }
    all
}

/// Receives, waiting, until there is something.
async fn hear(yard: &Yard, lane: &Lane) -> Received {
    loop {
        if let Some(received) = yard.lanes.receive(lane, 1, true).await.expect("receive").pop() {
            return received;
        }
    }
}

async fn ring(yard: &Yard, jobs: &[Job]) {
    let bells: Vec<Bell<'_>> = jobs.iter().map(|job| Bell { lane: dispatch::lane(job), job }).collect();
    let unrung = yard.lanes.ring(&bells).await;
    assert!(unrung.is_empty(), "{} did not ring: {}", unrung.len(), describe(&unrung[0].1));
}

fn ids(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

/// The same record but for whose write it was: what a home stamps is its own affair.
fn unstamped(job: &Job) -> Job {
    Job { revision: 0, nonce: Nonce(0), ..job.clone() }
}

async fn acceptance_answers_in_order_and_keeps_what_it_took(yard: &Yard) {
    let now = today(yard);
    let new: Vec<NewJob> = (0..20).map(|n| greeting(yard, &format!("job-{n}"), now)).collect();
    let jobs = put(yard, new.clone()).await;
    for (job, NewJob { payload, .. }) in jobs.iter().zip(new) {
        assert_eq!(load(yard, job.id).await, *job, "a record is read back as it was accepted");
        assert_eq!(yard.ledger.payload(job.id).await.expect("payload"), Some(payload));
    }
    assert_eq!(yard.ledger.accept(vec![]).await.expect("accept"), vec![], "an empty batch is no error");
}

async fn a_repeated_acceptance_returns_the_first_job_and_changes_nothing(yard: &Yard) {
    let now = today(yard);
    let first = greeting(yard, "same", now);
    put(yard, [first.clone()]).await;
    let running = win(yard, &claim_of(&first.job, 1), now).await;
    let mut repeat = greeting(yard, "same", now + seconds(5));
    repeat.payload = Body::Inline(r#"{"name":"somebody else"}"#.to_owned());
    assert_ne!(repeat.job.nonce, first.job.nonce, "the repeat is another write");
    let again = yard.ledger.accept(vec![repeat]).await.expect("accept");
    assert_eq!(again, [Acceptance::Existing(Box::new(running.clone()))], "the job as it stands now");
    assert_eq!(load(yard, first.job.id).await, running, "the record is untouched");
    assert_eq!(yard.ledger.payload(first.job.id).await.expect("payload"), Some(first.payload));
}

async fn one_batch_may_hold_new_jobs_old_ones_and_the_same_one_twice(yard: &Yard) {
    let now = today(yard);
    let old = put(yard, [greeting(yard, "old", now)]).await;
    let (one, twin, two) = (greeting(yard, "one", now), greeting(yard, "one", now), greeting(yard, "two", now));
    let batch = vec![one.clone(), greeting(yard, "old", now), twin, two.clone()];
    let acceptances = yard.ledger.accept(batch).await.expect("accept");
    let existing = |job: &Job| Acceptance::Existing(Box::new(job.clone()));
    let expected = [Acceptance::Accepted, existing(&old[0]), existing(&one.job), Acceptance::Accepted];
    assert_eq!(acceptances, expected, "the first of two twins is taken, in the order of the batch");
    assert_eq!(load(yard, one.job.id).await, one.job);
    assert_eq!(load(yard, two.job.id).await, two.job);
}

async fn nothing_is_known_of_a_job_that_never_was(yard: &Yard) {
    let job = greeting(yard, "never", today(yard)).job;
    assert_eq!(yard.ledger.load(job.id).await.expect("load"), None);
    assert_eq!(yard.ledger.payload(job.id).await.expect("payload"), None);
    assert_eq!(yard.ledger.result(job.id, Epoch(1)).await.expect("result"), None);
    assert_eq!(yard.ledger.watch(job.id, 0, Duration::ZERO).await.expect("watch"), None);
    assert_eq!(yard.ledger.last_beat(&holder(1)).await.expect("last beat"), None);
    let claimed = yard.ledger.claim(&claim_of(&job, 1), &rules(yard), today(yard)).await.expect("claim");
    assert_eq!(claimed, Claimed::Lost(Refusal::Unknown));
    assert_eq!(yard.ledger.save(job.stamped(Nonce(9)), None).await.expect("save"), Saved::Refused(None));
}

async fn a_save_is_conditional_on_the_revision(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "contested", now)]).await.remove(0);
    let first = settle::cancel(job.clone(), now, "first").expect("it waits").expect("it changes").job;
    let first = save(yard, first).await;
    let second = dispatch::delay(job.clone(), now + seconds(9), now, "second", "").job.stamped(Nonce(2));
    let refused = yard.ledger.save(second.clone(), Some(Body::Inline("[]".to_owned()))).await.expect("save");
    assert_eq!(refused, Saved::Refused(Some(Box::new(first.clone()))), "the second gets what stands there");
    assert_eq!(load(yard, job.id).await, first, "a refused save changes nothing");
    assert_eq!(yard.ledger.result(job.id, second.epoch).await.expect("result"), None, "nor does it leave a result");
    let ahead = Job { revision: first.revision + 2, ..first.clone() };
    let refused = yard.ledger.save(ahead, None).await.expect("save");
    assert_eq!(refused, Saved::Refused(Some(Box::new(first))), "a revision cannot be skipped");
}

async fn of_many_writers_at_once_one_succeeds(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "crowd", now)]).await.remove(0);
    let writers = (0..16_u64).map(|n| {
        let mine = dispatch::delay(job.clone(), now + seconds(n + 1), now, "crowd", "").job.stamped(Nonce(n));
        async move { (mine.clone(), yard.ledger.save(mine, None).await.expect("save")) }
    });
    let saved = together(writers).await;
    let won: Vec<&Job> = saved.iter().filter(|(_, saved)| *saved == Saved::Saved).map(|(job, _)| job).collect();
    assert_eq!(won.len(), 1, "one of the writers succeeded");
    assert_eq!(load(yard, job.id).await, *won[0], "and its record stands there");
}

async fn a_result_is_kept_by_its_epoch(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "result", now)]).await.remove(0);
    let running = win(yard, &claim_of(&job, 1), now).await;
    let made = r#"{"said":"Grüße, 世界 🌍"}"#.to_owned();
    let outcome = Outcome::Succeeded(Some(made.clone()));
    let told = settle::Told { epoch: job.epoch, token: Some(token(1).hash()), outcome: &outcome };
    let settled = settle::report(running, told, &yard.situation().await, now, 0).expect("its own report").job;
    let settled = settled.stamped(yard.ambient.nonce());
    let body = Body::Inline(made);
    let saved = yard.ledger.save(settled.clone(), Some(body.clone())).await.expect("save");
    assert_eq!(saved, Saved::Saved);
    assert_eq!(load(yard, job.id).await, settled);
    assert_eq!(yard.ledger.result(job.id, job.epoch).await.expect("result"), Some(body));
    assert_eq!(yard.ledger.result(job.id, Epoch(2)).await.expect("result"), None, "another epoch made none");
    assert_eq!(yard.ledger.result(job.id, Epoch(0)).await.expect("result"), None);
}

async fn of_many_claimers_at_once_one_wins(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "race", now)]).await.remove(0);
    let rules = &rules(yard);
    let claims: Vec<Claim> = (0..32).map(|n| claim_of(&job, n)).collect();
    let claimers =
        claims.iter().map(|claim| async move { (claim, yard.ledger.claim(claim, rules, now).await.expect("claim")) });
    let mut winner = None;
    for (claim, claimed) in together(claimers).await {
        match claimed {
            Claimed::Won(job, _) => {
                assert_eq!(winner, None, "only one claimer wins");
                let State::Running(run) = &job.state else { panic!("the winner gets a running job, not {job:?}") };
                assert_eq!((run.token, &run.holder), (claim.token, &claim.holder), "the winner gets its own run");
                winner = Some(*job);
            }
            Claimed::Lost(refusal) => assert_eq!(refusal, Refusal::Taken, "the others hear that it is taken"),
        }
    }
    assert_eq!(Some(load(yard, job.id).await), winner, "and its run is what the record says");
}

async fn a_claim_repeated_with_its_token_wins_again_and_writes_nothing(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "again", now)]).await.remove(0);
    let mine = claim_of(&job, 1);
    let first = win(yard, &mine, now).await;
    let again = win(yard, &mine, now + seconds(9)).await;
    assert_eq!(again, first, "the same run, at the same revision");
    assert_eq!(load(yard, job.id).await, first);
}

/// Jobs in every state a claim can meet, each with a key of its own.
fn standing(yard: &Yard, name: &str, now: Timestamp) -> Vec<(&'static str, NewJob, Vec<Job>)> {
    let limits = &rules(yard);
    let fresh = |what: &str| greeting(yard, &format!("{name}-{what}"), now);
    let told = |outcome| settle::Told { epoch: Epoch(1), token: None, outcome };
    let run = |job: &Job| execute::claim(job, &claim_of(job, 1), limits, now).expect("it waits");
    let mut all = vec![("waiting", fresh("waiting"), vec![])];
    let held = fresh("held");
    let running = run(&held.job);
    all.push(("held", held, vec![running]));
    let late = fresh("late");
    let delayed = dispatch::delay(late.job.clone(), now + seconds(90), now, "later", "").job;
    all.push(("delayed", late, vec![delayed]));
    let next = fresh("next");
    let delayed = dispatch::delay(next.job.clone(), now, now, "now", "").job;
    let again = dispatch::again(delayed.clone(), limits, now, "due", "").job;
    all.push(("at epoch 2", next, vec![delayed, again]));
    let done = fresh("done");
    let running = run(&done.job);
    let outcome = Outcome::Succeeded(None);
    let ended = settle::report(running.clone(), told(&outcome), limits, now, 0).expect("it runs").job;
    all.push(("settled", done, vec![running, ended]));
    let mut hurried = fresh("hurried");
    hurried.job.work.start_deadline = Some(now + seconds(5));
    all.push(("in time", hurried, vec![]));
    let mut expired = fresh("expired");
    expired.job.work.start_deadline = Some(now);
    all.push(("too late", expired, vec![]));
    let braked = fresh("braked");
    let held = dispatch::hold(braked.job.clone(), Brake::Unlisted, now, "unlisted", "").job;
    all.push(("under a brake", braked, vec![held]));
    let mut unknown = fresh("unknown");
    unknown.job.work.capability = "gone".to_owned();
    all.push(("of a capability that is gone", unknown, vec![]));
    all
}

async fn a_claim_decides_as_the_pure_decision_does(yard: &Yard) {
    let now = today(yard);
    let mut refusals = BTreeSet::new();
    let mut wins = 0;
    for epoch in [Epoch(0), Epoch(1), Epoch(2)] {
        let (tiny, ample) = (
            Room { slots: 1, milli_vcpu: 1, memory_mib: 1 },
            Room { slots: 1, milli_vcpu: 64_000, memory_mib: 64_000 },
        );
        let claims = [
            (1, None, None),
            (2, None, None),
            (2, Some(seconds(10)), Some(ample)),
            (2, Some(seconds(100_000)), None),
            (3, None, Some(tiny)),
        ];
        for (who, at_most, room) in claims {
            let name = format!("{epoch}-{who}-{}", at_most.unwrap_or_default().as_secs());
            for (what, new, steps) in standing(yard, &name, now) {
                let mut job = put(yard, [new]).await.remove(0);
                for step in steps {
                    job = save(yard, Job { revision: job.revision, ..step }).await;
                }
                let claim = Claim { epoch, at_most, room, ..claim_of(&job, who) };
                let claimed = yard.ledger.claim(&claim, &rules(yard), now).await.expect("claim");
                let place = format!("a job {what}, claimed at epoch {epoch} by {who} for {at_most:?} in {room:?}");
                match (execute::claim(&job, &claim, &rules(yard), now), claimed) {
                    (Ok(decided), Claimed::Won(won, _)) => {
                        assert_eq!(unstamped(&won), unstamped(&decided), "{place}");
                        let risen = u64::from(decided != job);
                        assert_eq!(won.revision, job.revision + risen, "a write has a revision: {place}");
                        assert_eq!(load(yard, job.id).await, *won, "the record is what was answered: {place}");
                        wins += 1;
                    }
                    (Err(refusal), Claimed::Lost(lost)) => {
                        assert_eq!(lost, refusal, "{place}");
                        assert_eq!(load(yard, job.id).await, job, "a lost claim changes nothing: {place}");
                        let refusal = format!("{refusal:?}");
                        // What it needs is compared above.
                        refusals.insert(refusal.split('(').next().unwrap_or_default().to_owned());
                    }
                    (decided, claimed) => panic!("{place}: decided {decided:?}, but got {claimed:?}"),
                }
            }
        }
    }
    let met: Vec<&str> = refusals.iter().map(String::as_str).collect();
    let all = ["Braked", "Newer", "NoRoom", "NotNow", "Settled", "Taken"];
    assert_eq!(met, all, "the table meets every refusal of a job that is there");
    assert!(wins > 8, "and enough wins");
}

async fn a_claim_brings_the_payload(yard: &Yard) {
    let now = today(yard);
    let small = greeting(yard, "small", now);
    let mut large = greeting(yard, "large", now);
    large.payload = Body::Blob(yard.blobs.put(large.job.id, "payload-1", "\"large\"").await.expect("put"));
    put(yard, [small.clone(), large.clone()]).await;
    for NewJob { job, payload } in [small, large] {
        let Claimed::Won(_, brought) = yard.ledger.claim(&claim_of(&job, 1), &rules(yard), now).await.expect("claim")
        else {
            panic!("a waiting job is won")
        };
        assert_eq!(brought, payload);
        assert_eq!(yard.ledger.payload(job.id).await.expect("payload"), Some(payload));
    }
}

async fn what_is_due_comes_longest_overdue_first(yard: &Yard) {
    let now = today(yard);
    let job = |key: &str, due: i64| {
        let mut new = greeting(yard, key, now);
        new.job.due = Some(Timestamp::from_millisecond(now.as_millisecond() + due).expect("about now"));
        new
    };
    let names = ["dispatched", "delayed", "running", "owing", "paid", "future"];
    let jobs = put(yard, names.iter().zip([-1, -1, -1, -1, -1, 1]).map(|(key, due)| job(key, due))).await;
    let [dispatched, delayed, running, owing, paid, _] = &jobs[..] else { panic!("six jobs") };
    let due = |job: Job, millis: u64| Job { due: Some(now - Duration::from_millis(millis)), ..job };
    save(yard, due(dispatched.clone(), 400)).await;
    save(yard, due(dispatch::delay(delayed.clone(), now, now, "later", "").job, 300)).await;
    let run = win(yard, &claim_of(running, 1), now).await;
    save(yard, due(run, 200)).await;
    let mut announced = owing.clone();
    announced.work.announce = true;
    let owing_job = settle::cancel(announced, now, "x").expect("it waits").expect("it changes").job;
    assert!(!owing_job.owed.is_empty(), "an announced job owes its announcement");
    save(yard, due(owing_job, 0)).await;
    let paid_job = settle::cancel(paid.clone(), now, "x").expect("it waits").expect("it changes").job;
    assert_eq!(paid_job.due, None, "a settled job that owes nothing is never due");
    save(yard, paid_job).await;
    let expected = [dispatched.id, delayed.id, running.id, owing.id];
    assert_eq!(yard.ledger.due(now, 100).await.expect("due"), expected, "not after now, the longest overdue first");
    assert_eq!(yard.ledger.due(now, 2).await.expect("due"), expected[..2], "no more than asked for");
    let earlier = now - Duration::from_millis(250);
    assert_eq!(yard.ledger.due(earlier, 100).await.expect("due"), expected[..2], "of another moment");
    assert_eq!(yard.ledger.due(now + seconds(1), 100).await.expect("due").len(), 5, "the future comes");
}

async fn a_list_is_newest_first_and_filtered(yard: &Yard) {
    let now = today(yard);
    let at = |n: u64| now - seconds(100 - n);
    let submitted = |n: u64, capability: &str, labels: Value| {
        let body = json!({ "capability": capability, "payload": { "name": "x" }, "labels": labels });
        let Prepared { job, payload } = submission(yard, Some(&format!("listed-{n}")), &body, at(n));
        NewJob { job, payload: Body::Inline(payload) }
    };
    let blue = json!({ "team": "blue", "site": "north" });
    let jobs = put(
        yard,
        [
            submitted(0, "greet", blue.clone()),
            submitted(1, "knock", blue),
            submitted(2, "greet", json!({ "team": "red" })),
            submitted(3, "greet", json!({ "site": "blue" })),
        ],
    )
    .await;
    succeed(yard, &jobs[0], 1, now).await;
    win(yard, &claim_of(&jobs[2], 1), now).await;
    let all = Query { limit: 100, ..Query::default() };
    let label = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
    let cases = [
        ("all", all.clone(), vec![3, 2, 1, 0]),
        ("two", Query { limit: 2, ..Query::default() }, vec![3, 2]),
        ("dispatched", Query { phase: Some(Phase::Dispatched), ..all.clone() }, vec![3, 1]),
        ("running", Query { phase: Some(Phase::Running), ..all.clone() }, vec![2]),
        ("succeeded", Query { phase: Some(Phase::Succeeded), ..all.clone() }, vec![0]),
        ("failed", Query { phase: Some(Phase::Failed), ..all.clone() }, vec![]),
        ("one capability", Query { capability: Some("knock".to_owned()), ..all.clone() }, vec![1]),
        ("no such capability", Query { capability: Some("knoc".to_owned()), ..all.clone() }, vec![]),
        ("one label", Query { label: label("team", "blue"), ..all.clone() }, vec![1, 0]),
        ("another label", Query { label: label("site", "blue"), ..all.clone() }, vec![3]),
        ("since", Query { since: Some(at(2)), ..all.clone() }, vec![3, 2]),
        ("before", Query { before: Some((jobs[2].created, jobs[2].id)), ..all.clone() }, vec![1, 0]),
        (
            "all together",
            Query {
                phase: Some(Phase::Dispatched),
                capability: Some("knock".to_owned()),
                label: label("site", "north"),
                since: Some(at(1)),
                before: Some((jobs[3].created, jobs[3].id)),
                limit: 1,
            },
            vec![1],
        ),
    ];
    for (what, query, expected) in cases {
        let listed = yard.ledger.list(&query).await.expect("list");
        let expected: Vec<JobId> = expected.into_iter().map(|n: usize| jobs[n].id).collect();
        assert_eq!(ids(&listed), expected, "{what}");
    }
    let listed = yard.ledger.list(&all).await.expect("list");
    assert_eq!(listed[3], load(yard, jobs[0].id).await, "a list holds the records themselves");
}

async fn pages_of_a_list_have_no_gap_and_no_repeat(yard: &Yard) {
    let now = today(yard);
    // Three share each moment, so that pages end in the middle of a tie.
    let jobs = put(yard, (0..30).map(|n| greeting(yard, &format!("page-{n}"), now - seconds(n / 3)))).await;
    let mut expected: Vec<(Timestamp, JobId)> = jobs.iter().map(|job| (job.created, job.id)).collect();
    expected.sort_by(|one, other| other.cmp(one));
    for limit in [1, 4, 7, 30, 100] {
        let mut seen: Vec<(Timestamp, JobId)> = Vec::new();
        for _ in 0..40 {
            let query = Query { before: seen.last().copied(), limit, ..Query::default() };
            let page = yard.ledger.list(&query).await.expect("list");
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= limit, "a page of {limit}");
            seen.extend(page.iter().map(|job| (job.created, job.id)));
        }
        assert_eq!(seen, expected, "pages of {limit}");
    }
}

async fn counts_are_by_phase(yard: &Yard) {
    assert_eq!(yard.ledger.count().await.expect("count"), [], "an empty yard has no phases");
    let now = today(yard);
    let jobs = put(yard, (0..6).map(|n| greeting(yard, &format!("count-{n}"), now))).await;
    succeed(yard, &jobs[0], 1, now).await;
    succeed(yard, &jobs[1], 1, now).await;
    win(yard, &claim_of(&jobs[2], 1), now).await;
    let counts: BTreeMap<Phase, u64> = yard.ledger.count().await.expect("count").into_iter().collect();
    let expected = BTreeMap::from([(Phase::Dispatched, 3), (Phase::Running, 1), (Phase::Succeeded, 2)]);
    assert_eq!(counts, expected);
}

async fn spend_is_by_capability_and_venue_since_a_moment(yard: &Yard) {
    let now = today(yard);
    assert_eq!(yard.ledger.spend(now - seconds(3600)).await.expect("spend"), [], "nothing has ended");
    let jobs = put(yard, (0..3).map(|n| greeting(yard, &format!("spend-{n}"), now))).await;
    let mut dear = jobs[2].clone();
    dear.route.place = Place::Fargate;
    let dear = save(yard, dear).await;
    // Each ran since `now`, and so long.
    let mut ended = Vec::new();
    for (job, after) in [(&jobs[0], 10), (&jobs[1], 20), (&dear, 30)] {
        let running = win(yard, &claim_of(job, 1), now).await;
        let outcome = Outcome::Succeeded(None);
        let told = settle::Told { epoch: job.epoch, token: Some(token(1).hash()), outcome: &outcome };
        let decided = settle::report(running, told, &yard.situation().await, now + seconds(after), 0);
        ended.push(save(yard, decided.expect("its own report").job).await);
    }
    let [early, late, dear] = &ended[..] else { panic!("three ended") };
    assert!(early.spent_nanodollars > 0 && dear.spent_nanodollars > late.spent_nanodollars, "a run has its price");
    let of = |venue, jobs, nanodollars| Spend { capability: "greet".to_owned(), venue, jobs, nanodollars };
    let both = early.spent_nanodollars + late.spent_nanodollars;
    let task = of(Venue::Fargate, 1, dear.spent_nanodollars);
    let all = yard.ledger.spend(now).await.expect("spend");
    assert_eq!(all, [task.clone(), of(Venue::Fleet, 2, both)], "the dearest first");
    let since = yard.ledger.spend(now + seconds(20)).await.expect("spend");
    assert_eq!(since, [task, of(Venue::Fleet, 1, late.spent_nanodollars)]);
    assert_eq!(yard.ledger.spend(now + seconds(31)).await.expect("spend"), []);
}

async fn a_watch_returns_at_once_when_there_is_news(yard: &Yard) {
    let job = put(yard, [greeting(yard, "news", today(yard))]).await.remove(0);
    let seen = yard.ledger.watch(job.id, 0, seconds(60)).await.expect("watch");
    assert_eq!(seen, Some(job.clone()), "revision 1 is above 0");
    let seen = yard.ledger.watch(job.id, job.revision, Duration::ZERO).await.expect("watch");
    assert_eq!(seen, Some(job), "without patience the answer is what there is");
}

async fn a_watch_hears_of_a_later_save(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "later", now)]).await.remove(0);
    let change = async {
        for _ in 0..3 {
            yield_now().await;
        }
        win(yard, &claim_of(&job, 1), now).await
    };
    let (seen, running) = zip(yard.ledger.watch(job.id, 1, seconds(60)), change).await;
    assert_eq!(seen.expect("watch"), Some(running.clone()), "a claim is news");
    let cancel = async {
        yield_now().await;
        settle::cancel_job(yard, job.id, "contract").await.expect("cancel")
    };
    let (seen, stopping) = zip(yard.ledger.watch(job.id, running.revision, seconds(60)), cancel).await;
    assert_eq!(seen.expect("watch"), Some(stopping), "a save is news");
    let waited = yard.ambient.now().duration_since(now).unsigned_abs();
    assert!(waited < seconds(60), "it was the news that woke the watch, not the end of its patience");
}

async fn a_watch_ends_with_its_patience(yard: &Yard) {
    let job = put(yard, [greeting(yard, "quiet", today(yard))]).await.remove(0);
    let patience = Duration::from_millis(20);
    let (seen, ()) = zip(yard.ledger.watch(job.id, 1, patience), yard.ambient.pause(patience * 2)).await;
    assert_eq!(seen.expect("watch"), Some(job), "the record as it was then");
}

async fn the_newest_beat_is_kept(yard: &Yard) {
    let job = greeting(yard, "beat", today(yard)).job;
    let run = Message { id: job.id, epoch: Epoch(1) };
    let beat = |n: u8, counter, running: Vec<Message>| Beat { holder: holder(n), counter, running };
    let newest = beat(1, 3, vec![run, Message { epoch: Epoch(4), ..run }]);
    for beat in [beat(1, 1, vec![]), beat(2, 7, vec![run]), beat(1, 2, vec![run]), newest.clone()] {
        yard.ledger.beat(&beat).await.expect("beat");
    }
    assert_eq!(yard.ledger.last_beat(&holder(1)).await.expect("last beat"), Some(newest));
    assert_eq!(yard.ledger.last_beat(&holder(2)).await.expect("last beat"), Some(beat(2, 7, vec![run])));
    assert_eq!(yard.ledger.last_beat(&holder(3)).await.expect("last beat"), None);
}

async fn only_what_settled_long_ago_and_owes_nothing_is_forgettable(yard: &Yard) {
    let now = today(yard);
    let jobs = put(yard, (0..5).map(|n| greeting(yard, &format!("old-{n}"), now - seconds(1000)))).await;
    succeed(yard, &jobs[0], 1, now - seconds(500)).await;
    succeed(yard, &jobs[1], 1, now - seconds(100)).await;
    win(yard, &claim_of(&jobs[2], 1), now - seconds(500)).await;
    let mut owing = jobs[3].clone();
    owing.work.announce = true;
    let owing = settle::cancel(owing, now - seconds(500), "x").expect("it waits").expect("it changes").job;
    save(yard, owing).await;
    succeed(yard, &jobs[4], 1, now - seconds(400)).await;
    let found = |found: Vec<JobId>| found.into_iter().collect::<BTreeSet<_>>();
    let old = yard.ledger.forgettable(now - seconds(200), 10).await.expect("forgettable");
    assert_eq!(found(old), BTreeSet::from([jobs[0].id, jobs[4].id]), "settled before, owing nothing");
    assert_eq!(yard.ledger.forgettable(now - seconds(200), 1).await.expect("forgettable").len(), 1);
    let exact = yard.ledger.forgettable(now - seconds(500), 10).await.expect("forgettable");
    assert_eq!(exact, [], "before a moment is not at it");
}

async fn what_is_forgotten_leaves_nothing_and_frees_its_id(yard: &Yard) {
    let now = today(yard);
    let new = greeting(yard, "gone", now);
    let kept = put(yard, [new.clone(), greeting(yard, "kept", now)]).await;
    let (gone, kept) = (&kept[0], &kept[1]);
    win(yard, &claim_of(gone, 1), now).await;
    let made = Outcome::Succeeded(Some("7".to_owned()));
    assert_eq!(report(yard, gone, 1, made).await, Reported::Recorded);
    yard.ledger.forget(&[gone.id]).await.expect("forget");
    yard.ledger.forget(&[gone.id]).await.expect("forgetting twice is no error");
    yard.ledger.forget(&[]).await.expect("nor is forgetting nothing");
    assert_eq!(yard.ledger.load(gone.id).await.expect("load"), None);
    assert_eq!(yard.ledger.payload(gone.id).await.expect("payload"), None);
    assert_eq!(yard.ledger.result(gone.id, gone.epoch).await.expect("result"), None);
    let listed = yard.ledger.list(&Query { limit: 10, ..Query::default() }).await.expect("list");
    assert_eq!(ids(&listed), [kept.id]);
    assert_eq!(yard.ledger.count().await.expect("count"), [(Phase::Dispatched, 1)]);
    put(yard, [new]).await;
    assert_eq!(yard.ledger.result(gone.id, gone.epoch).await.expect("result"), None, "the new job starts without");
}

async fn a_rung_job_is_heard_in_its_own_lane_only(yard: &Yard) {
    let now = today(yard);
    let lane = |pool: &str, tier| Lane { pool: pool.parse().expect("a pool's name"), tier };
    let lanes: Vec<Lane> =
        ["standard", "steady"].iter().flat_map(|pool| Tier::ALL.map(|tier| lane(pool, tier))).collect();
    let mut jobs = Vec::new();
    for (n, lane) in lanes.iter().enumerate() {
        let mut new = greeting(yard, &format!("lane-{n}"), now);
        (new.job.route.place, new.job.work.tier) = (Place::Fleet(lane.pool), lane.tier);
        jobs.push(new);
    }
    for (lane, new) in lanes.iter().zip(jobs) {
        assert_eq!(yard.lanes.visible(lane).await.expect("visible"), 0);
        assert_eq!(yard.lanes.receive(lane, 10, false).await.expect("receive"), [], "an empty lane answers at once");
        let job = put(yard, [new]).await.remove(0);
        ring(yard, std::slice::from_ref(&job)).await;
        assert_eq!(yard.lanes.visible(lane).await.expect("visible"), 1);
        for other in lanes.iter().filter(|other| *other != lane) {
            assert_eq!(drain(yard, other).await, [], "nothing in {other:?}");
        }
        let heard = drain(yard, lane).await;
        let messages: Vec<(Message, &Lane)> = heard.iter().map(|heard| (heard.message, &heard.lane)).collect();
        assert_eq!(messages, [(Message { id: job.id, epoch: job.epoch }, lane)]);
        assert_eq!(yard.lanes.visible(lane).await.expect("visible"), 0, "what somebody has is not visible");
    }
}

async fn jobs_of_one_batch_ring_each_in_its_own_lane(yard: &Yard) {
    let now = today(yard);
    let tiers = [Tier::Standard, Tier::Synchronous, Tier::Priority];
    let prepared: Vec<Prepared> = (0..36)
        .map(|n| {
            let mut prepared = submission(yard, Some(&format!("batch-{n}")), &greet(), now);
            prepared.job.work.tier = tiers[n % tiers.len()];
            prepared
        })
        .collect();
    let lanes: Vec<Lane> = prepared.iter().take(tiers.len()).map(|prepared| dispatch::lane(&prepared.job)).collect();
    let wanted: Vec<JobId> = prepared.iter().map(|prepared| prepared.job.id).collect();
    let taken = intake::accept(yard, prepared).await.expect("accept");
    assert!(taken.iter().all(|taken| matches!(taken, Ok(Taken { fresh: true, .. }))));
    for (n, lane) in lanes.iter().enumerate() {
        let heard: BTreeSet<JobId> = drain(yard, lane).await.iter().map(|heard| heard.message.id).collect();
        assert_eq!(heard, wanted.iter().skip(n).step_by(tiers.len()).copied().collect(), "{lane:?}");
    }
}

async fn what_one_receiver_has_another_does_not_get(yard: &Yard) {
    let now = today(yard);
    let jobs = put(yard, (0..24).map(|n| greeting(yard, &format!("shared-{n}"), now))).await;
    ring(yard, &jobs).await;
    let lane = dispatch::lane(&jobs[0]);
    assert_eq!(yard.lanes.visible(&lane).await.expect("visible"), 24);
    let receivers = (0..4).map(|_| drain(yard, &lane));
    let heard: Vec<JobId> = together(receivers).await.iter().flatten().map(|heard| heard.message.id).collect();
    assert_eq!(heard.len(), 24, "each job is heard once");
    assert_eq!(heard.into_iter().collect::<BTreeSet<_>>(), ids(&jobs).into_iter().collect(), "and none is missing");
    assert_eq!(drain(yard, &lane).await, [], "they stay hidden");
}

async fn a_released_message_is_heard_again(yard: &Yard) {
    let job = put(yard, [greeting(yard, "released", today(yard))]).await.remove(0);
    let lane = dispatch::lane(&job);
    ring(yard, std::slice::from_ref(&job)).await;
    for _ in 0..3 {
        let heard = hear(yard, &lane).await;
        assert_eq!(heard.message, Message { id: job.id, epoch: job.epoch });
        assert_eq!(yard.lanes.visible(&lane).await.expect("visible"), 0);
        yard.lanes.release(&heard).await.expect("release");
        assert_eq!(yard.lanes.visible(&lane).await.expect("visible"), 1);
    }
}

async fn a_deleted_message_of_a_claimed_job_is_never_heard_again(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "deleted", now)]).await.remove(0);
    let lane = dispatch::lane(&job);
    ring(yard, std::slice::from_ref(&job)).await;
    let heard = hear(yard, &lane).await;
    win(yard, &claim_of(&job, 1), now).await;
    yard.lanes.delete(&heard).await.expect("delete");
    yard.lanes.delete(&heard).await.expect("deleting twice is no error");
    yard.lanes.release(&heard).await.expect("releasing what is gone is none either");
    assert_eq!(drain(yard, &lane).await, []);
    assert_eq!(yard.lanes.visible(&lane).await.expect("visible"), 0);
}

async fn a_receive_takes_no_more_than_it_may(yard: &Yard) {
    let now = today(yard);
    let jobs = put(yard, (0..5).map(|n| greeting(yard, &format!("few-{n}"), now))).await;
    ring(yard, &jobs).await;
    let lane = dispatch::lane(&jobs[0]);
    let mut heard = 0;
    for _ in 0..10 {
        let some = yard.lanes.receive(&lane, 2, false).await.expect("receive");
        assert!(some.len() <= 2, "two at most");
        heard += some.len();
    }
    assert_eq!(heard, 5);
}

async fn a_paused_tier_rings_for_nobody_until_it_is_resumed(yard: &Yard) {
    let now = today(yard);
    let jobs = put(yard, [greeting(yard, "hushed", now)]).await;
    ring(yard, &jobs).await;
    let job = &jobs[0];
    let lane = dispatch::lane(job);
    let scope = Scope::Tier(lane.tier);
    let pause = Pause { scope: scope.clone(), by: "contract".to_owned(), at: now, reason: String::new() };
    yard.ledger.set_pause(&scope, Some(&pause)).await.expect("pause");
    assert_eq!(yard.lanes.receive(&lane, 1, false).await.expect("receive"), [], "a queue that stands costs nothing");
    let waiting = yard.lanes.receive(&lane, 1, true);
    let resuming = async {
        yard.ledger.set_pause(&scope, None).await.expect("resume");
        std::future::pending::<()>().await;
    };
    let woken = or(async { Some(waiting.await) }, async {
        resuming.await;
        None
    })
    .await;
    let heard = woken.expect("the receive ends first").expect("receive");
    assert_eq!(heard.iter().map(|received| received.message.id).collect::<Vec<_>>(), [job.id]);
}

async fn a_waiting_receive_is_woken_by_an_acceptance(yard: &Yard) {
    let now = today(yard);
    let prepared = submission(yard, Some("awaited"), &greet(), now);
    let (id, lane) = (prepared.job.id, dispatch::lane(&prepared.job));
    let accept = async {
        for _ in 0..3 {
            yield_now().await;
        }
        intake::accept(yard, vec![prepared]).await.expect("accept");
    };
    let (heard, ()) = zip(hear(yard, &lane), accept).await;
    assert_eq!(heard.message, Message { id, epoch: Epoch(1) });
}

async fn a_receive_that_is_dropped_hides_nothing(yard: &Yard) {
    let prepared = submission(yard, Some("dropped"), &greet(), today(yard));
    let (id, lane) = (prepared.job.id, dispatch::lane(&prepared.job));
    let mut waiting = yard.lanes.receive(&lane, 1, true);
    let begun = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_ready())).await;
    assert!(!begun, "there is nothing yet");
    intake::accept(yard, vec![prepared]).await.expect("accept");
    // It is about to answer, and whoever asked does not want it any more.
    drop(waiting);
    let (heard, others) = (hear(yard, &lane).await, drain(yard, &lane).await);
    assert_eq!((heard.message, others), (Message { id, epoch: Epoch(1) }, vec![]));
}

async fn blobs_are_kept_replaced_and_forgotten(yard: &Yard) {
    let now = today(yard);
    let (one, two) = (greeting(yard, "one", now).job.id, greeting(yard, "two", now).job.id);
    let large: String = "Ω≈ç√ \u{0} \r\n 🚂".chars().cycle().take(600_000).collect();
    assert!(large.len() > Body::MAX_BYTES, "more than any payload or result may have");
    let blob = yard.blobs.put(one, "payload-1", &large).await.expect("put");
    assert_eq!((blob.job, blob.bytes), (one, large.len() as u64));
    let elsewhere = yard.blobs.put(two, "payload-1", "two").await.expect("put");
    let empty = yard.blobs.put(one, "result-1", "").await.expect("put");
    assert!(yard.blobs.get(&blob).await.expect("get").is_some_and(|text| text == large), "read back as written");
    assert_eq!(yard.blobs.get(&elsewhere).await.expect("get").as_deref(), Some("two"), "names are a job's own");
    assert_eq!(yard.blobs.get(&empty).await.expect("get").as_deref(), Some(""));
    let blob = yard.blobs.put(one, "payload-1", "shorter").await.expect("put");
    assert_eq!(yard.blobs.get(&blob).await.expect("get").as_deref(), Some("shorter"), "put again, replaced whole");
    yard.blobs.forget(one).await.expect("forget");
    yard.blobs.forget(one).await.expect("forgetting twice is no error");
    assert_eq!(yard.blobs.get(&blob).await.expect("get"), None);
    assert_eq!(yard.blobs.get(&empty).await.expect("get"), None);
    assert_eq!(yard.blobs.get(&elsewhere).await.expect("get").as_deref(), Some("two"), "another job's stay");
}

fn line(now: Timestamp, n: usize, stream: Stream, text: &str) -> LogLine {
    LogLine { at: now + Duration::from_millis(n as u64), stream, text: text.to_owned() }
}

/// The whole log from `cursor` on, page by page, and where it ends.
async fn log_from(yard: &Yard, job: JobId, cursor: &str) -> (Vec<(Epoch, LogLine)>, String) {
    let (mut lines, mut next) = (Vec::new(), cursor.to_owned());
    loop {
        let page = yard.logs.read(job, &next).await.expect("read");
        next = page.next;
        if page.lines.is_empty() {
            return (lines, next);
        }
        lines.extend(page.lines);
    }
}

async fn logs_are_read_in_order_from_a_cursor(yard: &Yard) {
    let now = today(yard);
    let jobs = put(yard, ["log", "other"].map(|key| greeting(yard, key, now))).await;
    let (id, other) = (jobs[0].id, jobs[1].id);
    assert_eq!(log_from(yard, id, "").await.0, [], "a job that printed nothing has an empty log");
    let first =
        [line(now, 0, Stream::Stdout, "one"), line(now, 0, Stream::Stderr, ""), line(now, 1, Stream::Yard, "ü\t🚂")];
    let later = [line(now, 2, Stream::Stdout, "after a pause")];
    let again = [line(now, 3, Stream::Stdout, "second run")];
    yard.logs.append(id, Epoch(1), &first).await.expect("append");
    yard.logs.append(other, Epoch(1), &[line(now, 0, Stream::Stdout, "not yours")]).await.expect("append");
    yard.logs.append(id, Epoch(1), &[]).await.expect("append");
    let (lines, cursor) = log_from(yard, id, "").await;
    assert_eq!(lines, first.map(|line| (Epoch(1), line)), "in the order they were printed");
    assert_eq!(log_from(yard, id, &cursor).await.0, [], "nothing more yet");
    yard.logs.append(id, Epoch(1), &later).await.expect("append");
    yard.logs.append(id, Epoch(2), &again).await.expect("append");
    let (lines, _) = log_from(yard, id, &cursor).await;
    let [later, again] = [later, again].map(|[line]| line);
    assert_eq!(lines, [(Epoch(1), later), (Epoch(2), again)], "from the cursor on, each with its epoch");
    assert_eq!(log_from(yard, id, "").await.0.len(), 5, "and all of it from the start");
    yard.logs.forget(id).await.expect("forget");
    yard.logs.forget(id).await.expect("forgetting twice is no error");
    assert_eq!(log_from(yard, id, "").await.0, []);
    assert_eq!(log_from(yard, other, "").await.0.len(), 1, "another job's stays");
}

async fn a_long_log_is_read_page_by_page(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "long", now)]).await.remove(0);
    let text = "x".repeat(16 * 1024);
    let lines: Vec<LogLine> = (0..64).map(|n| line(now, n, Stream::Stdout, &format!("{n} {}", &text[8..]))).collect();
    for part in lines.chunks(10) {
        yard.logs.append(job.id, Epoch(1), part).await.expect("append");
    }
    let page = yard.logs.read(job.id, "").await.expect("read");
    let bytes: usize = page.lines.iter().map(|(_, line)| line.text.len()).sum();
    assert!(bytes <= 512 * 1024, "a page has about 256 KiB at most, this one {bytes} bytes");
    let (read, _) = log_from(yard, job.id, "").await;
    assert!(read.into_iter().map(|(_, line)| line).eq(lines), "all of it, in order");
}

async fn an_announcement_is_taken(yard: &Yard) {
    let now = today(yard);
    let job = put(yard, [greeting(yard, "announced", now)]).await.remove(0);
    let settled = succeed(yard, &job, 1, now).await;
    yard.herald.announce(&settled).await.expect("announce");
    yard.herald.announce(&settled).await.expect("announcing twice is harmless");
}

async fn a_job_goes_from_the_door_to_its_result(yard: &Yard) {
    let job = submit(yard, "through", &greet()).await;
    assert_eq!(load(yard, job.id).await, job, "what was answered is what is kept");
    let again = intake::accept(yard, vec![submission(yard, Some("through"), &greet(), today(yard))]).await;
    let again = again.expect("accept").pop().expect("one answer").expect("a repeat is no error");
    assert_eq!((again.fresh, &again.job), (false, &job), "a repeat at the door meets the first job");
    let lane = dispatch::lane(&job);
    let heard = hear(yard, &lane).await;
    assert_eq!(heard.message, Message { id: job.id, epoch: Epoch(1) });
    let desk = YardDesk(yard.clone());
    let Claimed::Won(running, payload) = desk.claim(&claim_of(&job, 1)).await.expect("claim") else {
        panic!("what is heard can be claimed")
    };
    assert_eq!(payload, Body::Inline(r#"{"name":"Ada"}"#.to_owned()));
    assert_eq!((running.phase(), running.epoch), (Phase::Running, Epoch(1)));
    let beat = Beat { holder: holder(1), counter: 1, running: vec![heard.message] };
    assert_eq!(desk.beat(&beat, Duration::ZERO).await.expect("beat"), [], "nobody asks it to end");
    let made = Outcome::Succeeded(Some(r#"{"said":"hello"}"#.to_owned()));
    assert_eq!(report(yard, &job, 1, made).await, Reported::Recorded);
    yard.lanes.delete(&heard).await.expect("delete");
    let ended = load(yard, job.id).await;
    assert_eq!((ended.phase(), ended.due, ended.owed.len()), (Phase::Succeeded, None, 0));
    let result = yard.ledger.result(job.id, Epoch(1)).await.expect("result");
    assert_eq!(result, Some(Body::Inline(r#"{"said":"hello"}"#.to_owned())));
    assert_eq!(drain(yard, &lane).await, [], "and nothing is left in its lane");
    assert_eq!(reap::round(yard).await.expect("round").found, 0, "nor for the reaper");
    assert_eq!(wire::decode(&wire::encode(&ended)).expect("decode"), ended, "its record can be stored as it stands");
}

/// Prints the payload and makes it the result.
struct Echo;

#[async_trait]
impl Executor for Echo {
    async fn run(&self, assignment: &Assignment<'_>, log: &dyn LogSink) -> Outcome {
        let at = assignment.job.created;
        log.write(vec![LogLine { at, stream: Stream::Stdout, text: assignment.payload.clone() }]).await;
        Outcome::Succeeded(Some(assignment.payload.clone()))
    }
}

async fn a_run_reports_what_its_executor_made_and_printed(yard: &Yard) {
    let job = submit(yard, "echo", &greet()).await;
    let message = hear(yard, &dispatch::lane(&job)).await.message;
    let (desk, holder, runs) = (YardDesk(yard.clone()), holder(1), Runs::default());
    let holding = Holding {
        desk: &desk,
        executor: &Echo,
        blobs: &*yard.blobs,
        ambient: &*yard.ambient,
        holder: &holder,
        runs: &runs,
    };
    let ran = execute::run(&holding, message, None).await.expect("run");
    assert_eq!(ran, Ran::Done(Reported::Recorded));
    assert!(runs.is_empty(), "its beat names it no more");
    let again = execute::run(&holding, message, None).await.expect("run");
    assert_eq!(again, Ran::Refused(Refusal::Settled), "a doorbell that comes twice runs nothing");
    let payload = r#"{"name":"Ada"}"#;
    let result = yard.ledger.result(job.id, Epoch(1)).await.expect("result");
    assert_eq!(result, Some(Body::Inline(payload.to_owned())));
    let (lines, _) = log_from(yard, job.id, "").await;
    let expected = LogLine { at: job.created, stream: Stream::Stdout, text: payload.to_owned() };
    assert_eq!(lines, [(Epoch(1), expected)]);
}

async fn large_payloads_and_results_go_through_blobs(yard: &Yard) {
    let name = "ß".repeat(Body::INLINE_BYTES);
    let body = json!({ "capability": "greet", "payload": { "name": name } });
    let job = submit(yard, "large", &body).await;
    let desk = YardDesk(yard.clone());
    let Claimed::Won(_, Body::Blob(blob)) = desk.claim(&claim_of(&job, 1)).await.expect("claim") else {
        panic!("a large payload comes as a blob")
    };
    let payload = yard.blobs.get(&blob).await.expect("get").expect("the blob is there");
    assert!(body["payload"] == payload.parse::<Value>().expect("JSON"), "the payload as submitted");
    let made = format!("{{\"made\":\"{name}\"}}");
    let outcome = Outcome::Succeeded(Some(made.clone()));
    assert_eq!(report(yard, &job, 1, outcome).await, Reported::Recorded);
    let Some(Body::Blob(blob)) = yard.ledger.result(job.id, Epoch(1)).await.expect("result") else {
        panic!("a large result is a blob")
    };
    assert!(yard.blobs.get(&blob).await.expect("get").is_some_and(|text| text == made), "the result as reported");
    let State::Settled(settlement) = load(yard, job.id).await.state else { panic!("it ended") };
    assert_eq!(settlement.result.map(|result| result.bytes), Some(made.len() as u64));
}

async fn the_same_key_with_another_body_is_refused(yard: &Yard) {
    let job = submit(yard, "reused", &greet()).await;
    let other = json!({ "capability": "greet", "payload": { "name": "x".repeat(Body::INLINE_BYTES) } });
    let new = submission(yard, Some("fresh"), &greet(), today(yard));
    let batch = vec![submission(yard, Some("reused"), &other, today(yard)), new];
    let mut answers = intake::accept(yard, batch).await.expect("accept").into_iter();
    let refused = answers.next().expect("two answers").map(|taken| taken.job.id);
    assert_eq!(refused, Err(Rejected::KeyReused(job.id)));
    assert!(answers.next().expect("two answers").expect("accepted").fresh, "the rest of the batch is not its fault");
    assert_eq!(load(yard, job.id).await, job);
    let payload = yard.ledger.payload(job.id).await.expect("payload");
    assert_eq!(payload, Some(Body::Inline(r#"{"name":"Ada"}"#.to_owned())), "the first payload stays");
}

async fn a_delayed_job_is_dispatched_when_its_moment_comes(yard: &Yard) {
    let mut body = greet();
    body["delay_seconds"] = json!(90);
    let job = submit(yard, "delayed", &body).await;
    let State::Delayed { until } = job.state else { panic!("it waits for its moment: {:?}", job.state) };
    assert_eq!(drain(yard, &dispatch::lane(&job)).await, [], "nobody is called before");
    let claimed = yard.ledger.claim(&claim_of(&job, 1), &rules(yard), until).await.expect("claim");
    assert_eq!(claimed, Claimed::Lost(Refusal::NotNow), "nor can anybody take it");
    assert_eq!(yard.ledger.due(until, 10).await.expect("due"), [job.id]);
    let early = reap::look(job.clone(), &Fact::Nothing, &yard.situation().await, until - seconds(1));
    assert_eq!(early, None, "the reaper does not touch it before");
    let decided = reap::look(job.clone(), &Fact::Nothing, &yard.situation().await, until).expect("its moment has come");
    assert_eq!(commit(yard, decided, None).await.expect("commit"), Saved::Saved);
    let heard = hear(yard, &dispatch::lane(&job)).await;
    assert_eq!(heard.message, Message { id: job.id, epoch: Epoch(1) });
}

async fn a_failed_attempt_waits_and_is_dispatched_again(yard: &Yard) {
    let job = submit(yard, "failing", &greet()).await;
    let lane = dispatch::lane(&job);
    let heard = hear(yard, &lane).await;
    win(yard, &claim_of(&job, 1), today(yard)).await;
    assert_eq!(report(yard, &job, 1, failed()).await, Reported::Recorded);
    yard.lanes.delete(&heard).await.expect("delete");
    let waiting = load(yard, job.id).await;
    assert_eq!((waiting.phase(), waiting.attempts_spent, waiting.epoch), (Phase::Delayed, 1, Epoch(1)));
    let due = waiting.due.expect("somebody must look again");
    assert_eq!(reap::round(yard).await.expect("round").found, 0, "not before its pause is over");
    let decided = reap::look(waiting, &Fact::Nothing, &yard.situation().await, due).expect("its pause is over");
    assert_eq!(commit(yard, decided, None).await.expect("commit"), Saved::Saved);
    let heard = hear(yard, &lane).await;
    let second = load(yard, job.id).await;
    assert_eq!(heard.message, Message { id: job.id, epoch: Epoch(2) });
    win(yard, &claim_of(&second, 2), today(yard)).await;
    assert_eq!(report(yard, &second, 2, failed()).await, Reported::Recorded);
    let ended = load(yard, job.id).await;
    assert_eq!((ended.phase(), ended.attempts_spent, ended.due), (Phase::Failed, 2, None), "its attempts are spent");
}

async fn attempts_without_a_pause_are_dispatched_by_the_next_round(yard: &Yard) {
    let job = submit(yard, "knocking", &json!({ "capability": "knock" })).await;
    let lane = dispatch::lane(&job);
    yard.lanes.delete(&hear(yard, &lane).await).await.expect("delete");
    win(yard, &claim_of(&job, 1), today(yard)).await;
    assert_eq!(report(yard, &job, 1, failed()).await, Reported::Recorded);
    // A home that keeps milliseconds may have rounded the moment up.
    yard.ambient.pause(Duration::from_millis(2)).await;
    let counts = reap::round(yard).await.expect("round");
    assert_eq!((counts.found, counts.done, counts.errors), (1, 1, 0));
    assert_eq!(hear(yard, &lane).await.message, Message { id: job.id, epoch: Epoch(2) });
    assert_eq!(reap::round(yard).await.expect("round").found, 0, "one look is enough");
}

async fn an_interrupted_run_is_dispatched_again_and_spends_nothing(yard: &Yard) {
    let job = submit(yard, "interrupted", &greet()).await;
    let lane = dispatch::lane(&job);
    let heard = hear(yard, &lane).await;
    win(yard, &claim_of(&job, 1), today(yard)).await;
    let leaves = Outcome::Interrupted("the machine goes away".to_owned());
    assert_eq!(report(yard, &job, 1, leaves).await, Reported::Recorded);
    yard.lanes.delete(&heard).await.expect("delete");
    assert_eq!(hear(yard, &lane).await.message, Message { id: job.id, epoch: Epoch(2) }, "its doorbell rings at once");
    let again = load(yard, job.id).await;
    assert_eq!((again.attempts_spent, again.interruptions, again.losses), (0, 1, 0));
}

async fn a_lost_holder_s_job_goes_to_another_and_its_late_report_is_refused(yard: &Yard) {
    let job = submit(yard, "lost", &greet()).await;
    let lane = dispatch::lane(&job);
    yard.lanes.delete(&hear(yard, &lane).await).await.expect("delete");
    let mut running = win(yard, &claim_of(&job, 1), today(yard)).await;
    for look in 1..=reap::MISSES {
        let due = running.due.expect("somebody must look again");
        let decided = reap::look(running, &Fact::Beat(None), &yard.situation().await, due).expect("it is due");
        assert_eq!(commit(yard, decided, None).await.expect("commit"), Saved::Saved, "look {look}");
        running = load(yard, job.id).await;
    }
    assert_eq!((running.phase(), running.epoch, running.losses), (Phase::Dispatched, Epoch(2), 1));
    let desk = YardDesk(yard.clone());
    let old = Message { id: job.id, epoch: Epoch(1) };
    let beat = Beat { holder: holder(1), counter: 1, running: vec![old] };
    let orders = desk.beat(&beat, Duration::ZERO).await.expect("beat");
    assert_eq!(orders, [Order { run: old, cause: StopCause::Stale }], "who was buried alive hears of it");
    assert_eq!(hear(yard, &lane).await.message, Message { id: job.id, epoch: Epoch(2) });
    win(yard, &claim_of(&running, 2), today(yard)).await;
    let late = Outcome::Succeeded(Some("\"late\"".to_owned()));
    assert_eq!(report(yard, &job, 1, late).await, Reported::Stale);
    let made = Outcome::Succeeded(Some("\"right\"".to_owned()));
    assert_eq!(report(yard, &running, 2, made).await, Reported::Recorded);
    assert_eq!(yard.ledger.result(job.id, Epoch(1)).await.expect("result"), None);
    let result = yard.ledger.result(job.id, Epoch(2)).await.expect("result");
    assert_eq!(result, Some(Body::Inline("\"right\"".to_owned())));
}

async fn a_lost_doorbell_is_rung_again(yard: &Yard) {
    let earlier = today(yard) - seconds(3600);
    // Accepted an hour ago by somebody who did not come to ring; or the message was lost.
    let job = put(yard, [greeting(yard, "unheard", earlier)]).await.remove(0);
    let counts = reap::round(yard).await.expect("round");
    assert_eq!((counts.found, counts.done, counts.errors), (1, 1, 0));
    let heard = hear(yard, &dispatch::lane(&job)).await;
    assert_eq!(heard.message, Message { id: job.id, epoch: Epoch(1) }, "at the same epoch");
    assert_eq!(reap::round(yard).await.expect("round").found, 0);
}

async fn a_report_of_another_run_is_refused(yard: &Yard) {
    let job = submit(yard, "guarded", &greet()).await;
    assert_eq!(report(yard, &job, 1, Outcome::Succeeded(None)).await, Reported::Stale, "nobody claimed it yet");
    let running = win(yard, &claim_of(&job, 1), today(yard)).await;
    let made = || Outcome::Succeeded(Some("\"forged\"".to_owned()));
    assert_eq!(report(yard, &job, 2, made()).await, Reported::Stale, "another token");
    let other_epoch = Job { epoch: Epoch(2), ..job.clone() };
    assert_eq!(report(yard, &other_epoch, 1, made()).await, Reported::Stale, "another epoch");
    let unknown = greeting(yard, "unknown", today(yard)).job;
    assert_eq!(report(yard, &unknown, 1, made()).await, Reported::Stale, "another job");
    assert_eq!(load(yard, job.id).await, running, "nothing was changed");
    assert_eq!(yard.ledger.result(job.id, Epoch(1)).await.expect("result"), None);
}

async fn a_repeated_report_is_recorded_once(yard: &Yard) {
    let job = submit(yard, "twice", &greet()).await;
    win(yard, &claim_of(&job, 1), today(yard)).await;
    let made = || Outcome::Succeeded(Some("1".to_owned()));
    assert_eq!(report(yard, &job, 1, made()).await, Reported::Recorded);
    let ended = load(yard, job.id).await;
    assert_eq!(report(yard, &job, 1, made()).await, Reported::Recorded, "the answer was lost, the report comes again");
    assert_eq!(load(yard, job.id).await, ended, "and changes nothing");
}

async fn a_waiting_job_is_cancelled_at_once(yard: &Yard) {
    let job = submit(yard, "unwanted", &greet()).await;
    let ended = settle::cancel_job(yard, job.id, "contract").await.expect("cancel");
    assert_eq!((ended.phase(), ended.due), (Phase::Cancelled, None));
    assert_eq!(load(yard, job.id).await, ended);
    let claimed = YardDesk(yard.clone()).claim(&claim_of(&job, 1)).await.expect("claim");
    assert_eq!(claimed, Claimed::Lost(Refusal::Settled), "its doorbell means nothing any more");
    let again = settle::cancel_job(yard, job.id, "contract").await;
    assert!(matches!(again, Err(settle::AskError::Conflict { .. })), "it cannot be cancelled twice: {again:?}");
    let nobody = greeting(yard, "nobody", today(yard)).job.id;
    let missing = settle::cancel_job(yard, nobody, "contract").await;
    assert!(matches!(missing, Err(settle::AskError::NotFound(id)) if id == nobody), "{missing:?}");
}

async fn a_running_job_is_cancelled_by_way_of_its_beat(yard: &Yard) {
    let job = submit(yard, "stopped", &greet()).await;
    let running = win(yard, &claim_of(&job, 1), today(yard)).await;
    let asked = settle::cancel_job(yard, job.id, "contract").await.expect("cancel");
    assert_eq!((asked.phase(), asked.revision), (Phase::Running, running.revision + 1), "its holder ends it");
    let again = settle::cancel_job(yard, job.id, "contract").await.expect("cancel");
    assert_eq!(again, asked, "asked once is enough");
    let run = Message { id: job.id, epoch: job.epoch };
    let beat = Beat { holder: holder(1), counter: 1, running: vec![run] };
    let orders = YardDesk(yard.clone()).beat(&beat, Duration::ZERO).await.expect("beat");
    assert_eq!(orders, [Order { run, cause: StopCause::Cancel }]);
    assert_eq!(report(yard, &job, 1, Outcome::Stopped(StopCause::Cancel)).await, Reported::Recorded);
    assert_eq!(load(yard, job.id).await.phase(), Phase::Cancelled);
}

async fn a_failed_job_is_retried_by_hand_and_a_success_is_not(yard: &Yard) {
    let job = submit(yard, "retried", &greet()).await;
    let lane = dispatch::lane(&job);
    yard.lanes.delete(&hear(yard, &lane).await).await.expect("delete");
    let early = settle::retry_job(yard, job.id, "contract").await;
    assert!(matches!(early, Err(settle::AskError::Conflict { .. })), "it has not ended: {early:?}");
    win(yard, &claim_of(&job, 1), today(yard)).await;
    let failure = Failure::new("exit_nonzero", "it exited with 2");
    let permanent = Outcome::Failed { failure, permanent: true };
    assert_eq!(report(yard, &job, 1, permanent).await, Reported::Recorded);
    let again = settle::retry_job(yard, job.id, "contract").await.expect("retry");
    assert_eq!((again.phase(), again.epoch, again.attempts_allowed), (Phase::Dispatched, Epoch(2), 3));
    assert_eq!(hear(yard, &lane).await.message, Message { id: job.id, epoch: Epoch(2) });
    win(yard, &claim_of(&again, 2), today(yard)).await;
    assert_eq!(report(yard, &again, 2, Outcome::Succeeded(None)).await, Reported::Recorded);
    let late = settle::retry_job(yard, job.id, "contract").await;
    assert!(matches!(late, Err(settle::AskError::Conflict { .. })), "a success is final: {late:?}");
}

async fn log_lines_of_a_run_that_is_over_are_dropped(yard: &Yard) {
    let job = submit(yard, "chatty", &greet()).await;
    let now = today(yard);
    let desk = YardDesk(yard.clone());
    let say = |text: &str| vec![line(now, 0, Stream::Stdout, text)];
    desk.log(&voucher(&job, 1), &say("before the claim")).await.expect("log");
    win(yard, &claim_of(&job, 1), now).await;
    desk.log(&voucher(&job, 1), &say("during the run")).await.expect("log");
    desk.log(&voucher(&job, 2), &say("with another token")).await.expect("log");
    let other_epoch = Voucher { epoch: Epoch(2), ..voucher(&job, 1) };
    desk.log(&other_epoch, &say("of another epoch")).await.expect("log");
    assert_eq!(report(yard, &job, 1, Outcome::Succeeded(None)).await, Reported::Recorded);
    desk.log(&voucher(&job, 1), &say("after the end")).await.expect("log");
    let texts: Vec<String> = log_from(yard, job.id, "").await.0.into_iter().map(|(_, line)| line.text).collect();
    assert_eq!(texts, ["during the run"]);
}

async fn an_announced_settlement_owes_nothing_in_the_end(yard: &Yard) {
    let mut body = greet();
    body["announce"] = json!(true);
    let job = submit(yard, "told", &body).await;
    win(yard, &claim_of(&job, 1), today(yard)).await;
    assert_eq!(report(yard, &job, 1, Outcome::Succeeded(None)).await, Reported::Recorded);
    let ended = load(yard, job.id).await;
    assert_eq!((ended.phase(), ended.owed.len(), ended.due), (Phase::Succeeded, 0, None), "announced and struck out");
}

async fn a_key_is_free_again_after_its_retention(yard: &Yard) {
    let long_ago = today(yard) - yard.retention - seconds(60);
    let prepared = submission(yard, Some("kept"), &greet(), long_ago);
    let new = NewJob { job: prepared.job, payload: Body::Inline(prepared.payload) };
    let job = put(yard, [new]).await.remove(0);
    yard.logs.append(job.id, Epoch(1), &[line(long_ago, 0, Stream::Stdout, "old")]).await.expect("append");
    let blob = yard.blobs.put(job.id, "result-1", "old").await.expect("put");
    succeed(yard, &job, 1, long_ago).await;
    let counts = reap::round(yard).await.expect("round");
    assert_eq!((counts.forgotten, counts.errors), (1, 0));
    assert_eq!(yard.ledger.load(job.id).await.expect("load"), None);
    assert_eq!(yard.blobs.get(&blob).await.expect("get"), None);
    assert_eq!(log_from(yard, job.id, "").await.0, []);
    assert_eq!(submit(yard, "kept", &greet()).await.id, job.id, "the key makes a new job of the same id");
}

async fn what_is_remembered_of_schedules_is_kept_replaced_and_forgotten(yard: &Yard) {
    let now = today(yard);
    let ticked = |name: &'static str, ticked: Option<Ticked>| async move {
        yard.ledger.ticked(name, ticked.as_ref()).await.expect("remember");
    };
    let first = Ticked { upto: now, times: "every 5 minutes UTC".to_owned(), tick: None, skipped: 0, why: None };
    let why = Some((now, "overlap: a job \"of mine\" runs".to_owned()));
    let second = Ticked { upto: now + seconds(60), tick: Some(now), skipped: 2, why, ..first.clone() };
    assert_eq!(yard.ledger.last_ticks().await.expect("read"), BTreeMap::new());
    ticked("a", Some(first.clone())).await;
    ticked("b-2", Some(first.clone())).await;
    ticked("a", Some(second.clone())).await;
    let both = BTreeMap::from([("a".to_owned(), second), ("b-2".to_owned(), first.clone())]);
    assert_eq!(yard.ledger.last_ticks().await.expect("read"), both);
    ticked("a", None).await;
    ticked("never-was", None).await;
    assert_eq!(yard.ledger.last_ticks().await.expect("read"), BTreeMap::from([("b-2".to_owned(), first)]));
}

async fn a_missed_tick_becomes_one_job_however_often_it_is_run(yard: &Yard) {
    let seen = schedule::round(yard).await.expect("round");
    assert_eq!((seen.submitted, seen.errors), (0, 0), "a schedule that is new owes nothing");
    assert!(seen.next.is_some_and(|next| next > today(yard)));
    let remembered = yard.ledger.last_ticks().await.expect("read").remove("rarely").expect("it was seen");
    // As after three days in which nobody looked.
    let old = Ticked { upto: today(yard) - seconds(3 * 24 * 3600), ..remembered };
    let mut jobs = Vec::new();
    for run in 0..3 {
        yard.ledger.ticked("rarely", Some(&old)).await.expect("remember");
        let counts = schedule::round(yard).await.expect("round");
        assert_eq!((counts.submitted, counts.repeated), if run == 0 { (1, 0) } else { (0, 1) }, "run {run}");
        jobs = yard.ledger.list(&Query { limit: 10, ..Query::default() }).await.expect("list");
        assert_eq!(jobs.len(), 1, "run {run}");
    }
    let work = &jobs[0].work;
    assert_eq!((work.caller.as_str(), work.capability.as_str()), (schedule::CALLER, "knock"));
    assert_eq!(work.labels, [(schedule::LABEL.to_owned(), "rarely".to_owned())]);
    assert_eq!(drain(yard, &dispatch::lane(&jobs[0])).await.len(), 1, "its doorbell rang");
    assert_eq!(schedule::round(yard).await.expect("round").submitted, 0, "what was evaluated stays so");
}
