"""Options of the `fw` commands. They import no torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fw_geometry.trajectories import PRESETS
from fw_model.checkpoints.shipped import SMALL_WORLD
from fw_model.pipeline.settings import GenerationSettings


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Check whether this machine can annotate, train and generate, and how to install anything missing."""

    json: bool = False
    """Print the checks as one JSON document instead of a table."""
    out: Path = Path()
    """Folder that runs will write to; its disk is checked."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Run every step once at a small size: generate worlds, annotate toy videos, train, report."""

    out: Path = Path("demo")
    """Output folder."""
    clips: int = 5
    """Number of toy videos to render and annotate."""
    base_steps: int = 40
    """Training steps of the small video prior."""
    stage1_steps: int = 20
    """Training steps of stage 1 (geometry branch)."""
    stage2_steps: int = 20
    """Training steps of stage 2 (cross-branch attention and camera control)."""
    seed: int = 0
    """Seed of the scenes, the training and the generated world."""


_TURNING = ", ".join(preset.name for preset in PRESETS.values() if preset.angle_rad is not None)
_MOVING = ", ".join(preset.name for preset in PRESETS.values() if preset.distance is not None)
_TRAJECTORY = (
    f"A preset ({', '.join(PRESETS)}), or a camera file: the released .json, nerfstudio's transforms.json or "
    "camera_path.json, a COLMAP folder, text of RealEstate10K, TUM or KITTI, poses of VGGT, Depth Anything 3, ViPE, "
    "SpatialVID or ReCamMaster (FILE#CAMERA)."
)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Generate a world (video, depth, points, cameras) from an image, a prompt and a camera path."""

    image: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")] = None
    """The first frame; omit it with --batch. It is resized and center-cropped to the size of the clip. example:room-1
    to example:room-6 show rooms of the kind that the included weights were trained on."""
    checkpoint: str = SMALL_WORLD
    """A folder written by fw-train (its export/) or WorldPipeline.save, or the hub id (owner/name) of one. Default: the
    small weights in the package, which know rendered rooms only."""
    server: str | None = None
    """Generate on a server (fw-serve up), such as http://127.0.0.1:8000. The environment variable FW_API_KEY holds the
    API key."""
    out: Path
    """Output folder."""
    batch: Path | None = None
    """Generate many worlds instead of IMAGE: a JSONL or CSV file with one world per row. Keys: image, prompt,
    trajectory, name (folder in --out), seed and all other options of a generation. Flags are the defaults of all rows.
    Running the command again skips finished worlds. Under torchrun every process, or every group of --parallel
    processes, takes its share of the rows."""
    samples_per_pass: int = 1
    """Number of worlds of --batch that the transformer computes together, if they have the same size, length, noise
    levels, sampler and guidance. A pass that fails, such as for lack of memory, is repeated one world at a time. Above
    1, worlds change by rounding."""
    trajectory: Annotated[str, tyro.conf.arg(help=_TRAJECTORY)] = "orbit"
    angle_deg: Annotated[float | None, tyro.conf.arg(help=f"Total angle of a preset that turns ({_TURNING}).")] = None
    distance: Annotated[
        float | None,
        tyro.conf.arg(help=f"Distance of a preset that moves ({_MOVING}), in mean scene distances."),
    ] = None
    segments: int = 1
    """Number of clips of a long world. Each one starts at the last frame and camera of the one before it, in one frame
    and scale. --trajectory spans all of them: N * (num_frames - 1) + 1 frames. Finished segments are kept in
    OUT/segments; the same command continues after them. Segment k has the seed SEED + k."""
    prompt: str = ""
    """Text that describes the world."""
    last_image: Path | None = None
    """The last frame (of the last segment), for models that take one (Wan2.2)."""
    settings: tyro.conf.OmitArgPrefixes[GenerationSettings] = field(default_factory=GenerationSettings)
    lora: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A LoRA for the video branch, as FILE or FILE:SCALE (style.safetensors:0.8), in the layout of diffusers, PEFT,
    kohya, ComfyUI, DiffSynth or VideoX-Fun. Repeat the option for several."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps. auto uses a GPU if available."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the transformer. Default: that of the checkpoint."""
    weights: Literal["fp8", "int8"] | None = None
    """Store the matrices of the transformer's blocks in 8 bits, half the memory of bfloat16, and compute in --dtype
    (default: bfloat16). The world changes a little."""
    parallel: int | None = None
    """Number of processes, started by torchrun, that make one world together: half of them each pass of guidance, and
    each half divides the tokens. Default: all of them for IMAGE, 1 for --batch."""
    offload: Literal["none", "model", "block"] = "none"
    """Parts to move to the device only while they are used: none, each large part, or each transformer block."""


@dataclass(frozen=True, kw_only=True)
class PlanGenerateOptions:
    """Estimate the peak memory of `fw generate` and compare it with 24, 48 and 80 GB. A preset needs no download."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = SMALL_WORLD
    """A preset (wan21_fun_1_3b, wan21_i2v_14b, wan22_fun_a14b: both experts), a checkpoint folder, or a hub id."""
    num_frames: int | None = None
    """Number of frames, 4n + 1. Default: that of the model."""
    height: int | None = None
    """Height in pixels, a multiple of 16. Default: that of the model."""
    width: int | None = None
    """Width in pixels, a multiple of 16. Default: that of the model."""
    guidance_scale: float | None = None
    """1 plans without guidance, which needs one pass per step instead of two. Default: that of the model."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the transformer."""
    weights: Literal["fp8", "int8"] | None = None
    """Store the matrices of the blocks in 8 bits."""
    offload: Literal["none", "model", "block"] = "none"
    """Parts to move to the device only while they are used: none, each large part, or each transformer block."""
    parallel: int = 1
    """Number of processes that make one world together, each on its own GPU."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Show a clip of a dataset, or the output folder of `fw generate`, in the browser until Ctrl-C."""

    source: tyro.conf.Positional[Path]
    """A dataset of `fw-data annotate`, or the --out folder of `fw generate`."""
    clip: str = "0"
    """Number or id of the clip in a dataset."""
    port: int = 8080
    """Port of the page; if it is taken, the next free one."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 makes the page visible to other machines."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Convert a published .pth (released FantasyWorld, Wan VAE, UMT5, CLIP) to safetensors."""

    source: tyro.conf.Positional[Path]
    """The .pth, .pt, .bin or .safetensors file. Its tensor names identify the model."""
    folder: tyro.conf.Positional[Path]
    """Output folder."""
