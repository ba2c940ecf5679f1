//! Events that no mapping answers, over HTTP. For operators only: an event's text may hold anything.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchyard_core::ports::{UnmappedId, UnmappedSummary};
use utoipa::ToSchema;

use crate::params::{Nothing, PageQuery, Params, invalid, number};
use crate::problem::{Code, Problem};
use crate::request::Trace;
use crate::{Api, events};

/// Events on a page unless asked otherwise.
const PAGE: usize = 50;

/// An event that no mapping answers, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnmappedView {
    /// Which it is; the same event delivered again is the same.
    pub id: UnmappedId,
    /// Its `source`.
    pub source: String,
    /// Its `detail-type`.
    pub detail_type: String,
    /// Why nothing answered it when it was last seen.
    pub why: String,
    /// How long its text is.
    pub bytes: u64,
    /// When it came first.
    pub first_seen: String,
    /// When it came last.
    pub last_seen: String,
    /// How often it came.
    pub seen: u64,
}

impl From<UnmappedSummary> for UnmappedView {
    fn from(event: UnmappedSummary) -> Self {
        let UnmappedSummary { id, source, detail_type, why, bytes, first, last, seen } = event;
        let shown = |at: Timestamp| format!("{at:.3}");
        Self { id, source, detail_type, why, bytes, first_seen: shown(first), last_seen: shown(last), seen }
    }
}

/// A page of unmapped events, those seen last first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnmappedPage {
    /// The events, without their texts.
    pub events: Vec<UnmappedView>,
    /// Where the next page starts, when there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many are kept in all.
    pub kept: u64,
    /// How many were dropped for want of room since the yard was made.
    pub dropped: u64,
}

/// An unmapped event with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnmappedAnswer {
    /// What is known of it.
    #[serde(flatten)]
    pub unmapped: UnmappedView,
    /// The event itself.
    pub event: Value,
}

fn read_cursor(cursor: &str) -> Result<(Timestamp, UnmappedId), Problem> {
    let wrong = || invalid("cursor", "expected what the last page gave as `next`");
    let (last, id) = cursor.split_once('.').ok_or_else(wrong)?;
    let last = last.parse().ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).ok_or_else(wrong)?;
    Ok((last, id.parse().map_err(|_| wrong())?))
}

/// GET /v1/events/unmapped
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(PageQuery { limit, cursor }): Params<PageQuery>,
) -> Result<Json<UnmappedPage>, Problem> {
    let limit = number("limit", limit, 1..=500)?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE);
    let before = cursor.map(|cursor| read_cursor(&cursor)).transpose()?;
    let events = api.yard.ledger.unmapped(before, limit).await?;
    let count = api.yard.ledger.unmapped_count().await?;
    let next = next(&events, limit);
    let events = events.into_iter().map(UnmappedView::from).collect();
    Ok(Json(UnmappedPage { events, next, kept: count.events, dropped: count.dropped }))
}

/// GET /v1/events/unmapped/{id}
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    _: Params<Nothing>,
) -> Result<Json<UnmappedAnswer>, Problem> {
    let id: UnmappedId = id.parse().map_err(|error| invalid("id", error))?;
    let unmapped = api.yard.ledger.unmapped_event(id).await?;
    let unmapped = unmapped.ok_or_else(|| {
        let detail = format!("no unmapped event {id} is kept: it was replayed, or dropped for want of room");
        Problem::new(Code::NoSuchEvent, detail)
    })?;
    let event = serde_json::from_str(&unmapped.event).map_err(|error| {
        Problem::new(Code::HomeFailed, format!("unmapped event {id} is not JSON any more: {error}"))
    })?;
    Ok(Json(UnmappedAnswer { unmapped: unmapped.summary().into(), event }))
}

/// What came of replaying the events that were kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplayAnswer {
    /// Events that were looked at.
    pub tried: u64,
    /// Of these, how many the rules in force answer, and are kept no longer.
    pub answered: u64,
    /// Jobs that they lead to; those that an earlier delivery made are among them.
    pub jobs: u64,
    /// Events that could not be delivered, and stay, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Where the next call goes on, when there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// POST /v1/events/unmapped/replay
