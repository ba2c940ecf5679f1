//! Work that comes by the clock: the schedules an operator lists in policies/schedules.yaml, and which of their ticks
//! are due.
//!
//! A tick is a moment at which a schedule submits its job. Its idempotency key is made of the schedule's name and the
//! moment, so that a tick run twice, by one yard or by two, makes one job.
//!
//! # When the clocks change
//!
//! A cron expression is matched against the clock on the wall of its time zone:
//!
//! - In spring, a time that the clock jumps over does not run that day: `30 2 * * *` is skipped, not moved.
//! - In autumn, a time that the clock shows twice runs once, the first time. This and the rule above are what
//!   EventBridge Scheduler documents (User Guide, "Schedule types in EventBridge Scheduler", daylight saving time).
//! - An expression whose hour field covers all 24 hours names no time of day: it beats through the repeated hour, so
//!   that `*/15 * * * *` runs every 15 real minutes and `0 * * * *` every real hour, all year. EventBridge Scheduler
//!   leaves that case open; Vixie cron does the same.
//! - An expression that names hours, also by a step as `0 */2 * * *`, names times of day: the two rules in front hold.
//!
//! A rate counts real minutes from the Unix epoch and knows no time zone.
//!
//! Time zones come from the database compiled in, never from the machine, so that every machine decides alike.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::intake::Submission;
use crate::job::Tier;
use crate::policies::Stand;

mod file;
mod round;

pub use self::round::{TickCounts, Ticked, job_of, round};

/// Who submits the jobs of schedules: the first half of what their ids are derived from.
pub const CALLER: &str = "schedule";
/// The label that names a job's schedule.
pub const LABEL: &str = "schedule";
/// The most schedules there can be: each is looked at once a minute, and looking takes some microseconds.
pub const SCHEDULES_MAX: usize = 1000;
/// A tick older than this was missed: nobody looked for five rounds, so the yard was down or asleep.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// How far ahead of the clock what is remembered may lie: a day. A clock that was set back by less was corrected; one that
/// was set back by more had been wrong, and what was remembered under it counts for nothing.
pub const AHEAD: Duration = Duration::from_secs(24 * 3600);
/// The most ticks of one schedule submitted in one round. What was missed beyond them comes in the next rounds.
pub const TICKS_MAX: usize = 100;
/// The most ticks of one schedule looked at in one round, about a week of minutes: some ten milliseconds of work.
pub const LOOK_MAX: usize = 10_000;
/// A tick that lies further ahead never comes. 29 February on a given weekday can take 40 years.
const AHEAD_YEARS: i64 = 50;

/// The fields of a cron expression: the name, what may stand there, and which words.
const FIELDS: [(&str, &str, &[&str]); 5] = [
    ("minute", "0 to 59", &[]),
    ("hour", "0 to 23", &[]),
    ("day of the month", "1 to 31, L or 15W", &["L", "W", "LW"]),
    (
        "month",
        "1 to 12 or JAN to DEC",
        &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    ),
    ("day of the week", "0 to 7 or SUN to SAT, 5L or 5#2", &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "L"]),
];

/// All schedules, by name.
#[derive(Clone, Debug, Default)]
pub struct Schedules {
    schedules: BTreeMap<String, Schedule>,
}

/// One schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Its name: lower-case letters, digits and `-`, at most 64.
    pub name: String,
    /// When it ticks.
    pub when: When,
    /// The time zone its cron expression means; UTC for a rate.
    pub time_zone: TimeZone,
    /// The capability its jobs run.
    pub capability: String,
    /// Their input.
    pub payload: Value,
    /// How soon they must start.
    pub tier: Tier,
    /// What to find them by, beside the label of the schedule.
    pub labels: BTreeMap<String, String>,
    /// What becomes of a tick while an earlier one's job has not ended.
    pub overlap: Overlap,
    /// What becomes of ticks that nobody looked at in time.
    pub missed: Missed,
    /// Whether it ticks at all.
    pub enabled: bool,
    /// Where it stands in its file.
    place: Stand,
}

/// When a schedule ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// At the times of the wall clock that an expression names.
    Cron(Cron),
    /// Whenever so much time has passed, counted from the Unix epoch: the ticks are the same whoever evaluates them.
    Rate(Duration),
}

/// A cron expression of five fields: minute, hour, day of the month, month, day of the week.
#[derive(Clone)]
pub struct Cron {
    text: String,
    pattern: Arc<croner::Cron>,
    every_hour: bool,
}

