//! ECS: idempotency tokens, limits and launch rates of RunTask; filters of ListTasks.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::Verdict;
use super::bucket::{Bucket, Rate};
use crate::answer::{Answer, Refusal};
use crate::call::{Call, fingerprint};
use crate::weather::throttled;

/// Limits of RunTask.
/// <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html>,
/// <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/throttling.html>
#[derive(Clone, Debug)]
pub struct EcsLimits {
    /// Characters of a client token.
    pub token_chars: usize,
    /// How long a client token is remembered.
    pub token_lives: Duration,
    /// Tasks in one call.
    pub count: u64,
    /// Characters of `overrides` as JSON.
    pub overrides_chars: usize,
    /// Characters of `startedBy`.
    pub started_by_chars: usize,
    /// Calls of RunTask.
    pub calls: Rate,
    /// Tasks launched on Fargate, and apart from them those on Fargate Spot.
    pub launches: Rate,
}

impl Default for EcsLimits {
    fn default() -> Self {
        Self {
            token_chars: 64,
            token_lives: Duration::from_secs(24 * 3600),
            count: 10,
            overrides_chars: 8192,
            started_by_chars: 128,
            // "20 calls per second (burst and sustained)".
            calls: Rate { burst: 20.0, per_second: 20.0 },
            launches: Rate { burst: 100.0, per_second: 20.0 },
        }
    }
}

/// What is remembered of RunTask calls.
#[derive(Debug, Default)]
pub(super) struct State {
    tokens: HashMap<String, Token>,
    /// Old tokens are swept out when there are so many: seldom enough to cost nothing.
    sweep_at: usize,
    calls: Bucket,
    on_demand: Bucket,
    spot: Bucket,
}

#[derive(Debug)]
struct Token {
    at: Duration,
    request: [u8; 32],
    /// None while the first call with it is under way.
    answer: Option<Answer>,
}

impl State {
    pub(super) fn before(&mut self, limits: &EcsLimits, call: &Call, now: Duration) -> Verdict {
        match call.operation.as_str() {
            "RunTask" => self.run(limits, call, now),
            "ListTasks" => Verdict::of(call, list_refusal(call)),
            _ => Verdict::Forward,
        }
    }

    fn run(&mut self, limits: &EcsLimits, call: &Call, now: Duration) -> Verdict {
        if !self.calls.take(limits.calls, 1.0, now) {
            return Verdict::of(call, Some(throttled(&call.service)));
        }
        if let Some(refusal) = run_refusal(limits, call) {
            return Verdict::of(call, Some(refusal));
        }
        let lives = |token: &Token| now.saturating_sub(token.at) < limits.token_lives;
        if self.tokens.len() >= self.sweep_at {
            self.tokens.retain(|_, token| lives(token));
            self.sweep_at = self.tokens.len() * 2 + 1000;
        }
        let request = parameters(&call.json);
        let known = call.text("clientToken").and_then(|token| self.tokens.get(token));
        if let Some(token) = known.filter(|token| lives(token)) {
            return Verdict::Answer(token.again(call, &request));
        }
        let count = call.json["count"].as_f64().unwrap_or(1.0);
        let bucket = if is_spot(&call.json) { &mut self.spot } else { &mut self.on_demand };
        if is_fargate(&call.json) && !bucket.take(limits.launches, count, now) {
            return Verdict::of(call, Some(throttled(&call.service)));
        }
        if let Some(token) = call.text("clientToken") {
            self.tokens.insert(token.to_owned(), Token { at: now, request, answer: None });
        }
        Verdict::Forward
    }

    pub(super) fn after(&mut self, call: &Call, answer: &Answer, now: Duration) {
        if call.operation != "RunTask" {
            return;
        }
        // Only a call that launched something binds its token: a retry after `failures` may launch.
        let launched = answer.is_ok() && answer.value()["tasks"].as_array().is_some_and(|tasks| !tasks.is_empty());
        if !launched {
            return self.gone(call);
        }
        if let Some(token) = call.text("clientToken").and_then(|token| self.tokens.get_mut(token)) {
            *token = Token { at: now, request: token.request, answer: Some(answer.clone()) };
        }
    }

