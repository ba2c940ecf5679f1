//! One record of CloudTrail, as far as it is judged (CloudTrail record contents, version 1.11). All else is passed over
//! without being held.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// A record. Texts are as they came: whoever keeps or shows one cleans it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record<'a> {
    #[serde(borrow)]
    pub(super) event_source: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) event_name: Cow<'a, str>,
    #[serde(borrow, default)]
    event_time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) event_type: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "sourceIPAddress")]
    pub(super) source_address: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) error_code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) recipient_account_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) user_identity: Option<Identity<'a>>,
    #[serde(borrow, default)]
    request_parameters: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response_elements: Option<&'a RawValue>,
    #[serde(borrow, default)]
    additional_event_data: Option<&'a RawValue>,
}

/// Who called.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    arn: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    principal_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) account_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    user_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) invoked_by: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    session_context: Option<Session<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session<'a> {
    #[serde(borrow, default)]
    session_issuer: Option<Issuer<'a>>,
}

#[derive(Debug, Default, Deserialize)]
struct Issuer<'a> {
    #[serde(borrow, default)]
    arn: Option<Cow<'a, str>>,
}

impl<'a> Record<'a> {
    /// Reads a record; `None` for what is none.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// When, as CloudTrail writes it (`2026-01-31T12:00:00Z`), which sorts as it stands; `None` where it is written
    /// otherwise.
    pub(super) fn at(&self) -> Option<&str> {
        let at = self.event_time.as_deref()?;
        let fits = |(at, byte): (usize, u8)| match at {
            4 | 7 => byte == b'-',
            10 => byte == b'T',
            13 | 16 => byte == b':',
            19 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        };
        (at.len() == 20 && at.bytes().enumerate().all(fits)).then_some(at)
    }

    /// Whether the call came to nothing.
    pub(super) fn failed(&self) -> bool {
        self.error_code.as_deref().is_some_and(|code| !code.is_empty())
    }

    /// Who called, by the name that all of their sessions have.
    pub(super) fn principal(&self) -> Cow<'_, str> {
        let Some(identity) = &self.user_identity else { return Cow::Borrowed("unknown") };
        let account = || identity.account_id.as_deref().or(self.recipient_account_id.as_deref()).unwrap_or("unknown");
        let role = identity.session_context.as_ref().and_then(|session| session.session_issuer.as_ref());
        match identity.kind.as_deref() {
            Some("Root") => return Cow::Owned(format!("root of {}", account())),
            Some("AWSService") => {
                if let Some(service) = &identity.invoked_by {
                    return Cow::Borrowed(service);
                }
            }
            Some("AWSAccount") => return Cow::Owned(format!("account {}", account())),
            _ => {}
        }
        let known =
            [role.and_then(|role| role.arn.as_deref()), identity.arn.as_deref(), identity.principal_id.as_deref()];
        let user = || identity.user_name.as_deref().map(|user| Cow::Owned(format!("{user} of {}", account())));
        known
            .into_iter()
            .flatten()
            .find(|name| !name.is_empty())
            .map(Cow::Borrowed)
            .or_else(user)
            .unwrap_or("unknown".into())
    }

    /// What was asked for; null where it is deeper than a reader bears.
    pub(super) fn request(&self) -> Value {
        parse(self.request_parameters)
    }

    /// What was answered.
    pub(super) fn response(&self) -> Value {
        parse(self.response_elements)
    }

    /// What the service adds.
    pub(super) fn additional(&self) -> Value {
        parse(self.additional_event_data)
    }
}

fn parse(raw: Option<&RawValue>) -> Value {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}
