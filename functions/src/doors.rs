//! What one invocation brings, told by its shape: an event as EventBridge sends it, or records of SNS, SQS and S3 with
//! events in them. Nothing of what comes in is dropped here: what is no event is an item as well, with the reason.

use serde_json::Value;

/// The longest text of one item: EventBridge's events have 256 KiB at most, SQS's and SNS's messages 1 MiB.
pub const ITEM_BYTES: usize = 1024 * 1024;

/// Where an item came from: who it is acknowledged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The invocation itself: the event is all there is of it.
    Invocation,
    /// An SNS notification, by its message id.
    Sns(String),
    /// An SQS message, by its id: acknowledged one by one.
    Sqs(String),
    /// A record of an S3 notification.
    S3,
}

impl Source {
    /// Its name, in logs and in what is parked.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Invocation => "invocation",
            Self::Sns(_) => "sns",
            Self::Sqs(_) => "sqs",
            Self::S3 => "s3",
        }
    }
}

/// What an item is.
#[derive(Clone, Debug, PartialEq)]
pub enum Brought {
    /// An event, perhaps: whoever takes it judges.
    Event(Value),
    /// An object that holds events.
    Object(Object),
    /// Nothing to do, such as S3's test message.
    Nothing(&'static str),
    /// It can never be taken.
    Unreadable {
        /// Why.
        reason: String,
        /// It, as it came.
        body: String,
    },
}

/// An object in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The bucket.
    pub bucket: String,
    /// The key, as S3 knows it.
    pub key: String,
}

/// One thing that came in.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Where it came from.
    pub source: Source,
    /// What it is.
    pub brought: Brought,
}

/// How the invocation's source hears what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Lambda invokes again when the invocation fails: as a whole.
    Whole,
    /// A batch of SQS: the messages that failed are named, and come again.
    Batch,
}

/// What an invocation brings, and how it is answered. Every record is an item, and an invocation without records is one.
pub fn read(event: Value) -> (Answer, Vec<Item>) {
    let Some(records) = event.get("Records").and_then(Value::as_array) else {
        return (Answer::Whole, vec![Item { source: Source::Invocation, brought: whole(event) }]);
    };
    if records.is_empty() {
        let nothing = Brought::Nothing("no records");
        return (Answer::Whole, vec![Item { source: Source::Invocation, brought: nothing }]);
    }
    let items: Vec<Item> = records.iter().flat_map(record).collect();
    let batch = items.iter().any(|item| matches!(item.source, Source::Sqs(_)));
    (if batch { Answer::Batch } else { Answer::Whole }, items)
}

/// An invocation that has no records.
fn whole(event: Value) -> Brought {
    if event.get("Event").and_then(Value::as_str) == Some("s3:TestEvent") {
        return Brought::Nothing("S3's test message");
    }
    match of_bridge(&event) {
        Some(object) => object,
        None => Brought::Event(event),
    }
}

/// An S3 event by way of EventBridge: what it is about is an object that holds events, like one S3 tells of itself.
fn of_bridge(event: &Value) -> Option<Brought> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str);
    if (text("/source"), text("/detail-type")) != (Some("aws.s3"), Some("Object Created")) {
        return None;
    }
    // Here the key is as S3 knows it, and not as a URL has it.
    let (bucket, key) = (text("/detail/bucket/name")?.to_owned(), text("/detail/object/key")?.to_owned());
    Some(Brought::Object(Object { bucket, key }))
}

