"""Keeps workers running: starts them, notices when one dies, frees its job at once, and starts another.

A thread of the service's process. It imports nothing of the worker: processes are the border.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

from fw_serve.jobs.fleet import Fleet
from fw_serve.jobs.store import JobStore
from fw_serve.settings import WorkerSettings

log = logging.getLogger("fw_serve.supervisor")

LONGEST_PAUSE_S = 30.0
"""A worker that keeps dying while it loads is started again after twice the time each, up to this."""

PATIENCE_S = 15.0
"""Time for a worker to finish its step and give its job back when the service ends."""


class Supervisor(threading.Thread):
    """Watches over some workers until `stop`.

    Args:
        settings: of every worker; `name` is a prefix.
        store: the jobs.
        devices: one worker each; its `device` option is replaced.
        check_s: how often the processes are looked at.
    """

    def __init__(
        self, settings: WorkerSettings, store: JobStore, devices: list[str | None], *, check_s: float = 0.1
    ) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.store, self.fleet, self.check_s = store, Fleet(store), check_s
        self._stop_asked = threading.Event()
        self.posts = [_Post(settings, device) for device in devices]

    def run(self) -> None:
        """Until `stop`; the database may be away for a while."""
        while not self._stop_asked.is_set():
            for post in self.posts:
                try:
                    self._look_at(post)
                except Exception:
                    log.exception("a worker could not be looked after; trying again")
            self._stop_asked.wait(self.check_s)
        for post in self.posts:
            post.ask_to_end()
        until = time.monotonic() + PATIENCE_S
        for post in self.posts:
            post.end(until - time.monotonic())
            self._free(post)

    def stop(self) -> None:
        """End all workers; their jobs go back to the queue."""
        self._stop_asked.set()
        self.join()

    def _look_at(self, post: "_Post") -> None:
        if post.process is None:
            if time.monotonic() >= post.not_before:
                post.start()
            return
        code = post.process.poll()
        if code is None:
            return
        log.error("worker %s ended with code %s after %.1f s", post.name, code, post.age_s())
        self._free(post)
        post.gone()

    def _free(self, post: "_Post") -> None:
        released = self.store.release(post.name)
        self.fleet.forget(post.name)
        if released:
            log.warning("the job of worker %s is free again", post.name)


class _Post:
    """The place of one worker, filled by one process after another."""

    def __init__(self, settings: WorkerSettings, device: str | None) -> None:
        self.settings, self.device = settings, device
        self.process: subprocess.Popen[bytes] | None = None
        self.name, self.count = "", 0
        self.started = self.not_before = self.pause_s = 0.0

    def start(self) -> None:
        self.count += 1
        self.name = f"{self.settings.name}{socket.gethostname()[:40]}-{os.getpid()}-{id(self) % 10**6}-{self.count}"
        options = self.settings.options if self.device is None else {**self.settings.options, "device": self.device}
        settings = replace(self.settings, name=self.name, options=options)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fw_serve.worker.process"], stdin=subprocess.PIPE, start_new_session=True
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(settings)).encode() + b"\n")
        self.process.stdin.flush()
        self.started = time.monotonic()

    def age_s(self) -> float:
        return time.monotonic() - self.started

    def gone(self) -> None:
        """Close the books on a dead process; one that died young is replaced more slowly each time."""
        assert self.process is not None
        if self.process.stdin is not None:
            self.process.stdin.close()
        lived = self.age_s()
        self.process = None
        self.pause_s = 0.0 if lived > LONGEST_PAUSE_S else min(LONGEST_PAUSE_S, max(0.2, 2 * self.pause_s))
        self.not_before = time.monotonic() + self.pause_s

    def ask_to_end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self, patience_s: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, patience_s))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
