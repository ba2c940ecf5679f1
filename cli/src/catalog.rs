//! Where the policies come from: a folder, or what this program was built with.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use switchyard_core::catalog::Catalog;
use switchyard_core::policies::Policies;
use switchyard_core::route::Limits;
use switchyard_worker::builtin;

use crate::exit::Failure;

const BUILT_IN: &str = include_str!("../../policies/capabilities.yaml");
const BUILT_IN_SCHEMAS: &[(&str, &str)] = &[
    ("schemas/finding-triage.json", include_str!("../../policies/schemas/finding-triage.json")),
    ("schemas/host-name.json", include_str!("../../policies/schemas/host-name.json")),
    ("schemas/path.json", include_str!("../../policies/schemas/path.json")),
];

/// The files that say where jobs run and what that costs, as built in.
const BUILT_IN_ROUTING: [(&str, &str); 2] = [
    ("routing.yaml", include_str!("../../policies/routing.yaml")),
    ("prices.yaml", include_str!("../../policies/prices.yaml")),
];

/// The catalog, and where its jobs may run on AWS and at what price: from the folder, or built in. A folder without
/// routing.yaml or prices.yaml takes what is built in.
///
/// # Errors
///
/// Something cannot be read or is wrong: named with file, line and reason.
pub(crate) fn policies(folder: Option<&Path>) -> Result<Policies, Failure> {
    let catalog = load(folder)?;
    let read = |(name, built_in): (&str, &str)| {
        let Some(folder) = folder else { return Ok((format!("policies/{name}"), built_in.to_owned())) };
        let file = folder.join(name);
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok((file.display().to_string(), text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok((format!("policies/{name}"), built_in.to_owned()))
            }
            Err(cause) => Err(Failure::CannotOpen(format!("cannot read {}: {cause}", file.display()).into())),
        }
    };
    let [routing, prices] = BUILT_IN_ROUTING;
    let ((routing_file, routing), (prices_file, prices)) = (read(routing)?, read(prices)?);
    let limits = Limits::parse(&routing_file, &routing, &prices_file, &prices)
        .map_err(|error| Failure::CannotOpen(error.into()))?;
    Ok(Policies { catalog, limits })
}

/// The catalog in `policies`, or the one built in.
///
/// # Errors
///
/// It cannot be read, or something in it is wrong: named with file, line and reason.
pub(crate) fn load(policies: Option<&Path>) -> Result<Catalog, Failure> {
    let parse = |file: &str, text: &str, schemas: &BTreeMap<String, Value>| {
        Catalog::parse(file, text, builtin::NAMES, schemas).map_err(|error| Failure::CannotOpen(error.into()))
    };
    let Some(folder) = policies else {
        let schemas = BUILT_IN_SCHEMAS.iter().map(|(name, text)| Ok(((*name).to_owned(), read_schema(name, text)?)));
        return parse("policies/capabilities.yaml", BUILT_IN, &schemas.collect::<Result<_, Failure>>()?);
    };
    let file = folder.join("capabilities.yaml");
    let unreadable = |what: &str, path: &Path, cause: std::io::Error| {
        Failure::CannotOpen(format!("cannot read the {what} {}: {cause}", path.display()).into())
    };
    let text = std::fs::read_to_string(&file).map_err(|cause| unreadable("catalog", &file, cause))?;
    let mut schemas = BTreeMap::new();
    let schema_folder = folder.join("schemas");
    if schema_folder.is_dir() {
        let failed = |cause| unreadable("schemas in", &schema_folder, cause);
        for entry in std::fs::read_dir(&schema_folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.ends_with(".json") {
                let text = std::fs::read_to_string(&path).map_err(|cause| unreadable("schema", &path, cause))?;
                let schema = read_schema(&path.display().to_string(), &text)?;
                schemas.insert(format!("schemas/{name}"), schema);
            }
        }
    }
    parse(&file.display().to_string(), &text, &schemas)
}

/// Says whether the policies in a folder are sound.
///
/// # Errors
///
/// They are not: the first thing that is wrong, with its place.
pub(crate) fn check(folder: &Path) -> Result<u8, Failure> {
    let Policies { catalog, limits } = policies(Some(folder))?;
    let (capabilities, pools) = (catalog.iter().count(), limits.pools.len());
    println!("{}: {capabilities} capabilities and {pools} pools, all sound", folder.display());
    Ok(0)
}

fn read_schema(file: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let error = error.to_string();
        // serde_json ends its messages with the place; here it stands in front, as in the catalog's.
        let reason = error.split(" at line ").next().unwrap_or(&error);
        Failure::CannotOpen(format!("{file}:{line}:{column}: not JSON: {reason}").into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalog_is_the_one_in_policies_and_is_sound() {
        let built_in = load(None).unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
        let on_disk = load(Some(&folder)).unwrap();
        let names = |catalog: &Catalog| catalog.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&built_in), names(&on_disk));
    }
}
