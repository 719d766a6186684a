"""Worker process: claims jobs from the store and runs them one by one until it is stopped.

`Supervisor` starts it as `python -m fw_serve.worker.process` and sends its settings as one line of JSON on standard
input. Standard input stays open: when it closes, the supervisor has died, so the worker gives its job back and exits.

A worker may have several processes, which generate each job together. The first one does all of the above, and decides
when a job stops; the others follow it and know nothing of jobs. If one of them ends, the supervisor ends all of them.
"""

import errno
import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from fw_serve.intake.camera import StoredPath
from fw_serve.jobs.errors import LeaseLostError
from fw_serve.jobs.fleet import Fleet, WorkerState
from fw_serve.jobs.model import Job, ModelCard
from fw_serve.jobs.store import JobStore
from fw_serve.settings import EXIT_OUT_OF_MEMORY, WorkerSettings
from fw_serve.storage import JobStorage, StorageError
from fw_serve.worker.engine import EngineLostError, JobEngine, JobError, JobInputs, JobProgress, OutOfMemoryError

log = logging.getLogger("fw_serve.worker")

_SHARE = {"encode": (0, 5), "denoise": (5, 90), "decode": (90, 95), "export": (95, 99)}
"""Progress of a job in percent at the start and end of each stage."""

EXIT_TIMEOUT = 3
"""Exit code after a job exceeded its time limit; only the end of the process can stop a step."""

EXIT_LOST = 5
"""Exit code after an `EngineLostError`."""

STORE_PATIENCE_S = 600.0
"""Seconds to retry writing the end of a job while the database does not respond."""

Answer = TypeVar("Answer")


class StopRequestedError(Exception):
    """The worker is being stopped; its job goes back to the queue."""


class WorkerProcess:
    """Loop of a worker.

    Args:
        settings: settings of the worker.
        engine: generates worlds.
        store: the job store.
    """

    def __init__(self, settings: WorkerSettings, engine: JobEngine, store: JobStore) -> None:
        self.settings, self.engine, self.store = settings, engine, store
        self.fleet = Fleet(store)
        self.storage = JobStorage(settings.data, settings.artifacts)
        self.stopping = threading.Event()

    @property
    def card(self) -> ModelCard:
        """The loaded model, with its position among those of the service."""
        return self.engine.card.model_copy(update={"order": self.settings.order})

    def run(self) -> None:
        """Claim and run jobs until `stopping` is set. Raises EngineLostError if the engine can run no more."""
        pulse = _Pulse(self)
        pulse.start()
        self.fleet.announce(self.settings.name, "ready", self.card)
        while not self.stopping.is_set():
            try:
                job = self.store.claim(self.settings.name, self.settings.lease_s, self.engine.card.name)
                if job is None:
                    self.stopping.wait(self.settings.poll_s)
                    continue
                pulse.follow(job)
                self.fleet.announce(self.settings.name, "busy")
                self.attempt(job)
                self.fleet.announce(self.settings.name, "ready", self.card)
            except SQLAlchemyError as error:  # the model stays loaded
                log.error("the database does not respond, trying again: %s", _reason(error))
                self.stopping.wait(1.0)
            finally:
                pulse.follow(None)
        with suppress(SQLAlchemyError):
            self.fleet.forget(self.settings.name)

    def attempt(self, job: Job) -> None:
        """Run one job and write how it ended. Errors of the job do not leave this method.

        Raises:
            EngineLostError: the engine can run no more jobs. If it was lost in mid-job, the job has not ended.
        """
        lease = str(job.lease)
        try:
            self._run(job, lease)
        except LeaseLostError:
            log.info("%s was cancelled, deleted or reassigned; stopped", job.id)
            self.storage.withdraw(job.id, lease)
            self.engine.recover()
            return
        except EngineLostError:
            self.storage.withdraw(job.id, lease)
            raise
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
            log.exception("%s: inputs are missing", job.id)
            code, message = "inputs_lost", f"The inputs of this job are missing ({error})."
        except OSError as error:
            log.exception("%s failed", job.id)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            code = "storage_full" if full else "generation_failed"
            message = "The disk of the server is full." if full else "Internal error in the worker; see its log."
        except Exception:
            log.exception("%s failed", job.id)
            code, message = "generation_failed", "Internal error in the worker; see its log."
        else:
            return
        self._end(job, lambda: self.store.fail(lease, code, message))

    def _run(self, job: Job, lease: str) -> None:
        camera = StoredPath.model_validate_json(self.storage.input(job.id, "camera.json").read_bytes())
        image = self.storage.input(job.id, "image.png")
        folder = self.storage.begin(lease)
        request = job.request
        steps = self.engine.run(JobInputs(request=request, image=image, camera=camera.trajectory()), folder)
        try:
            for step in steps:
                if step.preview is not None:  # first, so that whoever sees the step can get its preview
                    self.storage.put_preview(lease, step.preview)
                try:
                    self.store.report(
                        lease, self.settings.lease_s, stage=step.stage, step=step.step, steps=step.steps,
                        progress=percent(step), eta_seconds=step.eta_seconds,
                    )  # fmt: skip
                except SQLAlchemyError as error:  # the next report tells as much
                    log.warning("%s: a report of progress was lost: %s", job.id, _reason(error))
                if step.notes:
                    request = request.model_copy(update={"notes": step.notes})
                finished = step.stage == "export" and step.step == step.steps
                if self.stopping.is_set() and not finished:
                    raise StopRequestedError
        finally:
            steps.close()
        size = self.storage.publish(job.id, lease)
        num_frames, height, width = request.shape
        num_steps = request.settings.steps(self.engine.card.settings.num_inference_steps)
        work = float(num_steps * num_frames * height * width)
        self._retried(lambda: self.store.complete(lease, lease, size=size, work=work, request=request))

    def _retried(self, write: Callable[[], Answer]) -> Answer:
        """The result of `write`, which is repeated while the database does not respond."""
        until, pause = time.monotonic() + STORE_PATIENCE_S, 0.2
        while True:
            try:
                return write()
            except SQLAlchemyError as error:
                if time.monotonic() > until:
                    raise
                log.warning("the database does not respond, trying again: %s", _reason(error))
                time.sleep(pause)
                pause = min(5.0, 2 * pause)

    def _end(self, job: Job, write: Callable[[], object]) -> None:
        self.storage.withdraw(job.id, str(job.lease))
        try:
            self._retried(write)
        except LeaseLostError:
            log.info("%s was cancelled, deleted or reassigned before its end was written", job.id)
        self.engine.recover()


