//! The API's own description, OpenAPI 3.1, made from the table of routes; and API.md, made from it too.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use switchyard_core::job::JobId;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, Paths, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{Components, ComponentsBuilder, Object, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Info, License, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder, Schema,
};
use utoipa::{PartialSchema, ToSchema};

use crate::problem::{Code, Problem};
use crate::request::REQUEST_ID;
use crate::routes::{Route, table};

/// A parameter of a route.
pub(crate) struct Param {
    name: &'static str,
    place: ParameterIn,
    schema: RefOr<Schema>,
    description: &'static str,
    example: Option<Value>,
}

/// An answer of a route that is no problem.
struct Answer {
    status: StatusCode,
    description: &'static str,
    schema: Option<RefOr<Schema>>,
    example: Option<Value>,
    headers: Vec<(&'static str, &'static str)>,
    types: &'static [&'static str],
}

/// The body that a route takes.
struct Body {
    schema: RefOr<Schema>,
    example: Value,
    most_bytes: usize,
}

/// What the `{id}` in a path names.
struct Named {
    description: &'static str,
    schema: RefOr<Schema>,
    missing: Code,
}

/// What a route does, takes and answers: what the documents say of it. What follows from the table, such as who may
/// call it and how a busy yard answers, is not said here again.
pub(crate) struct Doc {
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    /// What `{id}` in its path names, and how it is refused where there is none.
    of: Named,
    parameters: Vec<Param>,
    body: Option<Body>,
    answers: Vec<Answer>,
    problems: Vec<Code>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Doc {
    /// A route by the name of what it does, and that in a sentence.
    pub(crate) fn new(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            description: "",
            of: Named { description: "The job's id.", schema: JobId::schema(), missing: Code::NoSuchJob },
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: Vec::new(),
            schemas: Vec::new(),
        }
    }

    /// What else there is to know.
    pub(crate) fn more(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// What the `{id}` in its path names, where that is no job.
    pub(crate) fn of<T: ToSchema>(mut self, description: &'static str, missing: Code) -> Self {
        self.of = Named { description, schema: T::schema(), missing };
        self
    }

    /// A parameter of the query.
    pub(crate) fn query(self, name: &'static str, schema: Object, description: &'static str) -> Self {
        self.parameter(name, ParameterIn::Query, schema.into(), description, None)
    }

    /// A header that the route reads.
    pub(crate) fn header(self, name: &'static str, schema: Object, description: &'static str, example: &str) -> Self {
        self.parameter(name, ParameterIn::Header, schema.into(), description, Some(example.into()))
    }

    fn parameter(
        mut self,
        name: &'static str,
        place: ParameterIn,
        schema: RefOr<Schema>,
        description: &'static str,
        example: Option<Value>,
    ) -> Self {
        self.parameters.push(Param { name, place, schema, description, example });
        self
    }

    /// The body that it takes.
    pub(crate) fn body(mut self, schema: RefOr<Schema>, example: Value, most_bytes: usize) -> Self {
        self.body = Some(Body { schema, example, most_bytes });
        self
    }

    /// An answer, with an example of it.
    pub(crate) fn answers<T: ToSchema>(mut self, status: u16, description: &'static str, example: Value) -> Self {
        let schema = Some(self.known::<T>());
        self.answer(status, description, schema, Some(example))
    }

    /// An answer whose form is the capability's, or another standard's.
    pub(crate) fn answers_with(self, status: u16, description: &'static str, schema: Schema) -> Self {
        self.answer(status, description, Some(schema.into()), None)
    }

    /// An answer of text, as one of these media types.
    pub(crate) fn answers_text(
        mut self,
        status: u16,
        description: &'static str,
        types: &'static [&'static str],
    ) -> Self {
        self = self.answer(status, description, Some(Object::with_type(Type::String).into()), None);
        if let Some(answer) = self.answers.last_mut() {
            answer.types = types;
        }
        self
    }

    fn answer(
        mut self,
        status: u16,
        description: &'static str,
        schema: Option<RefOr<Schema>>,
        example: Option<Value>,
    ) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        let types = &["application/json"];
        self.answers.push(Answer { status, description, schema, example, headers: Vec::new(), types });
        self
    }

    /// A header of the last answer.
    pub(crate) fn with(mut self, name: &'static str, description: &'static str) -> Self {
        if let Some(answer) = self.answers.last_mut() {
            answer.headers.push((name, description));
        }
        self
    }

    /// Problems of its own.
    pub(crate) fn problems(mut self, codes: &[Code]) -> Self {
        self.problems.extend(codes);
        self
    }

    /// A type's schema, by its name; the schema itself goes to the others.
    pub(crate) fn known<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), T::schema()));
        RefOr::Ref(Ref::from_schema_name(T::name()))
    }

    /// A schema of the route's own, by its name.
    pub(crate) fn named(&mut self, name: &str, schema: RefOr<Schema>) -> RefOr<Schema> {
        self.schemas.push((name.to_owned(), schema));
        RefOr::Ref(Ref::from_schema_name(name))
    }
}