/// What becomes of a tick while the job of an earlier one has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is submitted all the same.
    #[default]
    Allow,
    /// It is not submitted. The home finds earlier jobs by their label.
    Skip,
}

/// What becomes of ticks that are older than [`TOLERANCE`] when they are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// None is made up.
    Skip,
    /// The newest is made up, unless a tick that is on time comes with it and does its work.
    #[default]
    Last,
    /// All are made up, oldest first, [`TICKS_MAX`] a round.
    All,
}

/// What a round owes a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The ticks to submit, oldest first.
    pub ticks: Vec<Timestamp>,
    /// Ticks that were missed and are not made up.
    pub skipped: u64,
    /// Up to where the schedule is evaluated: what to hand in as `last` next time. When it is before `now` there is
    /// more than one round takes; with no ticks to submit, go on at once.
    pub upto: Timestamp,
}

impl Schedule {
    /// The name of its time zone.
    pub fn zone(&self) -> &str {
        self.time_zone.iana_name().unwrap_or("UTC")
    }

    /// Whether both say the same, wherever they stand in their files.
    pub fn says_the_same(&self, other: &Self) -> bool {
        Self { place: self.place.clone(), ..other.clone() } == *self
    }
}

impl Schedules {
    /// The schedule of that name.
    pub fn get(&self, name: &str) -> Option<&Schedule> {
        self.schedules.get(name)
    }

    /// All schedules, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Schedule> {
        self.schedules.values()
    }
}

/// Five fields as the library reads them; it only ever walks the wall clock for us, never a time zone.
fn parse(text: &str) -> Result<croner::Cron, croner::errors::CronError> {
    croner::parser::CronParser::builder()
        .seconds(croner::parser::Seconds::Disallowed)
        .year(croner::parser::Year::Disallowed)
        .build()
        .parse(text)
}

impl Cron {
    /// Reads an expression: `*`, lists, ranges, steps, names of months and weekdays, and `L`, `W` and `#`. When day of
    /// the month and day of the week are both given, either one is enough, as in every cron; `+` before the latter
    /// asks for both.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        if fields.len() != FIELDS.len() {
            return Err(format!(
                "expected five fields, minute, hour, day of the month, month and day of the week; there are {}",
                fields.len()
            ));
        }
        let text = fields.join(" ");
        if text.len() > 200 {
            return Err("expected at most 200 characters".to_owned());
        }
        for (at, (field, (name, range, words))) in fields.iter().zip(FIELDS).enumerate() {
            let mut alone = ["*"; FIELDS.len()];
            alone[at] = field;
            // The library takes a month's name for a day of the week and the other way round.
            let mut used = field.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
            let foreign = used.any(|word| !words.contains(&word.to_ascii_uppercase().as_str()));
            if foreign || parse(&alone.join(" ")).is_err() {
                return Err(format!("`{field}` cannot be the {name}: expected {range}, lists, ranges or steps"));
            }
        }
        let pattern = parse(&text).map_err(|error| error.to_string())?;
        let every_hour = pattern.pattern.hours.values().len() == 24;
        Ok(Self { text, pattern: Arc::new(pattern), every_hour })
    }

    /// The first tick after a moment.
    ///
    /// Between two changes of the clock, walking the wall clock is walking time. So each stretch of one offset is
    /// walked by itself: what the clock jumps over stands in no stretch, and what it shows twice stands in two.
    fn next(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let end = after.checked_add(SignedDuration::from_hours(AHEAD_YEARS * 366 * 24)).unwrap_or(Timestamp::MAX);
        let (mut from, mut inclusive) = (after, false);
        while from < end {
            let offset = zone.to_offset(from);
            let change = zone.following(from).next().map_or(end, |change| change.timestamp().min(end));
            if let Some(tick) = self.within(zone, offset, from, inclusive, change) {
                return Some(tick);
            }
            (from, inclusive) = (change, true);
        }
        None
    }

    /// The first tick in a stretch of one offset, before the moment it ends.
    fn within(
        &self,
        zone: &TimeZone,
        offset: Offset,
        from: Timestamp,
        inclusive: bool,
        end: Timestamp,
    ) -> Option<Timestamp> {
        let mut wall = self.pattern.find_next_occurrence(&offset.to_datetime(from), inclusive).ok()?;
        loop {
            let tick = offset.to_timestamp(wall).ok().filter(|tick| *tick < end)?;
            let first = match zone.to_ambiguous_timestamp(wall).offset() {
                AmbiguousOffset::Fold { before, .. } => offset == before,
                AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Gap { .. } => true,
            };
            if first || self.every_hour {
                return Some(tick);
            }
            wall = self.pattern.find_next_occurrence(&wall, false).ok()?;
        }
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cron(cron) => cron.fmt(f),
            Self::Rate(every) => write!(f, "every {} minutes", every.as_secs() / 60),
        }
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({})", self.text)
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cron {}

