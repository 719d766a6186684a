"""Frames of a scene: color by ray casting with shadow rays, and exact depth at pixel centers.

Axis legend: r rays or samples, h rows, w columns. Camera axes OpenCV (x right, y down, z forward), world z up; pixel
(column i, row j) has its center at (i + 0.5, j + 0.5). Depth is z-depth in meters, 0 where there is sky.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, UInt8

from fw_toy.rendering.lights import light_at, sky_radiance
from fw_toy.textures.atlas import detail_noise, linear_to_srgb
from fw_toy.vectors import dot, unit
from fw_toy.worlds.scene import ToyScene

_CHUNK = 1 << 15
_BRIGHTEST = 8.0
_WHITE = 3.5
_RELIEF_LIGHT = np.array([0.25, 0.15, 0.8], np.float32)


class Renderer:
    """Renders one scene; what does not depend on the camera is worked out once."""

    def __init__(self, scene: ToyScene, supersample: int = 2, exposure: tuple[float, float, float] = (1.0, 1.0, 1.0)):
        self._scene, self._supersample, self._exposure = scene, supersample, np.array(exposure, np.float32)
        mesh, materials = scene.mesh, scene.mesh.materials
        self._corner = mesh.vertices[mesh.faces[:, 0]]
        self._plane = mesh.face_normals
        self._material = np.asarray(mesh.material)
        self._tint = np.array([m.tint for m in materials], np.float32)
        self._glow = np.array([m.emission for m in materials], np.float32)
        columns = [[m.bump, m.gloss, m.tile_m, m.translucency] for m in materials]
        self._look = np.array(columns, np.float32)

    def depth(
        self, K: Float[np.ndarray, "3 3"], pose_c2w: Float[np.ndarray, "4 4"], height: int, width: int
    ) -> Float[np.ndarray, "h w"]:
        """Exact z-depth through every pixel's center, float32, 0 for sky."""
        direction = camera_rays(K, pose_c2w, height, width, 0.5, 0.5)
        triangle = self._trace(direction, pose_c2w[:3, 3])
        distance = self._distance(triangle, direction, pose_c2w[:3, 3])
        return distance.reshape(height, width).astype(np.float32)

    def labels(
        self, K: Float[np.ndarray, "3 3"], pose_c2w: Float[np.ndarray, "4 4"], height: int, width: int
    ) -> Int[np.ndarray, "h w"]:
        """Index of the object seen through every pixel's center, -1 for sky."""
        direction = camera_rays(K, pose_c2w, height, width, 0.5, 0.5)
        triangle = self._trace(direction, pose_c2w[:3, 3])
        return np.where(triangle >= 0, self._scene.mesh.label[triangle], -1).reshape(height, width)

    def radiance(
        self, K: Float[np.ndarray, "3 3"], pose_c2w: Float[np.ndarray, "4 4"], height: int, width: int
    ) -> Float[np.ndarray, "h w 3"]:
        """Mean linear radiance of every pixel."""
        n, eye = self._supersample, pose_c2w[:3, 3]
        total = np.zeros((height * width, 3), np.float32)
        pixel = 1.0 / (float(K[0, 0]) * n)
        for index in range(n * n):
            across, down = (index % n + 0.5) / n, (index // n + 0.5) / n
            direction = camera_rays(K, pose_c2w, height, width, across, down)
            triangle = self._trace(direction, eye)
            for begin in range(0, len(direction), _CHUNK):
                part = slice(begin, begin + _CHUNK)
                color = self._shade(triangle[part], direction[part], eye, pixel, index / (n * n))
                total[part] += np.minimum(color, _BRIGHTEST / self._exposure)
        return (total / (n * n)).reshape(height, width, 3)

    def frame(
        self, K: Float[np.ndarray, "3 3"], pose_c2w: Float[np.ndarray, "4 4"], height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The rendered sRGB image."""
        mapped = tone_map(self.radiance(K, pose_c2w, height, width) * self._exposure)
        return np.round(linear_to_srgb(mapped) * 255).astype(np.uint8)

    def frames(
        self, K: Float[np.ndarray, "3 3"], pose_c2w: Float[np.ndarray, "f 4 4"], height: int, width: int
    ) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]]:
        """Image and depth of every pose in turn."""
        for pose in pose_c2w:
            yield self.frame(K, pose, height, width), self.depth(K, pose, height, width)

    def _trace(self, direction: Float[np.ndarray, "r 3"], eye: Float[np.ndarray, " 3"]) -> Int[np.ndarray, " r"]:
        return self._scene.tracer.first_hit(np.broadcast_to(eye, direction.shape), direction)

    def _distance(self, triangle: np.ndarray, direction: np.ndarray, eye: np.ndarray) -> np.ndarray:
        """Distance of each ray to its triangle's plane, in float64, in units of its direction; 0 without a hit."""
        normal = self._plane[triangle]
        above, slope = dot(self._corner[triangle] - eye, normal), dot(direction, normal)
        return np.where(triangle >= 0, above / np.where(slope == 0, 1.0, slope), 0.0)

    def _shade(
        self, triangle: np.ndarray, direction: np.ndarray, eye: np.ndarray, pixel: float, phase: float
    ) -> Float[np.ndarray, "r 3"]:
        lighting = self._scene.blueprint.lighting
        length = np.sqrt(dot(direction, direction))[:, None]
        view = (direction / length).astype(np.float32)
        color = np.empty((len(triangle), 3), np.float32)
        hit = triangle >= 0
        if not hit.all():
            color[~hit] = sky_radiance(lighting, view[~hit])
        if hit.any():
            chosen, ray = triangle[hit], direction[hit]
            reach = self._distance(chosen, ray, eye)
            point = (eye + ray * reach[:, None]).astype(np.float32)
            distance = (reach * length[hit, 0]).astype(np.float32)
            surface = self._surface_light(chosen, point, view[hit], distance, pixel, phase)
            if lighting.haze_per_m:
                clear = np.exp(-distance * np.float32(lighting.haze_per_m))[:, None]
                air = np.asarray(lighting.sky.horizon, np.float32) * np.float32(0.85 * lighting.sky.brightness)
                surface = surface * clear + air * (1 - clear)
            color[hit] = surface
        return color

    def _surface_light(
        self,
        triangle: np.ndarray,
        point: np.ndarray,
        view: np.ndarray,
        distance: np.ndarray,
        pixel: float,
        phase: float,
    ) -> Float[np.ndarray, "r 3"]:
        row = self._scene.attributes.take(triangle, axis=0)
        material = self._material.take(triangle)
        look = self._look.take(material, axis=0)
        local = point - row[:, 0:3]
        b1, b2 = (dot(local, row[:, k : k + 3])[:, None] for k in (3, 6))
        value = row[:, 18:26] + b1 * row[:, 26:34] + b2 * row[:, 34:42]
        uv, plane = value[:, 0:2], row[:, 15:18]
        facing = -dot(plane, view)
        flip = np.where(facing < 0, np.float32(-1), np.float32(1))[:, None]
        spread = distance * np.float32(pixel) / np.sqrt(np.maximum(np.abs(facing), 0.08))
        texel = self._scene.atlas.sample(
            self._scene.slot.take(material), uv, spread / look[:, 2] * np.float32(2.0**phase)
        )
        flat_uv = uv * look[:, 2:3]
        coarse = detail_noise(flat_uv * np.float32(0.23), spread * np.float32(0.23))[:, :2]
        albedo = texel[:, :3] * self._tint.take(material, axis=0)
        wide = detail_noise(flat_uv * np.float32(0.019), spread * np.float32(0.019))[:, :2]
        albedo = albedo * (1 + 0.05 * coarse[:, :1] + 0.07 * coarse[:, 1:] + 0.05 * wide[:, :1] + 0.05 * wide[:, 1:])
        slope = texel[:, 3:5] * look[:, 0:1]
        leafy = look[:, 3:4] > 0
        smooth = unit(value[:, 2:5]) * np.where(leafy, np.float32(1), flip)
        plane = np.where(leafy, smooth, plane * flip)
        tilt = slope[:, :1] * row[:, 9:12] + slope[:, 1:] * row[:, 12:15]
        normal = unit(smooth - tilt)
        gloss = (texel[:, 5] * look[:, 1])[:, None]
        relief = np.clip(1 + 0.45 * dot(normal - smooth, _RELIEF_LIGHT)[:, None], 0.5, 1.5)
        ambient = np.maximum(value[:, 5:8], 0.0) * relief
        light, shine = self._direct(point, plane, normal, view, gloss, look[:, 3:4], phase)
        grazing = 0.04 + 0.5 * (1 - np.abs(dot(normal, view)[:, None])) ** 4
        mirror = ambient / np.float32(np.pi) * gloss * grazing
        return albedo / np.float32(np.pi) * (light + ambient) + shine + mirror + self._glow.take(material, axis=0)

    def _direct(
        self,
        point: np.ndarray,
        plane: np.ndarray,
        normal: np.ndarray,
        view: np.ndarray,
        gloss: np.ndarray,
        translucency: np.ndarray,
        phase: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Irradiance and mirrored light from sun and lamps, with shadow rays to a spot on each light."""
        light, shine = np.zeros_like(point), np.zeros_like(point)
        angle = 2 * np.pi * (phase * 2.618 + 0.13)
        spot = np.array([np.cos(angle), np.sin(angle), np.sin(angle * 1.7)]) * np.sqrt(0.25 + 0.75 * phase)
        offset = spot.astype(np.float32)[None]
        far = np.abs(point).max(-1, keepdims=True)
        for source in self._scene.blueprint.lighting.lights:
            toward, irradiance = light_at(source, point, offset)
            ray = unit(toward)
            cosine = dot(ray, normal)[:, None]
            above = dot(ray, plane)[:, None]
            through = translucency * 0.5 * np.abs(above)
            amount = np.where(above > 0, np.maximum(cosine, 0.0), 0.0) + through
            wanted = (amount > 1e-4)[:, 0] & (irradiance.max(-1) > 1e-4)
            if not wanted.any():
                continue
            side = np.where(above > 0, np.float32(1), np.float32(-1)) * (np.float32(1.5e-3) + np.float32(2e-5) * far)
            start = (point + plane * side)[wanted]
            free = ~self._scene.tracer.occluded(start, toward[wanted], 0.98)
            amount[wanted] *= free[:, None]
            light += irradiance * amount
            peak = np.maximum(dot(unit(ray - view), normal)[:, None], 0.0) ** (8 + 90 * gloss)
            shine += irradiance * np.minimum(amount, 1) * peak * gloss * np.float32(0.35)
        return light, shine


def camera_rays(
    K: Float[np.ndarray, "3 3"], pose_c2w: Float[np.ndarray, "4 4"], height: int, width: int, across: float, down: float
) -> Float[np.ndarray, "r 3"]:
    """World directions through the point (across, down) of every pixel, with camera z of 1: ray length is z-depth."""
    x = (np.arange(width) + across - K[0, 2]) / K[0, 0]
    y = (np.arange(height) + down - K[1, 2]) / K[1, 1]
    right, below, ahead = pose_c2w[:3, 0], pose_c2w[:3, 1], pose_c2w[:3, 2]
    return (x[None, :, None] * right + y[:, None, None] * below + ahead).reshape(-1, 3)


def tone_map(color: np.ndarray) -> np.ndarray:
    """Reinhard's curve with a white point (Reinhard et al. 2002, eq. 4), with slightly more contrast below."""
    scaled = np.maximum(color, 0.0) ** 1.12 * 1.25
    return np.clip(scaled * (1.0 + scaled / _WHITE**2) / (1.0 + scaled), 0.0, 1.0)
