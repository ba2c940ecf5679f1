//! What a job costs of requests and dollars, counted at the proxy that every request goes through, every try included.
//! Beside it a path as one writes it first: a request for each thing that happens.

mod emulated;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use emulated::yard::{clients, home_as, names, pools, proxy, work, yard};
use emulated::{Emulator, block};
use serde_json::json;
use switchyard_aws::clients::Clients;
use switchyard_aws::home::Home;
use switchyard_aws::ledger_dynamodb::LIVE;
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Prepared, Sender, Taking};
use switchyard_core::job::{Holder, Phase, StopCause};
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{Assignment, Executor, LogSink, Outcome, Room, StopSignal, Yard};
use switchyard_core::reap;
use switchyard_core::records::{BATCH_RECORDS, Became, Emitted, take};
use switchyard_core::route::{Limits, PoolName};
use switchyard_core::settle::YardDesk;
use switchyard_faults::{Proxy, Service, Tally};
use switchyard_worker::fleet::{self, Fleet};
use switchyard_worker::roster::Roster;

const CAPABILITIES: &str = r#"
version: 1
capabilities:
  - name: nothing
    summary: Does nothing
    run: { command: ["true"] }
    needs: { timeout_seconds: 600 }
    emits: { asset: true, metric: true }
"#;

/// Does nothing, and counts how often.
#[derive(Default)]
struct Nothing(AtomicUsize);

#[async_trait]
impl Executor for Nothing {
    async fn run(&self, _assignment: &Assignment<'_>, _log: &dyn LogSink) -> Outcome {
        self.0.fetch_add(1, Ordering::SeqCst);
        Outcome::Succeeded(None)
    }
}

/// A yard in which what was read of pauses holds so long.
async fn open(proxy: &Proxy, live_for: Duration) -> (Clients, Home, Yard) {
    let clients = clients(&proxy.endpoint(), "YARD");
    let home = home_as(&clients, names("requests"), Arc::new(System), live_for);
    home.declare(&clients, &pools()).await.expect("declare");
    let catalog = Catalog::parse("test", CAPABILITIES, &[], &Default::default()).expect("the test's own catalog");
    let policies = Policies { catalog, limits: Limits::one_machine(4096), ..Policies::default() };
    let yard = Yard { shelf: Arc::new(Shelf::new(policies)), ..yard(&home) };
    (clients, home, yard)
}

async fn prepared(yard: &Yard, key: &str) -> Prepared {
    // 256 bytes of payload, as queues are measured with.
    let body = json!({ "capability": "nothing", "payload": { "text": "x".repeat(244) } });
    let (submission, digest) = intake::read(body.to_string().as_bytes()).expect("the test's own submission");
    let (situation, sender) = (yard.situation().await, Sender { caller: "tester", key: Some(key) });
    let (now, random) = (yard.ambient.now(), yard.ambient.random());
    intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random)
        .expect("the test's own submission")
}

/// A worker with so many slots, at work until it is told to leave.
fn worker(yard: &Yard, slots: u32, executor: Arc<Nothing>) -> (StopSignal, tokio::task::JoinHandle<()>) {
    let leave = StopSignal::default();
    let fleet = Fleet {
        lanes: Arc::clone(&yard.lanes),
        desk: Arc::new(YardDesk(yard.clone())),
        executor,
        blobs: Arc::clone(&yard.blobs),
        ambient: Arc::clone(&yard.ambient),
        roster: Arc::new(Roster::default()),
        holder: Holder::new("worker", yard.ambient.nonce()),
        pool: PoolName::STANDARD,
        room: Room { slots, milli_vcpu: slots * 1000, memory_mib: slots * 1024 },
        idle: None,
        finish: StopSignal::default(),
    };
    (leave.clone(), tokio::spawn(fleet::work(Arc::new(fleet), leave)))
}

fn show(what: &str, jobs: f64, tally: &Tally) {
    let total = tally.total();
    let dollars = total.nanodollars as f64 / 1e9 / jobs * 1e6;
    println!("{what}: {:.2} requests a job, ${dollars:.2} a million jobs", total.requests as f64 / jobs);
    println!("{}", tally.table());
}

