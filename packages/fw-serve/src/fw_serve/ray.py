"""`fw-serve up --engine ray`: the same application and job store, as replicas on a Ray cluster.

The deployments form one Ray Serve application: `Api` answers requests, and `Workers`, `Workers-2`, one for each model,
hold it and claim its jobs from the store. Ray starts replicas, places them on GPUs and replaces them. Jobs do not pass
through Ray, so a replica that dies costs its job one attempt at most.
"""

import logging
import os
from dataclasses import fields, replace
from typing import Any

import ray
from pydantic import TypeAdapter
from ray import serve
from ray.serve import Application

from fw_serve.api.app import create_app
from fw_serve.jobs.store import JobStore
from fw_serve.options import UpOptions
from fw_serve.prepare import prepare, scale_of, until_stopped
from fw_serve.settings import Scale, Settings, WorkerSettings
from fw_serve.supervisor import Supervisor

log = logging.getLogger("fw_serve.ray")

NAME = "fantasy-world"
"""The application's name on the cluster."""

API_CPUS = 0.5
"""CPUs of each `Api` replica."""

_OBJECT_STORE_BYTES = 128 << 20
"""Object store of a cluster started here; it holds only requests and responses."""
_ONGOING = 512
"""Concurrent requests per replica; event streams are long."""
_QUIET = {"enable_access_log": False}


def run(settings: Settings, models: list[WorkerSettings], scale: Scale, *, host: str, port: int) -> None:
    """Serve on the cluster in RAY_ADDRESS, or on one started here, until SIGINT or SIGTERM.

    Raises:
        ValueError: the cluster cannot be reached, has too few CPUs or GPUs, serves another application, or its nodes
            do not share the database.
    """
    started = _connect()
    try:
        _check_shared(settings)
        if started:
            _check_room(scale, len(models))
        elif serve.status().applications:
            raise ValueError("Ray Serve runs on this cluster already; add the service to its config instead")
        serve.start(http_options={"host": host, "port": port}, logging_config=_QUIET)
        serve.run(application(settings, models, scale), name=NAME, route_prefix="/", logging_config=_QUIET)
        print(f"serving at http://{host}:{port} (keys {'on' if settings.keys else 'off'})", flush=True)
        until_stopped()
    finally:
        serve.shutdown()  # replicas finish their requests and requeue their jobs
        if started:
            ray.shutdown()


def build(arguments: dict[str, Any]) -> Application:
    """The application for a Serve config file (`import_path: fw_serve.ray:build`), as KubeRay's RayService reads it.

    Args:
        arguments: options of `fw-serve up` by name, with underscores. `host` is the address of the proxies in
            that config. The default, 0.0.0.0, requires an API key in the store.

    Raises:
        ValueError: an unknown option, or see `fw_serve.prepare.prepare`.
    """
    unknown = arguments.keys() - {field.name for field in fields(UpOptions)}
    if unknown:
        raise ValueError(f"args: unknown options of fw-serve up: {', '.join(sorted(unknown))}")
    options = TypeAdapter(UpOptions).validate_python({"host": "0.0.0.0", **arguments, "engine": "ray"})
    settings, models = prepare(options)
    _check_shared(settings)
    return application(settings, models, scale_of(options))


def application(settings: Settings, models: list[WorkerSettings], scale: Scale) -> Application:
    """All deployments, bound to their settings; `scale.workers` replicas of each model."""

    def answering() -> Any:
        store = JobStore(settings.database, max_attempts=settings.max_attempts, keep_s=settings.keep_s)
        return create_app(settings, store)

    deployment: Any = serve.deployment  # its types do not cover options
    devices = _devices(scale)
    api = deployment(
        serve.ingress(answering)(),
        name="Api",
        num_replicas=scale.replicas,
        max_ongoing_requests=_ONGOING,
        ray_actor_options={"num_cpus": API_CPUS},
    )
    workers = [
        deployment(
            WorkerReplica,
            name="Workers" if number == 1 else f"Workers-{number}",
            num_replicas=scale.workers,
            graceful_shutdown_timeout_s=model.stop_s + 5,
            ray_actor_options={"num_cpus": scale.cpus_per_worker, "num_gpus": _gpus(scale)},
        ).bind(settings.database, replace(model, devices=devices))
        for number, model in enumerate(models, 1)
    ]
    return api.bind(*workers)  # bound so that Serve starts them; never called


class WorkerReplica:
    """A replica with a supervisor and one worker, whose processes see the GPUs assigned by Ray."""

    def __init__(self, database: str, worker: WorkerSettings) -> None:
        store = JobStore(database, max_attempts=worker.max_attempts, keep_s=worker.keep_s)
        self.supervisor = Supervisor([worker], store)
        self.supervisor.start()

    def check_health(self) -> None:
        """Raise if the supervisor has ended, so that Ray replaces the replica. It replaces dead workers itself."""
        if not self.supervisor.is_alive():
            raise RuntimeError("the supervisor of the worker has ended")

    def __del__(self) -> None:
        """Ray stops the replica: the worker finishes its step, and its job is requeued."""
        self.supervisor.stop()


def _connect() -> bool:
    """Join the cluster in RAY_ADDRESS, or start one here. Returns whether it was started."""
    # otherwise uv runs again for every replica, in a copy of the working directory
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray waits 30 s for a node and 5 s for a proxy, too short on a busy machine
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    address = os.environ.get("RAY_ADDRESS")
    if not address and os.environ.get("RAY_AUTH_MODE") == "disabled":
        log.warning("RAY_AUTH_MODE=disabled: everyone who reaches this machine's ports can run code on it")
    try:
        if address:
            ray.init(logging_level=logging.ERROR)
        else:
            ray.init(
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"no Ray cluster at {address or 'this machine'}: {reason}") from error
    return not address


def _check_shared(settings: Settings) -> None:
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    if nodes > 1 and settings.database.startswith("sqlite"):
        raise ValueError(
            f"the cluster has {nodes} nodes, and SQLite is a file of one machine: give --database or "
            "FW_SERVE_DATABASE the address of a PostgreSQL"
        )


def _check_room(scale: Scale, models: int) -> None:
    room, workers = ray.cluster_resources(), scale.workers * models
    cpus = workers * scale.cpus_per_worker + scale.replicas * API_CPUS
    gpus = workers * _gpus(scale)
    if cpus > room.get("CPU", 0) or gpus > room.get("GPU", 0):
        raise ValueError(
            f"{workers} workers and {scale.replicas} replicas need {cpus:g} CPUs and {gpus:g} GPUs, this machine "
            f"has {room.get('CPU', 0):g} and {room.get('GPU', 0):g}: see --cpus-per-worker and --gpus-per-worker"
        )


def _gpus(scale: Scale) -> float:
    """GPUs of each worker: as requested, or one per process if the cluster has any."""
    if scale.gpus_per_worker is not None:
        return scale.gpus_per_worker
    return float(scale.parallel) if ray.cluster_resources().get("GPU", 0) else 0.0


def _devices(scale: Scale) -> tuple[str, ...]:
    """Devices of the processes of each worker; none if it is one process. Ray numbers the GPUs of a replica from 0."""
    if scale.parallel == 1:
        return ()
    gpus = _gpus(scale)
    if gpus not in (0, scale.parallel):
        raise ValueError(
            f"--gpus-per-worker is {gpus:g}; with --parallel {scale.parallel} it must be {scale.parallel}, or 0 to "
            "use CPUs"
        )
    return tuple(f"cuda:{rank}" if gpus else "cpu" for rank in range(scale.parallel))
