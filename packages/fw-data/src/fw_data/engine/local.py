"""The local engine: spawned worker processes, each holding one job, so that a crash costs that job alone.

A pool of the standard library would fail every waiting job when one worker dies; here the dead worker's job gets one
more try and is then reported as failed, a new worker starts, and the other jobs continue.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from fw_data.engine import Done, J, JobTask, R
from fw_data.engine.threads import chosen_threads

_GRACE_S = 5.0


class LocalEngine:
    """Local worker processes, which live from the first `run` to `close` (or the end of a `with`)."""

    def __init__(self, workers: int = 1) -> None:
        """`workers` processes; 0 runs the jobs in this process (no protection from crashes, easy to debug)."""
        self.workers = workers
        self._pool: list[_Worker] = []

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes, at once where they are at work."""
        for worker in self._pool:
            worker.pipe.close()
            if worker.job is not None:
                worker.process.terminate()
        for worker in self._pool:
            worker.process.join(_GRACE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._pool = []

    def run(
        self, task: JobTask[J, R], jobs: Sequence[J], on_progress: Callable[[J, str, float], None]
    ) -> Generator[Done[J, R], None, None]:
        """Every job exactly once, in the order they end. Closing the generator stops the workers."""
        if self.workers == 0:
            yield from _run_here(task, jobs, on_progress)
            return
        side_by_side = max(1, min(self.workers, len(jobs)))
        threads = chosen_threads() or max(1, (os.cpu_count() or 1) // side_by_side)
        todo = deque(range(len(jobs)))
        died: set[int] = set()
        ended = 0
        finished = False
        try:
            while ended < len(jobs):
                self._feed(task, jobs, todo, threads)
                busy = [worker for worker in self._pool if worker.job is not None]
                for pipe in wait([worker.pipe for worker in busy]):
                    worker = next(worker for worker in busy if worker.pipe is pipe)
                    assert worker.job is not None
                    job = jobs[worker.job]
                    kind: str
                    content: list[Any]
                    try:
                        kind, *content = worker.pipe.recv()
                    except (EOFError, ConnectionResetError):
                        worker.process.join()
                        self._pool.remove(worker)
                        if worker.job not in died:  # one more try: it may have been killed for another's memory
                            died.add(worker.job)
                            todo.appendleft(worker.job)
                            continue
                        kind, content = "error", [_obituary(worker.process.exitcode)]
                    if kind == "progress":
                        on_progress(job, *content)
                        continue
                    worker.job = None
                    ended += 1
                    done: Done[J, R] = Done(job=job)
                    yield replace(done, value=content[0]) if kind == "value" else replace(done, error=content[0])
            finished = True
        finally:
            if not finished:
                self.close()

    def _feed(self, task: JobTask[J, R], jobs: Sequence[J], todo: deque[int], threads: int) -> None:
        """Give every free worker a job, and start workers while there are jobs for them."""
        free = [worker for worker in self._pool if worker.job is None]
        for _ in range(self.workers - (len(self._pool) - len(free))):
            if not todo:
                return
            if free:
                worker = free.pop()
            else:
                worker = _start()
                self._pool.append(worker)
            if worker.threads != threads:
                worker.pipe.send(("threads", threads))
                worker.threads = threads
            if worker.task is not task:
                worker.pipe.send(("task", task))
                worker.task = task
            worker.job = todo.popleft()
            worker.pipe.send(("job", jobs[worker.job]))


def _run_here(
    task: JobTask[J, R], jobs: Sequence[J], on_progress: Callable[[J, str, float], None]
) -> Iterator[Done[J, R]]:
    for job in jobs:

        def report(stage: str, fraction: float, job: J = job) -> None:
            on_progress(job, stage, fraction)

        try:
            done: Done[J, R] = Done(job=job, value=task(job, report))
        except Exception as error:  # the job's own fault, whatever it is: it is reported, and the others go on
            done = Done(job=job, error=describe_error(error))
        yield done


@dataclass(kw_only=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: int | None = None
    task: object = None
    threads: int = 0


def _start() -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    there.close()
    return _Worker(process=process, pipe=here)


def _serve(pipe: Connection) -> None:
    """The life of a worker process; it ends with its parent, however that ends and whatever the worker is at."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops its workers

    def report(stage: str, fraction: float) -> None:
        pipe.send(("progress", stage, fraction))

    task: JobTask[Any, Any] | None = None
    while True:
        try:
            kind, content = pipe.recv()
        except EOFError:
            return
        if kind == "threads":
            _use_threads(content)
            continue
        if kind == "task":
            task = content
            continue
        assert task is not None
        try:
            answer = ("value", task(content, report))
        except Exception as error:  # the parent reports it; this worker takes the next job
            answer = ("error", describe_error(error))
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return


def _use_threads(count: int) -> None:
    """Threads of the libraries that this worker has loaded and of those that it loads later."""
    os.environ["OMP_NUM_THREADS"] = str(count)

    import cv2

    cv2.setNumThreads(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


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
