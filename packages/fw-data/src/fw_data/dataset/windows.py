"""Windows of clips at training size, loaded ahead by worker processes.

    loader = WindowLoader(ClipDataset("out/dataset"), workers=4)
    loader.request(windows)          # returns at once
    loaded = loader.load(windows[0])  # waits for a worker, or loads here if the window was not requested

What a window holds is a pure function of dataset and window, so workers change nothing but the time. Workers are
started fresh ("spawn"), so they work beside CUDA; they end when their parent ends, however it ends.
Axis legend: F frames, H W pixels.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8

from fw_data.dataset.reader import StoredGeometry, StoredMasks
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.transforms import fit_labels, fit_mask, fit_video
from fw_data.errors import DataError
from fw_geometry.camera import Trajectory

RATE_TOLERANCE = 0.02
"""Frame rates that differ by less than this share are the same (23.976 and 24)."""


class Window(NamedTuple):
    """Some frames of a clip at a size."""

    clip_id: str
    start: int
    """First frame, counted in the stored clip."""
    frames: int
    height: int
    width: int
    fps: float = 0.0
    """Frame rate to resample to; 0 takes every frame."""
    video: bool = True
    """Decode the images."""
    labels: bool = True
    """Read depth, confidence and cameras."""
    masks: bool = False
    """Read the masks of moving pixels and sky, where the clip has them."""


class LoadedWindow(NamedTuple):
    """The content of a window; what was not asked for is None."""

    video: Float32[np.ndarray, "F 3 H W"] | None
    """RGB in [-1, 1]."""
    depth: Float32[np.ndarray, "F H W"] | None
    """z-depth in the clip's unit; 0 = invalid."""
    confidence: Float32[np.ndarray, "F H W"] | None
    """Confidence of the depth, in [0, 1]."""
    cameras: Trajectory | None
    """Cameras of the window's pixels."""
    moving: Bool[np.ndarray, "F H W"] | None = None
    """Moving pixels; None where the clip has no masks."""
    sky: Bool[np.ndarray, "F H W"] | None = None
    """Sky; None where the clip has no masks."""


@runtime_checkable
class WindowSource(Protocol):
    """The part of a `ClipDataset` that windows are read through."""

    def record(self, clip: str, /) -> ClipRecord:
        """See `ClipDataset.record`."""
        ...

    def video(self, clip: str, frames: slice, /) -> UInt8[np.ndarray, "f h w 3"]:
        """See `ClipDataset.video`."""
        ...

    def geometry(self, clip: str, frames: slice, /) -> StoredGeometry:
        """See `ClipDataset.geometry`."""
        ...

    def masks(self, clip: str, frames: slice, /) -> StoredMasks | None:
        """See `ClipDataset.masks`."""
        ...


def frame_ratio(record: ClipRecord, fps: float) -> float:
    """Stored frames per frame at `fps`: 1 for `fps` 0 and for the clip's own rate, below 1 if the clip is slower."""
    ratio = record.fps / fps if fps else 1.0
    return 1.0 if abs(ratio - 1) < RATE_TOLERANCE else ratio


def frames_spanned(record: ClipRecord, frames: int, fps: float) -> int:
    """Stored frames from the first to the last of a window of `frames` frames at `fps`."""
    return int(np.floor((frames - 1) * frame_ratio(record, fps) + 0.5)) + 1


def load_window(dataset: WindowSource, window: Window) -> LoadedWindow:
    """Read one window: resized to cover height x width, center-cropped, the cameras adjusted."""
    size = (window.height, window.width)
    ratio = frame_ratio(dataset.record(window.clip_id), window.fps) if window.fps else 1.0
    offsets = np.floor(np.arange(window.frames) * ratio + 0.5).astype(int)
    span = slice(window.start, window.start + int(offsets[-1]) + 1)
    every = ratio == 1.0
    video = depth = confidence = cameras = moving = sky = None
    if window.video:
        images = dataset.video(window.clip_id, span)
        video = fit_video(images if every else images[offsets], *size).numpy()
    if window.labels:
        stored = dataset.geometry(window.clip_id, span)
        if not every:
            chosen = stored.cameras.select(offsets.tolist())
            stored = StoredGeometry(stored.depth_m[offsets], stored.confidence[offsets], chosen)
        fitted_depth, fitted_confidence, cameras = fit_labels(
            stored.depth_m, stored.confidence, stored.trajectory, *size
        )
        depth, confidence = fitted_depth.numpy(), fitted_confidence.numpy()
    if window.masks and (masks := dataset.masks(window.clip_id, span)):
        moving, sky = (fit_mask(mask if every else mask[offsets], *size).numpy() for mask in masks)
    return LoadedWindow(video, depth, confidence, cameras, moving, sky)


class WindowLoader:
    """Loads windows in this process, or ahead of time in others.

    Args:
        dataset: source of the clips; pickled for the workers.
        workers: number of worker processes; 0 loads in this one.
    """

    def __init__(self, dataset: WindowSource, *, workers: int = 0) -> None:
        self.dataset, self.workers = dataset, workers
        self._pool: ProcessPoolExecutor | None = None
        self._requested: dict[Window, Future[LoadedWindow]] = {}

    def __enter__(self) -> "WindowLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def request(self, windows: Iterable[Window]) -> None:
        """Start to load windows in the workers; without workers this does nothing."""
        if not self.workers:
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(self.dataset,),
            )
        for window in windows:
            if window not in self._requested:
                self._requested[window] = self._pool.submit(_load_in_worker, window)

    def requested(self, window: Window) -> bool:
        """Whether a window was requested and not taken yet."""
        return window in self._requested

    def load(self, window: Window) -> LoadedWindow:
        """The content of a window; a requested one is handed out once.

        Raises:
            DataError: files of the clip are damaged, or a worker process died.
        """
        future = self._requested.pop(window, None)
        if future is None:
            return load_window(self.dataset, window)
        try:
            return future.result()
        except BrokenProcessPool:
            raise DataError(
                "worker-died",
                f"a process that loads clips died (clip {window.clip_id}); usually memory ran out: use fewer workers",
            ) from None

    def close(self) -> None:
        """Stop the workers; windows that were not taken are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        self._requested.clear()


_WORKER: dict[str, Any] = {}


def _start_worker(dataset: WindowSource) -> None:
    """Prepare a worker: one thread, signals left to the parent, and an end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _WORKER["dataset"] = dataset


def _load_in_worker(window: Window) -> LoadedWindow:
    return load_window(_WORKER["dataset"], window)
