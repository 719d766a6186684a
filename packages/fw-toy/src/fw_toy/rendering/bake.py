"""Light from sky and bounces, gathered once per scene at the vertices (radiosity by final gathering).

Axis legend: v vertices, p gather points (close vertices share one), t triangles, r rays per point. Linear colors.
"""

import numpy as np
from jaxtyping import Float, Int

from fw_toy.rendering.lights import Lighting, light_at, sky_radiance
from fw_toy.rendering.tracer import Tracer
from fw_toy.shapes.mesh import Mesh
from fw_toy.vectors import cross, dot, unit

_BOUNCES = 3
_SKY, _INSIDE = -1, -2


def bake(
    mesh: Mesh, tracer: Tracer, lighting: Lighting, albedo: Float[np.ndarray, "k 3"], rays: int = 96
) -> Float[np.ndarray, "v 3"]:
    """Irradiance at every vertex from the sky and from surfaces lit by sun, lamps, glow and earlier bounces."""
    points, normals, group = _gather_points(mesh)
    local, frames = _hemisphere(rays), _frames(normals)
    faces = mesh.face_normals.astype(np.float32)
    seen = np.empty((len(points), rays), np.int32)
    from_sky = np.zeros((len(points), 3), np.float32)
    for begin in range(0, len(points), 1024):
        part = slice(begin, begin + 1024)
        direction = np.matmul(local, frames[part]).reshape(-1, 3)
        hit = tracer.first_hit(np.repeat(points[part], rays, axis=0), direction)
        behind = dot(faces.take(hit, axis=0), direction) > 0
        open_sky = hit == _SKY
        sky = np.zeros_like(direction)
        sky[open_sky] = sky_radiance(lighting, direction[open_sky], clouds=False)
        seen[part] = np.where(behind & ~open_sky, _INSIDE, hit).reshape(-1, rays)
        from_sky[part] = sky.reshape(-1, rays, 3).mean(1)
    glow = np.array([material.emission for material in mesh.materials], np.float32)[mesh.material]
    reflect = (albedo / np.pi).astype(np.float32)[mesh.material]
    direct = _direct_light(mesh, tracer, lighting)
    share = 1.0 / np.maximum((seen != _INSIDE).mean(1), 0.35)[:, None].astype(np.float32)
    bounced = np.zeros((len(points), 3), np.float32)
    corners = group[mesh.faces]
    for _ in range(_BOUNCES):
        total = np.float32(np.pi) * (from_sky + bounced) * share
        arriving = sum(total.take(corners[:, k], axis=0) for k in range(3)) / np.float32(3)
        bounced = _mean_radiance(seen, glow + reflect * (direct + arriving))
    return (np.float32(np.pi) * (from_sky + bounced) * share)[group]


def _mean_radiance(seen: Int[np.ndarray, "p r"], radiance: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, "p 3"]:
    padded = np.concatenate([radiance, np.zeros((2, 3), np.float32)])
    total = np.zeros((len(seen), 3), np.float32)
    for ray in range(seen.shape[1]):
        total += padded.take(seen[:, ray], axis=0)
    return total / np.float32(seen.shape[1])


def _direct_light(mesh: Mesh, tracer: Tracer, lighting: Lighting) -> Float[np.ndarray, "t 3"]:
    """Irradiance at the triangles' centers from sun and lamps."""
    normal = mesh.face_normals.astype(np.float32)
    point = mesh.triangles.mean(1).astype(np.float32) + normal * np.float32(2e-3)
    total = np.zeros_like(point)
    for light in lighting.lights:
        toward, irradiance = light_at(light, point, np.zeros_like(point))
        cosine = dot(unit(toward), normal)
        facing = np.nonzero(cosine > 0)[0]
        free = ~tracer.occluded(point[facing], toward[facing], 0.98)
        total[facing] += (cosine[facing] * free)[:, None] * irradiance[facing]
    return total


def _gather_points(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (p, 3) and normals (p, 3) to gather light at, and the point of every vertex (v,).

    Points are moved a little into their faces and off the surface, so that corners do not look through walls.
    """
    corners = mesh.faces.ravel()
    middles = np.repeat(mesh.triangles.mean(1), 3, axis=0)
    count = np.bincount(corners, minlength=len(mesh.vertices)).astype(float)
    inner = np.stack([np.bincount(corners, middles[:, k], minlength=len(count)) for k in range(3)], -1)
    inner = np.where(count[:, None] > 0, inner / np.maximum(count, 1)[:, None], mesh.vertices)
    place = mesh.vertices + 0.2 * (inner - mesh.vertices) + 4e-3 * mesh.normals
    octave = np.floor(np.log2(1 + np.hypot(mesh.vertices[:, 0], mesh.vertices[:, 1]) / 4) * 2)
    grain = mesh.light_m * 2 ** (octave / 2)
    cell = np.floor(mesh.vertices / grain[:, None]).astype(np.int64)
    facing = np.round(mesh.normals * 1.6).astype(np.int64)
    key = (grain * 1e4).astype(np.int64)
    for column in (*cell.T, *facing.T):
        key = (key * 1_000_003 + column) & 0x7FFF_FFFF_FFFF
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    return place[first].astype(np.float32), unit(mesh.normals[first]).astype(np.float32), group


def _hemisphere(count: int) -> Float[np.ndarray, "r 3"]:
    """Directions about z with density proportional to the cosine (Hammersley points)."""
    index = np.arange(count)
    radical = np.zeros(count)
    bits, factor = index.copy(), 0.5
    while bits.any():
        radical += factor * (bits & 1)
        bits >>= 1
        factor /= 2
    radius, angle = np.sqrt((index + 0.5) / count), 2 * np.pi * radical
    xyz = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - radius**2)], -1)
    return xyz.astype(np.float32)


def _frames(normal: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, "p 3 3"]:
    """Rows: two tangents and the normal."""
    helper = np.where(np.abs(normal[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]]).astype(np.float32)
    first = unit(cross(helper, normal))
    return np.stack([first, cross(normal, first), normal], 1)
