"""`fw generate`: one image, a prompt and a camera path in; a world out.

The camera path is a preset name (`orbit`, `dolly`, ...) or a file: the released camera JSON, a RealEstate10K text file
or a nerfstudio transforms.json. The result folder holds the video, the depth video, the point cloud and the cameras.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from fw_model.checkpoints.shipped import SMALL_WORLD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fw_geometry import Trajectory
    from fw_model.pipeline.result import Progress, World


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
    """What the world shows, in words."""
    frames: int | None = None
    """Number of frames, 4n+1. Left out, the checkpoint's own clip length."""
    size: str | None = None
    """Height x width in pixels, for example 64x96; both divisible by 16. Left out, the checkpoint's own size."""
    steps: int | None = None
    """Denoising steps. Left out, the checkpoint's default."""
    guidance: float | None = None
    """Classifier-free guidance on the text; 1 turns it off. Left out, the checkpoint's default."""
    seed: int = 0
    """Seed of the noise: the same seed gives the same world on every device."""
    end_image: Path | None = None
    """The last frame, for models that take one (Wan2.2)."""
    scene_scale: float = 1.0
    """Mean distance of what the image shows, in the unit of the cameras of a file; presets are in that distance."""
    sampler: Literal["euler", "unipc"] | None = None
    """Left out, the checkpoint's default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the transformer. Left out, that of the checkpoint's file."""
    offload: Literal["none", "model", "block"] = "none"
    """What lies on the device only while it is used: nothing, each large part, or each transformer block."""
    easycache: float | None = None
    """Reuse steps that would change little, up to this accumulated relative change (for example 0.05): faster, and
    slightly different."""


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of a text like `64x96`. Raises ValueError with an example otherwise."""
    height, cross, width = text.lower().partition("x")
    if not cross or not height.isdigit() or not width.isdigit():
        raise ValueError(f"--size {text!r} is not HEIGHTxWIDTH: write for example --size 64x96")
    return int(height), int(width)


def resolve_trajectory(
    name: str,
    *,
    frames: int,
    height: int,
    width: int,
    angle_deg: float | None = None,
    distance: float | None = None,
) -> "Trajectory":
    """A preset by name, or the cameras of a file, for `frames` frames of height x width pixels.

    The unit of length is the mean distance of the scene from the first camera, as in training. Raises ValueError for an
    unknown preset or a file of an unknown kind, naming what would be accepted.
    """
    from fw_geometry import PRESETS, make_trajectory

    if name in PRESETS:
        angle_rad = None if angle_deg is None else math.radians(angle_deg)
        return make_trajectory(name, frames, width=width, height=height, angle_rad=angle_rad, distance=distance)
    path = Path(name)
    if not path.exists():
        raise ValueError(
            f"--trajectory {name!r} is neither a preset ({', '.join(sorted(PRESETS))}) nor a file or folder that exists"
        )
    if angle_deg is not None or distance is not None:
        raise ValueError("--angle-deg and --distance shape a preset; a file already says how far the camera moves")
    return read_trajectory_file(path, width=width, height=height)


def read_trajectory_file(path: Path, *, width: int, height: int) -> "Trajectory":
    """Cameras of a file or COLMAP folder, for pictures that are resized to cover width x height and centre-cropped.

    Raises ValueError for a file of an unknown kind.
    """
    from fw_geometry import formats

    if path.is_dir():
        return _fitted(formats.read_colmap(path).trajectory, width=width, height=height)
    if path.suffix == ".txt":
        return formats.read_realestate10k(path, width=width, height=height).trajectory
    if path.suffix == ".json":
        if '"cameras_interp"' in path.read_text():
            return formats.read_camera_json(path, width=width, height=height)
        return _fitted(formats.read_transforms_json(path).trajectory, width=width, height=height)
    raise ValueError(
        f"{path}: cameras come as a .json (released layout or nerfstudio transforms), a RealEstate10K .txt, or a "
        "COLMAP folder"
    )


def _fitted(trajectory: "Trajectory", *, width: int, height: int) -> "Trajectory":
    scale = max(width / trajectory.width, height / trajectory.height)
    covering = trajectory.resized(
        max(width, round(trajectory.width * scale)), max(height, round(trajectory.height * scale))
    )
    left, top = (covering.width - width) / 2, (covering.height - height) / 2
    return covering.cropped(left, top, width, height)


def main(argv: list[str]) -> int:
    """`fw generate`: make the world, write it, and end with the line that says where it is."""
    options = tyro.cli(GenerateOptions, prog="fw generate", args=argv)
    if options.server is None:
        generate(options)
    else:
        from fw_app.remote import generate_remotely

        generate_remotely(options)
    return 0


def generate(options: GenerateOptions) -> "World":
    """Make the world that `options` describe, write it to `options.out`, print progress, and return it."""
    import torch

    from fw_model.export import export_world
    from fw_model.pipeline.pipeline import WorldPipeline

    pipeline = WorldPipeline.from_pretrained(
        options.checkpoint,
        device=choose_device(options.device),
        dtype=None if options.dtype is None else getattr(torch, options.dtype),
        offload=options.offload,
        free_encoders=True,
    )
    height, width = parse_size(options.size) if options.size else (pipeline.height, pipeline.width)
    trajectory = resolve_trajectory(
        options.trajectory,
        frames=pipeline.frames if options.frames is None else options.frames,
        height=height,
        width=width,
        angle_deg=options.angle_deg,
        distance=options.distance,
    )
    reports = pipeline.generate(
        options.image,
        options.prompt,
        trajectory,
        frames=options.frames or min(pipeline.frames, len(trajectory)),
        steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
        end_image=options.end_image,
        scene_scale=options.scene_scale,
        sampler=options.sampler,
        easycache=options.easycache,
    )
    world = _show(reports)
    written = export_world(world, options.out)
    for name in sorted({path.relative_to(options.out).parts[0] for path in written}):
        print(f"  {options.out / name}")
    print(f"world of {len(world.video)} frames written to {options.out}")
    return world


def _show(reports: "Iterator[Progress]") -> "World":
    """Follow a generation to its end: a bar on a terminal, one line per stage elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    world, stage = None, ""
    columns = (TextColumn("{task.description:8}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("start", total=None)
        for report in reports:
            if report.stage != stage:
                stage = report.stage
                bar.reset(task, total=report.steps, description=stage)
                if not console.is_terminal:
                    print(f"{stage}: {report.steps} steps", flush=True)
            bar.update(task, completed=report.step)
            world = report.world or world
    assert world is not None, "a generation ends with a world"
    return world


def choose_device(name: str) -> str:
    """The device a name means: `auto` is the first GPU, else the CPU."""
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
