//! The script: faults that a test writes down, met by the requests it names.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::answer::{Answer, Refusal};
use crate::batch::{self, Fate};
use crate::call::{Call, Service};
use crate::fault::Fault;

/// Which requests: every field left out matches all.
#[derive(Clone, Debug, Default)]
pub struct When {
    client: Option<String>,
    service: Option<Service>,
    operation: Option<String>,
    containing: Option<String>,
    which: Which,
}

/// Which of the requests that match.
#[derive(Clone, Copy, Debug, Default)]
enum Which {
    #[default]
    Every,
    Nth(u64),
    First(u64),
    Once,
}

impl When {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests for this operation of this service: `When::call(Service::Sqs, "SendMessage")`.
    pub fn call(service: Service, operation: &str) -> Self {
        Self { service: Some(service), operation: Some(operation.to_owned()), ..Self::default() }
    }

    /// Only those that this access key id signed.
    pub fn client(self, client: &str) -> Self {
        Self { client: Some(client.to_owned()), ..self }
    }

    /// Only those to this service.
    pub fn service(self, service: Service) -> Self {
        Self { service: Some(service), ..self }
    }

    /// Only those whose body has this text in it.
    pub fn containing(self, text: &str) -> Self {
        Self { containing: Some(text.to_owned()), ..self }
    }

    /// Only the nth that matches, from 1, counted since the rule was made.
    pub fn nth(self, n: u64) -> Self {
        Self { which: Which::Nth(n), ..self }
    }

    /// Only the first `n` that match.
    pub fn first(self, n: u64) -> Self {
        Self { which: Which::First(n), ..self }
    }

    /// Only the first for which no older line is due: lines of the same requests made with it are met in turn.
    pub fn once(self) -> Self {
        Self { which: Which::Once, ..self }
    }

    fn matches(&self, call: &Call) -> bool {
        let contains = |text: &String| call.body.windows(text.len().max(1)).any(|window| window == text.as_bytes());
        self.client.as_ref().is_none_or(|client| *client == call.client)
            && self.service.as_ref().is_none_or(|service| *service == call.service)
            && self.operation.as_ref().is_none_or(|operation| *operation == call.operation)
            && self.containing.as_ref().is_none_or(contains)
    }
}

