"""`fw generate`: generate a world from an image, a prompt and a camera path.

The output folder holds the video, the depth video, the point cloud and the cameras.
"""

import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fw_app.example_images import domain_note, resolve_image
from fw_app.options import GenerateOptions
from fw_app.progress import show
from fw_core.files import file_and_scale, make_writable
from fw_geometry.clip_shape import longest_num_frames
from fw_geometry.continuation import total_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch

    from fw_geometry import Trajectory
    from fw_model.parallel.group import WorldGroup
    from fw_model.pipeline.pipeline import WorldPipeline
    from fw_model.pipeline.result import Progress, Seam, World
    from fw_model.pipeline.settings import GenerationSettings


def resolve_trajectory(
    name: str,
    *,
    num_frames: int,
    height: int,
    width: int,
    angle_deg: float | None = None,
    distance: float | None = None,
    notes: list[str] | None = None,
) -> "Trajectory":
    """A preset by name, or the cameras of a file, for `num_frames` frames of height x width pixels.

    The unit of length is the mean distance of the scene from the first camera, as in training. `notes` receives notes
    about the file. Raises ValueError for an unknown preset or an unknown file format.
    """
    from fw_geometry import PRESETS, make_trajectory
    from fw_geometry.formats import read_trajectory

    if name in PRESETS:
        angle_rad = None if angle_deg is None else math.radians(angle_deg)
        return make_trajectory(name, num_frames, width=width, height=height, angle_rad=angle_rad, distance=distance)
    path, camera = Path(name), None
    if not path.exists() and "#" in name:  # FILE#CAMERA: one camera of a file with several
        path, camera = Path(name.rpartition("#")[0]), name.rpartition("#")[2]
    if not path.exists():
        raise ValueError(
            f"--trajectory {name!r} is neither a preset ({', '.join(PRESETS)}) nor an existing file or folder"
        )
    if angle_deg is not None or distance is not None:
        raise ValueError("--angle-deg and --distance apply to presets only, not to a camera file; remove them")
    return read_trajectory(path, width=width, height=height, camera=camera, notes=notes)


def parse_lora(text: str) -> tuple[Path, float]:
    """FILE or FILE:SCALE of --lora as file and scale; see `file_and_scale`."""
    try:
        return file_and_scale(text)
    except ValueError as error:
        raise ValueError(f"--lora {text}: {error}") from None


def generate(options: GenerateOptions) -> "World | None":
    """Generate a world on this machine, write it to `options.out`, print progress, and return it.

    Of several processes (torchrun), the first does this; the others help, and return None.
    """
    group = join_processes(options)
    if group is not None and not group.is_leader:
        load_pipeline(options, free_encoders=True, group=group).follow()
        return None
    if options.segments < 1:
        raise ValueError(f"--segments is {options.segments}; it must be at least 1")
    inputs = read_inputs(options)
    make_writable(options.out)
    pipeline = load_pipeline(options, free_encoders=True, group=group)
    if pipeline.trained_on and inputs.file == options.image:
        print(domain_note(pipeline.trained_on))
    known, reports = start(pipeline, options, inputs)
    world = show(reports)
    for note in world.notes[len(known) :]:
        print(f"note: {note}")
    for name in write(world, options.out):
        print(f"  {options.out / name}")
    for seam in world.seams:
        print(seam_line(seam))
    print(f"world of {len(world.video)} frames written to {options.out}")
    return world


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Images and prompt of one world."""

    file: Path
    """File of the first frame."""
    image: "np.ndarray"
    """First frame, uint8 [h, w, 3]."""
    last_image: "np.ndarray | None"
    """Last frame."""
    prompt: str
    """Description of the world."""
    notes: tuple[str, ...]
    """Changes that reading the images made."""


def read_inputs(options: GenerateOptions) -> Inputs:
    """Read the images, and print notes about them. ValueError or OSError names an unreadable file."""
    from fw_core.images import read_image

    assert options.image is not None
    file, prompt = resolve_image(options.image, options.prompt)
    image, last_image = (None if path is None else read_image(path) for path in (file, options.last_image))
    assert image is not None
    notes = []
    for name, path, read in (("image", file, image), ("last_image", options.last_image, last_image)):
        for note in () if read is None else read.notes:
            print(f"{path}: {note}")
            notes.append(f"{name}: {note}")
    return Inputs(
        file=file,
        image=image.rgb,
        last_image=None if last_image is None else last_image.rgb,
        prompt=prompt,
        notes=tuple(notes),
    )


def join_processes(options: GenerateOptions) -> "WorldGroup | None":
    """This process's group of those that make one world together; None if each works alone.

    Raises:
        ValueError: --parallel without torchrun, or not a divisor of the number of processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    size = options.parallel or (1 if options.batch else processes)
    if processes % size:
        raise ValueError(
            f"--parallel {size} does not divide the number of processes, {processes}; start the command "
            f"with torchrun --nproc-per-node N, N a multiple of {size}"
        )
    if size == 1:
        return None
    from fw_model.parallel.group import WorldGroup

    return WorldGroup(size, device=_device(options))


