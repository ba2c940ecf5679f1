//! The table itself: made here for emulators and tests, and by whoever deploys the yard in an account.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType, TableStatus, TimeToLiveSpecification,
};
use switchyard_core::ports::PortError;

use super::DynamoLedger;
use super::item::{CAPABILITY_KEY, CREATED, DUE_AT, DUE_KEY, GONE, HELD_AT, HELD_KEY, PK, RECENT_KEY, SHOWN, SK};
use crate::failure::{code, failed};

/// An index: its name, its partition and sort keys, and what it shows beside the keys.
struct Index {
    name: &'static str,
    keys: (&'static str, &'static str),
    shows: &'static [&'static str],
}

/// The indexes. Each is sparse: what lacks its partition key is not in it and costs nothing.
const INDEXES: [Index; 4] = [
    Index { name: "due", keys: (DUE_KEY, DUE_AT), shows: &SHOWN },
    Index { name: "recent", keys: (RECENT_KEY, CREATED), shows: &[] },
    Index { name: "capability", keys: (CAPABILITY_KEY, CREATED), shows: &[] },
    Index { name: "held", keys: (HELD_KEY, HELD_AT), shows: &[] },
];

fn keys(partition: &str, sort: &str) -> Result<Vec<KeySchemaElement>, aws_smithy_types::error::operation::BuildError> {
    [(partition, KeyType::Hash), (sort, KeyType::Range)]
        .into_iter()
        .map(|(name, kind)| KeySchemaElement::builder().attribute_name(name).key_type(kind).build())
        .collect()
}

impl DynamoLedger {
    /// Makes the table with its indexes and its time to live, and waits until it can be used; nothing, where there is
    /// one of that name.
    ///
    /// # Errors
    ///
    /// DynamoDB refused, or the table is not there after a minute.
    pub async fn declare(&self) -> Result<(), PortError> {
        let operation = "make";
        let subject = || format!("table {}", self.0.table);
        let unfit = |error| PortError::permanent(operation, subject(), error);
        let mut create = self.0.client.create_table().table_name(&self.0.table);
        create = create.billing_mode(BillingMode::PayPerRequest).set_key_schema(Some(keys(PK, SK).map_err(unfit)?));
        for name in [PK, SK, DUE_KEY, DUE_AT, RECENT_KEY, CAPABILITY_KEY, CREATED, HELD_KEY, HELD_AT] {
            let kind = if name == DUE_AT { ScalarAttributeType::N } else { ScalarAttributeType::S };
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build();
            create = create.attribute_definitions(attribute.map_err(unfit)?);
        }
        for index in &INDEXES {
            let mut shows = Projection::builder().projection_type(if index.shows.is_empty() {
                ProjectionType::KeysOnly
            } else {
                ProjectionType::Include
            });
            for shown in index.shows {
                shows = shows.non_key_attributes(*shown);
            }
            let index = GlobalSecondaryIndex::builder()
                .index_name(index.name)
                .set_key_schema(Some(keys(index.keys.0, index.keys.1).map_err(unfit)?))
                .projection(shows.build())
                .build();
            create = create.global_secondary_indexes(index.map_err(unfit)?);
        }
        match create.send().await {
            Err(error) if code(&error) == Some("ResourceInUseException") => return Ok(()),
            sent => drop(sent.map_err(|error| failed(operation, subject(), &error))?),
        }
        for _ in 0..120 {
            let described = self.0.client.describe_table().table_name(&self.0.table).send().await;
            let described = described.map_err(|error| failed(operation, subject(), &error))?;
            let status = described.table.and_then(|table| table.table_status);
            if status == Some(TableStatus::Active) {
                let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name(GONE).build();
                let ttl = ttl.map_err(unfit)?;
                let set = self.0.client.update_time_to_live().table_name(&self.0.table);
                let set = set.time_to_live_specification(ttl).send().await;
                return set.map(drop).map_err(|error| failed(operation, subject(), &error));
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        Err(PortError::retryable(operation, subject(), "it is not there after a minute"))
    }
}
