//! Weather: faults by chance, the same for the same seed.
//!
//! Each request draws from ChaCha8 keyed by seed and client, at the stream of the client's own ordinal: what other
//! clients do in between changes nothing. At most one fault a request.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::answer::{Answer, Refusal};
use crate::batch::{self, Fate};
use crate::call::{Call, Service};
use crate::fault::Fault;

/// How often what happens to a request. Every rate is a probability for each request; none happens by default.
#[derive(Clone, Debug, PartialEq)]
pub struct Weather {
    /// The same seed and the same requests of a client meet the same faults.
    pub seed: u64,
    /// Throttled, in the service's own words; not carried out.
    pub throttled: f64,
    /// A 500 or a 503; not carried out.
    pub unavailable: f64,
    /// Slow: before it has effect or before it is answered, at most [`Weather::slow_at_most`].
    pub slow: f64,
    /// The longest that a slow request takes.
    pub slow_at_most: Duration,
    /// Never answered, carried out or not; the connection is reset after [`Weather::silent_for`].
    pub silent: f64,
    /// How long a silent connection is kept. A client without a time-out of its own waits that long.
    pub silent_for: Duration,
    /// The connection is reset, and nothing is carried out.
    pub reset: f64,
    /// Carried out, and then the connection is reset.
    pub answer_lost: f64,
    /// For operations that can fail in part: entries of a batch fail or stay unprocessed, RunTask answers with
    /// `failures`.
    pub partial: f64,
    /// A received message becomes visible again at once, and so is delivered twice.
    pub redelivered: f64,
    /// Services of which no answer is lost: what would be lost after its effect is lost before it. A lost answer of SQS
    /// rings twice, or hides a message for its whole visibility: right for a job's life, and too long for a test that
    /// counts messages.
    pub answers: Vec<Service>,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            seed: 0,
            throttled: 0.0,
            unavailable: 0.0,
            slow: 0.0,
            slow_at_most: Duration::from_millis(500),
            silent: 0.0,
            silent_for: Duration::from_secs(5),
            reset: 0.0,
            answer_lost: 0.0,
            partial: 0.0,
            redelivered: 0.0,
            answers: Vec::new(),
        }
    }
}

impl Weather {
    /// Nothing happens by chance.
    pub fn calm() -> Self {
        Self::default()
    }

    /// Everything happens, at rates that a client with six attempts gets through: an attempt fails with a probability of
    /// 7.2 %, so a call fails for good once in seven million.
    pub fn storm(seed: u64) -> Self {
        Self {
            seed,
            throttled: 0.02,
            unavailable: 0.02,
            slow: 0.03,
            silent: 0.002,
            reset: 0.01,
            answer_lost: 0.02,
            partial: 0.05,
            redelivered: 0.01,
            ..Self::default()
        }
    }

    /// What happens to this request, the client's `ordinal`th, with the name under which it is recorded.
    pub(crate) fn draw(&self, call: &Call, ordinal: u64) -> Option<(&'static str, Fault)> {
        let answers = self.answers.contains(&call.service);
        let mut dice = Dice::new(self.seed, &call.client, ordinal);
        let mut point = dice.fraction();
        // The rates lie side by side on the line from 0 to 1; the point meets one of them or none.
        let mut meets = |rate: f64| {
            point -= rate;
            point < 0.0
        };
        if meets(self.throttled) {
            return Some(("throttled", Fault::Answer(Answer::refused(call, &throttled(&call.service)))));
        }
        if meets(self.unavailable) {
            let refusal = unavailable(&call.service, dice.coin());
            return Some(("unavailable", Fault::Answer(Answer::refused(call, &refusal))));
        }
        if meets(self.slow) {
            let late = self.slow_at_most.mul_f64(dice.fraction());
            let (before, after) = if dice.coin() { (late, Duration::ZERO) } else { (Duration::ZERO, late) };
            return Some(("slow", Fault::Late { before, after }));
        }
        if meets(self.silent) {
            return Some(if answers || dice.coin() {
                ("silent before", Fault::HoldBefore(self.silent_for))
            } else {
                ("silent after", Fault::HoldAfter(self.silent_for))
            });
        }
        if meets(self.reset) {
            return Some(("reset", Fault::ResetBefore));
        }
        if meets(self.answer_lost) {
            let reset = ("reset", Fault::ResetBefore);
            return Some(if answers { reset } else { ("answer lost", Fault::ResetAfter) });
        }
        if meets(self.partial) {
            return partial(call, &mut dice).map(|fault| ("partial", fault));
        }
        if meets(self.redelivered) && call.service == Service::Sqs && call.operation == "ReceiveMessage" {
            return Some(("redelivered", Fault::Redeliver));
        }
        None
    }
}

