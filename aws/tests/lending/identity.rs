//! The broker's own identity. No emulator signs such a token, so the proxy answers in AWS's place; what a federation makes
//! of one, the vendors' own tests show.

use secrecy::ExposeSecret;
use switchyard_aws::identity_sts::StsIdentity;
use switchyard_faults::{Action, Service, When};
use switchyard_vendors::Identity;

use crate::emulated::Emulator;
use crate::emulated::yard::{clients_with, proxy};
use crate::heard::{listen, nothing_of, said};

const OPERATION: &str = "GetWebIdentityToken";

fn answer(parts: &str) -> String {
    format!(
        "<GetWebIdentityTokenResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetWebIdentityTokenResult>\
         {parts}</GetWebIdentityTokenResult></GetWebIdentityTokenResponse>"
    )
}

#[tokio::test]
async fn sts_vouches_for_the_broker_towards_one_audience_for_minutes() {
    listen();
    let proxy = proxy(Emulator::Moto);
    let identity = StsIdentity::new(&clients_with(&proxy.endpoint(), "BROKER", |settings| settings.attempts = 2));
    let ask = |action: Action| {
        proxy.script().clear();
        proxy.script().on(When::call(Service::Sts, OPERATION).first(9), action);
        identity.token("api://AzureADTokenExchange")
    };
    let token = "<WebIdentityToken>ey.CANARY.sig</WebIdentityToken><Expiration>2099-01-01T00:00:00Z</Expiration>";
    let got = ask(Action::Replace(answer(token))).await.unwrap();
    assert_eq!(got.expose_secret(), "ey.CANARY.sig");
    let asked = proxy.records().requests(OPERATION).remove(0);
    assert_eq!(asked["Audience.member.1"], "api://AzureADTokenExchange");
    assert_eq!((&asked["SigningAlgorithm"], &asked["DurationSeconds"]), (&"RS256".into(), &"300".into()));
    for (code, retryable) in [
        ("OutboundWebIdentityFederationDisabledException", false),
        ("AccessDenied", false),
        ("JWTPayloadSizeExceededException", false),
        ("SessionDurationEscalationException", false),
        ("Throttling", true),
    ] {
        let error = ask(Action::fail(code, "As STS says it.")).await.unwrap_err();
        assert_eq!(error.retryable, retryable, "{code}");
        let whom = "cannot get the broker's identity for api://AzureADTokenExchange: ";
        assert!(said(&error).starts_with(&format!("{whom}{code}")), "{}", said(&error));
    }
    for body in [answer(""), answer("<WebIdentityToken></WebIdentityToken>"), "<html>CANARY".to_owned()] {
        said(&ask(Action::Replace(body)).await.unwrap_err());
    }
    nothing_of(&[]);
}