#[test]
fn a_thousand_jobs_in_bulk_cost_six_tenths_of_a_request_each_beside_claim_and_settlement() {
    let proxy = proxy(Emulator::MiniStack);
    let jobs = 1000;
    let tally = block(async {
        let (_, _, yard) = open(&proxy, LIVE).await;
        let mark = proxy.records().mark();
        for half in 0..2 {
            let mut batch = Vec::new();
            for n in 0..jobs / 2 {
                batch.push(prepared(&yard, &format!("{half}-{n}")).await);
            }
            let taken = intake::accept(&yard, batch).await.expect("accept");
            assert!(taken.iter().all(|taken| taken.as_ref().is_ok_and(|taken| taken.fresh)));
        }
        let executor = Arc::new(Nothing::default());
        let (leave, working) = worker(&yard, 30, Arc::clone(&executor));
        for _ in 0..600 {
            if executor.0.load(Ordering::SeqCst) == jobs {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        leave.raise(StopCause::Drain);
        working.await.expect("the worker ends");
        let tally = proxy.records().tally_since(mark);
        let counts = yard.ledger.count().await.expect("count");
        assert_eq!(counts, [(Phase::Succeeded, jobs as u64)], "all done, each once");
        assert_eq!(executor.0.load(Ordering::SeqCst), jobs);
        tally
    });
    show("1,000 jobs in bulk", jobs as f64, &tally);
    let writes = tally.of(&Service::DynamoDb, "UpdateItem").requests;
    assert!(writes <= 2 * jobs as u64 + 20, "one request to claim and one to settle: {writes}");
    let beside = (tally.total().requests - writes) as f64 / jobs as f64;
    assert!(beside <= 0.6, "{beside:.3} requests a job beside claim and settlement");
}

/// Takes one job from the door to its end, as a function and a worker do.
async fn one_job(yard: &Yard, key: &str) {
    intake::accept(yard, vec![prepared(yard, key).await]).await.expect("accept").remove(0).expect("taken");
    assert_eq!(work(yard, "worker", &Nothing::default(), true).await, 1);
}

#[test]
fn a_single_job_costs_six_requests() {
    let proxy = proxy(Emulator::MiniStack);
    let (cold, warm) = block(async {
        // What is paused and who works is read every five seconds, however many jobs come: not by the second one, also on
        // a machine that is slow just now.
        let (_, _, yard) = open(&proxy, Duration::from_secs(60)).await;
        let mark = proxy.records().mark();
        one_job(&yard, "first").await;
        let cold = proxy.records().tally_since(mark);
        let mark = proxy.records().mark();
        one_job(&yard, "second").await;
        (cold, proxy.records().tally_since(mark))
    });
    show("a single job, the first of its process", 1.0, &cold);
    show("a single job", 1.0, &warm);
    let urls = warm.of(&Service::Sqs, "GetQueueUrl").requests;
    assert_eq!(urls, 0, "queues are found once");
    assert!(warm.total().requests <= 6, "put, send, receive, claim, settle, delete: {}", warm.table());
}

#[test]
fn an_idle_worker_makes_at_most_twelve_requests_a_minute() {
    let proxy = proxy(Emulator::MiniStack);
    let tally = block(async {
        let (_, _, yard) = open(&proxy, LIVE).await;
        let (leave, working) = worker(&yard, 4, Arc::default());
        // Its first polls begin; queues are found.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mark = proxy.records().mark();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let tally = proxy.records().tally_since(mark);
        leave.raise(StopCause::Drain);
        working.await.expect("the worker ends");
        tally
    });
    show("an idle worker, a minute", 1.0, &tally);
    assert!(tally.total().requests <= 12, "{}", tally.table());
}

#[test]
fn a_reaper_s_round_over_nothing_asks_each_shard_and_no_more() {
    let proxy = proxy(Emulator::MiniStack);
    let tally = block(async {
        let (_, _, yard) = open(&proxy, LIVE).await;
        let mark = proxy.records().mark();
        reap::round(&yard).await.expect("round");
        proxy.records().tally_since(mark)
    });
    show("a reaper's round over nothing", 1.0, &tally);
    assert!(tally.total().requests <= 17, "{}", tally.table());
    assert_eq!(tally.of(&Service::DynamoDb, "Scan").requests, 0, "it queries, and never scans");
}

/// A queue as one writes it first: state in a table, three tiers, a message a job, and a request for each of them.
async fn naive(clients: &Clients, jobs: usize, what: &str) {
    let (dynamodb, sqs, scaling) = (clients.dynamodb(), clients.sqs(), clients.autoscaling());
    let mut queues = Vec::new();
    for tier in ["synchronous", "priority", "standard"] {
        let made = sqs.create_queue().queue_name(format!("{what}-{tier}")).send().await.expect("create queue");
        queues.push(made.queue_url.expect("a URL"));
    }
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let key = |id: &str| HashMap::from([("pk".to_owned(), text(id)), ("sk".to_owned(), text("job"))]);
    let payload = "x".repeat(256);
    for n in 0..jobs {
        let id = format!("{what}-{n}");
        // Was it submitted before?
        dynamodb.get_item().table_name(what).set_key(Some(key(&id))).send().await.expect("get");
        let mut item = key(&id);
        item.insert("payload".to_owned(), text(&payload));
        item.insert("state".to_owned(), text("queued"));
        dynamodb.put_item().table_name(what).set_item(Some(item)).send().await.expect("put");
        sqs.send_message().queue_url(&queues[2]).message_body(&id).send().await.expect("send");
        // Is there a worker?
        scaling.describe_auto_scaling_groups().auto_scaling_group_names(what).send().await.expect("describe");
        // There is no group by that name: what matters is that it is asked for.
        drop(scaling.set_desired_capacity().auto_scaling_group_name(what).desired_capacity(1).send().await);
    }
    for _ in 0..jobs {
        let mut found = None;
        for url in &queues {
            let received = sqs.receive_message().queue_url(url).send().await.expect("receive");
            found = found.or(received.messages.and_then(|mut messages| messages.pop()).map(|message| (url, message)));
        }
        let (url, message) = found.expect("a message for each job");
        let (id, receipt) = (message.body.expect("a body"), message.receipt_handle.expect("a receipt"));
        for state in ["running", "done"] {
            let update = dynamodb.update_item().table_name(what).set_key(Some(key(&id)));
            let update = update.update_expression("SET #s = :s").expression_attribute_names("#s", "state");
            update.expression_attribute_values(":s", text(state)).send().await.expect("update");
            if state == "running" {
                let extend = sqs.change_message_visibility().queue_url(url).receipt_handle(&receipt);
                extend.visibility_timeout(120).send().await.expect("extend");
            }
        }
        sqs.delete_message().queue_url(url).receipt_handle(&receipt).send().await.expect("delete");
    }
}

/// As result_listener takes them: batches of 500, and again what came before.
#[test]
fn records_cost_a_twentieth_of_a_request_each_and_assets_one_more() {
    let proxy = proxy(Emulator::MiniStack);
    let records = 1000_u64;
    let cost = |what: &str, assets: bool, again: bool| {
        block(async {
            let (_, _, yard) = open(&proxy, LIVE).await;
            let taken = intake::accept(&yard, vec![prepared(&yard, "records").await]).await.expect("accept");
            let job = taken.into_iter().flatten().next().expect("one job").job;
            let line = |n: u64| Emitted {
                job: job.id,
                epoch: job.epoch,
                n,
                at: yard.ambient.now(),
                line: if assets {
                    json!({ "kind": "asset", "id": format!("host:{n}"), "text": "x".repeat(150) }).to_string()
                } else {
                    json!({ "kind": "metric", "name": "m", "value": n, "text": "x".repeat(150) }).to_string()
                },
            };
            let lines: Vec<Emitted> = (1..=records).map(line).collect();
            let run = async |wanted: Became| {
                for batch in lines.chunks(BATCH_RECORDS) {
                    let became = take(&yard, "stream", batch).await;
                    assert!(became.iter().all(|became| *became == wanted), "{became:?}");
                }
            };
            if again {
                run(Became::Stored).await;
            }
            let mark = proxy.records().mark();
            run(if again { Became::Known } else { Became::Stored }).await;
            let tally = proxy.records().tally_since(mark);
            let total = tally.total();
            let each = total.requests as f64 / records as f64;
            let dollars = total.nanodollars as f64 / 1e9 / records as f64 * 1e6;
            println!("{what}: {each:.3} requests a record, ${dollars:.2} a million records\n{}", tally.table());
            each
        })
    };
    // A look and a put for each hundred and each 25 of them, and one at the job for each 500; an entry is an update.
    assert!(cost("metrics", false, false) <= 0.06);
    assert!(cost("assets", true, false) <= 1.06);
    assert!(cost("assets that come again", true, true) <= 0.02);
}

#[test]
fn a_path_as_one_writes_it_first_makes_twice_the_requests_of_a_single_job_here() {
    let proxy = proxy(Emulator::MiniStack);
    let jobs = 50;
    let tally = block(async {
        let clients = clients(&proxy.endpoint(), "NAIVE");
        let home = home_as(&clients, names("naive"), Arc::new(System), LIVE);
        home.ledger.declare().await.expect("a table");
        let mark = proxy.records().mark();
        naive(&clients, jobs, home.table()).await;
        proxy.records().tally_since(mark)
    });
    show("a path as one writes it first", jobs as f64, &tally);
    assert!(tally.total().requests as f64 / jobs as f64 >= 12.0, "{}", tally.table());
}
