//! What lies in the folder of a run's credentials. A file is whole whenever it is read: it is written under another name, and
//! then renamed.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use secrecy::ExposeSecret;
use serde::Serialize;
use switchyard_core::lend::{Credential, Kind, Loan};
use zeroize::Zeroizing;

use super::endpoint::Endpoint;
use super::folder::OfRun;
use super::{CREDENTIALS, Handed, IN_CONTAINER, OfAws, Reader, Slot, default_of_aws};

/// What is shown to the endpoint. No loan is called so: there is no `.` in their names.
const TOKEN: &str = "endpoint.token";
/// Profiles of AWS that name where their credentials are.
const CONFIG: &str = "config.ini";
/// Profiles of AWS with their credentials.
const SHARED: &str = "credentials.ini";
/// More than credentials of AWS take as text: a session token has no fixed length, and about 1,000 characters (STS). A text that
/// grew would leave copies of itself behind.
const ROOM: usize = 8 * 1024;

/// The folder of one run's credentials.
pub(super) struct Files {
    folder: OfRun,
    reader: Reader,
}

/// Temporary credentials as a `credential_process` prints them (AWS SDKs and Tools, "Process credential provider").
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ProcessCredentials<'a> {
    version: u32,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    expiration: &'a str,
}

impl Files {
    pub(super) fn new(folder: OfRun, reader: Reader) -> Self {
        Self { folder, reader }
    }

    /// The folder as the program sees it.
    fn seen(&self) -> &Path {
        match self.reader {
            Reader::Process => self.folder.path(),
            Reader::Container => Path::new(IN_CONTAINER),
        }
    }

    /// What the program is handed. `endpoint` is where AWS's SDKs ask, and for what by themselves.
    pub(super) fn handed(&self, slots: &[Slot], endpoint: Option<(&str, &Endpoint)>) -> Handed {
        let seen = |name: &str| self.seen().join(name).display().to_string();
        let mut variables = vec![(CREDENTIALS, self.seen().display().to_string())];
        if let Some((name, endpoint)) = endpoint {
            variables.push(("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.uri(name)));
            variables.push(("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", seen(TOKEN)));
        }
        match self.reader {
            Reader::Process if of_aws(slots).nth(1).is_some() => variables.push(("AWS_CONFIG_FILE", seen(CONFIG))),
            Reader::Container if of_aws(slots).next().is_some() => {
                variables.push(("AWS_SHARED_CREDENTIALS_FILE", seen(SHARED)));
            }
            Reader::Process | Reader::Container => {}
        }
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Handed { variables, folder: Some(self.folder.path().to_owned()) }
    }

    /// Writes the file of a loan: `NAME` with the token or the value, `NAME.json` with credentials of AWS.
    ///
    /// # Errors
    ///
    /// It cannot be written; what was there is there still.
    pub(super) fn put(&self, slot: &Slot) -> io::Result<()> {
        let held = slot.held();
        let Some((_, loan)) = &held.newest else { return Ok(()) };
        match &loan.credential {
            Credential::Aws { .. } => self.write(&format!("{}.json", slot.name), &process_credentials(loan)?),
            Credential::Token(secret) | Credential::Value(secret) => {
                self.write(&slot.name, secret.expose_secret().as_bytes())
            }
        }
    }

    /// Removes the file of a loan, whatever it was.
    ///
    /// # Errors
    ///
    /// It is there still.
    pub(super) fn remove(&self, slot: &Slot) -> io::Result<()> {
        remove_file(&self.folder.path().join(format!("{}.json", slot.name)))?;
        remove_file(&self.folder.path().join(&slot.name))
    }

    /// Writes the profiles by which AWS's tools find what the endpoint does not give them: of processes those of several loans,
    /// of containers all.
    ///
    /// # Errors
    ///
    /// They cannot be written.
    pub(super) fn put_profiles(&self, slots: &[Slot]) -> io::Result<()> {
        match self.reader {
            Reader::Process if of_aws(slots).nth(1).is_some() => {
                let mut text = String::new();
                for slot in of_aws(slots) {
                    let file = self.seen().join(format!("{}.json", slot.name));
                    let profile = format!("[profile {}]\ncredential_process = cat \"{}\"\n", slot.name, file.display());
                    text.push_str(&profile);
                }
                self.write(CONFIG, text.as_bytes())
            }
            Reader::Container if of_aws(slots).next().is_some() => self.write(SHARED, shared(slots).as_bytes()),
            Reader::Process | Reader::Container => Ok(()),
        }
    }

    /// Writes what is to be shown to the endpoint. No line end: it becomes a header as it is.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn put_token(&self, token: &str) -> io::Result<()> {
        self.write(TOKEN, token.as_bytes())
    }

    /// Removes all of it.
    ///
    /// # Errors
    ///
    /// Something of it is there still.
    pub(super) fn remove_all(&self) -> io::Result<()> {
        self.folder.remove()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.folder.path().join(name);
        let new = self.folder.path().join(format!(".{name}"));
        remove_file(&new)?;
        // Made here, and nothing that somebody put in its place is followed.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        if self.reader == Reader::Container {
            // Whatever its user is; on this machine nobody else gets as far (see the folder of the process).
            file.set_permissions(Permissions::from_mode(0o644))?;
        }
        drop(file);
        fs::rename(&new, &path)
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn of_aws(slots: &[Slot]) -> impl Iterator<Item = &Slot> {
    slots.iter().filter(|slot| slot.scope.kind() == Kind::Aws)
}

fn process_credentials(loan: &Loan) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
    if let Some(OfAws { access_key_id, secret_access_key, session_token, expiration }) = OfAws::of(loan) {
        let expiration = &expiration;
        let shape = ProcessCredentials { version: 1, access_key_id, secret_access_key, session_token, expiration };
        serde_json::to_writer(&mut *text, &shape)?;
    }
    Ok(text)
}

/// The shared credentials file: a profile for each loan of AWS, and the default one (AWS SDKs and Tools, "Shared config and
/// credentials files").
fn shared(slots: &[Slot]) -> Zeroizing<String> {
    let default = default_of_aws(slots);
    let mut text = Zeroizing::new(String::with_capacity(ROOM * (slots.len() + 1)));
    for slot in of_aws(slots) {
        let held = slot.held();
        let Some(of) = held.newest.as_ref().and_then(|(_, loan)| OfAws::of(loan)) else { continue };
        let names = [(default == Some(&*slot.name)).then_some("default"), Some(&*slot.name)];
        for name in names.into_iter().flatten() {
            for part in [
                "[",
                name,
                "]\naws_access_key_id = ",
                of.access_key_id,
                "\naws_secret_access_key = ",
                of.secret_access_key,
                "\naws_session_token = ",
                of.session_token,
                "\n",
            ] {
                text.push_str(part);
            }
        }
    }
    text
}
