"""Corruption table: `python -m benchmarks.measures` damages perfect worlds in known ways and takes every measure.

The perfect worlds are rooms with their true frames, depth and cameras. Each corruption names the measures that it must
worsen, and those that it must not change. Writes measures.json and measures.md into an output folder, and exits 1 if a
measure moves the wrong way. `--st-lpips-weights` adds ST-LPIPS.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from fw_core.tables import markdown
from fw_model.pipeline.result import World
from fw_toy.rooms.clip import HELD_OUT_WORLDS
from fw_train.evidence.clips import choose
from fw_train.evidence.levels import true_world
from fw_train.evidence.scores import camera_scores
from fw_train.metrics.measure import measure
from fw_train.metrics.measures import MEASURES, Better
from fw_train.metrics.progress import progress
from fw_train.metrics.st_lpips import StLpips, read_weights
from fw_train.metrics.truth import TruthClip

SHAPE = (17, 96, 144)
SEARCHED = 60
"""Held-out rooms among which moving cameras are looked for."""
LEAST_PATH = 0.1
"""Length of the path of a measured room, in scene units."""
PIXELS: dict[str, tuple[str, Better]] = {
    "pixels/progress": ("progress", "higher"),
    "pixels/rotation": ("PnP rotation, deg", "lower"),
    "pixels/direction": ("PnP direction, deg", "lower"),
}
"""Measures of the video alone against the true scene."""
VIDEO = ("video/psnr", "video/ssim", "video/st_lpips")
DEPTH = ("depth/abs_rel", "depth/delta1", "depth/abs_rel_affine", "depth/delta1_affine")
POSE = ("pose/ate", "pose/ate_directed", "pose/rpe_trans", "pose/rpe_rot")
FOLLOW = ("follow/rotation", "follow/direction", "follow/position")
RATIOS = ("consistency/depth_ratio", "consistency/photometric_ratio")
CHAMFER = ("points/chamfer",)
ZERO = 1e-6
"""Values below this are shown as 0."""
WORSE_BY = 1e-4
"""Smallest change that counts, relative to the larger of 0.01 and the perfect value."""


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """A known fault."""

    name: str
    """Row of the table."""
    apply: Callable[[World], World]
    """Damages a perfect world."""
    worse: Sequence[str]
    """Measures that must get worse."""
    same: Sequence[str]
    """Measures that must not change."""


def on_video(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[World], World]:
    """A corruption of the frames after the first."""

    def apply(world: World) -> World:
        later = change(world.video[1:].astype(np.float32))
        video = np.concatenate([world.video[:1], later.round().clip(0, 255).astype(np.uint8)])
        return replace(world, video=video)

    return apply


def on_depth(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[World], World]:
    """A corruption of the depth; the points stay."""
    return lambda world: replace(world, depth=change(world.depth).astype(np.float32))


def on_path(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[World], World]:
    """A corruption of the recovered poses."""
    return lambda world: replace(
        world, trajectory=replace(world.trajectory, pose_c2w=change(world.trajectory.pose_c2w.copy()))
    )


def noisy(share: float, values: np.ndarray) -> np.ndarray:
    """Multiply by exp of white noise with this standard deviation."""
    return values * np.exp(share * np.random.default_rng(0).standard_normal(values.shape))


def corruptions() -> list[Corruption]:
    """All rows of the table, by kind of data."""
    geometry = (*DEPTH, *POSE, *FOLLOW, *CHAMFER)
    video = partial(Corruption, same=geometry)
    depth = partial(Corruption, same=(*VIDEO, *POSE, *FOLLOW, *CHAMFER, *PIXELS))
    path = partial(Corruption, same=(*VIDEO, *DEPTH, *PIXELS))
    sharp, moving = VIDEO, ("pixels/progress", "pixels/direction")
    return [
        video(name="noise, sigma 10", apply=on_video(lambda v: v + 10 * _white(v.shape)), worse=sharp),
        video(name="blur, sigma 2 px", apply=on_video(_blurred), worse=sharp),
        video(name="20 % darker", apply=on_video(lambda v: 0.8 * v), worse=sharp),
        video(name="shift by 2 px", apply=on_video(lambda v: np.roll(v, 2, axis=2)), worse=sharp),
        video(name="16 gray levels", apply=on_video(lambda v: v // 16 * 16 + 8), worse=sharp),
        video(name="flicker, 10 %", apply=on_video(_flicker), worse=(*sharp, "consistency/photometric_ratio")),
        video(name="first frame repeated", apply=_frozen, worse=(*sharp, *moving)),
        video(name="later frames reversed", apply=on_video(lambda v: v[::-1]), worse=(*sharp, *moving)),
        depth(name="depth noise, 2 %", apply=on_depth(partial(noisy, 0.02)), worse=(*DEPTH[::2], *RATIOS)),
        depth(name="depth noise, 10 %", apply=on_depth(partial(noisy, 0.1)), worse=(*DEPTH, *RATIOS)),
        depth(name="depth blur, 3 px", apply=on_depth(_blurred_depth), worse=(*DEPTH, *RATIOS)),
        depth(name="constant depth", apply=on_depth(lambda d: np.full_like(d, d.mean())), worse=DEPTH),
        depth(name="depth scale drifts by 20 %", apply=on_depth(_drift), worse=("depth/abs_rel", *RATIOS)),
        path(name="half the path", apply=on_path(partial(_scaled, 0.5)), worse=("follow/position", *RATIOS)),
        path(name="twice the path", apply=on_path(partial(_scaled, 2.0)), worse=("follow/position", *RATIOS)),
        path(name="standing camera", apply=on_path(partial(_scaled, 0.0)), worse=(*POSE[:3], *FOLLOW[1:], *RATIOS)),
        path(name="reversed travel", apply=on_path(partial(_scaled, -1.0)), worse=("pose/ate_directed", *FOLLOW[1:])),
        path(name="turned by 5 degrees", apply=on_path(_turned), worse=("follow/rotation", "pose/rpe_rot", *RATIOS)),
        Corruption(
            name="point noise, 5 %",
            apply=lambda world: replace(world, points=noisy(0.05, world.points).astype(np.float32)),
            worse=CHAMFER,
            same=(*VIDEO, *DEPTH, *POSE, *FOLLOW, *PIXELS, *RATIOS),
        ),
    ]


def scores_of(world: World, truth: TruthClip, *, st_lpips: StLpips | None, pixels: bool) -> dict[str, float]:
    """Every measure of a world; those of the pixels alone if asked for."""
    found = dict(measure(world, truth, st_lpips=st_lpips).scores)
    if pixels:
        camera = camera_scores("pixels", world.video, truth)
        found |= {name: camera[name] for name in ("pixels/rotation", "pixels/direction")}
        found["pixels/progress"] = progress(world.video, truth.video[0], truth.depth[0], truth.trajectory)
    return {name: float("nan") if value is None else value for name, value in found.items()}


def faults(one: Corruption, perfect: Mapping[str, float], damaged: Mapping[str, float]) -> list[str]:
    """The measures that move the wrong way, with their values."""
    wrong = []
    for names, wanted in ((one.worse, True), (one.same, False)):
        for name in (name for name in names if name in perfect):
            change = damaged[name] - perfect[name]
            worse = change if better(name) == "lower" else -change
            least = WORSE_BY * max(0.01, abs(perfect[name]))
            holds = worse > least if wanted else abs(change) <= least
            if not holds:
                wanted_text = "worse" if wanted else "unchanged"
                wrong.append(f"{one.name}: {name} {perfect[name]:.4g} -> {damaged[name]:.4g}, must be {wanted_text}")
    return wrong


def better(name: str) -> Better:
    """The better direction of a column."""
    return PIXELS[name][1] if name in PIXELS else MEASURES[name].better


def rooms(count: int) -> list[TruthClip]:
    """The first held-out rooms whose camera travels."""
    clips = choose(Path("rooms"), SHAPE, count=SEARCHED, takes=1, min_confidence=0.3)
    found: list[TruthClip] = []
    for record in clips.records:
        truth = clips.truth(record.id)
        if truth.trajectory.path_length() >= LEAST_PATH:
            found.append(truth)
        if len(found) == count:
            break
    return found


def table(truths: Sequence[TruthClip], st_lpips: StLpips | None) -> dict[str, dict[str, float]]:
    """Mean of every measure over the rooms, by row; the first row is the perfect world."""
    rows: dict[str, dict[str, float]] = {}
    for name, apply in [("perfect world", lambda world: world), *((one.name, one.apply) for one in corruptions())]:
        found = [scores_of(apply(true_world(truth)), truth, st_lpips=st_lpips, pixels=True) for truth in truths]
        rows[name] = {measure: float(np.mean([scores[measure] for scores in found])) for measure in found[0]}
        print(name, flush=True)
    return rows


def page(rows: Mapping[str, Mapping[str, float]], rooms_measured: int) -> str:
    """The table as Markdown, one row per measure and one block of corruptions per kind of data."""
    perfect = rows["perfect world"]
    arrows = {"lower": "↓", "higher": "↑", "neither": ""}
    labels = {name: PIXELS[name][0] if name in PIXELS else MEASURES[name].label for name in perfect}
    parts = [
        f"Means over {rooms_measured} held-out rooms, the first from seed {HELD_OUT_WORLDS:,} whose camera travels."
    ]
    by_name = {one.name: one for one in corruptions()}
    names = list(by_name)
    for title, chosen in (("Video", names[:8]), ("Depth", names[8:13]), ("Cameras and points", names[13:])):
        body = [
            [
                f"{labels[name]} {arrows[better(name)]}".strip(),
                _text(perfect[name]),
                *(_text(rows[row][name], bold=name in by_name[row].worse) for row in chosen),
            ]
            for name in perfect
        ]
        parts.append(f"**{title}**\n\n{markdown(['', 'perfect', *chosen], body, align='l' + 'r' * (len(chosen) + 1))}")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure all corruptions and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/measures"))
    parser.add_argument("--rooms", type=int, default=6)
    parser.add_argument("--st-lpips-weights", type=Path, help="the wheel stlpips-pytorch 0.0.2 or its weight file")
    options = parser.parse_args()
    st_lpips = StLpips(read_weights(options.st_lpips_weights)) if options.st_lpips_weights else None
    truths = rooms(options.rooms)
    rows = table(truths, st_lpips)
    wrong = [fault for one in corruptions() for fault in faults(one, rows["perfect world"], rows[one.name])]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "measures.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (options.out / "measures.md").write_text(page(rows, len(truths)), encoding="utf-8")
    print("\n".join(wrong) or f"all {len(rows) - 1} corruptions move every measure as they must")
    sys.exit(1 if wrong else 0)


def _text(value: float, *, bold: bool = False) -> str:
    text = "-" if np.isnan(value) else "0" if abs(value) < ZERO else f"{value:.3g}"
    return f"**{text}**" if bold else text


def _white(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def _blurred(video: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 2.0) for frame in video])


def _blurred_depth(depth: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 3.0) for frame in depth])


def _flicker(video: np.ndarray) -> np.ndarray:
    gain = np.where(np.arange(len(video)) // 2 % 2 == 0, 0.9, 1.1)
    return video * gain[:, None, None, None]


def _frozen(world: World) -> World:
    return replace(world, video=np.repeat(world.video[:1], len(world.video), axis=0))


def _drift(depth: np.ndarray) -> np.ndarray:
    return depth * np.linspace(0.9, 1.1, len(depth))[:, None, None]


def _scaled(factor: float, poses: np.ndarray) -> np.ndarray:
    poses[:, :3, 3] *= factor
    return poses


def _turned(poses: np.ndarray) -> np.ndarray:
    poses[1:, :3, :3] = poses[1:, :3, :3] @ Rotation.from_euler("y", 5, degrees=True).as_matrix()
    return poses


if __name__ == "__main__":
    main()
