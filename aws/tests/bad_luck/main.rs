//! Bad input and bad luck: what is not there, what is not allowed, credentials that are over or nobody's, clocks that are
//! wrong, services that refuse, break off or are silent for longer than anybody tries.
//!
//! Of each: every door's error tells the operation and the resource, whether trying again can help, and no secret; and
//! nothing is lost. The snapshots are what an operator reads.

#[path = "../emulated/mod.rs"]
mod emulated;
mod doors;
mod scene;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use switchyard_aws::blobs_s3::S3Blobs;
use switchyard_aws::home::Names;
use switchyard_core::job::{JobId, Tier};
use switchyard_core::ports::{Bell, Blobs, Lane, Yard};
use switchyard_faults::{Action, Service, When};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::doors::{scrubbed, told};
use crate::scene::{SESSION_TOKEN, Scene, clients_of, lane};

const ALL: [Service; 6] = [Service::DynamoDb, Service::Sqs, Service::S3, Service::Logs, Service::Events, Service::Ecs];

fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// The yard is at work in bad luck, made by `begin`; what it tells of it is answered.
fn in_bad_luck(services: &[Service], begin: impl AsyncFnOnce(&Scene) -> Yard) -> String {
    block(async {
        let scene = Scene::open().await;
        let troubled = begin(&scene).await;
        let lines = told(&scene, &troubled, services).await;
        let tried = scene.work_on(&troubled).await;
        scene.nothing_is_lost(tried).await;
        lines
    })
}

/// A yard one of whose names is wrong.
fn misnamed(services: &[Service], change: impl FnOnce(&mut Names, String)) -> String {
    in_bad_luck(services, async |scene| {
        let mut names = scene.names.clone();
        // What is nowhere is told by its name, which stands in the snapshot.
        change(&mut names, format!("{}-nowhere", scene.names.table));
        scene.elsewhere(&clients_of(&scene.proxy.endpoint(), |_| {}), names)
    })
}

/// What one service answers to everything.
struct Says(Service, u16, &'static str, &'static str);

/// A yard whose services answer so, whatever they are asked.
fn answered(says: Vec<Says>) -> String {
    let services: Vec<Service> = says.iter().map(|Says(service, ..)| service.clone()).collect();
    in_bad_luck(&services, async |scene| {
        for Says(service, status, code, message) in says {
            let (code, message) = (code.to_owned(), message.to_owned());
            scene.proxy.script().on(When::any().service(service), Action::Fail { code, status, message });
        }
        scene.yard.clone()
    })
}

#[test]
fn a_table_that_is_not_there() {
    insta::assert_snapshot!(misnamed(&[Service::DynamoDb], |names, nowhere| names.table = nowhere));
}

#[test]
fn a_queue_that_is_not_there() {
    insta::assert_snapshot!(misnamed(&[Service::Sqs], |names, nowhere| names.queues = nowhere));
}

#[test]
fn a_bucket_that_is_not_there() {
    insta::assert_snapshot!(misnamed(&[Service::S3], |names, nowhere| names.bucket = nowhere));
}

#[test]
fn a_log_group_that_is_not_there() {
    insta::assert_snapshot!(misnamed(&[Service::Logs], |names, nowhere| names.log_group = nowhere));
}

#[test]
fn a_bus_that_is_not_there() {
    insta::assert_snapshot!(misnamed(&[Service::Events], |names, nowhere| names.bus = nowhere));
}

#[test]
fn a_cluster_that_is_not_there() {
    insta::assert_snapshot!(answered(vec![Says(Service::Ecs, 400, "ClusterNotFoundException", "Cluster not found.")]));
}

#[test]
fn what_is_not_allowed() {
    let who = "User: arn:aws:sts::111122223333:assumed-role/yard/worker is not authorized to perform this action";
    insta::assert_snapshot!(answered(vec![
        Says(Service::DynamoDb, 400, "AccessDeniedException", who),
        Says(Service::Sqs, 403, "AccessDenied", who),
        Says(Service::S3, 403, "AccessDenied", "Access Denied"),
        Says(Service::Logs, 400, "AccessDeniedException", who),
        Says(Service::Events, 400, "AccessDeniedException", who),
        Says(Service::Ecs, 400, "AccessDeniedException", who),
    ]));
}

