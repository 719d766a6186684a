"""Images and exact depth of a room: every ray meets the room's box and the solids that can be in its way.

Pixels at the border between two surfaces are looked at again with several rays, so edges are smooth; depth is always
that of the ray through the pixel's center.

Axis legend: f frames, h rows, w columns, n rays; axes of a room (`rooms`), poses camera-to-world with OpenCV axes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8

from fw_toy.rooms.room import BACK, CEILING, FLOOR, FRONT, LEFT, RIGHT, Room, Solid
from fw_toy.rooms.solids import F32, hit

_INWARD = np.array([(0, 0, -1), (1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, -1, 0), (0, 1, 0)], F32)
"""Normals of the room's faces, as a camera inside sees them."""
_FRAME = 0.07
_SKIRTING = 0.1
_RUG_BORDER = 0.1


class Rays(NamedTuple):
    """Rays through pixel centers, frame by frame."""

    origin: Float32[np.ndarray, "n 3"]
    direction: Float32[np.ndarray, "n 3"]
    """With z = 1 in its camera, so that the parameter of a hit is its z-depth."""


class Look(NamedTuple):
    """Surface properties at the hits of rays."""

    depth: Float32[np.ndarray, " n"]
    color: Float32[np.ndarray, "n 3"]
    label: Int32[np.ndarray, " n"]
    """Number of the surface; two neighbors with equal labels need no smoothing."""


def render(
    room: Room,
    K: Float[np.ndarray, "3 3"],
    pose_c2w: Float[np.ndarray, "f 4 4"],
    height: int,
    width: int,
    *,
    supersample: int = 2,
) -> tuple[UInt8[np.ndarray, "f h w 3"], Float32[np.ndarray, "f h w"]]:
    """Frames (sRGB) and z-depth in meters.

    Args:
        room: what is seen.
        K: intrinsics in pixels.
        pose_c2w: cameras in the axes of the room, inside of it.
        height: rows.
        width: columns.
        supersample: rays along each axis of a pixel at a border between surfaces.
    """
    frames = len(pose_c2w)
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([column, row, np.ones_like(row)], -1).reshape(-1, 3)
    rays = _rays(K, pose_c2w, np.tile(pixels, (frames, 1)), np.repeat(np.arange(frames), height * width))
    candidates = [_pixels_near(solid, K, pose_c2w, height, width) for solid in room.solids]
    look = _look(room, rays, candidates)
    color = look.color
    border = np.flatnonzero(_borders(look.label.reshape(frames, height, width)))
    if len(border) and supersample > 1:
        place = np.full(len(color), -1)
        place[border] = np.arange(len(border))
        near = [found[found >= 0] for found in (place[c] for c in candidates)]
        frame, pixel = np.divmod(border, height * width)
        total = np.zeros((len(border), 3), F32)
        offsets = (np.arange(supersample) + 0.5) / supersample - 0.5
        for dy in offsets:
            for dx in offsets:
                finer = _rays(K, pose_c2w, pixels[pixel] + (dx, dy, 0), frame)
                total += np.clip(_look(room, finer, near).color, 0, 1)
        color[border] = total / supersample**2
    video = (np.clip(color, 0, 1) * 255 + 0.5).astype(np.uint8)
    return video.reshape(frames, height, width, 3), look.depth.reshape(frames, height, width)


def _rays(K: np.ndarray, pose_c2w: np.ndarray, pixels: np.ndarray, frame: np.ndarray) -> Rays:
    camera = (pixels @ np.linalg.inv(K).T).astype(F32)
    rotation = pose_c2w[:, :3, :3].astype(F32)
    origin = pose_c2w[:, :3, 3].astype(F32)[frame]
    direction = np.empty_like(camera)
    for i in range(len(pose_c2w)):  # frames are in order: one product each
        at = slice(*np.searchsorted(frame, [i, i + 1]))
        direction[at] = camera[at] @ rotation[i].T
    return Rays(origin, np.where(np.abs(direction) < 1e-7, F32(1e-7), direction))


