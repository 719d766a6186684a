"""The Ray engine: the same jobs on the actors of a Ray cluster, or of one that is started on this machine.

One actor holds one job, as one process does in the local engine, so a crash costs one job and names it. Results do not
travel through Ray: a job commits its own files, which all nodes must see under the same path.
"""

import logging
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fw_data.engine import Done, J, JobTask, R
from fw_data.engine.local import describe_error

_POLL_S = 1.0
_ATTEMPTS = 2
"""A job whose actor died gets one more try: on a cluster the machine may have been taken away."""
_OBJECT_STORE_BYTES = 128 << 20
"""Object store of a cluster started here; jobs are paths and results are small."""


class RayEngine:
    """ExecutionEngine on Ray actors. They live from the first `run` to `close` (or the end of a `with`).

    Args:
        workers: actors; None takes as many as the cluster has room for.
        cpus: processors each actor reserves, and threads it computes with; may be a fraction.
        gpus: GPUs each actor reserves; may be a fraction.
        address: of a running cluster ("auto", "ray://..."); None joins the one in RAY_ADDRESS or starts one here.

    Raises:
        ValueError: Ray is not installed, the cluster cannot be reached, or no actor fits into it.
    """

    def __init__(
        self, *, workers: int | None = None, cpus: float = 1.0, gpus: float = 0.0, address: str | None = None
    ) -> None:
        if cpus <= 0 or gpus < 0 or (workers is not None and workers < 1):
            raise ValueError(f"{workers} workers with {cpus} CPUs and {gpus} GPUs each: need 1 worker and some CPU")
        self._ray = _import_ray()
        self._started = not self._ray.is_initialized()
        if self._started:
            _connect(self._ray, address)
        try:
            self.workers = self._room(cpus, gpus) if workers is None else workers
            self._room(cpus, gpus)
        except ValueError:
            self.close()
            raise
        threads = {"OMP_NUM_THREADS": str(max(1, int(cpus)))}
        self._actor_class = self._ray.remote(_Actor).options(
            num_cpus=cpus, num_gpus=gpus, max_concurrency=2, max_restarts=0, runtime_env={"env_vars": threads}
        )
        self._pool: list[_Member] = []

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, at once where they are at work, and the cluster if it was started here."""
        for member in getattr(self, "_pool", []):
            self._ray.kill(member.actor)
        self._pool = []
        if self._started:
            self._ray.shutdown()
            self._started = False

    def run(
        self, task: JobTask[J, R], jobs: Sequence[J], on_progress: Callable[[J, str, float], None]
    ) -> Generator[Done[J, R], None, None]:
        """Every job exactly once, in the order they end. Closing the generator stops the actors."""
        shared = self._ray.put(task)
        waiting = [_Attempt(job=index, number=1) for index in reversed(range(len(jobs)))]
        running: dict[Any, _Member] = {}
        finished = False
        try:
            while waiting or running:
                self._feed(shared, jobs, waiting, running)
                ready, _ = self._ray.wait(list(running), timeout=_POLL_S)
                for ref in ready:
                    member = running.pop(ref)
                    attempt, member.attempt = member.attempt, None
                    assert attempt is not None
                    done: Done[J, R] = Done(job=jobs[attempt.job])
                    kind, content = self._result(ref, member)
                    if kind == "died" and attempt.number < _ATTEMPTS:
                        waiting.append(replace(attempt, number=attempt.number + 1))
                        continue
                    yield replace(done, value=content) if kind == "value" else replace(done, error=content)
                if not ready:
                    self._report(jobs, list(running.values()), on_progress)
            finished = True
        finally:
            if not finished:
                for member in self._pool:
                    self._ray.kill(member.actor)
                self._pool = []

    def _feed(self, task: Any, jobs: Sequence[Any], waiting: "list[_Attempt]", running: "dict[Any, _Member]") -> None:
        """Give every free actor a job, and start actors while there are jobs for them."""
        free = [member for member in self._pool if member.attempt is None]
        for _ in range(min(len(waiting), self.workers - (len(self._pool) - len(free)))):
            if free:
                member = free.pop()
            else:
                member = _Member(actor=self._actor_class.remote())
                self._pool.append(member)
            member.attempt = waiting.pop()
            running[member.actor.run.remote(task, jobs[member.attempt.job])] = member

    def _result(self, ref: Any, member: "_Member") -> tuple[str, Any]:
        """("value", result), ("error", text), or ("died", text) after taking the dead actor out of the pool."""
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            self._pool.remove(member)
            reason = " ".join(str(error).split())
            return "died", f"the Ray actor died {_ATTEMPTS} times at this job (out of memory, a crash?): {reason[:300]}"
        except self._ray.exceptions.RayError as error:  # what the job needs could not be brought to the actor
            return "error", describe_error(error)

    def _report(
        self, jobs: Sequence[J], members: "list[_Member]", on_progress: Callable[[J, str, float], None]
    ) -> None:
        """Ask the actors how far they are; one that does not answer soon is passed over."""
        asked = {member.actor.progress.remote(): member.attempt for member in members}
        answered, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=_POLL_S)
        for ref in answered:
            attempt = asked[ref]
            try:
                stage, fraction = self._ray.get(ref)
            except self._ray.exceptions.RayError:
                continue  # it died; `run` finds that out from the job itself
            if stage and attempt is not None:
                on_progress(jobs[attempt.job], stage, fraction)

    def _room(self, cpus: float, gpus: float) -> int:
        """Number of actors that fit on the cluster. Raises ValueError if none fits."""
        total = self._ray.cluster_resources()
        room = int(total.get("CPU", 0) / cpus)
        if gpus:
            room = min(room, int(total.get("GPU", 0) / gpus))
        if room < 1:
            raise ValueError(
                f"no worker of {cpus:g} CPUs and {gpus:g} GPUs fits into the Ray cluster, which has "
                f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs; ask for less"
            )
        return room


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    job: int
    number: int


@dataclass(kw_only=True)
class _Member:
    actor: Any
    attempt: _Attempt | None = None


class _Actor:
    """Lives in a worker process. `progress` is answered by a second thread while `run` works."""

    def __init__(self) -> None:
        self._at = ("", 0.0)

    def run(self, task: JobTask[Any, Any], job: Any) -> tuple[str, Any]:
        """("value", result) or ("error", one line)."""

        def report(stage: str, fraction: float) -> None:
            self._at = (stage, fraction)

        self._at = ("", 0.0)
        try:
            return "value", task(job, report)
        except Exception as error:  # the driver reports it; this actor takes the next job
            return "error", describe_error(error)

    def progress(self) -> tuple[str, float]:
        """Stage and fraction of the job in hand."""
        return self._at


def _import_ray() -> Any:
    # otherwise uv starts again for every worker, in a copy of the working directory
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ValueError("the ray engine needs Ray: pip install 'fw-data[ray]'") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address or os.environ.get("RAY_ADDRESS"):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(object_store_memory=_OBJECT_STORE_BYTES, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        place = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise ValueError(f"no Ray cluster at {place}: {' '.join(str(error).split())[:300]}") from error
