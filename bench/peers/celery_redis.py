"""Celery on Redis as a peer of the embedded queue: no-op tasks with an argument of 256 bytes, sent
one by one by 64 client threads, acknowledged late, on a Redis that syncs before it answers.
Measured from the first send to the last acknowledgement.

Celery's own conveniences that cost time and give a no-op nothing are off (results, events, gossip,
mingle, heartbeats, remote control), and the worker prefetches, so that this is Celery at its best.
"""

import os
import sys
import time

import celery
import durable_redis as bench
import redis

app = celery.Celery("celery_redis", broker=os.environ.get("BENCH_BROKER"))
app.conf.update(
    broker_pool_limit=bench.CLIENTS,
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    task_serializer="json",
    worker_prefetch_multiplier=64,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
)


@app.task(name="noop")
def noop(text):
    """The job: it does nothing but note that it ran."""
    bench.record(text)


def main():
    parser = bench.arguments(jobs=2000, workers=os.cpu_count())
    # Prefork is Celery's default; threads is the fastest of the three for a no-op, by a tenth.
    parser.add_argument("--pool", default="threads", choices=["prefork", "threads", "solo"])
    args = parser.parse_args()
    with bench.scratch(args.dir, "celery-") as directory, bench.server(directory) as socket:
        ran = os.path.join(directory, "ran")
        broker = f"redis+socket://{socket}"
        connection = redis.Redis(unix_socket_path=socket, decode_responses=True)
        durability = bench.check_durability(connection)
        app.conf.broker_url = broker

        worker = bench.start(
            [sys.executable, "-m", "celery", "-A", "celery_redis", "worker", "--pool", args.pool,
             "--concurrency", str(args.workers), "--without-gossip", "--without-mingle",
             "--without-heartbeat", "--loglevel", "WARNING"],
            os.path.join(directory, "worker.log"), BENCH_BROKER=broker, BENCH_RAN=ran,
            PYTHONPATH=os.path.dirname(os.path.abspath(__file__)))
        try:
            def settled(jobs):
                """All ran, none waits in the queue, none is claimed and not acknowledged."""
                return (bench.ran(ran) >= jobs and connection.llen("celery") == 0
                        and connection.hlen("unacked") == 0)

            def run(first, end):
                begin = time.perf_counter()
                bench.push(range(first, end), lambda text: noop.apply_async((text,)))
                pushed = time.perf_counter() - begin
                bench.until(lambda: settled(end), 300, "Celery to acknowledge", [worker])
                return pushed, time.perf_counter() - begin

            run(0, args.warm_up)
            pushed, seconds = run(args.warm_up, args.warm_up + args.jobs)
            bench.check_ran(ran, args.warm_up + args.jobs)
            bench.check_durability(connection)
        except BaseException:
            with open(os.path.join(directory, "worker.log"), encoding="utf-8", errors="replace") as log:
                sys.stderr.write(log.read()[-4000:])
            raise
        finally:
            bench.stop(worker, group=True)
    bench.report(
        "celery_redis", args.jobs, seconds, durability,
        f"Celery {celery.__version__}, {bench.CLIENTS} client threads, {args.pool} pool of {args.workers}, "
        f"acks_late, prefetch multiplier {app.conf.worker_prefetch_multiplier}, no results, events, gossip, mingle, heartbeats or remote control",
        executed=args.jobs, push_seconds=round(pushed, 6))


if __name__ == "__main__":
    main()
