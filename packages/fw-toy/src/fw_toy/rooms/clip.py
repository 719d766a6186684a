"""One clip of a room as a function of its seed: frames, exact depth, cameras and a caption.

Seeds below `HELD_OUT_WORLDS` are for training. The same kinds of path through rooms that no training seed shows begin
there, and paths of kinds that no training seed has begin at `HELD_OUT_PATHS`.

Axis legend: f frames, h rows, w columns; poses camera-to-world (OpenCV axes), the first one the identity; meters.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8

from fw_geometry.trajectories import make_trajectory
from fw_toy.rooms.render import render
from fw_toy.rooms.room import Room, Solid, build_room

HELD_OUT_WORLDS = 1_000_000_000
HELD_OUT_PATHS = 2_000_000_000
LAST_SEED = 3_000_000_000
"""Seeds lie below this."""

Part = tuple[str, float, float]
"""Preset of fw_geometry, and the range of its amount; a negative range is drawn with either sign."""

MOVES: dict[str, tuple[float, str]] = {
    "orbit": (0.22, "circles around the room"),
    "dolly": (0.20, "moves along its line of sight"),
    "truck": (0.20, "slides sideways"),
    "pan": (0.10, "turns on the spot"),
    "pedestal": (0.08, "rises or sinks"),
    "spiral": (0.06, "spirals"),
    "truck+dolly+pan": (0.06, "slides and turns"),
    "tilt": (0.04, "tilts"),
    "roll": (0.02, "rolls"),
    "still": (0.02, "stands still"),
}
"""Kinds of path of training seeds: their share, and the words of the caption."""
HELD_OUT_MOVES: dict[str, tuple[float, str]] = {
    "orbit+pedestal": (0.4, "circles around the room and rises or sinks"),
    "dolly+pan": (0.3, "moves ahead and turns"),
    "truck+tilt": (0.3, "slides sideways and tilts"),
}
"""Kinds of path that no training seed has."""
_PATHS_PER_ROOM = 6
_CLEARANCE = 0.45


@dataclass(frozen=True, kw_only=True)
class RoomPlan:
    """A room and a camera path through it, before anything is rendered."""

    room: Room
    move: str
    K: Float[np.ndarray, "3 3"]
    """Intrinsics in pixels."""
    pose_room: Float[np.ndarray, "f 4 4"]
    """Cameras in the axes of the room."""
    caption: str

    @property
    def pose_c2w(self) -> Float[np.ndarray, "f 4 4"]:
        """Cameras relative to the first one."""
        return np.linalg.inv(self.pose_room[0]) @ self.pose_room


@dataclass(frozen=True, kw_only=True)
class RoomClip:
    """A rendered clip with exact depth and cameras."""

    plan: RoomPlan
    video: UInt8[np.ndarray, "f h w 3"]
    depth_m: Float32[np.ndarray, "f h w"]
    """z-depth, exact at every pixel center."""


def plan_room(seed: int, *, frames: int = 17, height: int = 96, width: int = 144) -> RoomPlan:
    """Room, camera path and caption of a seed.

    Raises:
        ValueError: a seed outside 0..LAST_SEED.
    """
    if not 0 <= seed < LAST_SEED:
        raise ValueError(f"room seed {seed} is out of range; seeds run from 0 to {LAST_SEED - 1}")
    moves = HELD_OUT_MOVES if seed >= HELD_OUT_PATHS else MOVES
    rng = np.random.default_rng([20_261, seed])
    while True:
        room = build_room(rng)
        for _ in range(_PATHS_PER_ROOM):
            move = list(moves)[int(rng.choice(len(moves), p=_shares(moves)))]
            K, poses = _path(room, rng, move, frames, height, width)
            if _is_clear(room, poses):
                caption = _caption(room, moves[move][1], K, poses[0], height, width)
                return RoomPlan(room=room, move=move, K=K, pose_room=poses, caption=caption)


def render_room(seed: int, *, frames: int = 17, height: int = 96, width: int = 144) -> RoomClip:
    """The clip of a seed; see `plan_room`."""
    plan = plan_room(seed, frames=frames, height=height, width=width)
    video, depth_m = render(plan.room, plan.K, plan.pose_room, height, width)
    return RoomClip(plan=plan, video=video, depth_m=depth_m)


def _shares(moves: dict[str, tuple[float, str]]) -> list[float]:
    total = sum(share for share, _ in moves.values())
    return [share / total for share, _ in moves.values()]


def _path(
    room: Room, rng: np.random.Generator, move: str, frames: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics and poses in the room; the path may run into things."""
    fov, focus = math.radians(rng.uniform(47.0, 53.0)), rng.uniform(2.6, 4.0)
    easing = "linear" if rng.random() < 0.7 else "smooth"
    K, relative = np.eye(3), np.repeat(np.eye(4)[None], frames, axis=0)
    amount = rng.uniform(0.35, 1.15) * rng.choice([-1, 1])
    backward = move == "dolly" and amount < 0
    for number, name in enumerate(move.split("+")):
        if number:
            amount = rng.uniform(0.3, 1.0) * rng.choice([-1, 1])
        shown = 0.8 * amount if name in ("pan", "tilt", "roll") else amount
        part = make_trajectory(
            name, frames, width=width, height=height, fov_rad=fov, focus_distance=focus, amount=shown, easing=easing
        )
        turned = np.array(part.pose_c2w)
        turned[:, :3, 3] += relative[:, :3, 3]
        turned[:, :3, :3] = relative[:, :3, :3] @ turned[:, :3, :3]
        K, relative = np.array(part.K[0]), turned
    start = np.eye(4)
    start[:3, :3] = _facing(rng.normal(0, 0.16), rng.uniform(0.02, 0.22))
    start[:3, 3] = (
        rng.uniform(-0.25, 0.25) * room.width,
        -rng.uniform(1.25, 1.75),
        rng.uniform(0.25, 0.8) + backward,
    )
    return K, start @ relative


