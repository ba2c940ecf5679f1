//! Permits, admissions, pauses, quotas, depths.

use std::sync::Arc;

use super::*;
use crate::brake::{self, Pause, Pauses, Scope};
use crate::job::Work;
use crate::policies::Shelf;
use crate::quota::{self, OverQuota, Quota, Quotas, Rate, RetryAfter};

/// A job of the capability that may have two at once, at the door; held as all of them are.
fn guarded(yard: &Yard, key: &str, tier: Tier, now: Timestamp) -> NewJob {
    let body = json!({ "capability": "guarded", "tier": tier });
    let Prepared { job, payload } = submission(yard, Some(key), &body, now);
    assert_eq!((job.phase(), job.epoch, job.permit), (Phase::Held, Epoch(0), None), "born held");
    NewJob { job, payload: Body::Inline(payload) }
}

/// The held job, dispatched with this permit; not written.
fn admitted(yard: &Yard, job: &Job, permit: u16) -> Job {
    brake::admission(job.clone(), Some(permit), &rules(yard), today(yard)).job
}

async fn phases(yard: &Yard, jobs: &[Job]) -> Vec<(Phase, Option<u16>)> {
    let mut phases = Vec::new();
    for job in jobs {
        let job = load(yard, job.id).await;
        phases.push((job.phase(), job.permit));
    }
    phases
}

const HELD: (Phase, Option<u16>) = (Phase::Held, None);
const DONE: (Phase, Option<u16>) = (Phase::Succeeded, None);

fn sent(permit: u16) -> (Phase, Option<u16>) {
    (Phase::Dispatched, Some(permit))
}

fn pause_of(yard: &Yard, scope: Scope) -> Pause {
    Pause { scope, by: "ana".to_owned(), at: today(yard), reason: "Grüße".to_owned() }
}

/// The permits of the capability, while none of its jobs runs without.
async fn permits(yard: &Yard, capability: &str) -> Vec<u16> {
    let permits = yard.ledger.permits(capability).await.expect("permits");
    assert_eq!(permits.without, 0);
    permits.held
}

async fn desk_claim(yard: &Yard, job: &Job, n: u8) -> Claimed {
    YardDesk(yard.clone()).claim(&claim_of(job, n)).await.expect("claim")
}

pub(super) async fn a_permit_is_held_by_one_job_at_a_time(yard: &Yard) {
    let now = today(yard);
    let jobs = put(yard, ["a", "b"].map(|key| guarded(yard, key, Tier::Standard, now))).await;
    assert_eq!(permits(yard, "guarded").await, [] as [u16; 0]);
    let first = save(yard, admitted(yard, &jobs[0], 1)).await;
    let second = admitted(yard, &jobs[1], 1).stamped(Nonce(7));
    let refused = yard.ledger.save(second.clone(), Some(Body::Inline("[]".to_owned()))).await.expect("save");
    assert_eq!(refused, Saved::PermitTaken);
    assert_eq!(load(yard, jobs[1].id).await, jobs[1], "a refused save changes nothing");
    assert_eq!(yard.ledger.result(jobs[1].id, second.epoch).await.expect("result"), None, "nor leaves a result");
    save(yard, admitted(yard, &jobs[1], 0)).await;
    assert_eq!(permits(yard, "guarded").await, [0, 1]);
    assert_eq!(permits(yard, "greet").await, [] as [u16; 0], "each capability has its own");
    let again = save(yard, Job { due: Some(now), ..first.clone() }).await;
    assert_eq!(again.permit, Some(1), "its own permit is in nobody's way");
    let stale = yard.ledger.save(first.stamped(Nonce(8)), None).await.expect("save");
    assert!(matches!(stale, Saved::Refused(Some(_))), "whose revision is over hears that, not of permits: {stale:?}");
    let ended = settle::cancel(again, now, "x").expect("it waits").expect("it changes").job;
    save(yard, ended).await;
    assert_eq!(permits(yard, "guarded").await, [0], "given up in the write that ends it");
}

