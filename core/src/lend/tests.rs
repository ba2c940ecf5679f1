use std::collections::BTreeMap;

use secrecy::ExposeSecret;

use super::*;
use crate::catalog::Catalog;
use crate::job::{ClaimToken, Stop, StopCause};
use crate::route::Venue;
use crate::settle;
use crate::testing::{a_job, a_running_job, at, limited};
use crate::wire;

const GRANTS: &str = r#"
version: 1
capabilities:
  - name: file-digest
    summary: Borrows of every kind
    run: { command: [echo] }
    borrows:
      target: { kind: aws, role: "arn:aws:iam::{{account}}:role/scan" }
      code: { kind: github, owner: example, repositories: ["{{repository}}"], permissions: { contents: read } }
      search: { kind: global, secret: shodan }
    may_borrow:
      - { kind: aws, role: "arn:aws:iam::*:role/scan", external_id: yard-1, at_most_seconds: 900 }
      - kind: aws
        role: "arn:aws:iam::*:role/audit/*"
        session_policy: { Version: "2012-10-17", Statement: [ { Effect: Allow, Action: "s3:Get*", Resource: "*" } ] }
      - kind: gcloud
        service_account: "scan@*.iam.gserviceaccount.com"
        scopes: ["https://www.googleapis.com/auth/cloud-platform.read-only"]
        key: gcloud/scan
      - kind: gcloud
        service_account: "audit@one.iam.gserviceaccount.com"
        scopes: ["a", "b"]
        federation: { audience: "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q" }
      - { kind: azure, tenant: t-1, client_id: c-1, resources: ["https://graph.microsoft.com/.default"], secret: azure/one }
      - { kind: azure, tenant: t-1, client_id: c-2, resources: ["https://graph.microsoft.com/.default"], federation: true }
      - kind: github
        owner: example
        repositories: ["scan-*", infra]
        permissions: { contents: write, issues: read }
        app: { app_id: "7", installation_id: 42, key: github/app }
      - { kind: github, owner: other, repositories: [docs], token: github/pat }
      - { kind: global, secret: shodan }
      - { kind: global, secret: "feeds/*" }
"#;

fn rules() -> Policies {
    Policies { catalog: Catalog::parse("tests.yaml", GRANTS, &[], &BTreeMap::new()).unwrap(), ..Policies::default() }
}

fn shodan() -> Scope {
    Scope::Global { secret: "shodan".to_owned() }
}

fn role(account: &str, name: &str) -> Scope {
    Scope::Aws { role: format!("arn:aws:iam::{account}:role/{name}") }
}

fn github(owner: &str, repositories: &[&str], permissions: &[(&str, Level)]) -> Scope {
    Scope::Github {
        owner: owner.to_owned(),
        repositories: repositories.iter().map(|name| (*name).to_owned()).collect(),
        permissions: permissions.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect(),
    }
}

/// What the holder of [`a_running_job`] asks.
fn request(job: &Job, scope: Scope) -> LoanRequest {
    LoanRequest { voucher: Voucher { id: job.id, epoch: job.epoch, token: ClaimToken::new([1; 32]) }, scope }
}

fn code(job: Option<&Job>, request: &LoanRequest, now: i64) -> Result<Timestamp, RefusedCode> {
    judge(job, &rules(), request, at(now)).map(|order| order.until).map_err(|refused| refused.code)
}

#[test]
fn a_loan_ends_with_its_run_its_kind_or_its_grant_whichever_is_first() {
    let job = a_running_job(Venue::Fargate, 1);
    // The run may last an hour.
    assert_eq!(code(Some(&job), &request(&job, shodan()), 600), Ok(at(3600)));
    assert_eq!(code(Some(&job), &request(&job, role("123456789012", "scan")), 0), Ok(at(900)), "at_most_seconds");
    assert_eq!(code(Some(&job), &request(&job, role("123456789012", "audit/x")), 0), Ok(at(3600)));
    let mut long = job.clone();
    let State::Running(run) = &mut long.state else { unreachable!() };
    run.deadline = at(40_000);
    assert_eq!(code(Some(&long), &request(&job, role("123456789012", "audit/x")), 0), Ok(at(3600)), "chained roles");
}

