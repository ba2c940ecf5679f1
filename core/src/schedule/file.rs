//! policies/schedules.yaml: text in, [`Schedules`] or everything that is wrong with it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::Deserialize;
use serde_json::Value;

use super::{Cron, LABEL, Missed, Overlap, SCHEDULES_MAX, Schedule, Schedules, When, next};
use crate::catalog::Catalog;
use crate::intake::{LABELS, Rejected, check_labels, empty_object};
use crate::job::{Tier, one_line};
use crate::policies::{Document, Reading, Stand, Violations, Wrong, given, is_name};
use crate::ports::Body;

/// The longest rate: a year. What comes more seldom is a date, and a cron expression names it.
const RATE_MINUTES_MAX: u64 = 366 * 24 * 60;

/// From when it is asked whether a schedule ever ticks, 2026-01-01: a fixed moment, so that a file is good or bad
/// whenever it is read.
const PROBE: Timestamp = Timestamp::constant(1_767_225_600, 0);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default, deserialize_with = "given")]
    cron: Option<String>,
    // Any value: what is no whole number is refused in the same words as what is out of range.
    #[serde(default, deserialize_with = "given")]
    rate_minutes: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    time_zone: Option<String>,
    capability: String,
    #[serde(default = "empty_object")]
    payload: Value,
    #[serde(default)]
    tier: Tier,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    overlap: Overlap,
    #[serde(default)]
    missed: Missed,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

impl Schedules {
    /// Reads the schedules. `file` names them in errors.
    ///
    /// # Errors
    ///
    /// [`Violations`] names everything that is wrong, and where it stands.
    pub fn parse(file: &str, text: &str) -> Result<Self, Violations> {
        Self::read(Reading::WRITTEN, file, text)
    }

    /// Reads those that were written or pushed.
    pub(crate) fn read(reading: Reading, file: &str, text: &str) -> Result<Self, Violations> {
        let document = Document::read(reading, file, text, "schedules")?;
        if document.len() > SCHEDULES_MAX {
            let there = document.len();
            return Err(document
                .whole()
                .error("", &format!("expected at most {SCHEDULES_MAX}, there are {there}"))
                .into());
        }
        // Compiled in: a machine's own database may be of another year, or not there.
        let zones = TimeZoneDatabase::bundled();
        let mut names = BTreeMap::new();
        let stands: Vec<Stand> = (0..document.len()).map(|at| document.place(at)).collect();
        let all = document.each(|entry: Entry, at| {
            if let Some(first) = names.insert(entry.name.clone(), at) {
                return Err(vec![("name".to_owned(), format!("is listed twice, also as schedules[{first}]"))]);
            }
            entry.into_schedule(&zones, stands[at].clone()).map_err(|wrong| vec![wrong])
        })?;
        Ok(Self { schedules: all.into_iter().map(|schedule| (schedule.name.clone(), schedule)).collect() })
    }

    /// Holds the schedules against the catalog they submit to, so that one that cannot work is refused when it is
    /// loaded and not at its first tick in the night.
    ///
    /// # Errors
    ///
    /// Each schedule whose capability is missing, or whose payload does not fit it.
    pub fn check(&self, catalog: &Catalog) -> Result<(), Violations> {
        let mut errors = Vec::new();
        for Schedule { capability, payload, place, .. } in self.iter() {
            match catalog.get(capability) {
                None => {
                    let known: Vec<&str> = catalog.iter().map(|capability| capability.name.as_str()).collect();
                    let (capability, known) = (one_line(capability, 64), known.join(", "));
                    let what = format!("there is no capability `{capability}`; there are: {known}");
                    errors.push(place.error("capability", &what));
                }
                Some(known) => errors.extend(known.check(payload).err().map(|bad| {
                    // A JSON Pointer, as a path.
                    let path: String = bad.path.split('/').skip(1).map(|part| format!(".{part}")).collect();
                    place.error(&format!("payload{path}"), &bad.message)
                })),
            }
        }
        Violations::from(errors).or(())
    }
}

