"""The Ray engine: the same jobs on the actors of a Ray cluster, or of one that is started on this machine.

One actor holds one job, as one process does in the local engine, so a crash costs one job and names it. Results do not
travel through Ray: a job commits its own files, which all nodes must see under the same path.

The cluster may shrink and grow during a run. Only an actor that has started gets a job, so no job waits for a node that
is gone; a job whose node or connection was lost is repeated without counting as a crash.
"""

import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fw_data.engine import Done, J, JobTask, R
from fw_data.engine.local import describe_error

log = logging.getLogger("fw_data.engine")

_POLL_S = 1.0
_CRASHES = 2
"""A job fails after its process has died this often."""
_LOSSES = 20
"""A job fails after its node or connection was lost this often."""
_FAILED_STARTS = 3
"""The run ends after this many actors in a row could not start."""
_PATIENCE_S = 900.0
"""Seconds to wait while no actor can start; then the jobs that are left fail."""
_VERDICT_S = 10.0
"""Seconds to wait for the word whether an actor that cannot be reached is dead."""
_OBJECT_STORE_BYTES = 128 << 20
"""Object store of a cluster started here; jobs are paths and results are small."""

_Outcome = Literal["value", "error", "crashed", "lost"]


class RayEngine:
    """ExecutionEngine on Ray actors. They live from the first `run` to `close` (or the end of a `with`).

    Args:
        workers: maximum number of actors; None takes as many as the cluster has room for, also when it grows.
        cpus: processors each actor reserves, and threads it computes with; may be a fraction.
        gpus: GPUs each actor reserves; may be a fraction.
        address: of a running cluster ("auto", "ray://..."); None joins the one in RAY_ADDRESS or starts one here.

    Raises:
        ValueError: Ray is not installed, the cluster cannot be reached, or no actor fits into it. With `workers`, a
            running cluster may grow first, because actors that wait make an autoscaler add nodes.
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
        self._wanted, self._cpus, self._gpus = workers, cpus, gpus
        if not self._room() and (self._started or workers is None):  # else it may grow
            have = self._ray.cluster_resources()
            self.close()
            raise ValueError(
                f"no worker of {cpus:g} CPUs and {gpus:g} GPUs fits into the Ray cluster, which has "
                f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs; ask for less"
            )
        threads = {"OMP_NUM_THREADS": str(max(1, int(cpus)))}
        self._actor_class = self._ray.remote(_Actor).options(
            num_cpus=cpus, num_gpus=gpus, max_concurrency=2, max_restarts=0, runtime_env={"env_vars": threads}
        )
        self._pool: list[_Member] = []
        self._failed_starts = 0

    @property
    def workers(self) -> int:
        """Number of actors that the engine wants now."""
        return self._wanted or max(1, self._room())

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
        waiting = [_Attempt(job=index) for index in reversed(range(len(jobs)))]
        finished, seen = False, time.monotonic()
        try:
            while waiting or any(member.attempt for member in self._pool):
                self._feed(shared, jobs, waiting)
                running = [member for member in self._pool if member.attempt is not None]
                if any(member.node for member in self._pool):
                    seen = time.monotonic()
                elif time.monotonic() - seen > _PATIENCE_S:
                    problem = f"the Ray cluster had no room for a worker for {_PATIENCE_S:g} s"
                    yield from (Done(job=jobs[attempt.job], error=problem) for attempt in reversed(waiting))
                    break
                members = {member.ref: member for member in self._pool if member.attempt is not None or not member.node}
                ready, _ = self._ray.wait(list(members), timeout=_POLL_S)
                for ref in ready:
                    member = members[ref]
                    if member.attempt is None:
                        self._welcome(member)
                        continue
                    attempt, member.attempt = member.attempt, None
                    done = self._ended(jobs[attempt.job], attempt, *self._result(member))
                    if done is None:
                        waiting.append(attempt)
                    else:
                        yield done
                if running and not ready:
                    self._report(jobs, running, on_progress)
            finished = True
        finally:
            if not finished:
                for member in self._pool:
                    self._ray.kill(member.actor)
                self._pool = []

    def _feed(self, task: Any, jobs: Sequence[Any], waiting: "list[_Attempt]") -> None:
        """Give every started actor that is free a job, and start actors while more jobs wait than actors start."""
        for member in self._pool:
            if waiting and member.node and member.attempt is None:
                member.attempt = waiting.pop()
                member.ref = member.actor.run.remote(task, jobs[member.attempt.job])
        starting = sum(not member.node for member in self._pool)
        missing = min(len(waiting) - starting, self.workers - len(self._pool)) if waiting else 0
        for _ in range(missing):
            actor = self._actor_class.remote()
            self._pool.append(_Member(actor=actor, ref=actor.node.remote()))

    def _welcome(self, member: "_Member") -> None:
        """Note that an actor has started, or take it out of the pool; another one is started if jobs wait."""
        errors = self._ray.exceptions
        try:
            member.node = self._ray.get(member.ref)
            self._failed_starts = 0
        except errors.RayError as error:
            self._drop(member)
            reason = " ".join(str(error).split())[:300]
            log.warning("a Ray worker did not start: %s", reason)
            if not isinstance(error, errors.RuntimeEnvSetupError) and not getattr(error, "actor_init_failed", False):
                return  # its node was lost
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise ValueError(
                    f"workers do not start on the Ray cluster, {_FAILED_STARTS} tries: {reason}"
                ) from error

    def _result(self, member: "_Member") -> tuple[_Outcome, Any]:
        """Outcome of a job and its result, or the error as text. An actor that cannot go on leaves the pool."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(member.ref)
        except errors.RayActorError as error:
            outcome: _Outcome = "crashed" if self._has_crashed(member, error) else "lost"
            self._drop(member)
            return outcome, " ".join(str(error).split())[:300]
        except (errors.NodeDiedError, errors.ObjectLostError, errors.WorkerCrashedError) as error:
            self._drop(member)  # the job may have ended; its result was on a node that is gone
            return "lost", describe_error(error)
        except errors.RayError as error:  # what the job needs could not be brought to the actor
            return "error", describe_error(error)

    def _has_crashed(self, member: "_Member", error: Any) -> bool:
        """Whether the process of an actor ended while its node and the connection to it went on."""
        errors = self._ray.exceptions
        if isinstance(error, errors.ActorUnavailableError):  # dead, or only out of reach
            try:
                self._ray.get(member.actor.node.remote(), timeout=_VERDICT_S)
                return False
            except errors.ActorDiedError:
                pass
            except errors.RayError:
                return False
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        return not error.preempted and member.node in alive

    def _ended(self, job: J, attempt: "_Attempt", outcome: _Outcome, content: Any) -> Done[J, Any] | None:
        """The end of a job; None if it is to be repeated."""
        if outcome == "value":
            return Done(job=job, value=content)
        if outcome == "error":
            return Done(job=job, error=content)
        attempt.times[outcome] += 1
        if outcome == "lost":
            log.warning("a Ray node or its connection was lost; its job is repeated: %s", content)
        if attempt.times["crashed"] >= _CRASHES:
            return Done(job=job, error=f"its Ray worker died {_CRASHES} times (out of memory, a crash?): {content}")
        if attempt.times["lost"] >= _LOSSES:
            return Done(job=job, error=f"its Ray node was lost {_LOSSES} times: {content}")
        return None

    def _drop(self, member: "_Member") -> None:
        """Take an actor out of the pool; one that cannot be reached may still be at work, so it is ended."""
        self._ray.kill(member.actor)
        self._pool.remove(member)

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

    def _room(self) -> int:
        """Number of actors that fit on the cluster as it is now."""
        total = self._ray.cluster_resources()
        room = int(total.get("CPU", 0) / self._cpus)
        return min(room, int(total.get("GPU", 0) / self._gpus)) if self._gpus else room


@dataclass(kw_only=True)
class _Attempt:
    job: int
    times: dict[str, int] = field(default_factory=lambda: {"crashed": 0, "lost": 0})


@dataclass(kw_only=True)
class _Member:
    actor: Any
    ref: Any
    """The call that the actor is answering: its start, or its job."""
    node: str = ""
    """Id of its node; empty until it has started."""
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

    def node(self) -> str:
        """Id of the node; the first answer says that the actor has started."""
        import ray

        return ray.get_runtime_context().get_node_id()

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