#[test]
fn a_loan_is_for_a_run_that_lasts_at_its_epoch_under_its_token() {
    let running = a_running_job(Venue::Fargate, 1);
    let ask = request(&running, shodan());
    let other_token =
        LoanRequest { voucher: Voucher { token: ClaimToken::new([2; 32]), ..ask.voucher.clone() }, ..ask.clone() };
    let old_epoch = LoanRequest { voucher: Voucher { epoch: Epoch(0), ..ask.voucher.clone() }, ..ask.clone() };
    let mut stopping = running.clone();
    let State::Running(run) = &mut stopping.state else { unreachable!() };
    run.stop = Some(Stop { cause: StopCause::Cancel, at: at(1) });
    let outcome = crate::ports::Outcome::Succeeded(None);
    let told = settle::Told { epoch: running.epoch, token: None, outcome: &outcome };
    let settled = settle::report(running.clone(), told, &limited(None), at(4), 0).unwrap().job;
    for (what, job, request, now, expected) in [
        ("it runs", Some(&running), &ask, 1, Ok(at(3600))),
        ("no such job", None, &ask, 1, Err(RefusedCode::UnknownJob)),
        ("it waits", Some(&a_job(Venue::Fargate)), &ask, 1, Err(RefusedCode::NotRunning)),
        ("it has ended", Some(&settled), &ask, 5, Err(RefusedCode::NotRunning)),
        ("another epoch", Some(&running), &old_epoch, 1, Err(RefusedCode::StaleEpoch)),
        ("another's token", Some(&running), &other_token, 1, Err(RefusedCode::NotTheHolder)),
        ("it is told to end", Some(&stopping), &ask, 2, Err(RefusedCode::Stopping)),
        ("its deadline is there", Some(&running), &ask, 3600, Err(RefusedCode::DeadlinePassed)),
        ("its deadline has passed", Some(&running), &ask, 3700, Err(RefusedCode::DeadlinePassed)),
    ] {
        assert_eq!(code(job, request, now), expected, "{what}");
    }
}

