//! A year of ticks in seven zones, through every change of their clocks, against a cron library that shares neither
//! code nor time zone data with ours.
//!
//! The peer walks a clock's times as ours does: it leaves out what the clock jumps over. It runs what the clock shows
//! twice both times, where ours runs an expression that names hours once. [`TWICE`] lists all of that, by hand.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use jiff::{Timestamp, Zoned};
use switchyard_core::schedule::{self, Schedule, Schedules};

/// Both hemispheres, a change at midnight (Santiago), one of half an hour (Lord Howe), and a zone without any.
const ZONES: [&str; 7] = [
    "America/New_York",
    "America/Santiago",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Europe/Berlin",
    "Pacific/Auckland",
];

/// What both libraries can say.
const EXPRESSIONS: [&str; 14] = [
    "*/15 * * * *",
    "0 * * * *",
    "7,37 * * * *",
    "30 0 * * *",
    "30 1 * * *",
    "0 2 * * *",
    "30 2 * * *",
    "30 23 * * *",
    "15,45 0-3 * * *",
    "0 */2 * * *",
    "0 9 * * MON-FRI",
    "0 0 1 * *",
    "10 0,2 * 3,4,9,10,11 SUN",
    "59 23 31 12 *",
];

/// The ticks at which the clock shows a time again, which the peer runs a second time and ours does not.
const TWICE: [(&str, &str, &[&str]); 20] = [
    ("America/New_York", "30 1 * * *", &["2026-11-01T01:30:00-05:00"]),
    ("America/New_York", "15,45 0-3 * * *", &["2026-11-01T01:15:00-05:00", "2026-11-01T01:45:00-05:00"]),
    ("America/Santiago", "30 23 * * *", &["2026-04-04T23:30:00-04:00"]),
    ("Australia/Lord_Howe", "30 1 * * *", &["2026-04-05T01:30:00+10:30"]),
    ("Australia/Lord_Howe", "15,45 0-3 * * *", &["2026-04-05T01:45:00+10:30"]),
    ("Australia/Sydney", "0 2 * * *", &["2026-04-05T02:00:00+10:00"]),
    ("Australia/Sydney", "30 2 * * *", &["2026-04-05T02:30:00+10:00"]),
    ("Australia/Sydney", "15,45 0-3 * * *", &["2026-04-05T02:15:00+10:00", "2026-04-05T02:45:00+10:00"]),
    ("Australia/Sydney", "0 */2 * * *", &["2026-04-05T02:00:00+10:00"]),
    ("Australia/Sydney", "10 0,2 * 3,4,9,10,11 SUN", &["2026-04-05T02:10:00+10:00"]),
    ("Europe/Berlin", "0 2 * * *", &["2026-10-25T02:00:00+01:00"]),
    ("Europe/Berlin", "30 2 * * *", &["2026-10-25T02:30:00+01:00"]),
    ("Europe/Berlin", "15,45 0-3 * * *", &["2026-10-25T02:15:00+01:00", "2026-10-25T02:45:00+01:00"]),
    ("Europe/Berlin", "0 */2 * * *", &["2026-10-25T02:00:00+01:00"]),
    ("Europe/Berlin", "10 0,2 * 3,4,9,10,11 SUN", &["2026-10-25T02:10:00+01:00"]),
    ("Pacific/Auckland", "0 2 * * *", &["2026-04-05T02:00:00+12:00"]),
    ("Pacific/Auckland", "30 2 * * *", &["2026-04-05T02:30:00+12:00"]),
    ("Pacific/Auckland", "15,45 0-3 * * *", &["2026-04-05T02:15:00+12:00", "2026-04-05T02:45:00+12:00"]),
    ("Pacific/Auckland", "0 */2 * * *", &["2026-04-05T02:00:00+12:00"]),
    ("Pacific/Auckland", "10 0,2 * 3,4,9,10,11 SUN", &["2026-04-05T02:10:00+12:00"]),
];

/// The days on which a daily time does not run, because the clock jumps over it.
const NEVER: [(&str, &str, &str); 10] = [
    ("America/New_York", "0 2 * * *", "2026-03-08"),
    ("America/New_York", "30 2 * * *", "2026-03-08"),
    ("America/Santiago", "30 0 * * *", "2026-09-06"),
    // To 02:30, which is there.
    ("Australia/Lord_Howe", "0 2 * * *", "2026-10-04"),
    ("Australia/Sydney", "0 2 * * *", "2026-10-04"),
    ("Australia/Sydney", "30 2 * * *", "2026-10-04"),
    ("Europe/Berlin", "0 2 * * *", "2026-03-29"),
    ("Europe/Berlin", "30 2 * * *", "2026-03-29"),
    ("Pacific/Auckland", "0 2 * * *", "2026-09-27"),
    ("Pacific/Auckland", "30 2 * * *", "2026-09-27"),
];

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The year 2026 of the zone's own calendar.
fn year(zone: &str) -> (Timestamp, Timestamp) {
    let start = |year: &str| format!("{year}-01-01T00:00[{zone}]").parse::<Zoned>().unwrap().timestamp();
    (start("2026"), start("2027"))
}

fn a_schedule(cron: &str, zone: &str) -> Schedule {
    let text =
        format!("version: 1\nschedules:\n  - {{ name: s, capability: c, cron: \"{cron}\", time_zone: {zone} }}\n");
    Schedules::parse("schedules.yaml", &text).unwrap().get("s").unwrap().clone()
}

