"""Turns the options of `fw-serve up` into settings: checks, data folder, database and API keys."""

import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from fw_core.files import file_and_scale
from fw_model.checkpoints.shipped import SMALL_WORLD, shipped_weights
from fw_serve.http.connections import ConnectionLimits
from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.store import JobStore
from fw_serve.options import UpOptions
from fw_serve.settings import Limits, Scale, Settings, WorkerSettings


def prepare(options: UpOptions) -> tuple[Settings, list[WorkerSettings]]:
    """Settings of the service, and of one worker per model. Creates the data folder and the tables.

    Raises:
        ValueError: a public address without API keys, invalid options, or a database that is not available.
    """
    _check(options)
    checkpoints = _checkpoints(options)
    loras = _loras(options.lora)
    options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = database_url(options.database, options.data)
    store = JobStore(database)
    try:
        keys = needs_keys(options.host, options.keys, has_keys=KeyRing(store).any_valid())
    finally:
        store.close()
    keep_s = options.keep_hours * 3600 if options.keep_hours > 0 else None
    settings = Settings(
        data=options.data.resolve(),
        database=database,
        keys=keys,
        allowed_hosts=(*Settings.allowed_hosts, *options.allowed_host),
        allowed_origins=options.allow_origin,
        root_path=options.root_path.rstrip("/"),
        fetch_hosts=options.fetch_host,
        webhook_hosts=options.webhook_host,
        webhook_secret=os.environ.get("FW_SERVE_WEBHOOK_SECRET", ""),
        artifacts=options.artifacts,
        access_log=options.access_log,
        limits=_limits(options),
        keep_s=keep_s,
        max_attempts=options.max_attempts,
    )
    workers = [
        WorkerSettings(
            database=database,
            data=str(settings.data),
            name="",
            artifacts=options.artifacts,
            options={
                "checkpoint": checkpoint,
                "name": name,
                "device": "auto",
                "dtype": options.dtype,
                "offload": options.offload,
                "compile_blocks": options.compile_blocks,
                "loras": loras,
            },
            order=order,
            lease_s=options.lease_s,
            job_timeout_s=options.job_timeout_s or None,
            keep_s=keep_s,
            max_attempts=options.max_attempts,
            stop_s=options.stop_s,
        )
        for order, (name, checkpoint) in enumerate(checkpoints)
    ]
    return settings, workers


def on_devices(workers: list[WorkerSettings], devices: tuple[str, ...], parallel: int = 1) -> list[WorkerSettings]:
    """One worker per model and device, or per model and `parallel` devices. Raises ValueError: see `device_groups`."""
    if parallel == 1:
        return [
            replace(worker, options={**worker.options, "device": device}) for worker in workers for device in devices
        ]
    groups = device_groups(devices, parallel)
    return [replace(worker, devices=group) for worker in workers for group in groups]


def device_groups(devices: tuple[str, ...], parallel: int) -> list[tuple[str, ...]]:
    """The devices of the workers of a model, `parallel` for each. A single auto, cuda or cpu stands for all of them.

    `auto` is a CUDA device: on CPUs, every process of a worker would hold the whole model.

    Raises:
        ValueError: a number of devices that is no multiple of `parallel`, devices that cannot work together, fewer
            CUDA devices than that, or CUDA devices that cannot be counted.
    """
    names = devices * parallel if len(devices) == 1 and devices[0] in ("auto", "cuda", "cpu") else devices
    asked = f"--parallel {parallel} with --device {' '.join(devices)}"
    if len(names) % parallel:
        raise ValueError(f"{asked}: {len(names)} devices form no groups of {parallel}; name a multiple of {parallel}")
    count = 0 if set(names) == {"cpu"} else _cuda_devices()
    if "auto" in names and not count:
        raise ValueError(
            f"{asked}: this machine has no CUDA devices; --device cpu starts {parallel} processes on the CPU, each "
            "with the whole model"
        )
    found = [f"cuda:{number}" if name in ("auto", "cuda") else name for number, name in enumerate(names)]
    for name in found:
        if name != "cpu" and not re.fullmatch(r"cuda:\d+", name):
            raise ValueError(f"{asked}: {name} is neither a CUDA device nor cpu")
        if name != "cpu" and int(name.removeprefix("cuda:")) >= count:
            raise ValueError(f"{asked}: there is no {name}; this machine has {count} CUDA devices, numbered from 0")
    groups = [tuple(found[start : start + parallel]) for start in range(0, len(found), parallel)]
    for group in groups:
        if set(group) != {"cpu"} and ("cpu" in group or len(set(group)) < parallel):
            raise ValueError(f"{asked}: {' '.join(group)} is no group; name {parallel} different CUDA devices, or cpu")
    return groups