pub(crate) async fn replay(
    State(api): State<Arc<Api>>,
    trace: Trace,
    Params(PageQuery { limit, cursor }): Params<PageQuery>,
) -> Result<Json<ReplayAnswer>, Problem> {
    let limit = number("limit", limit, 1..=500)?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE);
    let before = cursor.map(|cursor| read_cursor(&cursor)).transpose()?;
    let events = api.yard.ledger.unmapped(before, limit).await?;
    let mut answer = ReplayAnswer { next: next(&events, limit), ..ReplayAnswer::default() };
    for summary in events {
        let Some(kept) = api.yard.ledger.unmapped_event(summary.id).await? else { continue };
        answer.tried += 1;
        let event = serde_json::from_str::<Value>(&kept.event).unwrap_or_default();
        match events::deliver_again(&api, trace, &event).await {
            Ok(None) => {}
            Ok(Some(jobs)) => {
                // Its jobs are durable: a crash before this has them found again by their keys.
                api.yard.ledger.forget_unmapped(&[kept.id]).await?;
                answer.answered += 1;
                answer.jobs += jobs as u64;
            }
            Err(problem) => answer.refused.push(format!("{}: {}", kept.id, problem.detail)),
        }
    }
    Ok(Json(answer))
}

/// Where the page after these starts.
fn next(events: &[UnmappedSummary], limit: usize) -> Option<String> {
    let cursor = |event: &UnmappedSummary| format!("{}.{}", event.last.as_millisecond(), event.id);
    if events.len() < limit { None } else { events.last().map(cursor) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use serde_json::json;
    use switchyard_core::catalog::Catalog;
    use switchyard_core::mapping::Mappings;
    use switchyard_core::policies::Policies;
    use switchyard_core::ports::Unmapped;

    use super::*;
    use crate::testing;

    /// What answers findings here: it waits for a worker, and there is none.
    const CATALOG: &str = "version: 1
capabilities:
  - name: finding-triage
    summary: answers findings
    run: { command: [echo] }
    needs: { timeout_seconds: 60 }
";

    /// It names events that no reader knows.
    const MAPPINGS: &str = r#"{ "version": 1, "mappings": [
        { "name": "orders", "match": { "source": "my.app", "detail_type": "Order" },
          "policies": ["custodian/a.yml", "custodian/b.yml"] }
    ] }"#;

    /// Puts rules into force that answer the events of [`keeping`], with or without what can run then.
    fn answering(api: &Api, catalog: Option<&str>) {
        let policies = BTreeSet::from(["custodian/a.yml".to_owned(), "custodian/b.yml".to_owned()]);
        let mut ruled: Policies = (*api.yard.policies()).clone();
        ruled.mappings = Mappings::parse("m.json", MAPPINGS, &policies).unwrap();
        if let Some(text) = catalog {
            ruled.catalog = Catalog::parse("c.yaml", text, &[], &BTreeMap::new()).unwrap();
        }
        api.yard.shelf.replace(ruled, api.yard.ambient.now());
    }

    /// A yard that keeps so many events, the first of them the longest unseen.
    async fn keeping(events: u64) -> (Arc<Api>, Vec<Unmapped>) {
        let api = testing::api();
        let now = api.yard.ambient.now();
        let event = |n: u64| {
            let event = json!({ "source": "my.app", "detail-type": "Order", "detail": { "n": n } });
            let at = now - Duration::from_secs(events - n);
            Unmapped::new(&event, "my.app", "Order", "no mapping answers it", at)
        };
        let events: Vec<Unmapped> = (0..events).map(event).collect();
        for event in &events {
            api.yard.ledger.keep_unmapped(event.clone()).await.unwrap();
        }
        (api, events)
    }

    async fn page(api: &Arc<Api>, limit: Option<&str>, cursor: Option<String>) -> Result<UnmappedPage, Problem> {
        let query = PageQuery { limit: limit.map(str::to_owned), cursor };
        list(State(Arc::clone(api)), Params(query)).await.map(|Json(page)| page)
    }

    async fn shown(api: &Arc<Api>, id: &str) -> Result<UnmappedAnswer, Problem> {
        show(State(Arc::clone(api)), Path(id.to_owned()), Params(Nothing {})).await.map(|Json(answer)| answer)
    }

    async fn replayed(api: &Arc<Api>, limit: Option<&str>, cursor: Option<String>) -> Result<ReplayAnswer, Problem> {
        let query = PageQuery { limit: limit.map(str::to_owned), cursor };
        replay(State(Arc::clone(api)), testing::trace(), Params(query)).await.map(|Json(answer)| answer)
    }

    #[tokio::test]
    async fn unmapped_events_are_listed_page_by_page_without_their_texts() {
        let (api, events) = keeping(5).await;
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let page = page(&api, Some("2"), cursor).await.unwrap();
            assert_eq!((page.kept, page.dropped), (5, 0));
            assert!(page.events.len() <= 2);
            ids.extend(page.events.iter().map(|event| event.id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(ids, events.iter().rev().map(|event| event.id).collect::<Vec<_>>());
        let whole = page(&api, None, None).await.unwrap();
        assert_eq!((whole.events.len(), whole.next.is_none()), (5, true));
        assert_eq!(whole.events[0].bytes, events[4].event.len() as u64);
        assert!(!serde_json::to_string(&whole).unwrap().contains("\"detail\""));
    }

    #[tokio::test]
    async fn an_unmapped_event_is_shown_as_it_came() {
        let (api, events) = keeping(1).await;
        let answer = shown(&api, &events[0].id.to_string()).await.unwrap();
        assert_eq!(answer.event, json!({ "source": "my.app", "detail-type": "Order", "detail": { "n": 0 } }));
        assert_eq!((answer.unmapped.why.as_str(), answer.unmapped.seen), ("no mapping answers it", 1));
    }

    #[tokio::test]
    async fn what_is_no_page_and_no_event_is_refused_with_the_reason() {
        let (api, events) = keeping(1).await;
        for limit in ["0", "501", "x"] {
            assert_eq!(page(&api, Some(limit), None).await.unwrap_err().code, "invalid_parameter", "{limit}");
            assert_eq!(replayed(&api, Some(limit), None).await.unwrap_err().code, "invalid_parameter", "{limit}");
        }
        let id = events[0].id;
        for cursor in ["", "1", &format!("x.{id}"), "1.0", &format!("99999999999999999.{id}")] {
            let refused = page(&api, None, Some(cursor.to_owned())).await.unwrap_err();
            assert_eq!(refused.code, "invalid_parameter", "{cursor}");
        }
        assert_eq!(shown(&api, "a\u{1b}").await.unwrap_err().code, "invalid_parameter");
        api.yard.ledger.forget_unmapped(&[id]).await.unwrap();
        let gone = shown(&api, &id.to_string()).await.unwrap_err();
        assert_eq!((gone.status, gone.code.as_str()), (404, "no_such_event"));
    }

    #[tokio::test]
    async fn what_the_rules_in_force_answer_is_submitted_and_forgotten_page_by_page_and_the_rest_stays() {
        let (api, events) = keeping(5).await;
        let other = json!({ "source": "other.app", "detail-type": "Order" });
        let now = api.yard.ambient.now();
        let other = Unmapped::new(&other, "other.app", "Order", "no mapping answers it", now);
        api.yard.ledger.keep_unmapped(other.clone()).await.unwrap();
        let before = page(&api, None, None).await.unwrap();
        let vain = replayed(&api, None, None).await.unwrap();
        assert_eq!(vain, ReplayAnswer { tried: 6, ..ReplayAnswer::default() });
        assert_eq!(page(&api, None, None).await.unwrap(), before, "what is tried in vain stays as it was");

        answering(&api, Some(CATALOG));
        let (mut all, mut cursor) = (ReplayAnswer::default(), None);
        loop {
            let some = replayed(&api, Some("2"), cursor).await.unwrap();
            assert!(some.tried <= 2 && some.refused.is_empty(), "{some:?}");
            all.tried += some.tried;
            all.answered += some.answered;
            all.jobs += some.jobs;
            cursor = some.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((all.tried, all.answered, all.jobs), (6, 5, 10));
        for event in &events {
            assert_eq!(shown(&api, &event.id.to_string()).await.unwrap_err().code, "no_such_event");
        }
        let left = page(&api, None, None).await.unwrap();
        assert_eq!((left.kept, left.events.len(), left.events[0].id, left.events[0].seen), (1, 1, other.id, 1));
        let again = replayed(&api, None, None).await.unwrap();
        assert_eq!(again, ReplayAnswer { tried: 1, ..ReplayAnswer::default() });
    }

    #[tokio::test]
    async fn an_event_whose_jobs_are_refused_stays_and_is_told_with_the_reason() {
        let (api, events) = keeping(2).await;
        // There are mappings, and nothing that could answer.
        answering(&api, None);
        let refused = replayed(&api, None, None).await.unwrap();
        assert_eq!((refused.tried, refused.answered, refused.jobs, refused.refused.len()), (2, 0, 0, 2));
        for (told, event) in refused.refused.iter().zip(events.iter().rev()) {
            let expected = format!("{}: there is no capability `finding-triage`; there are: greet", event.id);
            assert_eq!(told, &expected);
        }
        assert_eq!(page(&api, None, None).await.unwrap().kept, 2);
        answering(&api, Some(CATALOG));
        let answered = replayed(&api, None, None).await.unwrap();
        assert_eq!((answered.tried, answered.answered, answered.jobs, answered.refused.len()), (2, 2, 4, 0));
    }
}
