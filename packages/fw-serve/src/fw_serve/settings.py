"""Settings of the service and its workers, which `fw-serve up` fills from its options."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

EXIT_OUT_OF_MEMORY = 4
"""Exit code of a process of a worker whose device has too little memory for the job."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of requests."""

    queue: int = 64
    """Maximum number of queued jobs; further ones are refused with status 429."""
    upload_bytes: int = 25_000_000
    """Maximum size of a request body."""
    json_bytes: int = 1_000_000
    """Maximum size of a JSON body, not counting the data: URL of an image."""
    buffered_bytes: int = 100_000_000
    """Maximum size of the request bodies of one key that are held at once."""
    creating: int = 16
    """Maximum number of creations of one key that are processed at once."""
    frames: int | None = None
    """Maximum number of frames; None is the length that the model was trained for."""
    pixels: int | None = None
    """Maximum pixels per frame; None is the size that the model was trained for."""
    steps: int = 100
    """Maximum number of denoising steps."""
    event_streams: int = 256
    """Maximum number of open event streams."""
    own_streams: int = 16
    """Maximum number of open event streams of one key."""
    free_bytes: int = 500_000_000
    """Creations are refused with status 507 if the data folder has less free space."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the service."""

    data: Path
    """Folder of inputs and results."""
    database: str
    """sqlite:///FILE or postgresql+psycopg://..."""
    keys: bool = False
    """Whether requests need an API key."""
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Host headers to accept without API keys, as protection against DNS rebinding."""
    fetch_hosts: tuple[str, ...] = ()
    """Hosts that images may be fetched from."""
    limits: Limits = field(default_factory=Limits)
    """Limits of requests."""
    keep_s: float | None = 7 * 86400.0
    """Seconds to keep finished jobs; None keeps them forever."""
    purge_s: float = 86400.0
    """Seconds to remember the idempotency key of a deleted job."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may call the API (CORS)."""
    root_path: str = ""
    """Path prefix that a proxy does not strip."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts that webhooks may name."""
    webhook_secret: str = field(default="", repr=False)
    """Key of the signatures of webhooks."""
    artifacts: str | None = None
    """URL of object storage for results; None keeps them in the data folder."""
    access_log: Literal["off", "json", "text"] = "off"
    """Format of the access log."""
    max_attempts: int = 3
    """A job fails after its worker has died this many times."""
    decoders: int = 2
    """Number of processes that decode images."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Settings of a worker; sent as JSON, so plain values only."""

    database: str
    """URL of the job store."""
    data: str
    """Folder of inputs and results."""
    name: str
    """Name of the worker in the store."""
    engine: str = "fw_serve.worker.world_engine:load"
    """MODULE:FUNCTION that returns a `JobEngine`; called with `options`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the engine: checkpoint, device, dtype, offload, loras."""
    devices: tuple[str, ...] = ()
    """Devices of the processes that generate each job together; empty: one process, on the device in `options`."""
    rank: int = 0
    """Number of this process among them; the first one takes the jobs, the others follow it."""
    rendezvous: str = ""
    """File over which they find each other; empty if there is one process."""
    order: int = 0
    """Position of the model among those of the service; the first is the default of requests."""
    artifacts: str | None = None
    """URL of object storage for results; None keeps them in the data folder."""
    lease_s: float = 20.0
    """A job goes to another worker if its worker sends no heartbeat for this long."""
    job_timeout_s: float | None = 3600.0
    """A job that takes longer fails, and its worker is replaced; None is no limit."""
    keep_s: float | None = 7 * 86400.0
    """Seconds to keep finished jobs."""
    poll_s: float = 0.2
    """Seconds between queries of an idle worker."""
    max_attempts: int = 3
    """A job fails after its worker has died this many times."""
    stop_s: float = 15.0
    """Seconds to finish the current step when the service stops; then the worker is killed, and its job is requeued."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Number and size of replicas on a Ray cluster."""

    workers: int = 1
    """Replicas that hold a model."""
    replicas: int = 1
    """Replicas that answer requests."""
    cpus_per_worker: float = 1.0
    """CPUs of each worker."""
    gpus_per_worker: float | None = None
    """GPUs of each worker; a fraction lets several share one. None is one per process if the cluster has any."""
    parallel: int = 1
    """Processes of each worker, which generate each job together on one node."""
