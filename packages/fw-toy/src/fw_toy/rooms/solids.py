"""Intersections of rays with the solids of a room: closed forms for balls, boxes, cylinders and cones, in float32.

Axis legend: n rays; axes of a room (y down), so "up" is -y and a solid reaches from y = -base to y = -base - height.
Directions need not have length 1: the parameter t of a hit counts in lengths of the direction.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from fw_toy.rooms.room import Solid, SolidKind

F32 = np.float32
_NEAR = F32(1e-3)
_INF = F32(np.inf)


class SolidHits(NamedTuple):
    """Rays against one solid."""

    t: Float32[np.ndarray, " n"]
    """Parameter of the first hit; infinite where the ray misses."""
    normal: Float32[np.ndarray, "n 3"]
    """Outward unit normal there; anything where the ray misses."""
    side: Int32[np.ndarray, " n"]
    """Which face of the solid it is, so that edges between faces can be found."""


def hit(solid: Solid, origin: Float32[np.ndarray, "n 3"], direction: Float32[np.ndarray, "n 3"]) -> SolidHits:
    """First hits of rays with a solid."""
    local = origin - np.array([solid.x, -solid.base, solid.z], F32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _HIT[solid.kind](solid, local, direction)


def _ball(solid: Solid, origin: np.ndarray, direction: np.ndarray) -> SolidHits:
    radius = F32(solid.radius)
    center = np.array([0, -radius, 0], F32)
    q = origin - center
    t = _first_root(
        np.einsum("nk,nk->n", direction, direction),
        np.einsum("nk,nk->n", q, direction),
        np.einsum("nk,nk->n", q, q) - radius * radius,
    )
    normal = (q + direction * _finite(t)[:, None]) / radius
    return SolidHits(t, normal, np.zeros(len(t), np.int32))


def _box(solid: Solid, origin: np.ndarray, direction: np.ndarray) -> SolidHits:
    cos, sin = F32(np.cos(solid.turn_rad)), F32(np.sin(solid.turn_rad))
    half = np.array([solid.half_x, solid.height / 2, solid.half_z], F32)
    o = np.stack(
        [cos * origin[:, 0] + sin * origin[:, 2], origin[:, 1] + half[1], cos * origin[:, 2] - sin * origin[:, 0]]
    )
    d = np.stack(
        [cos * direction[:, 0] + sin * direction[:, 2], direction[:, 1], cos * direction[:, 2] - sin * direction[:, 0]]
    )
    inverse = 1 / np.where(d == 0, F32(1e-9), d)
    low, high = (-half[:, None] - o) * inverse, (half[:, None] - o) * inverse
    near, far = np.minimum(low, high), np.maximum(low, high)
    axis = near.argmax(0)
    enter, leave = near.max(0), far.min(0)
    t = np.where((enter < leave) & (enter > _NEAR), enter, _INF)
    sign = -np.sign(np.take_along_axis(d, axis[None], 0)[0])
    n = np.zeros((3, len(t)), F32)
    np.put_along_axis(n, axis[None], sign[None], 0)
    normal = np.stack([cos * n[0] - sin * n[2], n[1], sin * n[0] + cos * n[2]], -1)
    return SolidHits(t, normal, (2 * axis + (sign > 0)).astype(np.int32))


def _cylinder(solid: Solid, origin: np.ndarray, direction: np.ndarray) -> SolidHits:
    radius, height = F32(solid.radius), F32(solid.height)
    x, z, dx, dz = origin[:, 0], origin[:, 2], direction[:, 0], direction[:, 2]
    around = _first_root(dx * dx + dz * dz, x * dx + z * dz, x * x + z * z - radius * radius)
    y = origin[:, 1] + direction[:, 1] * _finite(around)
    around = np.where((y < 0) & (y > -height), around, _INF)
    lid = (-height - origin[:, 1]) / direction[:, 1]
    reach = _finite(lid)
    inside = np.square(x + dx * reach) + np.square(z + dz * reach) < radius * radius
    lid = np.where(inside & (lid > _NEAR) & (direction[:, 1] > 0), lid, _INF)
    on_lid = lid < around
    reach = _finite(around)
    normal = np.stack([(x + dx * reach) / radius, np.zeros_like(x), (z + dz * reach) / radius], -1)
    normal[on_lid] = (0, -1, 0)
    return SolidHits(np.where(on_lid, lid, around), normal, on_lid.astype(np.int32))


def _cone(solid: Solid, origin: np.ndarray, direction: np.ndarray) -> SolidHits:
    height, slope = F32(solid.height), F32(solid.radius / solid.height) ** 2
    x, z, dx, dz = origin[:, 0], origin[:, 2], direction[:, 0], direction[:, 2]
    y, dy = origin[:, 1] + height, direction[:, 1]  # from the tip, downwards
    a = dx * dx + dz * dz - slope * dy * dy
    b = x * dx + z * dz - slope * y * dy
    c = x * x + z * z - slope * y * y
    root = np.sqrt(b * b - a * c)
    t = _INF
    for candidate in ((-b - root) / a, (-b + root) / a):
        level = y + dy * candidate
        valid = (candidate > _NEAR) & (level > 0) & (level < height)  # False where there is no root
        t = np.minimum(t, np.where(valid, candidate, _INF))
    reach = _finite(t)
    normal = np.stack([x + dx * reach, -slope * (y + dy * reach), z + dz * reach], -1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), F32(1e-6))
    return SolidHits(t, normal, np.zeros(len(t), np.int32))


_HIT: dict[SolidKind, Callable[[Solid, np.ndarray, np.ndarray], SolidHits]] = {
    "ball": _ball,
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
}


def _first_root(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Smaller root of a t^2 + 2 b t + c in front of the origin; infinite where there is none."""
    discriminant = b * b - a * c
    t = (-b - np.sqrt(discriminant)) / a
    return np.where(t > _NEAR, t, _INF)  # a NaN compares False


def _finite(t: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(t), t, F32(0))
