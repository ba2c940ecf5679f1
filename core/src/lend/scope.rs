//! What can be borrowed: a scope names one credential, a grant says which scopes a capability's jobs may have.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pattern::{Pattern, is_word};
use crate::catalog::{BadPayload, render};

/// Whose credential it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Kind {
    /// A role of AWS, assumed (STS AssumeRole).
    Aws,
    /// A service account of Google Cloud.
    Gcloud,
    /// An application registered with Microsoft Entra.
    Azure,
    /// An installation of a GitHub App, or a personal access token.
    Github,
    /// A value that is the same for every job, such as the key of a search service.
    Global,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Aws, Self::Gcloud, Self::Azure, Self::Github, Self::Global];

    /// Its name, in policies, records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Gcloud => "gcloud",
            Self::Azure => "azure",
            Self::Github => "github",
            Self::Global => "global",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a permission of a GitHub App goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Level {
    /// Look.
    Read,
    /// Look and change.
    Write,
    /// All there is.
    Admin,
}

impl Level {
    /// Its name, as GitHub spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// One credential, named to the letter: what a run asks for. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Scope {
    /// Temporary credentials of a role.
    Aws {
        /// The role's ARN.
        role: String,
    },
    /// An access token of a service account.
    Gcloud {
        /// The account's e-mail address.
        service_account: String,
        /// OAuth scopes; at least one.
        scopes: Vec<String>,
    },
    /// An access token of an application.
    Azure {
        /// The tenant's id or domain.
        tenant: String,
        /// The application's id.
        client_id: String,
        /// What the token is for, such as `https://management.azure.com/.default`.
        resource: String,
    },
    /// A token for repositories.
    Github {
        /// Who owns them.
        owner: String,
        /// Which, by name; at least one.
        repositories: Vec<String>,
        /// What may be done there; at least one permission of an App, none with a personal access token.
        #[serde(default)]
        permissions: BTreeMap<String, Level>,
    },
    /// A value kept in the yard's own store of secrets.
    Global {
        /// Its name there.
        secret: String,
    },
}

impl Scope {
    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Aws { .. } => Kind::Aws,
            Self::Gcloud { .. } => Kind::Gcloud,
            Self::Azure { .. } => Kind::Azure,
            Self::Github { .. } => Kind::Github,
            Self::Global { .. } => Kind::Global,
        }
    }

    /// Every text of it, with the name of its field: what is made of a payload's values, and checked.
    pub(crate) fn texts(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Aws { role } => vec![("role", role)],
            Self::Gcloud { service_account, scopes } => {
                let scopes = scopes.iter().map(|scope| ("scopes", scope.as_str()));
                std::iter::once(("service_account", service_account.as_str())).chain(scopes).collect()
            }
            Self::Azure { tenant, client_id, resource } => {
                vec![("tenant", tenant), ("client_id", client_id), ("resource", resource)]
            }
            Self::Github { owner, repositories, permissions } => {
                let repositories = repositories.iter().map(|name| ("repositories", name.as_str()));
                let permissions = permissions.keys().map(|name| ("permissions", name.as_str()));
                std::iter::once(("owner", owner.as_str())).chain(repositories).chain(permissions).collect()
            }
            Self::Global { secret } => vec![("secret", secret)],
        }
    }

    /// The same with each text replaced.
    pub(super) fn map<E>(&self, mut text: impl FnMut(&str) -> Result<String, E>) -> Result<Self, E> {
        let mut each = |texts: &[String]| texts.iter().map(|one| text(one)).collect::<Result<Vec<_>, E>>();
        Ok(match self {
            Self::Aws { role } => Self::Aws { role: text(role)? },
            Self::Gcloud { service_account, scopes } => {
                let scopes = each(scopes)?;
                Self::Gcloud { service_account: text(service_account)?, scopes }
            }
            Self::Azure { tenant, client_id, resource } => {
                Self::Azure { tenant: text(tenant)?, client_id: text(client_id)?, resource: text(resource)? }
            }
            Self::Github { owner, repositories, permissions } => {
                let repositories = each(repositories)?;
                Self::Github { owner: text(owner)?, repositories, permissions: permissions.clone() }
            }
            Self::Global { secret } => Self::Global { secret: text(secret)? },
        })
    }

    /// Whether it names one credential and could be none but that: what is wrong, if not. A value of a payload must not
    /// make a scope that means more than its grant.
    ///
    /// # Errors
    ///
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (field, text) in self.texts() {
            if text.is_empty() || text.len() > Self::TEXT_BYTES {
                return Err((field, format!("expected 1 to {} characters", Self::TEXT_BYTES)));
            }
            if let Some(odd) = text.chars().find(|c| !is_word(*c)) {
                return Err((field, format!("has {odd:?}, which no such name has")));
            }
        }
        match self {
            Self::Aws { role } if !is_role(role) => Err(("role", "expected the ARN of a role".to_owned())),
            Self::Gcloud { scopes, .. } => listed("scopes", scopes),
            Self::Github { repositories, permissions, .. } => {
                if let Some(name) = repositories.iter().find(|name| name.contains(['/', ':', '@'])) {
                    return Err((
                        "repositories",
                        format!("`{name}` is no name of a repository: its owner stands apart"),
                    ));
                }
                listed("repositories", repositories)?;
                if permissions.len() > Self::LISTED {
                    return Err(("permissions", format!("expected at most {}", Self::LISTED)));
                }
                Ok(())
            }
            Self::Aws { .. } | Self::Azure { .. } | Self::Global { .. } => Ok(()),
        }
    }

    /// It as a record keeps it: of what is no name of a credential only so much as may stand in a record.
    pub(super) fn kept(&self) -> Self {
        let cleaned = |text: &str| Ok::<_, std::convert::Infallible>(crate::job::one_line(text, 200));
        let mut kept = if self.check().is_ok() { Ok(self.clone()) } else { self.map(cleaned) };
        if let Ok(Self::Gcloud { scopes: list, .. } | Self::Github { repositories: list, .. }) = &mut kept {
            list.truncate(Self::LISTED);
        }
        match kept {
            Ok(kept) => kept,
            Err(never) => match never {},
        }
    }

    /// The longest text in a scope: an ARN has 2,048 at most (IAM quotas), and a record should stay small.
    pub const TEXT_BYTES: usize = 512;
    /// The most that is listed in a scope: repositories, OAuth scopes, permissions.
    pub const LISTED: usize = 50;
}

