//! The rules over a live upstream: what is forwarded and what is not.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use serde_json::{Value, json};
use switchyard_faults::{Action, Done, Service, When};

use crate::emulator::{Client, Emulator};

fn table_answer() -> (u16, String) {
    let keys = json!([{"AttributeName": "PK", "KeyType": "HASH"}]);
    (200, json!({"Table": {"TableName": "yard", "KeySchema": keys}}).to_string())
}

/// A DynamoDB that knows one table and takes every write.
fn table() -> Emulator {
    Emulator::start(|seen| match seen.operation().as_str() {
        "DescribeTable" => table_answer(),
        _ => (200, "{}".to_owned()),
    })
}

fn put(id: &str) -> Value {
    json!({"TableName": "yard", "Item": {"PK": {"S": id}}})
}

fn transaction(id: &str, token: &str) -> Value {
    json!({"TransactItems": [{"Put": put(id)}], "ClientRequestToken": token})
}

#[test]
fn a_write_under_way_makes_a_transaction_fail_and_the_other_way_round() {
    let emulator = table();
    let proxy = emulator.proxy();
    let client = Client::new(&proxy, "w");
    let slow = Action::Delay(Duration::from_millis(500));
    let running = proxy.script().on(When::call(Service::DynamoDb, "TransactWriteItems").nth(1), slow.clone());
    let first = client.later(Service::DynamoDb, "TransactWriteItems", transaction("a", "t1"));
    block_on(running.reached());
    let plain = |id: &str| client.json(Service::DynamoDb, "PutItem", &put(id)).unwrap();
    assert_eq!(plain("a").code(), "TransactionConflictException");
    assert_eq!(plain("b").status, 200);
    assert_eq!(first.join().unwrap().unwrap().status, 200);
    assert_eq!(plain("a").status, 200);

    let running = proxy.script().on(When::call(Service::DynamoDb, "PutItem").nth(1), slow);
    let first = client.later(Service::DynamoDb, "PutItem", put("a"));
    block_on(running.reached());
    let refused = client.json(Service::DynamoDb, "TransactWriteItems", &transaction("a", "t2")).unwrap();
    assert_eq!(refused.code(), "TransactionCanceledException");
    assert_eq!(refused.json()["CancellationReasons"][0]["Code"], "TransactionConflict");
    assert_eq!(first.join().unwrap().unwrap().status, 200);
    assert_eq!(client.json(Service::DynamoDb, "TransactWriteItems", &transaction("a", "t3")).unwrap().status, 200);
}

#[test]
fn writes_to_dynamodb_are_carried_out_one_after_the_other_and_reads_beside_them() {
    let inside = Arc::new(Mutex::new((0, [0; 2])));
    let counting = Arc::clone(&inside);
    let emulator = Emulator::start(move |seen| {
        let kind = match seen.operation().as_str() {
            "DescribeTable" => return table_answer(),
            "GetItem" => 1,
            _ => 0,
        };
        {
            let (now, most) = &mut *counting.lock().unwrap();
            *now += 1;
            most[kind] = (*now).max(most[kind]);
        }
        std::thread::sleep(Duration::from_millis(50));
        counting.lock().unwrap().0 -= 1;
        (200, "{}".to_owned())
    });
    let proxy = emulator.proxy();
    let client = Client::new(&proxy, "w");
    let most = |operation: &'static str, body: fn(&str) -> Value| {
        inside.lock().unwrap().1 = [0; 2];
        let calls: Vec<_> = (0..6).map(|n| client.later(Service::DynamoDb, operation, body(&n.to_string()))).collect();
        for call in calls {
            assert_eq!(call.join().unwrap().unwrap().status, 200);
        }
        inside.lock().unwrap().1
    };
    assert_eq!(most("PutItem", put), [1, 0]);
    let get = |id: &str| json!({"TableName": "yard", "Key": {"PK": {"S": id}}});
    assert!(most("GetItem", get)[1] > 1, "reads are not held up");
}

#[test]
fn a_transaction_whose_answer_was_lost_succeeds_when_repeated_and_is_done_once() {
    let emulator = table();
    let proxy = emulator.proxy();
    let client = Client::new(&proxy, "w");
    proxy.script().on(When::call(Service::DynamoDb, "TransactWriteItems").nth(1), Action::ResetAfter);
    assert!(client.json(Service::DynamoDb, "TransactWriteItems", &transaction("a", "t")).is_err());
    assert_eq!(client.json(Service::DynamoDb, "TransactWriteItems", &transaction("a", "t")).unwrap().status, 200);
    assert_eq!(emulator.operations(), ["DescribeTable", "TransactWriteItems"]);
    let other = client.json(Service::DynamoDb, "TransactWriteItems", &transaction("b", "t")).unwrap();
    assert_eq!(other.code(), "IdempotentParameterMismatchException");
}

