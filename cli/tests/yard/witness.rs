//! A catalog whose jobs write down what they do, so that what the yard says can be held against what happened.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every kind but the built-in runs this, with its kind as the argument. It appends lines `ID EPOCH WHAT` to
/// `witness`: one write each, so that they stand whole whenever the run is killed.
const SCRIPT: &str = r#"# What a job of the crash tests runs. $1: its kind.
dir=${0%/*}
id=$SWITCHYARD_JOB_ID
epoch=$SWITCHYARD_EPOCH
say() { echo "$id $epoch $*" >> "$dir/witness"; }
note() { echo "$1 $epoch" >> "$dir/pids/$id"; }

# Nothing of an earlier run may be alive. A number alone could be another process's by now: its mark cannot.
if [ -e "$dir/pids/$id" ]; then
    while read -r pid earlier; do
        if tr '\0' '\n' < "/proc/$pid/environ" | grep -q "^SWITCHYARD_RUN=.*:$id:$earlier:\$"; then
            say "overlap $pid"
        fi
    done < "$dir/pids/$id"
fi 2> /dev/null
note $$
say start
case $1 in
flaky)
    if [ ! -e "$dir/marks/$id" ]; then
        say fail
        : > "$dir/marks/$id"
        exit 1
    fi ;;
slow)
    setsid sleep 300 > /dev/null 2>&1 &
    note $!
    sleep 0.3 ;;
limited)
    # Entered before counting: of any that run at once, the last to enter sees them all.
    : > "$dir/live/$$ $id $epoch"
    count=0
    for run in "$dir"/live/*; do
        set -- ${run##*/}
        if tr '\0' '\n' < "/proc/$1/environ" | grep -q "^SWITCHYARD_RUN=.*:$2:$3:\$"; then
            count=$((count + 1))
        fi
    done 2> /dev/null
    say with $count
    sleep 0.3
    rm -f "$dir/live/$$ $id $epoch" ;;
hold)
    setsid sleep 300 > /dev/null 2>&1 &
    note $!
    say held
    while [ ! -e "$dir/go" ]; do sleep 0.05; done ;;
esac
say end
"#;

/// Writes the catalog and its script into `folder`.
pub(crate) fn write_catalog(folder: &Path) {
    let mut catalog = "version: 1\ncapabilities:\n".to_owned();
    let script = folder.join("run.sh");
    let mut add = |name: &str, kind: &str, rest: &str| {
        let script = script.display();
        catalog.push_str(&format!(
            "  - name: {name}\n    summary: A witness\n    run: {{ command: [/bin/sh, \"{script}\", {kind}] }}\n    \
             needs: {{ expected_seconds: 1, timeout_seconds: 600, memory_mib: 16 }}\n{rest}"
        ));
    };
    let task = "    route: { only: [fargate] }\n    retry: { attempts: 3, backoff_seconds: 1 }\n";
    add("quick", "quick", "");
    add("flaky", "flaky", "    retry: { attempts: 3, backoff_seconds: 1 }\n");
    add("slow", "slow", "");
    add("hold", "hold", "");
    add("limited", "limited", "    limits: { concurrent: 3 }\n");
    add("task", "quick", task);
    add("hold-task", "hold", task);
    catalog.push_str(
        "  - name: finding-triage\n    summary: Inline\n    run: { builtin: finding-triage }\n    needs: { \
         expected_seconds: 1, timeout_seconds: 60, memory_mib: 128 }\n    retry: { attempts: 1 }\n",
    );
    for part in ["pids", "marks", "live"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    fs::write(folder.join("capabilities.yaml"), catalog).unwrap();
    fs::write(script, SCRIPT).unwrap();
}

/// What one run of a job wrote down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) starts: u32,
    pub(crate) failures: u32,
    pub(crate) ends: u32,
    /// Processes of earlier runs that were alive when it began.
    pub(crate) overlaps: u32,
    /// Of a capability with a limit: its runs that were alive when this one began, with itself.
    pub(crate) at_once: u32,
}

/// What the jobs of a yard wrote down.
pub(crate) struct Witness {
    folder: PathBuf,
}

impl Witness {
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Lets every job of the kind `hold` end.
    pub(crate) fn let_go(&self) {
        fs::write(self.folder.join("go"), "").unwrap();
    }

    /// What each run wrote, by job and epoch.
    pub(crate) fn runs(&self) -> BTreeMap<(String, u64), Run> {
        let mut runs: BTreeMap<(String, u64), Run> = BTreeMap::new();
        for line in fs::read_to_string(self.folder.join("witness")).unwrap_or_default().lines() {
            let mut words = line.split(' ');
            let (Some(id), Some(epoch), Some(what)) = (words.next(), words.next(), words.next()) else {
                panic!("a torn line in the witness: {line}");
            };
            let run = runs.entry((id.to_owned(), epoch.parse().unwrap())).or_default();
            match what {
                "start" => run.starts += 1,
                "fail" => run.failures += 1,
                "end" => run.ends += 1,
                "overlap" => run.overlaps += 1,
                "with" => run.at_once = words.next().and_then(|count| count.parse().ok()).expect("a count"),
                "held" => {}
                other => panic!("the witness says `{other}`"),
            }
        }
        runs
    }

    /// Waits until the run holds: its processes, the one that left the session last.
    pub(crate) fn held(&self, id: &str, epoch: u64) -> Vec<u32> {
        let line = format!("{id} {epoch} held");
        super::eventually(&format!("epoch {epoch} of job {id} to hold"), || {
            let said = fs::read_to_string(self.folder.join("witness")).ok()?;
            said.lines().any(|other| other == line).then_some(())
        });
        let pids = fs::read_to_string(self.folder.join("pids").join(id)).unwrap();
        let of_this_run =
            |line: &str| line.split_once(' ').filter(|(_, other)| *other == epoch.to_string())?.0.parse().ok();
        pids.lines().filter_map(of_this_run).collect()
    }
}