def _facing(yaw: float, down: float) -> np.ndarray:
    """Rotation of a camera that looks along +z, turned to the right and then down."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(down), math.sin(down)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return turn @ np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])


def _is_clear(room: Room, poses: np.ndarray) -> bool:
    x, y, z = poses[:, :3, 3].T
    inside = (np.abs(x) < room.width / 2 - 0.25) & (y < -0.35) & (y > 0.25 - room.height)
    inside &= (z > 0.1) & (z < room.depth - 0.8)
    near = [np.hypot(x - s.x, z - s.z) < s.radius + _CLEARANCE for s in room.solids]
    return bool(inside.all()) and not np.any(near)


def _caption(room: Room, does: str, K: np.ndarray, pose: np.ndarray, height: int, width: int) -> str:
    floor = {"tiles": "a tiled floor", "planks": "a plank floor", "plain": "a plain floor"}[room.floor_kind]
    things = [_phrase(solid) for solid in room.solids if _is_visible(solid, K, pose, height, width)]
    listed = ", ".join(things[:-1]) + (" and " if len(things) > 1 else "") + things[-1] if things else "nothing in it"
    return f"A {room.wall_name} room with {floor}: {listed}. The camera {does}."


def _phrase(solid: Solid) -> str:
    color = ("striped " if solid.stripes else "") + solid.color_name
    return f"{'an' if color[0] in 'aeiou' else 'a'} {color} {solid.kind}"


def _is_visible(solid: Solid, K: np.ndarray, pose: np.ndarray, height: int, width: int) -> bool:
    x, y, z = pose[:3, :3].T @ (np.array([solid.x, -solid.base - solid.height / 2, solid.z]) - pose[:3, 3])
    if z <= 0:
        return False
    u, v = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
    return bool(0 <= u < width and 0 <= v < height)