#[test]
fn the_table_is_asked_for_in_the_clients_name_and_costs_it_nothing() {
    let emulator = table();
    let proxy = emulator.proxy();
    Client::new(&proxy, "w").json(Service::DynamoDb, "PutItem", &put("a")).unwrap();
    let asked = &emulator.seen()[0];
    assert_eq!(asked.operation(), "DescribeTable");
    assert!(asked.headers["authorization"].to_str().unwrap().contains("Credential=w/20260102/eu-west-1/dynamodb/"));
    let tally = proxy.records().tally();
    assert_eq!((tally.total().requests, tally.total().nanodollars), (1, 625));
}

#[test]
fn a_task_is_launched_once_for_one_token() {
    let emulator = Emulator::start(|_| (200, json!({"tasks": [{"taskArn": "arn-1"}], "failures": []}).to_string()));
    let proxy = emulator.proxy();
    let client = Client::new(&proxy, "w");
    let run = |definition: &str| {
        let body = json!({"taskDefinition": definition, "clientToken": "t"});
        client.json(Service::Ecs, "RunTask", &body).unwrap()
    };
    assert_eq!(run("d").json(), run("d").json());
    assert_eq!(emulator.seen().len(), 1);
    let conflict = run("other");
    assert_eq!(
        (conflict.code().as_str(), conflict.json()["resourceIds"].clone()),
        ("ConflictException", json!(["arn-1"]))
    );
    assert_eq!(proxy.records().all()[1].done, Done::Ruled);
}

#[test]
fn a_lowered_limit_holds_from_then_on() {
    let emulator = Emulator::start(|seen| {
        let id = seen.json()["VisibilityTimeout"].to_string();
        (200, json!({"Messages": [{"MessageId": id, "ReceiptHandle": id, "Body": "x"}]}).to_string())
    });
    let proxy = emulator.proxy();
    proxy.rules(|limits| limits.sqs.in_flight = 2);
    let client = Client::new(&proxy, "w");
    // The emulator makes another message of every time-out.
    let poll = |seconds: u64| {
        let body = json!({"QueueUrl": "http://x/0/q", "VisibilityTimeout": seconds});
        client.json(Service::Sqs, "ReceiveMessage", &body).unwrap()
    };
    assert_eq!([poll(100).status, poll(200).status], [200, 200]);
    let refused = poll(300);
    assert_eq!((refused.status, refused.code().as_str()), (403, "OverLimit"));
    assert_eq!(refused.headers["x-amzn-query-error"], "OverLimit;Sender");
    assert_eq!(emulator.seen().len(), 2);
}

#[test]
fn a_long_poll_of_a_queue_with_too_much_in_flight_waits_in_vain() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    proxy.rules(|limits| limits.sqs.in_flight = 0);
    let body = json!({"QueueUrl": "http://x/0/q", "WaitTimeSeconds": 1});
    let began = Instant::now();
    let got = Client::new(&proxy, "w").json(Service::Sqs, "ReceiveMessage", &body).unwrap();
    assert_eq!((got.status, got.json()), (200, json!({})));
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(emulator.seen().is_empty());
}

#[test]
fn a_stale_receipt_deletes_nothing_and_the_rest_of_its_batch_is_deleted() {
    let receipts = Mutex::new(vec!["new", "old"]);
    let emulator = Emulator::start(move |seen| match seen.operation().as_str() {
        "ReceiveMessage" => {
            let receipt = receipts.lock().unwrap().pop().unwrap();
            (200, json!({"Messages": [{"MessageId": "m", "ReceiptHandle": receipt, "Body": "x"}]}).to_string())
        }
        _ => (200, json!({"Successful": [{"Id": "b"}], "Failed": []}).to_string()),
    });
    let proxy = emulator.proxy();
    let client = Client::new(&proxy, "w");
    let receive = json!({"QueueUrl": "http://x/0/q", "VisibilityTimeout": 0});
    (0..2).for_each(|_| drop(client.json(Service::Sqs, "ReceiveMessage", &receive).unwrap()));
    let delete = json!({"QueueUrl": "http://x/0/q", "ReceiptHandle": "old"});
    assert_eq!(client.json(Service::Sqs, "DeleteMessage", &delete).unwrap().status, 200);
    let entries = json!([{"Id": "a", "ReceiptHandle": "old"}, {"Id": "b", "ReceiptHandle": "new"}]);
    let batch = json!({"QueueUrl": "http://x/0/q", "Entries": entries});
    let got = client.json(Service::Sqs, "DeleteMessageBatch", &batch).unwrap().json();
    assert_eq!(got["Successful"], json!([{"Id": "b"}, {"Id": "a"}]));
    let forwarded = emulator.seen().pop().unwrap();
    assert_eq!(forwarded.json()["Entries"], json!([entries[1]]));
    assert_eq!(emulator.operations(), ["ReceiveMessage", "ReceiveMessage", "DeleteMessageBatch"]);
}