pub(super) async fn of_many_writers_of_one_permit_one_succeeds(yard: &Yard) {
    let now = today(yard);
    let jobs = put(yard, (0..16).map(|n| guarded(yard, &format!("crowd-{n}"), Tier::Standard, now))).await;
    let writers = jobs.iter().zip(0_u64..).map(|(job, n)| {
        let mine = admitted(yard, job, 0).stamped(Nonce(n));
        async move { yard.ledger.save(mine, None).await.expect("save") }
    });
    let saved = together(writers).await;
    assert_eq!(saved.iter().filter(|saved| **saved == Saved::Saved).count(), 1, "{saved:?}");
    assert_eq!(saved.iter().filter(|saved| **saved == Saved::PermitTaken).count(), 15, "{saved:?}");
    assert_eq!(permits(yard, "guarded").await, [0]);
}

pub(super) async fn held_jobs_come_highest_tier_first_then_oldest(yard: &Yard) {
    assert_eq!(yard.ledger.holding().await.expect("holding"), [] as [String; 0]);
    let now = today(yard);
    let tiers = [Tier::Standard, Tier::Priority, Tier::Standard, Tier::Synchronous, Tier::Priority];
    let held = |n: usize| guarded(yard, &format!("in-turn-{n}"), tiers[n], now - seconds(100 - n as u64));
    let jobs = put(yard, (0..5).map(held)).await;
    put(yard, [greeting(yard, "not-held", now)]).await;
    let turn = |order: &[usize]| order.iter().map(|n| jobs[*n].id).collect::<Vec<_>>();
    let all = yard.ledger.held("guarded", &Tier::ALL, 10).await.expect("held");
    assert_eq!(ids(&all), turn(&[3, 1, 4, 0, 2]));
    assert_eq!(all[0], jobs[3], "the records themselves");
    assert_eq!(ids(&yard.ledger.held("guarded", &Tier::ALL, 2).await.expect("held")), turn(&[3, 1]));
    let lower = yard.ledger.held("guarded", &[Tier::Standard, Tier::Synchronous], 10).await.expect("held");
    assert_eq!(ids(&lower), turn(&[3, 0, 2]), "tiers that are left out are passed over");
    assert_eq!(yard.ledger.held("greet", &Tier::ALL, 10).await.expect("held"), []);
    assert_eq!(yard.ledger.holding().await.expect("holding"), ["guarded"]);
}

pub(super) async fn a_pause_is_in_force_until_it_is_lifted(yard: &Yard) {
    assert_eq!(*yard.ledger.pauses().await.expect("pauses"), Pauses::default());
    let scopes = [Scope::All, Scope::Tier(Tier::Priority), Scope::Capability("greet".to_owned())];
    let pauses = scopes.clone().map(|scope| pause_of(yard, scope));
    for pause in &pauses {
        yard.ledger.set_pause(&pause.scope, Some(pause)).await.expect("set");
    }
    assert_eq!(*yard.ledger.pauses().await.expect("pauses"), Pauses::from_iter(pauses.clone()));
    let newer = Pause { by: "bob".to_owned(), ..pauses[1].clone() };
    yard.ledger.set_pause(&newer.scope, Some(&newer)).await.expect("set");
    yard.ledger.set_pause(&Scope::All, None).await.expect("lift");
    yard.ledger.set_pause(&Scope::All, None).await.expect("lifting twice is no error");
    assert_eq!(*yard.ledger.pauses().await.expect("pauses"), Pauses::from_iter([newer, pauses[2].clone()]));
}

