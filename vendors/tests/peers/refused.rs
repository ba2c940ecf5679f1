//! What is refused: by the vendor, for what was asked or for who asked; by the store of secrets, for what it has.

use switchyard_core::lend::{AzureBy, GrantOf, Level, RefusedCode, Scope};

use crate::scene::{MARK, OTHER, OURS, World, answer};
use crate::{entra, github, google};

#[tokio::test]
async fn a_vendor_that_will_not_is_told_by_its_own_words() {
    let world = World::new(google::serve).await;
    world.keep("google", google::ours());
    let of = google::grant(google::by_key());
    let refused = world.issue(of, google::scope(&["https://www.googleapis.com/auth/admin"])).await.unwrap_err();
    assert_eq!(refused.code, RefusedCode::VendorRefused);
    assert_eq!(
        refused.message,
        "Google refused (status 400): invalid_scope: Invalid OAuth scope or ID token audience provided."
    );
    assert_eq!(world.peer.heard().len(), 1, "what will not be is not asked for again");

    let world = World::new(github::serve).await;
    world.keep("github", OURS);
    for scope in [
        github::scope(&["private"], &[("contents", Level::Read)]),
        github::scope(&["yard"], &[("checks", Level::Read)]),
    ] {
        let refused = world.issue(github::grant(github::by_app()), scope).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorRefused, "{refused}");
        assert!(refused.message.starts_with("GitHub refused (status 422): The"), "{refused}");
    }

    let world = World::new(entra::serve).await;
    world.keep("entra", entra::SECRET);
    let elsewhere =
        Scope::Azure { tenant: "other".into(), client_id: entra::CLIENT.into(), resource: entra::ARM.into() };
    let refused = world.issue(entra::grant(entra::by_secret()), elsewhere).await.unwrap_err();
    assert_eq!(refused.code, RefusedCode::VendorRefused);
    assert!(refused.message.contains("AADSTS90002"), "{refused}");
}

