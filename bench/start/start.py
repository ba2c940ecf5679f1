#!/usr/bin/env python3
"""Measures how the functions start, and their peers in the same interleaved run.

A stand-in for Lambda's Runtime API and a stand-in for AWS (TLS, a certificate of its own) listen on loopback. Each start is a
new process, and what is taken is that process's own:

  next   CPU (user and system, of all its threads), wall time and memory when it first asks for an invocation; of the memory
         also what is its own, and no page of a file
  sent   CPU when the first request to AWS has arrived, signed and after the TLS handshake
  call   CPU when it next asks for anything after the first answer of AWS was given: what was signed, sent, received and read,
         and whatever the process makes of it before it asks again. Ours ask for their policies, and put them into force

What is started is read from the disk once before it is measured, but for Python, which runs this, too. A file that was just built lies in the kernel's memory as it was
written, in larger pieces than those that are read, and a process is given all of a piece of which it touches a byte: http_api
then seems to take 1.2 MB more than on a machine that has never written it, which is every machine of Lambda.

A process that has asked AWS for nothing before it asks for an invocation is given one. The certificates trusted are the
stand-in's, and beside it the system's, as many as a function on AWS reads that is told nothing else; for ours, those that they
are shipped with. AWS answers ours with the policies of policies/ as a deployment writes them into the bucket, and else that an
object or item does not exist, which is an answer like any other.

Writes bench/target/start.json and start.md. Exits with 1 when something that should have run crashed; a missed target is said
and fails nothing. Standard library only, and `openssl` for the certificate.
"""

import argparse
import datetime
import http.server
import io
import json
import os
import random
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

START = os.path.dirname(os.path.abspath(__file__))
BENCH = os.path.dirname(START)
ROOT = os.path.dirname(BENCH)
TARGET = os.path.join(BENCH, "target")
sys.dont_write_bytecode = True  # nothing is left beside the sources
sys.path.insert(0, BENCH)
import run as bench  # noqa: E402  (its tables and what it says of the machine)

PYTHON = os.path.join(TARGET, "venv", "bin", "python")
FUNCTIONS = ["http_api", "finding_listener", "task_listener", "result_listener", "job_runner", "job_reaper", "fleet_scaler",
             "credential_broker"]
# The last is built as ours are.
PEERS = ["bare", "boto3", "default_sdk", "three_clients"]
AS_OURS = ["three_clients", *FUNCTIONS]

CPU_TO_NEXT = 1.5  # times that of the bare runtime
CPU_TO_CALL_MS = 4
BELOW_DEFAULT_SDK = 6
BELOW_BOTO3 = 50
RSS_MB = 8
# With up to three clients, which none of ours has: job_runner and task_listener have five, the others more.
ZIP_MB_OF = {"three_clients": 2.5, "http_api": 5}
# What any start here takes at most; a process that does not ask in so many seconds has crashed or hangs.
PATIENCE_S = 20

