"""One toy clip: its world, camera path, caption, images and truth, as a function of (seed, clip number, options).

Axis legend: f frames, h rows, w columns; poses camera-to-world (OpenCV axes), depth z-depth in meters, 0 for sky.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from fw_core.files import replacing, write_text
from fw_toy.files import write_video
from fw_toy.rendering.render import Renderer
from fw_toy.rooms.clip import plan_room
from fw_toy.rooms.render import render as render_room
from fw_toy.scenes import SCENES
from fw_toy.worlds.captions import describe
from fw_toy.worlds.indoor import indoor
from fw_toy.worlds.outdoor import outdoor
from fw_toy.worlds.paths import ToyPath, find_path
from fw_toy.worlds.scene import ToyScene, assemble

_WORLDS = 12
_MIDDLE_GRAY = 0.34
_WHITE_BALANCE = {"indoor": 0.5, "outdoor": 0.15}


@dataclass(frozen=True, kw_only=True)
class ToyPlan:
    """Settings that determine a clip's content."""

    seed: int
    """Seed of the whole data set."""
    index: int
    """Number of the clip in it."""
    takes: int
    """Clips of one world: clips 0 to takes - 1 show the first world, and so on."""
    scenes: str
    """A name of SCENES."""
    frames: int
    """Number of frames."""
    height: int
    """Rows of a frame."""
    width: int
    """Columns of a frame."""
    fps: float
    """Frames per second of the video."""
    supersample: int
    """Rays per pixel along each axis."""

    @property
    def name(self) -> str:
        """Name of the clip's files."""
        return f"toy-{self.index:06d}"

    @property
    def world(self) -> int:
        """Number of the world it shows."""
        return self.index // self.takes

    @property
    def kind(self) -> str:
        """Kind of that world."""
        kinds = SCENES[self.scenes]
        return kinds[self.world % len(kinds)]


@dataclass(frozen=True, kw_only=True)
class ToyClip:
    """A planned clip, ready to be rendered."""

    plan: ToyPlan
    """Settings that it was made from."""
    scene: ToyScene
    """Its world."""
    path: ToyPath
    """Its cameras."""
    caption: str
    """One line of text."""


def design(plans: Sequence[ToyPlan]) -> list[ToyClip]:
    """Clips of one world: builds worlds until one has a good camera path for every take; deterministic in the plans.

    Args:
        plans: one or more of the takes of one world; what becomes of a take does not depend on which others are here.

    Raises:
        RuntimeError: no world of several gave a path for every take.
    """
    plan = plans[0]
    for attempt in range(_WORLDS):
        rng = np.random.default_rng([plan.seed, plan.world, attempt])
        blueprint = indoor(rng) if plan.kind == "indoor" else outdoor(rng)
        scene = assemble(blueprint, rows=plan.height)
        paths = []
        for take in range(plan.takes):
            if take:
                rng = np.random.default_rng([plan.seed, plan.world, attempt, take])
            fov = float(rng.uniform(45.0, 80.0))
            path = find_path(scene, rng, frames=plan.frames, height=plan.height, width=plan.width, fov_deg=fov)
            if path is None:
                break
            paths.append(path)
        else:
            chosen = [(each, paths[each.index % plan.takes]) for each in plans]
            return [ToyClip(plan=p, scene=scene, path=path, caption=_caption(p, scene, path)) for p, path in chosen]
    raise RuntimeError(
        f"clip {plan.name} of seed {plan.seed}: no camera path in {_WORLDS} worlds; this is a fault of the scene "
        "builders, please report seed and number, and use another --seed meanwhile"
    )


