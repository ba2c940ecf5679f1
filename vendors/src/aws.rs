//! AWS: what a role is assumed with, decided here as values. Who can call STS does it with them.

use std::fmt;
use std::time::Duration;

use jiff::{Timestamp, Unit};
use secrecy::SecretString;
use serde_json::{Value, json};
use switchyard_core::lend::{Credential, Issued, Order, Refused, RefusedCode};

/// The shortest and the longest session: STS gives none under 15 minutes, and a role that assumes another an hour at most
/// (AssumeRole, `DurationSeconds`; IAM, "Role chaining").
const SESSION_SECONDS: (u64, u64) = (900, 3600);
/// The longest session policy, in characters (AssumeRole, `Policy`).
const POLICY_CHARACTERS: usize = 2048;

/// One session of a role, as STS is asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The role's ARN.
    pub role: String,
    /// Its name: the job and epoch. CloudTrail shows it as the last part of whoever did something.
    pub name: String,
    /// Who it is for: the job. It stays through every further role that is assumed with the session's credentials, and so tells
    /// the job there, too.
    pub source_identity: String,
    /// What the role's trust policy may ask for.
    pub external_id: Option<String>,
    /// Tags of the session: the job, its epoch and its capability, for policies and CloudTrail. They are not transitive: the
    /// source identity tells the job of further roles, and transitive tags would have each of those allow `sts:TagSession`.
    pub tags: Vec<(&'static str, String)>,
    /// How long it lasts. A loan can end before it, by `policy`.
    pub duration_seconds: u32,
    /// What it can do at most, and until when: the grant's own policy, or anything, and a statement that denies everything
    /// once the loan is over. JSON.
    pub policy: String,
}

impl Session {
    /// The session of an order. A session of STS cannot be as short as a loan can, and cannot be ended; what its credentials can
    /// do ends with the loan instead.
    ///
    /// # Errors
    ///
    /// The grant's session policy leaves no room for that, or is none.
    pub fn new(
        order: &Order,
        role: &str,
        external_id: Option<&str>,
        session_policy: Option<&str>,
    ) -> Result<Self, Refused> {
        let Order { job, epoch, capability, now, until, .. } = order;
        let rest = Duration::try_from(until.duration_since(*now)).unwrap_or_default();
        let seconds = rest.as_secs().clamp(SESSION_SECONDS.0, SESSION_SECONDS.1);
        Ok(Self {
            role: role.to_owned(),
            name: format!("switchyard-{job}-{epoch}"),
            source_identity: format!("switchyard-{job}"),
            external_id: external_id.map(str::to_owned),
            tags: vec![
                ("switchyard:job", job.to_string()),
                ("switchyard:epoch", epoch.to_string()),
                ("switchyard:capability", capability.clone()),
            ],
            duration_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
            policy: policy(session_policy, *until)?,
        })
    }
}

/// The grant's policy with the loan's end. Conditions know whole seconds: the end is cut to them, and is never late.
fn policy(given: Option<&str>, until: Timestamp) -> Result<String, Refused> {
    let refused = |what: &str| Refused::new(RefusedCode::NoLender, format!("the grant's session policy {what}"));
    let all = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": "*", "Resource": "*" }] });
    let mut policy = match given {
        Some(text) => serde_json::from_str(text).map_err(|_| refused("is no JSON"))?,
        None => all,
    };
    let cut = jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Trunc);
    let end = until.round(cut).unwrap_or(until).to_string();
    let over = json!({
        "Effect": "Deny", "Action": "*", "Resource": "*",
        "Condition": { "DateGreaterThan": { "aws:CurrentTime": end } },
    });
    match policy.get_mut("Statement").and_then(Value::as_array_mut) {
        Some(statements) => statements.push(over),
        None => return Err(refused("has no list of statements")),
    }
    let text = policy.to_string();
    let most = POLICY_CHARACTERS;
    match text.chars().count() {
        fits if fits <= most => Ok(text),
        n => Err(refused(&format!("has {n} characters with the loan's end, and {most} is the most"))),
    }
}

/// Temporary credentials of an assumed role.
#[derive(Clone)]
pub struct Assumed {
    /// Which these are; not secret.
    pub access_key_id: String,
    /// What requests are signed with.
    pub secret_access_key: SecretString,
    /// What is sent along.
    pub session_token: SecretString,
    /// When the session ends.
    pub expires: Timestamp,
}