/// Every problem that a route can answer with: its own, and what follows from the table.
fn problems(route: &Route, doc: &Doc) -> BTreeMap<u16, Vec<Code>> {
    let mut codes = doc.problems.clone();
    if route.path.contains("{id}") {
        codes.push(doc.of.missing);
    }
    if doc.body.is_some() {
        codes.extend([
            Code::NotJson,
            Code::BodyUnreadable,
            Code::BodyTooSlow,
            Code::BodyTooLarge,
            Code::UnsupportedMediaType,
            Code::Closing,
        ]);
    }
    if let Some(least) = route.least {
        codes.extend([Code::InvalidParameter, Code::Unauthorized, Code::Busy, Code::TookTooLong]);
        codes.extend([Code::TryAgain, Code::HomeFailed, Code::Internal]);
        // Every token reaches what the least role reaches.
        if least > crate::admit::Role::Viewer {
            codes.push(Code::Forbidden);
        }
    }
    codes.sort_unstable();
    codes.dedup();
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status().as_u16()).or_default().push(code);
    }
    by_status
}

fn text() -> RefOr<Schema> {
    Object::with_type(Type::String).into()
}

fn answered(description: &str, headers: &[(&str, &str)]) -> ResponseBuilder {
    let id = HeaderBuilder::new().schema(Some(text())).description(Some("The request's id."));
    let mut response = ResponseBuilder::new().description(description).header(REQUEST_ID.as_str(), id.build());
    for (name, description) in headers {
        let header = HeaderBuilder::new().schema(Some(text())).description(Some(*description));
        response = response.header(*name, header.build());
    }
    response
}

fn problem(codes: &[Code]) -> ResponseBuilder {
    let told: Vec<String> = codes.iter().map(|code| format!("`{}`: {}", code.as_str(), code.meaning())).collect();
    let headers: &[(&str, &str)] = match codes.first().map(|code| code.status()) {
        Some(StatusCode::UNAUTHORIZED) => &[("WWW-Authenticate", "`Bearer`.")],
        Some(StatusCode::SERVICE_UNAVAILABLE) => &[("Retry-After", "Seconds to wait before asking again.")],
        Some(_) | None => &[],
    };
    let example = codes.first().map(|code| {
        let problem = Problem::new(*code, code.meaning());
        json!(Problem { request_id: Some("9f0c6d1e5a7b4c3d8e2f1a0b9c8d7e6f".to_owned()), ..problem })
    });
    let content = ContentBuilder::new()
        .schema(Some(RefOr::<Schema>::Ref(Ref::from_schema_name(Problem::name()))))
        .example(example)
        .build();
    answered(&format!("{}.", told.join("; ")), headers).content("application/problem+json", content)
}

fn operation(route: &Route, doc: Doc) -> (OperationBuilder, Vec<(String, RefOr<Schema>)>) {
    let problems = problems(route, &doc);
    let mut description = doc.description.to_owned();
    if let Some(least) = route.least {
        let space = if description.is_empty() { "" } else { " " };
        description.push_str(&format!("{space}Least role: {least}."));
    }
    let mut operation = OperationBuilder::new()
        .operation_id(Some(doc.id))
        .summary(Some(doc.summary))
        .description((!description.is_empty()).then_some(description));
    if let Some(least) = route.least {
        operation = operation.security(SecurityRequirement::new("token", [least.as_str()]));
    }
    if route.path.contains("{id}") {
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some(doc.of.description))
            .schema(Some(doc.of.schema));
        operation = operation.parameter(id.build());
    }
    for Param { name, place, schema, description, example } in doc.parameters {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(schema))
            .example(example);
        operation = operation.parameter(parameter.build());
    }
    if let Some(Body { schema, example, most_bytes }) = doc.body {
        let content = ContentBuilder::new().schema(Some(schema)).example(Some(example)).build();
        let body = RequestBodyBuilder::new()
            .description(Some(format!("JSON, at most {most_bytes} bytes.")))
            .required(Some(Required::True))
            .content("application/json", content);
        operation = operation.request_body(Some(body.build()));
    }
    for Answer { status, description, schema, example, headers, types } in doc.answers {
        let content = ContentBuilder::new().schema(schema).example(example).build();
        let described = answered(description, &headers);
        let response = types.iter().fold(described, |response, media| response.content(*media, content.clone()));
        operation = operation.response(status.as_str(), response.build());
    }
    for (status, codes) in problems {
        operation = operation.response(status.to_string(), problem(&codes).build());
    }
    (operation, doc.schemas)
}