#[test]
fn a_scope_is_lent_only_where_a_grant_covers_all_of_it() {
    let job = a_running_job(Venue::Fargate, 1);
    let gcloud = |account: &str, scopes: &[&str]| Scope::Gcloud {
        service_account: account.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    };
    let azure = |tenant: &str, client_id: &str, resource: &str| Scope::Azure {
        tenant: tenant.to_owned(),
        client_id: client_id.to_owned(),
        resource: resource.to_owned(),
    };
    let read_only = "https://www.googleapis.com/auth/cloud-platform.read-only";
    let graph = "https://graph.microsoft.com/.default";
    let (read, write, admin) = (Level::Read, Level::Write, Level::Admin);
    let scopes = [
        role("123456789012", "scan"),
        role("123456789012", "scan2"),
        role("12345678901", "scan"),
        role("123456789012", "audit/a/b"),
        Scope::Aws { role: "arn:aws:iam::123456789012:user/scan".to_owned() },
        Scope::Aws { role: "arn:aws:iam::1:role/x:role/scan".to_owned() },
        Scope::Aws { role: "arn:aws:iam::*:role/scan".to_owned() },
        gcloud("scan@two.iam.gserviceaccount.com", &[read_only]),
        gcloud("scan@two.iam.gserviceaccount.com", &[read_only, "https://www.googleapis.com/auth/cloud-platform"]),
        gcloud("scan@two.iam.gserviceaccount.com", &[]),
        gcloud("admin@two.iam.gserviceaccount.com", &[read_only]),
        gcloud("audit@one.iam.gserviceaccount.com", &["b", "a"]),
        azure("t-1", "c-1", graph),
        azure("t-2", "c-1", graph),
        azure("t-1", "c-1", "https://vault.azure.net/.default"),
        github("example", &["infra"], &[("contents", read)]),
        github("Example", &["scan-a", "scan-b"], &[("contents", write), ("issues", read)]),
        github("example", &["infra"], &[("contents", admin)]),
        github("example", &["infra"], &[("issues", write)]),
        github("example", &["infra"], &[("secrets", read)]),
        github("example", &["infra"], &[]),
        github("example", &[], &[("contents", read)]),
        github("example", &["infra", "payroll"], &[("contents", read)]),
        github("example", &["other/infra"], &[("contents", read)]),
        github("other", &["docs"], &[]),
        github("other", &["docs"], &[("contents", read)]),
        shodan(),
        Scope::Global { secret: "feeds/kev".to_owned() },
        Scope::Global { secret: "feeds/a/b".to_owned() },
        Scope::Global { secret: "github/app".to_owned() },
        Scope::Global { secret: String::new() },
        Scope::Global { secret: "x".repeat(600) },
    ];
    let lines: Vec<String> = scopes
        .into_iter()
        .map(|scope| {
            let shown = crate::job::one_line(&scope.to_string(), 110);
            let decided = judge(Some(&job), &rules(), &request(&job, scope), at(1));
            let said = match decided {
                Ok(order) => format!("lent, {} s", order.until.duration_since(order.now).as_secs()),
                Err(refused) => format!("{}: {}", refused.code, crate::job::one_line(&refused.message, 90)),
            };
            format!("{shown:<112} {said}")
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn what_a_payload_makes_of_borrows_is_held_against_the_grants_when_it_is_submitted() {
    let rules = rules();
    let capability = rules.catalog.get("file-digest").unwrap();
    let good = serde_json::json!({ "account": "123456789012", "repository": "scan-a" });
    let loans: Vec<String> =
        capability.loans(&good).unwrap().iter().map(|(name, scope)| format!("{name}: {scope}")).collect();
    assert_eq!(
        loans,
        [
            "code: github example/scan-a contents:read",
            "search: global shodan",
            "target: aws arn:aws:iam::123456789012:role/scan"
        ]
    );
    let cases = [
        serde_json::json!({}),
        serde_json::json!({ "account": "123456789012", "repository": "payroll" }),
        serde_json::json!({ "account": "123456789012", "repository": "scan-a/../../payroll" }),
        serde_json::json!({ "account": "1", "repository": "scan-a" }),
        serde_json::json!({ "account": "123456789012:role/admin#", "repository": "scan-a" }),
        serde_json::json!({ "account": "*", "repository": "scan-a" }),
        serde_json::json!({ "account": ["123456789012"], "repository": "scan-a" }),
    ];
    let messages: Vec<String> =
        cases.iter().map(|payload| format!("{payload}  ->  {}", capability.check(payload).unwrap_err())).collect();
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn what_is_wrong_with_loans_in_a_catalog_is_named_with_its_place() {
    let entry = |loans: &str| {
        format!("version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: {{ command: [a] }}\n    {loans}\n")
    };
    let cases = [
        "may_borrow: [ { kind: ftp } ]",
        "may_borrow: [ { kind: aws, role: scan } ]",
        "may_borrow: [ { kind: aws, role: \"arn:aws:iam::*:role/x\", external_id: x } ]",
        "may_borrow: [ { kind: aws, role: \"arn:aws:iam::*:role/x\", session_policy: { Statement: [] } } ]",
        "may_borrow: [ { kind: aws, role: \"arn:aws:iam::*:role/x\", at_most_seconds: 5 } ]",
        "may_borrow: [ { kind: gcloud, service_account: a, scopes: [b] } ]",
        "may_borrow: [ { kind: gcloud, service_account: a, scopes: [], key: k } ]",
        "may_borrow: [ { kind: gcloud, service_account: a, scopes: [\"*\"], key: k } ]",
        "may_borrow: [ { kind: gcloud, service_account: a, scopes: [b], federation: { audience: https://evil } } ]",
        "may_borrow: [ { kind: azure, tenant: t/u, client_id: c, resources: [r], secret: s } ]",
        "may_borrow: [ { kind: azure, tenant: t, client_id: c, resources: [r], secret: s, federation: true } ]",
        "may_borrow: [ { kind: github, owner: o, repositories: [r], app: { app_id: \"1\", installation_id: 2, key: k } } ]",
        "may_borrow: [ { kind: github, owner: o, repositories: [r], permissions: { contents: own }, token: t } ]",
        "may_borrow: [ { kind: github, owner: o, repositories: [r], permissions: { contents: read }, token: t } ]",
        "may_borrow: [ { kind: global, secret: \"a b\" } ]",
        "borrows: { key: { kind: global, secret: shodan } }",
        "borrows: { KEY: { kind: global, secret: \"{{x}}\" } }\n    may_borrow: [ { kind: global, secret: \"*\" } ]",
        "borrows: { key: { kind: global, secret: shodan } }\n    may_borrow: [ { kind: global, secret: other } ]",
        "borrows: { key: { kind: global, secret: \"{{x\" } }\n    may_borrow: [ { kind: global, secret: \"*\" } ]",
    ];
    let parse = |text: &str| Catalog::parse("capabilities.yaml", text, &[], &BTreeMap::new());
    let messages: Vec<String> = cases.iter().map(|case| parse(&entry(case)).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(messages.join("\n\n"));
}

#[test]
fn a_loan_is_renewed_well_before_it_ends() {
    for (seconds, renewed) in [(3600, 3000), (900, 600), (30, 20), (0, 0)] {
        assert_eq!(renewed_at(at(0), at(seconds)), at(renewed), "{seconds}");
    }
}

#[test]
fn a_loan_comes_back_from_the_wire_as_it_was_and_shows_itself_nowhere_else() {
    let secret = |text: &str| SecretString::from(text);
    let credentials = [
        Credential::Aws {
            access_key_id: "AKIA1".to_owned(),
            secret_access_key: secret("canary-key"),
            session_token: secret("canary-token \"\n\u{0}"),
        },
        Credential::Token(secret("canary-token")),
        Credential::Value(secret("canary-value")),
    ];
    let job = a_running_job(Venue::Fargate, 1);
    let voucher = request(&job, shodan()).voucher;
    for credential in credentials {
        let loan = Loan { id: LoanId::ordered(at(0), [9; 32]), scope: shodan(), credential, until: at(60) };
        let call = wire::LoanCall::TakeBack(voucher.clone(), Box::new(loan.clone()));
        assert_eq!(wire::decode_loan_call(&wire::encode_loan_call(&call)).unwrap(), call);
        let answer = wire::LoanAnswer::Answer(Answer::Lent(Box::new(loan)));
        let text = wire::encode_loan_answer(&answer);
        assert!(text.contains("canary"));
        assert_eq!(wire::decode_loan_answer(&text).unwrap(), answer);
        assert!(!format!("{answer:?} {call:?}").contains("canary"));
        // Cut anywhere, its error repeats nothing.
        for cut in [text.len() - 2, text.len() / 2] {
            let error = wire::decode_loan_answer(&text[..cut]).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("canary"), "{error:?}");
        }
        let twisted = text.replace("\"credential\":{", "\"credential\":{\"bogus\":1,");
        let error = wire::decode_loan_answer(&twisted).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("canary"), "{error:?}");
    }
    let ask = wire::LoanCall::Lend(LoanRequest { voucher, scope: role("123456789012", "scan") });
    let text = wire::encode_loan_call(&ask);
    assert_eq!(wire::decode_loan_call(&text).unwrap(), ask);
    assert!(wire::decode_loan_call(&text.replace("\"v\":1", "\"v\":2")).unwrap_err().is_newer());
    for code in RefusedCode::ALL {
        let answer = wire::LoanAnswer::Answer(Answer::Refused(Refused::new(code, "why")));
        assert_eq!(wire::decode_loan_answer(&wire::encode_loan_answer(&answer)).unwrap(), answer);
        assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
    }
    let taken = wire::LoanAnswer::TakenBack;
    assert_eq!(wire::decode_loan_answer(&wire::encode_loan_answer(&taken)).unwrap(), taken);
}

#[test]
fn a_record_of_a_loan_is_read_back_whatever_became_of_it() {
    let job = a_running_job(Venue::Fargate, 1);
    let request = request(&job, github("example", &["infra"], &[("contents", Level::Read)]));
    let outcomes = [
        LoanOutcome::Lent { until: at(60), reference: Some("ASIA1".to_owned()), revocable: true },
        LoanOutcome::Lent { until: at(60), reference: None, revocable: false },
        LoanOutcome::Refused(Refused::new(RefusedCode::VendorDown, "github cannot be reached")),
        LoanOutcome::Returned { loan: LoanId::ordered(at(0), [1; 32]), revoked: false },
    ];
    for outcome in outcomes {
        let id = LoanId::ordered(at(1), [7; 32]);
        let note = LoanNote::new(id, at(1), Some(&job), &request.voucher, &request.scope, outcome);
        let text = wire::encode_loan_note(&note);
        assert_eq!(wire::decode_loan_note(&text).unwrap(), note);
        assert!(wire::decode_loan_note(&text.replace("\"v\":1", "\"v\":9")).unwrap_err().is_newer());
        assert_eq!(note.id.to_string().parse::<LoanId>().unwrap(), note.id);
    }
    // As the first program wrote it.
    let stored = r#"{"v":1,"id":"0000018b-cfe5-7800-8000-000000000000","at":"2023-11-14T22:13:20Z","job":"0000018b-cfe5-7800-8000-000000000001","epoch":2,"capability":"x","caller":"ana","holder":"worker/1","scope":{"kind":"global","secret":"shodan"},"outcome":"lent","until":"2023-11-14T23:13:20Z"}"#;
    assert_eq!(wire::decode_loan_note(stored).unwrap().scope, shodan());
}

#[test]
fn what_is_no_scope_is_written_down_cut_and_clean() {
    let odd = Scope::Global { secret: format!("a\n{}", "x".repeat(5000)) };
    let voucher = request(&a_job(Venue::Fargate), odd.clone()).voucher;
    let refused = LoanOutcome::Refused(Refused::new(RefusedCode::UnknownJob, "there is no such job"));
    let note = LoanNote::new(LoanId::ordered(at(0), [0; 32]), at(0), None, &voucher, &odd, refused);
    let Scope::Global { secret } = &note.scope else { panic!("{:?}", note.scope) };
    assert!(secret.len() <= 203 && !secret.contains('\n'), "{secret:?}");
}

#[test]
fn a_secret_is_what_was_put_in() {
    let value = Credential::Value(SecretString::from("canary"));
    let Credential::Value(secret) = &value else { unreachable!() };
    assert_eq!(secret.expose_secret(), "canary");
    assert_ne!(value, Credential::Token(SecretString::from("canary")));
    assert_ne!(value, Credential::Value(SecretString::from("other")));
}

/// A yard with a job of `file-digest` that runs, and what its run asks with.
async fn at_work() -> (crate::memory::Memory, Yard, Voucher) {
    let home = crate::memory::Memory::new(at(0), 3);
    let yard = home.yard(rules().catalog, crate::route::Limits::one_machine(4096));
    let job = a_running_job(Venue::Fargate, 1);
    let new = crate::ports::NewJob { job: job.clone(), payload: crate::ports::Body::Inline("{}".to_owned()) };
    yard.ledger.accept(vec![new]).await.unwrap();
    (home, yard, request(&job, shodan()).voucher)
}

/// A vendor whose credential can be ended; what happens before it answers is the test's.
struct Slow<F>(F, std::sync::Mutex<Vec<LoanId>>, bool);

#[async_trait]
impl<F: Fn() + Send + Sync> Vendors for Slow<F> {
    async fn issue(&self, _: &Order) -> Result<Issued, Refused> {
        (self.0)();
        let credential = Credential::Token(SecretString::from("canary"));
        Ok(Issued { credential, expires: None, reference: None, revocable: true })
    }

    async fn revoke(&self, loan: &Loan) -> Result<bool, PortError> {
        self.1.lock().unwrap().push(loan.id);
        if self.2 { Err(PortError::permanent("revoke", "loan", "it will not")) } else { Ok(true) }
    }
}

fn block<T>(future: impl Future<Output = T>) -> T {
    futures_lite::future::block_on(future)
}

#[test]
fn a_run_whose_time_is_over_while_the_vendor_answers_is_lent_nothing_and_what_came_is_ended() {
    block(async {
        let (home, yard, voucher) = at_work().await;
        let slow = Slow(|| home.advance(Duration::from_secs(3700)), std::sync::Mutex::default(), false);
        let answer = lend(&yard, &slow, &LoanRequest { voucher, scope: shodan() }).await.unwrap();
        let Answer::Refused(refused) = answer else { panic!("lent") };
        assert_eq!(refused.code, RefusedCode::DeadlinePassed);
        assert_eq!(slow.1.lock().unwrap().len(), 1, "nobody has it");
        let notes = yard.ledger.loans(&LoanQuery { limit: 9, ..LoanQuery::default() }).await.unwrap();
        assert!(matches!(&notes[..], [LoanNote { outcome: LoanOutcome::Refused(_), .. }]), "{notes:?}");
    });
}

#[test]
fn what_cannot_be_written_down_is_not_handed_over_and_is_ended() {
    block(async {
        let (home, yard, voucher) = at_work().await;
        let slow = Slow(|| home.lose(1), std::sync::Mutex::default(), false);
        lend(&yard, &slow, &LoanRequest { voucher, scope: shodan() }).await.unwrap_err();
        assert_eq!(slow.1.lock().unwrap().len(), 1);
    });
}

#[test]
fn a_loan_is_ended_whatever_the_policies_say_by_then_and_a_vendor_that_will_not_is_on_record() {
    block(async {
        for (will_not, revoked) in [(false, true), (true, false)] {
            let (_, yard, voucher) = at_work().await;
            let slow = Slow(|| (), std::sync::Mutex::default(), will_not);
            let request = LoanRequest { voucher: voucher.clone(), scope: shodan() };
            let Answer::Lent(loan) = lend(&yard, &slow, &request).await.unwrap() else { panic!("refused") };
            yard.shelf.replace(Policies::default(), at(1));
            let taken = take_back(&yard, &slow, &voucher, &loan).await;
            assert_eq!(taken.is_err(), will_not);
            let newest = yard.ledger.loans(&LoanQuery { limit: 9, ..LoanQuery::default() }).await.unwrap();
            let returned = newest.iter().find(|note| matches!(note.outcome, LoanOutcome::Returned { .. })).unwrap();
            assert_eq!(returned.outcome, LoanOutcome::Returned { loan: loan.id, revoked });
            assert_eq!(slow.1.lock().unwrap()[..], [loan.id]);
        }
    });
}
