//! Who calls, and how far their role reaches.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::Api;
use crate::problem::{Code, Problem};

/// How far a caller reaches. Each role reaches as far as the one before it, and further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Sees everything, changes nothing.
    Viewer,
    /// Submits jobs, and cancels or retries those it submitted.
    Submitter,
    /// Does everything: also to others' jobs, and delivers events.
    Operator,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Submitter, Self::Operator];

    /// The role's name in files, on the command line and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| "expected viewer, submitter or operator".to_owned())
    }
}

/// Who calls: what a job's `caller` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The role's or user's name, never the session's.
    pub name: String,
    /// How far it reaches.
    pub role: Role,
}

impl Caller {
    /// Refuses a change to a job of somebody else, unless the caller is an operator.
    pub(crate) fn may_change(&self, job: &switchyard_core::job::Job) -> Result<(), Problem> {
        match self.role {
            Role::Operator => Ok(()),
            Role::Viewer | Role::Submitter if job.work.caller == self.name => Ok(()),
            Role::Viewer | Role::Submitter => Err(Problem::new(
                Code::NotYours,
                format!("job {} is another caller's: only its submitter or an operator changes it", job.id),
            )),
        }
    }
}

/// Why nobody is known to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// Nothing was shown.
    Silent,
    /// What was shown is nobody's.
    Unknown,
    /// The authorizer in front has let a request through of which it does not say whose it is.
    Unnamed,
}

/// Tells who calls by what a request shows: a bearer token, or what an authorizer in front has found out.
pub trait Callers: Send + Sync {
    /// The caller.
    ///
    /// # Errors
    ///
    /// [`Stranger`]: nobody that is known.
    fn who(&self, request: &Parts) -> Result<Caller, Stranger>;
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::new(Code::Internal, "an open route asks who calls"))
    }
}

/// Lets in whoever reaches as far as the route asks.
pub(crate) async fn admit(State((api, least)): State<(Arc<Api>, Role)>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let caller = match api.callers.who(&parts) {
        Ok(caller) => caller,
        Err(stranger) => {
            let detail = match stranger {
                Stranger::Silent => "send `Authorization: Bearer TOKEN`",
                Stranger::Unknown => "this token is not the yard's",
                Stranger::Unnamed => "the authorizer in front does not say who calls",
            };
            return Problem::new(Code::Unauthorized, detail).into_response();
        }
    };
    if caller.role < least {
        let detail = format!("`{}` is a {}: this takes the role {least}", caller.name, caller.role);
        return Problem::new(Code::Forbidden, detail).into_response();
    }
    parts.extensions.insert(caller.clone());
    let mut response = next.run(Request::from_parts(parts, body)).await;
    // For the log.
    response.extensions_mut().insert(caller);
    response
}
