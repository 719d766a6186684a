"""Turns the options of `fw-serve up` into settings: checks, data folder, database and API keys."""

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
    """Settings of the service and of its workers. Creates the data folder and the tables.

    Raises:
        ValueError: a public address without API keys, or invalid options.
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
    """Number and size of the replicas."""
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
    """URL of the database: the given one, FW_SERVE_DATABASE, or SQLite in the data folder."""
    return given or os.environ.get("FW_SERVE_DATABASE") or f"sqlite:///{data.resolve() / 'jobs.db'}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def needs_keys(host: str, wish: Literal["auto", "on", "off"], *, has_keys: bool) -> bool:
    """Whether requests need an API key. Raises ValueError if the service would be open to all, or closed to all."""
    if not is_loopback(host) and (wish == "off" or not has_keys):
        raise ValueError(
            f"--host {host} is reachable from other machines, but there is no API key: create one with "
            "`fw-serve key add NAME`, or use --host 127.0.0.1"
            if wish != "off"
            else f"--keys off requires a loopback address, and --host is {host}"
        )
    if wish == "on" and not has_keys:
        raise ValueError("--keys on: there is no API key; create one with `fw-serve key add NAME`")
    return wish == "on" or (wish == "auto" and (has_keys or not is_loopback(host)))


_LEAST = {"workers": 1, "replicas": 1, "cpus_per_worker": 0.01, "gpus_per_worker": 0}
"""Options of the Ray engine and their minimum values."""


def _check(options: UpOptions) -> None:
    for name in ("queue", "max_frames", "max_pixels", "max_steps", "max_upload_mb"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1")
    if options.lease_s < 1:
        raise ValueError(f"--lease-s is {options.lease_s}; it must be at least 1 second")
    _check_engine(options)
    if not options.device:
        raise ValueError("--device needs at least one device, such as --device cuda:0 cuda:1")
    if not 0 <= options.port <= 65535:
        raise ValueError(f"--port is {options.port}; it must be 0 to 65535")


def _source(checkpoint: str) -> str:
    """A checkpoint for a worker in another folder: paths become absolute, names stay."""
    if checkpoint == SMALL_WORLD:
        shipped_weights()  # fails early if they are missing
        return checkpoint
    if Path(checkpoint).exists():
        return str(Path(checkpoint).resolve())
    if "/" not in checkpoint:
        raise ValueError(
            f"checkpoint not found: {checkpoint}; give a checkpoint folder, or owner/name of a hub repository"
        )
    return checkpoint


def _check_engine(options: UpOptions) -> None:
    given = [name for name in _LEAST if getattr(options, name) is not None]
    if options.engine == "local" and given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} requires --engine ray; on one machine, --device cuda:0 cuda:1 starts a "
            "worker per device"
        )
    if options.engine == "ray" and options.only is not None:
        raise ValueError("--only requires --engine local; Ray runs both halves, see --workers and --replicas")
    if options.engine == "ray" and options.device != ("auto",):
        raise ValueError("--device requires --engine local; with Ray, use --gpus-per-worker")
    for name in given:
        value, least = getattr(options, name), _LEAST[name]
        if value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value:g}; it must be at least {least:g}")
