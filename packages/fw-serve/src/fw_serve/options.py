"""The options of the `fw-serve` commands, apart from the code they start, so that `--help` answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fw_model.checkpoints.shipped import SMALL_WORLD


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


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """List the API keys and their limits."""

    data: Path = Path("fw-serve-data")
    """The data folder of `fw-serve up`."""
    database: str | None = None
    """The database of `fw-serve up`, if it has one of its own."""


@dataclass(frozen=True, kw_only=True)
class KeyAddOptions(KeyOptions):
    """Create an API key. It is shown once and stored as a digest."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Name of the key's owner, a person or a program."""
    per_minute: int = 30
    """Worlds that its owner may ask for within a minute."""
    max_queued: int = 8
    """Jobs of its owner that may wait at once."""


@dataclass(frozen=True, kw_only=True)
class KeyRevokeOptions(KeyOptions):
    """Revoke an API key."""

    id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")]
    """Id of the key, as `fw-serve key list` shows it."""