fn record(record: &Value) -> Vec<Item> {
    let text = |path: &str| record.pointer(path).and_then(Value::as_str);
    let item = |source: Source, brought: Brought| vec![Item { source, brought }];
    match (text("/EventSource"), text("/eventSource")) {
        (Some("aws:sns"), _) => {
            let source = Source::Sns(text("/Sns/MessageId").unwrap_or_default().to_owned());
            match text("/Sns/Message") {
                Some(message) => message_of(source, message),
                None => item(source, unreadable("an SNS record without a message", record)),
            }
        }
        (_, Some("aws:sqs")) => {
            // Without its id it cannot be named as failed: then the whole batch must come again.
            let source = text("/messageId").map_or(Source::Invocation, |id| Source::Sqs(id.to_owned()));
            match text("/body") {
                Some(body) => message_of(source, body),
                None => item(source, unreadable("an SQS message without a body", record)),
            }
        }
        (_, Some("aws:s3")) => item(Source::S3, of_s3(record)),
        _ => item(Source::Invocation, unreadable("a record of a source that this function does not serve", record)),
    }
}

/// Why a text is too long for an item, if it is.
pub(crate) fn too_long(text: &str) -> Option<String> {
    (text.len() > ITEM_BYTES).then(|| format!("it has {} bytes, and {ITEM_BYTES} is the most", text.len()))
}

/// What stands in a message: an event, an SNS notification around one, or S3's notification with its records.
fn message_of(source: Source, message: &str) -> Vec<Item> {
    let item = |brought: Brought| Item { source: source.clone(), brought };
    let unreadable = |reason: String| item(Brought::Unreadable { reason, body: message.to_owned() });
    if let Some(reason) = too_long(message) {
        return vec![unreadable(reason)];
    }
    let value: Value = match serde_json::from_str(message) {
        Ok(value) => value,
        Err(error) => return vec![unreadable(format!("not JSON: {error}"))],
    };
    // SNS puts its envelope around what it sends to a queue, unless raw delivery is on.
    if value.get("Type").and_then(Value::as_str) == Some("Notification")
        && let Some(inner) = value.get("Message").and_then(Value::as_str)
        && source.as_str() == "sqs"
    {
        return match serde_json::from_str(inner) {
            Ok(inner) => inside(&source, inner),
            Err(error) => vec![unreadable(format!("its message is not JSON: {error}"))],
        };
    }
    inside(&source, value)
}

/// What stands in a message's JSON.
fn inside(source: &Source, value: Value) -> Vec<Item> {
    let item = |brought: Brought| Item { source: source.clone(), brought };
    match value.get("Records").and_then(Value::as_array) {
        Some(records) if !records.is_empty() => records
            .iter()
            .map(|record| match record.get("eventSource").and_then(Value::as_str) {
                Some("aws:s3") => item(of_s3(record)),
                _ => item(unreadable("a record of a source that is not expected in a message", record)),
            })
            .collect(),
        Some(_) | None => vec![item(whole(value))],
    }
}

fn of_s3(record: &Value) -> Brought {
    let text = |path: &str| record.pointer(path).and_then(Value::as_str);
    let created = text("/eventName").is_some_and(|name| name.trim_start_matches("s3:").starts_with("ObjectCreated:"));
    match (created, text("/s3/bucket/name"), text("/s3/object/key").and_then(decoded)) {
        (false, ..) if text("/eventName").is_some() => Brought::Nothing("an object was not created"),
        (true, Some(bucket), Some(key)) => Brought::Object(Object { bucket: bucket.to_owned(), key }),
        _ => unreadable("an S3 record without its bucket or key", record),
    }
}

