use super::*;
use crate::job::{Epoch, JobId, Nonce};
use crate::ports::{Machine, Room};
use crate::testing::{a_job, a_running_job, at};

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

fn worker_on(instance: &str) -> Worker {
    let (capacity, free) = (Room::default(), Room::default());
    let holder = Holder::new(instance, Nonce(7));
    Worker { holder, pool: PoolName::STANDARD, capacity, free, since: at(0), leaving: false }
}

fn machine(id: &str, stage: Stage) -> Machine {
    Machine { id: id.to_owned(), pool: PoolName::STANDARD, stage }
}

fn fleet(machines: &[Machine]) -> Machines {
    Machines { pools: vec![PoolName::STANDARD], machines: machines.to_vec() }
}

/// A round that saw these workers, these machines, and these tasks beside these jobs.
fn seen(workers: &[Worker], machines: &[Machine], tasks: &[Message], jobs: &[Job]) -> Seen {
    Seen {
        workers: Some(workers.to_vec()),
        perhaps: Some(workers.iter().map(|worker| worker.holder.clone()).collect()),
        machines: Some(fleet(machines)),
        tasks: Some((Listed { found: tasks.to_vec(), whole: true }, jobs.to_vec())),
    }
}

fn of(job: &Job) -> Message {
    Message::of(job)
}

#[test]
fn what_is_well_is_no_suspect() {
    let (waiting, mut running) = (a_job(Venue::Fargate), a_running_job(Venue::Fargate, 1));
    running.id = JobId::keyed("tests", "two");
    let workers = [worker_on("i-0a"), worker_on("i-0b"), worker_on("a-laptop"), worker_on("i-am-not")];
    let machines = [
        machine("i-0a", Stage::AtWork),
        // It leaves, and its worker is still at it.
        machine("i-0b", Stage::Leaving),
        machine("i-0c", Stage::Coming),
        machine("i-0d", Stage::Aside),
        machine("i-0e", Stage::Leaving),
    ];
    let seen = seen(&workers, &machines, &[of(&waiting), of(&running)], &[waiting, running]);
    assert_eq!(judge(&[], &seen, at(0)), Judgement::default());
}

#[test]
fn a_machine_whose_worker_may_be_alive_is_let_be_and_its_silence_counts_only_while_it_is_listened_to() {
    let machines = [machine("i-0a", Stage::AtWork)];
    let silent = seen(&[], &machines, &[], &[]);
    let perhaps = Seen { perhaps: Some(vec![worker_on("i-0a").holder]), ..silent.clone() };
    assert_eq!(judge(&[], &perhaps, at(0)), Judgement::default(), "not listed, and not known to be dead");
    let marked = judge(&[], &silent, at(0)).marks;
    assert_eq!(judge(&marked, &silent, at(601)).acts.len(), 1);
    let blind = Seen { perhaps: None, ..silent.clone() };
    let after = judge(&marked, &blind, at(600)).marks;
    assert_eq!(judge(&after, &silent, at(601)).acts, [], "nobody had looked");
    assert_eq!(judge(&after, &silent, at(1200)).acts.len(), 1);
}

#[test]
fn a_suspect_of_each_kind_is_known_by_what_is_missing() {
    let job = a_job(Venue::Fargate);
    let at_epoch = |epoch| Message { epoch: Epoch(epoch), ..of(&job) };
    let unknown = Message { id: JobId::keyed("tests", "nobody's"), epoch: Epoch(1) };
    let mut settled = a_job(Venue::Fargate);
    settled.id = JobId::keyed("tests", "settled");
    settled.state = crate::job::State::Settled(crate::job::Settlement {
        at: at(1),
        ending: crate::job::Ending::Cancelled,
        result: None,
        error: None,
        token: None,
    });
    let mut elsewhere = a_job(Venue::Fleet);
    elsewhere.id = JobId::keyed("tests", "elsewhere");
    let tasks = [at_epoch(1), at_epoch(2), unknown, of(&settled), of(&elsewhere)];
    let seen = seen(
        &[worker_on("i-0a"), worker_on("i-0b")],
        &[machine("i-0a", Stage::AtWork), machine("i-0c", Stage::AtWork)],
        &tasks,
        &[job, settled.clone(), elsewhere.clone()],
    );
    let judged = judge(&[], &seen, at(0));
    let suspects: Vec<Suspect> = judged.marks.into_iter().map(|mark| mark.suspect).collect();
    assert_eq!(
        suspects,
        [
            Suspect::Worker(Holder::new("i-0b", Nonce(7))),
            Suspect::Machine { pool: PoolName::STANDARD, id: "i-0c".into() },
            Suspect::Task(tasks[1]),
            Suspect::Task(unknown),
            Suspect::Task(of(&settled)),
            Suspect::Task(of(&elsewhere)),
        ]
    );
    assert_eq!(judged.acts, [], "one look never acts");
    assert_eq!((judged.swept.tasks.found, judged.swept.tasks.marked), (4, 4));
}