#[tokio::test]
async fn a_key_that_is_not_the_accounts_is_refused_by_who_checks_it() {
    for (serve, name, secret, of, scope) in [
        (
            google::serve as crate::scene::Serve,
            "google",
            google::key_file(google::ACCOUNT, OTHER),
            google::grant(google::by_key()),
            google::scope(&[google::READ]),
        ),
        (github::serve, "github", OTHER.to_owned(), github::grant(github::by_app()), github::plain()),
        (entra::serve, "entra", "abc~CANARY-wrong".to_owned(), entra::grant(entra::by_secret()), entra::scope()),
        (
            entra::serve,
            "entra-certificate",
            format!("{}{OTHER}", crate::scene::CERTIFICATE),
            entra::grant(entra::by_certificate()),
            entra::scope(),
        ),
    ] {
        let world = World::new(serve).await;
        world.keep(name, secret);
        let refused = world.issue(of, scope).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorRefused, "{name}: {refused}");
        assert_eq!(world.peer.heard().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn what_was_signed_an_hour_ago_or_will_be_in_an_hour_is_refused_by_who_checks_it() {
    for ahead in [-3600, 3600] {
        for (serve, name, secret, of, scope) in [
            (
                google::serve as crate::scene::Serve,
                "google",
                google::ours(),
                google::grant(google::by_key()),
                google::scope(&[google::READ]),
            ),
            (github::serve, "github", OURS.to_owned(), github::grant(github::by_app()), github::plain()),
            (
                entra::serve,
                "entra-certificate",
                entra::certificate(),
                entra::grant(entra::by_certificate()),
                entra::scope(),
            ),
        ] {
            let world = World::new(serve).await;
            world.keep(name, secret);
            world.ahead(ahead);
            let refused = world.issue(of.clone(), scope.clone()).await.unwrap_err();
            assert_eq!(refused.code, RefusedCode::VendorRefused, "{name} {ahead}: {refused}");
            // A clock that is a little wrong does no harm.
            for near in [-50, 50] {
                world.ahead(near);
                world.issue(of.clone(), scope.clone()).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_secret_that_is_none_is_told_by_its_name_and_nothing_is_asked_for() {
    let world = World::new(github::serve).await;
    let cases: [(&str, String, GrantOf, Scope); 10] = [
        ("github", MARK.into(), github::grant(github::by_app()), github::plain()),
        ("github", OURS[..400].to_owned(), github::grant(github::by_app()), github::plain()),
        ("github", OURS.replacen("MII", "MIJ", 1), github::grant(github::by_app()), github::plain()),
        ("pat", format!("{MARK}\nX-Evil: 1"), github::grant(github::by_token()), github::scope(&["yard"], &[])),
        ("pat", "\n".into(), github::grant(github::by_token()), github::scope(&["yard"], &[])),
        ("google", format!("{{\"{MARK}"), google::grant(google::by_key()), google::scope(&[google::READ])),
        (
            "google",
            google::key_file("other@one.iam.gserviceaccount.com", OURS),
            google::grant(google::by_key()),
            google::scope(&[google::READ]),
        ),
        (
            "google",
            google::key_file(google::ACCOUNT, MARK),
            google::grant(google::by_key()),
            google::scope(&[google::READ]),
        ),
        ("entra-certificate", OURS.into(), entra::grant(entra::by_certificate()), entra::scope()),
        ("entra", format!("{MARK} with blanks"), entra::grant(entra::by_secret()), entra::scope()),
    ];
    for (name, secret, of, scope) in cases {
        let missing = world.issue(of.clone(), scope.clone()).await.unwrap_err();
        assert_eq!(missing.code, RefusedCode::SecretMissing);
        assert_eq!(missing.message, format!("secret `{name}` is not in the store of secrets"));
        world.keep(name, secret);
        let odd = world.issue(of, scope).await.unwrap_err();
        assert_eq!(odd.code, RefusedCode::SecretMissing);
        assert!(odd.message.starts_with(&format!("secret `{name}` is not what it takes: ")), "{odd}");
        world.store.secrets.lock().unwrap().clear();
    }
    assert!(world.peer.heard().is_empty());
}

#[tokio::test]
async fn who_will_not_vouch_for_the_broker_is_told() {
    let world = World::new(google::serve).await;
    for (which, code) in [("refused", RefusedCode::VendorRefused), ("down", RefusedCode::VendorDown)] {
        let audience = format!("//iam.googleapis.com/projects/1/{which}");
        let of = google::grant(google::federated(&audience));
        let refused = world.issue(of, google::scope(&[google::READ])).await.unwrap_err();
        assert_eq!(refused.code, code, "{refused}");
        assert!(refused.message.starts_with("AWS: cannot vouch for the broker: "), "{refused}");
    }
    // A provider that Google does not know, and an identity that it does not take.
    let of = google::grant(google::federated("//iam.googleapis.com/projects/2/x"));
    let refused = world.issue(of, google::scope(&[google::READ])).await.unwrap_err();
    assert_eq!(refused.code, RefusedCode::VendorRefused);
    assert_eq!(world.peer.heard().len(), 1);
}

#[tokio::test]
async fn a_refusal_that_repeats_what_it_was_sent_is_not_told() {
    let world = World::new(entra::serve).await;
    world.keep("entra", entra::SECRET);
    let echo = serde_json::json!({ "error": "invalid_client", "error_description": format!("bad: {}", entra::SECRET) });
    world.peer.play([answer(401, echo)]);
    let refused = world.issue(entra::grant(entra::by_secret()), entra::scope()).await.unwrap_err();
    assert_eq!(
        refused.message,
        "Microsoft Entra refused (status 401): invalid_client: (what it says repeats a secret)"
    );
    let echo = serde_json::json!({ "error": crate::scene::IDENTITY });
    world.peer.play([answer(400, echo)]);
    let refused = world.issue(entra::grant(AzureBy::Federation), entra::scope()).await.unwrap_err();
    assert!(refused.message.contains("repeats a secret"), "{refused}");
}
