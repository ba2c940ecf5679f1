//! Where credentials come from on this machine: a file that its operator names.

use std::path::Path;
use std::sync::Arc;

use switchyard_aws::clients::{Clients, Settings};
use switchyard_aws::environment::REGION;
use switchyard_aws::roles_sts::{StsRoles, of_file};
use switchyard_core::ports::{Ambient, Vendors};
use switchyard_vendors::vault_file::FileVault;
use switchyard_vendors::{Doors, Lenders, Roles};

use crate::cloud::{unset, variable};
use crate::exit::Failure;

/// Where STS is asked when no region is set: its tokens are good in all that are on by default.
const ANY_REGION: &str = "us-east-1";

/// Lenders whose keys are in this file. It is looked at now, so that what is wrong with it is told before the yard opens, and
/// again whenever a key is asked for.
///
/// # Errors
///
/// The file cannot be used; the environment says of AWS what cannot be.
pub(crate) fn of(file: &Path, ambient: Arc<dyn Ambient>) -> Result<Arc<dyn Vendors>, Failure> {
    let vault = Arc::new(FileVault::new(file));
    vault.check().map_err(|error| Failure::BadInput(error.to_string()))?;
    let region = |name: &str| variable(name).or_else(|| (name == REGION).then(|| ANY_REGION.to_owned()));
    let settings = Settings::read(&region).and_then(Settings::trust).map_err(unset)?;
    let roles = StsRoles::new(&Clients::new(settings, of_file(Arc::clone(&vault))));
    let roles: Arc<dyn Roles> = Arc::new(roles);
    // One machine has no identity that other clouds could trust.
    let doors = Doors { vault, roles: Some(roles), identity: None, ambient };
    let lenders = Lenders::new(doors, switchyard_vendors::Settings::default());
    Ok(Arc::new(lenders.map_err(|error| Failure::BadInput(error.to_string()))?))
}