/// What happens to them.
#[derive(Clone, Debug)]
pub enum Action {
    /// An error of AWS in the service's wire format; not carried out.
    Fail {
        /// The error code: `AccessDeniedException`.
        code: String,
        /// The HTTP status.
        status: u16,
        /// The message.
        message: String,
    },
    /// Of a batch of SQS or EventBridge these entries fail, and the others are carried out: place from 0, error code,
    /// whether it is the sender's fault. To any other request nothing happens.
    FailEntries(Vec<(usize, &'static str, bool)>),
    /// A success with this body; not carried out, and no rule is asked. [`Script::play`] asks them.
    Replace(String),
    /// Carried out so much later: until then it is in flight, as in a slow service.
    Delay(Duration),
    /// Carried out at once, answered so much later.
    DelayAnswer(Duration),
    /// The connection is reset; not carried out.
    ResetBefore,
    /// Carried out, then the connection is reset.
    ResetAfter,
    /// Neither carried out nor answered.
    HoldBefore,
    /// Carried out and never answered.
    HoldAfter,
}

impl Action {
    /// An error with status 400.
    pub fn fail(code: &str, message: &str) -> Self {
        Self::Fail { code: code.to_owned(), status: 400, message: message.to_owned() }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Fail { .. } => "fail",
            Self::FailEntries(_) => "fail entries",
            Self::Replace(_) => "replace",
            Self::Delay(_) => "delay",
            Self::DelayAnswer(_) => "delay answer",
            Self::ResetBefore => "reset before",
            Self::ResetAfter => "reset after",
            Self::HoldBefore => "hold before",
            Self::HoldAfter => "hold after",
        }
    }

    fn fault(&self, call: &Call, hold: Duration) -> Option<Fault> {
        Some(match self {
            Self::Fail { code, status, message } => {
                Fault::Answer(Answer::refused(call, &Refusal::new(code, message.as_str()).status(*status)))
            }
            Self::FailEntries(entries) => fail_entries(entries, call)?,
            Self::Replace(body) => Fault::Answer(Answer::plain(call, body.clone())),
            Self::Delay(before) => Fault::Late { before: *before, after: Duration::ZERO },
            Self::DelayAnswer(after) => Fault::Late { before: Duration::ZERO, after: *after },
            Self::ResetBefore => Fault::ResetBefore,
            Self::ResetAfter => Fault::ResetAfter,
            Self::HoldBefore => Fault::HoldBefore(hold),
            Self::HoldAfter => Fault::HoldAfter(hold),
        })
    }
}

/// The batch without these entries, which are answered as failed; nothing where it has none of them.
fn fail_entries(entries: &[(usize, &'static str, bool)], call: &Call) -> Option<Fault> {
    const MESSAGE: &str = "failed by the script";
    let mut places = 0..;
    let mut failing = || {
        let place = places.next()?;
        entries.iter().find(|(failing, ..)| *failing == place)
    };
    let (rest, decided) = match &call.service {
        Service::Sqs => batch::part_queue(&call.json, |_| match failing() {
            Some((_, code, true)) => Fate::Fail(Refusal::new(code, MESSAGE)),
            Some((_, code, false)) => Fate::Fail(Refusal::new(code, MESSAGE).status(500)),
            None => Fate::Forward,
        }),
        Service::Events => batch::part_events(&call.json, |_| failing().map(|(_, code, _)| (*code, MESSAGE))),
        _ => None,
    }?;
    Some(Fault::Part(rest, decided))
}

/// The script of a proxy. Clones are the same script.
#[derive(Clone, Debug, Default)]
pub struct Script(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    entries: Vec<Entry>,
    plays: Vec<Entry>,
    made: u64,
    cut: HashSet<String>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    when: When,
    action: Action,
    met: u64,
    acted: bool,
    hits: watch::Sender<u64>,
}

/// A line of the script. Dropping it changes nothing.
#[derive(Debug)]
pub struct Rule {
    id: u64,
    hits: watch::Receiver<u64>,
    book: Arc<Mutex<Book>>,
}

/// What the script says about a request, and whom to tell when it was done.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) name: &'static str,
    pub(crate) fault: Fault,
    hits: Option<watch::Sender<u64>>,
}

impl Scripted {
    /// It was done: whoever waits for it is woken.
    pub(crate) fn done(&self) {
        if let Some(hits) = &self.hits {
            hits.send_modify(|hits| *hits += 1);
        }
    }
}

impl Script {
    /// From now on this happens to these. Every line counts every request that it matches; of the lines that are due, the
    /// oldest acts.
    pub fn on(&self, when: When, action: Action) -> Rule {
        self.write(when, action, |book| &mut book.entries)
    }

    /// From now on this is what the service answers to these, for what an emulator cannot do or had better not: weather,
    /// rules and other lines of the script come before it, and a request that they let through counts as forwarded. Only
    /// those are counted. Of the lines that are due, the oldest is played.
    pub fn play(&self, when: When, body: impl Into<String>) -> Rule {
        self.write(when, Action::Replace(body.into()), |book| &mut book.plays)
    }

    fn write(&self, when: When, action: Action, place: impl FnOnce(&mut Book) -> &mut Vec<Entry>) -> Rule {
        let mut book = self.book();
        book.made += 1;
        let (sender, hits) = watch::channel(0);
        let id = book.made;
        place(&mut book).push(Entry { id, when, action, met: 0, acted: false, hits: sender });
        drop(book);
        Rule { id, hits, book: Arc::clone(&self.0) }
    }

    /// From now on every request of this client meets a reset and is not carried out, as if it ran on a machine that was
    /// cut off.
    pub fn cut(&self, client: &str) {
        self.book().cut.insert(client.to_owned());
    }

    /// The client is heard again.
    pub fn mend(&self, client: &str) {
        self.book().cut.remove(client);
    }

    /// Forgets every line and every cut.
    pub fn clear(&self) {
        let mut book = self.book();
        book.entries.clear();
        book.plays.clear();
        book.cut.clear();
    }

    /// What happens to this request. A hold ends after `hold`.
    pub(crate) fn decide(&self, call: &Call, hold: Duration) -> Option<Scripted> {
        let mut book = self.book();
        if book.cut.contains(&call.client) {
            return Some(Scripted { name: "cut", fault: Fault::ResetBefore, hits: None });
        }
        due(&mut book.entries, call, hold)
    }

    /// What the service is played to answer to this request, which has come as far as to it.
    pub(crate) fn played(&self, call: &Call) -> Option<Answer> {
        let played = due(&mut self.book().plays, call, Duration::ZERO)?;
        played.done();
        match played.fault {
            Fault::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request in every line that matches it, and lets the oldest of those that are due act.
fn due(entries: &mut [Entry], call: &Call, hold: Duration) -> Option<Scripted> {
    let mut due = None;
    for entry in entries.iter_mut().filter(|entry| entry.when.matches(call)) {
        entry.met += 1;
        let is_due = match entry.when.which {
            Which::Every => true,
            Which::Nth(n) => entry.met == n,
            Which::First(n) => entry.met <= n,
            Which::Once => !entry.acted,
        };
        if is_due && due.is_none() {
            let (name, fault) = (entry.action.name(), entry.action.fault(call, hold));
            due = fault.map(|fault| Scripted { name, fault, hits: Some(entry.hits.clone()) });
            entry.acted |= due.is_some();
        }
    }
    due
}

impl Rule {
    /// How often it was done so far. A hold or a reset after the effect counts once the service has answered.
    pub fn hits(&self) -> u64 {
        *self.hits.borrow()
    }

    /// Waits until it was done at least once; for ever if it was lifted before.
    pub async fn reached(&self) {
        self.reached_times(1).await;
    }

    /// Waits until it was done so often.
    pub async fn reached_times(&self, n: u64) {
        let mut hits = self.hits.clone();
        let gone = hits.wait_for(|hits| *hits >= n).await.is_err();
        if gone {
            std::future::pending().await
        }
    }

    /// Takes the line out of the script.
    pub fn lift(&self) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.entries.retain(|entry| entry.id != self.id);
        book.plays.retain(|entry| entry.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::call;
    use serde_json::{Value, json};

    const HOLD: Duration = Duration::from_secs(1);

    fn put() -> Call {
        call(Service::DynamoDb, "PutItem", json!({"TableName": "yard"}))
    }

    fn named(script: &Script, call: &Call) -> Option<&'static str> {
        script.decide(call, HOLD).map(|scripted| scripted.name)
    }

    #[test]
    fn the_nth_of_a_kind_is_counted_from_one() {
        let script = Script::default();
        script.on(When::call(Service::DynamoDb, "PutItem").nth(2), Action::ResetBefore);
        let get = call(Service::DynamoDb, "GetItem", json!({}));
        let met = [named(&script, &put()), named(&script, &get), named(&script, &put()), named(&script, &put())];
        assert_eq!(met, [None, None, Some("reset before"), None]);
    }

    #[test]
    fn the_first_few_of_a_kind_and_no_more() {
        let script = Script::default();
        script.on(When::any().first(2), Action::fail("LimitExceeded", "x"));
        assert_eq!([(); 3].map(|()| named(&script, &put())), [Some("fail"), Some("fail"), None]);
    }

    #[test]
    fn client_service_and_body_must_all_match() {
        let script = Script::default();
        let when = When::any().client("tester").service(Service::DynamoDb).containing("yard");
        script.on(when, Action::HoldBefore);
        assert_eq!(named(&script, &put()), Some("hold before"));
        assert_eq!(named(&script, &Call { client: "x".to_owned(), ..put() }), None);
        assert_eq!(named(&script, &put().with_json(json!({"TableName": "other"}))), None);
        assert_eq!(named(&script, &call(Service::Sqs, "SendMessage", json!({"x": "yard"}))), None);
    }

    #[test]
    fn of_two_lines_that_are_due_the_older_acts_and_both_count() {
        let script = Script::default();
        script.on(When::any().nth(1), Action::ResetBefore);
        script.on(When::any().nth(2), Action::ResetAfter);
        assert_eq!([(); 3].map(|()| named(&script, &put())), [Some("reset before"), Some("reset after"), None]);
    }

    #[test]
    fn lines_that_act_once_are_met_in_turn() {
        let script = Script::default();
        let once = || When::call(Service::DynamoDb, "PutItem").once();
        script.on(once(), Action::ResetBefore);
        script.on(once(), Action::ResetAfter);
        assert_eq!([(); 3].map(|()| named(&script, &put())), [Some("reset before"), Some("reset after"), None]);
        script.on(once(), Action::HoldAfter);
        assert_eq!([(); 2].map(|()| named(&script, &put())), [Some("hold after"), None]);
    }

    #[test]
    fn entries_fail_by_their_places_and_the_rest_of_the_batch_goes_on() {
        let fail = Action::FailEntries(vec![(0, "InternalError", false), (2, "InvalidMessageContents", true)]);
        let body = json!({"QueueUrl": "q", "Entries": [{"Id": "a"}, {"Id": "b"}, {"Id": "c"}]});
        let send = call(Service::Sqs, "SendMessageBatch", body);
        let Some(Fault::Part(Some(rest), decided)) = fail.fault(&send, HOLD) else { panic!("not parted") };
        assert_eq!(rest["Entries"], json!([{"Id": "b"}]));
        let failed = decided.alone(&send).value()["Failed"].take();
        let told = |n: usize| (failed[n]["Id"].clone(), failed[n]["Code"].clone(), failed[n]["SenderFault"].clone());
        assert_eq!(told(0), ("a".into(), "InternalError".into(), false.into()));
        assert_eq!(told(1), ("c".into(), "InvalidMessageContents".into(), true.into()));
        let events = call(Service::Events, "PutEvents", json!({"Entries": [{"Source": "x"}]}));
        let Some(Fault::Part(None, decided)) = fail.fault(&events, HOLD) else { panic!("not parted") };
        assert_eq!(decided.alone(&events).value()["Entries"][0]["ErrorCode"], "InternalError");
    }

    #[test]
    fn what_has_no_such_entries_is_left_alone_and_the_line_waits() {
        let script = Script::default();
        script.on(When::any().once(), Action::FailEntries(vec![(1, "InternalError", false)]));
        let of = |entries: Value| call(Service::Sqs, "DeleteMessageBatch", json!({"Entries": entries}));
        assert_eq!(named(&script, &put()), None);
        assert_eq!(named(&script, &of(json!([{"Id": "a"}]))), None);
        assert_eq!(named(&script, &of(json!([{"Id": "a"}, {"Id": "b"}]))), Some("fail entries"));
    }

    #[test]
    fn a_cut_client_is_heard_again_when_mended() {
        let script = Script::default();
        script.cut("tester");
        assert_eq!(named(&script, &put()), Some("cut"));
        script.mend("tester");
        assert_eq!(named(&script, &put()), None);
    }

    #[test]
    fn a_lifted_line_acts_no_more() {
        let script = Script::default();
        let rule = script.on(When::any(), Action::ResetBefore);
        rule.lift();
        assert_eq!(named(&script, &put()), None);
    }

    #[test]
    fn a_line_counts_as_reached_only_when_it_was_done() {
        let script = Script::default();
        let rule = script.on(When::any(), Action::HoldAfter);
        let scripted = script.decide(&put(), HOLD).unwrap();
        assert_eq!(rule.hits(), 0);
        scripted.done();
        futures_lite::future::block_on(rule.reached());
        assert_eq!(rule.hits(), 1);
    }

    #[test]
    fn a_failure_speaks_the_language_of_the_service_it_hits() {
        let script = Script::default();
        script.on(When::any(), Action::fail("AccessDeniedException", "no"));
        for service in [Service::Sqs, Service::S3, Service::AutoScaling, Service::DynamoDb] {
            let Fault::Answer(answer) = script.decide(&call(service, "Any", json!({})), HOLD).unwrap().fault else {
                panic!("not answered");
            };
            assert_eq!(answer.error_code().as_deref(), Some("AccessDeniedException"));
        }
    }
}