def _device(options: GenerateOptions) -> "torch.device":
    """The device of this process; under torchrun each has a GPU of its own."""
    from fw_core.devices import choose_device

    return choose_device(options.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))


def load_pipeline(
    options: GenerateOptions, *, free_encoders: bool, group: "WorldGroup | None" = None
) -> "WorldPipeline":
    """Load the checkpoint and its LoRAs; followers of a group print nothing."""
    import torch

    from fw_model.pipeline.pipeline import WorldPipeline

    show = print if group is None or group.is_leader else lambda _text: None
    loras = [parse_lora(text) for text in options.lora]
    pipeline = WorldPipeline.from_pretrained(
        options.checkpoint,
        device=_device(options),
        dtype=None if options.dtype is None else getattr(torch, options.dtype),
        offload=options.offload,
        weights=options.weights,
        free_encoders=free_encoders,
        parallel=group,
    )
    for path, scale in loras:
        for loaded in pipeline.load_lora(path, scale):
            show(f"LoRA {loaded.name}: {loaded.layers} layers, {loaded.layout} layout, scale {loaded.scale:g}")
    if (unit := unit_note(options.checkpoint)) is not None:
        show(f"note: {unit}")
    if not pipeline.follows_camera:
        show(
            f"note: {options.checkpoint} has no trained camera control (`fw-train stage2` trains it), so the video "
            "does not follow --trajectory"
        )
    return pipeline


@cache
def unit_note(checkpoint: str) -> str | None:
    """What a user has to know about lengths if they are not mean distances of the first frame; None otherwise."""
    from fw_model.checkpoints.sources import local_folder
    from fw_train.config.preflight import ALL_FRAMES, history

    stages = history(local_folder(checkpoint))
    if not stages or stages[-1].get("scene_unit") != ALL_FRAMES:
        return None
    return (
        "lengths of this model are mean distances of all frames, not of the first one: "
        "give the camera path and --scene-scale in that unit"
    )


def resolve(
    pipeline: "WorldPipeline", options: GenerateOptions, inputs: Inputs
) -> "tuple[tuple[str, ...], Trajectory, GenerationSettings]":
    """Notes on the inputs, camera path and settings of a generation; prints notes about the camera file.

    `World.notes` begins with the notes.
    """
    settings, segments = options.settings, options.segments
    shape = settings.sampling(pipeline.sampling)
    of_camera: list[str] = []
    trajectory = resolve_trajectory(
        options.trajectory,
        num_frames=total_frames(shape.num_frames, segments),
        height=shape.height,
        width=shape.width,
        angle_deg=options.angle_deg,
        distance=options.distance,
        notes=of_camera,
    )
    for note in of_camera:
        print(f"{options.trajectory}: {note}")
    unit = unit_note(options.checkpoint)
    notes = (*inputs.notes, *(f"trajectory: {note}" for note in of_camera), *([unit] if unit else []))
    if settings.num_frames is None:
        most = (len(trajectory) - 1) // segments + 1
        settings = settings.updated(num_frames=longest_num_frames(min(shape.num_frames, most)))
    return notes, trajectory, settings


def start(
    pipeline: "WorldPipeline", options: GenerateOptions, inputs: Inputs
) -> "tuple[tuple[str, ...], Iterator[Progress]]":
    """Check everything, and return the notes on the inputs and the reports.

    The generation runs as the reports are taken.
    """
    notes, trajectory, settings = resolve(pipeline, options, inputs)
    if options.segments == 1:
        return notes, pipeline.generate(
            inputs.image, inputs.prompt, trajectory, settings, last_image=inputs.last_image, notes=notes
        )
    from fw_model.segments.generate import generate_segments

    return notes, generate_segments(
        pipeline,
        inputs.image,
        inputs.prompt,
        trajectory,
        settings,
        segments=options.segments,
        folder=options.out,
        last_image=inputs.last_image,
        notes=notes,
    )


def seam_line(seam: "Seam") -> str:
    """One seam of a long world, for people."""
    share = "" if seam.translation_share is None else f" and {100 * seam.translation_share:.1f} % of the path"
    return (
        f"seam at frame {seam.frame}: overlap PSNR {seam.overlap_psnr_db:.1f} dB, scale x {seam.scale:.3f}, "
        f"depth AbsRel {seam.depth_abs_rel:.3f}, pose jump {seam.rotation_deg:.2f} degrees{share}"
    )


def write(world: "World", out: Path) -> list[str]:
    """Write a world into a folder; returns the names in it."""
    from fw_model.export import export_world

    return sorted({path.relative_to(out).parts[0] for path in export_world(world, out)})