impl fmt::Display for Scope {
    /// For people: the kind and what is named.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aws { role } => write!(f, "aws {role}"),
            Self::Gcloud { service_account, scopes } => write!(f, "gcloud {service_account} for {}", scopes.join(" ")),
            Self::Azure { tenant, client_id, resource } => write!(f, "azure {client_id} of {tenant} for {resource}"),
            Self::Github { owner, repositories, permissions } => {
                write!(f, "github {owner}/{}", repositories.join(","))?;
                permissions.iter().try_for_each(|(name, level)| write!(f, " {name}:{}", level.as_str()))
            }
            Self::Global { secret } => write!(f, "global {secret}"),
        }
    }
}

fn listed(field: &'static str, list: &[String]) -> Result<(), (&'static str, String)> {
    match list.len() {
        0 => Err((field, "expected at least one".to_owned())),
        n if n > Scope::LISTED => Err((field, format!("expected at most {}", Scope::LISTED))),
        _ => Ok(()),
    }
}

/// Whether a text is the ARN of a role: `arn:PARTITION:iam::ACCOUNT:role/PATH` (IAM, "IAM identifiers").
fn is_role(arn: &str) -> bool {
    let parts: Vec<&str> = arn.split(':').collect();
    matches!(parts[..], ["arn", partition, "iam", "", account, role]
        if !partition.is_empty()
            && account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && role.strip_prefix("role/").is_some_and(|name| !name.is_empty() && !name.split('/').any(str::is_empty)))
}

/// What each run of a capability is lent: a scope whose texts may hold `{{field}}`, for a field of the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Borrow {
    /// The name under which the run finds it: lower-case letters, digits and `-`.
    pub name: String,
    /// What is to be lent.
    pub template: Scope,
}

impl Borrow {
    /// What a run with this payload is to be lent.
    ///
    /// # Errors
    ///
    /// A field is missing or does not fit, or its value makes no name of a credential.
    pub fn scope(&self, payload: &Value) -> Result<Scope, BadPayload> {
        let scope = self.template.map(|text| render(text, payload, None))?;
        scope.check().map_err(|(field, what)| BadPayload {
            path: String::new(),
            message: format!("makes no scope of loan `{}`: {field} {what}", self.name),
        })?;
        Ok(scope)
    }
}

/// Where a vendor's own key or token is kept: a name in the yard's store of secrets. On AWS it is a secret of Secrets Manager,
/// or with `ssm:` in front a parameter of Systems Manager; on one machine an entry of the operator's file, to the letter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretName(pub String);

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What jobs of a capability may borrow, and how that is got. In its patterns a `*` stands for any characters but `:`, `/`
/// and `@`, so that it never reaches into the next part of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which scopes, and how.
    pub of: GrantOf,
    /// The longest that one loan may last, where that is less than the kind's own limit: in seconds.
    pub at_most_seconds: Option<u32>,
}

