//! What must be known of a table: which attributes are its key, and which are those of its indexes.

use std::collections::HashMap;

use serde_json::Value;

/// A table's key attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    hash: String,
    range: Option<String>,
    /// The key attributes of each global secondary index.
    pub(crate) indexes: Vec<Vec<String>>,
}

/// One item of one table, whatever names it.
pub(crate) type ItemKey = String;

/// The tables seen so far, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables(HashMap<String, Table>);

impl Tables {
    pub(crate) fn get(&self, name: &str) -> Option<&Table> {
        self.0.get(name)
    }

    /// Learns from the answer of CreateTable, UpdateTable, DescribeTable or DeleteTable.
    pub(crate) fn learn(&mut self, answer: &Value) {
        let description = if answer["Table"].is_object() { &answer["Table"] } else { &answer["TableDescription"] };
        let Some(name) = description["TableName"].as_str() else { return };
        if description["TableStatus"] == "DELETING" {
            self.0.remove(name);
        } else if let Some(table) = Table::read(description) {
            self.0.insert(name.to_owned(), table);
        }
    }

    /// The item's identity, from its key or from the whole item; `None` while the table is unknown.
    pub(crate) fn key(&self, table: &str, attributes: &Value) -> Option<ItemKey> {
        let Table { hash, range, .. } = self.get(table)?;
        let range = range.as_ref().map(|range| &attributes[range.as_str()]);
        let hash = attributes.get(hash.as_str())?;
        Some(format!("{table}\n{hash}\n{}", range.unwrap_or(&Value::Null)))
    }
}

impl Table {
    fn read(description: &Value) -> Option<Self> {
        let names = |of: &Value, kind: &str| -> Vec<String> {
            let keys = of["KeySchema"].as_array().into_iter().flatten();
            let name = |key: &Value| key["AttributeName"].as_str().map(str::to_owned);
            keys.filter(|key| kind.is_empty() || key["KeyType"] == kind).filter_map(name).collect()
        };
        let indexes = description["GlobalSecondaryIndexes"].as_array().into_iter().flatten();
        Some(Self {
            hash: names(description, "HASH").pop()?,
            range: names(description, "RANGE").pop(),
            indexes: indexes.map(|index| names(index, "")).collect(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// The answer about a table `yard` with key (PK, SK) and one index over (D, due).
    pub(crate) fn description() -> Value {
        json!({"TableDescription": {
            "TableName": "yard",
            "KeySchema": [{"AttributeName": "PK", "KeyType": "HASH"}, {"AttributeName": "SK", "KeyType": "RANGE"}],
            "GlobalSecondaryIndexes": [{"IndexName": "GSI1", "KeySchema": [
                {"AttributeName": "D", "KeyType": "HASH"}, {"AttributeName": "due", "KeyType": "RANGE"}]}],
        }})
    }

    /// The tables that know `yard`.
    pub(crate) fn yard() -> Tables {
        let mut tables = Tables::default();
        tables.learn(&description());
        tables
    }

    #[test]
    fn an_item_is_the_same_by_its_key_and_by_itself() {
        let tables = yard();
        let key = json!({"PK": {"S": "J#1"}, "SK": {"S": "M"}});
        let item = json!({"SK": {"S": "M"}, "PK": {"S": "J#1"}, "phase": {"S": "held"}});
        assert_eq!(tables.key("yard", &key), tables.key("yard", &item));
        assert!(tables.key("yard", &key).is_some());
        assert_eq!(tables.key("other", &key), None);
    }

    #[test]
    fn a_deleted_table_is_forgotten() {
        let mut tables = yard();
        tables.learn(&json!({"TableDescription": {"TableName": "yard", "TableStatus": "DELETING"}}));
        assert_eq!(tables.get("yard"), None);
    }
}