    pub(super) fn gone(&mut self, call: &Call) {
        if call.operation == "RunTask"
            && let Some(token) = call.text("clientToken")
        {
            self.tokens.remove(token);
        }
    }
}

impl Token {
    /// The answer to another call with this token.
    fn again(&self, call: &Call, request: &[u8; 32]) -> Answer {
        let Some(answer) = &self.answer else {
            // What ECS does meanwhile is not documented; an error that a client retries leads to the first one's answer.
            let busy = Refusal::new("ServerException", "A request with this client token is in progress.").status(500);
            return Answer::refused(call, &busy);
        };
        if self.request == *request {
            return answer.clone();
        }
        let tasks = answer.value()["tasks"].take();
        let arns: Vec<&Value> = tasks.as_array().into_iter().flatten().map(|task| &task["taskArn"]).collect();
        let message = "The client token is already in use with a different RunTask request.";
        Answer::refused(call, &Refusal::new("ConflictException", message).with("resourceIds", json!(arns)))
    }
}

/// What must be the same for the token to stand for it.
fn parameters(request: &Value) -> [u8; 32] {
    let mut request = request.clone();
    if let Some(fields) = request.as_object_mut() {
        fields.remove("clientToken");
    }
    fingerprint(&request)
}

fn is_fargate(request: &Value) -> bool {
    !matches!(request["launchType"].as_str(), Some("EC2" | "EXTERNAL"))
}

fn is_spot(request: &Value) -> bool {
    let strategy = request["capacityProviderStrategy"].as_array().into_iter().flatten();
    strategy.into_iter().any(|item| item["capacityProvider"] == "FARGATE_SPOT")
}

fn run_refusal(limits: &EcsLimits, call: &Call) -> Option<Refusal> {
    let request = &call.json;
    let invalid = |message: String| Some(Refusal::new("InvalidParameterException", message));
    let in_range =
        |token: &str| token.len() <= limits.token_chars && token.bytes().all(|byte| (33..=126).contains(&byte));
    if call.text("clientToken").is_some_and(|token| token.is_empty() || !in_range(token)) {
        return invalid(format!(
            "The client token can be up to {} ASCII characters in the range of 33-126 (inclusive).",
            limits.token_chars
        ));
    }
    let count = request.get("count").filter(|count| !count.is_null());
    if count.is_some_and(|count| count.as_u64().is_none_or(|count| !(1..=limits.count).contains(&count))) {
        return invalid(format!("Count must be between 1 and {}.", limits.count));
    }
    if request.get("overrides").is_some_and(|overrides| overrides.to_string().chars().count() > limits.overrides_chars)
    {
        return invalid(format!("Container Overrides length must be at most {}", limits.overrides_chars));
    }
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '/' | '_');
    if call.text("startedBy").is_some_and(|by| by.len() > limits.started_by_chars || !by.chars().all(is_allowed)) {
        return invalid(format!(
            "The startedBy value can be up to {} letters (uppercase and lowercase), numbers, hyphens (-), forward slash \
             (/), and underscores (_).",
            limits.started_by_chars
        ));
    }
    let has_strategy = request["capacityProviderStrategy"].as_array().is_some_and(|strategy| !strategy.is_empty());
    if has_strategy && request["launchType"].is_string() {
        return invalid(
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again."
                .to_owned(),
        );
    }
    None
}

/// `startedBy` wants to be the only filter. `desiredStatus` is let through beside it: it has a default, so it is always
/// there, and clients in production send it.
fn list_refusal(call: &Call) -> Option<Refusal> {
    let others = ["containerInstance", "family", "launchType", "serviceName"];
    let both = call.json["startedBy"].is_string() && others.iter().any(|other| call.json[*other].is_string());
    both.then(|| Refusal::new("InvalidParameterException", "startedBy must be the only filter that is specified."))
}

#[cfg(test)]
mod tests;
