//! THE table of risky calls: which, how much they weigh, and why; and what else of a record is worth a word.
//!
//! The points are a judgement of this project's, on a scale where 50 stops others from seeing what comes next. What
//! tells harmless calls from harmful ones is looked at in the request, never guessed from names.

use serde_json::Value;

use super::record::Record;

/// Why a call is worth a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reason {
    /// A stable word for it.
    pub(super) code: &'static str,
    /// What it adds to the risk of whoever calls.
    pub(super) points: u16,
    /// Why, for people.
    pub(super) because: &'static str,
}

/// What else must be so.
type When = fn(&Record<'_>) -> bool;

/// One row: the calls of a service that one reason is about.
struct Row(&'static str, &'static [&'static str], &'static str, u16, &'static str, When);

const ALWAYS: When = |_| true;

/// The calls. Several rows can meet one.
const TABLE: &[Row] = &[
    Row(
        "cloudtrail",
        &["StopLogging", "DeleteTrail"],
        "trail_off",
        50,
        "what comes next is no longer recorded",
        ALWAYS,
    ),
    Row("cloudtrail", &["DeleteEventDataStore"], "trail_off", 50, "what comes next is no longer recorded", ALWAYS),
    Row(
        "cloudtrail",
        &["UpdateTrail", "PutEventSelectors"],
        "trail_changed",
        25,
        "what is recorded has changed",
        ALWAYS,
    ),
    Row(
        "guardduty",
        &["DeleteDetector", "DisassociateFromMasterAccount"],
        "guard_off",
        50,
        "threats are no longer looked for",
        ALWAYS,
    ),
    Row(
        "guardduty",
        &["DisassociateFromAdministratorAccount", "StopMonitoringMembers"],
        "guard_off",
        50,
        "threats are no longer looked for",
        ALWAYS,
    ),
    Row("guardduty", &["UpdateDetector"], "guard_off", 50, "threats are no longer looked for", switched_off),
    Row(
        "guardduty",
        &["CreateFilter", "UpdateFilter"],
        "findings_hidden",
        20,
        "findings may be archived unseen",
        ALWAYS,
    ),
    Row(
        "config",
        &["StopConfigurationRecorder", "DeleteConfigurationRecorder"],
        "config_off",
        40,
        "changes are no longer recorded",
        ALWAYS,
    ),
    Row(
        "config",
        &["DeleteDeliveryChannel", "DeleteConfigRule"],
        "config_off",
        40,
        "changes are no longer recorded",
        ALWAYS,
    ),
    Row(
        "securityhub",
        &["DisableSecurityHub", "BatchDisableStandards"],
        "hub_off",
        40,
        "findings are no longer gathered",
        ALWAYS,
    ),
    Row("macie2", &["DisableMacie"], "macie_off", 30, "data are no longer looked through", ALWAYS),
    Row("inspector2", &["Disable"], "inspector_off", 30, "weak software is no longer looked for", ALWAYS),
    Row("access-analyzer", &["DeleteAnalyzer"], "analyzer_off", 20, "what is shared is no longer looked for", ALWAYS),
    Row("ec2", &["DeleteFlowLogs"], "flow_logs_off", 30, "traffic is no longer recorded", ALWAYS),
    Row("logs", &["DeleteLogGroup", "DeleteLogStream"], "logs_deleted", 25, "what was logged is gone", ALWAYS),
    Row(
        "organizations",
        &["LeaveOrganization"],
        "organization_left",
        50,
        "the organisation's guard rails no longer hold",
        ALWAYS,
    ),
    Row("iam", &["CreateAccessKey"], "access_key", 20, "a key that lasts was made", ALWAYS),
    Row("iam", &["CreateLoginProfile", "UpdateLoginProfile"], "password", 20, "a user's password was set", ALWAYS),
    Row("iam", &["CreateUser"], "user_created", 10, "a user was made", ALWAYS),
    Row(
        "iam",
        &["DeactivateMFADevice", "DeleteVirtualMFADevice"],
        "mfa_off",
        25,
        "a login needs no second factor any more",
        ALWAYS,
    ),
    Row(
        "iam",
        &["AttachUserPolicy", "AttachRolePolicy", "AttachGroupPolicy"],
        "administrator",
        40,
        "it made somebody administrator",
        administrator,
    ),
    Row(
        "iam",
        &["AttachUserPolicy", "AttachRolePolicy", "AttachGroupPolicy"],
        "permissions",
        10,
        "it changed what somebody may",
        ALWAYS,
    ),
    Row(
        "iam",
        &["PutUserPolicy", "PutRolePolicy", "PutGroupPolicy", "CreatePolicyVersion"],
        "administrator",
        40,
        "it made somebody administrator",
        grants_all,
    ),
    Row(
        "iam",
        &["PutUserPolicy", "PutRolePolicy", "PutGroupPolicy", "CreatePolicyVersion"],
        "permissions",
        10,
        "it changed what somebody may",
        ALWAYS,
    ),
    Row(
        "iam",
        &["AddUserToGroup", "SetDefaultPolicyVersion"],
        "permissions",
        10,
        "it changed what somebody may",
        ALWAYS,
    ),
    Row(
        "iam",
        &["DeleteRolePermissionsBoundary", "DeleteUserPermissionsBoundary"],
        "boundary_off",
        25,
        "a bound to what somebody may is gone",
        ALWAYS,
    ),
    Row("iam", &["UpdateAssumeRolePolicy", "CreateRole"], "role_open", 30, "anybody may become this role", open_to_all),
    Row("iam", &["UpdateAssumeRolePolicy"], "role_trust", 15, "it changed who may become a role", ALWAYS),
    Row(
        "iam",
        &["CreateSAMLProvider", "CreateOpenIDConnectProvider", "UpdateSAMLProvider"],
        "identity_provider",
        25,
        "others decide who logs in",
        ALWAYS,
    ),
    Row("sts", &["AssumeRole"], "other_account", 10, "it came from another account", from_another_account),
    Row("sts", &["GetFederationToken"], "federation", 10, "a session that outlives its key", ALWAYS),
    Row("signin", &["ConsoleLogin"], "login_without_mfa", 25, "it logged in without a second factor", without_mfa),
    Row("signin", &["ConsoleLogin"], "login_failed", 5, "it failed to log in", |record| {
        told(&record.response(), "ConsoleLogin", "Failure")
    }),
    Row("s3", &["PutBucketPolicy"], "bucket_public", 40, "a bucket is open to anybody", open_to_all),
    Row(
        "s3",
        &["PutBucketPolicy", "DeleteBucketPolicy"],
        "bucket_policy",
        10,
        "it changed who may use a bucket",
        ALWAYS,
    ),
    Row("s3", &["PutBucketAcl", "PutObjectAcl"], "bucket_public", 40, "a bucket is open to anybody", acl_for_all),
    Row(
        "s3",
        &["DeleteBucketPublicAccessBlock", "DeleteAccountPublicAccessBlock", "DeletePublicAccessBlock"],
        "public_access_block",
        20,
        "nothing keeps a bucket from being opened",
        ALWAYS,
    ),
    Row(
        "s3",
        &["PutBucketPublicAccessBlock", "PutAccountPublicAccessBlock", "PutPublicAccessBlock"],
        "public_access_block",
        20,
        "nothing keeps a bucket from being opened",
        unblocks,
    ),
    Row("s3", &["DeleteBucketEncryption"], "encryption_off", 15, "what is stored is encrypted otherwise", ALWAYS),
    Row(
        "ec2",
        &["AuthorizeSecurityGroupIngress", "ModifySecurityGroupRules"],
        "open_to_world",
        30,
        "a port is open to all addresses",
        from_anywhere,
    ),
    Row(
        "ec2",
        &["ModifySnapshotAttribute", "ModifyImageAttribute"],
        "snapshot_public",
        40,
        "a disk is open to anybody",
        for_group_all,
    ),
    Row(
        "ec2",
        &["ModifySnapshotAttribute", "ModifyImageAttribute"],
        "snapshot_shared",
        15,
        "it changed who may read a disk",
        ALWAYS,
    ),
    Row(
        "ec2",
        &["DisableEbsEncryptionByDefault"],
        "encryption_off",
        15,
        "what is stored is encrypted otherwise",
        ALWAYS,
    ),
    Row("ec2", &["GetPasswordData"], "machine_password", 20, "a machine's password was read", ALWAYS),
    Row(
        "ec2",
        &["EnableSerialConsoleAccess"],
        "serial_console",
        20,
        "machines can be reached past their network",
        ALWAYS,
    ),
    Row(
        "rds",
        &["ModifyDBSnapshotAttribute", "ModifyDBClusterSnapshotAttribute"],
        "snapshot_public",
        40,
        "a disk is open to anybody",
        shared_with_all,
    ),
    Row("kms", &["ScheduleKeyDeletion"], "key_deleted", 40, "what a key encrypts will be lost", ALWAYS),
    Row("kms", &["DisableKey"], "key_disabled", 30, "what a key encrypts cannot be read", ALWAYS),
    Row("kms", &["PutKeyPolicy", "CreateGrant"], "key_open", 30, "anybody may use a key", open_to_all),
    Row(
        "lambda",
        &["AddPermission20150331v2", "AddPermission20150331", "AddPermission"],
        "function_public",
        25,
        "anybody may call a function",
        open_to_all,
    ),
    Row("secretsmanager", &["DeleteSecret"], "secret_deleted", 15, "a secret is gone", ALWAYS),
    Row("secretsmanager", &["PutResourcePolicy"], "secret_open", 40, "anybody may read a secret", open_to_all),
    Row("ssm", &["SendCommand", "StartSession"], "command", 10, "it ran commands on machines", ALWAYS),
];

const ROOT: Reason =
    Reason { code: "root", points: 30, because: "it is the account's root user, who needs no permission" };

/// What of a record adds to the risk of whoever made it.
pub(super) fn judge(record: &Record<'_>) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let service = record.event_source.strip_suffix(".amazonaws.com").unwrap_or(&record.event_source);
    for Row(source, calls, code, points, because, when) in TABLE {
        if *source == service && calls.contains(&record.event_name.as_ref()) && when(record) {
            reasons.push(Reason { code, points: *points, because });
        }
    }
    if is_root(record) {
        reasons.push(ROOT);
    }
    reasons
}

/// Whether a call was refused for want of permission.
pub(super) fn denied(record: &Record<'_>) -> bool {
    let code = record.error_code.as_deref().unwrap_or_default();
    // Services write `AccessDenied`, `AccessDeniedException` and `Client.UnauthorizedOperation`.
    code.starts_with("AccessDenied") || code.ends_with("UnauthorizedOperation")
}

/// Services act in root's name on their own; that is nobody's login.
fn is_root(record: &Record<'_>) -> bool {
    let service = record.event_type.as_deref() == Some("AwsServiceEvent");
    let identity = record.user_identity.as_ref();
    !service
        && identity.is_some_and(|identity| identity.kind.as_deref() == Some("Root") && identity.invoked_by.is_none())
}

fn told(value: &Value, field: &str, expected: &str) -> bool {
    value.get(field).and_then(Value::as_str) == Some(expected)
}

/// Federated logins have their second factor elsewhere, and CloudTrail says No of them all.
fn without_mfa(record: &Record<'_>) -> bool {
    let kind = record.user_identity.as_ref().and_then(|identity| identity.kind.as_deref());
    matches!(kind, Some("IAMUser" | "Root"))
        && told(&record.response(), "ConsoleLogin", "Success")
        && told(&record.additional(), "MFAUsed", "No")
}

fn from_another_account(record: &Record<'_>) -> bool {
    let theirs = record.user_identity.as_ref().and_then(|identity| identity.account_id.as_deref());
    theirs.zip(record.recipient_account_id.as_deref()).is_some_and(|(theirs, ours)| theirs != ours)
}

fn administrator(record: &Record<'_>) -> bool {
    let request = record.request();
    let policy = request.get("policyArn").and_then(Value::as_str).unwrap_or_default();
    policy.ends_with(":aws:policy/AdministratorAccess") || policy.ends_with(":aws:policy/IAMFullAccess")
}

fn switched_off(record: &Record<'_>) -> bool {
    record.request().get("enable") == Some(&Value::Bool(false))
}

fn unblocks(record: &Record<'_>) -> bool {
    any(&record.request(), &|value| value == &Value::Bool(false) || value.as_str() == Some("false"))
}

fn from_anywhere(record: &Record<'_>) -> bool {
    any_text(&record.request(), &|text| matches!(text, "0.0.0.0/0" | "::/0"))
}

fn acl_for_all(record: &Record<'_>) -> bool {
    let groups = |text: &str| {
        ["public-read", "public-read-write", "authenticated-read"].contains(&text)
            || text.ends_with("/global/AllUsers")
            || text.ends_with("/global/AuthenticatedUsers")
    };
    any_text(&record.request(), &groups)
}

/// Whether launch or create permission is given to the group `all`, and not taken from it.
fn for_group_all(record: &Record<'_>) -> bool {
    let request = record.request();
    let permission = request.get("createVolumePermission").or_else(|| request.get("launchPermission"));
    permission.and_then(|permission| permission.get("add")).is_some_and(|add| any_text(add, &|text| text == "all"))
}

fn shared_with_all(record: &Record<'_>) -> bool {
    record.request().get("valuesToAdd").is_some_and(|add| any_text(add, &|text| text == "all"))
}

/// Whether a policy in the request allows anybody something, without a condition.
fn open_to_all(record: &Record<'_>) -> bool {
    let request = record.request();
    if told(&request, "principal", "*") {
        return true;
    }
    let anybody = |statement: &Value| {
        let principal = statement.get("Principal").or_else(|| statement.get("principal"));
        let is_all = |value: &Value| any_text(value, &|text| text == "*");
        principal.is_some_and(is_all) && statement.get("Condition").is_none()
    };
    statements(&request).iter().any(|statement| told(statement, "Effect", "Allow") && anybody(statement))
}

/// Whether a policy in the request allows everything on everything.
fn grants_all(record: &Record<'_>) -> bool {
    let all = |statement: &Value, field: &str| {
        statement.get(field).is_some_and(|value| any_text(value, &|text| matches!(text, "*" | "*:*" | "iam:*")))
    };
    let admin = |statement: &Value| {
        let anywhere = statement.get("Resource").is_some_and(|value| any_text(value, &|text| text == "*"));
        told(statement, "Effect", "Allow") && all(statement, "Action") && anywhere
    };
    statements(&record.request()).iter().any(admin)
}

/// The statements of the policies in a request, which are written as text in most calls and as JSON in some.
fn statements(request: &Value) -> Vec<Value> {
    let documents = ["policyDocument", "assumeRolePolicyDocument", "bucketPolicy", "policy", "resourcePolicy"];
    let document = documents.iter().find_map(|field| request.get(field));
    let parsed = match document {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
        Some(document) => document.clone(),
        None => Value::Null,
    };
    match parsed.get("Statement") {
        Some(Value::Array(statements)) => statements.clone(),
        Some(statement) => vec![statement.clone()],
        None => Vec::new(),
    }
}

/// Whether this is so of any part of a value. No deeper than a value was read, which is 128 levels.
fn any(value: &Value, so: &dyn Fn(&Value) -> bool) -> bool {
    so(value)
        || match value {
            Value::Array(values) => values.iter().any(|value| any(value, so)),
            Value::Object(fields) => fields.values().any(|value| any(value, so)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
}

fn any_text(value: &Value, so: &dyn Fn(&str) -> bool) -> bool {
    any(value, &|value| value.as_str().is_some_and(so))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn codes(record: &Value) -> Vec<&'static str> {
        let text = record.to_string();
        let record = Record::read(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
        judge(&record).into_iter().map(|reason| reason.code).collect()
    }

    /// A call by a user, and what was asked for.
    fn call(source: &str, name: &str, request: Value) -> Value {
        json!({
            "eventSource": format!("{source}.amazonaws.com"), "eventName": name, "recipientAccountId": "111122223333",
            "userIdentity": { "type": "IAMUser", "arn": "arn:aws:iam::111122223333:user/ada", "accountId": "111122223333" },
            "requestParameters": request,
        })
    }

    #[test]
    fn every_row_of_the_table() {
        let rows = TABLE.iter().map(|Row(source, calls, code, points, because, when)| {
            let looked_at = if std::ptr::fn_addr_eq(*when, ALWAYS) { "" } else { " (the request decides)" };
            format!("{points:>3} {code}: {source} {}{looked_at}: {because}", calls.join(" "))
        });
        insta::assert_snapshot!(rows.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn a_call_is_told_from_its_harmless_like_by_what_was_asked_for() {
        let policy = |statement: Value| json!({ "policyDocument": json!({ "Statement": [statement] }).to_string() });
        let cases = [
            (
                call("iam", "AttachUserPolicy", json!({ "policyArn": "arn:aws:iam::aws:policy/AdministratorAccess" })),
                "administrator",
                true,
            ),
            (
                call(
                    "iam",
                    "AttachUserPolicy",
                    json!({ "policyArn": "arn:aws-cn:iam::aws:policy/AdministratorAccess" }),
                ),
                "administrator",
                true,
            ),
            (
                call("iam", "AttachUserPolicy", json!({ "policyArn": "arn:aws:iam::aws:policy/ReadOnlyAccess" })),
                "administrator",
                false,
            ),
            (
                call("iam", "AttachUserPolicy", json!({ "policyArn": "arn:aws:iam::1:policy/NotAdministratorAccess" })),
                "administrator",
                false,
            ),
            (
                call("iam", "PutRolePolicy", policy(json!({ "Effect": "Allow", "Action": "*", "Resource": "*" }))),
                "administrator",
                true,
            ),
            (
                call("iam", "PutRolePolicy", policy(json!({ "Effect": "Allow", "Action": ["s3:*"], "Resource": "*" }))),
                "administrator",
                false,
            ),
            (
                call("iam", "PutRolePolicy", policy(json!({ "Effect": "Deny", "Action": "*", "Resource": "*" }))),
                "administrator",
                false,
            ),
            (call("iam", "PutRolePolicy", json!({ "policyDocument": "not JSON" })), "administrator", false),
            (
                call(
                    "iam",
                    "UpdateAssumeRolePolicy",
                    policy(json!({ "Effect": "Allow", "Principal": { "AWS": "*" } })),
                ),
                "role_open",
                true,
            ),
            (
                call(
                    "iam",
                    "UpdateAssumeRolePolicy",
                    policy(json!({ "Effect": "Allow", "Principal": { "Service": "ec2.amazonaws.com" } })),
                ),
                "role_open",
                false,
            ),
            (
                call(
                    "s3",
                    "PutBucketPolicy",
                    json!({ "bucketPolicy": { "Statement": [{ "Effect": "Allow", "Principal": "*" }] } }),
                ),
                "bucket_public",
                true,
            ),
            (
                call(
                    "s3",
                    "PutBucketPolicy",
                    json!({ "bucketPolicy": { "Statement": [{ "Effect": "Allow", "Principal": "*", "Condition": {} }] } }),
                ),
                "bucket_public",
                false,
            ),
            (call("s3", "PutBucketAcl", json!({ "x-amz-acl": ["public-read"] })), "bucket_public", true),
            (call("s3", "PutBucketAcl", json!({ "x-amz-acl": ["private"] })), "bucket_public", false),
            (
                call(
                    "ec2",
                    "AuthorizeSecurityGroupIngress",
                    json!({ "ipPermissions": { "items": [{ "ipRanges": { "items": [{ "cidrIp": "0.0.0.0/0" }] } }] } }),
                ),
                "open_to_world",
                true,
            ),
            (call("ec2", "AuthorizeSecurityGroupIngress", json!({ "cidrIpv6": "::/0" })), "open_to_world", true),
            (call("ec2", "AuthorizeSecurityGroupIngress", json!({ "cidrIp": "10.0.0.0/8" })), "open_to_world", false),
            (
                call(
                    "ec2",
                    "ModifySnapshotAttribute",
                    json!({ "createVolumePermission": { "add": { "items": [{ "group": "all" }] } } }),
                ),
                "snapshot_public",
                true,
            ),
            (
                call(
                    "ec2",
                    "ModifySnapshotAttribute",
                    json!({ "createVolumePermission": { "remove": { "items": [{ "group": "all" }] } } }),
                ),
                "snapshot_public",
                false,
            ),
            (call("guardduty", "UpdateDetector", json!({ "enable": false })), "guard_off", true),
            (call("guardduty", "UpdateDetector", json!({ "enable": true })), "guard_off", false),
            (call("kms", "ScheduleKeyDeletion", json!({})), "key_deleted", true),
            (call("example", "ScheduleKeyDeletion", json!({})), "key_deleted", false),
            (call("cloudtrail", "StopLogging", Value::Null), "trail_off", true),
        ];
        for (record, code, met) in cases {
            assert_eq!(codes(&record).contains(&code), met, "{code}: {record:#}");
        }
    }

    #[test]
    fn who_called_and_how_they_logged_in_is_looked_at() {
        let login = |kind: &str, mfa: &str, login: &str| {
            codes(&json!({
                "eventSource": "signin.amazonaws.com", "eventName": "ConsoleLogin", "userIdentity": { "type": kind },
                "responseElements": { "ConsoleLogin": login }, "additionalEventData": { "MFAUsed": mfa },
            }))
        };
        assert_eq!(login("IAMUser", "No", "Success"), ["login_without_mfa"]);
        assert_eq!(login("IAMUser", "Yes", "Success"), Vec::<&str>::new());
        assert_eq!(login("AssumedRole", "No", "Success"), Vec::<&str>::new());
        assert_eq!(login("IAMUser", "No", "Failure"), ["login_failed"]);
        assert_eq!(login("Root", "No", "Success"), ["login_without_mfa", "root"]);
        let mut service =
            json!({ "eventSource": "kms.amazonaws.com", "eventName": "Decrypt", "userIdentity": { "type": "Root" } });
        assert_eq!(codes(&service), ["root"]);
        service["userIdentity"]["invokedBy"] = "s3.amazonaws.com".into();
        assert_eq!(codes(&service), Vec::<&str>::new());
        let mut role = call("sts", "AssumeRole", json!({}));
        assert_eq!(codes(&role), Vec::<&str>::new());
        role["userIdentity"]["accountId"] = "999999999999".into();
        assert_eq!(codes(&role), ["other_account"]);
    }
}
