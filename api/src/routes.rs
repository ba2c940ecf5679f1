//! THE table of routes. The router, who may call what, and the documents come from it: a route that is not in it does
//! not exist.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter, on};
use tower_http::catch_panic::CatchPanicLayer;

use crate::admit::{Role, admit};
use crate::edge::bound;
use crate::openapi::Doc;
use crate::problem::{Code, Problem};
use crate::{
    Api, batch, body, brakes, cost, describe, events, explain, health, jobs, loans, metrics, openapi, policies,
    records, request, schedules, unmapped, watch, workers,
};

/// One route.
pub struct Route {
    /// The method. GET also answers HEAD.
    pub method: Method,
    /// The path, with its parameters in braces.
    pub path: &'static str,
    /// The least role that reaches it; `None`: nobody is asked who they are.
    pub least: Option<Role>,
    handler: MethodRouter<Arc<Api>>,
    pub(crate) doc: fn() -> Doc,
}

const OPEN: Option<Role> = None;
const VIEWER: Option<Role> = Some(Role::Viewer);
const SUBMITTER: Option<Role> = Some(Role::Submitter);
const OPERATOR: Option<Role> = Some(Role::Operator);

/// The table. Whoever adds a route adds its line here, and nothing else.
pub fn table() -> Vec<Route> {
    use MethodFilter as M;
    vec![
        route(M::POST, "/v1/jobs", SUBMITTER, jobs::submit, describe::submit),
        route(M::POST, "/v1/jobs/batch", SUBMITTER, batch::submit, describe::batch),
        route(M::GET, "/v1/jobs", VIEWER, jobs::list, describe::list),
        route(M::GET, "/v1/jobs/{id}", VIEWER, jobs::show, describe::show),
        route(M::GET, "/v1/jobs/{id}/timeline", VIEWER, jobs::timeline, describe::timeline),
        route(M::GET, "/v1/jobs/{id}/logs", VIEWER, watch::logs, describe::logs),
        route(M::GET, "/v1/jobs/{id}/result", VIEWER, jobs::result, describe::result),
        route(M::GET, "/v1/assets", VIEWER, records::assets, describe::assets),
        route(M::GET, "/v1/findings", VIEWER, records::findings, describe::findings),
        // Of jobs that it submitted itself; an operator those of everybody.
        route(M::POST, "/v1/jobs/{id}/cancel", SUBMITTER, jobs::cancel, describe::cancel),
        route(M::POST, "/v1/jobs/{id}/retry", SUBMITTER, jobs::retry, describe::retry),
        route(M::POST, "/v1/explain", SUBMITTER, explain::answer, describe::explain),
        route(M::POST, "/v1/events", OPERATOR, events::post, describe::events),
        route(M::POST, "/v1/events/plan", OPERATOR, events::plan, describe::plan),
        // Texts of events may hold anything, and what a list says of them comes from there, too.
        route(M::GET, "/v1/events/unmapped", OPERATOR, unmapped::list, describe::unmapped),
        route(M::GET, "/v1/events/unmapped/{id}", OPERATOR, unmapped::show, describe::unmapped_event),
        route(M::POST, "/v1/events/unmapped/replay", OPERATOR, unmapped::replay, describe::unmapped_replay),
        route(M::GET, "/v1/capabilities", VIEWER, policies::capabilities, describe::capabilities),
        route(M::POST, "/v1/reload", OPERATOR, policies::reload, describe::reload),
        route(M::GET, "/v1/yard", VIEWER, brakes::yard, describe::yard),
        route(M::POST, "/v1/pause", OPERATOR, brakes::pause, describe::pause),
        route(M::POST, "/v1/resume", OPERATOR, brakes::resume, describe::resume),
        route(M::GET, "/v1/workers", VIEWER, workers::list, describe::workers),
        route(M::GET, "/v1/cost", VIEWER, cost::answer, describe::cost),
        // Which credentials a yard can have is nobody's business but its operators'.
        route(M::GET, "/v1/loans", OPERATOR, loans::list, describe::loans),
        route(M::GET, "/v1/schedules", VIEWER, schedules::list, describe::schedules),
        route(M::GET, "/metrics", VIEWER, metrics::show, describe::metrics),
        route(M::GET, "/health", OPEN, health, describe::health),
        route(M::GET, "/openapi.json", OPEN, openapi::show, describe::openapi),
    ]
}