#[test]
fn credentials_that_are_over() {
    let over = "The security token included in the request is expired";
    insta::assert_snapshot!(answered(vec![
        Says(Service::DynamoDb, 400, "ExpiredTokenException", over),
        Says(Service::Sqs, 403, "ExpiredToken", over),
        Says(Service::S3, 400, "ExpiredToken", "The provided token has expired."),
        Says(Service::Logs, 400, "ExpiredTokenException", over),
        Says(Service::Events, 400, "ExpiredTokenException", over),
        Says(Service::Ecs, 400, "ExpiredTokenException", over),
    ]));
}

#[test]
fn nobody_s_credentials() {
    let invalid = "The security token included in the request is invalid.";
    let unknown = "The AWS Access Key Id you provided does not exist in our records.";
    insta::assert_snapshot!(answered(vec![
        Says(Service::DynamoDb, 400, "UnrecognizedClientException", invalid),
        Says(Service::Sqs, 403, "InvalidClientTokenId", invalid),
        Says(Service::S3, 403, "InvalidAccessKeyId", unknown),
        Says(Service::Logs, 400, "UnrecognizedClientException", invalid),
        Says(Service::Events, 400, "UnrecognizedClientException", invalid),
        Says(Service::Ecs, 400, "UnrecognizedClientException", invalid),
    ]));
}

#[test]
fn a_signature_by_another_key_repeats_no_token() {
    let canonical = format!(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key \
         and signing method. Consult the service documentation for details.\n\nThe Canonical String for this request \
         should have been\n'POST\n/\n\nhost:dynamodb\nx-amz-security-token:{SESSION_TOKEN}\n'"
    );
    insta::assert_snapshot!(in_bad_luck(&[Service::DynamoDb, Service::Sqs], async |scene| {
        for (service, code) in
            [(Service::DynamoDb, "InvalidSignatureException"), (Service::Sqs, "SignatureDoesNotMatch")]
        {
            scene.proxy.script().on(When::any().service(service), Action::fail(code, &canonical));
        }
        scene.yard.clone()
    }));
}

#[test]
fn a_clock_that_is_wrong_for_longer_than_the_tries() {
    let expired =
        "Signature expired: 20260102T030405Z is now earlier than 20260102T031405Z (20260102T031905Z - 5 min.)";
    let skewed = "The difference between the request time and the current time is too large.";
    insta::assert_snapshot!(answered(vec![
        Says(Service::DynamoDb, 400, "InvalidSignatureException", expired),
        Says(Service::Sqs, 403, "SignatureDoesNotMatch", expired),
        Says(Service::S3, 403, "RequestTimeTooSkewed", skewed),
        Says(Service::Logs, 400, "InvalidSignatureException", expired),
        Says(Service::Events, 400, "InvalidSignatureException", expired),
        Says(Service::Ecs, 400, "InvalidSignatureException", expired),
    ]));
}

#[test]
fn throttled_for_longer_than_the_tries() {
    insta::assert_snapshot!(answered(vec![
        Says(Service::DynamoDb, 400, "ThrottlingException", "Throughput exceeds the current capacity of your table."),
        Says(Service::Sqs, 403, "RequestThrottled", "The request was denied due to request throttling."),
        Says(Service::S3, 503, "SlowDown", "Please reduce your request rate."),
        Says(Service::Logs, 400, "ThrottlingException", "Rate exceeded"),
        Says(Service::Events, 400, "ThrottlingException", "Rate exceeded"),
        Says(Service::Ecs, 400, "ThrottlingException", "Rate exceeded"),
    ]));
}

#[test]
fn a_region_in_which_nothing_of_it_is() {
    insta::assert_snapshot!(in_bad_luck(&[Service::DynamoDb, Service::Sqs, Service::Logs], async |scene| {
        let clients = clients_of(&scene.proxy.endpoint(), |settings| settings.region = "ap-south-1".to_owned());
        scene.elsewhere(&clients, scene.names.clone())
    }));
}

#[test]
fn a_bucket_of_another_region() {
    let message = "The bucket you are attempting to access must be addressed using the specified endpoint. Please send \
                   all future requests to this endpoint.";
    insta::assert_snapshot!(answered(vec![Says(Service::S3, 301, "PermanentRedirect", message)]));
}

