"""From the options of `fw-serve up` to the settings of the service: checks, data folder, database and API keys."""

import os
import signal
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from fw_model.checkpoints.shipped import SMALL_WORLD, shipped_weights
from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.store import JobStore
from fw_serve.options import UpOptions
from fw_serve.settings import Limits, Scale, Settings, WorkerSettings


def prepare(options: UpOptions) -> tuple[Settings, WorkerSettings]:
    """What the parts of the service need, from what the operator wrote; makes the data folder and the tables.

    Raises:
        ValueError: an address that would be open to others without keys, or options that cannot be.
    """
    _check(options)
    checkpoint = _source(options.checkpoint)
    options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = database_url(options.database, options.data)
    store = JobStore(database)
    try:
        keys = needs_keys(options.host, options.keys, has_keys=KeyRing(store).any_valid())
    finally:
        store.close()
    keep_s = options.keep_hours * 3600 if options.keep_hours > 0 else None
    limits = Limits(
        queue=options.queue,
        upload_bytes=options.max_upload_mb * 1_000_000,
        frames=options.max_frames,
        pixels=options.max_pixels,
        steps=options.max_steps,
    )
    settings = Settings(
        data=options.data.resolve(),
        database=database,
        keys=keys,
        allowed_hosts=(*Settings.allowed_hosts, *options.allowed_host),
        fetch_hosts=options.fetch_host,
        limits=limits,
        keep_s=keep_s,
    )
    worker = WorkerSettings(
        database=database,
        data=str(settings.data),
        name="",
        options={
            "checkpoint": checkpoint,
            "name": options.name,
            "device": "auto",
            "dtype": options.dtype,
            "offload": options.offload,
            "compile_blocks": options.compile_blocks,
        },
        lease_s=options.lease_s,
        job_timeout_s=options.job_timeout_s,
        keep_s=keep_s,
    )
    return settings, worker


def scale_of(options: UpOptions) -> Scale:
    """How many replicas of which size."""
    return Scale(
        workers=options.workers or 1,
        replicas=options.replicas or 1,
        cpus_per_worker=options.cpus_per_worker or 1.0,
        gpus_per_worker=options.gpus_per_worker,
    )


def until_stopped() -> None:
    """Wait for SIGINT or SIGTERM."""
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    asked.wait()


def database_url(given: str | None, data: Path) -> str:
    """Where the jobs are: as given, as FW_SERVE_DATABASE says, or SQLite in the data folder."""
    return given or os.environ.get("FW_SERVE_DATABASE") or f"sqlite:///{data.resolve() / 'jobs.db'}"


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def needs_keys(host: str, wish: Literal["auto", "on", "off"], *, has_keys: bool) -> bool:
    """Whether requests need a key. Raises ValueError where that would leave the service open, or closed to everyone."""
    if not is_loopback(host) and (wish == "off" or not has_keys):
        raise ValueError(
            f"{host} can be reached from other machines, and there is no API key: make one with "
            "`fw-serve key add NAME`, or listen on 127.0.0.1"
            if wish != "off"
            else f"--keys off works on this machine's own addresses only, not on {host}"
        )
    if wish == "on" and not has_keys:
        raise ValueError("--keys on, but there is no API key: make one with `fw-serve key add NAME`")
    return wish == "on" or (wish == "auto" and (has_keys or not is_loopback(host)))


_LEAST = {"workers": 1, "replicas": 1, "cpus_per_worker": 0.01, "gpus_per_worker": 0}
"""The options of the Ray engine, and the smallest value of each."""


def _check(options: UpOptions) -> None:
    for name in ("queue", "max_frames", "max_pixels", "max_steps", "max_upload_mb"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is at least 1, got {getattr(options, name)}")
    if options.lease_s < 1:
        raise ValueError(f"--lease-s is at least 1 second, got {options.lease_s}")
    _check_engine(options)
    if not options.device:
        raise ValueError("--device needs at least one device, for example --device cuda:0 cuda:1")
    if not 0 <= options.port <= 65535:
        raise ValueError(f"--port is 0 to 65535, got {options.port}")


def _source(checkpoint: str) -> str:
    """A checkpoint as a worker in another folder finds it: a path is made absolute, a name stays."""
    if checkpoint == SMALL_WORLD:
        shipped_weights()  # or say now that they are not there
        return checkpoint
    if Path(checkpoint).exists():
        return str(Path(checkpoint).resolve())
    if "/" not in checkpoint:
        raise ValueError(f"there is no folder {checkpoint!r}; give a checkpoint folder, or owner/name of the hub")
    return checkpoint


def _check_engine(options: UpOptions) -> None:
    given = [name for name in _LEAST if getattr(options, name) is not None]
    if options.engine == "local" and given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} goes with --engine ray; on one machine --device cuda:0 cuda:1 says how "
            "many workers there are"
        )
    if options.engine == "ray" and options.only is not None:
        raise ValueError("--only goes with --engine local; Ray runs both halves, see --workers and --replicas")
    if options.engine == "ray" and options.device != ("auto",):
        raise ValueError("--device: with --engine ray each worker sees the GPUs it reserves, see --gpus-per-worker")
    for name in given:
        value, least = getattr(options, name), _LEAST[name]
        if value < least:
            raise ValueError(f"--{name.replace('_', '-')} is at least {least:g}, got {value:g}")
