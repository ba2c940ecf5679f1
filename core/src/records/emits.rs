//! What a capability emits: kinds of records, each with its schema.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Code, Kind, Refused};
use crate::catalog::Schema;

/// The kinds of records that a capability emits, each with the JSON Schema that its records fit.
#[derive(Debug, Default, PartialEq)]
pub struct Emits(BTreeMap<Kind, Schema>);

impl Emits {
    /// These kinds and no others.
    pub fn new(kinds: BTreeMap<Kind, Schema>) -> Self {
        Self(kinds)
    }

    /// Whether it emits nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kinds, with their schemas as written.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Value)> {
        self.0.iter().map(|(kind, schema)| (*kind, schema.written()))
    }

    /// Holds a record against the schema of its kind.
    pub(super) fn check(&self, kind: Kind, record: &Value) -> Result<(), Refused> {
        let Some(schema) = self.0.get(&kind) else {
            return Err(Refused::new(Code::NotEmitted, format!("its capability emits no records of kind {kind}")));
        };
        schema.check(record).map_err(|bad| {
            let place = if bad.path.is_empty() { String::new() } else { format!(" at {}", bad.path) };
            Refused::new(Code::DoesNotFit, format!("it does not fit the schema of its kind{place}: {}", bad.message))
        })
    }
}
