"""One worker: claims jobs from the store and runs them one by one until it is stopped.

Started by `Supervisor` as `python -m fw_serve.worker.process`; its settings come as one line of JSON on standard input,
which stays open as a lifeline: when it closes, whoever watches over this worker is gone, and it ends.
"""

import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from fw_serve.intake.camera import StoredPath
from fw_serve.jobs.errors import LeaseLostError
from fw_serve.jobs.fleet import Fleet, WorkerState
from fw_serve.jobs.model import Job
from fw_serve.jobs.store import JobStore
from fw_serve.settings import WorkerSettings
from fw_serve.storage import JobStorage, StorageError
from fw_serve.worker.engine import JobEngine, JobError, JobInputs, JobProgress, OutOfMemoryError

log = logging.getLogger("fw_serve.worker")

_SHARE = {"encode": (0, 5), "denoise": (5, 90), "decode": (90, 95), "export": (95, 99)}
"""Per cent of a job at the begin and the end of each stage."""

EXIT_TIMEOUT = 3
"""Exit code after a job took too long; nothing else can stop a step."""


class StopRequestedError(Exception):
    """The worker is to end; its job goes back to the queue."""


class WorkerProcess:
    """The loop.

    Args:
        settings: where the jobs are and how to behave.
        engine: what makes worlds.
        store: the jobs.
    """

    def __init__(self, settings: WorkerSettings, engine: JobEngine, store: JobStore) -> None:
        self.settings, self.engine, self.store = settings, engine, store
        self.fleet = Fleet(store)
        self.storage = JobStorage(settings.data)
        self.stopping = threading.Event()

    def run(self) -> None:
        """Take and run jobs until `stopping` is set."""
        pulse = _Pulse(self)
        pulse.start()
        self.fleet.announce(self.settings.name, "ready", self.engine.card)
        while not self.stopping.is_set():
            try:
                job = self.store.claim(self.settings.name, self.settings.lease_s)
                if job is None:
                    self.stopping.wait(self.settings.poll_s)
                    continue
                pulse.follow(job)
                self.fleet.announce(self.settings.name, "busy")
                self.attempt(job)
                self.fleet.announce(self.settings.name, "ready")
            except SQLAlchemyError:  # the model stays loaded; a job that was running is free when its lease is over
                log.exception("the database does not answer; trying again")
                self.stopping.wait(1.0)
            finally:
                pulse.follow(None)
        self.fleet.forget(self.settings.name)

    def attempt(self, job: Job) -> None:
        """Run one job to whatever end it takes. Nothing that goes wrong with it leaves this method."""
        lease, keep_s = str(job.lease), self.settings.keep_s
        try:
            self._make(job, lease)
        except LeaseLostError:
            log.info("%s was taken away; stopped", job.id)
            self.storage.withdraw(job.id, lease)
            self.engine.recover()
            return
        except StopRequestedError:
            self._end(job, lambda: self.store.give_back(lease))
            return
        except OutOfMemoryError as error:
            log.warning("%s: out of memory: %s", job.id, error)
            message = "Out of memory; request fewer frames or a smaller size."
            code = "out_of_memory"
        except JobError as error:
            code, message = "invalid_request", str(error)
        except StorageError as error:
            log.exception("%s: inputs are gone", job.id)
            code, message = "inputs_lost", f"The inputs of this job are missing ({error})."
        except Exception:
            log.exception("%s failed", job.id)
            code, message = "generation_failed", "Internal error in the worker; see its log."
        else:
            return
        self._end(job, lambda: self.store.fail(lease, code, message, keep_s=keep_s))

    def _make(self, job: Job, lease: str) -> None:
        camera = StoredPath.model_validate_json(self.storage.input(job.id, "camera.json").read_bytes())
        image = self.storage.input(job.id, "image.png")
        folder = self.storage.begin(lease)
        steps = self.engine.run(JobInputs(request=job.request, image=image, camera=camera.trajectory()), folder)
        try:
            for step in steps:
                self.store.report(
                    lease, self.settings.lease_s, stage=step.stage, step=step.step, steps=step.steps,
                    progress=percent(step), eta_seconds=step.eta_seconds,
                )  # fmt: skip
                if self.stopping.is_set():
                    raise StopRequestedError
        finally:
            steps.close()
        self.storage.publish(job.id, lease)
        self.store.complete(lease, lease, keep_s=self.settings.keep_s)

    def _end(self, job: Job, write: Callable[[], object]) -> None:
        self.storage.withdraw(job.id, str(job.lease))
        self.engine.recover()
        try:
            write()
        except LeaseLostError:
            log.info("%s was taken away before its end was written", job.id)