def _pixels_near(solid: Solid, K: np.ndarray, pose_c2w: np.ndarray, height: int, width: int) -> np.ndarray:
    """Numbers of the pixels whose rays may meet a solid: in each frame a rectangle around its bounding ball."""
    half = solid.height / 2
    radius = solid.radius if solid.kind == "ball" else float(np.hypot(half, solid.radius))
    center = np.array([solid.x, -solid.base - half, solid.z])
    found = []
    for frame, pose in enumerate(pose_c2w):
        x, y, z = pose[:3, :3].T @ (center - pose[:3, 3])
        if z < -radius:
            continue
        top, bottom, left, right = 0, height, 0, width
        if z > radius + 0.05:
            # a ball's outline reaches at most radius / sqrt(z^2 - radius^2) from its center, more towards the rim
            reach = K[0, 0] * radius / (z - 0.9 * radius) * 1.08 + 1.5
            u, v = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
            top, bottom = max(0, int(v - reach)), min(height, int(v + reach) + 1)
            left, right = max(0, int(u - reach)), min(width, int(u + reach) + 1)
        if top < bottom and left < right:
            rows = np.arange(top, bottom)[:, None] * width
            found.append((frame * height * width + rows + np.arange(left, right)).ravel())
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _borders(label: Int32[np.ndarray, "f h w"]) -> np.ndarray:
    """Pixels with a neighbor of another surface."""
    border = np.zeros(label.shape, bool)
    vertical, horizontal = label[:, 1:] != label[:, :-1], label[:, :, 1:] != label[:, :, :-1]
    border[:, 1:] |= vertical
    border[:, :-1] |= vertical
    border[:, :, 1:] |= horizontal
    border[:, :, :-1] |= horizontal
    return border


def _look(room: Room, rays: Rays, candidates: Sequence[np.ndarray]) -> Look:
    """Nearest surface of every ray and its color."""
    depth, face = _room_box(room, rays)
    solid_of = np.full(len(depth), -1, np.int32)
    normal = np.zeros_like(rays.origin)
    side = np.zeros(len(depth), np.int32)
    for number, (solid, at) in enumerate(zip(room.solids, candidates, strict=True)):
        if not len(at):
            continue
        found = hit(solid, rays.origin[at], rays.direction[at])
        nearer = found.t < depth[at]
        chosen = at[nearer]
        depth[chosen], normal[chosen], side[chosen] = found.t[nearer], found.normal[nearer], found.side[nearer]
        solid_of[chosen] = number
    point = rays.origin + rays.direction * depth[:, None]
    color = np.empty_like(point)
    label = np.empty(len(depth), np.int32)
    for number in range(6):
        at = np.flatnonzero((solid_of < 0) & (face == number))
        if len(at):
            color[at], part = _face(room, number, point[at])
            label[at] = 64 * number + part
    for number, solid in enumerate(room.solids):
        at = np.flatnonzero(solid_of == number)
        if len(at):
            color[at], part = _solid(room, solid, point[at], normal[at])
            label[at] = 1000 * (number + 1) + 10 * side[at] + part
    return Look(depth, color, label)