/// The draws of one request.
struct Dice(ChaCha8Rng);

impl Dice {
    fn new(seed: u64, client: &str, ordinal: u64) -> Self {
        let key = Sha256::new().chain_update(seed.to_be_bytes()).chain_update(client).finalize();
        let mut rng = ChaCha8Rng::from_seed(key.into());
        rng.set_stream(ordinal);
        Self(rng)
    }

    /// From 0 to just below 1.
    fn fraction(&mut self) -> f64 {
        // A double holds 53 bits exactly.
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn coin(&mut self) -> bool {
        self.0.next_u32() & 1 == 0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.fraction() * n as f64) as usize
    }
}

/// How the service says that there was too much.
pub(crate) fn throttled(service: &Service) -> Refusal {
    match service {
        Service::AutoScaling | Service::Sts => Refusal::new("Throttling", "Rate exceeded"),
        Service::S3 => Refusal::new("SlowDown", "Please reduce your request rate.").status(503),
        Service::Sqs => Refusal::new("RequestThrottled", "Rate exceeded").status(403),
        Service::DynamoDb | Service::Ecs | Service::Events | Service::Logs | Service::Other(_) => {
            Refusal::new("ThrottlingException", "Rate exceeded")
        }
    }
}

/// How the service says that it is the service's own fault: a 503 where it is busy, else a 500.
fn unavailable(service: &Service, busy: bool) -> Refusal {
    let (internal, overloaded) = match service {
        Service::DynamoDb => ("InternalServerError", "ServiceUnavailable"),
        Service::Ecs => ("ServerException", "ServiceUnavailable"),
        Service::Events => ("InternalException", "ServiceUnavailable"),
        Service::Logs => ("InternalFailure", "ServiceUnavailableException"),
        Service::S3 | Service::Sqs => ("InternalError", "ServiceUnavailable"),
        Service::AutoScaling | Service::Sts | Service::Other(_) => ("InternalFailure", "ServiceUnavailable"),
    };
    if busy {
        Refusal::new(overloaded, "The service is temporarily unable to handle the request.").status(503)
    } else {
        Refusal::new(internal, "We encountered an internal error. Please try again.").status(500)
    }
}

