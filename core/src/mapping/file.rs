//! policies/policy-mappings.json: text in, [`Mappings`] or everything that is wrong with it.

use serde::Deserialize;

use super::{Mapping, Mappings, Match};
use crate::job::Tier;
use crate::policies::{Document, Violations};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    policies: Vec<String>,
}

impl Mappings {
    /// Reads the mappings. `file` names them in errors.
    ///
    /// # Errors
    ///
    /// [`Violations`] names everything that is wrong, and where it stands.
    pub fn parse(file: &str, text: &str) -> Result<Self, Violations> {
        let read = |entry: Entry, _| {
            let Entry { name, policies } = entry;
            Ok(Mapping { name, matches: Match::default(), policies, tier: Tier::Priority })
        };
        let mappings = Document::read(file, text, "mappings")?.each(read)?;
        Ok(Self { mappings })
    }
}
