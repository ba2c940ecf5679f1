//! `switchyard explain`: where a job would go, and why not elsewhere; asked of a yard, or decided here as AWS would.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::json;
use switchyard_core::cost::dollars;
use switchyard_core::intake::{self, Submission, Taking};
use switchyard_core::job::Tier;
use switchyard_core::policies::Situation;
use switchyard_core::route::{Conditions, Needs, Packaging, Pin, PoolName, explain, starting};
use switchyard_core::wire::{Explanation, Supposed};

use crate::args::{Explain, Need, Suppose};
use crate::client::Client;
use crate::exit::Failure;
use crate::local::INLINE_BUDGET;
use crate::{policies, show};

/// Explains by a yard that runs.
pub(crate) fn ask(client: &Client, explain: &Explain, json: bool) -> Result<u8, Failure> {
    let Some(capability) = &explain.capability else {
        return Err(Failure::BadInput(
            "name a capability; or give --run and what else it needs, with --aws to decide without a yard".to_owned(),
        ));
    };
    if explain.need.run.is_some() {
        return Err(Failure::BadInput(
            "--run describes what no catalog names: it goes with --aws, and no capability".to_owned(),
        ));
    }
    let body = json!({
        "capability": capability,
        "payload": show::payload(&explain.payload)?,
        "tier": explain.tier,
        "conditions": supposed(&explain.suppose)?,
    });
    let answer = client.post("/v1/explain", Some(body.to_string().as_bytes()), None)?;
    print(&answer, json)
}

/// Explains by the policies in a folder, or those built in, as the yard on AWS would decide.
pub(crate) fn decide(asked: &Explain, json: bool) -> Result<u8, Failure> {
    let policies = policies::as_on_aws(asked.policies.as_deref())?;
    let tier: Tier = serde_json::from_value(asked.tier.clone().into())
        .map_err(|error| Failure::BadInput(format!("--tier: {error}")))?;
    // As if a request had taken it: with --left 0 there is none.
    let invocation_left = Some(INLINE_BUDGET);
    let situation = Situation { policies: policies.into(), ..Situation::default() };
    let (needs, conditions) = match (&asked.capability, asked.need.run) {
        (Some(capability), None) => {
            let submission = Submission {
                capability: capability.clone(),
                payload: show::payload(&asked.payload)?,
                tier,
                labels: std::collections::BTreeMap::new(),
                run_timeout_seconds: None,
                start_within_seconds: None,
                delay_seconds: None,
                announce: false,
            };
            let taking = Taking { invocation_left, companions: 0 };
            let plan = intake::plan(&submission, &situation, taking)
                .map_err(|rejected| Failure::BadInput(rejected.to_string()))?;
            (plan.needs, plan.conditions)
        }
        (None, Some(run)) => {
            (needs(&asked.need, run.into())?, Conditions { tier, invocation_left, ..Conditions::default() })
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(Failure::BadInput("expected either a capability or --run".to_owned()));
        }
    };
    let conditions = supposed(&asked.suppose)?.over(conditions);
    print(&Explanation::from(&explain(&needs, &conditions, situation.limits())), json)
}

/// What was described on the command line instead of in a catalog; the defaults are the catalog's.
fn needs(need: &Need, packaging: Packaging) -> Result<Needs, Failure> {
    let pins = |name: &str, pins: &[String]| {
        let read =
            pins.iter().map(|pin| pin.parse::<Pin>().map_err(|error| Failure::BadInput(format!("--{name}: {error}"))));
        read.collect::<Result<Vec<Pin>, Failure>>()
    };
    if !(0.001..=192.0).contains(&need.vcpu) {
        return Err(Failure::BadInput("--vcpu: expected 0.001 to 192".to_owned()));
    }
    Ok(Needs {
        packaging,
        expected: need.expected.map(Duration::from_secs),
        memory_mib: need.memory,
        milli_vcpu: (need.vcpu * 1000.0) as u32,
        docker: need.docker,
        privileged: need.privileged,
        network_tools: need.network_tools,
        static_address: need.static_ip,
        isolate: need.isolate,
        interruptible: !need.no_interruptible,
        only: pins("only", &need.only)?,
        prefer: pins("prefer", &need.prefer)?,
    })
}

fn supposed(suppose: &Suppose) -> Result<Supposed, Failure> {
    let pool = |name: &String| name.parse::<PoolName>().map_err(|error| Failure::BadInput(format!("--free: {error}")));
    let free = suppose.free.iter().map(pool).collect::<Result<Vec<_>, Failure>>()?;
    Ok(Supposed {
        invocation_left_seconds: suppose.left,
        free_pools: (!free.is_empty()).then_some(free),
        companions: suppose.batch.map(|jobs| jobs - 1),
        interruptions: suppose.interruptions,
        launches_exhausted: suppose.launches_exhausted.then_some(true),
    })
}

fn print(explanation: &Explanation, json: bool) -> Result<u8, Failure> {
    if json {
        show::print_json(explanation)?;
        return Ok(0);
    }
    let target = starting(explanation.start_target_ms);
    show::print(&match explanation.venue {
        None => "refused: no venue can run it".to_owned(),
        Some(venue) => {
            let pool = explanation.pool.map(|pool| format!("/{pool}")).unwrap_or_default();
            let costs = dollars(explanation.estimated_nanodollars);
            format!("{venue}{pool}: {} (target {target}, {costs} a run)", explanation.reason)
        }
    })?;
    show::print("")?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["VENUE", "VERDICT", "STARTS IN", "COSTS", "REASON"]);
    for verdict in &explanation.verdicts {
        let pool = verdict.pool.map(|pool| format!("/{pool}")).unwrap_or_default();
        let found = match (verdict.chosen, verdict.rule) {
            (true, _) => "chosen",
            (false, None) => "feasible",
            (false, Some(_)) => "rejected",
        };
        table.add_row([
            format!("{}{pool}", verdict.venue),
            found.to_owned(),
            starting(verdict.start_ms),
            dollars(verdict.nanodollars),
            verdict.reason.clone(),
        ]);
    }
    for column in [2, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    show::print(&table.trim_fmt())?;
    if let Some(observed) = &explanation.observed {
        let suggests = observed.suggests.as_ref().map(|what| format!("; suggests {what}")).unwrap_or_default();
        let seconds = observed.p95_seconds.map(|seconds| format!(", 95 % within {seconds} s")).unwrap_or_default();
        let memory = observed.p95_memory_mib.map(|mib| format!(", 95 % within {mib} MiB")).unwrap_or_default();
        show::print("")?;
        show::print(&format!("observed: {} runs{seconds}{memory}{suggests}", observed.runs))?;
    }
    Ok(0)
}
