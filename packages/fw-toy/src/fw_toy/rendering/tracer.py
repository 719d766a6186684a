"""Rays against triangles: Embree where it is installed, else a plain numpy twin (slow, and the tests' reference).

Axis legend: t triangles, r rays. World coordinates in scene units (meters).
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int


@runtime_checkable
class Tracer(Protocol):
    """Interface of a ray caster."""

    def first_hit(self, origin: Float[np.ndarray, "r 3"], direction: Float[np.ndarray, "r 3"]) -> Int[np.ndarray, " r"]:
        """Index of the nearest triangle that each ray meets, -1 for none."""
        ...

    def occluded(
        self, origin: Float[np.ndarray, "r 3"], direction: Float[np.ndarray, "r 3"], reach: float
    ) -> Bool[np.ndarray, " r"]:
        """Whether a surface is between origin and origin + reach * direction."""
        ...


def make_tracer(triangles: Float[np.ndarray, "t 3 3"]) -> Tracer:
    """The fastest tracer that this machine has."""
    try:
        import embreex  # noqa: F401
    except ImportError:
        return NumpyTracer(triangles)
    return EmbreeTracer(triangles)


class EmbreeTracer:
    """Intel Embree through embreex, the ray engine that trimesh uses."""

    def __init__(self, triangles: Float[np.ndarray, "t 3 3"]):
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(self._scene, np.ascontiguousarray(triangles, np.float32))

    def first_hit(self, origin: Float[np.ndarray, "r 3"], direction: Float[np.ndarray, "r 3"]) -> Int[np.ndarray, " r"]:
        """See `Tracer`."""
        return self._scene.run(np.ascontiguousarray(origin, np.float32), np.ascontiguousarray(direction, np.float32))

    def occluded(
        self, origin: Float[np.ndarray, "r 3"], direction: Float[np.ndarray, "r 3"], reach: float
    ) -> Bool[np.ndarray, " r"]:
        """See `Tracer`."""
        far = np.full(len(origin), reach, np.float32)
        start, toward = np.ascontiguousarray(origin, np.float32), np.ascontiguousarray(direction, np.float32)
        return self._scene.run(start, toward, far, query="OCCLUDED") != -1


class NumpyTracer:
    """Every ray against every triangle, in float64 (Moeller and Trumbore 1997)."""

    def __init__(self, triangles: Float[np.ndarray, "t 3 3"]):
        corners = np.asarray(triangles, np.float64)
        self._corner = corners[:, 0]
        self._edge_1 = corners[:, 1] - corners[:, 0]
        self._edge_2 = corners[:, 2] - corners[:, 0]

    def first_hit(self, origin: Float[np.ndarray, "r 3"], direction: Float[np.ndarray, "r 3"]) -> Int[np.ndarray, " r"]:
        """See `Tracer`."""
        distance = self._distances(origin, direction)
        nearest = distance.argmin(axis=1)
        met = np.isfinite(distance[np.arange(len(nearest)), nearest])
        return np.where(met, nearest, -1).astype(np.int32)

    def occluded(
        self, origin: Float[np.ndarray, "r 3"], direction: Float[np.ndarray, "r 3"], reach: float
    ) -> Bool[np.ndarray, " r"]:
        """See `Tracer`."""
        return self._distances(origin, direction).min(axis=1) < reach

    def _distances(self, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        start, toward = np.asarray(origin, np.float64), np.asarray(direction, np.float64)
        rows = [self._one_ray(start[i], toward[i]) for i in range(len(start))]
        return np.stack(rows) if rows else np.empty((0, len(self._corner)))

    def _one_ray(self, start: np.ndarray, toward: np.ndarray) -> np.ndarray:
        p = np.cross(toward, self._edge_2)
        determinant = (self._edge_1 * p).sum(-1)
        inverse = np.divide(1.0, determinant, out=np.zeros_like(determinant), where=np.abs(determinant) > 1e-12)
        s = start - self._corner
        u = (s * p).sum(-1) * inverse
        q = np.cross(s, self._edge_1)
        v = (q * toward).sum(-1) * inverse
        t = (self._edge_2 * q).sum(-1) * inverse
        inside = (np.abs(determinant) > 1e-12) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
        return np.where(inside, t, np.inf)
