//! What is granted: of every kind, narrowed to what was asked for, and ended where the vendor can.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use switchyard_core::lend::{Credential, GrantOf, Level, Loan, LoanId, Pattern, RefusedCode, Scope};
use switchyard_core::ports::{Ambient, PortError, Vendors};

use crate::scene::{OURS, OURS_PKCS1, World, answer, nothing_secret_in, token};
use crate::{entra, github, google};

#[tokio::test]
async fn google_takes_what_a_service_accounts_key_signs() {
    let world = World::new(google::serve).await;
    world.keep("google", google::ours());
    let of = google::grant(google::by_key());
    let issued = world.issue(of.clone(), google::scope(&[google::READ])).await.unwrap();
    assert_eq!(token(&issued), "ya29.CANARY-1");
    assert_eq!(issued.reference.as_deref(), Some("key-1"));
    let rest = issued.expires.unwrap().duration_since(world.clock.now()).as_secs();
    assert!((3500..=3599).contains(&rest), "{rest}");
    let both = world.issue(of, google::scope(&[google::READ, google::COMPUTE])).await.unwrap();
    assert_eq!(token(&both), "ya29.CANARY-2");
}

#[tokio::test]
async fn google_takes_the_brokers_own_identity_and_lets_it_be_the_account_for_as_long_as_the_loan() {
    let world = World::new(google::serve).await;
    let of = google::grant(google::federated(google::PROVIDER));
    let mut order = world.order(of, google::scope(&[google::READ]), 600);
    for (seconds, lifetime) in [(600, "600s"), (10, "300s"), (9000, "3600s")] {
        order.until = order.now + Duration::from_secs(seconds);
        let issued = world.lenders.issue(&order).await.unwrap();
        assert_eq!(token(&issued), "ya29.CANARY-account");
        let asked = world.peer.heard().last().unwrap().json();
        assert_eq!(asked, serde_json::json!({ "scope": [google::READ], "lifetime": lifetime }));
    }
    assert_eq!(world.reads(), 0, "nothing is stored");
    world.nothing_secret_was_logged();
}

#[tokio::test]
async fn entra_takes_a_secret_a_certificate_and_a_federated_token() {
    let world = World::new(entra::serve).await;
    // As an editor leaves it.
    world.keep("entra", format!("{}\n", entra::SECRET));
    world.keep("entra-certificate", entra::certificate());
    for by in [entra::by_secret(), entra::by_certificate(), switchyard_core::lend::AzureBy::Federation] {
        let issued = world.issue(entra::grant(by), entra::scope()).await.unwrap();
        assert_eq!(token(&issued), "eyJ0.CANARY-arm");
        assert!(issued.expires.is_some());
    }
}

#[tokio::test]
async fn github_gives_a_token_for_the_repositories_and_permissions_that_were_asked_for() {
    let world = World::new(github::serve).await;
    // GitHub hands keys out in the older of the two forms.
    for key in [OURS, OURS_PKCS1] {
        world.keep("github", key);
        let scope = github::scope(&["yard", "docs"], &[("contents", Level::Write), ("issues", Level::Read)]);
        let issued = world.issue(github::grant(github::by_app()), scope).await.unwrap();
        assert_eq!(token(&issued), github::TOKEN);
        // By `printf %s TOKEN | openssl dgst -sha256 -binary | base64`, which is what the audit log is searched for.
        assert_eq!(issued.reference.as_deref(), Some("JHAS5brKsL7O5R+i1zyJLvOYQhuMuKJ0ezdvuQaOT8U="));
        let asked = world.peer.heard().last().unwrap().json();
        let expected = serde_json::json!({
            "repositories": ["yard", "docs"], "permissions": { "contents": "write", "issues": "read" },
        });
        assert_eq!(asked, expected);
    }
}

#[tokio::test]
async fn what_has_no_vendor_is_lent_as_it_is_kept_but_for_a_line_end() {
    let world = World::new(github::serve).await;
    world.keep("pat", format!("{}\n", github::PAT));
    world.keep("shodan", " CANARY any text\n");
    let pat = github::grant(github::by_token());
    let issued = world.issue(pat, github::scope(&["yard"], &[])).await.unwrap();
    assert_eq!((token(&issued), issued.expires, issued.revocable), (github::PAT, None, false));
    let global = GrantOf::Global { secret: Pattern::new("sho*").unwrap() };
    let issued = world.issue(global, Scope::Global { secret: "shodan".into() }).await.unwrap();
    assert_eq!((token(&issued), issued.expires, issued.reference.clone()), (" CANARY any text", None, None));
    assert!(world.peer.heard().is_empty());
}

fn loan(scope: Scope, token: &str) -> Loan {
    let id = LoanId::ordered(Timestamp::UNIX_EPOCH, [1; 32]);
    Loan { id, scope, credential: Credential::Token(SecretString::from(token)), until: Timestamp::MAX }
}