/// The description of every route of the table.
pub fn document() -> OpenApi {
    let mut paths: Paths = PathsBuilder::new().build();
    let mut schemas = Vec::from([(Problem::name().into_owned(), Problem::schema())]);
    for route in table() {
        let (operation, its) = operation(&route, (route.doc)());
        schemas.extend(its);
        let method = if route.method == Method::POST { HttpMethod::Post } else { HttpMethod::Get };
        let item = PathItem::new(method, operation.build());
        match paths.paths.get_mut(route.path) {
            Some(path) => path.merge_operations(item),
            None => {
                paths.paths.insert(route.path.to_owned(), item);
            }
        }
    }
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token that `switchyard token create` made; its role says how far it reaches."));
    let components: Components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme("token", SecurityScheme::Http(token.build()))
        .build();
    let mut info = Info::new("Switchyard", env!("CARGO_PKG_VERSION"));
    info.description =
        Some("Background work: jobs, routed to where they run cheapest and soon enough. Errors are problem documents (RFC 9457) with a stable `code`.".to_owned());
    let mut licence = License::new("MIT OR Apache-2.0");
    licence.identifier = Some("MIT OR Apache-2.0".to_owned());
    info.license = Some(licence);
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components)).build()
}

/// GET /openapi.json
pub(crate) async fn show() -> Response {
    // The same for everybody, for as long as the program runs.
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        document().to_json().unwrap_or_else(|error| unreachable!("the description is always JSON: {error}"))
    });
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// API.md: the table of routes and the list of codes, for people.
#[cfg(test)]
fn markdown() -> String {
    let mut lines = vec![
        "# The API".to_owned(),
        String::new(),
        "Made from the table of routes (`api/src/routes.rs`) and the list of codes (`api/src/problem.rs`), and held to"
            .to_owned(),
        "them by a test; `GET /openapi.json` says the same to programs, in full. Send `Authorization: Bearer TOKEN`. A"
            .to_owned(),
        "viewer sees everything; a submitter also submits, and changes its own jobs; an operator does everything."
            .to_owned(),
        String::new(),
        "| method, path | least role | does |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    for route in table() {
        let doc = (route.doc)();
        let query: Vec<&str> = doc
            .parameters
            .iter()
            .filter(|param| matches!(param.place, ParameterIn::Query))
            .map(|param| param.name)
            .collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}=", query.join("=&")) };
        let least = route.least.map_or("none", |role| role.as_str());
        lines.push(format!("| {} {}{query} | {least} | {} |", route.method, route.path, doc.summary));
    }
    lines.extend([
        String::new(),
        "Errors are problem documents (RFC 9457): `status`, `title`, `detail`, the `request_id` that the answer's header".to_owned(),
        "`x-request-id` and the yard's log have too, and one of these codes. They are stable. Only a".to_owned(),
        "head that is no HTTP (400) or larger than 32 KiB or 64 headers (431) is refused without a document.".to_owned(),
        String::new(),
        "| status | code | means |".to_owned(),
        "|---|---|---|".to_owned(),
    ]);
    for code in Code::ALL {
        lines.push(format!("| {} | `{}` | {} |", code.status().as_u16(), code.as_str(), code.meaning()));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_description_is_openapi_3_1_and_stands_like_this() {
        let document = serde_json::to_value(document()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        insta::assert_snapshot!(serde_json::to_string_pretty(&document).unwrap());
    }

    #[test]
    fn every_route_of_the_table_is_described_and_nothing_else() {
        let document = serde_json::to_value(document()).unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let least = operation["security"][0]["token"][0].as_str().map(str::to_owned);
                described.insert((method.to_uppercase(), path.clone(), least));
            }
        }
        let least = |route: &Route| route.least.map(|role| role.as_str().to_owned());
        let there: BTreeSet<_> =
            table().iter().map(|route| (route.method.to_string(), route.path.to_owned(), least(route))).collect();
        assert_eq!(described, there);
    }

    #[test]
    fn every_code_is_described_somewhere_and_every_schema_that_is_named_is_there() {
        let text = document().to_json().unwrap();
        // Any path, any method and any handler can meet these.
        let anywhere = [Code::NoSuchRoute, Code::MethodNotAllowed];
        for code in Code::ALL.into_iter().filter(|code| !anywhere.contains(code)) {
            assert!(text.contains(&format!("`{}`: ", code.as_str())), "{code:?} is on no route");
        }
        let document: Value = serde_json::from_str(&text).unwrap();
        for named in text.split("\"#/components/schemas/").skip(1) {
            let name = named.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }

    #[test]
    fn api_md_says_what_the_table_and_the_codes_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/API.md");
        if std::env::var_os("SWITCHYARD_TEST_WRITE").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == markdown(), "api/API.md is not what it should be: SWITCHYARD_TEST_WRITE=1 writes it anew");
    }
}