pub(super) async fn depths_say_what_waits_and_what_ended(yard: &Yard) {
    let now = today(yard);
    let hour = now - seconds(3600);
    assert_eq!(yard.ledger.depths(hour).await.expect("depths"), Depths::default());
    let jobs = put(yard, (0..5).map(|n| greeting(yard, &format!("depth-{n}"), now - seconds(n)))).await;
    succeed(yard, &jobs[0], 1, now).await;
    succeed(yard, &jobs[1], 1, hour - seconds(1)).await;
    win(yard, &claim_of(&jobs[2], 1), now).await;
    let held = put(yard, (0..3).map(|n| guarded(yard, &format!("held-{n}"), Tier::Priority, now - seconds(9)))).await;
    let first = save(yard, admitted(yard, &held[0], 0)).await;
    let depths = yard.ledger.depths(hour).await.expect("depths");
    assert_eq!(depths.open, [(Phase::Held, 2), (Phase::Dispatched, 3), (Phase::Running, 1)]);
    assert_eq!(depths.ended, [(Phase::Succeeded, 1)], "only since the moment asked for");
    assert_eq!(depths.capabilities, [("greet".to_owned(), 1, 0), ("guarded".to_owned(), 1, 2)]);
    let State::Dispatched { at, .. } = first.state else { panic!("it was dispatched") };
    assert_eq!(at, now - seconds(9), "let go on, it waits as long as it did");
    let tier = |tier, waiting, held, oldest| TierDepth { tier, waiting, held, oldest };
    let expected = [tier(Tier::Priority, 1, 2, now - seconds(9)), tier(Tier::Standard, 2, 0, now - seconds(4))];
    assert_eq!(depths.tiers, expected);
}

pub(super) async fn open_jobs_are_the_caller_s_own_that_have_not_ended(yard: &Yard) {
    let now = today(yard);
    let jobs = put(yard, (0..4).map(|n| greeting(yard, &format!("open-{n}"), now))).await;
    let mut other = greeting(yard, "other", now);
    other.job.work = Work { caller: "somebody".to_owned(), ..other.job.work };
    put(yard, [other]).await;
    succeed(yard, &jobs[0], 1, now).await;
    win(yard, &claim_of(&jobs[1], 1), now).await;
    assert_eq!(yard.ledger.open_jobs("contract", 100).await.expect("open"), 3);
    assert_eq!(yard.ledger.open_jobs("contract", 2).await.expect("open"), 2, "counted no further than that");
    assert_eq!(yard.ledger.open_jobs("nobody", 100).await.expect("open"), 0);
}

pub(super) async fn each_caller_draws_from_its_own_bucket(yard: &Yard) {
    let (now, rate) = (today(yard), Rate { jobs_per_minute: 60, burst: 3 });
    let draw =
        |caller: &'static str, n, now| async move { yard.ledger.draw(caller, n, rate, now).await.expect("draw") };
    assert_eq!(draw("ana", 2, now).await, Ok(()));
    assert_eq!(draw("ana", 2, now).await, Err(RetryAfter(seconds(1))), "all of it or nothing");
    assert_eq!(draw("ana", 1, now).await, Ok(()));
    assert_eq!(draw("bob", 3, now).await, Ok(()));
    assert_eq!(draw("ana", 2, now + seconds(2)).await, Ok(()));
}

pub(super) async fn a_caller_over_its_quota_hears_which_and_when_to_come_again(yard: &Yard) {
    let rate = Rate { jobs_per_minute: 1, burst: 2 };
    let quota = |rate, open_jobs| Quota { rate, open_jobs };
    let callers = [("ci", quota(Some(rate), None)), ("contract", quota(None, Some(3)))];
    let callers = callers.map(|(caller, quota)| (caller.to_owned(), quota)).into();
    let quotas = Quotas { every: Quota::default(), callers };
    let ruled = Policies { quotas, ..(*yard.policies()).clone() };
    let yard = &Yard { shelf: Arc::new(Shelf::new(ruled)), ..yard.clone() };
    let charge = |caller: &'static str, n| async move { quota::charge(yard, caller, n).await.expect("charge") };
    assert_eq!(charge("anybody", 500).await, Ok(()), "no quota, no charge");
    assert_eq!(charge("ci", 2).await, Ok(()));
    let over = charge("ci", 1).await.expect_err("its burst is drawn");
    assert!(over.retry_after_seconds().is_some_and(|after| (50..=60).contains(&after)), "{over}");
    put(yard, (0..2).map(|n| greeting(yard, &format!("quota-{n}"), today(yard)))).await;
    assert_eq!(charge("contract", 1).await, Ok(()));
    let over = charge("contract", 2).await.expect_err("a batch is charged as a whole");
    assert_eq!(over, OverQuota::Open { caller: "contract".to_owned(), most: 3, open: 2 });
    let over = charge("contract", 4).await.expect_err("more than may ever be open");
    assert_eq!(over, OverQuota::Never { caller: "contract".to_owned(), most: 3, n: 4 });
    assert_eq!(charge("contract", 0).await, Ok(()), "what asks for nothing new");
}