# What template.yaml gives its functions, as far as they read it.
YARD = {
    "SWITCHYARD_TABLE": "switchyard", "SWITCHYARD_QUEUES": "switchyard", "SWITCHYARD_BUCKET": "blobs",
    "SWITCHYARD_LOG_GROUP": "/switchyard/runs", "SWITCHYARD_BUS": "switchyard", "POLICY_BUCKET": "policies",
    "SWITCHYARD_JOB_RUNNER": "switchyard-job_runner", "SWITCHYARD_JOB_RUNNER_MEMORY_MIB": "1024",
    "SWITCHYARD_TASK_PREFIX": "switchyard-task-", "SWITCHYARD_OPERATORS": "role/operator",
    "ECS_CLUSTER": "switchyard", "ECS_TASK_DEFINITION": "switchyard-worker", "ECS_SUBNETS": "subnet-1,subnet-2",
    "ECS_SECURITY_GROUP": "sg-1", "SWITCHYARD_VAULT": "switchyard",
}
# What each is invoked with; the others with nothing, which is an invocation like any other to them.
EVENTS = {"http_api": json.dumps({
    "version": "2.0", "routeKey": "GET /v1/jobs", "rawPath": "/v1/jobs", "rawQueryString": "",
    "headers": {"host": "a1.execute-api.eu-central-1.amazonaws.com"}, "isBase64Encoded": False,
    "requestContext": {
        "accountId": "123456789012", "apiId": "a1", "stage": "$default", "requestId": "r", "timeEpoch": 1,
        "authorizer": {"iam": {"userArn": "arn:aws:iam::123456789012:role/operator"}},
        "http": {"method": "GET", "path": "/v1/jobs", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"}}}).encode()}
# What Lambda gives every function.
LAMBDA = {
    "AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "AWS_SESSION_TOKEN": "token",
    "AWS_LAMBDA_FUNCTION_NAME": "start", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128", "AWS_LAMBDA_FUNCTION_VERSION": "1",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/start", "AWS_LAMBDA_LOG_STREAM_NAME": "1",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "PATH": "/usr/bin:/bin",
}


class Started:
    """One process, and what its two servers have seen of it."""

    def __init__(self, pid, began, name):
        self.pid, self.began, self.bare, self.lock, self.done = pid, began, name == "bare", threading.Lock(), threading.Event()
        self.event = EVENTS.get(name, b"{}")
        self.next = self.sent = self.call = None
        self.answered = self.invoked = False

    def cpu_ms(self):
        # The clock of all of the process's CPU time, as clock_getcpuclockid(3) finds it.
        return time.clock_gettime_ns((~self.pid << 3) | 2) / 1e6

    def found(self):
        return {**self.next, "sent_cpu_ms": self.sent, "call_cpu_ms": self.call}

    def asks(self):
        """Whatever it asks: the first thing it asks after AWS's first answer says what that took."""
        with self.lock:
            if self.answered and self.call is None:
                self.call = self.cpu_ms()

    def asks_aws(self, _operation):
        with self.lock:
            if self.sent is None:
                self.sent = self.cpu_ms()

    def responds(self, _body):
        """It has answered an invocation."""

    def asks_for_an_invocation(self):
        """True when it is given one: a process that has asked AWS for nothing yet."""
        with self.lock:
            if self.next is None:
                self.next = {"cpu_ms": self.cpu_ms(), "wall_ms": (time.perf_counter_ns() - self.began) / 1e6,
                             "rss_mb": resident(self.pid, "VmRSS"), "own_mb": resident(self.pid, "RssAnon")}
            if not self.answered and not self.invoked:
                self.invoked = True
                if not self.bare:
                    return True
            self.done.set()
            return False


def resident(pid, field):
    return int(bench.first_field(f"/proc/{pid}/status", field).split()[0]) / 1024


def forget(path):
    """Has the kernel read a file from the disk when it is next needed, however it came there."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Servers:
    """Both stand-ins, for one process at a time."""

    def __init__(self, directory):
        self.started = None
        # What AWS answers to operations, where that is not nothing.
        self.answers = {}
        self.ready = threading.Event()
        servers = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def body(self):
                return self.rfile.read(int(self.headers.get("content-length") or 0))

            def answer(self, status, body, headers=()):
                answer = f"HTTP/1.1 {status} Told\r\ncontent-length: {len(body)}\r\n"
                answer += "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
                self.wfile.write(answer.encode() + body)
                self.wfile.flush()

        class Runtime(Handler):
            def do_GET(self):
                servers.ready.wait()
                started = servers.started
                started.asks()
                if started.asks_for_an_invocation():
                    deadline = int(time.time() * 1000) + 60000
                    self.answer(200, started.event, [
                        ("content-type", "application/json"), ("lambda-runtime-aws-request-id", "8476a536"),
                        ("lambda-runtime-deadline-ms", deadline), ("lambda-runtime-trace-id", "Root=1-5bef4de7-1"),
                        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:123456789012:function:start")])
                else:
                    threading.Event().wait(PATIENCE_S)  # held, until the process is ended
                    self.close_connection = True

            def do_POST(self):
                servers.started.asks()
                servers.started.responds(self.body())
                self.answer(202, b"")

        class Aws(Handler):
            def any(self):
                servers.ready.wait()
                started = servers.started
                if started is None:
                    self.keep()
                    return
                started.asks()
                operation = self.headers.get("x-amz-target") or f"{self.command} {self.path.split('?')[0].split('/')[-1]}"
                started.asks_aws(operation)
                self.body()
                if "Signature=" not in self.headers.get("authorization", ""):
                    self.answer(403, b"{}")
                    return
                started.answered = True
                if self.path.split("?")[0].endswith("/policies.json"):
                    self.answer(200, servers.policies, [("content-type", "application/json"), ("etag", '"1"')])
                elif operation in servers.answers:
                    self.answer(200, servers.answers[operation], [("content-type", "application/x-amz-json-1.1")])
                elif "x-amz-target" in self.headers:
                    self.answer(200, b"{}", [("content-type", "application/x-amz-json-1.0"), ("x-amz-crc32", "2745614147")])
                else:
                    self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>No such key.</Message></Error>",
                                [("content-type", "application/xml")])

            def keep(self):
                """Before the first start: policies are pushed into this bucket, which has no others."""
                body = self.body()
                if self.command == "PUT" and self.path.split("?")[0].endswith("/policies.json"):
                    servers.policies = body
                listed = b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
                self.answer(200, listed if self.command == "GET" else b"", [("content-type", "application/xml")])

            do_GET = do_POST = do_PUT = do_HEAD = any

        certificate, key = os.path.join(directory, "certificate.pem"), os.path.join(directory, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                        "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", certificate],
                       check=True, capture_output=True)
        self.trusted = os.path.join(directory, "trusted.pem")
        with open(self.trusted, "w", encoding="utf-8") as trusted:
            for path in (ssl.get_default_verify_paths().openssl_cafile, "/etc/ssl/certs/ca-certificates.crt"):
                if os.path.exists(path):
                    with open(path, encoding="utf-8") as system:
                        trusted.write(system.read() + "\n")
                    break
            with open(certificate, encoding="utf-8") as own:
                trusted.write(own.read())
        with open(self.trusted, encoding="utf-8") as trusted:
            self.certificates = trusted.read().count("BEGIN CERTIFICATE")

        self.shipped = os.path.join(directory, "shipped.pem")
        with open(self.shipped, "w", encoding="utf-8") as shipped:
            for path in (os.path.join(ROOT, "infra", "amazon-roots.pem"), certificate):
                with open(path, encoding="utf-8") as part:
                    shipped.write(part.read() + "\n")
        self.policies = None

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.runtime = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Runtime)
        self.aws = Encrypted(("127.0.0.1", 0), Aws, context)
        for server in (self.runtime, self.aws):
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def environment(self, ours):
        trusted = {"AWS_CA_BUNDLE": self.shipped} if ours else {"AWS_CA_BUNDLE": self.trusted, "SSL_CERT_FILE": self.trusted}
        endpoint = f"https://localhost:{self.aws.server_address[1]}"
        return {**LAMBDA, **YARD, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.runtime.server_address[1]}",
                "AWS_ENDPOINT_URL": endpoint, **trusted}

    def push(self, switchyard, policies=os.path.join(ROOT, "policies")):
        """Pushes policies as a deployment does."""
        self.ready.set()
        environment = {**self.environment(True), "AWS_EC2_METADATA_DISABLED": "true"}
        subprocess.run([switchyard, "policies", "push", "--bucket", YARD["POLICY_BUCKET"], policies],
                       env=environment, check=True, stdout=sys.stderr)
        if not self.policies:
            raise RuntimeError("no policies.json was pushed")

    def start(self, command, name, log, kind=Started):
        """Starts a process, waits until it has asked for all that is measured, and ends it."""
        self.ready.clear()
        with open(log, "wb") as output:
            actions = [(os.POSIX_SPAWN_DUP2, output.fileno(), 1), (os.POSIX_SPAWN_DUP2, output.fileno(), 2)]
            began = time.perf_counter_ns()
            pid = os.posix_spawn(command[0], command, self.environment(name in AS_OURS),
                                 file_actions=actions)
        started = self.started = kind(pid, began, name)
        done = started.done
        self.ready.set()
        try:
            until = time.monotonic() + PATIENCE_S
            while not done.wait(0.005):
                if os.waitpid(pid, os.WNOHANG)[0] != 0:
                    pid = None
                    raise RuntimeError(f"{command[-1]} ended: {tail(log)}")
                if time.monotonic() > until:
                    raise RuntimeError(f"{command[-1]} asked for too little in {PATIENCE_S} s: {tail(log)}")
            if started.call is None and not started.bare:
                raise RuntimeError(f"{command[-1]} asked nothing of AWS: {tail(log)}")
            return started.found()
        finally:
            if pid is not None:
                os.kill(pid, 9)
                os.waitpid(pid, 0)


class Encrypted(http.server.ThreadingHTTPServer):
    """TLS, shaken hands in each connection's own thread."""

    def __init__(self, address, handler, context):
        super().__init__(address, handler)
        self.context = context

    def finish_request(self, request, client_address):
        try:
            with self.context.wrap_socket(request, server_side=True) as encrypted:
                super().finish_request(encrypted, client_address)
        except OSError:
            pass  # the process has been ended


def tail(path):
    with open(path, encoding="utf-8", errors="replace") as log:
        return log.read()[-1000:].strip()


def zipped_mb(path):
    """As it is uploaded: one file called bootstrap."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.write(path, "bootstrap")
    return len(packed.getvalue()) / 1e6


def relocated_pages(path):
    """Pages of 4 KiB that the loader writes addresses into before a program runs, and which are copied for that. The format is
    ELF's for 64 bits (System V ABI, generic part and processor supplements)."""
    relative, relocations, section = {62: 8, 183: 1027}, 4, struct.Struct("<IIQQQQIIQQ")  # of x86-64 and AArch64; SHT_RELA
    with open(path, "rb") as file:
        program = file.read()
    if program[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path} is no ELF of 64 bits in little-endian order")
    machine, = struct.unpack_from("<H", program, 18)
    table, = struct.unpack_from("<Q", program, 40)
    sections, = struct.unpack_from("<H", program, 60)
    pages = set()
    for number in range(sections):
        _, kind, _, _, start, size, *_ = section.unpack_from(program, table + number * section.size)
        if kind == relocations:
            pages.update(where // 4096 for where, what, _ in struct.iter_unpack("<QQq", program[start:start + size])
                         if what == relative[machine])
    return len(pages)


def build(crashes):
    """Builds ours as they are shipped, and each peer by itself: built together they would have one another's features."""
    of_bench = ["--locked", "--manifest-path", os.path.join(BENCH, "Cargo.toml")]
    peers = ["cargo", "build", *of_bench, "--target-dir", TARGET]
    ours = ["cargo", "build", "--locked", "--workspace", "--all-features", "--bin", "switchyard"]
    for command in ([*peers, "--release", "--package", "bench-start-bare"],
                    [*peers, "--release", "--package", "bench-start-default-sdk"], ours, ["sh", "infra/stack.sh", "build"],
                    ["sh", "infra/stack.sh", "peer", *of_bench[1:], "--package", "bench-start-three-clients",
                     "--lambda-dir", os.path.join(TARGET, "lambda")]):
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode
        except OSError as error:
            code = error
        if code != 0:
            crashes.append(f"{' '.join(command[:3])} ... {command[-1]}: {code}")


def commands(args):
    """How each is started."""
    found = {"bare": [os.path.join(TARGET, "release", "bare")],
             "default_sdk": [os.path.join(TARGET, "release", "default_sdk")],
             "three_clients": [os.path.join(TARGET, "lambda", "three_clients", "bootstrap")],
             "boto3": [PYTHON, os.path.join(START, "boto3_function.py")]}
    found.update((function, [os.path.join(args.functions, function, "bootstrap")]) for function in FUNCTIONS)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="starts of each")
    parser.add_argument("--functions", default=os.path.join(ROOT, "target", "lambda"),
                        help="the folder of our functions, each a folder with its bootstrap (default: target/lambda)")
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "target", "debug", "switchyard"),
                        help="the command line, which pushes the policies (default: target/debug/switchyard)")
    parser.add_argument("--no-build", dest="build", action="store_false", help="use what is built already")
    args = parser.parse_args()
    starts, skipped, crashes = {}, {}, []
    if args.build:
        build(crashes)
    with tempfile.TemporaryDirectory() as directory:
        servers = Servers(directory)
        servers.push(args.switchyard)
        log = os.path.join(directory, "log")
        for name, command in commands(args).items():
            missing = [part for part in command if not os.path.exists(part)]
            if missing:
                skipped[name] = f"{os.path.relpath(missing[0], ROOT)} is not there"
                print(f"SKIPPED: {name}: {skipped[name]}", file=sys.stderr)
                continue
            starts[name] = []
            forget(command[0])
        # The first round reads the files into memory, and does not count.
        for number in range(args.rounds + 1):
            # Whoever comes after Python finds colder caches than whoever comes after the bare runtime: each does, in its turn.
            for name in random.Random(number).sample(list(starts), len(starts)):
                try:
                    started = servers.start(commands(args)[name], name, log)
                    if number > 0:
                        starts[name].append(started)
                except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                    crashes.append(f"{name}: {error}")
                    print(f"CRASHED: {crashes[-1]}", file=sys.stderr, flush=True)
                    del starts[name]
        result = {
            "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": bench.machine(TARGET), "commit": bench.commit(), "rounds": args.rounds,
            "certificates": servers.certificates,
            "starts": {name: spreads(runs) for name, runs in starts.items() if runs},
            "sizes": {name: {"binary_mb": os.path.getsize(commands(args)[name][0]) / 1e6,
                             "zip_mb": zipped_mb(commands(args)[name][0]),
                             "pages": relocated_pages(commands(args)[name][0])} for name in starts if name != "boto3"},
            "skipped": skipped, "crashes": crashes,
        }
    os.makedirs(TARGET, exist_ok=True)
    with open(os.path.join(TARGET, "start.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
        file.write("\n")
    text = markdown(result)
    with open(os.path.join(TARGET, "start.md"), "w", encoding="utf-8") as file:
        file.write(text)
    print(text, end="")
    return 1 if crashes else 0


def spreads(runs):
    fields = {field for run in runs for field, value in run.items() if value is not None}
    return {field: bench.spread([run[field] for run in runs if run[field] is not None]) for field in sorted(fields)}


def targets(result):
    """Each target with what was found of each of those that it is for."""
    starts, sizes = result["starts"], result["sizes"]
    measured = [name for name in AS_OURS if name in starts]

    def median(name, field):
        return starts.get(name, {}).get(field, {}).get("median")

    def times(name, field, of):
        """How many times what `of` takes `name` takes."""
        theirs = median(name, field)
        return None if theirs is None else theirs / median(of, field)

    def of_bare(name):
        return None if "bare" not in starts else median(name, "cpu_ms") / median("bare", "cpu_ms")

    rows = []
    for what, bound, wanted, of in (
            ("CPU to /next, times the bare runtime's", "at most", lambda _: CPU_TO_NEXT, of_bare),
            ("memory at /next, MB", "at most", lambda _: RSS_MB, lambda name: median(name, "rss_mb")),
            # Ours make more of the first answer than to read it, and have more clients: they are held to what they have sent.
            ("CPU to the first signed request, ms", "at most", lambda _: CPU_TO_CALL_MS, lambda name: median(name, "sent_cpu_ms")),
            ("CPU until it is answered, ms", "at most", lambda name: CPU_TO_CALL_MS if name not in FUNCTIONS else None,
             lambda name: median(name, "call_cpu_ms")),
            ("default_sdk's CPU to its first request, times", "at least", lambda _: BELOW_DEFAULT_SDK,
             lambda name: times("default_sdk", "sent_cpu_ms", name)),
            ("boto3's, times", "at least", lambda _: BELOW_BOTO3, lambda name: times("boto3", "sent_cpu_ms", name)),
            *((f"ZIP of {one}, MB", "at most", lambda name, one=one, most=most: most if name == one else None,
               lambda name: sizes[name]["zip_mb"]) for one, most in ZIP_MB_OF.items())):
        cells, bounds = [], []
        for name in measured:
            value, most = of(name), wanted(name)
            if value is None or most is None:
                cells.append("-")
                continue
            met = value <= most if bound == "at most" else value >= most
            bounds.append(f"{most:g}")
            cells.append(f"{value:.2f} {'pass' if met else 'miss'}")
        if bounds:
            rows.append((what, f"{bound} {bounds[0]}", *cells))
    return measured, rows


def markdown(result):
    """The fragment for BENCHMARKS.md, which is also what is printed."""
    where = result["machine"]
    text = (f"{result['rounds']} interleaved starts of each, {result['when']}, commit {result['commit']}, "
            f"{result['certificates']} certificates trusted. Machine: {where['cores']} cores ({where['processor']}), "
            f"{where['memory']} memory, {where['system']} {where['kernel']} {where['architecture']}.\n\n")
    columns = [("cpu_ms", "CPU to /next, ms"), ("wall_ms", "wall to /next, ms"), ("rss_mb", "memory at /next, MB"), ("own_mb", "of it its own, MB"),
               ("sent_cpu_ms", "CPU to the first signed request, ms"), ("call_cpu_ms", "CPU until its answer is put to use, ms")]
    text += bench.row("start of", *[title for _, title in columns], "pages relocated", "binary (ZIP), MB") + bench.row(*["---"] * (len(columns) + 3))
    for name in PEERS + FUNCTIONS:
        if name not in result["starts"]:
            continue
        spread = result["starts"][name]
        cells = ["-" if field not in spread else
                 f"{spread[field]['median']:.2f} ({spread[field]['min']:.2f} to {spread[field]['max']:.2f})"
                 for field, _ in columns]
        size = result["sizes"].get(name)
        cells += [size["pages"], f"{size['binary_mb']:.2f} ({size['zip_mb']:.2f})"] if size else ["-", "-"]
        text += bench.row(name, *cells)
    measured, judged = targets(result)
    text += "\n" + bench.row("target", "wanted", *measured) + bench.row(*["---"] * (len(measured) + 2))
    for target in judged:
        text += bench.row(*target)
    for name, reason in result["skipped"].items():
        text += f"\nSKIPPED: {name}: {reason}\n"
    for crash in result["crashes"]:
        text += f"\nCRASHED: {crash}\n"
    return text


if __name__ == "__main__":
    sys.exit(main())