#[test]
fn a_bucket_asked_with_another_region_s_signature() {
    let message = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'";
    insta::assert_snapshot!(answered(vec![Says(Service::S3, 400, "AuthorizationHeaderMalformed", message)]));
}

#[test]
fn an_endpoint_where_nobody_listens() {
    insta::assert_snapshot!(in_bad_luck(&ALL, async |scene| {
        // Port 1 is the TCP port multiplexer's, which nobody has run for decades.
        scene.elsewhere(&clients_of("http://127.0.0.1:1", |_| {}), scene.names.clone())
    }));
}

#[test]
fn connections_that_break_before_anything_is_done() {
    insta::assert_snapshot!(in_bad_luck(&ALL, async |scene| {
        scene.proxy.script().on(When::any(), Action::ResetBefore);
        scene.yard.clone()
    }));
}

#[test]
fn connections_that_break_after_all_is_done() {
    let lines = in_bad_luck(&[], async |scene| {
        scene.proxy.script().on(When::any(), Action::ResetAfter);
        scene.yard.clone()
    });
    assert_eq!(lines, "", "it is told as the one before");
}

#[test]
fn answers_that_never_come() {
    insta::assert_snapshot!(in_bad_luck(&ALL, async |scene| {
        scene.proxy.script().on(When::any(), Action::HoldAfter);
        let clients =
            clients_of(&scene.proxy.endpoint(), |settings| settings.attempt_timeout = Duration::from_millis(300));
        scene.elsewhere(&clients, scene.names.clone())
    }));
}

#[test]
fn whoever_rings_does_not_wait_for_an_answer_as_long_as_a_long_poll_does() {
    block(async {
        let scene = Scene::open().await;
        scene.proxy.script().on(When::any().service(Service::Sqs), Action::HoldBefore);
        let clients =
            clients_of(&scene.proxy.endpoint(), |settings| settings.attempt_timeout = Duration::from_millis(300));
        let yard = scene.elsewhere(&clients, scene.names.clone());
        let began = Instant::now();
        let unrung = yard.lanes.ring(&[Bell { lane: lane(), job: &scene.waiting }]).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(
            scrubbed(&scene, &unrung[0].1).split(':').next(),
            Some("cannot ring in queue yard-standard-standard")
        );
        scene.proxy.script().clear();
        // The next one waits as long as it is told to, and its answer is not taken for one that never comes.
        let began = Instant::now();
        let empty = Lane { tier: Tier::Priority, ..lane() };
        let waited = tokio::time::timeout(Duration::from_secs(3), yard.lanes.receive(&empty, 1, true)).await;
        assert!(waited.is_err() && began.elapsed() >= Duration::from_secs(3), "{waited:?}");
    });
}

/// Answers one request as S3 does whose clock is ahead by so much, and then one as any; answers the time that each was
/// signed at.
async fn ahead(listener: tokio::net::TcpListener, by: Duration) -> Vec<String> {
    let mut signed_at = Vec::new();
    for answer in ["403 Forbidden", "200 OK"] {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.expect("a request") > 0);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let time = head.lines().find_map(|line| line.strip_prefix("x-amz-date: ")).expect("a signed time");
        signed_at.push(time.to_owned());
        let date = (Timestamp::now() + by).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let body = if answer.starts_with('4') { "<Error><Code>RequestTimeTooSkewed</Code></Error>" } else { "" };
        let answer = format!(
            "HTTP/1.1 {answer}\r\nConnection: close\r\nDate: {date}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.expect("answered");
    }
    signed_at
}

#[test]
fn a_clock_that_is_wrong_is_set_right_by_the_answer_and_the_next_try_passes() {
    block(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let serving = tokio::spawn(ahead(listener, Duration::from_secs(600)));
        let blobs = S3Blobs::new(&clients_of(&endpoint, |_| {}), "bucket");
        blobs.put(JobId::keyed("tester", "skewed"), "result-1", "1").await.expect("the next try");
        let signed_at = serving.await.expect("both");
        let minutes = |time: &String| time[9..11].parse::<i32>().unwrap() * 60 + time[11..13].parse::<i32>().unwrap();
        let later = (minutes(&signed_at[1]) - minutes(&signed_at[0])).rem_euclid(24 * 60);
        assert!((9..=11).contains(&later), "signed by the service's clock: {signed_at:?}");
    });
}
