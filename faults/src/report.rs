//! What the records add up to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::call::Service;
use crate::records::{Records, Row, Tally};

impl Tally {
    /// A table by service and operation, over all clients, with a line for the total.
    pub fn table(&self) -> String {
        let mut sums: BTreeMap<(&Service, &str), Row> = BTreeMap::new();
        for (_, service, operation, _) in self.rows() {
            sums.entry((service, operation)).or_insert_with(|| self.of(service, operation));
        }
        let mut table = format!(
            "{:<12} {:<36} {:>9} {:>8} {:>8} {:>13} {:>13} {:>14}\n",
            "service", "operation", "requests", "faulted", "errors", "bytes in", "bytes out", "dollars"
        );
        for ((service, operation), row) in sums {
            line(&mut table, service.as_str(), operation, row);
        }
        line(&mut table, "total", "", self.total());
        table
    }
}

fn line(table: &mut String, service: &str, operation: &str, row: Row) {
    let Row { requests, faulted, errors, bytes_in, bytes_out, nanodollars } = row;
    let dollars = format!("{}.{:09}", nanodollars / 1_000_000_000, nanodollars % 1_000_000_000);
    // Writing to a string cannot fail.
    let _ = writeln!(
        table,
        "{service:<12} {operation:<36} {requests:>9} {faulted:>8} {errors:>8} {bytes_in:>13} {bytes_out:>13} {dollars:>14}"
    );
}

/// The same by client too, as `GET /_faults/records` has it.
pub(crate) fn summary(records: &Records) -> Value {
    let tally = records.tally();
    let fields = |row: Row| {
        json!({
            "requests": row.requests,
            "faulted": row.faulted,
            "errors": row.errors,
            "bytes_in": row.bytes_in,
            "bytes_out": row.bytes_out,
            "nanodollars": row.nanodollars,
        })
    };
    let kinds = tally.rows().map(|(client, service, operation, row)| {
        let mut kind = fields(row);
        kind["client"] = json!(client);
        kind["service"] = json!(service.as_str());
        kind["operation"] = json!(operation);
        kind
    });
    json!({
        "total": fields(tally.total()),
        "operations": kinds.collect::<Vec<_>>(),
        "beyond": records.beyond(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tests::record;

    fn records() -> Records {
        let records = Records::new(10);
        records.push(record("a", Service::Sqs, "SendMessage", 400));
        records.push(record("b", Service::Sqs, "SendMessage", 400));
        records.push(record("a", Service::DynamoDb, "PutItem", 1_000_000_625));
        records
    }

    #[test]
    fn the_table_adds_up_clients() {
        insta::assert_snapshot!(records().tally().table());
    }

    #[test]
    fn the_summary_keeps_clients_apart() {
        insta::assert_json_snapshot!(summary(&records()));
    }
}