#[tokio::test]
async fn a_token_of_an_app_is_ended_and_one_that_has_ended_was_ended_too() {
    let world = World::new(github::serve).await;
    for token in [github::TOKEN, "ghs_CANARYover"] {
        assert!(world.lenders.revoke(&loan(github::plain(), token)).await.unwrap());
        let heard = world.peer.heard().pop().unwrap();
        assert_eq!((heard.method.as_str(), heard.bearer()), ("DELETE", token));
    }
    world.peer.play([answer(403, r#"{"message":"No: ghs_CANARYinstallation"}"#)]);
    let error = world.lenders.revoke(&loan(github::plain(), github::TOKEN)).await.unwrap_err();
    nothing_secret_in(&format!("{error:?} {}", switchyard_core::ports::describe(&error)));
    assert!(!error.retryable, "{error:?}");
    world.peer.play([answer(500, ""), answer(502, ""), answer(503, "")]);
    let error = world.lenders.revoke(&loan(github::plain(), github::TOKEN)).await.unwrap_err();
    assert!(error.retryable, "{error:?}");
    world.nothing_secret_was_logged();
}

#[tokio::test]
async fn what_its_vendor_cannot_end_is_said_to_go_on() {
    let world = World::new(github::serve).await;
    for scope in [
        google::scope(&["a"]),
        entra::scope(),
        Scope::Global { secret: "a".to_owned() },
        Scope::Aws { role: "arn:x".to_owned() },
    ] {
        assert!(!world.lenders.revoke(&loan(scope, "CANARY")).await.unwrap());
    }
    assert!(world.peer.heard().is_empty());
}

#[tokio::test]
async fn nothing_is_lent_where_nobody_does() {
    let mut world = World::new(github::serve).await;
    let doors = switchyard_vendors::Doors {
        vault: world.store.clone(),
        roles: None,
        identity: None,
        ambient: world.clock.clone(),
    };
    world.lenders = switchyard_vendors::Lenders::new(doors, Default::default()).unwrap();
    let role = "arn:aws:iam::111122223333:role/scan";
    let aws = GrantOf::Aws { role: Pattern::new(role).unwrap(), external_id: None, session_policy: None };
    for (of, scope) in [
        (aws, Scope::Aws { role: role.into() }),
        (google::grant(google::federated(google::PROVIDER)), google::scope(&[google::READ])),
        (entra::grant(switchyard_core::lend::AzureBy::Federation), entra::scope()),
    ] {
        assert_eq!(world.issue(of, scope).await.unwrap_err().code, RefusedCode::NoLender);
    }
    // A grant never serves a scope of another kind, whoever asks.
    let odd = world.issue(google::grant(google::by_key()), github::scope(&["a"], &[])).await.unwrap_err();
    assert_eq!(odd.code, RefusedCode::ScopeNotAllowed);
}

/// Plays STS: remembers what it was asked for, and answers what it is told.
struct Sts {
    asked: std::sync::Mutex<Vec<switchyard_vendors::Session>>,
    fails: Option<bool>,
}

#[async_trait::async_trait]
impl switchyard_vendors::Roles for Sts {
    async fn assume(&self, session: &switchyard_vendors::Session) -> Result<switchyard_vendors::Assumed, PortError> {
        self.asked.lock().unwrap().push(session.clone());
        match self.fails {
            Some(true) => Err(PortError::retryable("assume", &session.role, "Throttling")),
            Some(false) => Err(PortError::permanent("assume", &session.role, "AccessDenied")),
            None => Ok(switchyard_vendors::Assumed {
                access_key_id: "ASIAONE".into(),
                secret_access_key: SecretString::from("CANARY-key"),
                session_token: SecretString::from("CANARY-session"),
                expires: Timestamp::MAX,
            }),
        }
    }
}

#[tokio::test]
async fn a_role_is_assumed_as_its_grant_says_and_its_vendor_is_aws() {
    let role = "arn:aws:iam::111122223333:role/scan";
    let of = GrantOf::Aws {
        role: Pattern::new("arn:aws:iam::*:role/scan").unwrap(),
        external_id: Some("yard".into()),
        session_policy: Some(r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:Get*"}]}"#.into()),
    };
    for (fails, code) in
        [(None, None), (Some(true), Some(RefusedCode::VendorDown)), (Some(false), Some(RefusedCode::VendorRefused))]
    {
        let mut world = World::new(github::serve).await;
        let sts = std::sync::Arc::new(Sts { asked: Default::default(), fails });
        let doors = switchyard_vendors::Doors {
            vault: world.store.clone(),
            roles: Some(sts.clone()),
            identity: None,
            ambient: world.clock.clone(),
        };
        world.lenders = switchyard_vendors::Lenders::new(doors, Default::default()).unwrap();
        let answer = world.issue(of.clone(), Scope::Aws { role: role.into() }).await;
        match code {
            None => {
                let issued = answer.unwrap();
                assert_eq!(issued.reference.as_deref(), Some("ASIAONE"));
                assert!(
                    matches!(issued.credential, Credential::Aws { access_key_id, .. } if access_key_id == "ASIAONE")
                );
            }
            Some(code) => {
                let refused = answer.unwrap_err();
                assert_eq!(refused.code, code);
                assert!(refused.message.starts_with(&format!("AWS: cannot assume {role}: ")), "{refused}");
            }
        }
        let session = sts.asked.lock().unwrap().remove(0);
        assert_eq!((session.role.as_str(), session.external_id.as_deref()), (role, Some("yard")));
        assert!(session.policy.contains("s3:Get*") && session.policy.contains("DateGreaterThan"));
    }
}
