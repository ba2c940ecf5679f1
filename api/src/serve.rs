//! The server: connections within their limits, and a close that nobody can hold up.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::{Api, router};

/// How long a connection without a request under way is kept when the server closes: its last answer may still be on
/// its way to a reader. Whoever has sent half a head, or nothing, has asked for nothing.
const FLUSH: Duration = Duration::from_millis(500);
/// The pause after a connection could not be accepted: no descriptor is free, and one may be soon.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves until [`crate::edge::Edge::close`], then at most as long as its limits let what is under way linger.
pub async fn serve(listener: TcpListener, api: Arc<Api>) {
    let edge = &api.edge;
    let router = router(Arc::clone(&api));
    let places = Arc::new(Semaphore::new(edge.limits.connections));
    let mut connections = JoinSet::new();
    let mut closing = pin!(edge.closing());
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = &mut closing => break,
            accepted = next => accepted,
        };
        while connections.try_join_next().is_some() {}
        match (accepted, place) {
            (Ok((stream, _)), Ok(place)) => {
                connections.spawn(connection(stream, router.clone(), Arc::clone(&api), place));
            }
            (Ok(_), Err(_)) => {}
            (Err(error), _) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // Nobody finds the way in any more.
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(edge.limits.linger, all).await.is_err() {
        warn!(connections = connections.len(), "closed before all were answered");
        connections.shutdown().await;
    }
}

