"""RQ with its default worker, which forks for each job, as a peer of the embedded queue: no-op jobs
with an argument of 256 bytes, enqueued one by one by 64 client threads, on a Redis that syncs before
it answers. Measured from the first enqueue until all are in RQ's registry of finished jobs.

A worker runs one job at a time, so the machine is filled with several: two a core was the fastest.
"""

import os
import sys
import time

import durable_redis as bench
import redis
import rq


def noop(text):
    """The job: it does nothing but note that it ran."""
    bench.record(text)


def main():
    args = bench.arguments(jobs=200, workers=2 * os.cpu_count()).parse_args()
    args.warm_up = min(args.warm_up, 10)
    with bench.scratch(args.dir, "rq-") as directory, bench.server(directory) as socket:
        ran = os.path.join(directory, "ran")
        connection = redis.Redis(unix_socket_path=socket)
        durability = bench.check_durability(redis.Redis(unix_socket_path=socket, decode_responses=True))
        queue = rq.Queue("bench", connection=connection)
        finished = rq.registry.FinishedJobRegistry(queue=queue)

        workers = [
            bench.start(
                [sys.executable, "-m", "rq.cli", "worker", "--url", f"unix://{socket}", "--quiet", "bench"],
                os.path.join(directory, "worker.log"), BENCH_RAN=ran,
                PYTHONPATH=os.path.dirname(os.path.abspath(__file__)))
            for _ in range(args.workers)
        ]
        try:
            def run(first, end):
                begin = time.perf_counter()
                bench.push(range(first, end), lambda text: queue.enqueue("rq_forking.noop", text))
                pushed = time.perf_counter() - begin
                bench.until(
                    lambda: bench.ran(ran) >= end and finished.get_job_count(cleanup=False) >= end,
                    300, "RQ to finish", workers)
                return pushed, time.perf_counter() - begin

            bench.until(lambda: len(rq.Worker.all(queue=queue)) >= args.workers, 30, "RQ's workers", workers)
            run(0, args.warm_up)
            pushed, seconds = run(args.warm_up, args.warm_up + args.jobs)
            bench.check_ran(ran, args.warm_up + args.jobs)
            bench.check_durability(redis.Redis(unix_socket_path=socket, decode_responses=True))
        except BaseException:
            with open(os.path.join(directory, "worker.log"), encoding="utf-8", errors="replace") as log:
                sys.stderr.write(log.read()[-4000:])
            raise
        finally:
            for worker in workers:
                bench.stop(worker, group=True)
    bench.report(
        "rq_forking", args.jobs, seconds, durability,
        f"RQ {rq.VERSION}, {bench.CLIENTS} client threads, {args.workers} default worker(s), each with a fork for each job",
        executed=args.jobs, push_seconds=round(pushed, 6))


if __name__ == "__main__":
    main()
