"""`fw-serve up`: the API, the store and the workers, in one command, on this machine or on a Ray cluster."""

import gc
import logging
import os
import signal
import threading
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

import tyro

from fw_model.checkpoints.shipped import SMALL_WORLD, shipped_weights
from fw_serve.settings import Limits, Scale, Settings, WorkerSettings

SERVER: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": 5, "proxy_headers": False}
"""How uvicorn runs the application. Nothing here asks where a request came from, so a proxy's word is not needed."""


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """Serve worlds over HTTP."""

    checkpoint: tyro.conf.Positional[str] = SMALL_WORLD
    """A folder written by fw-train (its export/) or by WorldPipeline.save, or the hub id (owner/name) of one. Left out,
    the small weights that come with the package: toy scenes at 64x96."""
    host: str = "127.0.0.1"
    """Address to listen on. Any other than this machine's own needs API keys (fw-serve key add)."""
    port: int = 8000
    """Port to listen on."""
    data: Path = Path("fw-serve-data")
    """Folder of jobs, inputs and results; made if missing."""
    database: str | None = None
    """postgresql://USER@HOST/NAME for several replicas that share jobs and the data folder. Left out, SQLite in the
    data folder. May also stand in FW_SERVE_DATABASE, so that a password is not seen in the list of processes."""
    keys: Literal["auto", "on", "off"] = "auto"
    """Whether requests need an API key. auto: yes if there is one or the address is not this machine's own."""
    name: str | None = None
    """What the API calls the model. Left out, from the checkpoint's preset."""
    device: tuple[str, ...] = ("auto",)
    """One worker for each: auto, cpu, cuda:0, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the transformer. Left out, that of the checkpoint's file."""
    offload: Literal["none", "model", "block"] = "none"
    """What lies on the device only while it is used: nothing, each large part, or each transformer block."""
    compile_blocks: bool = False
    """Compile the transformer's blocks: faster after a slow first job."""
    queue: int = 64
    """Jobs that may wait; further ones are refused with 429."""
    max_frames: int = 161
    """Longest clip."""
    max_pixels: int = 1280 * 720
    """Largest frame."""
    max_steps: int = 100
    """Most denoising steps."""
    max_upload_mb: int = 25
    """Largest request."""
    job_timeout_s: float | None = None
    """A job that takes longer fails and its worker is replaced. Left out, no limit."""
    lease_s: float = 20.0
    """A job whose worker is silent for so long is given to another worker."""
    keep_hours: float = 168.0
    """Finished jobs and their files are removed after this time; 0 keeps them for ever."""
    fetch_host: tuple[str, ...] = ()
    """Hosts that input_reference.image_url may name, such as images.example.org or *.example.org. None by default."""
    allowed_host: tuple[str, ...] = ()
    """Further Host headers that are answered where no keys are used, such as a name in /etc/hosts."""
    only: Literal["api", "workers"] | None = None
    """Half of the service: answer requests without holding a model, or hold models without answering. The other half
    runs elsewhere, with the same database and data folder."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: replicas on the Ray cluster in RAY_ADDRESS, or on one started here."""
    workers: int | None = None
    """With --engine ray: replicas that hold a model. Left out, 1."""
    replicas: int | None = None
    """With --engine ray: replicas that answer requests. Left out, 1."""
    cpus_per_worker: float | None = None
    """With --engine ray: processors that each worker reserves and computes with. Left out, 1."""
    gpus_per_worker: float | None = None
    """With --engine ray: GPUs that each worker reserves; a fraction lets several share one. Left out, 1 if there are
    any."""


def up(options: UpOptions) -> int:
    """Serve until stopped. Returns the exit code.

    Raises:
        ValueError: an address that would be open to others without keys, or options that cannot be.
    """
    settings, worker = prepare(options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if options.engine == "ray":
        try:
            from fw_serve import ray
        except ModuleNotFoundError as error:
            raise ValueError(f"--engine ray needs {error.name}: pip install 'fw-serve[ray]'") from error
        ray.run(settings, worker, scale_of(options), host=options.host, port=options.port)
        return 0

    from fw_serve.jobs.store import JobStore
    from fw_serve.supervisor import Supervisor

    store = JobStore(settings.database)
    supervisor = None if options.only == "api" else Supervisor(worker, store, list(options.device))
    if options.only == "workers":
        assert supervisor is not None
        supervisor.start()
        print(f"working with {options.checkpoint} on {', '.join(options.device)}", flush=True)
        until_stopped()
        supervisor.stop()
        store.close()
        return 0

    import uvicorn

    from fw_serve.api.app import create_app

    app = create_app(settings, store, supervisor)
    where = f"http://{options.host}:{options.port}"
    print(f"serving {options.checkpoint} at {where} (keys {'on' if settings.keys else 'off'})", flush=True)
    gc.freeze()  # what was imported stays for good: the collector need not look at it again
    uvicorn.run(app, host=options.host, port=options.port, **SERVER)
    store.close()
    return 0


def prepare(options: UpOptions) -> tuple[Settings, WorkerSettings]:
    """What the parts of the service need, from what the operator wrote; makes the data folder and the tables.

    Raises:
        ValueError: an address that would be open to others without keys, or options that cannot be.
    """
    from fw_serve.jobs.keys import KeyRing
    from fw_serve.jobs.store import JobStore

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
