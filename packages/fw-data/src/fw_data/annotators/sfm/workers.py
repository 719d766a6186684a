"""Parallelism of the backend: a few Python threads, each with single-threaded torch and OpenCV.

The arrays of one frame are small, so splitting one operation over cores costs more than it gives, and on a busy
machine the waiting at every small barrier costs many times more. Frames are independent: one thread per frame it is.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def single_threaded_operations() -> Iterator[None]:
    """One thread per torch and OpenCV operation inside the block; the previous numbers come back after it."""
    torch_threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv_threads)


def map_parallel(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    threads: int,
    on_done: Callable[[float], None] | None = None,
) -> list[Result]:
    """`[work(item) for item in items]` on `threads` threads, in order; `on_done` gets the fraction that is finished."""
    results: list[Result] = []
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        for result in pool.map(work, items):
            results.append(result)
            if on_done is not None:
                on_done(len(results) / len(items))
    return results
