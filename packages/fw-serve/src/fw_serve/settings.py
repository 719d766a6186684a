"""Settings of the service and its workers, which `fw-serve up` fills from its options."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may be asked for."""

    queue: int = 64
    """Jobs that may wait; further ones are refused with 429."""
    upload_bytes: int = 25_000_000
    """Largest request body."""
    frames: int = 161
    """Longest clip."""
    pixels: int = 1280 * 720
    """Largest frame."""
    steps: int = 100
    """Most denoising steps."""
    event_streams: int = 64
    """Clients that may follow progress at once."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One service: its store, its files, and who may use it."""

    data: Path
    """Folder of inputs and results."""
    database: str
    """sqlite:///FILE or postgresql+psycopg://..."""
    keys: bool = False
    """Whether every request needs an API key."""
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Host headers that are answered where no keys are used, against pages that rebind their name to this machine."""
    fetch_hosts: tuple[str, ...] = ()
    """Hosts that images are fetched from; none by default."""
    limits: Limits = field(default_factory=Limits)
    """How much may be asked for."""
    keep_s: float | None = 7 * 86400.0
    """Seconds that a finished job is kept; None for ever."""
    purge_s: float = 86400.0
    """Seconds that a deleted job's idempotency key is remembered."""
    decoders: int = 2
    """Images that are decoded at once."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Settings of a worker; sent to it as JSON, so plain values only."""

    database: str
    """Where the jobs are."""
    data: str
    """Folder of inputs and results."""
    name: str
    """What it calls itself in the store."""
    engine: str = "fw_serve.worker.world_engine:load"
    """MODULE:FUNCTION that loads what makes worlds: called with `options`, gives an `JobEngine`."""
    options: dict[str, str | bool | None] = field(default_factory=dict)
    """For the engine: checkpoint, device, dtype, offload."""
    lease_s: float = 20.0
    """A job whose worker is silent for so long is given to another."""
    job_timeout_s: float | None = None
    """A job that takes longer fails, and its worker is replaced."""
    keep_s: float | None = 7 * 86400.0
    """Seconds that a finished job is kept."""
    poll_s: float = 0.2
    """An idle worker looks for jobs so often."""
    max_attempts: int = 2
    """A job whose worker dies is begun again until it was begun this often."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many replicas on a Ray cluster, and what each reserves."""

    workers: int = 1
    """Replicas that hold a model."""
    replicas: int = 1
    """Replicas that answer requests."""
    cpus_per_worker: float = 1.0
    """Processors of each worker."""
    gpus_per_worker: float | None = None
    """GPUs of each worker, a fraction where several share one; None for one if the cluster has any."""