def _room_box(room: Room, rays: Rays) -> tuple[Float32[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
    """Distance to the wall, floor or ceiling ahead, and which it is."""
    o, d = rays.origin, rays.direction
    x, y, z = (d[:, k] > 0 for k in range(3))
    across = (np.where(x, F32(room.width / 2), F32(-room.width / 2)) - o[:, 0]) / d[:, 0]
    down = (np.where(y, F32(0), F32(-room.height)) - o[:, 1]) / d[:, 1]
    ahead = (np.where(z, F32(room.depth), F32(0)) - o[:, 2]) / d[:, 2]
    t = np.minimum(np.minimum(across, down), ahead)
    face = np.where(z, FRONT, BACK)
    face = np.where(t == across, np.where(x, RIGHT, LEFT), face)
    return t, np.where(t == down, np.where(y, FLOOR, CEILING), face).astype(np.int32)


def _face(room: Room, face: int, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if face == FLOOR:
        base, part = _floor(room, point)
    elif face == CEILING:
        base, part = np.broadcast_to(room.ceiling_color.astype(F32), point.shape), np.zeros(len(point), np.int32)
    else:
        base, part = _wall(room, face, point)
    x, y, z = point.T
    gaps = (
        np.minimum(x + F32(room.width / 2), F32(room.width / 2) - x),
        np.minimum(-y, y + F32(room.height)),
        np.minimum(z, F32(room.depth) - z),
    )
    shade = _light(room, point, _INWARD[face][None])
    for axis, gap in enumerate(gaps):
        if _INWARD[face][axis] == 0:
            shade *= 1 - F32(0.28) * np.exp(gap * F32(-1 / 0.35))  # corners are darker
    return base * shade[:, None], part


def _wall(room: Room, wall: int, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    along, y = point[:, 0 if wall in (FRONT, BACK) else 2], point[:, 1]
    color = np.repeat(room.wall_colors[wall].astype(F32)[None], len(point), axis=0)
    part = np.zeros(len(point), np.int32)
    lower = room.wainscot_color.astype(F32)
    for number, (limit, value) in enumerate(((room.wainscot_height, lower), (_SKIRTING, 0.6 * lower)), 1):
        if limit > 0:
            below = y > -limit
            color[below], part[below] = value, number
    for number, panel in enumerate(p for p in room.panels if p.wall == wall):
        for inset, value in ((0.0, panel.frame_color), (_FRAME, panel.color)):
            inside = (along > panel.left + inset) & (along < panel.right - inset)
            inside &= (y > panel.top + inset) & (y < panel.bottom - inset)
            color[inside], part[inside] = value, 3 + 2 * number + (inset > 0)
    return color, part


def _floor(room: Room, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, z = point[:, 0], point[:, 2]
    offset = room.floor_offset.astype(F32)
    part = np.zeros(len(point), np.int32)
    if room.floor_kind == "planks":
        part = np.floor(x / F32(room.tile_size / 2) + offset[0]).astype(np.int32) & 1
    elif room.floor_kind == "tiles":
        squares = np.floor(x / F32(room.tile_size) + offset[0]) + np.floor(z / F32(room.tile_size) + offset[1])
        part = squares.astype(np.int32) & 1
    color = room.floor_colors.astype(F32)[part]
    if room.rug is not None:
        gap = np.maximum(
            np.abs(x - F32(room.rug.x)) - F32(room.rug.half_x), np.abs(z - F32(room.rug.z)) - F32(room.rug.half_z)
        )
        color[gap < 0], part[gap < 0] = room.rug.color * 0.6, 2
        color[gap < -_RUG_BORDER], part[gap < -_RUG_BORDER] = room.rug.color, 3
    return color * _shadows(room, x, z)[:, None], part


def _shadows(room: Room, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Soft round shadows of the things on the floor, a little away from the lamp."""
    shade = np.ones(len(x), F32)
    for solid in room.solids:
        if solid.base > 0:
            continue
        away = np.array([solid.x - room.lamp[0], solid.z - room.lamp[2]])
        away *= 0.12 / max(float(np.hypot(*away)), 0.5)
        distance = np.hypot(x - F32(solid.x + away[0]), z - F32(solid.z + away[1])) / F32(solid.radius)
        shade *= 1 - F32(0.5) * np.clip((F32(1.5) - distance) / F32(0.9), 0, 1)
    return shade


def _solid(room: Room, solid: Solid, point: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    color = np.repeat(solid.color.astype(F32)[None], len(point), axis=0)
    part = np.zeros(len(point), np.int32)
    if solid.stripes:
        share = (-point[:, 1] - F32(solid.base)) / F32(solid.height)
        part = np.floor(share * F32(2 * solid.stripes + 1)).astype(np.int32) & 1
        color[part == 1] = solid.stripe_color
    near_floor = 1 - F32(0.25) * np.exp(point[:, 1] / F32(0.25))
    return color * (_light(room, point, normal) * near_floor)[:, None], part


def _light(room: Room, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Ambient light and the lamp's: Lambert's law with fall-off."""
    way = room.lamp.astype(F32) - point
    square = np.einsum("nk,nk->n", way, way)
    facing = np.einsum("nk,nk->n", way, np.broadcast_to(normal, way.shape)) / np.sqrt(square)
    return F32(room.ambient) + F32(0.75) * np.maximum(facing, 0) / (1 + F32(0.045) * square)
