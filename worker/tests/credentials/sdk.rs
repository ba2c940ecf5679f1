//! AWS's own SDKs find what a run was lent, without being told where.

use std::path::{Path, PathBuf};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_http_client::Builder;
use serde_json::{Value, json};
use switchyard_core::job::Phase;

use crate::bench::{Bench, CANARY, Setup};

/// The program of the capability `sdk`: the SDK for Rust, in a process of its own.
#[tokio::test]
#[ignore = "it is the program of another test, and finds its environment there"]
async fn the_sdk() {
    let Ok(payload) = std::env::var("SWITCHYARD_PAYLOAD") else { return };
    let payload: Value = serde_json::from_str(&payload).unwrap();
    let config = ProviderConfig::without_region()
        .with_http_client(Builder::new().build_http())
        .with_sleep_impl(TokioSleep::new());
    let found = EcsCredentialsProvider::builder().configure(&config).build().provide_credentials().await.unwrap();
    let told = json!({
        "id": found.access_key_id(),
        "key": found.secret_access_key(),
        "session": found.session_token(),
        "expires": found.expiry().is_some(),
    });
    std::fs::write(payload["out"].as_str().unwrap(), told.to_string()).unwrap();
}

fn is_lent(told: &str) {
    let told: Value = serde_json::from_str(told).unwrap();
    assert!(told["id"].as_str().unwrap().starts_with("ASIA"), "{told}");
    assert!(told["key"].as_str().unwrap().starts_with(&format!("{CANARY}-key-")), "{told}");
    assert!(told["session"].as_str().unwrap().starts_with(&format!("{CANARY}-session-")), "{told}");
    assert_eq!(told["expires"], true, "it knows when to ask again");
}

#[tokio::test]
async fn the_sdk_for_rust_finds_it_at_the_endpoint() {
    let bench = Bench::new(Setup::default());
    let out = bench.out.path().join("sdk");
    let ended = bench.run("sdk", json!({ "out": out })).await;
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{}", ended.told());
    is_lent(&bench.seen("sdk").unwrap());
}

/// The Python of the emulators, which has botocore; none where they are not installed.
fn python(test: &str) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let python = target.join("emulators/moto/bin/python");
    if !python.exists() {
        eprintln!("SKIPPED {test}: no emulators are installed (infra/emulators/run.sh install)");
        return None;
    }
    Some(python)
}

#[tokio::test]
async fn botocore_finds_it_at_the_endpoint_and_each_of_several_by_its_profile() {
    let Some(python) = python("botocore_finds_it_at_the_endpoint_and_each_of_several_by_its_profile") else { return };
    let program = "import botocore.session, json, sys\n\
                   found = botocore.session.Session(profile=sys.argv[2] if len(sys.argv) > 2 else None).get_credentials()\n\
                   now = found.get_frozen_credentials()\n\
                   told = dict(id=now.access_key, key=now.secret_key, session=now.token, expires=hasattr(found, '_expiry_time'))\n\
                   open(sys.argv[1], 'w').write(json.dumps(told))\n";
    let bench = Bench::new(Setup::default());
    std::fs::write(bench.out.path().join("program.py"), program).unwrap();
    let call = |rest: &str| format!("{} OUT/program.py {rest}", python.display());
    let ended = bench.script("all", &call("OUT/alone")).await;
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{}", ended.told());
    is_lent(&bench.seen("alone").unwrap());

    let bench = Bench::new(Setup::default());
    std::fs::write(bench.out.path().join("program.py"), program).unwrap();
    let both = format!("{} && {}", call("OUT/one one"), call("OUT/two two"));
    let ended = bench.script("several", &both).await;
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{}", ended.told());
    let (one, two) = (bench.seen("one").unwrap(), bench.seen("two").unwrap());
    is_lent(&one);
    is_lent(&two);
    assert_ne!(one, two);
}