pub(super) async fn a_limit_is_reached_and_never_exceeded(yard: &Yard) {
    let body = |tier: &str| json!({ "capability": "guarded", "tier": tier });
    let mut jobs = Vec::new();
    for (key, tier) in [("a", "standard"), ("b", "standard"), ("c", "standard"), ("d", "priority"), ("e", "standard")] {
        jobs.push(submit(yard, key, &body(tier)).await);
        // Ids of one moment are in no order: what is older must be so by its time.
        yard.ambient.pause(Duration::from_millis(2)).await;
    }
    assert_eq!(phases(yard, &jobs).await, [sent(0), sent(1), HELD, HELD, HELD]);
    let first = load(yard, jobs[0].id).await;
    assert_eq!(first.epoch, Epoch(1));
    let heard: BTreeSet<JobId> =
        drain(yard, &dispatch::lane(&first)).await.iter().map(|bell| bell.message.id).collect();
    assert_eq!(heard, BTreeSet::from([jobs[0].id, jobs[1].id]), "what is held rings nowhere");
    // An interruption keeps the permit, an end gives it to the highest tier, an attempt that failed to the next.
    win(yard, &claim_of(&first, 1), today(yard)).await;
    assert_eq!(report(yard, &first, 1, Outcome::Interrupted("x".to_owned())).await, Reported::Recorded);
    assert_eq!(phases(yard, &jobs).await, [sent(0), sent(1), HELD, HELD, HELD]);
    let first = load(yard, jobs[0].id).await;
    win(yard, &claim_of(&first, 2), today(yard)).await;
    assert_eq!(report(yard, &first, 2, Outcome::Succeeded(None)).await, Reported::Recorded);
    assert_eq!(phases(yard, &jobs).await, [DONE, sent(1), HELD, sent(0), HELD], "the priority tier first");
    let second = load(yard, jobs[1].id).await;
    win(yard, &claim_of(&second, 1), today(yard)).await;
    assert_eq!(report(yard, &second, 1, failed()).await, Reported::Recorded);
    assert_eq!(phases(yard, &jobs).await, [DONE, (Phase::Delayed, None), sent(1), sent(0), HELD]);
    settle::cancel_job(yard, jobs[3].id, "contract").await.expect("cancel");
    assert_eq!(phases(yard, &jobs[4..]).await, [sent(0)], "cancelled while it waited: its permit goes on");
    let again = settle::retry_job(yard, jobs[3].id, "contract").await.expect("retry");
    assert_eq!((again.phase(), again.epoch), (Phase::Held, Epoch(2)), "retried into a full house, as another life");
}

pub(super) async fn what_a_crash_left_held_is_sent_on_by_the_next_round(yard: &Yard) {
    let now = today(yard);
    // Accepted, and nobody came to admit.
    let jobs = put(yard, ["a", "b", "c"].map(|key| guarded(yard, key, Tier::Standard, now))).await;
    let counts = reap::round(yard).await.expect("round");
    assert_eq!((counts.found, counts.admitted), (0, 2), "none is due, and two may go");
    let held = yard.ledger.held("guarded", &Tier::ALL, 10).await.expect("held");
    assert_eq!(held.len(), 1);
    // One ends, and whoever recorded it went down before it looked for the next.
    let running = jobs.iter().find(|job| job.id != held[0].id).expect("two went on");
    succeed(yard, &load(yard, running.id).await, 1, now).await;
    assert_eq!(load(yard, held[0].id).await.phase(), Phase::Held);
    assert_eq!(reap::after_restart(yard, vec![]).await.expect("restart").admitted, 1);
    assert_eq!(load(yard, held[0].id).await.phase(), Phase::Dispatched);
}

