"""Supervision of worker processes: a dead worker's job is freed immediately, and a new worker starts.

A worker is one process, or several that generate each job together; if one of these ends, all are ended and replaced.

A thread in the service's process. It imports nothing of the worker.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from fw_serve.jobs.fleet import Fleet
from fw_serve.jobs.store import JobStore, Loss
from fw_serve.settings import EXIT_OUT_OF_MEMORY, WorkerSettings

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
        if not slot.processes:
            if time.monotonic() >= slot.not_before:
                slot.start(self.memory_kills())
            return
        if slot.loss is None:
            ended = slot.ended()
            if not ended:
                return
            for rank, code in ended.items():
                which = f"process {rank} of worker" if len(slot.processes) > 1 else "worker"
                log.error("%s %s ended with code %s after %.1f s", which, slot.name, code, slot.age_s())
            killed = -signal.SIGKILL in ended.values() and self.memory_kills() > slot.memory_kills
            codes = slot.kill()  # before its job is freed: the first process could still work on it
            slot.loss = "out_of_memory" if killed or EXIT_OUT_OF_MEMORY in codes else "crashed"
        self._free(slot, slot.loss)
        slot.close()

    def _free(self, slot: "_WorkerSlot", loss: Loss) -> None:
        released = self.store.release(slot.name, loss)
        self.fleet.forget(slot.name)
        if released:
            log.warning("freed the job of worker %s (%s)", slot.name, loss)


class _WorkerSlot:
    """One worker at a time: a process, or one per device of the settings."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.processes: list[subprocess.Popen[bytes]] = []
        self.name, self.rendezvous, self.count, self.memory_kills = "", "", 0, 0
        self.loss: Loss | None = None
        self.started = self.not_before = self.pause_s = 0.0

    def start(self, memory_kills: int) -> None:
        self.count += 1
        self.memory_kills = memory_kills
        self.name = f"{self.settings.name}{socket.gethostname()[:40]}-{os.getpid()}-{id(self) % 10**6}-{self.count}"
        if self.settings.devices:
            handle, self.rendezvous = tempfile.mkstemp(prefix="fw-serve-")
            os.close(handle)
        self.started = time.monotonic()
        try:
            for rank in range(max(1, len(self.settings.devices))):
                self._start_process(replace(self.settings, name=self.name, rank=rank, rendezvous=self.rendezvous))
        except OSError:
            self.close()
            raise

    def _start_process(self, settings: WorkerSettings) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "fw_serve.worker.process"],
            stdin=subprocess.PIPE,
            start_new_session=True,
            env=_environment(len(settings.devices)),
        )
        self.processes.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(settings)).encode() + b"\n")
        process.stdin.flush()

    def ended(self) -> dict[int, int]:
        """Exit codes of the processes that have ended, by rank."""
        codes = {rank: process.poll() for rank, process in enumerate(self.processes)}
        return {rank: code for rank, code in codes.items() if code is not None}

    def age_s(self) -> float:
        return time.monotonic() - self.started

    def kill(self) -> list[int]:
        """End the processes that still run. Returns all exit codes; one that was already exiting keeps its own."""
        for process in self.processes:
            process.kill()
        codes: list[int] = []
        for process in self.processes:
            codes.append(process.wait())
            if process.stdin is not None:
                with suppress(OSError):  # the settings of a process that has died before reading them
                    process.stdin.close()
        if self.rendezvous:
            Path(self.rendezvous).unlink(missing_ok=True)
        return codes

    def close(self) -> None:
        """Clean up after a dead worker; one that died young is replaced after a longer pause each time."""
        self.kill()
        lived = self.age_s()
        self.processes, self.loss = [], None
        self.pause_s = 0.0 if lived > LONGEST_PAUSE_S else min(LONGEST_PAUSE_S, max(0.2, 2 * self.pause_s))
        self.not_before = time.monotonic() + self.pause_s

    def terminate(self) -> None:
        """Ask the first process to end after its step; it needs the others for this."""
        if self.processes and self.processes[0].poll() is None:
            self.processes[0].send_signal(signal.SIGTERM)

    def wait(self, patience_s: float) -> None:
        """Wait for the first process, then end all."""
        if not self.processes:
            return
        with suppress(subprocess.TimeoutExpired):
            self.processes[0].wait(max(0.1, patience_s))
        self.kill()


def _environment(processes: int) -> dict[str, str] | None:
    """Environment of a worker process. Of several, each gets a share of the cores, and gloo, which trusts all that
    connect, stays on the loopback interface."""
    if processes < 2:
        return None
    defaults = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    if sys.platform == "linux":
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    return defaults | os.environ
