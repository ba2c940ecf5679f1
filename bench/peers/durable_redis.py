"""What the Redis peers share: a Redis of their own that syncs its log before it answers, a record of
which jobs ran, 64 clients, and the one JSON line that bench/run.py reads.

The server listens on a Unix socket inside the scratch directory and on no port, and is stopped with
the peer, so that no Redis that happens to run on the machine is used or disturbed.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

PAYLOAD_BYTES = 256
CLIENTS = 64
RECORD_BYTES = 11  # ten digits and a newline


def arguments(jobs, workers):
    """--jobs and --dir as every peer has them, and how many jobs the worker side runs at once.

    Being asked to end becomes an exception, so that the server and the workers are stopped too.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=jobs)
    parser.add_argument("--dir", required=True, help="a directory on the disk to be measured")
    parser.add_argument("--workers", type=int, default=workers)
    parser.add_argument("--warm-up", type=int, default=64, help="jobs run before the clock starts")
    return parser


@contextlib.contextmanager
def scratch(parent, prefix):
    """A fresh directory inside `parent`, removed at the end."""
    os.makedirs(parent, exist_ok=True)
    path = os.path.abspath(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def server(directory):
    """A Redis with AOF and appendfsync always in `directory`; yields the path of its socket."""
    binary = shutil.which("redis-server")
    if binary is None:
        sys.exit("redis-server is not installed; bench/install.sh says how")
    # A socket's path may have 107 bytes, which a checkout deep in a tree can exceed.
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as short:
        socket = os.path.join(short, "redis.sock")
        command = [binary, "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700",
                   "--dir", directory, "--save", "", "--appendonly", "yes",
                   "--appendfsync", "always", "--logfile", os.path.join(directory, "redis.log")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            until(lambda: os.path.exists(socket), 10, "Redis to listen", [process])
            yield socket
        finally:
            stop(process)


def check_durability(connection):
    """Reads the settings back from the server and returns them in words; wrong ones end the peer."""
    settings = {**connection.config_get("appendonly"), **connection.config_get("appendfsync")}
    state = connection.info("persistence")
    if settings != {"appendonly": "yes", "appendfsync": "always"}:
        sys.exit(f"Redis is not durable: {settings}")
    if not state["aof_enabled"] or state["aof_last_write_status"] != "ok":
        sys.exit(f"Redis does not write its log: {state}")
    version = connection.info("server")["redis_version"]
    return f"Redis {version} AOF, appendfsync always (read back)"


def payload(number):
    """256 bytes that begin with the job's number."""
    return f"{number:010d}".ljust(PAYLOAD_BYTES, "x")


def record(text):
    """Called by a job: notes that it ran, in a file that several processes may append to at once."""
    assert len(text) == PAYLOAD_BYTES
    global _record
    if _record is None:
        _record = os.open(os.environ["BENCH_RAN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_record, text[:10].encode() + b"\n")


_record = None


def ran(path):
    """How many runs the jobs have noted."""
    return os.stat(path).st_size // RECORD_BYTES if os.path.exists(path) else 0


def check_ran(path, jobs):
    """Every number below `jobs` exactly once, or the peer ends."""
    with open(path, encoding="ascii") as lines:
        numbers = sorted(int(line) for line in lines)
    if numbers != list(range(jobs)):
        sys.exit(f"{len(numbers)} runs of {len(set(numbers))} different jobs, wanted {jobs} once each")


def push(numbers, send):
    """Calls `send(payload)` for each number from 64 threads; each waits for its answer."""
    lock, numbers, failures = threading.Lock(), iter(numbers), []

    def client():
        try:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                send(payload(number))
        except BaseException as error:  # a client that stops early would hang the run
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def until(done, seconds, what, processes=()):
    """Polls every millisecond until `done()`; ends the peer after `seconds` or when a process died."""
    deadline = time.monotonic() + seconds
    while not done():
        for process in processes:
            if process.poll() is not None:
                sys.exit(f"a process ended with {process.returncode} while waiting for {what}")
        if time.monotonic() > deadline:
            sys.exit(f"waited {seconds} s for {what}")
        time.sleep(0.001)


def start(command, log, **environment):
    """A worker in a process group of its own, its output in the file `log`."""
    with open(log, "ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                start_new_session=True, env={**os.environ, **environment})


def stop(process, group=False):
    """Asks a process (with `group`, all of its group) to end, and makes it end after ten seconds."""
    def send(number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number) if group else process.send_signal(number)

    if process.poll() is None:
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        send(signal.SIGKILL)
        process.wait()
    if group:
        send(signal.SIGKILL)  # children that outlived their parent


def report(peer, jobs, seconds, durability, notes, **extra):
    """Prints the result line."""
    print(json.dumps({"peer": peer, "jobs": jobs, "seconds": round(seconds, 6),
                      "jobs_per_second": round(jobs / seconds, 1), "durability": durability,
                      "notes": notes, **extra}))