/// Our ticks of a zone's year.
fn ours(cron: &str, zone: &str) -> Vec<Timestamp> {
    let schedule = a_schedule(cron, zone);
    let (start, end) = year(zone);
    // Its first moment counts.
    let first = schedule::next(&schedule, start - jiff::SignedDuration::from_secs(1));
    let ticks = std::iter::successors(first, |tick| schedule::next(&schedule, *tick));
    ticks.take_while(|tick| *tick < end).collect()
}

/// The peer's ticks of a zone's year.
fn theirs(cron: &str, zone: &str) -> BTreeSet<Timestamp> {
    let (start, end) = year(zone);
    let tz = chrono_tz::Tz::from_str(zone).unwrap();
    let from = chrono::DateTime::from_timestamp(start.as_second() - 1, 0).unwrap().with_timezone(&tz);
    // It wants seconds in front. Within a repeated hour it does not keep the order, so this is a set.
    let peer = cron::Schedule::from_str(&format!("0 {cron}")).unwrap();
    let ticks = peer.after(&from).map(|tick| Timestamp::from_second(tick.timestamp()).unwrap());
    ticks.take_while(|tick| *tick < end).collect()
}

#[test]
fn a_year_of_ticks_is_an_independent_librarys_but_for_what_the_clock_shows_twice() {
    let mut differing = 0;
    for zone in ZONES {
        for cron in EXPRESSIONS {
            let ours = ours(cron, zone);
            assert!(ours.is_sorted_by(|a, b| a < b), "{cron} in {zone}");
            let twice: BTreeSet<Timestamp> = TWICE
                .iter()
                .filter(|row| (row.0, row.1) == (zone, cron))
                .flat_map(|row| row.2.iter().map(|tick| at(tick)))
                .collect();
            differing += twice.len();
            let ours: BTreeSet<Timestamp> = ours.into_iter().collect();
            let theirs = theirs(cron, zone);
            let only_theirs: BTreeSet<Timestamp> = theirs.difference(&ours).copied().collect();
            let only_ours: Vec<&Timestamp> = ours.difference(&theirs).collect();
            assert_eq!((only_ours, only_theirs), (vec![], twice), "{cron} in {zone}");
        }
    }
    // A row of the table that no pair meets would prove nothing.
    assert_eq!(differing, TWICE.iter().map(|row| row.2.len()).sum::<usize>());
}

#[test]
fn a_daily_time_runs_every_day_but_those_whose_clock_jumps_over_it() {
    for zone in ZONES {
        for cron in ["30 0 * * *", "30 1 * * *", "0 2 * * *", "30 2 * * *", "30 23 * * *"] {
            let tz = year(zone).0.in_tz(zone).unwrap().time_zone().clone();
            let days: Vec<String> =
                ours(cron, zone).iter().map(|tick| tick.to_zoned(tz.clone()).date().to_string()).collect();
            let mut expected = vec![];
            let mut day = jiff::civil::date(2026, 1, 1);
            while day.year() == 2026 {
                if !NEVER.contains(&(zone, cron, day.to_string().as_str())) {
                    expected.push(day.to_string());
                }
                day = day.tomorrow().unwrap();
            }
            assert_eq!(days, expected, "{cron} in {zone}");
        }
    }
}

#[test]
fn what_runs_every_hour_keeps_its_beat_through_both_changes() {
    let gaps = |cron: &str, zone: &str| -> BTreeSet<i64> {
        ours(cron, zone).windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs() / 60).collect()
    };
    for zone in ZONES {
        assert_eq!(gaps("*/15 * * * *", zone), BTreeSet::from([15]), "{zone}");
        // Half an hour is not a whole one: on those two days an hour's ticks lie 90 minutes apart.
        let hours = if zone == "Australia/Lord_Howe" { BTreeSet::from([60, 90]) } else { BTreeSet::from([60]) };
        assert_eq!(gaps("0 * * * *", zone), hours, "{zone}");
    }
}

/// The peer cannot say these.
#[test]
fn last_and_nearest_days_are_those_of_the_calendar() {
    let days = |cron: &str| -> String {
        let tz = a_schedule(cron, "America/Santiago").time_zone;
        let days = ours(cron, "America/Santiago");
        let days: Vec<String> =
            days.iter().map(|tick| tick.to_zoned(tz.clone()).strftime("%m-%d").to_string()).collect();
        days.join(" ")
    };
    assert_eq!(days("0 18 L * *"), "01-31 02-28 03-31 04-30 05-31 06-30 07-31 08-31 09-30 10-31 11-30 12-31");
    assert_eq!(days("0 18 LW * *"), "01-30 02-27 03-31 04-30 05-29 06-30 07-31 08-31 09-30 10-30 11-30 12-31");
    assert_eq!(days("0 18 * * 5L"), "01-30 02-27 03-27 04-24 05-29 06-26 07-31 08-28 09-25 10-30 11-27 12-25");
    assert_eq!(days("0 18 * * 2#5"), "03-31 06-30 09-29 12-29");
    assert_eq!(days("0 18 15W * *"), "01-15 02-16 03-16 04-15 05-15 06-15 07-15 08-14 09-15 10-15 11-16 12-15");
    // Either day is enough, as in every cron; with `+` it must be both.
    assert_eq!(days("0 18 13 2,3 FRI"), "02-06 02-13 02-20 02-27 03-06 03-13 03-20 03-27");
    assert_eq!(days("0 18 13 * +FRI"), "02-13 03-13 11-13");
}