/// A round with one suspect of the kind, and what it is.
fn suspicious(kind: usize) -> (Seen, Suspect) {
    let run = of(&a_job(Venue::Fargate));
    match kind {
        0 => (seen(&[worker_on("i-0a")], &[], &[], &[]), Suspect::Worker(Holder::new("i-0a", Nonce(7)))),
        1 => {
            let suspect = Suspect::Machine { pool: PoolName::STANDARD, id: "i-0a".into() };
            (seen(&[], &[machine("i-0a", Stage::AtWork)], &[], &[]), suspect)
        }
        _ => (seen(&[], &[], &[run], &[]), Suspect::Task(run)),
    }
}

#[test]
fn what_is_still_so_at_a_later_round_is_acted_on_and_not_before() {
    // Seconds after the mark, and whether something is done then.
    let table: [(usize, &[(i64, bool)]); 3] = [
        (0, &[(0, false), (44, false), (45, true), (60, true), (120, true)]),
        // A machine has the time of eight boots; told once, it is left alone as long again.
        (1, &[(0, false), (60, false), (599, false), (600, true), (660, false), (1199, false), (1200, true)]),
        (2, &[(0, false), (44, false), (45, true), (60, true)]),
    ];
    for (kind, rounds) in table {
        let (seen, suspect) = suspicious(kind);
        let mut marks = judge(&[], &seen, at(0)).marks;
        for (later, acts) in rounds {
            let judged = judge(&marks, &seen, at(*later));
            let expected: &[Suspect] = if *acts { std::slice::from_ref(&suspect) } else { &[] };
            assert_eq!(judged.acts, expected, "{suspect:?} after {later} s");
            assert_eq!((judged.marks.len(), judged.marks[0].since), (1, at(0)));
            marks = judged.marks;
        }
    }
}

#[test]
fn what_has_recovered_loses_its_mark_and_begins_anew() {
    for kind in 0..3 {
        let (bad, suspect) = suspicious(kind);
        let marks = judge(&[], &bad, at(0)).marks;
        let well = judge(&marks, &seen(&[], &[], &[], &[]), at(60));
        assert_eq!((well.marks, well.acts), (vec![], vec![]), "{suspect:?}");
        assert_eq!(well.swept.kinds()[kind].1, Tally { unmarked: 1, ..Tally::default() });
        let again = judge(&[], &bad, at(10_000));
        assert_eq!((again.marks[0].since, again.acts), (at(10_000), vec![]));
    }
}

#[test]
fn nothing_is_done_about_what_could_not_be_looked_at_and_its_mark_stays() {
    for kind in 0..3 {
        let (bad, suspect) = suspicious(kind);
        let marks = judge(&[], &bad, at(0)).marks;
        let blind = [
            Seen { workers: None, tasks: None, ..bad.clone() },
            Seen { machines: None, tasks: None, ..bad.clone() },
            Seen::default(),
        ];
        for unseen in blind {
            let judged = judge(&marks, &unseen, at(100_000));
            // What a machine did while nobody looked is not known: its silence begins anew.
            let since = if matches!(suspect, Suspect::Machine { .. }) { at(100_000) } else { at(0) };
            let kept: Vec<Mark> = marks.iter().map(|mark| Mark { since, ..mark.clone() }).collect();
            assert_eq!((judged.marks, judged.acts), (kept, vec![]), "{suspect:?}");
        }
        // The mark was kept, so the next look that shows something is the second one.
        assert_eq!(judge(&marks, &bad, at(100_000)).acts, [suspect]);
    }
}

#[test]
fn a_part_of_the_tasks_says_nothing_about_the_others() {
    let (bad, suspect) = suspicious(2);
    let marks = judge(&[], &bad, at(0)).marks;
    let part = Seen { tasks: Some((Listed { found: vec![], whole: false }, vec![])), ..bad };
    let judged = judge(&marks, &part, at(60));
    assert_eq!((judged.marks.len(), judged.acts, judged.swept.tasks), (1, vec![], Tally::default()), "{suspect:?}");
}

#[test]
fn who_is_in_a_pool_without_a_group_is_nobody_s_affair() {
    let (mut seen, _) = suspicious(0);
    seen.machines = Some(Machines { pools: vec![pool("steady")], machines: vec![] });
    assert_eq!(judge(&[], &seen, at(0)), Judgement::default());
}

