//! What the sweep remembers from round to round: one small item beside what else the yard knows of itself. Each write of it
//! is on what was read, so that of two rounds at once one acts.

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use switchyard_core::ports::{Marks, PortError};
use switchyard_core::sweep::Mark;
use switchyard_core::wire;

use super::DynamoLedger;
use super::item::{Expression, SK, key, s, text};
use super::live::YARD;
use crate::failure::failed;

/// Its sort key.
const MARKS: &str = "sweep";
/// Where the marks lie,
const VALUE: &str = "val";
/// and the number that whoever wrote them drew.
const VERSION: &str = "ver";

impl DynamoLedger {
    /// See [`switchyard_core::ports::Inventory::marks`].
    ///
    /// # Errors
    ///
    /// The table does not answer, or a newer program wrote them.
    pub async fn sweep_marks(&self) -> Result<Marks, PortError> {
        let operation = "read what the sweep remembers";
        let Some(item) = self.get(key(YARD, MARKS), operation).await? else { return Ok(Marks::default()) };
        let marks = wire::decode_marks(text(&item, VALUE).unwrap_or_default());
        let marks = marks.map_err(|error| PortError::permanent(operation, self.subject(MARKS), error))?;
        Ok(Marks { marks, version: text(&item, VERSION).map(str::to_owned) })
    }

    /// See [`switchyard_core::ports::Inventory::remember`].
    ///
    /// # Errors
    ///
    /// The table could not be written: it may be as it was, or as was asked for, and nothing is done about either.
    pub async fn remember_marks(&self, before: &Marks, marks: &[Mark]) -> Result<bool, PortError> {
        let version = self.0.ambient.nonce().to_string();
        let mut item = key(YARD, MARKS);
        item.insert(VALUE.to_owned(), s(wire::encode_marks(marks)));
        item.insert(VERSION.to_owned(), s(version.as_str()));
        let mut only = Expression::default();
        let condition = match &before.version {
            Some(before) => format!("{} = {}", only.name(VERSION), only.value(VERSION, s(before.as_str()))),
            None => format!("attribute_not_exists({})", only.name(SK)),
        };
        let put = self.0.client.put_item().table_name(&self.0.table).set_item(Some(item));
        let put = put.condition_expression(condition).set_expression_attribute_names(Some(only.names));
        let put = put.set_expression_attribute_values(Some(only.values).filter(|values| !values.is_empty()));
        let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(error) = put.send().await else { return Ok(true) };
        match error.as_service_error() {
            // One's own number there: the write took effect, and its answer was lost.
            Some(PutItemError::ConditionalCheckFailedException(refused)) => {
                let now = refused.item().and_then(|item| text(item, VERSION));
                Ok(now == Some(version.as_str()))
            }
            _ => Err(failed("keep what the sweep remembers", self.subject(MARKS), &error)),
        }
    }
}
