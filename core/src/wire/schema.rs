//! How the small types stand in a JSON Schema: for documents of what the API takes and shows.

use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::job::{Epoch, JobId, Phase, Tier};
use crate::ports::{Stream, UnmappedId};
use crate::route::{PoolName, Venue};

fn one_of(values: impl IntoIterator<Item = &'static str>, description: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(values))
        .description(Some(description))
        .build()
        .into()
}

impl PartialSchema for Phase {
    fn schema() -> RefOr<Schema> {
        one_of(Self::ALL.map(Self::as_str), "Where a job stands.")
    }
}

impl ToSchema for Phase {}

impl PartialSchema for Tier {
    fn schema() -> RefOr<Schema> {
        one_of(Self::ALL.map(Self::as_str), "How soon a job must start; the highest first.")
    }
}

impl ToSchema for Tier {}

impl PartialSchema for Venue {
    fn schema() -> RefOr<Schema> {
        one_of(Self::ALL.map(Self::as_str), "Where a job runs.")
    }
}

impl ToSchema for Venue {}

impl PartialSchema for PoolName {
    fn schema() -> RefOr<Schema> {
        let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[a-z0-9-]{1,15}$"));
        name.description(Some("A pool of workers.")).build().into()
    }
}

impl ToSchema for PoolName {}

impl PartialSchema for Stream {
    fn schema() -> RefOr<Schema> {
        let name = |stream| match stream {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Yard => "yard",
        };
        one_of(
            [Self::Stdout, Self::Stderr, Self::Yard].map(name),
            "Where a line came from: standard output, standard error, or the yard itself.",
        )
    }
}

impl ToSchema for Stream {}

impl PartialSchema for JobId {
    fn schema() -> RefOr<Schema> {
        let mut schema = Object::with_type(Type::String);
        schema.format = Some(SchemaFormat::Custom("uuid".to_owned()));
        schema.description = Some("Names one job for ever.".to_owned());
        schema.into()
    }
}

impl ToSchema for JobId {}

impl PartialSchema for UnmappedId {
    fn schema() -> RefOr<Schema> {
        let digits = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9a-f]{32}$"));
        digits.description(Some("Names an unmapped event: the same event has the same id.")).build().into()
    }
}

impl ToSchema for UnmappedId {}

impl PartialSchema for Epoch {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0_usize))
            .description(Some("Rises by one at every dispatch; 0 before the first."))
            .build()
            .into()
    }
}

impl ToSchema for Epoch {}
