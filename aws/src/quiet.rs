//! What libraries may say in a log. Those that carry requests tell whole requests at their most verbose, with the tokens and
//! credentials in them.

use tracing::{Level, Metadata};

/// Libraries by what their targets begin with, whose most verbose level tells what is sent and received: the SDK's, and
/// those under it.
const CARRIERS: [&str; 7] = ["aws_", "h2", "hyper", "lambda_runtime", "reqwest", "rustls", "tower"];

/// Whether a log may have this, whatever level its reader asked for.
pub fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    may_say(metadata.target(), *metadata.level())
}

fn may_say(target: &str, level: Level) -> bool {
    level <= Level::DEBUG || !CARRIERS.iter().any(|carrier| target.starts_with(carrier))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_carries_requests_is_never_as_verbose_as_to_repeat_them() {
        for target in
            ["aws_smithy_runtime::client::orchestrator", "aws_sigv4::http_request::sign", "hyper::proto::h1::io"]
        {
            assert!(!may_say(target, Level::TRACE) && may_say(target, Level::DEBUG), "{target}");
        }
        assert!(may_say("switchyard_core::lend", Level::TRACE));
    }
}
