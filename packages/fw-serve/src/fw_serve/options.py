"""Options of the `fw-serve` commands. They import no torch, so that `--help` is fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fw_model.checkpoints.shipped import SMALL_WORLD


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """Serve worlds over HTTP."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")] = SMALL_WORLD
    """A folder written by fw-train (its export/) or by WorldPipeline.save, or the hub id (owner/name) of one. Default:
    the small weights in the package, which know rendered rooms only, at 144x96."""
    host: str = "127.0.0.1"
    """Address to listen on. Addresses other than loopback require API keys (fw-serve key add)."""
    port: int = 8000
    """Port to listen on."""
    data: Path = Path("fw-serve-data")
    """Folder of jobs, inputs and results; created if missing."""
    database: str | None = None
    """postgresql://USER@HOST/NAME for several replicas that share jobs and the data folder. Default: SQLite in the data
    folder. The environment variable FW_SERVE_DATABASE keeps a password out of the process list."""
    keys: Literal["auto", "on", "off"] = "auto"
    """Whether requests need an API key. auto: yes if a key exists or the address is not loopback."""
    name: str | None = None
    """Name of the model in the API. Default: from the preset of the checkpoint."""
    model: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Another model to serve, as NAME=CHECKPOINT; a request chooses it with `model`. Each model has one worker per
    device. Repeat the option for several."""
    lora: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A LoRA that requests may choose with `lora`, as NAME=FILE or NAME=FILE:SCALE. Repeat the option for several."""
    device: tuple[str, ...] = ("auto",)
    """Devices, one worker each (with --parallel N, one worker for every N): auto, cpu, cuda:0, cuda:1, mps."""
    parallel: int = 1
    """Number of processes, each on its own device, that make one world together: half of them each pass of guidance,
    and each half divides the tokens. A single --device auto, cuda or cpu stands for all of them; auto needs CUDA."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the transformer. Default: that of the checkpoint."""
    offload: Literal["none", "model", "block"] = "none"
    """Parts to move to the device only while they are used: none, each large part, or each transformer block."""
    compile_blocks: bool = False
    """Compile the transformer blocks: faster after a slow first job."""
    queue: int = 64
    """Maximum number of queued jobs; further ones are refused with status 429."""
    max_frames: int | None = None
    """Maximum number of frames. Default: the length that the model was trained for."""
    max_pixels: int | None = None
    """Maximum pixels per frame. Default: the size that the model was trained for."""
    max_steps: int = 100
    """Maximum number of denoising steps."""
    max_upload_mb: int = 25
    """Maximum size of a request, in MB."""
    max_connections: int = 512
    """Maximum number of open connections per client address; 0 is no limit. Behind a proxy, all clients share its
    address."""
    min_free_mb: int = 500
    """Creations are refused with status 507 if the data folder has less free space than this, in MB."""
    job_timeout_s: float = 3600.0
    """A job that takes longer fails, and its worker is restarted; 0 is no limit."""
    max_attempts: int = 3
    """A job fails after its worker has died this many times. Stops by the operator do not count."""
    stop_s: float = 15.0
    """Seconds that a worker may take to finish its step when the service stops; its job is requeued either way."""
    lease_s: float = 20.0
    """A job goes to another worker if its worker sends no heartbeat for this long."""
    keep_hours: float = 168.0
    """Finished jobs and their files are removed after this time; 0 keeps them forever."""
    fetch_host: tuple[str, ...] = ()
    """Hosts that input_reference.image_url may name, such as images.example.org or *.example.org. Default: none."""
    allowed_host: tuple[str, ...] = ()
    """Additional Host headers to accept without API keys, such as a name in /etc/hosts."""
    allow_origin: tuple[str, ...] = ()
    """Origins whose pages may call the API from a browser (CORS), such as https://app.example.org. Default: none."""
    root_path: str = ""
    """Path prefix under which a proxy serves the service, such as /worlds, if the proxy does not strip it."""
    webhook_host: tuple[str, ...] = ()
    """Hosts that a request's `webhook` may name, such as hooks.example.org. Default: none. The environment variable
    FW_SERVE_WEBHOOK_SECRET holds the key of the signatures."""
    artifacts: str | None = None
    """URL of object storage for results, such as s3://bucket/worlds, read and written with fsspec. Default: the data
    folder."""
    access_log: Literal["off", "json", "text"] = "off"
    """Log every request to standard error, as JSON lines or as text."""
    traces: bool = False
    """Send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT; needs fw-serve[otel]."""
    only: Literal["api", "workers"] | None = None
    """Run one half of the service: answer requests without a model, or run models without an API. Start the other half
    elsewhere with the same database and data folder."""
    engine: Literal["local", "ray"] = "local"
    """local: processes on this machine. ray: replicas on the Ray cluster in RAY_ADDRESS, or on a new local cluster."""
    workers: int | None = None
    """With --engine ray: worker processes per model. Default: 1."""
    replicas: int | None = None
    """With --engine ray: processes that answer requests. Default: 1."""
    cpus_per_worker: float | None = None
    """With --engine ray: CPUs per worker. Default: 1."""
    gpus_per_worker: float | None = None
    """With --engine ray: GPUs per worker; a fraction lets several workers share one. Default: 1, or --parallel, if
    there are any."""


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """List the API keys and their limits."""

    data: Path = Path("fw-serve-data")
    """The data folder of `fw-serve up`."""
    database: str | None = None
    """The database of `fw-serve up`, if not SQLite in the data folder."""


@dataclass(frozen=True, kw_only=True)
class KeyAddOptions(KeyOptions):
    """Create an API key. It is shown once and stored as a digest."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Name of the key's owner, a person or a program."""
    per_minute: int = 30
    """Maximum number of worlds that the owner may request per minute."""
    max_queued: int = 8
    """Maximum number of queued jobs of the owner."""
    max_priority: int = 0
    """Highest `priority` that the owner may request; jobs of higher priority run first."""
    max_disk_mb: int | None = None
    """Maximum size of all files of the owner's worlds. Default: no limit."""


@dataclass(frozen=True, kw_only=True)
class KeyRevokeOptions(KeyOptions):
    """Revoke an API key."""

    id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")]
    """Id of the key, as `fw-serve key list` shows it."""
