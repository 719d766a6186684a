"""The local engine: spawned worker processes, each holding one job, so that a crash costs that job alone.

A pool of the standard library would fail every waiting job when one worker dies; here the dead worker's job is reported
as failed, a new worker starts, and the rest goes on.
"""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from fw_data.engine import Done, J, R, Task

_GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class LocalEngine:
    """Engine on this machine."""

    workers: int = 1
    """Processes; 0 runs the jobs in this process (no protection from crashes, easy to debug)."""

    def run(
        self, task: Task[J, R], jobs: Sequence[J], on_progress: Callable[[J, str, float], None]
    ) -> Iterator[Done[J, R]]:
        """Every job exactly once, in the order they end."""
        if not jobs:
            return iter(())
        if self.workers == 0:
            return _run_here(task, jobs, on_progress)
        return _run_processes(task, jobs, on_progress, min(self.workers, len(jobs)))


def _run_here(
    task: Task[J, R], jobs: Sequence[J], on_progress: Callable[[J, str, float], None]
) -> Iterator[Done[J, R]]:
    for job in jobs:

        def report(stage: str, fraction: float, job: J = job) -> None:
            on_progress(job, stage, fraction)

        try:
            yield Done(job=job, value=task(job, report))
        except Exception as error:  # the job's own fault, whatever it is: it is reported, and the others go on
            yield Done(job=job, error=describe_error(error))


@dataclass(kw_only=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: int | None = None


def _run_processes(
    task: Task[J, R], jobs: Sequence[J], on_progress: Callable[[J, str, float], None], count: int
) -> Iterator[Done[J, R]]:
    threads = max(1, (os.cpu_count() or 1) // count)
    workers: list[_Worker] = []
    todo = iter(range(len(jobs)))
    remaining = len(jobs)
    try:
        while remaining:
            busy = [worker for worker in workers if worker.job is not None]
            for _ in range(count - len(busy)):
                job = next(todo, None)
                if job is None:
                    break
                worker = next((worker for worker in workers if worker.job is None), None)
                if worker is None:
                    worker = _start(task, threads)
                    workers.append(worker)
                worker.job = job
                worker.pipe.send(jobs[job])
            for pipe in wait([worker.pipe for worker in workers if worker.job is not None]):
                worker = next(worker for worker in workers if worker.pipe is pipe)
                assert worker.job is not None
                job = jobs[worker.job]
                try:
                    kind, *content = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    workers.remove(worker)
                    remaining -= 1
                    yield Done(job=job, error=_obituary(worker.process.exitcode))
                    continue
                if kind == "progress":
                    on_progress(job, *content)
                    continue
                worker.job = None
                remaining -= 1
                yield Done(job=job, value=content[0]) if kind == "value" else Done(job=job, error=content[0])
    finally:
        _stop(workers)


def _start(task: Task[Any, Any], threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, task, threads), daemon=True)
    process.start()
    there.close()
    return _Worker(process=process, pipe=here)


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
        if worker.job is not None:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(_GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _serve(pipe: Connection, task: Task[Any, Any], threads: int) -> None:
    """The life of a worker process; it ends when the other side of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops its workers
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

    import cv2

    cv2.setNumThreads(threads)

    def report(stage: str, fraction: float) -> None:
        pipe.send(("progress", stage, fraction))

    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer = ("value", task(job, report))
        except Exception as error:  # the parent reports it; this worker takes the next job
            answer = ("error", describe_error(error))
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return


def describe_error(error: BaseException) -> str:
    """Type, message and place of an error, in one line."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({last[0].filename.rsplit('/', 1)[-1]}:{last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _obituary(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        cause = "out of memory?" if name == "SIGKILL" else "a crash in native code?"
        return f"the worker process died by {name}: {cause}"
    return f"the worker process ended with exit code {exit_code}"