/// A failure in part, for an operation that knows such.
fn partial(call: &Call, dice: &mut Dice) -> Option<Fault> {
    let body = &call.json;
    let entries = body["Entries"].as_array().map_or(0, Vec::len);
    let parted = match (&call.service, call.operation.as_str()) {
        (Service::Sqs, "SendMessageBatch" | "DeleteMessageBatch" | "ChangeMessageVisibilityBatch") if entries > 0 => {
            let certain = dice.below(entries);
            let refusal = Refusal::new("InternalError", "We encountered an internal error.").status(500);
            let mut position = 0;
            batch::part_queue(body, |_| {
                let fails = position == certain || dice.coin();
                position += 1;
                if fails { Fate::Fail(refusal.clone()) } else { Fate::Forward }
            })
        }
        (Service::Events, "PutEvents") if entries > 0 => {
            let certain = dice.below(entries);
            let mut position = 0;
            batch::part_events(body, |_| {
                let fails = position == certain || dice.coin();
                position += 1;
                fails.then_some(("InternalFailure", "Internal failure, please try again."))
            })
        }
        (Service::DynamoDb, "BatchGetItem" | "BatchWriteItem") => batch::part_items(body, || dice.coin()),
        (Service::Ecs, "RunTask") => {
            let reason = [
                "RESOURCE:ENI",
                "Capacity is unavailable at this time. Please try again later or in a \
                different availability zone",
            ][dice.below(2)];
            let arn = "arn:aws:ecs:us-east-1:000000000000:container-instance/fa017000";
            let answer = json!({"tasks": [], "failures": [{"arn": arn, "reason": reason}]});
            return Some(Fault::Answer(Answer::json(call, &answer)));
        }
        _ => None,
    };
    parted.map(|(rest, decided)| Fault::Part(rest, decided))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::call;

    fn put() -> Call {
        call(Service::DynamoDb, "PutItem", json!({}))
    }

    fn names(weather: &Weather, call: &Call, n: u64) -> Vec<Option<&'static str>> {
        (1..=n).map(|ordinal| weather.draw(call, ordinal).map(|(name, _)| name)).collect()
    }

    #[test]
    fn the_same_seed_and_client_meet_the_same_weather() {
        let storm = Weather::storm(1);
        assert_eq!(names(&storm, &put(), 500), names(&storm, &put(), 500));
        assert_ne!(names(&storm, &put(), 500), names(&Weather::storm(2), &put(), 500));
        let another = Call { client: "another".to_owned(), ..put() };
        assert_ne!(names(&storm, &put(), 500), names(&storm, &another, 500));
    }

    #[test]
    fn the_draws_of_a_seed_stay_what_they_are() {
        let drawn: Vec<String> = names(&Weather::storm(1), &put(), 300)
            .into_iter()
            .enumerate()
            .filter_map(|(place, name)| Some(format!("{}: {}", place + 1, name?)))
            .collect();
        insta::assert_snapshot!(drawn.join("\n"));
    }

    #[test]
    fn calm_weather_does_nothing() {
        assert!(names(&Weather::calm(), &put(), 1000).iter().all(Option::is_none));
    }

    #[test]
    fn a_storm_lets_six_attempts_through() {
        let storm = Weather::storm(3);
        let fails = |ordinal: u64| {
            !matches!(storm.draw(&put(), ordinal), None | Some((_, Fault::Late { .. } | Fault::Redeliver)))
        };
        let runs = (1..20_000_u64).fold((0, 0), |(longest, run): (u32, u32), ordinal| {
            let run = if fails(ordinal) { run + 1 } else { 0 };
            (longest.max(run), run)
        });
        assert!((2..6).contains(&runs.0), "the longest run of failures was {}", runs.0);
    }

    #[test]
    fn every_fault_happens_about_as_often_as_its_rate_says() {
        let storm = Weather::storm(4);
        let lost = names(&storm, &put(), 50_000).iter().filter(|name| **name == Some("answer lost")).count();
        assert!((900..1100).contains(&lost), "{lost} of 50,000 answers were lost");
    }

    #[test]
    fn a_partial_failure_leaves_at_least_one_entry_out() {
        let weather = Weather { partial: 1.0, ..Weather::calm() };
        let batch = call(Service::Sqs, "SendMessageBatch", json!({"Entries": [{"Id": "a"}, {"Id": "b"}]}));
        for ordinal in 1..50 {
            assert!(matches!(weather.draw(&batch, ordinal), Some(("partial", Fault::Part(..)))));
        }
        assert!(weather.draw(&put(), 1).is_none());
    }

    #[test]
    fn a_task_that_finds_no_room_is_a_success_with_failures() {
        let weather = Weather { partial: 1.0, ..Weather::calm() };
        let Some((_, Fault::Answer(answer))) = weather.draw(&call(Service::Ecs, "RunTask", json!({})), 1) else {
            panic!("RunTask was not answered");
        };
        assert_eq!((answer.status.as_u16(), answer.value()["tasks"].clone()), (200, json!([])));
        assert!(answer.value()["failures"][0]["reason"].is_string());
    }

    #[test]
    fn only_a_receive_is_redelivered() {
        let weather = Weather { redelivered: 1.0, ..Weather::calm() };
        let receive = call(Service::Sqs, "ReceiveMessage", json!({}));
        assert!(matches!(weather.draw(&receive, 1), Some(("redelivered", Fault::Redeliver))));
        assert!(weather.draw(&put(), 1).is_none());
    }
}