def _caption(plan: ToyPlan, scene: ToyScene, path: ToyPath) -> str:
    small = np.diag([72 / plan.width, 48 / plan.height, 1.0]) @ path.K
    labels = Renderer(scene).labels(small, path.pose_c2w[plan.frames // 2], 48, 72)
    return describe(scene.blueprint.setting, scene.mesh.labels, labels, path.move)


def render(clip: ToyClip) -> tuple[UInt8[np.ndarray, "f h w 3"], Float[np.ndarray, "f h w"]]:
    """All images (sRGB) and exact depths of a clip."""
    plan, path = clip.plan, clip.path
    renderer = Renderer(clip.scene, plan.supersample, exposure_of(clip))
    pairs = list(renderer.frames(path.K, path.pose_c2w, plan.height, plan.width))
    return np.stack([image for image, _ in pairs]), np.stack([depth for _, depth in pairs])


def exposure_of(clip: ToyClip) -> tuple[float, float, float]:
    """One gain per color for the whole clip (exposure and part of a white balance), from three small views."""
    plan, path = clip.plan, clip.path
    small = np.diag([36 / plan.width, 24 / plan.height, 1.0]) @ path.K
    probe = Renderer(clip.scene, 1)
    views = [probe.radiance(small, path.pose_c2w[i], 24, 36) for i in (0, plan.frames // 2, plan.frames - 1)]
    colors = np.stack(views).reshape(-1, 3).astype(np.float64)
    level = _MIDDLE_GRAY / np.exp(np.log(colors.mean(-1) + 1e-3).mean())
    mean = np.minimum(colors * level, 1.0).mean(0)
    r, g, b = level * (mean.mean() / mean) ** _WHITE_BALANCE[clip.scene.blueprint.kind]
    return float(r), float(g), float(b)


@dataclass(frozen=True, kw_only=True)
class Footage:
    """A rendered clip with its truth."""

    plan: ToyPlan
    """Settings that it was made from."""
    caption: str
    """One line of text."""
    move: str
    """Name of the camera motion."""
    K: Float[np.ndarray, "3 3"]
    """Intrinsics in pixels, of every frame."""
    pose_c2w: Float[np.ndarray, "f 4 4"]
    """Cameras of the frames."""
    video: UInt8[np.ndarray, "f h w 3"]
    """sRGB."""
    depth_m: Float[np.ndarray, "f h w"]
    """z-depth; 0 for sky."""
    median_depth_m: float
    """Median depth of the world along the path."""
    travel_ratio: float
    """Length of the path over that depth."""


def film(plans: Sequence[ToyPlan]) -> Iterator[Footage]:
    """The clips of one world, rendered one after another."""
    if plans[0].kind == "rooms":
        yield from (_film_room(plan) for plan in plans)
        return
    for clip in design(plans):
        video, depth_m = render(clip)
        path = clip.path
        yield Footage(
            plan=clip.plan,
            caption=clip.caption,
            move=path.move,
            K=path.K,
            pose_c2w=path.pose_c2w,
            video=video,
            depth_m=depth_m,
            median_depth_m=path.median_depth_m,
            travel_ratio=path.travel_ratio,
        )


def _film_room(plan: ToyPlan) -> Footage:
    """The analytic room of seed `plan.seed + plan.index`; the first camera is the origin."""
    room = plan_room(plan.seed + plan.index, frames=plan.frames, height=plan.height, width=plan.width)
    size = (plan.height, plan.width)
    video, depth_m = render_room(room.room, room.K, room.pose_room, *size, supersample=plan.supersample)
    median = float(np.median(depth_m[depth_m > 0]))
    travel = np.linalg.norm(np.diff(room.pose_room[:, :3, 3], axis=0), axis=1).sum()
    return Footage(
        plan=plan,
        caption=room.caption,
        move=room.move,
        K=room.K,
        pose_c2w=room.pose_c2w,
        video=video,
        depth_m=depth_m,
        median_depth_m=median,
        travel_ratio=float(travel) / median,
    )


def write(footage: Footage, out: Path) -> dict[str, object]:
    """Write raw/NAME.mp4, raw/NAME.txt and, last, truth/NAME.npz; returns the clip's row for toy.json."""
    plan = footage.plan
    info: dict[str, object] = {
        "name": plan.name,
        "world": plan.world,
        "kind": plan.kind,
        "caption": footage.caption,
        "move": footage.move,
        "fov_h_deg": round(float(np.degrees(2 * np.arctan(plan.width / 2 / footage.K[0, 0]))), 3),
        "median_depth_m": round(footage.median_depth_m, 4),
        "travel_ratio": round(footage.travel_ratio, 4),
        "sky_share": round(float((footage.depth_m == 0).mean()), 4),
    }
    write_video(out / "raw" / f"{plan.name}.mp4", footage.video, plan.fps)
    write_text(out / "raw" / f"{plan.name}.txt", footage.caption + "\n")
    with replacing(out / "truth" / f"{plan.name}.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            depth_m=footage.depth_m,
            K=np.repeat(footage.K[None], plan.frames, axis=0),
            pose_c2w=footage.pose_c2w,
            info=np.array(json.dumps(info)),
            plan=np.array(json.dumps(asdict(plan))),
        )
    return info


def finished(plan: ToyPlan, out: Path) -> dict[str, object] | None:
    """The row of a clip that is already there and complete, else None."""
    raw, truth = out / "raw" / plan.name, out / "truth" / f"{plan.name}.npz"
    if not (raw.with_suffix(".mp4").is_file() and raw.with_suffix(".txt").is_file() and truth.is_file()):
        return None
    with np.load(truth, allow_pickle=False) as data:
        made = json.loads(str(data["plan"]))
        return json.loads(str(data["info"])) if made == asdict(plan) else None