/// An Auto Scaling with one group of at least 1, whose size falls with each termination.
fn fleet(desired: u32) -> Emulator {
    let desired = Mutex::new(desired);
    Emulator::start(move |seen| {
        let mut desired = desired.lock().unwrap();
        match seen.operation().as_str() {
            "DescribeAutoScalingGroups" => {
                let member = |n: u32| format!("<member><InstanceId>i-{n}</InstanceId></member>");
                let instances: String = (1..=9).map(member).collect();
                (
                    200,
                    format!(
                        "<R><AutoScalingGroups><member><AutoScalingGroupName>fleet</AutoScalingGroupName><MinSize>1</MinSize>\
                     <MaxSize>9</MaxSize><DesiredCapacity>{desired}</DesiredCapacity><Instances>{instances}</Instances>\
                     </member></AutoScalingGroups></R>"
                    ),
                )
            }
            _ => {
                *desired -= 1;
                (200, "<R/>".to_owned())
            }
        }
    })
}

#[test]
fn workers_that_go_home_at_once_do_not_together_pass_the_minimum() {
    let emulator = fleet(3);
    let proxy = emulator.proxy();
    let workers: Vec<_> = (1..=6)
        .map(|n| {
            let client = Client::new(&proxy, &format!("w{n}"));
            let body = format!(
                "Action=TerminateInstanceInAutoScalingGroup&Version=2011-01-01&InstanceId=i-{n}\
                 &ShouldDecrementDesiredCapacity=true"
            );
            std::thread::spawn(move || client.form(Service::AutoScaling, &body).unwrap())
        })
        .collect();
    let answers: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    let refused = answers.iter().filter(|got| got.body.contains("<Code>ValidationError</Code>")).count();
    assert_eq!((refused, answers.iter().filter(|got| got.status == 200).count()), (4, 2));
}

#[test]
fn an_unknown_instance_is_a_validation_error_and_not_forwarded() {
    let emulator = fleet(3);
    let proxy = emulator.proxy();
    let body = "Action=TerminateInstanceInAutoScalingGroup&Version=2011-01-01&InstanceId=i-77\
                &ShouldDecrementDesiredCapacity=false";
    let got = Client::new(&proxy, "w").form(Service::AutoScaling, body).unwrap();
    assert_eq!(got.status, 400);
    assert!(got.body.contains("No managed instance found for instance ID: i-77"));
    assert_eq!(emulator.operations(), ["DescribeAutoScalingGroups"]);
}

#[test]
fn an_event_that_speaks_for_aws_fails_and_the_others_arrive() {
    let emulator =
        Emulator::start(|_| (200, json!({"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]}).to_string()));
    let proxy = emulator.proxy();
    let entry = |source: &str| json!({"Source": source, "DetailType": "t", "Detail": "{}"});
    let body = json!({"Entries": [entry("aws.ec2"), entry("switchyard")]});
    let got = Client::new(&proxy, "w").json(Service::Events, "PutEvents", &body).unwrap();
    assert_eq!((got.status, got.json()["FailedEntryCount"].as_u64()), (200, Some(1)));
    assert_eq!(got.json()["Entries"][0]["ErrorCode"], "NotAuthorizedForSourceException");
    assert_eq!(got.json()["Entries"][1]["EventId"], "1");
    assert_eq!(emulator.seen()[0].json()["Entries"], json!([entry("switchyard")]));
    assert_eq!(proxy.records().tally().total().nanodollars, 1000);
}

#[test]
fn log_lines_out_of_order_do_not_arrive() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let put = |times: [i64; 2]| {
        let events = times.map(|at| json!({"timestamp": at, "message": "x"}));
        Client::new(&proxy, "w").json(Service::Logs, "PutLogEvents", &json!({"logEvents": events})).unwrap().code()
    };
    assert_eq!([put([2, 1]), put([1, 2])], ["InvalidParameterException", ""]);
    assert_eq!(emulator.seen().len(), 1);
}
