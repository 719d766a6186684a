"""The options of every `fw` command, apart from the code they start, so that `--help` answers at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from fw_model.checkpoints.shipped import SMALL_WORLD
from fw_model.pipeline.settings import GenerationSettings


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Say whether this machine can run the main job, and what is missing and how to get it."""

    json: bool = False
    """Print the checks as one JSON document instead of a table."""
    out: Path = Path()
    """The folder that runs will write to: its disk is the one that is checked."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Run everything once at a small size: toy videos, annotate, train, generate, report."""

    out: Path = Path("demo")
    """The folder everything is written to."""
    clips: int = 5
    """Toy videos to render and annotate."""
    base_steps: int = 40
    """Steps of the small video prior, which is then frozen."""
    stage1_steps: int = 20
    """Steps of stage 1 (geometry branch)."""
    stage2_steps: int = 20
    """Steps of stage 2 (coupling and camera)."""
    seed: int = 0
    """Seed of the scenes, the training and the generated world."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Make a world (video, depth, points, cameras) from an image, a prompt and a camera path."""

    image: tyro.conf.Positional[Path]
    """The first frame: any picture that Pillow reads. It is resized and centre-cropped to the clip's size."""
    checkpoint: str = SMALL_WORLD
    """A folder written by fw-train (its export/) or by WorldPipeline.save, or the hub id (owner/name) of one. Left out,
    the small weights that come with the package: toy scenes at 64x96."""
    server: str | None = None
    """Let a server (fw-serve up) make the world, for example http://127.0.0.1:8000. An API key is read from the
    environment variable FW_API_KEY."""
    out: Path
    """The folder the world is written to."""
    trajectory: str = "orbit"
    """A preset (orbit, dolly, truck, pedestal, pan, tilt, roll, spiral, still), or cameras of your own: the released
    .json, a nerfstudio transforms.json, a RealEstate10K .txt, or a COLMAP folder."""
    angle_deg: float | None = None
    """How far a turning preset (orbit, pan, tilt, roll, spiral) turns in all. Left out, the preset's default."""
    distance: float | None = None
    """How far a moving preset (dolly, truck, pedestal, spiral) goes, in mean scene distances. Left out, its default."""
    prompt: str = ""
    """Text that describes the world."""
    last_image: Path | None = None
    """The last frame, for models that take one (Wan2.2)."""
    settings: tyro.conf.OmitArgPrefixes[GenerationSettings] = field(default_factory=GenerationSettings)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the transformer. Left out, that of the checkpoint's file."""
    offload: Literal["none", "model", "block"] = "none"
    """What lies on the device only while it is used: nothing, each large part, or each transformer block."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Show a clip of a dataset, or the folder that `fw generate` wrote, in the browser until Ctrl-C."""

    source: tyro.conf.Positional[Path]
    """A dataset of `fw-data annotate`, or the --out of `fw generate`."""
    clip: str = "0"
    """Dataset: number or id of the clip."""
    port: int = 8080
    """Where to serve the page; the next free one if it is taken."""
    host: str = "127.0.0.1"
    """Address to serve on; 0.0.0.0 lets other machines look."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Turn a published .pth (released FantasyWorld, Wan VAE, UMT5, CLIP) into safetensors."""

    source: tyro.conf.Positional[Path]
    """The .pth, .pt, .bin or .safetensors file. What it is, is told by its tensor names."""
    folder: tyro.conf.Positional[Path]
    """The folder to write."""
