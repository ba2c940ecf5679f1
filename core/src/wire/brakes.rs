//! Pauses as they are stored, and what the API shows of brakes and depths.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Ms, WireCause, WireError, bad, from_ms, ms, shown};
use crate::brake::{Pause, Scope};
use crate::catalog::Catalog;
use crate::job::{Phase, Tier};
use crate::ports::Depths;

/// The version of a stored pause.
const PAUSE_VERSION: u32 = 1;

/// What a pause is over: `"all"`, `{"tier": …}` or `{"capability": …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ScopeView {
    /// Every job.
    All,
    /// A tier's jobs.
    Tier(Tier),
    /// A capability's jobs.
    Capability(String),
}

impl From<&Scope> for ScopeView {
    fn from(scope: &Scope) -> Self {
        match scope {
            Scope::All => Self::All,
            Scope::Tier(tier) => Self::Tier(*tier),
            Scope::Capability(name) => Self::Capability(name.clone()),
        }
    }
}

impl From<ScopeView> for Scope {
    fn from(view: ScopeView) -> Self {
        match view {
            ScopeView::All => Self::All,
            ScopeView::Tier(tier) => Self::Tier(tier),
            ScopeView::Capability(name) => Self::Capability(name),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct PauseWire {
    v: u32,
    scope: ScopeView,
    by: String,
    at: Ms,
    reason: String,
}

/// A pause as it is stored.
pub fn encode_pause(pause: &Pause) -> String {
    let Pause { scope, by, at, reason } = pause;
    let wire = PauseWire { v: PAUSE_VERSION, scope: scope.into(), by: by.clone(), at: ms(*at), reason: reason.clone() };
    serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("a pause is always JSON: {error}"))
}

/// The pause that [`encode_pause`] made.
///
/// # Errors
///
/// [`WireError`]: it is none, or one of a newer version.
pub fn decode_pause(text: &str) -> Result<Pause, WireError> {
    let what = "a pause";
    let PauseWire { v, scope, by, at, reason } = serde_json::from_str(text).map_err(|error| bad(what, error))?;
    if v != PAUSE_VERSION {
        return Err(bad(what, WireCause::Version { found: v, known: PAUSE_VERSION }));
    }
    Ok(Pause { scope: scope.into(), by, at: from_ms(at).map_err(|cause| bad(what, cause))?, reason })
}

/// A pause as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PauseView {
    /// What it is over.
    pub scope: ScopeView,
    /// Who paused.
    pub by: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Why; left out when nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl From<&Pause> for PauseView {
    fn from(pause: &Pause) -> Self {
        let Pause { scope, by, at, reason } = pause;
        Self { scope: scope.into(), by: by.clone(), since: shown(*at), reason: reason.clone() }
    }
}

/// The yard at a glance: what is paused, what waits and for how long, what is limited, what ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct YardView {
    /// The pauses in force, the widest first.
    pub pauses: Vec<PauseView>,
    /// Every tier, the highest first.
    pub tiers: Vec<TierView>,
    /// Jobs that have not ended, by state; states without any are left out.
    pub open: Vec<StateCount>,
    /// Capabilities with a limit, and others of which jobs are held.
    pub capabilities: Vec<LimitView>,
    /// Jobs that ended in the last hour, by state.
    pub ended_last_hour: Vec<StateCount>,
}

/// What waits in a tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TierView {
    /// The tier.
    pub tier: Tier,
    /// Jobs that wait for a worker.
    pub waiting: u64,
    /// Jobs that are held.
    pub held: u64,
    /// How long the oldest of them all has waited; left out when none waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<u64>,
}

/// How many jobs are in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StateCount {
    /// The state.
    pub state: Phase,
    /// How many.
    pub jobs: u64,
}

/// How much of its limit a capability uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitView {
    /// The capability.
    pub capability: String,
    /// How many of its jobs may be dispatched or running at once; left out where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u16>,
    /// How many of its jobs have a permit, or run without one since there was no limit.
    pub used: u64,
    /// Jobs that are held back.
    pub held: u64,
}

impl YardView {
    /// The view of these depths, counted now, under these pauses and limits.
    pub fn of<'a>(depths: &Depths, pauses: impl Iterator<Item = &'a Pause>, catalog: &Catalog, now: Timestamp) -> Self {
        let count = |(state, jobs): &(Phase, u64)| StateCount { state: *state, jobs: *jobs };
        let tier = |tier: Tier| {
            let depth = depths.tiers.iter().find(|depth| depth.tier == tier);
            TierView {
                tier,
                waiting: depth.map_or(0, |depth| depth.waiting),
                held: depth.map_or(0, |depth| depth.held),
                oldest_seconds: depth.map(|depth| now.duration_since(depth.oldest).as_secs().max(0).unsigned_abs()),
            }
        };
        let unused = |name: &str| !depths.capabilities.iter().any(|(other, ..)| other == name);
        let idle = catalog.iter().filter(|listed| listed.concurrent.is_some() && unused(&listed.name));
        let mut capabilities: Vec<LimitView> = depths
            .capabilities
            .iter()
            .map(|(name, used, held)| LimitView {
                capability: name.clone(),
                limit: catalog.get(name).and_then(|listed| listed.concurrent),
                used: *used,
                held: *held,
            })
            // What runs without a limit is nobody's concern here.
            .filter(|view| view.limit.is_some() || view.held > 0)
            .chain(idle.map(|listed| LimitView {
                capability: listed.name.clone(),
                limit: listed.concurrent,
                used: 0,
                held: 0,
            }))
            .collect();
        capabilities.sort_by(|one, other| one.capability.cmp(&other.capability));
        Self {
            pauses: pauses.map(PauseView::from).collect(),
            tiers: Tier::ALL.into_iter().map(tier).collect(),
            open: depths.open.iter().map(count).collect(),
            capabilities,
            ended_last_hour: depths.ended.iter().map(count).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::TierDepth;
    use crate::testing::{at, limited};

    fn pauses() -> [Pause; 3] {
        let pause = |scope| Pause { scope, by: "ana".into(), at: at(5), reason: "it is down".into() };
        [Scope::All, Scope::Tier(Tier::Priority), Scope::Capability("nmap".into())].map(pause)
    }

    #[test]
    fn a_pause_is_read_back_as_it_was_and_a_newer_one_is_refused() {
        for pause in pauses() {
            assert_eq!(decode_pause(&encode_pause(&pause)).unwrap(), pause);
        }
        let texts: Vec<String> = pauses().iter().map(encode_pause).collect();
        insta::assert_snapshot!(texts.join("\n"));
        assert!(decode_pause(&texts[0].replace("\"v\":1", "\"v\":2")).is_err());
    }

    #[test]
    fn the_yard_at_a_glance() {
        let depths = Depths {
            open: vec![(Phase::Held, 4), (Phase::Running, 3)],
            tiers: vec![TierDepth { tier: Tier::Standard, waiting: 2, held: 4, oldest: at(0) }],
            capabilities: vec![("gone".into(), 0, 2), ("runs-freely".into(), 7, 0)],
            ended: vec![(Phase::Succeeded, 17)],
        };
        let catalog = limited(Some(3)).policies.catalog.clone();
        let view = YardView::of(&depths, pauses().iter(), &catalog, at(90));
        insta::assert_snapshot!(serde_json::to_string_pretty(&view).unwrap());
    }
}
