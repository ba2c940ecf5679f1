//! How long a secret that was read is used, and when it is read anew.

use switchyard_core::lend::{GrantOf, Pattern, RefusedCode, Scope};
use switchyard_vendors::{SECRET_LASTS, SECRETS_MAX};

use crate::scene::{OTHER, OURS, World, token};
use crate::{entra, github, google};

fn global(name: &str) -> (GrantOf, Scope) {
    (GrantOf::Global { secret: Pattern::new("*").unwrap() }, Scope::Global { secret: name.into() })
}

#[tokio::test]
async fn a_secret_is_read_once_in_five_minutes() {
    let world = World::new(github::serve).await;
    world.keep("shodan", "CANARY-1");
    let (of, scope) = global("shodan");
    let lasts = i64::try_from(SECRET_LASTS.as_secs()).unwrap();
    for (ahead, expected, reads) in
        [(0, "CANARY-1", 1), (lasts - 5, "CANARY-1", 1), (lasts, "CANARY-2", 2), (-lasts, "CANARY-2", 3)]
    {
        world.ahead(ahead);
        let issued = world.issue(of.clone(), scope.clone()).await.unwrap();
        assert_eq!((token(&issued), world.reads()), (expected, reads), "at {ahead}");
        world.keep("shodan", "CANARY-2");
    }
}

#[tokio::test]
async fn a_key_that_was_replaced_is_read_anew_as_soon_as_its_vendor_calls_the_old_one_wrong() {
    for (serve, name, old, new, of, scope) in [
        (
            google::serve as crate::scene::Serve,
            "google",
            google::key_file(google::ACCOUNT, OTHER),
            google::ours(),
            google::grant(google::by_key()),
            google::scope(&[google::READ]),
        ),
        (github::serve, "github", OTHER.into(), OURS.into(), github::grant(github::by_app()), github::plain()),
        (
            entra::serve,
            "entra",
            "CANARY-old".into(),
            entra::SECRET.into(),
            entra::grant(entra::by_secret()),
            entra::scope(),
        ),
        (
            entra::serve,
            "entra-certificate",
            format!("{}{OTHER}", crate::scene::CERTIFICATE),
            entra::certificate(),
            entra::grant(entra::by_certificate()),
            entra::scope(),
        ),
    ] {
        let world = World::new(serve).await;
        let (kept, whole): (String, String) = (old, new);
        // Wrong from the start: read, refused, forgotten, and read by the next who asks.
        world.keep(name, kept.clone());
        for reads in 1..=2 {
            let refused = world.issue(of.clone(), scope.clone()).await.unwrap_err();
            assert_eq!((refused.code, world.reads()), (RefusedCode::VendorRefused, reads), "{name}");
        }
        // Right, kept, and replaced since: the vendor takes the old one no more, and the run never learns of it.
        world.keep(name, whole.clone());
        world.issue(of.clone(), scope.clone()).await.unwrap();
        let (heard, reads) = (world.peer.heard().len(), world.reads());
        let why = serde_json::json!({ "error": "invalid_client", "message": "Bad credentials" });
        world.peer.play([crate::scene::answer(401, &why)]);
        world.keep(name, format!("{whole}\n"));
        world.issue(of.clone(), scope.clone()).await.unwrap();
        assert_eq!((world.peer.heard().len() - heard, world.reads() - reads), (2, 1), "{name}");
        // The same again, and the store has nothing newer: one question more to the store, none to the vendor.
        world.peer.play([crate::scene::answer(401, &why)]);
        let refused = world.issue(of.clone(), scope.clone()).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorRefused);
        assert_eq!((world.peer.heard().len() - heard, world.reads() - reads), (3, 2), "{name}");
    }
}

#[tokio::test]
async fn no_more_secrets_are_kept_than_are_bounded_and_the_oldest_goes_first() {
    let world = World::new(github::serve).await;
    let names: Vec<String> = (0..=SECRETS_MAX).map(|n| format!("s{n}")).collect();
    for name in &names {
        world.keep(name, format!("CANARY-{name}"));
        let (of, scope) = global(name);
        world.issue(of, scope).await.unwrap();
    }
    let all = u32::try_from(names.len()).unwrap();
    assert_eq!(world.reads(), all);
    for (name, reads) in [("s1", all), ("s64", all), ("s0", all + 1), ("s1", all + 2)] {
        let (of, scope) = global(name);
        world.issue(of, scope).await.unwrap();
        assert_eq!(world.reads(), reads, "{name}");
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_down() {
    let world = World::new(github::serve).await;
    *world.store.down.lock().unwrap() = true;
    let (of, scope) = global("shodan");
    let refused = world.issue(of.clone(), scope.clone()).await.unwrap_err();
    assert_eq!(refused.code, RefusedCode::VendorDown);
    assert_eq!(refused.message, "secret `shodan` cannot be had just now: it does not answer");
    *world.store.down.lock().unwrap() = false;
    world.keep("shodan", "CANARY");
    world.issue(of, scope).await.unwrap();
}