/// A key as S3's notifications have it: as in a form, so that a space is a `+` (Amazon S3, "Event message structure").
fn decoded(key: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn unreadable(reason: &str, record: &Value) -> Brought {
    Brought::Unreadable { reason: reason.to_owned(), body: record.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({ "id": "1", "source": "aws.guardduty", "detail-type": "GuardDuty Finding", "detail": {} })
    }

    fn brought(event: Value) -> Vec<Brought> {
        read(event).1.into_iter().map(|item| item.brought).collect()
    }

    fn s3(key: &str, name: &str) -> Value {
        let s3 = json!({ "bucket": { "name": "drop" }, "object": { "key": key } });
        json!({ "eventSource": "aws:s3", "eventName": name, "s3": s3 })
    }

    #[test]
    fn an_event_is_the_same_by_every_door() {
        let text = event().to_string();
        let sqs = |body: String| json!({ "Records": [{ "eventSource": "aws:sqs", "messageId": "m", "body": body }] });
        let envelope = json!({ "Type": "Notification", "MessageId": "n", "Message": text }).to_string();
        let sns = json!({ "Records": [{ "EventSource": "aws:sns", "Sns": { "MessageId": "n", "Message": text } }] });
        for (door, answer, source) in [
            (event(), Answer::Whole, Source::Invocation),
            (sns, Answer::Whole, Source::Sns("n".into())),
            (sqs(text.clone()), Answer::Batch, Source::Sqs("m".into())),
            (sqs(envelope), Answer::Batch, Source::Sqs("m".into())),
        ] {
            assert_eq!(read(door), (answer, vec![Item { source, brought: Brought::Event(event()) }]));
        }
    }

    #[test]
    fn an_object_is_told_of_by_s3_by_a_queue_and_by_event_bridge() {
        let object = |key: &str| Brought::Object(Object { bucket: "drop".into(), key: key.into() });
        assert_eq!(brought(json!({ "Records": [s3("a+b/%C3%BC.json", "ObjectCreated:Put")] })), [object("a b/ü.json")]);
        let inner = json!({ "Records": [s3("a", "ObjectCreated:Copy"), s3("b", "s3:ObjectCreated:Put")] }).to_string();
        let queued = json!({ "Records": [{ "eventSource": "aws:sqs", "messageId": "m", "body": inner }] });
        assert_eq!(brought(queued), [object("a"), object("b")]);
        let detail = json!({ "bucket": { "name": "drop" }, "object": { "key": "a+b" } });
        let bridged = json!({ "source": "aws.s3", "detail-type": "Object Created", "detail": detail });
        assert_eq!(brought(bridged), [object("a+b")], "here a key is not as in a form");
        assert_eq!(
            brought(json!({ "Records": [s3("a", "ObjectRemoved:Delete")] })),
            [Brought::Nothing("an object was not created")]
        );
        let test = json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "drop" });
        assert_eq!(brought(test), [Brought::Nothing("S3's test message")]);
        assert!(matches!(
            brought(json!({ "Records": [s3("%zz", "ObjectCreated:Put")] }))[..],
            [Brought::Unreadable { .. }]
        ));
    }

    #[test]
    fn what_cannot_be_read_is_kept_as_it_came_and_takes_nothing_along() {
        let records = json!([
            { "eventSource": "aws:sqs", "messageId": "1", "body": "{" },
            { "eventSource": "aws:sqs", "messageId": "2", "body": event().to_string() },
            { "eventSource": "aws:sqs", "messageId": "3" },
            { "eventSource": "aws:kinesis", "kinesis": { "data": "e30=" } },
            null,
            { "eventSource": "aws:sqs", "messageId": "5", "body": "x".repeat(ITEM_BYTES + 1) },
        ]);
        let (answer, items) = read(json!({ "Records": records }));
        assert_eq!((answer, items.len()), (Answer::Batch, 6));
        assert_eq!(items[1].brought, Brought::Event(event()));
        for (n, body) in [(0, "{".to_owned()), (4, "null".to_owned())] {
            let Brought::Unreadable { body: kept, .. } = &items[n].brought else { panic!("{:?}", items[n]) };
            assert_eq!(*kept, body);
        }
        assert!(matches!(items[5].brought, Brought::Unreadable { .. }));
        assert_eq!(brought(json!({ "Records": [] })), [Brought::Nothing("no records")]);
        for odd in [json!(null), json!(7), json!("x"), json!([]), json!({ "Records": 1 })] {
            assert_eq!(brought(odd.clone()), [Brought::Event(odd)], "whoever takes it judges");
        }
    }
}