pub(super) async fn a_paused_job_is_held_at_the_door_and_at_its_claim_until_it_is_resumed(yard: &Yard) {
    let waiting = submit(yard, "before", &greet()).await;
    let running = submit(yard, "running", &greet()).await;
    win(yard, &claim_of(&running, 1), today(yard)).await;
    let scope = Scope::Tier(Tier::Standard);
    brake::pause(yard, pause_of(yard, scope.clone())).await.expect("pause");
    let late = submit(yard, "after", &greet()).await;
    assert_eq!((late.phase(), late.epoch), (Phase::Held, Epoch(0)));
    let urgent = submit(yard, "urgent", &json!({ "capability": "knock", "tier": "priority" })).await;
    assert_eq!(urgent.phase(), Phase::Dispatched, "another tier is not paused");
    assert_eq!(desk_claim(yard, &waiting, 2).await, Claimed::Lost(Refusal::Braked));
    assert_eq!(load(yard, waiting.id).await.phase(), Phase::Held, "its doorbell is done, and so the record says it");
    assert_eq!(desk_claim(yard, &waiting, 2).await, Claimed::Lost(Refusal::Braked));
    assert_eq!(report(yard, &running, 1, Outcome::Interrupted("x".to_owned())).await, Reported::Recorded);
    assert_eq!(load(yard, running.id).await.phase(), Phase::Held, "what comes back is held too");
    assert_eq!(reap::round(yard).await.expect("round").admitted, 0);
    let lifted = brake::resume(yard, &scope).await.expect("resume");
    assert_eq!(lifted.map(|pause| pause.by), Some("ana".to_owned()));
    for (job, epoch) in [(&waiting, 2), (&running, 2), (&late, 1)] {
        let job = load(yard, job.id).await;
        assert_eq!((job.phase(), job.epoch), (Phase::Dispatched, Epoch(epoch)));
        assert!(matches!(desk_claim(yard, &job, 3).await, Claimed::Won(..)));
    }
}

pub(super) async fn a_job_whose_capability_left_the_catalog_waits_until_it_is_back(yard: &Yard) {
    let job = submit(yard, "orphan", &greet()).await;
    let without = Policies { catalog: Catalog::default(), ..(*yard.policies()).clone() };
    let bare = Yard { shelf: Arc::new(Shelf::new(without)), ..yard.clone() };
    assert_eq!(desk_claim(&bare, &job, 1).await, Claimed::Lost(Refusal::Braked));
    assert_eq!(load(yard, job.id).await.phase(), Phase::Held);
    assert_eq!(reap::round(&bare).await.expect("round").admitted, 0);
    assert_eq!(reap::round(yard).await.expect("round").admitted, 1);
    let job = load(yard, job.id).await;
    assert_eq!((job.phase(), job.epoch), (Phase::Dispatched, Epoch(2)));
}

/// The yard after a reload that says this in the place of the limit of `guarded`.
fn under_limit(yard: &Yard, limit: &str) -> Yard {
    let text = CAPABILITIES.replace("limits: { concurrent: 2 }", limit);
    let catalog = Catalog::parse("contract", &text, &[], &BTreeMap::new()).expect("the suite's own catalog");
    Yard { shelf: Arc::new(Shelf::new(Policies { catalog, ..(*yard.policies()).clone() })), ..yard.clone() }
}

pub(super) async fn a_changed_limit_holds_for_what_starts_from_now_on(yard: &Yard) {
    let mut jobs = Vec::new();
    for key in ["a", "b", "c", "d"] {
        jobs.push(submit(yard, key, &json!({ "capability": "guarded" })).await);
        yard.ambient.pause(Duration::from_millis(2)).await;
    }
    let limit = |limit: &str| under_limit(yard, limit);
    let lower = limit("limits: { concurrent: 1 }");
    // The one above the limit is held when it is claimed; the other goes on.
    let [first, second] = [load(yard, jobs[0].id).await, load(yard, jobs[1].id).await];
    assert_eq!((first.permit, second.permit), (Some(0), Some(1)));
    assert!(matches!(desk_claim(&lower, &first, 1).await, Claimed::Won(..)));
    assert_eq!(desk_claim(&lower, &second, 1).await, Claimed::Lost(Refusal::Braked));
    assert_eq!(reap::round(&lower).await.expect("round").admitted, 0, "one runs");
    let higher = limit("limits: { concurrent: 3 }");
    assert_eq!(reap::round(&higher).await.expect("round").admitted, 2);
    let none = limit("");
    assert_eq!(reap::round(&none).await.expect("round").admitted, 1);
    let free: Vec<Option<u16>> = phases(yard, &jobs).await.into_iter().map(|(_, permit)| permit).collect();
    assert_eq!(free, [Some(0), Some(1), Some(2), None], "without a limit, without a permit");
    assert!(matches!(desk_claim(&none, &load(yard, jobs[3].id).await, 1).await, Claimed::Won(..)));
}