/// The first tick of a schedule after a moment; `None` when there is none any more, or the schedule is switched off.
pub fn next(schedule: &Schedule, after: Timestamp) -> Option<Timestamp> {
    if !schedule.enabled {
        return None;
    }
    match &schedule.when {
        When::Cron(cron) => cron.next(&schedule.time_zone, after),
        When::Rate(every) => {
            let every = i64::try_from(every.as_secs()).ok().filter(|every| *every > 0)?;
            let tick = (after.as_second().div_euclid(every) + 1).checked_mul(every)?;
            Timestamp::from_second(tick).ok()
        }
    }
}

/// Which ticks of a schedule are due, when it was last evaluated up to `last`.
///
/// A schedule that was never evaluated starts from now, and so does one that was switched off meanwhile. A tick at
/// most [`TOLERANCE`] old is on time and always runs; what became older is up to [`Schedule::missed`]. Of
/// [`Missed::All`] nothing is lost: what a round does not take, the next rounds do, in order. A clock that was set
/// back owes nothing twice.
pub fn due(schedule: &Schedule, last: Option<Timestamp>, now: Timestamp) -> Due {
    let Some(last) = last.filter(|_| schedule.enabled) else {
        return Due { ticks: Vec::new(), skipped: 0, upto: now.max(last.unwrap_or(now)) };
    };
    // Remembered under a clock that was wrong: until that moment came again nothing would tick. A tick that is run twice
    // is one job, so looking again is harmless.
    let last = if last > now + AHEAD { now } else { last };
    let mut due = Due { ticks: Vec::new(), skipped: 0, upto: last.max(now) };
    let (mut at, mut looked, mut newest_missed) = (last, 0, None);
    while let Some(tick) = next(schedule, at).filter(|tick| *tick <= now) {
        if looked == LOOK_MAX || due.ticks.len() == TICKS_MAX {
            due.upto = at;
            break;
        }
        (at, looked) = (tick, looked + 1);
        let on_time = now <= tick + TOLERANCE;
        match schedule.missed {
            Missed::Skip | Missed::Last if !on_time => {
                due.skipped += 1;
                newest_missed = Some(tick);
            }
            Missed::Skip | Missed::Last | Missed::All => due.ticks.push(tick),
        }
    }
    // Only when all was looked at: else the newest is still to come.
    if schedule.missed == Missed::Last
        && due.ticks.is_empty()
        && due.upto == now
        && let Some(tick) = newest_missed
    {
        due.skipped -= 1;
        due.ticks.push(tick);
    }
    due
}