/// Counts a request while it is under way, however it ends.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, router: Router, api: Arc<Api>, _place: OwnedSemaphorePermit) {
    let limits = &api.edge.limits;
    // An answer is written whole: waiting for more of it gains nothing.
    let _ = stream.set_nodelay(true);
    let under_way = Arc::new(AtomicUsize::new(0));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let under_way = UnderWay::of(&under_way);
        let answer = router.clone().oneshot(request);
        async move {
            let answer = answer.await;
            drop(under_way);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_read)
        .max_header_size(limits.head_bytes)
        .max_headers(limits.headers)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = api.edge.closing() => {
            connection.as_mut().graceful_shutdown();
            loop {
                match tokio::time::timeout(FLUSH, connection.as_mut()).await {
                    Ok(ended) => break ended,
                    Err(_) if under_way.load(Ordering::Acquire) == 0 => break Ok(()),
                    Err(_) => {}
                }
            }
        }
    };
    if let Err(error) = ended {
        // Gone clients, slow ones, and what is no HTTP: theirs to know.
        debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::admit::Role;
    use crate::edge::EdgeLimits;
    use crate::testing::{self, Ledger};

    struct Served {
        api: Arc<Api>,
        address: std::net::SocketAddr,
        server: JoinHandle<()>,
    }

    impl Served {
        /// A server whose limits are met soon.
        async fn new(change: impl FnOnce(&mut EdgeLimits)) -> Self {
            Self::over(Ledger::new(), change).await
        }

        async fn over(ledger: Ledger, change: impl FnOnce(&mut EdgeLimits)) -> Self {
            let mut limits = EdgeLimits {
                head_read: Duration::from_millis(300),
                body_read: Duration::from_millis(300),
                ..EdgeLimits::default()
            };
            change(&mut limits);
            let api = testing::api_with(ledger, limits);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(serve(listener, Arc::clone(&api)));
            Self { api, address, server }
        }

        /// A connection that has sent this.
        async fn sent(&self, text: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            stream
        }

        async fn get(&self, path: &str, headers: &str) -> String {
            let token = testing::token(Role::Operator);
            let head = format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{headers}\r\n"
            );
            answer(self.sent(&head).await).await
        }

        /// The start of a submission whose body never comes.
        async fn half_a_body(&self) -> TcpStream {
            let token = testing::token(Role::Operator);
            let head = format!("POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
            self.sent(&format!("{head}content-length: 100\r\n\r\n{{\"capa")).await
        }
    }

    /// All that comes until the connection ends.
    async fn answer(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        // A reset is an end too.
        let _ = read.expect("the connection ends");
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn whoever_is_slow_is_cut_off_and_keeps_nobody_else_waiting() {
        let served = Served::new(|_| {}).await;
        let silent = served.sent("").await;
        let half_a_head = served.sent("GET /v1/jobs HTTP/1.1\r\nhost").await;
        let half_a_body = served.half_a_body().await;
        assert!(served.get("/v1/jobs", "").await.starts_with("HTTP/1.1 200 "));
        assert_eq!(answer(silent).await, "");
        assert_eq!(answer(half_a_head).await, "");
        let told = answer(half_a_body).await;
        assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("\"body_too_slow\""), "{told}");
    }

    #[tokio::test]
    async fn a_head_has_its_limits() {
        let served = Served::new(|_| {}).await;
        let large = served.get("/v1/jobs", &format!("x: {}\r\n", "x".repeat(40_000))).await;
        assert!(large.starts_with("HTTP/1.1 431 "), "{large}");
        let many = served.get("/v1/jobs", &"x: x\r\n".repeat(80)).await;
        assert!(many.starts_with("HTTP/1.1 431 "), "{many}");
    }

    #[tokio::test]
    async fn more_connections_than_there_are_places_wait_for_one() {
        let served = Served::new(|limits| limits.connections = 2).await;
        let began = Instant::now();
        let held = [served.sent("").await, served.sent("GET /").await];
        let third = served.get("/health", "").await;
        assert!(third.starts_with("HTTP/1.1 200 "), "{third}");
        assert!(began.elapsed() >= Duration::from_millis(250), "it was accepted when a place was free");
        drop(held);
    }

    #[tokio::test]
    async fn whoever_waits_keeps_nobody_else_out() {
        let served = Served::new(|limits| limits.waiting = 2).await;
        let id = testing::a_job(&served.api, "somebody").await;
        let path = format!("/v1/jobs/{id}?wait=60");
        let waiting = async { tokio::join!(served.get(&path, ""), served.get(&path, "")) };
        let others = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let third = served.get(&path, "").await;
            assert!(third.starts_with("HTTP/1.1 503 ") && third.contains("\"busy\""), "{third}");
            assert!(third.contains("retry-after: 1\r\n"), "{third}");
            let plain = served.get(&format!("/v1/jobs/{id}"), "").await;
            assert!(plain.starts_with("HTTP/1.1 200 "), "{plain}");
            served.api.edge.close();
        };
        let ((one, two), ()) = tokio::join!(waiting, others);
        assert!(one.starts_with("HTTP/1.1 200 ") && two.starts_with("HTTP/1.1 200 "), "{one}{two}");
    }

    #[tokio::test]
    async fn more_requests_than_there_are_places_are_told_to_come_back() {
        let served = Served::new(|limits| limits.in_flight = 1).await;
        let first = served.half_a_body().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let second = served.get("/v1/jobs", "").await;
        assert!(second.starts_with("HTTP/1.1 503 ") && second.contains("\"busy\""), "{second}");
        assert!(served.get("/health", "").await.starts_with("HTTP/1.1 200 "), "a busy yard lives");
        answer(first).await;
        assert!(served.get("/v1/jobs", "").await.starts_with("HTTP/1.1 200 "), "its place is free again");
    }

    #[tokio::test]
    async fn bodies_have_so_much_room_together() {
        let served = Served::new(|limits| limits.bodies_kib = 4).await;
        let submit = |bytes: usize| {
            let token = testing::token(Role::Operator);
            let head =
                format!("POST /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}");
            format!("{head}\r\ncontent-length: {bytes}\r\n\r\n{}", " ".repeat(bytes))
        };
        let told = answer(served.sent(&submit(5000)).await).await;
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("\"busy\""), "{told}");
        for _ in 0..3 {
            let told = answer(served.sent(&submit(4000)).await).await;
            assert!(told.contains("\"not_json\""), "the room is free again: {told}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_takes_too_long_is_given_up() {
        let short = Duration::from_millis(50);
        let served = Served::over(Ledger::held(), |limits| limits.answer = short).await;
        let told = served.get("/v1/jobs", "").await;
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("\"took_too_long\""), "{told}");
    }

    #[tokio::test]
    async fn a_close_waits_for_nobody_who_has_asked_for_nothing() {
        let long = Duration::from_secs(20);
        let served = Served::new(|limits| (limits.head_read, limits.body_read) = (long, long)).await;
        let mut open = Vec::new();
        for n in 0..50 {
            open.push(served.sent(if n % 2 == 0 { "" } else { "GET /v1/jobs HTTP/1.1\r\nho" }).await);
        }
        let half_a_body = served.half_a_body().await;
        let id = testing::a_job(&served.api, "somebody").await;
        let path = format!("/v1/jobs/{id}?wait=60");
        let closes = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            served.api.edge.close();
        };
        let began = Instant::now();
        let (waited, told, ()) = tokio::join!(served.get(&path, ""), answer(half_a_body), closes);
        assert!(waited.contains("\"dispatched\""), "{waited}");
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("\"closing\""), "{told}");
        served.server.await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert!(TcpStream::connect(served.address).await.is_err(), "nobody finds the way in any more");
    }

    #[tokio::test]
    async fn every_answer_carries_the_id_of_its_request() {
        let served = Served::new(|_| {}).await;
        for (path, status) in [("/health", 200), ("/v1/jobs", 200), ("/v1/jobs/x", 400), ("/nowhere", 404)] {
            let told = served.get(path, "x-request-id: my.own-id_7\r\n").await;
            assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
            assert!(told.contains("x-request-id: my.own-id_7\r\n"), "{told}");
            assert_eq!(told.contains("\"request_id\":\"my.own-id_7\""), status >= 400, "{told}");
            let told = served.get(path, "x-request-id: not sane\r\n").await;
            assert!(told.contains("\r\nx-request-id: ") && !told.contains("not sane"), "{told}");
        }
        let head = "HEAD /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let told = answer(served.sent(head).await).await;
        assert!(told.starts_with("HTTP/1.1 404 ") && told.ends_with("\r\n\r\n"), "{told}");
    }
}
