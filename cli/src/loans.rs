//! `switchyard loans`: what was lent to whom, as a table.

use switchyard_api::LoansPage;
use switchyard_core::job::one_line;
use switchyard_core::wire::{LoanOutcomeName, LoanView};

use crate::client::{Client, quote};
use crate::exit::Failure;
use crate::show::{plain_table, print, print_json};

/// Lists the newest.
pub(crate) fn list(
    client: &Client,
    job: Option<&str>,
    since: Option<&str>,
    limit: u16,
    json: bool,
) -> Result<u8, Failure> {
    let mut path = format!("/v1/loans?limit={limit}");
    for (name, value) in [("job", job), ("since", since)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", quote(value)));
        }
    }
    let page: LoansPage = client.get(&path)?;
    if json {
        print_json(&page)?;
    } else {
        print(&text(&page))?;
    }
    Ok(0)
}

fn text(page: &LoansPage) -> String {
    let mut table = plain_table();
    table.set_header(["AT", "JOB", "EPOCH", "CAPABILITY", "FOR", "SCOPE", "BECAME"]);
    for loan in &page.loans {
        table.add_row([
            one_line(&loan.at, 40),
            loan.job.to_string(),
            loan.epoch.to_string(),
            one_line(&loan.capability, 64),
            one_line(&loan.caller, 60),
            one_line(&loan.scope.to_string(), 300),
            became(loan),
        ]);
    }
    let mut parts = vec![table.trim_fmt()];
    if page.next.is_some() {
        parts.push("there are older ones; --limit shows up to 500".to_owned());
    }
    parts.join("\n")
}

fn became(loan: &LoanView) -> String {
    match loan.outcome {
        LoanOutcomeName::Lent => {
            format!("lent until {}", one_line(loan.until.as_deref().unwrap_or("its run's end"), 40))
        }
        LoanOutcomeName::Refused => {
            let code = loan.code.map_or("refused", |code| code.as_str());
            format!("{code}: {}", one_line(loan.message.as_deref().unwrap_or_default(), 300))
        }
        LoanOutcomeName::Returned if loan.revoked == Some(true) => "given back, and ended by its vendor".to_owned(),
        LoanOutcomeName::Returned => "given back; its vendor cannot end it early".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn loans_as_people_see_them() {
        let loan = |n: u8, scope: serde_json::Value, became: serde_json::Value| {
            let mut loan = json!({
                "id": format!("019c13a5-9c00-7000-8000-0000000000{n:02x}"), "at": "2026-01-31T12:00:00.000Z",
                "job": "019c13a5-9c00-7000-8000-000000000001", "epoch": n, "capability": "audit", "caller": "ana",
                "holder": "worker-1/5f3a", "scope": scope,
            });
            loan.as_object_mut().unwrap().extend(became.as_object().unwrap().clone());
            loan
        };
        let role = json!({ "kind": "aws", "role": "arn:aws:iam::123456789012:role/scan" });
        let evil = json!({ "kind": "global", "secret": "a\u{1b}[2J\u{202e}b" });
        let first = "019c13a5-9c00-7000-8000-000000000001";
        let page: LoansPage = serde_json::from_value(json!({
            "loans": [
                loan(3, role.clone(), json!({ "outcome": "returned", "loan": first, "revoked": false })),
                loan(3, role.clone(), json!({ "outcome": "returned", "loan": first, "revoked": true })),
                loan(2, evil, json!({ "outcome": "refused", "code": "scope_not_allowed", "message": "no\u{1b}[2J" })),
                loan(1, role, json!({ "outcome": "lent", "until": "2026-01-31T13:00:00.000Z", "reference": "ASIA1" })),
            ],
            "next": first,
        }))
        .unwrap();
        insta::assert_snapshot!(text(&page));
    }
}
