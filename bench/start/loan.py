#!/usr/bin/env python3
"""Measures what a loan costs the broker's function: its first, from the start of the process, and its next ones.

The stand-ins of start.py, of which AWS's has a running job, the policies and the secret. The function is invoked as a worker
invokes it, six times by each process. What is taken is the process's own:

  first   CPU from the start of the process to the answer with the credential in it: TLS, the policies, the record, the secret
  next    CPU of each loan after that, whose secret and policies it knows

and the requests that each made of AWS. Writes bench/target/loan.json and loan.md; exits with 1 when something crashed or lent
nothing, or made more requests than a loan may. Standard library only.
"""

import argparse
import base64
import datetime
import json
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # nothing is left beside the sources
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import start  # noqa: E402

FUNCTION = "credential_broker"
SECRET = "what-is-lent-by-the-measurement"
LOANS = 6
# Of a loan: the record is read before the vendor is asked and after, and the loan written down. Of a process: its policies and
# the secret besides.
REQUESTS_NEXT, REQUESTS_FIRST = 3, 5


class Lending(start.Started):
    """One process that lends again and again."""

    call_text = b""

    def __init__(self, pid, began, name):
        super().__init__(pid, began, name)
        self.event, self.asked, self.loans, self.before = Lending.call_text, [], [], 0.0

    def asks_aws(self, operation):
        super().asks_aws(operation)
        with self.lock:
            self.asked.append(operation)

    def responds(self, body):
        with self.lock:
            now = self.cpu_ms()
            if SECRET.encode() not in body:
                # Nothing of it is told but that: an answer may hold a credential.
                raise RuntimeError("the broker lent nothing")
            self.loans.append({"cpu_ms": now - self.before, "asked": self.asked})
            self.before, self.asked = now, []

    def asks_for_an_invocation(self):
        with self.lock:
            if len(self.loans) < LOANS:
                return True
            self.call = 0
            self.done.set()
            return False

    def found(self):
        return self.loans


def yard(example):
    """A running job and the call for a loan of it, as the example makes them."""
    made = json.loads(subprocess.run([example], check=True, capture_output=True).stdout)
    Lending.call_text = made["call"].encode()
    secret = {"ARN": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:switchyard/shodan-1", "Name": "switchyard/shodan",
              "SecretString": SECRET, "VersionId": "1", "CreatedDate": 1}
    return made["capabilities"], {
        "DynamoDB_20120810.GetItem": json.dumps({"Item": made["item"]}).encode(),
        "DynamoDB_20120810.PutItem": b"{}",
        "secretsmanager.GetSecretValue": json.dumps(secret).encode(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="processes")
    parser.add_argument("--functions", default=os.path.join(start.ROOT, "target", "lambda"))
    parser.add_argument("--switchyard", default=os.path.join(start.ROOT, "target", "debug", "switchyard"))
    parser.add_argument("--example", default=os.path.join(start.ROOT, "target", "debug", "examples", "a_loan"))
    args = parser.parse_args()
    command = [os.path.join(args.functions, FUNCTION, "bootstrap")]
    for needed in (*command, args.switchyard, args.example):
        if not os.path.exists(needed):
            print(f"SKIPPED: {os.path.relpath(needed, start.ROOT)} is not there", file=sys.stderr)
            return 0
    runs = []
    with tempfile.TemporaryDirectory() as directory:
        servers = start.Servers(directory)
        capabilities, servers.answers = yard(args.example)
        policies = os.path.join(directory, "policies")
        os.mkdir(policies)
        with open(os.path.join(policies, "capabilities.yaml"), "w", encoding="utf-8") as file:
            file.write(capabilities)
        servers.push(args.switchyard, policies)
        log = os.path.join(directory, "log")
        # The first reads the file into memory, and does not count.
        for number in range(args.rounds + 1):
            loans = servers.start(command, FUNCTION, log, Lending)
            if number > 0:
                runs.append(loans)
            with open(log, encoding="utf-8", errors="replace") as said:
                text = said.read()
                if SECRET in text or base64.b64encode(SECRET.encode()).decode() in text:
                    raise RuntimeError("the broker's log has the secret in it")
    first = start.bench.spread([loans[0]["cpu_ms"] for loans in runs])
    following = start.bench.spread([loan["cpu_ms"] for loans in runs for loan in loans[1:]])
    asked = {"first": runs[0][0]["asked"], "next": runs[0][1]["asked"]}
    result = {
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": start.bench.machine(start.TARGET), "commit": start.bench.commit(), "rounds": args.rounds,
        "first": first, "next": following, "asked": asked,
    }
    text = (f"{args.rounds} processes, {LOANS} loans each, {result['when']}, commit {result['commit']}.\n\n"
            + start.bench.row("loan of one process", "CPU, ms", "requests", "which")
            + start.bench.row("---", "---", "---", "---"))
    for name, spread, which in (("the first, from the start", first, asked["first"]), ("each next", following, asked["next"])):
        cpu = f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"
        text += start.bench.row(name, cpu, len(which), ", ".join(one.split(".")[-1] for one in which))
    os.makedirs(start.TARGET, exist_ok=True)
    for name, content in (("loan.json", json.dumps(result, indent=2) + "\n"), ("loan.md", text)):
        with open(os.path.join(start.TARGET, name), "w", encoding="utf-8") as file:
            file.write(content)
    print(text, end="")
    many = [loans for loans in runs if len(loans[0]["asked"]) > REQUESTS_FIRST
            or any(len(loan["asked"]) > REQUESTS_NEXT for loan in loans[1:])]
    if many:
        print(f"CRASHED: {len(many)} processes made more requests than {REQUESTS_FIRST} and then {REQUESTS_NEXT}", file=sys.stderr)
    return 1 if many else 0


if __name__ == "__main__":
    sys.exit(main())