@dataclass
class _Followed:
    lease: str
    since: float


class _Pulse(threading.Thread):
    """Says that the worker lives and holds its job, also while a step lasts; ends a worker whose job lasts too long."""

    def __init__(self, worker: WorkerProcess) -> None:
        super().__init__(name="pulse", daemon=True)
        self.worker = worker
        self.followed: _Followed | None = None

    def follow(self, job: Job | None) -> None:
        """Keep this job's lease from now on."""
        self.followed = None if job is None else _Followed(str(job.lease), time.monotonic())

    def run(self) -> None:
        """Until the worker stops."""
        settings, store = self.worker.settings, self.worker.store
        while not self.worker.stopping.wait(settings.lease_s / 4):
            followed = self.followed
            state: WorkerState = "ready" if followed is None else "busy"
            try:
                self.worker.fleet.announce(settings.name, state)
                if followed is not None:
                    self._check_time(followed)
                    store.heartbeat(followed.lease, settings.lease_s)
            except LeaseLostError:
                continue  # the loop learns it at its next report
            except Exception:
                log.exception("the pulse could not be written")

    def _check_time(self, followed: _Followed) -> None:
        limit = self.worker.settings.job_timeout_s
        if limit is None or time.monotonic() - followed.since < limit:
            return
        message = f"The job took more than {limit:g} s, the limit of this server."
        with contextlib.suppress(LeaseLostError):  # cancelled long ago, and still in the same step
            self.worker.store.fail(followed.lease, "timed_out", message, keep_s=self.worker.settings.keep_s)
        log.error("a job took more than %g s; the worker is replaced", limit)
        os._exit(EXIT_TIMEOUT)


def percent(step: JobProgress) -> int:
    """Progress of the whole job after a step."""
    begin, end = _SHARE[step.stage]
    return begin + (end - begin) * step.step // max(1, step.steps)


def load_engine(settings: WorkerSettings) -> JobEngine:
    """Import and call what `settings.engine` names."""
    module, _, function = settings.engine.partition(":")
    return getattr(importlib.import_module(module), function)(**settings.options)


def main() -> int:
    """Read settings, load the engine, work. Exit codes: 0 stopped, 1 the engine could not be loaded, 3 timed out."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    lifeline = sys.stdin.buffer
    settings = WorkerSettings(**json.loads(lifeline.readline()))
    threading.Thread(target=_end_with, args=(lifeline.fileno(),), daemon=True).start()
    store = JobStore(settings.database, max_attempts=settings.max_attempts)
    fleet = Fleet(store)
    fleet.announce(settings.name, "loading")
    try:
        engine = load_engine(settings)
    except (ValueError, FileNotFoundError, ImportError) as error:
        log.error("the model cannot be loaded: %s", error)
        fleet.forget(settings.name)
        return 1
    worker = WorkerProcess(settings, engine, store)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        worker.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    worker.run()
    store.close()
    return 0


def _end_with(lifeline: int) -> None:
    while os.read(lifeline, 4096):
        pass
    os._exit(0)  # the supervisor is gone; when the lease expires, the job is free


if __name__ == "__main__":
    sys.exit(main())