#[test]
fn a_round_does_so_much_and_the_next_one_goes_on() {
    let machines: Vec<Machine> = (0..600).map(|n| machine(&format!("i-{n:04x}"), Stage::AtWork)).collect();
    let seen = seen(&[], &machines, &[], &[]);
    let mut marks = judge(&[], &seen, at(0)).marks;
    assert_eq!(marks.len(), MARKS_MOST);
    let mut told = HashSet::new();
    for round in 0..3 {
        let judged = judge(&marks, &seen, at(600 + 60 * round));
        assert_eq!(judged.acts.len(), ACTS_MOST);
        told.extend(judged.acts);
        marks = judged.marks;
    }
    assert_eq!(told.len(), 3 * ACTS_MOST, "none of them twice");
}

mod rounds {

    use futures_lite::future::block_on;

    use super::*;
    use crate::catalog::Catalog;
    use crate::memory::Memory;
    use crate::ports::{Body, Launcher, Ledger, NewJob, Workers};
    use crate::route::Limits;

    fn yard() -> (Memory, Yard) {
        let home = Memory::new(at(0), 3);
        let yard = home.yard(Catalog::default(), Limits::default());
        (home, yard)
    }

    #[test]
    fn the_first_round_marks_and_the_second_acts() {
        let (home, yard) = yard();
        block_on(async {
            home.set_machines(fleet(&[machine("i-0c", Stage::AtWork)]));
            home.set_workers(vec![worker_on("i-0b")]);
            let job = a_job(Venue::Fargate);
            home.launch(&job).await.unwrap();
            let first = round(&yard, &home).await;
            assert_eq!(first.kinds().map(|(_, tally)| (tally.found, tally.marked, tally.done)), [(1, 1, 0); 3]);
            assert_eq!((home.struck_out(), home.ended_machines()), (vec![], vec![]));
            home.advance(Duration::from_secs(60));
            let second = round(&yard, &home).await;
            assert_eq!(second.kinds().map(|(_, tally)| tally.done), [1, 0, 1], "a machine has longer");
            assert_eq!(home.tasks_left(), 0);
            assert!(Workers::list(&home).await.unwrap().is_empty());
            home.advance(SILENT);
            assert_eq!(round(&yard, &home).await.machines.done, 1);
            assert_eq!(home.ended_machines(), ["i-0c"]);
            let after = round(&yard, &home).await;
            assert_eq!(after.kinds().map(|(_, tally)| tally.done), [0; 3]);
            assert_eq!(after.errors(), 0);
        });
    }

    #[test]
    fn of_two_rounds_that_saw_the_same_one_acts() {
        let (home, yard) = yard();
        block_on(async {
            home.set_machines(fleet(&[machine("i-0c", Stage::AtWork)]));
            round(&yard, &home).await;
            home.advance(SILENT);
            // Another round's marks are saved between this one's look and its own save.
            home.overtake_marks();
            let beaten = round(&yard, &home).await;
            assert_eq!((beaten, home.ended_machines()), (Swept::default(), vec![]));
            assert_eq!(round(&yard, &home).await.machines.done, 1);
        });
    }

    #[test]
    fn a_list_that_is_refused_is_an_error_and_no_reason_to_act() {
        let (home, yard) = yard();
        block_on(async {
            home.set_machines(fleet(&[machine("i-0c", Stage::AtWork)]));
            home.set_workers(vec![worker_on("i-0b")]);
            round(&yard, &home).await;
            home.advance(SILENT);
            home.refuse_inventory(true);
            let refused = round(&yard, &home).await;
            assert_eq!((refused.errors(), home.ended_machines(), home.struck_out()), (2, vec![], vec![]));
            home.refuse_inventory(false);
            let after = round(&yard, &home).await;
            assert_eq!((after.machines.done, after.workers.done), (0, 1), "the machine's silence begins anew");
            home.advance(SILENT);
            assert_eq!(round(&yard, &home).await.machines.done, 1);
        });
    }

    #[test]
    fn a_task_whose_job_is_there_is_left_alone_until_it_is_not() {
        let (home, yard) = yard();
        block_on(async {
            let job = a_job(Venue::Fargate);
            home.accept(vec![NewJob { job: job.clone(), payload: Body::Inline("{}".into()) }]).await.unwrap();
            home.launch(&job).await.unwrap();
            for _ in 0..3 {
                assert_eq!(round(&yard, &home).await, Swept::default());
                home.advance(Duration::from_secs(60));
            }
            assert_eq!(home.tasks_left(), 1);
            // The job goes on at another epoch, and that task's stop is lost.
            let mut next = job.clone();
            (next.epoch, next.revision) = (Epoch(2), job.revision + 1);
            home.save(next.clone(), None).await.unwrap();
            home.launch(&next).await.unwrap();
            assert_eq!(round(&yard, &home).await.tasks, Tally { found: 1, marked: 1, ..Tally::default() });
            home.advance(Duration::from_secs(60));
            assert_eq!(round(&yard, &home).await.tasks, Tally { found: 1, done: 1, ..Tally::default() });
            assert_eq!(home.tasks_left(), 1, "the one at epoch 2");
        });
    }
}