/// What a tick asks for: the submission, and the key that makes the tick one job however often it is run.
///
/// The key says nothing of the payload. When a schedule is edited between two runs of one tick, the second one is
/// refused as a reused key: the tick has its job already.
pub fn submission(schedule: &Schedule, tick: Timestamp) -> (Submission, String) {
    let mut labels = schedule.labels.clone();
    labels.insert(LABEL.to_owned(), schedule.name.clone());
    let submission = Submission {
        capability: schedule.capability.clone(),
        payload: schedule.payload.clone(),
        tier: schedule.tier,
        labels,
        run_timeout_seconds: None,
        start_within_seconds: None,
        delay_seconds: None,
        announce: false,
    };
    (submission, format!("{}@{tick}", schedule.name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::JobId;

    fn schedule(fields: &str) -> Schedule {
        let text = format!("version: 1\nschedules:\n  - {{ name: s, capability: c, {fields} }}\n");
        Schedules::parse("schedules.yaml", &text).unwrap().get("s").unwrap().clone()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ticks(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
        let (to, zone) = (at(to), &schedule.time_zone);
        std::iter::successors(next(schedule, at(from)), |tick| next(schedule, *tick))
            .take_while(|tick| *tick <= to)
            .map(|tick| tick.to_zoned(zone.clone()).strftime("%d %H:%M %z").to_string())
            .collect()
    }

    #[test]
    fn what_was_remembered_under_a_clock_that_was_ahead_keeps_no_schedule_silent() {
        let often = schedule("rate_minutes: 1");
        let ahead = at("2027-01-01T00:00:00Z");
        let now = at("2026-01-01T00:00:30Z");
        let first = due(&often, Some(ahead), now);
        assert_eq!((first.ticks.len(), first.upto), (0, now));
        assert_eq!(due(&often, Some(first.upto), at("2026-01-01T00:01:00Z")).ticks, [at("2026-01-01T00:01:00Z")]);
    }

    #[test]
    fn in_spring_what_the_clock_jumps_over_does_not_run() {
        let night = ("2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z");
        let daily = schedule("cron: 30 2 * * *, time_zone: Europe/Berlin");
        assert_eq!(ticks(&daily, night.0, night.1), ["28 02:30 +0100", "30 02:30 +0200"]);
        let step = schedule("cron: 0 */2 * * *, time_zone: Europe/Berlin");
        let jump = ("2026-03-28T22:00:00Z", "2026-03-29T04:00:00Z");
        assert_eq!(ticks(&step, jump.0, jump.1), ["29 00:00 +0100", "29 04:00 +0200", "29 06:00 +0200"]);
        let quarter = schedule("cron: \"*/15 * * * *\", time_zone: Europe/Berlin");
        assert_eq!(
            ticks(&quarter, "2026-03-29T00:30:00Z", "2026-03-29T01:15:00Z"),
            ["29 01:45 +0100", "29 03:00 +0200", "29 03:15 +0200"]
        );
    }

    #[test]
    fn in_autumn_what_the_clock_shows_twice_runs_once_unless_it_runs_every_hour() {
        let night = ("2026-10-24T22:00:00Z", "2026-10-25T03:00:00Z");
        let daily = schedule("cron: 30 2 * * *, time_zone: Europe/Berlin");
        assert_eq!(ticks(&daily, night.0, night.1), ["25 02:30 +0200"]);
        let step = schedule("cron: 0 */2 * * *, time_zone: Europe/Berlin");
        assert_eq!(ticks(&step, night.0, night.1), ["25 02:00 +0200", "25 04:00 +0100"]);
        let hourly = schedule("cron: 30 * * * *, time_zone: Europe/Berlin");
        assert_eq!(
            ticks(&hourly, night.0, night.1),
            ["25 00:30 +0200", "25 01:30 +0200", "25 02:30 +0200", "25 02:30 +0100", "25 03:30 +0100"]
        );
    }

    #[test]
    fn a_rate_counts_from_the_epoch_whoever_counts() {
        let rate = schedule("rate_minutes: 11");
        let every = ["01 00:05 +0000", "01 00:16 +0000", "01 00:27 +0000"];
        assert_eq!(ticks(&rate, "2026-01-01T00:00:00Z", "2026-01-01T00:27:00Z"), every);
        assert_eq!(ticks(&rate, "2026-01-01T00:04:59.9Z", "2026-01-01T00:27:00Z"), every);
        assert_eq!(next(&rate, Timestamp::UNIX_EPOCH), Some(at("1970-01-01T00:11:00Z")));
    }

    #[test]
    fn the_rarest_date_is_found() {
        let leap = schedule("cron: 0 0 29 2 +MON");
        assert_eq!(next(&leap, at("2072-03-01T00:00:00Z")), Some(at("2112-02-29T00:00:00Z")));
    }

    #[test]
    fn a_schedule_never_seen_starts_from_now_and_so_does_one_switched_on_again() {
        let minutely = schedule("rate_minutes: 1, missed: all");
        let now = at("2026-01-01T00:00:00Z");
        let nothing = Due { ticks: vec![], skipped: 0, upto: now };
        assert_eq!(due(&minutely, None, now), nothing);
        let off = Schedule { enabled: false, ..minutely.clone() };
        assert_eq!(due(&off, Some(now - Duration::from_secs(3600)), now), nothing);
        assert_eq!(next(&off, now), None);
        // A clock that was set back: what was evaluated stays so.
        assert_eq!(due(&minutely, Some(now), now - Duration::from_secs(3600)), nothing);
    }

    #[test]
    fn what_was_missed_is_skipped_made_up_once_or_made_up_wholly() {
        let (last, now) = (Some(at("2026-01-01T00:00:00Z")), at("2026-01-01T06:05:01Z"));
        let of = |fields: &str, now| {
            let Due { ticks, skipped, upto } = due(&schedule(fields), last, now);
            assert_eq!(upto, now);
            let ticks: Vec<String> = ticks.iter().map(|tick| tick.strftime("%H:%M").to_string()).collect();
            (ticks.join(" "), skipped)
        };
        assert_eq!(of("rate_minutes: 120, missed: skip", now), (String::new(), 3));
        assert_eq!(of("rate_minutes: 120, missed: last", now), ("06:00".to_owned(), 2));
        assert_eq!(of("rate_minutes: 120, missed: all", now), ("02:00 04:00 06:00".to_owned(), 0));
        // Five minutes late is on time, and a tick on time does the work of those missed.
        let now = at("2026-01-01T06:05:00Z");
        assert_eq!(of("rate_minutes: 120, missed: skip", now), ("06:00".to_owned(), 2));
        assert_eq!(of("rate_minutes: 120, missed: last", now), ("06:00".to_owned(), 2));
    }

    #[test]
    fn a_year_of_missed_minutes_is_taken_in_bounded_rounds() {
        let (start, now) = (at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:30Z"));
        for (missed, rounds, ran, skipped) in
            [("skip", 53, 5, 525_595), ("last", 53, 5, 525_595), ("all", 5256, 525_600, 0)]
        {
            let schedule = schedule(&format!("rate_minutes: 1, missed: {missed}"));
            let (mut upto, mut seen) = (start, (0, 0, 0));
            while upto < now {
                let due = due(&schedule, Some(upto), now);
                assert!(due.upto > upto && due.ticks.len() <= TICKS_MAX);
                upto = due.upto;
                seen = (seen.0 + 1, seen.1 + due.ticks.len(), seen.2 + due.skipped);
            }
            assert_eq!(seen, (rounds, ran, skipped), "{missed}");
        }
    }

    #[test]
    fn a_tick_asks_for_one_job_that_names_its_schedule() {
        let nightly = schedule("cron: 30 2 * * *, time_zone: Asia/Kolkata, payload: { a: 1 }, labels: { team: blue }");
        let tick = next(&nightly, at("2026-01-01T00:00:00Z")).unwrap();
        let (asked, key) = submission(&nightly, tick);
        assert_eq!(key, "s@2026-01-01T21:00:00Z");
        insta::assert_json_snapshot!(asked);
    }

    proptest! {
        #[test]
        fn ticks_rise_and_rounds_do_not_change_them(
            which in 0..6_usize,
            missed in 0..3_usize,
            start in 1_760_000_000_i64..1_800_000_000,
            steps in prop::collection::vec(1..300_i64, 1..40),
        ) {
            let when = [
                "cron: \"*/7 * * * *\", time_zone: America/New_York",
                "cron: \"0,30 1-3 * * *\", time_zone: Europe/Berlin",
                "cron: \"* 1,2 * * *\", time_zone: Australia/Lord_Howe",
                "cron: \"* * * * *\", time_zone: America/Santiago",
                "rate_minutes: 1",
                "rate_minutes: 11",
            ][which];
            let schedule = schedule(&format!("{when}, missed: {}", ["skip", "last", "all"][missed]));
            let start = Timestamp::from_second(start).unwrap();
            // The rounds are at most five minutes apart, so nothing is missed.
            let (mut last, mut ran) = (start, vec![]);
            for step in steps {
                let now = last + SignedDuration::from_secs(step);
                let due = due(&schedule, Some(last), now);
                prop_assert_eq!((due.skipped, due.upto), (0, now));
                ran.extend(due.ticks);
                last = now;
            }
            prop_assert!(ran.is_sorted_by(|a, b| a < b));
            prop_assert!(ran.iter().all(|tick| *tick > start && *tick <= last));
            let all = Schedule { missed: Missed::All, ..schedule.clone() };
            let mut at_once = due(&all, Some(start), last);
            while at_once.upto < last {
                let more = due(&all, Some(at_once.upto), last);
                at_once.ticks.extend(more.ticks);
                at_once.upto = more.upto;
            }
            prop_assert_eq!(&at_once.ticks, &ran);
            let keys: Vec<String> = ran.iter().map(|tick| submission(&schedule, *tick).1).collect();
            let again: Vec<String> = at_once.ticks.iter().map(|tick| submission(&all, *tick).1).collect();
            prop_assert_eq!(&keys, &again);
            let ids: std::collections::BTreeSet<JobId> = keys.iter().map(|key| JobId::keyed(CALLER, key)).collect();
            prop_assert_eq!(ids.len(), ran.len());
        }
    }
}