impl Assumed {
    pub(crate) fn into_issued(self) -> Issued {
        let Self { access_key_id, secret_access_key, session_token, expires } = self;
        let reference = Some(access_key_id.clone());
        let credential = Credential::Aws { access_key_id, secret_access_key, session_token };
        Issued { credential, expires: Some(expires), reference, revocable: false }
    }
}

impl fmt::Debug for Assumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assumed").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::job::{Epoch, JobId};
    use switchyard_core::lend::{Grant, GrantOf, Pattern, Scope};

    use super::*;

    const ROLE: &str = "arn:aws:iam::111122223333:role/scan";

    fn order(seconds: u64) -> Order {
        let now = Timestamp::from_millisecond(1_800_000_000_900).unwrap();
        let of = GrantOf::Aws { role: Pattern::new(ROLE).unwrap(), external_id: None, session_policy: None };
        Order {
            grant: Grant { of, at_most_seconds: None },
            scope: Scope::Aws { role: ROLE.to_owned() },
            job: JobId::keyed("tests", "one"),
            epoch: Epoch(u32::MAX),
            capability: "c".repeat(64),
            now,
            until: now + Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_session_can_do_nothing_after_the_loan_and_lasts_no_shorter_than_it() {
        for (seconds, lasts, end) in [
            (1, 900, "2027-01-15T08:00:01Z"),
            (899, 900, "2027-01-15T08:14:59Z"),
            (901, 901, "2027-01-15T08:15:01Z"),
            (3600, 3600, "2027-01-15T09:00:00Z"),
            (9000, 3600, "2027-01-15T10:30:00Z"),
        ] {
            let session = Session::new(&order(seconds), ROLE, None, None).unwrap();
            assert_eq!(session.duration_seconds, lasts);
            let policy: Value = serde_json::from_str(&session.policy).unwrap();
            let expected = json!({ "Version": "2012-10-17", "Statement": [
                { "Effect": "Allow", "Action": "*", "Resource": "*" },
                { "Effect": "Deny", "Action": "*", "Resource": "*",
                  "Condition": { "DateGreaterThan": { "aws:CurrentTime": end } } },
            ] });
            assert_eq!(policy, expected, "cut to seconds, and never later than the loan");
        }
    }

    #[test]
    fn a_grants_own_policy_takes_the_place_of_anything_and_not_of_the_end() {
        let given =
            r#"{"Version":"2012-10-17","Id":"x","Statement":[{"Effect":"Allow","Action":"s3:Get*","Resource":"*"}]}"#;
        let session = Session::new(&order(60), ROLE, Some("yard"), Some(given)).unwrap();
        let policy: Value = serde_json::from_str(&session.policy).unwrap();
        assert_eq!((&policy["Id"], &policy["Statement"][0]["Action"]), (&json!("x"), &json!("s3:Get*")));
        assert_eq!(policy["Statement"][1]["Effect"], "Deny");
        assert_eq!(policy["Statement"].as_array().unwrap().len(), 2);
        assert_eq!(session.external_id.as_deref(), Some("yard"));
    }

    #[test]
    fn a_policy_that_leaves_no_room_for_the_end_is_refused() {
        let of = |n: usize| format!(r#"{{"Statement":[{{"Sid":"{}"}}],"Version":"2012-10-17"}}"#, "s".repeat(n));
        // What a catalog takes at most fits.
        let most = of(1800 - of(0).len());
        assert!(Session::new(&order(60), ROLE, None, Some(&most)).is_ok());
        for (policy, why) in [(of(1900), "is the most"), ("{".into(), "is no JSON"), ("{}".into(), "no list")] {
            let refused = Session::new(&order(60), ROLE, None, Some(&policy)).unwrap_err();
            assert!(refused.code == RefusedCode::NoLender && refused.message.contains(why), "{refused}");
        }
    }

    #[test]
    fn names_and_tags_fit_what_sts_takes() {
        let session = Session::new(&order(60), ROLE, None, None).unwrap();
        // AssumeRole: 2 to 64 of these for either name; keys of 128, values of 256 characters.
        for name in [&session.name, &session.source_identity] {
            let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
            assert!((2..=64).contains(&name.len()) && name.chars().all(fits), "{name}");
        }
        for (key, value) in &session.tags {
            assert!(key.len() <= 128 && value.len() <= 256 && !key.starts_with("aws:"), "{key} {value}");
        }
    }
}