fn route<H, T>(method: MethodFilter, path: &'static str, least: Option<Role>, handler: H, doc: fn() -> Doc) -> Route
where
    H: Handler<T, Arc<Api>>,
    T: 'static,
{
    let named = if method == MethodFilter::POST { Method::POST } else { Method::GET };
    Route { method: named, path, least, handler: on(method, handler), doc }
}

/// The router.
pub fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    for Route { path, least, handler, .. } in table() {
        let handler = match least {
            // Who it is comes first: a place is for whoever may have one.
            Some(least) => handler
                .route_layer(middleware::from_fn_with_state(Arc::clone(&api), bound))
                .route_layer(middleware::from_fn_with_state((Arc::clone(&api), least), admit)),
            // Whether the yard lives is answered however busy it is.
            None => handler,
        };
        router = router.route(path, handler);
    }
    router
        .fallback(|| async { Problem::new(Code::NoSuchRoute, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(Code::MethodNotAllowed, "this path does not take this method")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&api), body::read_on))
        .layer(CatchPanicLayer::custom(|_| Problem::new(Code::Internal, "a defect; the log says more").into_response()))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), request::name))
        .with_state(api)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;
    use crate::testing;

    /// A path of the route, with an id that no job has.
    fn a_path(route: &Route) -> String {
        route.path.replace("{id}", "01890a5d-ac96-774b-bcce-000000000000")
    }

    async fn ask(router: &Router, method: &Method, path: &str, token: Option<&str>) -> (StatusCode, Problem) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let nothing = Problem {
            status: 0,
            title: String::new(),
            code: String::new(),
            detail: String::new(),
            request_id: None,
            violations: vec![],
            retry_after_seconds: None,
        };
        (status, serde_json::from_slice(&body).unwrap_or(nothing))
    }

    #[test]
    fn the_table_says_who_reaches_what() {
        let line = |route: &Route| {
            let least = route.least.map_or("open", Role::as_str);
            format!("{:<4} {:<25} {least}", route.method.as_str(), route.path)
        };
        insta::assert_snapshot!(table().iter().map(line).collect::<Vec<_>>().join("\n"));
    }

    /// Every route, every role, and nobody.
    #[tokio::test]
    async fn every_route_lets_in_whom_the_table_says_and_nobody_else() {
        let router = router(testing::api());
        for route in table() {
            let path = a_path(&route);
            let case = format!("{} {}", route.method.as_str(), route.path);
            for token in [None, Some("nobody's"), Some("")] {
                let (status, problem) = ask(&router, &route.method, &path, token).await;
                match route.least {
                    None => assert_eq!(status, StatusCode::OK, "{case}: open"),
                    Some(_) => {
                        assert_eq!((status.as_u16(), problem.code.as_str()), (401, "unauthorized"), "{case}");
                    }
                }
            }
            for role in Role::ALL {
                let (status, problem) = ask(&router, &route.method, &path, Some(testing::token(role))).await;
                if route.least.is_none_or(|least| role >= least) {
                    assert!(!matches!(status.as_u16(), 401 | 403 | 500..), "{case} as {role}: {status} {problem:?}");
                } else {
                    let least = route.least.unwrap();
                    assert_eq!((status.as_u16(), problem.code.as_str()), (403, "forbidden"), "{case} as {role}");
                    assert!(problem.detail.ends_with(&format!("takes the role {least}")), "{case}: {problem:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_submitter_changes_its_own_jobs_only() {
        let api = testing::api();
        let router = router(Arc::clone(&api));
        let theirs = testing::a_job(&api, "somebody-else").await;
        let own = testing::a_job(&api, Role::Submitter.as_str()).await;
        for (id, role, status) in [
            (theirs, Role::Viewer, 403),
            (theirs, Role::Submitter, 403),
            (own, Role::Submitter, 200),
            (theirs, Role::Operator, 200),
        ] {
            let path = format!("/v1/jobs/{id}/cancel");
            let (found, problem) = ask(&router, &Method::POST, &path, Some(testing::token(role))).await;
            assert_eq!(found.as_u16(), status, "{role}: {problem:?}");
            if role == Role::Submitter && status == 403 {
                assert_eq!(problem.code, "not_yours");
            }
        }
        for (id, role, code) in [(theirs, Role::Submitter, "not_yours"), (own, Role::Submitter, "")] {
            let path = format!("/v1/jobs/{id}/retry");
            let (status, problem) = ask(&router, &Method::POST, &path, Some(testing::token(role))).await;
            assert_eq!(problem.code, code, "{status}");
        }
    }
}
