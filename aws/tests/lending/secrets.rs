//! The store of secrets on AWS.

use aws_sdk_ssm::types::ParameterType;
use secrecy::ExposeSecret;
use switchyard_aws::clients::Clients;
use switchyard_aws::vault_secrets::AwsVault;
use switchyard_core::lend::SecretName;
use switchyard_faults::{Action, Proxy, Service, When};
use switchyard_vendors::{Vault, VaultError};

use crate::emulated::yard::{clients, clients_with, proxy};
use crate::emulated::{Emulator, on_emulators, unique};
use crate::heard::{listen, nothing_of, said};

struct Scene {
    proxy: Proxy,
    direct: Clients,
    prefix: String,
    vault: AwsVault,
}

async fn open(emulator: Emulator) -> Scene {
    listen();
    let (proxy, prefix) = (proxy(emulator), unique("yard"));
    let direct = clients(emulator.endpoint(), "SETUP");
    let through = clients_with(&proxy.endpoint(), "BROKER", |settings| settings.attempts = 2);
    // However it is written.
    let vault = AwsVault::new(&through, &format!("/{prefix}/"));
    Scene { proxy, direct, prefix, vault }
}

impl Scene {
    async fn secret(&self, name: &str) -> Result<String, VaultError> {
        let secret = self.vault.secret(&SecretName(name.into())).await;
        secret.map(|secret| secret.expose_secret().to_owned())
    }

    async fn parameter(&self, name: &str, value: &str, of: ParameterType) {
        let put = self.direct.ssm().put_parameter().name(name).value(value).r#type(of);
        put.overwrite(true).send().await.unwrap();
    }
}

async fn a_secret_is_read_as_it_is_now(scene: &Scene) {
    let secrets = scene.direct.secretsmanager();
    let name = format!("{}/github/app", scene.prefix);
    secrets.create_secret().name(&name).secret_string("CANARY-1\n").send().await.unwrap();
    assert_eq!(scene.secret("github/app").await.unwrap(), "CANARY-1\n");
    secrets.put_secret_value().secret_id(&name).secret_string("CANARY-2").send().await.unwrap();
    assert_eq!(scene.secret("github/app").await.unwrap(), "CANARY-2");
    let encrypted = format!("/{}/shodan", scene.prefix);
    scene.parameter(&encrypted, "CANARY-3", ParameterType::SecureString).await;
    assert_eq!(scene.secret("ssm:shodan").await.unwrap(), "CANARY-3");
    let asked = scene.proxy.records().requests("GetParameter").remove(0);
    assert_eq!((asked["Name"].as_str(), asked["WithDecryption"].as_bool()), (Some(encrypted.as_str()), Some(true)));
    nothing_of(&[]);
}

async fn what_is_not_there_or_no_secret_is_told_from_what_is(scene: &Scene) {
    for name in ["github/app", "ssm:shodan"] {
        assert!(matches!(scene.secret(name).await, Err(VaultError::Missing(found)) if found.0 == name), "{name}");
    }
    scene.parameter(&format!("/{}/plain", scene.prefix), "CANARY", ParameterType::String).await;
    let error = scene.secret("ssm:plain").await.unwrap_err();
    assert!(matches!(error, VaultError::Lasting { .. }) && said(&error).contains("no SecureString"));
    let binary = aws_sdk_secretsmanager::primitives::Blob::new(b"CANARY".to_vec());
    let name = format!("{}/binary", scene.prefix);
    scene.direct.secretsmanager().create_secret().name(name).secret_binary(binary).send().await.unwrap();
    let error = scene.secret("binary").await.unwrap_err();
    assert!(matches!(error, VaultError::Lasting { .. }) && said(&error).contains("it is binary"));
    // What lies beside the prefix is nobody's to read from here.
    let beside = unique("beside");
    scene.direct.secretsmanager().create_secret().name(&beside).secret_string("CANARY").send().await.unwrap();
    scene.parameter(&format!("/{beside}"), "CANARY", ParameterType::SecureString).await;
    for name in [beside.clone(), format!("../{beside}"), format!("ssm:{beside}"), format!("ssm:../{beside}")] {
        scene.secret(&name).await.unwrap_err();
    }
    nothing_of(&[]);
}

on_emulators! { open; both {
    a_secret_is_read_as_it_is_now
    what_is_not_there_or_no_secret_is_told_from_what_is
} one {} }

#[tokio::test]
async fn a_store_that_may_not_be_read_stays_so_and_one_that_is_down_does_not() {
    let scene = open(Emulator::Moto).await;
    for (service, operation, name) in [("secretsmanager", "GetSecretValue", "a"), ("ssm", "GetParameter", "ssm:a")] {
        for (code, status, passing) in [
            ("AccessDeniedException", 400, false),
            ("DecryptionFailure", 400, false),
            ("InvalidKeyId", 400, false),
            ("ThrottlingException", 400, true),
            ("InternalServiceError", 500, true),
            ("InternalServerError", 500, true),
        ] {
            let action = Action::Fail { code: code.into(), status, message: "As the service says it.".into() };
            let when = When::call(Service::Other(service.into()), operation);
            scene.proxy.script().on(when.first(9), action);
            let error = scene.secret(name).await.unwrap_err();
            let is_passing = matches!(error, VaultError::Passing { .. });
            assert!(!matches!(error, VaultError::Missing(_)) && is_passing == passing, "{code}: {error:?}");
            assert!(said(&error).contains(code), "{error}");
            scene.proxy.script().clear();
        }
        scene.proxy.script().on(When::call(Service::Other(service.into()), operation).first(9), Action::ResetBefore);
        let error = scene.secret(name).await.unwrap_err();
        assert!(matches!(error, VaultError::Passing { .. }), "{error:?}");
        scene.proxy.script().clear();
    }
}
