//! The one road that every request takes: script, weather, rules, the service, records.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::http::request::Parts;

use super::upstream::unreachable;
use super::{Outcome, Shared, lock};
use crate::answer::Answer;
use crate::call::Call;
use crate::fault::Fault;
use crate::price::nanodollars;
use crate::records::{Done, Record};
use crate::rules::{Units, Verdict};
use crate::script::Scripted;

/// Questions about one request at most: a page of a hundred groups each.
const QUESTIONS: usize = 50;

/// What the service, or a rule in its stead, made of a request.
struct Carried {
    answer: Answer,
    done: Done,
    nanodollars: u64,
}

impl Shared {
    /// Carries one request to its end.
    pub(super) async fn handle(&self, parts: &Parts, body: Bytes) -> Outcome {
        let came = self.now();
        let ordinal = self.ordinals.fetch_add(1, Ordering::SeqCst) + 1;
        let call = Call::read(ordinal, &parts.method, &parts.uri, &parts.headers, body);
        let scripted = self.script.decide(&call, self.hold_for);
        let drawn = self.draw(&call).filter(|_| scripted.is_none());
        let (done, fault) = match (&scripted, drawn) {
            (Some(scripted), _) => (Done::Scripted(scripted.name), Some(scripted.fault.clone())),
            (None, Some((name, fault))) => (Done::Weathered(name), Some(fault)),
            (None, None) => (Done::Forwarded, None),
        };
        let reached = || scripted.iter().for_each(Scripted::done);
        let unheard = |answer: Option<&Answer>| {
            self.record(&call, came, answer, done, false, 0);
            reached();
        };
        let (mut part, mut decided, mut late) = (None, None, (Duration::ZERO, Duration::ZERO));
        match &fault {
            Some(Fault::Answer(answer)) => {
                unheard(Some(answer));
                return Outcome::Answer(answer.clone());
            }
            Some(Fault::ResetBefore) => {
                unheard(None);
                return Outcome::Reset;
            }
            Some(Fault::HoldBefore(hold)) => {
                unheard(None);
                return Outcome::Park(*hold);
            }
            Some(Fault::Part(None, decided)) => {
                let answer = decided.clone().alone(&call);
                unheard(Some(&answer));
                return Outcome::Answer(answer);
            }
            Some(Fault::Part(Some(rest), some)) => {
                (part, decided) = (Some(call.with_json(rest.clone())), Some(some.clone()));
            }
            Some(Fault::Late { before, after }) => late = (*before, *after),
            Some(Fault::ResetAfter | Fault::HoldAfter(_) | Fault::Redeliver) | None => {}
        }
        let begun = || {
            if late.0 > Duration::ZERO {
                reached()
            }
        };
        let is_changed = decided.is_some();
        let Carried { answer, done: carried, nanodollars } =
            self.carry_out(parts, part.as_ref().unwrap_or(&call), is_changed, late.0, begun).await;
        let forwarded = carried == Done::Forwarded;
        let done = if fault.is_some() { done } else { carried };
        let answer = match decided {
            Some(decided) => decided.complete(answer),
            None => answer,
        };
        let given = |answer: Option<&Answer>| self.record(&call, came, answer, done, forwarded, nanodollars);
        match fault {
            Some(Fault::ResetAfter) => {
                given(None);
                reached();
                Outcome::Reset
            }
            Some(Fault::HoldAfter(hold)) => {
                given(None);
                reached();
                Outcome::Park(hold)
            }
            Some(Fault::Redeliver) => {
                let question = lock(&self.rules).redeliver(&call, &answer, self.now());
                if let Some(question) = question {
                    self.upstream.ask(parts, &call, &question).await;
                }
                given(Some(&answer));
                Outcome::Answer(answer)
            }
            Some(Fault::Part(..)) => {
                given(Some(&answer));
                reached();
                Outcome::Answer(answer)
            }
            _ => {
                if late.1 > Duration::ZERO {
                    reached();
                    tokio::time::sleep(late.1).await;
                }
                given(Some(&answer));
                Outcome::Answer(answer)
            }
        }
    }

    /// Has the rules judge the request and, if they let it, the service carry it out, `late` after it `begun`.
    async fn carry_out(
        &self,
        parts: &Parts,
        call: &Call,
        is_changed: bool,
        late: Duration,
        begun: impl FnOnce(),
    ) -> Carried {
        let (mut told, mut alone) = (Vec::new(), None);
        let verdict = loop {
            let verdict = lock(&self.rules).before(call, &told, self.now());
            let question = match verdict {
                Verdict::Ask(question) if told.len() < QUESTIONS => question,
                Verdict::Ask(_) => break Verdict::Forward,
                verdict => break verdict,
            };
            if question.alone && alone.is_none() {
                alone = Some(self.alone.lock().await);
            }
            told.push(self.upstream.ask(parts, call, &question).await);
        };
        let ruled = |answer: Answer| {
            let nanodollars = nanodollars(call, &answer, Units::default());
            Carried { answer, done: Done::Ruled, nanodollars }
        };
        let (part, decided) = match verdict {
            Verdict::Answer(answer) => return ruled(answer),
            Verdict::Wait(wait, answer) => {
                tokio::time::sleep(wait).await;
                return ruled(answer);
            }
            Verdict::Part(None, decided) => return ruled(decided.alone(call)),
            Verdict::Part(Some(rest), decided) => (Some(call.with_json(rest)), Some(decided)),
            Verdict::Forward | Verdict::Ask(_) => (None, None),
        };
        begun();
        tokio::time::sleep(late).await;
        let is_changed = is_changed || part.is_some();
        let sent = part.as_ref().unwrap_or(call);
        let turn = if sent.is_conditional_write() { Some(self.writing.lock().await) } else { None };
        let forwarded = match self.script.played(sent) {
            Some(answer) => Ok(answer),
            None => self.upstream.forward(parts, sent, is_changed).await,
        };
        drop(turn);
        match forwarded {
            Ok(answer) => {
                let (answer, units) = lock(&self.rules).after(sent, answer, self.now());
                let nanodollars = nanodollars(sent, &answer, units);
                let answer = match decided {
                    Some(decided) => decided.complete(answer),
                    None => answer,
                };
                Carried { answer, done: Done::Forwarded, nanodollars }
            }
            Err(why) => {
                lock(&self.rules).gone(sent);
                let answer = Answer::refused(call, &unreachable(&why));
                Carried { answer, done: Done::Unreachable, nanodollars: 0 }
            }
        }
    }

    fn draw(&self, call: &Call) -> Option<(&'static str, Fault)> {
        let place = {
            let mut places = lock(&self.places);
            let place = places.entry(call.client.clone()).or_default();
            *place += 1;
            *place
        };
        lock(&self.weather).draw(call, place)
    }

    fn record(
        &self,
        call: &Call,
        came: Duration,
        answer: Option<&Answer>,
        done: Done,
        forwarded: bool,
        nanodollars: u64,
    ) {
        self.records.push(Record {
            ordinal: call.ordinal,
            client: call.client.clone(),
            service: call.service.clone(),
            operation: call.operation.clone(),
            at: came,
            took: self.now().saturating_sub(came),
            bytes_in: call.body.len() as u64,
            bytes_out: answer.map_or(0, |answer| answer.body.len()) as u64,
            status: answer.map(|answer| answer.status.as_u16()),
            error: answer.and_then(Answer::error_code),
            done,
            forwarded,
            nanodollars,
            request: self.keep_requests.then(|| call.parameters()),
        });
    }
}