def _cuda_devices() -> int:
    """Number of CUDA devices, from a process of its own: this one does without torch.

    Raises:
        ValueError: torch cannot be imported there.
    """
    print("checking CUDA devices ...", flush=True)  # the import can take a minute
    program = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"--parallel: the CUDA devices cannot be counted, because torch does not start: {reason}")
    return int(done.stdout)


def connection_limits(options: UpOptions) -> ConnectionLimits:
    """Limits of connections."""
    return ConnectionLimits(per_address=options.max_connections)


def _limits(options: UpOptions) -> Limits:
    return Limits(
        queue=options.queue,
        upload_bytes=options.max_upload_mb * 1_000_000,
        frames=options.max_frames,
        pixels=options.max_pixels,
        steps=options.max_steps,
        free_bytes=options.min_free_mb * 1_000_000,
    )


def _checkpoints(options: UpOptions) -> list[tuple[str | None, str]]:
    """Name and checkpoint of every model; the first name may be None."""
    found: list[tuple[str | None, str]] = [(options.name, _source(options.checkpoint))]
    for text in options.model:
        name, equals, checkpoint = text.partition("=")
        if not equals or not _MODEL_NAME.fullmatch(name):
            raise ValueError(f"--model {text}: give NAME=CHECKPOINT; NAME has letters, digits, dots, dashes")
        found.append((name, _source(checkpoint)))
    names = [name for name, _ in found]
    if len(names) != len(set(names)):
        raise ValueError(f"--model: the names {', '.join(map(str, names))} are not distinct")
    return found


def _loras(texts: tuple[str, ...]) -> dict[str, list[Any]]:
    """File and scale of every LoRA by name."""
    loras: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or not _MODEL_NAME.fullmatch(name):
            raise ValueError(f"--lora {text}: give NAME=FILE or NAME=FILE:SCALE")
        try:
            path, scale = file_and_scale(rest)
        except ValueError as error:
            raise ValueError(f"--lora {text}: {error}") from None
        loras[name] = [str(path.resolve()), scale]
    return loras


def scale_of(options: UpOptions) -> Scale:
    """Number and size of the replicas."""
    return Scale(
        workers=options.workers or 1,
        replicas=options.replicas or 1,
        cpus_per_worker=options.cpus_per_worker or 1.0,
        gpus_per_worker=options.gpus_per_worker,
        parallel=options.parallel,
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


_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")

_LEAST = {"workers": 1, "replicas": 1, "cpus_per_worker": 0.01, "gpus_per_worker": 0}
"""Options of the Ray engine and their minimum values."""


def _check(options: UpOptions) -> None:
    for name in ("parallel", "queue", "max_frames", "max_pixels", "max_steps", "max_upload_mb", "max_attempts"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1")
    if options.lease_s < 1:
        raise ValueError(f"--lease-s is {options.lease_s}; it must be at least 1 second")
    for name in ("job_timeout_s", "max_connections", "min_free_mb", "stop_s"):
        if getattr(options, name) < 0:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 0")
    _check_origins(options)
    _check_engine(options)
    if not options.device:
        raise ValueError("--device needs at least one device, such as --device cuda:0 cuda:1")
    if not 0 <= options.port <= 65535:
        raise ValueError(f"--port is {options.port}; it must be 0 to 65535")


def _check_origins(options: UpOptions) -> None:
    for origin in options.allow_origin:
        if not re.fullmatch(r"https?://[^/\s*]+", origin):
            raise ValueError(f"--allow-origin {origin}: give scheme and host, such as https://app.example.org")
    if options.root_path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", options.root_path):
        raise ValueError(f"--root-path {options.root_path}: give a path, such as /worlds")
    if options.webhook_host and not os.environ.get("FW_SERVE_WEBHOOK_SECRET"):
        raise ValueError("--webhook-host requires FW_SERVE_WEBHOOK_SECRET, the key that signs webhooks")


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
