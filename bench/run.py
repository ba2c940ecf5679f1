#!/usr/bin/env python3
"""Runs Switchyard's benchmarks and their peers in one interleaved run, and says by how much one beats
the other.

On shared machines the disk and the processor change tenfold within minutes, so a figure alone says
little. Each round therefore runs ours and every peer one after the other, ratios are taken within a
round, and the floor (fdatasync of 4 KiB) is measured in each round too. A missed target is stated and
is no failure: the exit code is 1 only when something that should have run crashed. A peer that cannot
be had on this machine is skipped by name.

Writes bench/target/results.json and, for BENCHMARKS.md, bench/target/results.md.
Standard library only; `bench/install.sh` installs what the Python peers need.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

BENCH = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(BENCH)
TARGET = os.path.join(BENCH, "target")
PEERS = os.path.join(TARGET, "release")
OURS = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "examples")
PYTHON = os.path.join(TARGET, "venv", "bin", "python")

# (ours, peer, at least so many times the peer, what is compared)
RATIOS = [
    ("throughput", "apalis_sqlite", 5.0, "apalis-sqlite, synchronous=FULL"),
    ("throughput", "celery_redis", 10.0, "Celery, Redis AOF always"),
    ("throughput", "rq_forking", 100.0, "RQ forking, Redis AOF always"),
    ("process_executor", "spawn_wait", 0.85, "bare spawn and wait"),
]
FSYNCS_PER_JOB = 0.1
NS_PER_DECISION = 200
ALLOCATIONS = 0
# What choosing among 10,000 mappings may take of what it takes among 10.
MAPPING_GROWTH = 2
# An idle yard starts a job after two commits, and 250 us for everything else.
DISPATCH_FDATASYNCS = 2
DISPATCH_ELSE_US = 250


class Unavailable(Exception):
    """Why a command cannot be run on this machine."""


def main():
    args = arguments()
    crashes = []
    if args.build:
        build(crashes)

    disk = args.dir
    args.dir = tempfile.mkdtemp(prefix="run-", dir=disk)
    try:
        rounds, skipped = measure(args, crashes)
    finally:
        shutil.rmtree(args.dir, ignore_errors=True)  # whatever a killed peer left behind

    result = {
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(disk),
        "commit": commit(),
        "rounds": rounds,
        "medians": medians(rounds),
        "targets": targets(rounds, skipped),
        "instructions": {name: instructions(name, passes, args, crashes)
                         for name, passes in (("decide", 101), ("mapping", 10001))},
        "skipped": skipped,
        "crashes": crashes,
    }
    os.makedirs(TARGET, exist_ok=True)
    with open(os.path.join(TARGET, "results.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
        file.write("\n")
    text = markdown(result)
    with open(os.path.join(TARGET, "results.md"), "w", encoding="utf-8") as file:
        file.write(text)
    print(text, end="")
    return 1 if crashes else 0


def measure(args, crashes):
    """All rounds: for each a result by command, and why commands were skipped."""
    rounds, skipped = [], {}
    for number in range(1, args.rounds + 1):
        results = {}
        for name, command in commands(args):
            if name in skipped:
                continue
            try:
                available(command, name)
                print(f"round {number} of {args.rounds}: {name}", file=sys.stderr, flush=True)
                results[name] = run(command, args.timeout)
            except Unavailable as reason:
                skipped[name] = str(reason)
                print(f"SKIPPED: {name}: {reason}", file=sys.stderr, flush=True)
            except (OSError, ValueError, RuntimeError) as error:
                crashes.append(f"{name}, round {number}: {error}")
                print(f"CRASHED: {crashes[-1]}", file=sys.stderr, flush=True)
        rounds.append(results)
    return rounds, skipped


def arguments():
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default=os.path.join(TARGET, "tmp"),
                        help="a directory on the disk to be measured (default: bench/target/tmp)")
    parser.add_argument("--no-build", dest="build", action="store_false", help="use what is built already")
    parser.add_argument("--timeout", type=int, default=600, help="seconds one command may take")
    parser.add_argument("--jobs", type=int, default=20000, help="jobs of our queue benchmark")
    parser.add_argument("--records", type=int, default=100000, help="records of our benchmark of what jobs emit")
    parser.add_argument("--dispatch-jobs", type=int, default=1000, help="jobs of our dispatch benchmark")
    parser.add_argument("--apalis-jobs", type=int, default=5000)
    parser.add_argument("--celery-jobs", type=int, default=2000)
    parser.add_argument("--rq-jobs", type=int, default=200)
    parser.add_argument("--appends", type=int, default=500, help="4 KiB appends of the fdatasync floor")
    parser.add_argument("--processes", type=int, default=2000, help="processes of both process benchmarks")
    parser.add_argument("--concurrency", type=int, default=2 * cores, help="processes at once (default: 2 a core)")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    args.dir = os.path.abspath(args.dir)
    os.makedirs(args.dir, exist_ok=True)
    return args


def commands(args):
    """One round, in the order in which it runs."""
    def sized(jobs):
        return ["--jobs", str(jobs), "--dir", args.dir]

    processes = ["--jobs", str(args.processes), "--concurrency", str(args.concurrency)]
    return [
        ("fdatasync", [os.path.join(PEERS, "fdatasync"), *sized(args.appends)]),
        ("throughput", [os.path.join(OURS, "throughput"), *sized(args.jobs)]),
        ("records", [os.path.join(OURS, "records"), *sized(args.records)]),
        ("dispatch", [os.path.join(OURS, "dispatch"), *sized(args.dispatch_jobs)]),
        ("apalis_sqlite", [os.path.join(PEERS, "apalis_sqlite"), *sized(args.apalis_jobs)]),
        ("celery_redis", [PYTHON, os.path.join(BENCH, "peers", "celery_redis.py"), *sized(args.celery_jobs)]),
        ("rq_forking", [PYTHON, os.path.join(BENCH, "peers", "rq_forking.py"), *sized(args.rq_jobs)]),
        ("process_executor", [os.path.join(OURS, "process_executor"), *processes]),
        ("spawn_wait", [os.path.join(PEERS, "spawn_wait"), *processes]),
        ("decide", [os.path.join(OURS, "decide")]),
        ("mapping", [os.path.join(OURS, "mapping")]),
    ]


def build(crashes):
    """Builds both workspaces; a build that fails is a crash, and what it would have built is skipped."""
    for command in (
        ["cargo", "build", "--release", "--locked", "--manifest-path", os.path.join(BENCH, "Cargo.toml"),
         "--target-dir", TARGET, "--package", "bench-peers"],
        ["cargo", "build", "--release", "--examples", "-p", "switchyard-core", "-p", "switchyard-embedded",
         "-p", "switchyard-worker"],
    ):
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode
        except OSError as error:
            code = error
        if code != 0:
            crashes.append(f"{' '.join(command[:3])} in {'bench' if '--locked' in command else 'the workspace'}: {code}")


def available(command, name):
    if not os.path.exists(command[0]):
        if command[0] == PYTHON:
            raise Unavailable("no Python environment; run bench/install.sh")
        raise Unavailable(f"{os.path.relpath(command[0], ROOT)} is not built")
    if name in ("celery_redis", "rq_forking") and shutil.which("redis-server") is None:
        raise Unavailable("no redis-server; run bench/install.sh")


def run(command, timeout):
    """Runs one command and returns its JSON line. Its processes end with it, whatever happens."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               text=True, start_new_session=True)
    try:
        out, _ = process.communicate(timeout=timeout)
    except BaseException as error:
        # Asked first, so that a peer can stop the server it started.
        process.terminate()
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"took more than {timeout} s") from error
        raise
    if process.returncode != 0:
        raise RuntimeError(f"ended with {process.returncode}")
    lines = out.splitlines()
    if len(lines) != 1:
        raise ValueError(f"printed {len(lines)} lines, wanted one JSON line")
    result = json.loads(lines[0])
    if not result.get("jobs_per_second", 0) > 0:
        raise ValueError(f"no jobs_per_second in {lines[0]}")
    return result


