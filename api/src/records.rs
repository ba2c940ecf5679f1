//! What jobs emitted, and what all of them together know of assets and findings, over HTTP.

use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::ports::RecordQuery;
use switchyard_core::records::{ID_BYTES, Kind, Register, RegisterQuery};
use switchyard_core::wire::{RecordView, RegisteredView};
use utoipa::ToSchema;

use crate::params::{Params, RegisteredQuery, invalid, number};
use crate::problem::Problem;
use crate::{Api, jobs};

/// Entries on a page unless asked otherwise.
const PAGE: usize = 50;
/// Bytes of records on a page: one may have 256 KiB, and 500 of them are too much for one answer.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A page of what a job emitted, as its runs emitted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecordsPage {
    /// The records, by epoch and then by number.
    pub records: Vec<RecordView>,
    /// Where the next page starts, when there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A page of the register of assets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssetsPage {
    /// The assets, by id. A page may have fewer than were asked for, or none, and not be the last.
    pub assets: Vec<RegisteredView>,
    /// Where the next page starts, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A page of the register of findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingsPage {
    /// The findings, by id. A page may have fewer than were asked for, or none, and not be the last.
    pub findings: Vec<RegisteredView>,
    /// Where the next page starts, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

fn page_of(limit: Option<String>) -> Result<usize, Problem> {
    Ok(number("limit", limit, 1..=500)?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE))
}

fn read_cursor(cursor: &str) -> Result<(Epoch, u64), Problem> {
    let wrong = || invalid("cursor", "expected what the last page gave as `next`");
    let (epoch, n) = cursor.split_once('.').ok_or_else(wrong)?;
    // Digits alone; more than a number can be is after all that there are.
    let number = |text: &str, most: usize| {
        let digits = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse::<u128>().ok() } else { None }
    };
    let (epoch, n) = (number(epoch, 10).ok_or_else(wrong)?, number(n, 20).ok_or_else(wrong)?);
    Ok((Epoch(u32::try_from(epoch).unwrap_or(u32::MAX)), u64::try_from(n).unwrap_or(u64::MAX)))
}

/// How many records a page has, and after which it starts.
pub(crate) type Page = (usize, Option<(Epoch, u64)>);

/// Which page of a job's records is asked for.
pub(crate) fn page(limit: Option<String>, cursor: Option<String>) -> Result<Page, Problem> {
    Ok((page_of(limit)?, cursor.map(|cursor| read_cursor(&cursor)).transpose()?))
}

/// GET /v1/jobs/{id}/result?kind=
pub(crate) async fn of_job(
    api: &Api,
    id: JobId,
    kind: &str,
    (limit, after): Page,
) -> Result<Json<RecordsPage>, Problem> {
    let kind = Kind::from_str(kind).map_err(|error| invalid("kind", error))?;
    let job = jobs::load(api, id).await?;
    let query = RecordQuery { job: job.id, kind: Some(kind), after, limit };
    let mut records = api.yard.ledger.records(&query).await?;
    let full = records.len() == limit;
    let fit = within_bytes(records.iter().map(|record| record.body.len()));
    let cut = fit < records.len();
    records.truncate(fit);
    let next = records.last().filter(|_| full || cut).map(|last| format!("{}.{}", last.epoch, last.n));
    Ok(Json(RecordsPage { records: records.into_iter().map(RecordView::from).collect(), next }))
}

/// How many of these, by their sizes, go on one page: at least one.
fn within_bytes(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |size: &usize| {
        bytes += size;
        bytes <= PAGE_BYTES
    };
    sizes.take_while(fits).count().max(1)
}

async fn registered(
    api: &Api,
    register: Register,
    query: RegisteredQuery,
) -> Result<(Vec<RegisteredView>, Option<String>), Problem> {
    let RegisteredQuery { since, capability, limit, cursor } = query;
    let since = since.map(|since| since.parse::<Timestamp>()).transpose();
    let since = since.map_err(|_| invalid("since", "expected a time such as 2026-01-31T12:00:00Z"))?;
    if cursor.as_ref().is_some_and(|cursor| cursor.len() > ID_BYTES || cursor.is_empty()) {
        return Err(invalid("cursor", "expected what the last page gave as `next`"));
    }
    let query = RegisterQuery { register, capability, since, after: cursor, limit: page_of(limit)? };
    let mut page = api.yard.ledger.registered(&query).await?;
    let fit = within_bytes(page.entries.iter().map(|entry| entry.body.len()));
    if fit < page.entries.len() {
        page.entries.truncate(fit);
        page.next = page.entries.last().map(|last| last.id.clone());
    }
    Ok((page.entries.into_iter().map(RegisteredView::from).collect(), page.next))
}

/// GET /v1/assets
pub(crate) async fn assets(
    State(api): State<Arc<Api>>,
    Params(query): Params<RegisteredQuery>,
) -> Result<Json<AssetsPage>, Problem> {
    let (assets, next) = registered(&api, Register::Assets, query).await?;
    Ok(Json(AssetsPage { assets, next }))
}

