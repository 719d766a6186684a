"""Sun, sky and lamps.

Axis legend: r directions or samples; z is up; colors are linear radiance or irradiance, red, green, blue.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from fw_toy.shapes.mesh import Rgb
from fw_toy.textures.atlas import detail_noise
from fw_toy.vectors import dot


@dataclass(frozen=True, kw_only=True)
class Sky:
    """A sky dome with clouds."""

    zenith: Rgb = (0.16, 0.32, 0.75)
    """Radiance overhead."""
    horizon: Rgb = (0.75, 0.85, 0.95)
    """Radiance at the horizon."""
    cloud: Rgb = (1.25, 1.2, 1.15)
    """Radiance of lit clouds."""
    cover: float = 0.4
    """Clouded fraction of the sky, in [0, 1]."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Position of this sky in the cloud noise."""
    brightness: float = 1.0
    """Factor on all of it."""


@dataclass(frozen=True, kw_only=True)
class Light:
    """A sun (a direction) or a lamp (a place)."""

    position: Rgb
    """Position of the lamp, or the direction to the sun times `SUN_DISTANCE`."""
    color: Rgb
    """Irradiance of the sun on a surface facing it; radiant intensity of a lamp."""
    radius: float
    """Radius of the lamp, or of the sun's disc at SUN_DISTANCE: makes shadows soft."""
    is_sun: bool = False
    """Whether it shines from far away, without falling off."""


SUN_DISTANCE = 1000.0


@dataclass(frozen=True, kw_only=True)
class Lighting:
    """Everything that shines, and the air."""

    sky: Sky = field(default_factory=Sky)
    """The dome seen by rays that meet nothing."""
    lights: tuple[Light, ...] = ()
    """Sun and lamps."""
    haze_per_m: float = 0.0
    """Extinction of the air; distant things fade to the horizon's color."""


def sun(azimuth_rad: float, elevation_rad: float, color: Rgb, radius: float = 12.0) -> Light:
    """A sun in the given direction (azimuth from x towards y)."""
    level = np.cos(elevation_rad)
    toward = np.array([level * np.cos(azimuth_rad), level * np.sin(azimuth_rad), np.sin(elevation_rad)]) * SUN_DISTANCE
    return Light(
        position=(float(toward[0]), float(toward[1]), float(toward[2])), color=color, radius=radius, is_sun=True
    )


def sky_radiance(
    lighting: Lighting, direction: Float[np.ndarray, "r 3"], clouds: bool = True
) -> Float[np.ndarray, "r 3"]:
    """Radiance that comes from the sky along unit directions; below the horizon, the horizon's color darkened."""
    sky = lighting.sky
    up = direction[:, 2:3]
    fade = np.exp(-np.maximum(up, 0.0) * 3.2)
    color = np.asarray(sky.zenith, np.float32) * (1 - fade) + np.asarray(sky.horizon, np.float32) * fade
    color = color * np.where(up < 0, 0.35 + 0.65 * np.exp(up * 8), 1.0).astype(np.float32)
    if clouds:
        amount = _cloud_cover(sky, direction)
        color = color + (np.asarray(sky.cloud, np.float32) * (0.55 + 0.45 * amount) - color) * amount
    else:
        color = color + (np.asarray(sky.cloud, np.float32) * 0.7 - color) * np.float32(sky.cover * 0.7)
    for light in lighting.lights:
        if light.is_sun and clouds:
            toward = np.asarray(light.position, np.float32) / SUN_DISTANCE
            cosine = np.clip(dot(direction, toward)[:, None], 0.0, 1.0)
            glow = 0.25 * cosine**12 + 0.8 * cosine**220 + 30.0 * (cosine > 0.9994)
            color = color + glow * np.asarray(light.color, np.float32) * np.float32(0.22)
    return (color * np.float32(sky.brightness)).astype(np.float32)


def light_at(
    light: Light, point: Float[np.ndarray, "r 3"], offset: Float[np.ndarray, "#r 3"]
) -> tuple[np.ndarray, np.ndarray]:
    """Vector from each point to its spot on the light (center + offset * radius), and irradiance facing the light."""
    center = np.asarray(light.position, np.float32)
    if light.is_sun:
        toward = np.broadcast_to(center, point.shape) + offset * np.float32(light.radius)
        return toward, np.broadcast_to(np.asarray(light.color, np.float32), point.shape)
    toward = center + offset * np.float32(light.radius) - point
    falloff = 1.0 / np.maximum(dot(toward, toward)[:, None], 0.04)
    return toward, falloff * np.asarray(light.color, np.float32)


def _cloud_cover(sky: Sky, direction: np.ndarray) -> np.ndarray:
    """Opacity of the clouds, shape (r, 1): two octaves of noise on a plane overhead."""
    up = np.maximum(direction[:, 2], 0.0)
    plane = direction[:, :2] / (up + 0.12)[:, None]
    blur = np.full(len(up), 0.002, np.float32)
    at = (plane * 0.11 + np.asarray(sky.shift)).astype(np.float32)
    big = detail_noise(at, blur)[:, 1]
    small = detail_noise(at * np.float32(3.1) + np.float32(0.37), blur)[:, 1]
    density = big + 0.38 * small + (sky.cover - 0.5) * 3.0
    opacity = np.clip(density * 0.75, 0.0, 1.0) * np.clip(up * 7.0, 0.0, 1.0)
    return (opacity * opacity * (3 - 2 * opacity))[:, None].astype(np.float32)