pub(super) async fn what_runs_without_a_permit_counts_when_a_limit_comes(yard: &Yard) {
    let free = under_limit(yard, "");
    let mut running = Vec::new();
    for (key, n) in [("a", 1), ("b", 2), ("c", 3)] {
        let job = submit(&free, key, &json!({ "capability": "guarded" })).await;
        assert!(matches!(desk_claim(&free, &job, n).await, Claimed::Won(..)));
        running.push(job);
    }
    let used = Permits { held: vec![], without: 3 };
    assert_eq!(yard.ledger.permits("guarded").await.expect("permits"), used);
    assert_eq!(yard.ledger.permits("greet").await.expect("permits"), Permits::default());
    // From here on two at once: three run, so that two of them must end before the next may start.
    let mut held = Vec::new();
    for key in ["d", "e", "f"] {
        held.push(submit(yard, key, &json!({ "capability": "guarded" })).await);
        yard.ambient.pause(Duration::from_millis(2)).await;
    }
    assert_eq!(reap::round(yard).await.expect("round").admitted, 0);
    assert_eq!(phases(yard, &held).await, [HELD, HELD, HELD]);
    assert_eq!(report(yard, &running[0], 1, Outcome::Succeeded(None)).await, Reported::Recorded);
    assert_eq!(phases(yard, &held).await, [HELD, HELD, HELD], "two run still");
    assert_eq!(report(yard, &running[1], 2, failed()).await, Reported::Recorded);
    assert_eq!(phases(yard, &held).await, [sent(0), HELD, HELD], "at once, and not with the next round");
    assert_eq!(report(yard, &running[2], 3, Outcome::Interrupted("x".to_owned())).await, Reported::Recorded);
    assert_eq!(phases(yard, &running[2..]).await, [sent(1)], "the oldest of all that are held by now");
    let used = Permits { held: vec![0, 1], without: 0 };
    assert_eq!(yard.ledger.permits("guarded").await.expect("permits"), used);
}

pub(super) async fn an_end_sends_one_on_and_a_sweep_so_many_and_no_more(yard: &Yard) {
    let one = under_limit(yard, "limits: { concurrent: 1 }");
    let now = today(yard);
    let first = load(yard, submit(&one, "first", &json!({ "capability": "guarded" })).await.id).await;
    let crowd = put(yard, (0..520).map(|n| guarded(yard, &format!("crowd-{n}"), Tier::Standard, now))).await;
    assert!(matches!(desk_claim(&one, &first, 1).await, Claimed::Won(..)));
    let held = async |yard: &Yard| yard.ledger.held("guarded", &Tier::ALL, 1000).await.expect("held").len();
    // The limit was removed meanwhile: whoever reports must not wait until all of them have gone.
    let free = under_limit(yard, "");
    assert_eq!(report(&free, &first, 1, Outcome::Succeeded(None)).await, Reported::Recorded);
    assert!(held(yard).await >= crowd.len() - 1);
    let before = held(yard).await;
    assert_eq!(reap::round(&free).await.expect("round").admitted, brake::ADMISSIONS as u64);
    assert_eq!(held(yard).await, before - brake::ADMISSIONS);
    assert_eq!(reap::round(&free).await.expect("round").admitted, (before - brake::ADMISSIONS) as u64);
    assert_eq!(reap::round(&free).await.expect("round").admitted, 0);
}
