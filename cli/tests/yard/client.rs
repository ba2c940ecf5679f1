//! Talks to a yard that may be gone at any moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use ureq::{Agent, Body, http};

/// Where the yard is open now. Ports change from start to start.
#[derive(Default)]
pub(crate) struct Door(Mutex<(String, String)>);

impl Door {
    pub(crate) fn open(&self, url: String, token: String) {
        *self.0.lock().unwrap() = (url, token);
    }

    fn get(&self) -> (String, String) {
        self.0.lock().unwrap().clone()
    }
}

/// An answer: whatever its status, it came from a yard.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// A client with connections of its own.
pub(crate) struct Client {
    door: Arc<Door>,
    agent: Agent,
}

fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(40)));
    config.build().into()
}

/// Whether a yard answers there.
pub(crate) fn is_healthy(url: &str) -> bool {
    agent().get(format!("{url}/health")).call().is_ok_and(|answer| answer.status() == 200)
}

impl Client {
    pub(crate) fn new(door: Arc<Door>) -> Self {
        Self { door, agent: agent() }
    }

    /// GET, which must be answered.
    pub(crate) fn get(&self, path: &str) -> Value {
        let (url, token) = self.door.get();
        let called = self.agent.get(format!("{url}{path}")).header("authorization", format!("Bearer {token}")).call();
        let answer = read(called).unwrap_or_else(|error| panic!("GET {path}: {error}"));
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
        answer.body
    }

    /// POST, which may fail with the yard.
    pub(crate) fn try_post(&self, path: &str, key: Option<&str>, body: &Value) -> Result<Answer, ureq::Error> {
        let (url, token) = self.door.get();
        let mut request = self.agent.post(format!("{url}{path}")).header("authorization", format!("Bearer {token}"));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        read(request.send_json(body))
    }

    /// Submits under a key, as often as it takes until the yard has answered that the job is accepted: the job's id,
    /// and how many tries that took.
    pub(crate) fn submit(&self, key: &str, body: &Value) -> (String, u32) {
        for tried in 1..20_000 {
            match self.try_post("/v1/jobs", Some(key), body) {
                Ok(Answer { status: 200 | 202, body }) => return (id_of(&body), tried),
                // 503: it closes, or its disk is busy. 401: the port is another yard's by now.
                Ok(Answer { status: 503 | 401, .. }) | Err(_) => std::thread::sleep(Duration::from_millis(5)),
                Ok(answer) => panic!("{key}: refused: {answer:?}"),
            }
        }
        panic!("{key}: never answered")
    }

    /// The job now.
    pub(crate) fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}"))
    }

    /// What happened to the job, oldest first.
    pub(crate) fn timeline(&self, id: &str) -> Vec<Value> {
        self.get(&format!("/v1/jobs/{id}/timeline"))["timeline"].as_array().expect("a timeline").clone()
    }

    /// Every job that `filter` (a query) lets through, by id, page after page.
    pub(crate) fn jobs(&self, filter: &str) -> BTreeMap<String, Value> {
        let mut jobs = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("/v1/jobs?limit=500{filter}{cursor}"));
            for job in page["jobs"].as_array().expect("a page of jobs") {
                assert!(jobs.insert(id_of(job), job.clone()).is_none(), "listed twice: {job}");
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return jobs,
            }
        }
    }

    /// The job when it has ended.
    pub(crate) fn settled(&self, id: &str) -> Value {
        super::eventually(&format!("the end of job {id}"), || {
            let job = self.get(&format!("/v1/jobs/{id}?wait=10"));
            is_settled(&job).then_some(job)
        })
    }

    /// Waits until the job is in `state`.
    pub(crate) fn until(&self, id: &str, state: &str) {
        super::eventually(&format!("job {id} to be {state}"), || (self.job(id)["state"] == state).then_some(()));
    }
}

fn read(called: Result<http::Response<Body>, ureq::Error>) -> Result<Answer, ureq::Error> {
    let mut response = called?;
    let status = response.status().as_u16();
    Ok(Answer { status, body: response.body_mut().read_json()? })
}

fn id_of(job: &Value) -> String {
    job["id"].as_str().expect("a job has an id").to_owned()
}

/// Whether the job has ended.
pub(crate) fn is_settled(job: &Value) -> bool {
    matches!(job["state"].as_str(), Some("succeeded" | "failed" | "timed_out" | "cancelled" | "expired"))
}
