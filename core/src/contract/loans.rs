//! Loans: who is lent what, and what is written down of it.

use secrecy::SecretString;

use super::*;
use crate::lend::{
    self, Answer, Credential, Issued, Loan, LoanId, LoanNote, LoanOutcome, LoanQuery, LoanRequest, Order as LoanOrder,
    Refused, RefusedCode, Scope as LoanScope,
};
use crate::ports::{PortError, Vendors};

/// What the vendor of this suite lends; no record of it may ever hold it.
const SECRET: &str = "canary-of-the-contract-suite";

/// A vendor that lends one value, without an end of its own, and can end it.
struct One;

#[async_trait]
impl Vendors for One {
    async fn issue(&self, order: &LoanOrder) -> Result<Issued, Refused> {
        match &order.scope {
            LoanScope::Global { secret } if secret == "down" => {
                Err(Refused::new(RefusedCode::VendorDown, "the vendor is down"))
            }
            _ => {
                let credential = Credential::Value(SecretString::from(SECRET));
                let reference = Some("the vendor's name for it".to_owned());
                Ok(Issued { credential, expires: None, reference, revocable: true })
            }
        }
    }

    async fn revoke(&self, _loan: &Loan) -> Result<bool, PortError> {
        Ok(true)
    }
}

fn global(secret: &str) -> LoanScope {
    LoanScope::Global { secret: secret.to_owned() }
}

async fn ask(yard: &Yard, voucher: Voucher, scope: LoanScope) -> Answer {
    lend::lend(yard, &One, &LoanRequest { voucher, scope }).await.expect("lend")
}

async fn refused(yard: &Yard, voucher: Voucher, scope: LoanScope) -> RefusedCode {
    match ask(yard, voucher, scope).await {
        Answer::Refused(refused) => refused.code,
        Answer::Lent(loan) => panic!("lent until {}", loan.until),
    }
}

async fn noted(yard: &Yard, query: LoanQuery) -> Vec<LoanNote> {
    yard.ledger.loans(&query).await.expect("list loans")
}

fn all() -> LoanQuery {
    LoanQuery { limit: 500, ..LoanQuery::default() }
}

pub(super) async fn a_loan_is_for_the_run_that_shows_its_token_and_is_written_down_either_way(yard: &Yard) {
    let job = submit(yard, "borrows", &json!({ "capability": "borrow", "payload": {} })).await;
    assert_eq!(refused(yard, voucher(&job, 1), global("key")).await, RefusedCode::NotRunning);
    let now = today(yard);
    let running = win(yard, &claim_of(&job, 1), now).await;
    let State::Running(run) = &running.state else { panic!("{:?}", running.state) };
    for (voucher, scope, code) in [
        (voucher(&running, 2), global("key"), RefusedCode::NotTheHolder),
        (Voucher { epoch: Epoch(running.epoch.0 + 1), ..voucher(&running, 1) }, global("key"), RefusedCode::StaleEpoch),
        (
            Voucher { id: JobId::keyed("contract", "nobody's"), ..voucher(&running, 1) },
            global("key"),
            RefusedCode::UnknownJob,
        ),
        (voucher(&running, 1), global("another"), RefusedCode::ScopeNotAllowed),
        (voucher(&running, 1), global("a b"), RefusedCode::BadScope),
        (voucher(&running, 1), global("down"), RefusedCode::VendorDown),
    ] {
        assert_eq!(refused(yard, voucher, scope).await, code);
    }
    let Answer::Lent(loan) = ask(yard, voucher(&running, 1), global("key")).await else { panic!("refused") };
    assert!(loan.until <= run.deadline, "never longer than its run");
    // It is for the run that it was lent to, to give it back: nobody else writes that it did.
    let unknown = Loan { id: LoanId::ordered(now, [9; 32]), ..(*loan).clone() };
    let of_another = Voucher { id: JobId::keyed("contract", "nobody's"), ..voucher(&running, 1) };
    for (voucher, loan) in [(voucher(&running, 2), &*loan), (voucher(&running, 1), &unknown), (of_another, &*loan)] {
        let refused = lend::take_back(yard, &One, &voucher, loan).await.expect_err("not theirs to give back");
        assert!(!refused.retryable, "{refused}");
    }
    lend::take_back(yard, &One, &voucher(&running, 1), &loan).await.expect("take back");
    assert_eq!(report(yard, &running, 1, Outcome::Succeeded(None)).await, Reported::Recorded);
    assert_eq!(refused(yard, voucher(&running, 1), global("key")).await, RefusedCode::NotRunning);
    let notes = noted(yard, all()).await;
    assert!(notes.is_sorted_by(|one, next| one.id >= next.id), "the newest first");
    assert_eq!(notes.len(), 10, "each request and the return");
    assert!(!format!("{notes:?}").contains(SECRET));
    let of_job = noted(yard, LoanQuery { job: Some(job.id), ..all() }).await;
    assert_eq!(of_job.len(), 9, "all but that for a job that is not there");
    let lent = of_job.iter().find(|note| note.id == loan.id).expect("it is written down");
    assert_eq!((&*lent.capability, &*lent.holder, lent.epoch), ("borrow", &*run.holder.to_string(), running.epoch));
    assert_eq!(
        lent.outcome,
        LoanOutcome::Lent { until: loan.until, reference: Some("the vendor's name for it".into()), revocable: true }
    );
    assert!(of_job.iter().any(|note| note.outcome == LoanOutcome::Returned { loan: loan.id, revoked: true }));
}

pub(super) async fn loans_are_listed_newest_first_page_by_page_and_each_once(yard: &Yard) {
    let now = today(yard);
    let note = |ago: u64, n: u8| {
        let at = now - seconds(ago);
        let mut random = [0; 32];
        random[9] = n;
        LoanNote {
            id: LoanId::ordered(at, random),
            at,
            job: JobId::keyed("contract", &n.to_string()),
            epoch: Epoch(1),
            capability: "borrow".to_owned(),
            caller: "ana".to_owned(),
            holder: "worker/1".to_owned(),
            scope: global("key"),
            outcome: LoanOutcome::Refused(Refused::new(RefusedCode::NoLender, "nobody lends here")),
        }
    };
    // Over midnight, wherever that is: the oldest are of two days ago.
    let notes: Vec<LoanNote> =
        [(10, 1), (20, 2), (86_400, 3), (86_400, 4), (172_800, 5)].map(|(ago, n)| note(ago, n)).into();
    for note in notes.iter().rev() {
        yard.ledger.note_loan(note).await.expect("note");
        yard.ledger.note_loan(note).await.expect("note the same again");
    }
    let mut sorted = notes.clone();
    sorted.sort_by_key(|note| std::cmp::Reverse(note.id));
    assert_eq!(noted(yard, all()).await, sorted);
    let mut paged = Vec::new();
    loop {
        let before = paged.last().map(|note: &LoanNote| note.id);
        let page = noted(yard, LoanQuery { before, limit: 2, ..LoanQuery::default() }).await;
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, sorted);
    let since = noted(yard, LoanQuery { since: Some(now - seconds(86_400)), ..all() }).await;
    assert_eq!(since, sorted[..4]);
    assert_eq!(noted(yard, LoanQuery { job: Some(notes[4].job), ..all() }).await, notes[4..]);
}