@dataclass
class _Followed:
    lease: str
    since: float


class _Pulse(threading.Thread):
    """Sends heartbeats, also during a step, and ends the process if its job exceeds the time limit."""

    def __init__(self, worker: WorkerProcess) -> None:
        super().__init__(name="pulse", daemon=True)
        self.worker = worker
        self.followed: _Followed | None = None

    def follow(self, job: Job | None) -> None:
        """Renew the lease of this job from now on."""
        self.followed = None if job is None else _Followed(str(job.lease), time.monotonic())

    def run(self) -> None:
        """Send heartbeats until the worker stops."""
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
                continue  # the next report of the job raises it too
            except SQLAlchemyError as error:
                log.warning("a heartbeat was lost: %s", _reason(error))
            except Exception:
                log.exception("a heartbeat was lost")

    def _check_time(self, followed: _Followed) -> None:
        limit = self.worker.settings.job_timeout_s
        if limit is None or time.monotonic() - followed.since < limit:
            return
        message = f"The job took more than {limit:g} s, the limit of this server."
        with suppress(LeaseLostError):  # cancelled, and still in the same step
            self.worker.store.fail(followed.lease, "timed_out", message)
        log.error("a job took more than %g s; the worker is replaced", limit)
        os._exit(EXIT_TIMEOUT)


def percent(step: JobProgress) -> int:
    """Progress of the whole job in percent after a step."""
    begin, end = _SHARE[step.stage]
    return begin + (end - begin) * step.step // max(1, step.steps)


def load_engine(settings: WorkerSettings) -> JobEngine:
    """Import and call the function that `settings.engine` names."""
    module, _, function = settings.engine.partition(":")
    options = settings.options
    if settings.devices:
        place = {"init_method": f"file://{settings.rendezvous}", "rank": settings.rank,
                 "world_size": len(settings.devices)}  # fmt: skip
        options = {**options, "device": settings.devices[settings.rank], "place": place}
    return getattr(importlib.import_module(module), function)(**options)


def main() -> int:
    """Run a worker. Exit codes: 0 stopped, 1 the engine could not be loaded, 3 a job exceeded its time limit, 4 memory
    ran out in a process that follows, 5 the engine was lost."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    lifeline = sys.stdin.buffer
    settings = WorkerSettings(**json.loads(lifeline.readline()))
    if settings.rank:
        if code := follow(settings, lifeline.fileno()):
            os._exit(code)  # the end of the program could wait for the other processes
        return 0
    store = JobStore(settings.database, max_attempts=settings.max_attempts, keep_s=settings.keep_s)
    threading.Thread(target=_end_with, args=(lifeline.fileno(), settings, store), daemon=True).start()
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
    try:
        worker.run()
    except EngineLostError as error:
        log.error("%s; the worker is replaced", error)
        os._exit(EXIT_LOST)  # the end of the program could wait for the other processes
    store.close()
    return 0


def follow(settings: WorkerSettings, lifeline: int) -> int:
    """Take part in the jobs of the worker's first process. Returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):  # the first process finishes its step with this one, then ends both
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline, settings), daemon=True).start()
    try:
        engine = load_engine(settings)
    except (ValueError, FileNotFoundError, ImportError) as error:
        log.error("the model cannot be loaded: %s", error)
        return 1
    try:
        engine.follow()
    except OutOfMemoryError as error:
        log.error("process %d of the worker is out of memory: %s", settings.rank, error)
        return EXIT_OUT_OF_MEMORY
    except EngineLostError as error:
        log.error("process %d of the worker: %s", settings.rank, error)
        return EXIT_LOST
    return 0


def _end_with(lifeline: int, settings: WorkerSettings, store: JobStore | None = None) -> None:
    """Wait for the end of the supervisor, then give the job back and exit: an operator killed the service."""
    while os.read(lifeline, 4096):
        pass
    try:
        if settings.rendezvous:
            Path(settings.rendezvous).unlink(missing_ok=True)
        if store is not None:
            store.release(settings.name, "stopped")
    finally:
        os._exit(0)


def _reason(error: SQLAlchemyError) -> str:
    """The error of the database in one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300]


if __name__ == "__main__":
    sys.exit(main())
