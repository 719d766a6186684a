"""Rooms: exact depth against implicit surfaces in float64, and clips as a function of their seed."""

import numpy as np
import pytest

from fw_toy.rooms.clip import HELD_OUT_MOVES, HELD_OUT_PATHS, LAST_SEED, MOVES, RoomClip, plan_room, render_room
from fw_toy.rooms.render import render
from fw_toy.rooms.room import Room, Solid, build_room


def points_of(clip: RoomClip) -> np.ndarray:
    """World points of every pixel, in float64, from K, pose and depth alone."""
    _, height, width = clip.depth_m.shape
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([column, row, np.ones_like(row)], -1) @ np.linalg.inv(clip.plan.K).T
    pose = clip.plan.pose_room
    local = rays[None] * clip.depth_m[..., None].astype(np.float64)
    return np.einsum("fij,fhwj->fhwi", pose[:, :3, :3], local) + pose[:, None, None, :3, 3]


def outside(solid: Solid, point: np.ndarray) -> np.ndarray:
    """Signed distance-like function: above 0 outside, 0 on the surface, below 0 inside (lengths near the surface)."""
    x, z = point[..., 0] - solid.x, point[..., 2] - solid.z
    up = -point[..., 1] - solid.base
    if solid.kind == "ball":
        return np.sqrt(x**2 + z**2 + (up - solid.radius) ** 2) - solid.radius
    caps = np.maximum(up - solid.height, -up)
    if solid.kind == "cylinder":
        return np.maximum(np.hypot(x, z) - solid.radius, caps)
    if solid.kind == "cone":
        return np.maximum(np.hypot(x, z) - solid.radius * (1 - up / solid.height), caps)
    c, s = np.cos(solid.turn_rad), np.sin(solid.turn_rad)
    return np.maximum(np.maximum(abs(c * x + s * z) - solid.half_x, abs(c * z - s * x) - solid.half_z), caps)


def to_walls(room: Room, point: np.ndarray) -> np.ndarray:
    """Distance to the nearest of the room's faces, below 0 beyond them."""
    x, y, z = np.moveaxis(point, -1, 0)
    gaps = (room.width / 2 - abs(x), -y, y + room.height, z, room.depth - z)
    return np.minimum.reduce(gaps)


@pytest.mark.parametrize("seed", [0, 4, 6, 9, 1_000_000_003, 2_000_000_001])
def test_depth_lies_on_the_nearest_surface(seed: int) -> None:
    clip = render_room(seed, frames=5, height=48, width=72)
    room, point = clip.plan.room, points_of(clip)
    nearest = np.minimum.reduce([to_walls(room, point), *(outside(solid, point) for solid in room.solids)])
    assert abs(nearest).max() < 2e-4
    eye = clip.plan.pose_room[:, None, None, :3, 3]
    for share in np.linspace(0.02, 0.99, 60):
        before = eye + share * (point - eye)
        free = np.minimum.reduce([to_walls(room, before), *(outside(solid, before) for solid in room.solids)])
        assert free.min() > -1e-3  # nothing stands between the camera and what it sees


def test_a_clip_is_a_function_of_its_seed() -> None:
    one, again, other = (render_room(seed, frames=5, height=32, width=48) for seed in (7, 7, 8))
    assert (one.video == again.video).all()
    assert (one.depth_m == again.depth_m).all()
    assert one.plan.caption == again.plan.caption
    assert (one.video != other.video).any()


def test_the_path_starts_at_the_identity_and_stays_rigid_at_any_size() -> None:
    small, large = plan_room(11, frames=5, height=32, width=48), plan_room(11, frames=5, height=64, width=96)
    assert np.allclose(small.pose_c2w[0], np.eye(4), atol=1e-12)
    rotation = small.pose_c2w[:, :3, :3]
    assert np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    assert np.allclose(small.pose_c2w, large.pose_c2w)
    assert np.allclose(2 * small.K[:2], large.K[:2])


def test_held_out_paths_are_of_other_kinds() -> None:
    trained = {plan_room(seed, frames=5).move for seed in range(60)}
    held_out = {plan_room(HELD_OUT_PATHS + seed, frames=5).move for seed in range(12)}
    assert trained <= set(MOVES)
    assert held_out <= set(HELD_OUT_MOVES)
    assert not set(MOVES) & set(HELD_OUT_MOVES)
    with pytest.raises(ValueError, match=str(LAST_SEED)):
        plan_room(LAST_SEED)


def test_captions_name_what_is_in_view() -> None:
    plan = plan_room(0)
    assert plan.room.wall_name in plan.caption
    behind = [solid.color_name for solid in plan.room.solids if solid.z < plan.pose_room[0, 2, 3] - 1]
    assert all(name not in plan.caption for name in behind)
    assert plan.caption.endswith(".")


def test_edges_are_smoothed_and_the_rest_is_left_alone() -> None:
    rng = np.random.default_rng(5)
    room, pose = build_room(rng), np.eye(4)[None].repeat(2, 0)
    pose[:, :3, 3] = (0, -1.5, 0.3)
    K = np.array([[60.0, 0, 36], [0, 60, 24], [0, 0, 1]])
    smooth, depth = render(room, K, pose, 48, 72)
    rough, depth_rough = render(room, K, pose, 48, 72, supersample=1)
    changed = (smooth != rough).any(-1)
    assert 0.01 < changed.mean() < 0.5
    assert (depth == depth_rough).all()