impl Entry {
    fn into_schedule(self, zones: &TimeZoneDatabase, place: Stand) -> Result<Schedule, Wrong> {
        let wrong = |path: &str, what: String| (path.to_owned(), what);
        if !is_name(&self.name) {
            return Err(wrong("name", "expected 1 to 64 lower-case letters, digits and `-`".to_owned()));
        }
        let time_zone = match self.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(_) if self.rate_minutes.is_some() => {
                return Err(wrong("time_zone", "a rate counts real minutes and has none; leave it out".to_owned()));
            }
            Some(name) => zones.get(name).map_err(|_| {
                let name = one_line(name, 64);
                let what = format!("there is no time zone `{name}`; expected a name such as UTC or Europe/Berlin");
                wrong("time_zone", what)
            })?,
        };
        let when = match (self.cron.as_deref(), self.rate_minutes) {
            (Some(text), None) => When::Cron(Cron::parse(text).map_err(|what| wrong("cron", one_line(&what, 300)))?),
            (None, Some(minutes)) => {
                let minutes = minutes.as_u64().filter(|minutes| (1..=RATE_MINUTES_MAX).contains(minutes));
                let what = format!("expected a whole number from 1 to {RATE_MINUTES_MAX}");
                When::Rate(Duration::from_secs(minutes.ok_or_else(|| wrong("rate_minutes", what))? * 60))
            }
            (None, None) | (Some(_), Some(_)) => {
                return Err(wrong("", "expected exactly one of `cron` and `rate_minutes`".to_owned()));
            }
        };
        if self.labels.contains_key(LABEL) {
            return Err(wrong(&format!("labels.{LABEL}"), "is set to the schedule's name by itself".to_owned()));
        }
        if self.labels.len() >= LABELS {
            return Err(wrong("labels", format!("expected at most {}; one more names the schedule", LABELS - 1)));
        }
        check_labels(&self.labels).map_err(|rejected| match rejected {
            Rejected::Field { path, message } => wrong(&path, message),
            other => wrong("labels", other.to_string()),
        })?;
        let bytes = self.payload.to_string().len();
        if bytes > Body::MAX_BYTES {
            return Err(wrong("payload", format!("is {bytes} bytes of JSON; at most {} are taken", Body::MAX_BYTES)));
        }
        let mut schedule = Schedule {
            name: self.name,
            when,
            time_zone,
            capability: self.capability,
            payload: self.payload,
            tier: self.tier,
            labels: self.labels,
            overlap: self.overlap,
            missed: self.missed,
            enabled: true,
            place,
        };
        if next(&schedule, PROBE).is_none() {
            let what = "never runs: there is no such date, or the clocks always jump over that time";
            return Err(wrong("cron", what.to_owned()));
        }
        schedule.enabled = self.enabled;
        Ok(schedule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Schedules, Violations> {
        Schedules::parse("schedules.yaml", text)
    }

    fn one(fields: &str) -> String {
        format!("version: 1\nschedules:\n  - name: s\n    capability: c\n{fields}")
    }

    #[test]
    fn a_schedule_is_read_with_its_defaults() {
        let text =
            one("    cron: \" 0  2 * * MON-FRI \"\n  - { name: t, capability: c, rate_minutes: 90, enabled: false, \
                        tier: priority, overlap: skip, missed: all, payload: { path: /x }, labels: { a: b } }\n");
        let schedules = parse(&text).unwrap();
        insta::assert_debug_snapshot!(schedules.iter().collect::<Vec<_>>());
    }

    #[test]
    fn broken_schedules_are_named_with_file_line_and_reason() {
        let many =
            format!("version: 1\nschedules:\n{}", "  - { name: x, capability: c, rate_minutes: 1 }\n".repeat(1001));
        let labels = (0..16).map(|n| format!("l{n}: x")).collect::<Vec<_>>().join(", ");
        let mut cases = vec![
            "version: 2\nschedules: []\n".to_owned(),
            "version: 1\nschedules:\n  - { name: x, capability: c, rate_minutes: 1 }\n  - { name: x, capability: c, \
             rate_minutes: 1 }\n"
                .to_owned(),
            "version: 1\nschedules:\n  - { name: X Y, capability: c, rate_minutes: 1 }\n".to_owned(),
            many,
        ];
        cases.extend(
            [
                "    corn: 0 2 * * *\n",
                "",
                "    cron: 0 2 * * *\n    rate_minutes: 5\n",
                "    rate_minutes: 0\n",
                "    rate_minutes: 0.5\n",
                "    rate_minutes: 600000\n",
                "    rate_minutes: 5\n    time_zone: Europe/Berlin\n",
                "    cron: 0 2 * * *\n    time_zone: Europe/Berln\n",
                "    cron: 0 2 * * *\n    time_zone: +02:00\n",
                "    cron: 0 2 * *\n",
                "    cron: 0 0 2 * * *\n",
                "    cron: \"@daily\"\n",
                "    cron: 60 2 * * *\n",
                "    cron: 0 24 * * *\n",
                "    cron: 0 2-1 * * *\n",
                "    cron: \"*/0 2 * * *\"\n",
                "    cron: 0 2 * FOO *\n",
                "    cron: 0 2 * MON *\n",
                "    cron: 0 2 * * JAN\n",
                "    rate_minutes: soon\n",
                "    cron: 0 2 30 2 *\n",
                // The last Sunday of March is when the clocks change there.
                "    cron: 30 2 * 3 SUN#L\n    time_zone: Europe/Berlin\n",
                "    rate_minutes: 5\n    tier: fast\n",
                "    rate_minutes: 5\n    missed: some\n",
                "    rate_minutes: 5\n    overlap: queue\n",
                "    rate_minutes: 5\n    labels: { schedule: mine }\n",
                "    rate_minutes: 5\n    labels: { a=b: c }\n",
            ]
            .map(one),
        );
        cases.push(one(&format!("    rate_minutes: 5\n    labels: {{ {labels} }}\n")));
        let messages: Vec<String> = cases.iter().map(|text| parse(text).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(messages.join("\n"));
    }

    #[test]
    fn schedules_are_held_against_the_catalog() {
        let catalog = "version: 1\ncapabilities:\n  - name: c\n    summary: s\n    run: { command: [du, \"{{path}}\"] }\n    \
                       input: { type: object, required: [path], properties: { path: { type: string } } }\n";
        let catalog = Catalog::parse("capabilities.yaml", catalog, &[], &BTreeMap::new()).unwrap();
        let check = |text: String| parse(&text).unwrap().check(&catalog);
        check(one("    rate_minutes: 5\n    payload: { path: /x }\n")).unwrap();
        let broken = [
            one("    rate_minutes: 5\n"),
            one("    rate_minutes: 5\n    payload: { path: 7 }\n"),
            one("    rate_minutes: 5\n    payload: { path: -rf }\n    enabled: false\n"),
            one("    rate_minutes: 5\n").replace("capability: c", "capability: d"),
        ];
        let messages: Vec<String> = broken.map(|text| check(text).unwrap_err().to_string()).to_vec();
        insta::assert_snapshot!(messages.join("\n"));
    }
}