/// A grant, by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantOf {
    /// Roles that the broker may assume.
    Aws {
        /// Their ARNs.
        role: Pattern,
        /// The external id that their trust policies ask for.
        external_id: Option<String>,
        /// A session policy, JSON text: what a loan can do at most, whatever its role can (IAM, "Session policies").
        session_policy: Option<String>,
    },
    /// Service accounts.
    Gcloud {
        /// Their e-mail addresses.
        service_account: Pattern,
        /// OAuth scopes that may be asked for, to the letter.
        scopes: Vec<String>,
        /// How a token is got.
        by: GcloudBy,
    },
    /// An application.
    Azure {
        /// The tenant, to the letter.
        tenant: String,
        /// The application, to the letter.
        client_id: String,
        /// What tokens may be for, to the letter.
        resources: Vec<String>,
        /// How it shows who it is.
        by: AzureBy,
    },
    /// Repositories.
    Github {
        /// Their owner, to the letter.
        owner: String,
        /// Their names.
        repositories: Vec<Pattern>,
        /// What may be done there at most.
        permissions: BTreeMap<String, Level>,
        /// How a token is got.
        by: GithubBy,
    },
    /// Values in the yard's store of secrets.
    Global {
        /// Their names.
        secret: Pattern,
    },
}

/// How a token of Google Cloud is got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GcloudBy {
    /// By the service account's own key: its JSON file is this secret (RFC 7523).
    Key(SecretName),
    /// By workload identity federation: the broker's own identity token is exchanged at this provider (RFC 8693), and the
    /// service account is impersonated. Nothing is stored.
    Federation {
        /// The provider: `//iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`.
        audience: String,
    },
}

/// How an application shows Microsoft Entra who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzureBy {
    /// By a client secret.
    Secret(SecretName),
    /// By a signed assertion: this secret holds the certificate and its private key, PEM (RFC 7523).
    Certificate(SecretName),
    /// By the broker's own identity token, as the application's federated credential has it. Nothing is stored.
    Federation,
}

/// How a token of GitHub is got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GithubBy {
    /// By an App: a token of its installation, narrowed to the scope.
    App {
        /// The App's id or client id.
        app_id: String,
        /// The installation at the owner.
        installation_id: u64,
        /// The App's private key, PEM.
        key: SecretName,
    },
    /// A personal access token, lent as it is: it cannot be narrowed, and its scope says what its owner gave it.
    Token(SecretName),
}

impl Grant {
    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        match &self.of {
            GrantOf::Aws { .. } => Kind::Aws,
            GrantOf::Gcloud { .. } => Kind::Gcloud,
            GrantOf::Azure { .. } => Kind::Azure,
            GrantOf::Github { .. } => Kind::Github,
            GrantOf::Global { .. } => Kind::Global,
        }
    }

    /// Whether this scope may be lent by it.
    pub fn covers(&self, scope: &Scope) -> bool {
        match (&self.of, scope) {
            (GrantOf::Aws { role: granted, .. }, Scope::Aws { role }) => granted.matches(role),
            (
                GrantOf::Gcloud { service_account: granted, scopes: may, .. },
                Scope::Gcloud { service_account, scopes },
            ) => granted.matches(service_account) && scopes.iter().all(|scope| may.contains(scope)),
            (
                GrantOf::Azure { tenant: of, client_id: by, resources, .. },
                Scope::Azure { tenant, client_id, resource },
            ) => of == tenant && by == client_id && resources.contains(resource),
            (
                GrantOf::Github { owner: of, repositories: may, permissions: most, by },
                Scope::Github { owner, repositories, permissions },
            ) => {
                // GitHub takes no permissions to mean all that its App has.
                let narrowed = match by {
                    GithubBy::App { .. } => !permissions.is_empty(),
                    GithubBy::Token(_) => permissions.is_empty(),
                };
                let within = |(name, level): (&String, &Level)| most.get(name).is_some_and(|most| level <= most);
                owner.eq_ignore_ascii_case(of)
                    && repositories.iter().all(|name| may.iter().any(|pattern| pattern.matches(name)))
                    && narrowed
                    && permissions.iter().all(within)
            }
            (GrantOf::Global { secret: granted }, Scope::Global { secret }) => granted.matches(secret),
            (
                GrantOf::Aws { .. }
                | GrantOf::Gcloud { .. }
                | GrantOf::Azure { .. }
                | GrantOf::Github { .. }
                | GrantOf::Global { .. },
                _,
            ) => false,
        }
    }
}