/// GET /v1/findings
pub(crate) async fn findings(
    State(api): State<Arc<Api>>,
    Params(query): Params<RegisteredQuery>,
) -> Result<Json<FindingsPage>, Problem> {
    let (findings, next) = registered(&api, Register::Findings, query).await?;
    Ok(Json(FindingsPage { findings, next }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use switchyard_core::catalog::Catalog;
    use switchyard_core::policies::Policies;
    use switchyard_core::records::{Emitted, take};

    use super::*;
    use crate::admit::Role;
    use crate::testing;

    const EMITS: &str = "version: 1
capabilities:
  - name: CAPABILITY
    summary: emits
    run: { command: [echo] }
    emits: { asset: true, finding: true, metric: true }
";

    /// A yard whose jobs emit, and the id of one of them that has emitted these lines.
    async fn emitted(lines: &[&str]) -> (Arc<Api>, JobId) {
        let api = testing::api();
        let id = testing::a_job(&api, Role::Submitter.as_str()).await;
        let job = api.yard.ledger.load(id).await.unwrap().unwrap();
        let catalog = EMITS.replace("CAPABILITY", &job.work.capability);
        let catalog = Catalog::parse("capabilities.yaml", &catalog, &[], &BTreeMap::new()).unwrap();
        api.yard.shelf.replace(Policies { catalog, ..Policies::default() }, api.yard.ambient.now());
        let lines: Vec<Emitted> = (1..)
            .zip(lines)
            .map(|(n, line)| {
                let at = api.yard.ambient.now();
                Emitted { job: id, epoch: job.epoch, n, at, line: (*line).to_owned() }
            })
            .collect();
        take(&api.yard, "run", &lines).await;
        (api, id)
    }

    fn query() -> RegisteredQuery {
        RegisteredQuery { since: None, capability: None, limit: None, cursor: None }
    }

    #[tokio::test]
    async fn what_a_job_emitted_is_listed_by_kind_and_page_by_page() {
        let lines = [
            r#"{"kind":"asset","id":"a"}"#,
            r#"{"kind":"metric","name":"m","value":1}"#,
            r#"{"kind":"asset","id":"b"}"#,
            r#"{"kind":"asset","id":"c"}"#,
        ];
        let (api, id) = emitted(&lines).await;
        let listed = |kind: &'static str, limit: &str, cursor: Option<String>| {
            let (api, limit) = (Arc::clone(&api), Some(limit.to_owned()));
            async move { of_job(&api, id, kind, page(limit, cursor).unwrap()).await.unwrap().0 }
        };
        let first = listed("asset", "2", None).await;
        let ids = |page: &RecordsPage| page.records.iter().map(|r| r.id.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!((ids(&first), first.next.as_deref()), (vec!["a".to_owned(), "b".to_owned()], Some("1.3")));
        let second = listed("asset", "2", first.next).await;
        assert_eq!((ids(&second), second.next), (vec!["c".to_owned()], None));
        let metrics = listed("metric", "50", None).await;
        assert_eq!((metrics.records[0].n, metrics.records[0].record["value"].as_u64()), (2, Some(1)));
        let wrong = of_job(&api, id, "host", page(None, None).unwrap()).await.unwrap_err();
        assert!(wrong.detail.starts_with("parameter `kind`"), "{}", wrong.detail);
        for cursor in ["", "1", "1.x", "x.1"] {
            assert!(page(None, Some(cursor.to_owned())).is_err(), "{cursor}");
        }
    }

    #[tokio::test]
    async fn the_registers_are_listed_by_id_and_narrowed() {
        let large = format!(r#"{{"kind":"asset","id":"c","of":"{}"}}"#, "x".repeat(200_000));
        let finding = r#"{"kind":"finding","id":"f"}"#;
        let (api, id) =
            emitted(&[r#"{"kind":"asset","id":"b"}"#, &large, r#"{"kind":"asset","id":"a"}"#, finding]).await;
        let list = |query| assets(State(Arc::clone(&api)), Params(query));
        let ids = |page: &AssetsPage| page.assets.iter().map(|asset| asset.id.clone()).collect::<Vec<_>>();
        let all = list(query()).await.unwrap().0;
        assert_eq!((ids(&all), all.next), (vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], None));
        assert_eq!(all.assets[0].job, id);
        let first = list(RegisteredQuery { limit: Some("2".into()), ..query() }).await.unwrap().0;
        assert_eq!(first.next.as_deref(), Some("b"));
        let rest = list(RegisteredQuery { cursor: first.next, ..query() }).await.unwrap().0;
        assert_eq!(ids(&rest), ["c"]);
        let none = list(RegisteredQuery { capability: Some("other".into()), ..query() }).await.unwrap().0;
        assert!(none.assets.is_empty());
        let later = list(RegisteredQuery { since: Some("2999-01-01T00:00:00Z".into()), ..query() }).await.unwrap().0;
        assert!(later.assets.is_empty());
        assert!(list(RegisteredQuery { since: Some("now".into()), ..query() }).await.is_err());
        let findings = findings(State(Arc::clone(&api)), Params(query())).await.unwrap().0;
        assert_eq!(findings.findings.len(), 1);
    }

    #[test]
    fn a_page_has_no_more_bytes_than_an_answer_may_have_and_at_least_one_record() {
        assert_eq!(within_bytes([PAGE_BYTES, 1].into_iter()), 1);
        assert_eq!(within_bytes([PAGE_BYTES + 1, 1].into_iter()), 1);
        assert_eq!(within_bytes([1, 2, PAGE_BYTES - 3, 1].into_iter()), 3);
    }
}
