//! Rules that are read again while the yard runs: by whom, and what that changes.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Policies, Violations};
use crate::mapping::Mapping;

/// Rules that were put into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// When.
    pub at: Timestamp,
    /// The digest of their files.
    pub digest: String,
    /// What they change, one a line.
    pub changes: Vec<String>,
}

/// Why the rules in force stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReloaded {
    /// They are those that the program was built with.
    #[error("the rules in force are built in: there is no folder to read them from again")]
    BuiltIn,
    /// Those that were read are broken.
    #[error("the rules in force stay, because those that were read are broken:\n{0}")]
    Broken(Violations),
    /// They could not be read, or not be handed to the tasks.
    #[error("the rules in force stay: {0}")]
    Failed(String),
}

/// Whoever can read the rules again.
#[async_trait]
pub trait Reload: Send + Sync {
    /// Reads the policies and puts them into force, for whatever is decided or started from then on. Jobs that were
    /// accepted keep the needs they were accepted with.
    async fn reload(&self) -> Result<Reloaded, NotReloaded>;
}

/// What other rules change, one a line.
pub fn changes(old: &Policies, new: &Policies) -> Vec<String> {
    let capabilities = |policies: &Policies| policies.catalog.iter().map(|one| one.name.clone()).collect();
    let mut changes = compare("capability", &capabilities(old), &capabilities(new), |name| {
        old.catalog.get(name) == new.catalog.get(name)
    });
    let schedules = |policies: &Policies| policies.schedules.iter().map(|one| one.name.clone()).collect();
    let same = |name: &str| match (old.schedules.get(name), new.schedules.get(name)) {
        (Some(old), Some(new)) => old.says_the_same(new),
        (old, new) => old.is_none() && new.is_none(),
    };
    changes.extend(compare("schedule", &schedules(old), &schedules(new), same));
    let (was, is) = (by_name(old), by_name(new));
    let names = |of: &BTreeMap<&str, &Mapping>| of.keys().map(|name| (*name).to_owned()).collect();
    changes.extend(compare("mapping", &names(&was), &names(&is), |name| was.get(name) == is.get(name)));
    // Between two that are as specific the file's order decides.
    let order = |of: &Policies, both: &BTreeMap<&str, &Mapping>| -> Vec<String> {
        of.mappings.iter().map(|one| one.name.clone()).filter(|name| both.contains_key(name.as_str())).collect()
    };
    if order(old, &is) != order(new, &was) {
        changes.push("mappings: in another order".to_owned());
    }
    let policies = |policies: &Policies| policies.custodian.keys().cloned().collect();
    changes.extend(compare("policy", &policies(old), &policies(new), |path| {
        old.custodian.get(path) == new.custodian.get(path)
    }));
    if old.limits != new.limits {
        changes.push("limits and prices: changed".to_owned());
    }
    if old.ageing != new.ageing {
        changes.push("ageing: changed".to_owned());
    }
    if old.quotas.every != new.quotas.every {
        changes.push("quota of every caller: changed".to_owned());
    }
    let callers = |policies: &Policies| policies.quotas.callers.keys().cloned().collect();
    changes.extend(compare("quota of caller", &callers(old), &callers(new), |name| {
        old.quotas.callers.get(name) == new.quotas.callers.get(name)
    }));
    changes
}

fn by_name(policies: &Policies) -> BTreeMap<&str, &Mapping> {
    policies.mappings.iter().map(|mapping| (mapping.name.as_str(), mapping)).collect()
}

fn compare(what: &str, old: &BTreeSet<String>, new: &BTreeSet<String>, same: impl Fn(&str) -> bool) -> Vec<String> {
    let line = |name: &String| match (old.contains(name), new.contains(name)) {
        (true, true) if same(name) => None,
        (true, true) => Some(format!("{what} {name}: changed")),
        (false, _) => Some(format!("{what} {name}: added")),
        (true, false) => Some(format!("{what} {name}: removed")),
    };
    old.union(new).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::{CATALOG_FILE, Files, MAPPINGS_FILE, SCHEDULES_FILE};
    use crate::quota::{Quota, Quotas};

    fn policies(capabilities: &str, schedules: &str) -> Policies {
        let files = Files::from([
            (CATALOG_FILE.to_owned(), format!("version: 1\ncapabilities:\n{capabilities}")),
            (SCHEDULES_FILE.to_owned(), format!("version: 1\nschedules:\n{schedules}")),
        ]);
        Policies::parse(&files, &[], None).unwrap()
    }

    #[test]
    fn other_mappings_their_order_and_their_policies_are_told_by_name() {
        let policies = |mappings: &[(&str, &str)], text: &str| {
            let entry = |(name, region): &(&str, &str)| {
                format!(r#"{{"name": "{name}", "match": {{"region": "{region}"}}, "policies": ["custodian/x.yml"]}}"#)
            };
            let mappings: Vec<String> = mappings.iter().map(entry).collect();
            let files = Files::from([
                (CATALOG_FILE.to_owned(), "version: 1\ncapabilities: []\n".to_owned()),
                (MAPPINGS_FILE.to_owned(), format!(r#"{{"version": 1, "mappings": [{}]}}"#, mappings.join(","))),
                ("custodian/x.yml".to_owned(), text.to_owned()),
            ]);
            Policies::parse(&files, &[], None).unwrap()
        };
        let old = policies(&[("a", "r-1"), ("b", "r-1"), ("c", "r-1")], "policies: []\n");
        let new = policies(&[("d", "r-1"), ("b", "r-2"), ("a", "r-1")], "policies:\n");
        let expected = [
            "mapping b: changed",
            "mapping c: removed",
            "mapping d: added",
            "mappings: in another order",
            "policy custodian/x.yml: changed",
        ];
        assert_eq!(changes(&old, &new), expected);
        assert_eq!(changes(&new, &new), Vec::<String>::new());
    }

    #[test]
    fn what_other_rules_change_is_told_by_name() {
        let one = |name: &str| format!("  - {{ name: {name}, summary: s, run: {{ command: [a] }} }}\n");
        let often = |name: &str| format!("  - {{ name: {name}, rate_minutes: 5, capability: a }}\n");
        let old = policies(&(one("a") + &one("b") + &one("c")), &(often("x") + &often("y") + &often("z")));
        let new = policies(
            &(one("a") + &one("b").replace("[a]", "[b]") + &one("d")),
            &(often("x").replace('5', "6") + &often("w") + &often("z")),
        );
        let mut told = changes(&old, &new);
        told.extend(changes(&old, &Policies { limits: crate::route::Limits::one_machine(1), ..old.clone() }));
        let ageing = Some(std::time::Duration::from_secs(9));
        told.extend(changes(&old, &Policies { ageing, ..old.clone() }));
        let some = Quota { rate: None, open_jobs: Some(7) };
        let quotas = Quotas { every: some, callers: [("ci".to_owned(), some)].into() };
        told.extend(changes(&old, &Policies { quotas, ..old.clone() }));
        let expected = [
            "capability b: changed",
            "capability c: removed",
            "capability d: added",
            "schedule w: added",
            "schedule x: changed",
            "schedule y: removed",
            "limits and prices: changed",
            "ageing: changed",
            "quota of every caller: changed",
            "quota of caller ci: added",
        ];
        assert_eq!(told, expected);
        assert_eq!(changes(&old, &old), Vec::<String>::new());
    }
}
