"""Supervision of worker processes: a dead worker's job is freed immediately, and a new worker starts.

A thread in the service's process. It imports nothing of the worker.
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
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from fw_serve.jobs.fleet import Fleet
from fw_serve.jobs.store import JobStore, Loss
from fw_serve.settings import WorkerSettings

log = logging.getLogger("fw_serve.supervisor")

LONGEST_PAUSE_S = 30.0
"""Maximum pause before a worker that keeps dying young is restarted; each pause is twice the previous one."""


def memory_kills() -> int:
    """Number of processes that the system has killed for memory, in this control group or on this machine."""
    total = 0
    for file in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        path = Path(file)
        lines = path.read_text().splitlines() if path.is_file() else []
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total


class Supervisor(threading.Thread):
    """Keeps one worker per entry of `workers` running until `stop`.

    Args:
        workers: settings of each worker; `name` is a prefix.
        store: the job store.
        check_s: seconds between checks of the processes.
        memory_kills: counts the processes that the system has killed for memory.
    """

    def __init__(
        self,
        workers: list[WorkerSettings],
        store: JobStore,
        *,
        check_s: float = 0.1,
        memory_kills: Callable[[], int] = memory_kills,
    ) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.store, self.fleet, self.check_s, self.memory_kills = store, Fleet(store), check_s, memory_kills
        self._stop_asked = threading.Event()
        self.slots = [_WorkerSlot(settings) for settings in workers]

    def run(self) -> None:
        """Supervise until `stop`, also while the database does not respond."""
        while not self._stop_asked.is_set():
            for slot in self.slots:
                try:
                    self._check(slot)
                except Exception:
                    log.exception("cannot supervise worker %s; trying again", slot.name)
            self._stop_asked.wait(self.check_s)
        for slot in self.slots:
            slot.terminate()
        until = time.monotonic() + max((slot.settings.stop_s for slot in self.slots), default=0.0)
        for slot in self.slots:
            slot.wait(until - time.monotonic())
            try:
                self._free(slot, "stopped")
            except Exception:
                log.exception("cannot free the job of worker %s; it is queued again after its lease", slot.name)

    def stop(self) -> None:
        """Stop all workers; their jobs go back to the queue and count no attempt."""
        self._stop_asked.set()
        self.join()

    def _check(self, slot: "_WorkerSlot") -> None:
        if slot.process is None:
            if time.monotonic() >= slot.not_before:
                slot.start(self.memory_kills())
            return
        code = slot.process.poll()
        if code is None:
            return
        log.error("worker %s ended with code %s after %.1f s", slot.name, code, slot.age_s())
        out_of_memory = code == -signal.SIGKILL and self.memory_kills() > slot.memory_kills
        self._free(slot, "out_of_memory" if out_of_memory else "crashed")
        slot.close()

    def _free(self, slot: "_WorkerSlot", loss: Loss) -> None:
        released = self.store.release(slot.name, loss)
        self.fleet.forget(slot.name)
        if released:
            log.warning("freed the job of worker %s (%s)", slot.name, loss)


class _WorkerSlot:
    """One worker: a process at a time."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self.name, self.count, self.memory_kills = "", 0, 0
        self.started = self.not_before = self.pause_s = 0.0

    def start(self, memory_kills: int) -> None:
        self.count += 1
        self.memory_kills = memory_kills
        self.name = f"{self.settings.name}{socket.gethostname()[:40]}-{os.getpid()}-{id(self) % 10**6}-{self.count}"
        settings = replace(self.settings, name=self.name)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fw_serve.worker.process"], stdin=subprocess.PIPE, start_new_session=True
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(settings)).encode() + b"\n")
        self.process.stdin.flush()
        self.started = time.monotonic()

    def age_s(self) -> float:
        return time.monotonic() - self.started

    def close(self) -> None:
        """Clean up after a dead process; one that died young is replaced after a longer pause each time."""
        assert self.process is not None
        if self.process.stdin is not None:
            self.process.stdin.close()
        lived = self.age_s()
        self.process = None
        self.pause_s = 0.0 if lived > LONGEST_PAUSE_S else min(LONGEST_PAUSE_S, max(0.2, 2 * self.pause_s))
        self.not_before = time.monotonic() + self.pause_s

    def terminate(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, patience_s: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, patience_s))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