def instructions(name, passes, args, crashes):
    """The instructions of one decision or choice: counted twice under valgrind, the difference by those in between."""
    counting = os.path.join(OURS, name)
    if shutil.which("valgrind") is None or not os.path.exists(counting):
        return None
    counts = []
    for times in (1, passes):
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", counting, "--passes", str(times)]
        try:
            ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                   timeout=args.timeout, check=True)
            counted = next(line for line in ended.stderr.splitlines() if "Collected :" in line)
            counts.append((int(counted.split(":")[1]), json.loads(ended.stdout)["jobs"]))
        except (OSError, ValueError, StopIteration, subprocess.SubprocessError) as error:
            crashes.append(f"{name} under valgrind: {error}")
            return None
    (few, fewer), (many, more) = counts
    return (many - few) / (more - fewer)


def spread(values):
    """min, median and max."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def medians(rounds):
    """For each command the spread of its rate and of the other figures it gave."""
    found = {}
    for name in dict.fromkeys(name for results in rounds for name in results):
        runs = [results[name] for results in rounds if name in results]
        entry = {"runs": len(runs), "jobs": runs[-1].get("jobs"), "notes": runs[-1].get("notes", ""),
                 "durability": runs[-1].get("durability", "")}
        for field in ("jobs_per_second", "p50_us", "p99_us", "accept_p50_us", "fdatasync_p50_us",
                      "idle_switches_per_second", "fsyncs", "fsyncs_per_job", "ns_per_decision", "ns_per_choice", "growth",
                      "allocations"):
            values = [run[field] for run in runs if isinstance(run.get(field), (int, float))]
            if values:
                entry[field] = spread(values)
        found[name] = entry
    return found


def targets(rounds, skipped):
    """Each target with its ratios by round and whether the median meets it."""
    found = []
    for ours, peer, wanted, what in RATIOS:
        ratios = [results[ours]["jobs_per_second"] / results[peer]["jobs_per_second"]
                  for results in rounds if ours in results and peer in results]
        found.append(judged(f"{ours} / {peer}", what, "at least", wanted, ratios,
                            [name for name in (ours, peer) if name in skipped]))
    fsyncs = [results["throughput"]["fsyncs_per_job"] for results in rounds
              if isinstance(results.get("throughput", {}).get("fsyncs_per_job"), (int, float))]
    found.append(judged("throughput, fsyncs a job", "fsyncs a job", "at most", FSYNCS_PER_JOB, fsyncs,
                        ["throughput"] if "throughput" in skipped else []))
    for of, what, field, wanted in (
            ("decide", "ns a decision", "ns_per_decision", NS_PER_DECISION),
            ("decide", "allocations", "allocations", ALLOCATIONS),
            ("mapping", "10,000 mappings to 10, the worst shape", "growth", MAPPING_GROWTH),
            ("mapping", "allocations", "allocations", ALLOCATIONS)):
        values = [results[of][field] for results in rounds if of in results]
        found.append(judged(f"{of}, {what}", field, "at most", wanted, values, [of] if of in skipped else []))
    dispatches = [(run["p50_us"] - DISPATCH_ELSE_US) / run["fdatasync_p50_us"]
                  for run in (results["dispatch"] for results in rounds if "dispatch" in results)]
    found.append(judged(f"dispatch, (p50 - {DISPATCH_ELSE_US} us) in fdatasyncs of its own run", "fdatasyncs", "at most",
                        DISPATCH_FDATASYNCS, dispatches, ["dispatch"] if "dispatch" in skipped else []))
    return found


def judged(name, what, bound, wanted, values, missing):
    entry = {"name": name, "what": what, "bound": bound, "wanted": wanted, "values": values}
    if not values:
        entry["verdict"] = f"not measured ({', '.join(missing)} skipped)" if missing else "not measured"
        return entry
    entry["spread"] = spread(values)
    median = entry["spread"]["median"]
    met = median >= wanted if bound == "at least" else median <= wanted
    entry["verdict"] = "pass" if met else "miss"
    return entry


def machine(directory):
    return {
        "cores": os.cpu_count(),
        "processor": first_field("/proc/cpuinfo", "model name"),
        "memory": memory(),
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "filesystem": filesystem(directory),
    }


def first_field(path, name):
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return "unknown"


def memory():
    kilobytes = first_field("/proc/meminfo", "MemTotal").split()[0]
    return f"{int(kilobytes) / 1024 ** 2:.0f} GiB" if kilobytes.isdigit() else "unknown"


def filesystem(directory):
    """The type of the file system that holds the directory: the longest mount point above it."""
    best, kind = "", "unknown"
    directory = os.path.realpath(directory)
    try:
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            for line in mounts:
                fields = line.split()
                point = fields[1].encode().decode("unicode_escape")
                inside = point == "/" or directory == point or directory.startswith(point + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, fields[2]
    except OSError:
        pass
    return kind


def commit():
    try:
        answer = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True,
                                text=True, check=False)
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"


def number(value):
    """A figure as a person reads it: 29,300 or 0.053."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}".rstrip("0").rstrip(".")


