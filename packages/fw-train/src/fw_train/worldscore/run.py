"""`fw-train worldscore`: generate the static subset of WorldScore in the layout of its evaluation, and check it."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from fw_geometry import Trajectory, invert_poses
from fw_geometry.clip_shape import check_clip_shape
from fw_model.export import write_video
from fw_model.pipeline.inputs import prepare_image
from fw_model.pipeline.pipeline import WorldPipeline
from fw_train.config.schema import ConfigError
from fw_train.evaluate.checkpoint import Checkpoint, Say, chosen_size, open_checkpoint
from fw_train.evaluate.evaluation import Plain
from fw_train.evaluate.generation import finish, is_made, noise_seed, with_files
from fw_train.evaluate.options import WorldScoreOptions
from fw_train.worldscore.format import (
    CAMERAS,
    FRAMES,
    IMAGE,
    INPUT,
    VIDEO,
    BenchmarkImage,
    camera_data,
    camera_path,
    find_incomplete,
    image_data,
    read_images,
)
from fw_train.worldscore.measures import measure_movement, summary, write_measures

BENCHMARK_FOCAL = 500 / 512
"""Focal length that the benchmark assumes in its camera and 3D metrics: 500 pixels at 512 x 512."""
_LISTED = 10


def run(options: WorldScoreOptions, say: Say = print) -> int:
    """Generate missing results, or only check existing ones; returns the exit code.

    Raises:
        ConfigError: invalid dataset, checkpoint, sizes or existing results; nothing was generated.
    """
    entries = read_images(options.dataset, style=options.style, limit=options.limit)
    if options.check:
        return check(options.out, entries, say)
    if options.checkpoint is None:
        raise ConfigError("--checkpoint is missing; give it to generate results, or --check to check existing ones")
    if not (options.focal_px is None or options.focal_px > 0) or not options.unit > 0:
        raise ConfigError(f"--focal-px is {options.focal_px} and --unit is {options.unit}; both must be above 0")
    absent = [entry.image for entry in entries if not (options.dataset / entry.image).is_file()]
    if absent:
        raise ConfigError(f"{options.dataset}: {len(absent)} images of the list are missing, first {absent[0]}")
    checkpoint = open_checkpoint(options.checkpoint)
    settings = _settings(options, checkpoint)
    made = [p for p in entries if is_made(options.out / p.place, {**settings, "image": p.image})]
    for entry in made:
        if find_incomplete(options.out / entry.place):
            say(f"{entry.place}: {find_incomplete(options.out / entry.place)}; generating it again")
            shutil.rmtree(options.out / entry.place)
    missing = [entry for entry in entries if not (options.out / entry.place).is_dir()]
    say(f"worldscore: {len(entries)} images, {len(entries) - len(missing)} exist")
    pipeline = checkpoint.pipeline(options.device, options.dtype) if missing else None
    for number, entry in enumerate(missing, start=1):
        assert pipeline is not None
        say(f"[{number}/{len(missing)}] {entry.image}: {', '.join(entry.camera_path)}")
        _generate(pipeline, entry, options, settings, say)
    _write_model_config(options, settings, checkpoint)
    for line in summary([options.out / entry.place for entry in entries]):
        say(line)
    return check(options.out, entries, say)


def check(out: Path, entries: list[BenchmarkImage], say: Say = print) -> int:
    """Print the incomplete images; returns 0 if all are complete, else 1."""
    missing = {entry.place: reason for entry in entries if (reason := find_incomplete(out / entry.place))}
    for place, reason in list(missing.items())[:_LISTED]:
        say(f"{place}: {reason}")
    if len(missing) > _LISTED:
        say(f"... and {len(missing) - _LISTED} more")
    say(f"worldscore: {len(entries) - len(missing)} of {len(entries)} images are complete in {out}")
    return 1 if missing else 0


def _settings(options: WorldScoreOptions, checkpoint: Checkpoint) -> dict[str, Plain]:
    sampling = checkpoint.sampling
    height, width = chosen_size(options.size, sampling)
    frames = sampling.num_frames if options.frames is None else options.frames
    try:
        check_clip_shape(frames, height, width)
    except ValueError as error:
        raise ConfigError(f"--frames, --size: {error}") from None
    if frames < 2:
        raise ConfigError("--frames is 1; it must be 5 or more")
    return {
        "model": checkpoint.model,
        "weights": checkpoint.fingerprint,
        "frames": frames,
        "height": height,
        "width": width,
        "steps": sampling.num_inference_steps if options.steps is None else options.steps,
        "guidance": sampling.guidance_scale if options.guidance is None else options.guidance,
        "seed": options.seed,
        "focal_px": BENCHMARK_FOCAL * min(height, width) if options.focal_px is None else options.focal_px,
        "unit": options.unit,
        "dtype": options.dtype,
    }


def _generate(
    pipeline: WorldPipeline, entry: BenchmarkImage, options: WorldScoreOptions, settings: dict[str, Plain], say: Say
) -> None:
    """Generate one image's video; each movement starts at the last frame of the one before, as in the benchmark."""
    frames, height, width = (int(settings[name] or 0) for name in ("frames", "height", "width"))
    focal_px = float(settings["focal_px"] or 0)
    poses = camera_path(entry.camera_path, frames)
    first = _input(options.dataset / entry.image, height, width)
    video = first[None]
    measures: list[dict[str, float | None]] = []
    for index, prompt in enumerate(entry.prompts()):
        part = poses[index * (frames - 1) : (index + 1) * (frames - 1) + 1]
        reports = pipeline.generate(
            video[-1],
            prompt,
            _trajectory(part, focal_px, height, width),
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            seed=noise_seed(options.seed, entry.image, index),
            scene_scale=1 / options.unit,
        )
        world = finish(reports, f"  {entry.camera_path[index]}", say)
        measures.append(measure_movement(world))
        # the first generated frame repeats the input; keep it for the first movement only
        video = world.video if index == 0 else np.concatenate([video, world.video[1:]])

    def write(folder: Path) -> None:
        (folder / FRAMES).mkdir()
        for index, frame in enumerate(video):
            Image.fromarray(frame).save(folder / FRAMES / f"{index:03d}.png")
        write_video(folder / VIDEO, video, pipeline.sampling.fps)
        Image.fromarray(first).save(folder / INPUT)
        (folder / CAMERAS).write_text(json.dumps(camera_data(poses, frames, focal_px), indent=1) + "\n")
        (folder / IMAGE).write_text(json.dumps(image_data(entry, frames), indent=1) + "\n", encoding="utf-8")

        write_measures(folder, measures)

    with_files(options.out / entry.place, {**settings, "image": entry.image}, write)


