//! Vendors that are down, slow or at their limits, and the way to them.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use switchyard_core::lend::{Refused, RefusedCode};

use crate::scene::{OURS, Peer, Play, World, answer, endpoints};
use crate::{entra, github, google};

async fn ask(world: &World) -> Result<switchyard_core::lend::Issued, Refused> {
    world.keep("github", OURS);
    world.issue(github::grant(github::by_app()), github::plain()).await
}

#[tokio::test]
async fn a_vendor_that_is_down_is_told_by_its_name_after_three_tries() {
    let peer = Peer::start(github::serve).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::with(peer, |settings| settings.endpoints = endpoints(&format!("http://{closed}")));
    world.keep("github", OURS);
    world.keep("google", google::ours());
    world.keep("entra", entra::SECRET);
    for (of, scope, name) in [
        (github::grant(github::by_app()), github::plain(), "GitHub"),
        (google::grant(google::by_key()), google::scope(&[google::READ]), "Google"),
        (google::grant(google::federated(google::PROVIDER)), google::scope(&[google::READ]), "Google"),
        (entra::grant(entra::by_secret()), entra::scope(), "Microsoft Entra"),
    ] {
        world.clock.pauses.lock().unwrap().clear();
        let refused = world.issue(of, scope).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorDown);
        assert!(refused.code.is_retryable());
        assert!(refused.message.starts_with(&format!("{name}: ")), "{refused}");
        assert!(refused.message.ends_with(", 3 times"), "{refused}");
        let pauses = world.pauses();
        assert_eq!(pauses.len(), 2);
        assert!(pauses[0] <= Duration::from_millis(300) && pauses[1] <= Duration::from_millis(600), "{pauses:?}");
    }
}

#[tokio::test]
async fn a_vendor_that_fails_for_a_moment_is_asked_again() {
    let world = World::new(github::serve).await;
    world.peer.play([answer(500, "CANARY"), answer(503, "<html>CANARY</html>")]);
    ask(&world).await.unwrap();
    assert_eq!(world.peer.heard().len(), 3);
    world.peer.play([answer(408, ""), answer(429, "")]);
    ask(&world).await.unwrap();
    world.peer.play([answer(500, ""), answer(502, ""), answer(504, "")]);
    let refused = ask(&world).await.unwrap_err();
    assert_eq!(refused.code, RefusedCode::VendorDown);
    assert_eq!(refused.message, "GitHub: it answers with status 504, 3 times");
}