def by_size(rounds):
    """What choosing a mapping took in the last round, by how many there are, and looking at each in turn beside it."""
    runs = [results["mapping"] for results in rounds if "mapping" in results]
    if not runs:
        return ""
    text = row("ns a choice, mappings differ by", "10", "100", "1,000", "10,000") + row(*["---"] * 5)
    for shape, took in runs[-1]["ns_at_10_100_1000_10000"].items():
        cells = [f"{number(indexed)} (linear {number(linear)})"
                 for indexed, linear in zip(took["choose"], took["linear"])]
        text += row(shape, *cells)
    return text + "\n"


def row(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def markdown(result):
    """The fragment for BENCHMARKS.md, which is also what is printed."""
    where = result["machine"]
    text = (f"{len(result['rounds'])} interleaved rounds, {result['when']}, commit {result['commit']}. "
            f"Machine: {where['cores']} cores ({where['processor']}), {where['memory']} memory, "
            f"{where['system']} {where['kernel']} {where['architecture']}, {where['filesystem']}.\n\n")
    if where["filesystem"] in ("tmpfs", "ramfs"):
        text += "**The directory is in memory: nothing here was durable.**\n\n"

    text += row("command", "jobs", "jobs/s, median", "min", "max", "also") + row(*["---"] * 6)
    for name, entry in result["medians"].items():
        rate = entry["jobs_per_second"]
        also = [f"{label} {number(entry[field]['median'])}" for field, label in (
            ("p50_us", "p50 us"), ("p99_us", "p99 us"), ("accept_p50_us", "acceptance p50 us"),
            ("fdatasync_p50_us", "fdatasync p50 us"), ("idle_switches_per_second", "idle switches a second"),
            ("fsyncs_per_job", "fsyncs a job"), ("ns_per_decision", "ns a decision"),
            ("ns_per_choice", "ns a choice"), ("growth", "times that of ten"),
            ("allocations", "allocations")) if field in entry]
        text += row(name, entry["jobs"], number(rate["median"]), number(rate["min"]), number(rate["max"]),
                    ", ".join(also))
    text += "\n" + row("target", "wanted", "min", "median", "max", "verdict") + row(*["---"] * 6)
    for target in result["targets"]:
        unit = "x" if "/" in target["name"] else ""
        figures = [number(target["spread"][key]) + unit if "spread" in target else "-"
                   for key in ("min", "median", "max")]
        text += row(f"{target['name']} ({target['what']})" if unit else target["name"],
                    f"{target['bound']} {target['wanted']:g}{unit}", *figures, target["verdict"])
    text += "\n"
    for name, counted in result["instructions"].items():
        what = {"decide": "a decision", "mapping": "a choice among 1,000 mappings"}[name]
        text += (f"Instructions of {what}: not counted, there is no valgrind.\n\n" if counted is None else
                 f"Instructions of {what}, counted by valgrind: {number(counted)}.\n\n")
    text += by_size(result["rounds"])
    for name, entry in result["medians"].items():
        text += f"- {name}: {entry['notes']}; durability: {entry['durability']}.\n"
    for name, reason in result["skipped"].items():
        text += f"- SKIPPED {name}: {reason}.\n"
    for crash in result["crashes"]:
        text += f"- CRASHED {crash}.\n"
    return text


if __name__ == "__main__":
    sys.exit(main())