def _trajectory(pose_c2w: np.ndarray, focal_px: float, height: int, width: int) -> Trajectory:
    """A part of the path relative to its first camera."""
    K = np.array([[focal_px, 0.0, width / 2], [0.0, focal_px, height / 2], [0.0, 0.0, 1.0]])
    return Trajectory(
        pose_c2w=invert_poses(pose_c2w[0]) @ pose_c2w,
        K=np.repeat(K[None], len(pose_c2w), axis=0),
        width=width,
        height=height,
    )


def _input(path: Path, height: int, width: int) -> np.ndarray:
    """Load an image at the output size: resized to cover it and center-cropped."""
    pixels = (prepare_image(path, height, width, "crop") + 1) * 127.5
    return pixels.round().byte().permute(1, 2, 0).contiguous().numpy()


def _write_model_config(options: WorldScoreOptions, settings: dict[str, Plain], checkpoint: Checkpoint) -> None:
    """Write the model description for config/model_configs of the benchmark."""
    lines = (
        f"model: {options.name}",
        f"runs_root: {options.out.resolve()}",
        f"resolution: [{settings['width']}, {settings['height']}]",
        "generate_type: i2v",
        f"frames: {settings['frames']}",
        f"fps: {checkpoint.sampling.fps:g}",
        f"focal_length: {settings['focal_px']:g}",
    )
    (options.out / f"{options.name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