#[tokio::test]
async fn a_vendor_is_left_alone_for_as_long_as_it_asks_or_is_down() {
    let rest = |status, seconds: &str| Play::Answer(status, vec![("retry-after", seconds.to_owned())], String::new());
    let world = World::new(github::serve).await;
    world.peer.play([rest(429, "2"), rest(403, "3")]);
    ask(&world).await.unwrap();
    assert_eq!(world.pauses(), [Duration::from_secs(2), Duration::from_secs(3)]);
    world.peer.play([rest(429, "60")]);
    let refused = ask(&world).await.unwrap_err();
    assert_eq!(refused.code, RefusedCode::VendorDown);
    assert_eq!(refused.message, "GitHub: it answers with status 429, and asks for 60 seconds of rest");
    assert_eq!(world.pauses().len(), 2, "nobody waits a minute");
    // GitHub's hourly limit, which says when it is whole again, or nothing but that it is spent.
    let spent = |more: Vec<(&'static str, String)>| {
        let headers = [("x-ratelimit-remaining", "0".to_owned())].into_iter().chain(more).collect();
        Play::Answer(403, headers, r#"{"message":"API rate limit exceeded"}"#.to_owned())
    };
    world.peer.play([spent(vec![("x-ratelimit-reset", "99999999999".to_owned())])]);
    assert_eq!(ask(&world).await.unwrap_err().code, RefusedCode::VendorDown);
    world.peer.play([spent(vec![])]);
    ask(&world).await.unwrap();
    // A refusal is one, with no rest to come after it.
    world.peer.play([answer(403, r#"{"message":"Resource not accessible by integration"}"#)]);
    assert_eq!(ask(&world).await.unwrap_err().code, RefusedCode::VendorRefused);
}

#[tokio::test]
async fn a_vendor_that_never_answers_is_down_when_a_try_or_the_budget_is_over() {
    let world = World::with(Peer::start(github::serve).await, |settings| {
        settings.patience.attempt = Duration::from_millis(40);
    });
    world.peer.play([Play::Silence, Play::Silence, Play::Silence]);
    let refused = ask(&world).await.unwrap_err();
    assert_eq!(refused.code, RefusedCode::VendorDown);
    assert_eq!(refused.message, "GitHub: no answer in 0.04 seconds, 3 times");
    let world = World::with(Peer::start(github::serve).await, |settings| {
        settings.patience.budget = Duration::from_millis(40);
    });
    world.peer.play([Play::Silence]);
    let refused = ask(&world).await.unwrap_err();
    assert_eq!(refused.code, RefusedCode::VendorDown);
    assert_eq!(refused.message, "GitHub: no answer in 0.04 seconds, all tries together");
}

#[tokio::test]
async fn who_sends_us_elsewhere_is_not_followed() {
    let elsewhere = Peer::start(github::serve).await;
    let world = World::new(github::serve).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}/app/installations/77/access_tokens", elsewhere.url);
        world.peer.play([Play::Answer(status, vec![("location", location)], String::new())]);
        let refused = ask(&world).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorAnswer, "{refused}");
    }
    assert!(elsewhere.heard().is_empty());
}

#[tokio::test]
async fn an_answer_without_end_is_none() {
    let world = World::new(github::serve).await;
    world.peer.play([answer(200, "x".repeat(64 * 1024 + 1))]);
    let refused = ask(&world).await.unwrap_err();
    assert_eq!(refused.code, RefusedCode::VendorAnswer);
    assert_eq!(refused.message, "GitHub: its answer has over 65536 bytes");
}

/// A peer that speaks no HTTP: it reads a little, says this, and hangs up.
fn rude(said: &'static [u8]) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut heard = [0; 1024];
            drop(std::io::Read::read(&mut stream, &mut heard));
            drop(stream.write_all(said));
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_is_no_http_is_a_vendor_that_is_down() {
    for said in [b"".as_slice(), b"CANARY\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n{\"token\":\"CANARY"] {
        let url = rude(said);
        let world =
            World::with(Peer::start(github::serve).await, |settings| settings.endpoints.github.clone_from(&url));
        let refused = ask(&world).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorDown, "{refused}");
    }
}

/// A peer behind TLS with a certificate of its own making: its address, and the certificate.
async fn behind_tls() -> (String, Vec<u8>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let pem = made.cert.pem().into_bytes();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut heard = [0; 16 * 1024];
            drop(stream.read(&mut heard).await);
            let said = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 20\r\n\r\n{\"message\":\"reached\"}";
            drop(stream.write_all(&said[..]).await);
        }
    });
    (url, pem)
}

#[tokio::test]
async fn nothing_is_sent_to_whom_no_trusted_certificate_names() {
    let (url, pem) = behind_tls().await;
    let trusting = World::with(Peer::start(github::serve).await, |settings| {
        settings.endpoints.github.clone_from(&url);
        settings.trusted = Some(pem.clone());
    });
    let refused = ask(&trusting).await.unwrap_err();
    assert!(refused.code == RefusedCode::VendorRefused, "{refused}");
    for url in [url.clone(), url.replace("localhost", "127.0.0.1")] {
        let by_name = url.contains("localhost");
        let world = World::with(Peer::start(github::serve).await, |settings| {
            settings.endpoints.github.clone_from(&url);
            settings.trusted = if by_name { None } else { Some(pem.clone()) };
        });
        let refused = ask(&world).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorDown);
        assert!(refused.message.contains("certificate"), "{refused}");
    }
}
