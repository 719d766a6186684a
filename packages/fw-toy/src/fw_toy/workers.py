"""Runs one function over many jobs in worker processes, and returns results in the order in which they finish."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

J = TypeVar("J")
R = TypeVar("R")


def run_jobs(work: Callable[[J], R], jobs: Sequence[J], workers: int) -> Iterator[tuple[J, R | Exception]]:
    """Yield each job with its result, or with the exception it raised.

    Args:
        work: a picklable callable.
        jobs: picklable arguments of `work`.
        workers: number of processes; 1 runs the jobs in this process.
    """
    if workers == 1:
        for job in jobs:
            try:
                yield job, work(job)
            except Exception as error:  # the caller reports it
                yield job, error
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(threads,)) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, Exception):
                    yield futures[future], error
                else:
                    yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(threads: int) -> None:
    """Set up a worker: it ends with its parent, ends silently on Ctrl-C, and computes with its share of the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
