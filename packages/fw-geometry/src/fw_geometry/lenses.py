"""Lenses that bend straight lines: COLMAP's and OpenCV's camera models, and the pinhole view of a distorted image.

Axis legend: OpenCV camera axes (x right, y down, z forward), pixel centers at +0.5, as in COLMAP. OpenCV's own
functions put pixel centers on whole numbers: their principal point is smaller by 0.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

# Parameters of each COLMAP model in order: f is both fx and fy, k is k1.
LENS_PARAMETERS: dict[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
    "SIMPLE_RADIAL_FISHEYE": ("f", "cx", "cy", "k1"),
    "RADIAL_FISHEYE": ("f", "cx", "cy", "k1", "k2"),
    "SIMPLE_FISHEYE": ("f", "cx", "cy"),
    "FISHEYE": ("fx", "fy", "cx", "cy"),
}
"""Parameter names of the camera models that `Lens.from_parameters` accepts, in the order of COLMAP's files."""

MAX_FISHEYE_FOV_RAD = np.deg2rad(120.0)
"""Largest horizontal or vertical field of view of the pinhole view of a fisheye image."""
_EDGE = 65  # samples per side of the image border
_NEWTON_STEPS = 50
_TOLERANCE = 1e-12


class PinholeView(NamedTuple):
    """A pinhole camera that shows the undistorted image, of the same size, without black borders."""

    K: Float[np.ndarray, "3 3"]
    fov_rad: tuple[float, float]
    """Full field of view (vertical, horizontal) of the view."""
    lost_fov_rad: tuple[float, float]
    """Field of view (vertical, horizontal), along the image axes, that the source has and the view lacks."""


@dataclass(frozen=True, kw_only=True)
class Lens:
    """A camera model with distortion: perspective (Brown-Conrady, rational) or fisheye (equidistant).

    perspective: pixel = f * distorted (x/z, y/z) + c with radial factor (1 + k1 r^2 + k2 r^4 + k3 r^6) /
    (1 + k4 r^2 + k5 r^4 + k6 r^6) and the tangential terms p1, p2. fisheye: the angle to the axis becomes the radius
    theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8).

    Raises:
        ValueError: focal lengths that are not positive, numbers that are not finite, tangential terms of a fisheye.
    """

    kind: Literal["perspective", "fisheye"] = "perspective"
    fx: float | int
    fy: float | int
    cx: float | int
    cy: float | int
    radial: tuple[float | int, ...] = ()
    """k1, k2, ...: up to 6 for perspective, up to 4 for fisheye; trailing zeros may be left out."""
    tangential: tuple[float | int, float | int] = (0.0, 0.0)
    """p1, p2."""

    def __post_init__(self) -> None:
        limit = 6 if self.kind == "perspective" else 4
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.radial, *self.tangential)
        if not np.isfinite(numbers).all() or min(self.fx, self.fy) <= 0:
            raise ValueError(f"Lens: {numbers} must be finite, with focal lengths above zero")
        if len(self.radial) > limit or (self.kind == "fisheye" and any(self.tangential)):
            raise ValueError(f"Lens: a {self.kind} lens has {limit} radial terms, and only perspective ones p1 and p2")

    @staticmethod
    def from_parameters(model: str, parameters: Sequence[float | int] | np.ndarray) -> "Lens":
        """The lens of a COLMAP camera: model name and parameters in COLMAP's order. ValueError for other models."""
        if model not in LENS_PARAMETERS:
            raise ValueError(f"Lens: camera model {model!r} is not one of {', '.join(LENS_PARAMETERS)}")
        names = LENS_PARAMETERS[model]
        if len(parameters) != len(names):
            raise ValueError(f"Lens: {len(parameters)} parameters for {model}, expected {', '.join(names)}")
        value = {name: float(number) for name, number in zip(names, parameters, strict=True)}
        return Lens(
            kind="fisheye" if "FISHEYE" in model else "perspective",
            fx=value.get("fx", value.get("f", 0.0)),
            fy=value.get("fy", value.get("f", 0.0)),
            cx=value["cx"],
            cy=value["cy"],
            radial=_trimmed([value.get(f"k{i}", 0.0) for i in range(1, 7)]),
            tangential=(value.get("p1", 0.0), value.get("p2", 0.0)),
        )

    @property
    def is_pinhole(self) -> bool:
        """Whether the lens bends nothing, so that K alone describes it."""
        return self.kind == "perspective" and not any(self.radial) and not any(self.tangential)

    @property
    def K(self) -> Float[np.ndarray, "3 3"]:  # noqa: N802
        """Focal lengths and principal point as a matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def resized(self, scale_x: float | int, scale_y: float | int) -> "Lens":
        """The lens for images scaled by these factors."""
        return replace(self, fx=self.fx * scale_x, fy=self.fy * scale_y, cx=self.cx * scale_x, cy=self.cy * scale_y)

    def limit(self) -> float:
        """Largest radius (perspective: r = tan of the angle to the axis; fisheye: the angle in radians) in the domain.

        Up to there the radial function rises, so that every pixel belongs to one direction; inf if it always does.
        """
        return _limit(self)

    def project(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
        """Pixels of points in the camera frame; NaN behind a perspective camera and outside the model's domain."""
        shape = points.shape[:-1]
        x, y, z = np.asarray(points, dtype=np.float64).reshape(-1, 3).T
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind == "fisheye":
                radius = np.hypot(x, y)
                angle = np.arctan2(radius, z)
                factor = np.where(radius > 0, self._radial(angle) / radius, 1 / z)
                bad = (angle >= min(_limit(self), np.pi)) | ((radius == 0) & (z <= 0))
                u, v = x * factor, y * factor
            else:
                x, y = x / z, y / z
                bad = ~(z > 0) | (np.hypot(x, y) >= _limit(self))
                u, v = self._bend(x, y)
        pixels = np.stack([self.fx * u + self.cx, self.fy * v + self.cy], axis=-1)
        pixels[bad] = np.nan
        return pixels.reshape(*shape, 2)

    def unproject(self, pixels: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 3"]:
        """Unit directions in the camera frame of pixels; NaN for pixels that no direction in the domain reaches."""
        shape = pixels.shape[:-1]
        u, v = ((np.asarray(pixels, dtype=np.float64).reshape(-1, 2) - (self.cx, self.cy)) / (self.fx, self.fy)).T
        bent = np.hypot(u, v)
        radius = self._straighten(bent)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind == "fisheye":
                sine = np.where(bent > 0, np.sin(radius) / bent, 1.0)
                return np.stack([u * sine, v * sine, np.cos(radius)], axis=-1).reshape(*shape, 3)
            scale = np.where(bent > 0, radius / bent, 1.0)
            x, y = u * scale, v * scale
            if any(self.tangential):
                x, y = self._newton(u, v, x, y)
            norm = np.sqrt(x * x + y * y + 1)
            return np.stack([x / norm, y / norm, 1 / norm], axis=-1).reshape(*shape, 3)

    def _radial(self, r: np.ndarray) -> np.ndarray:
        """Distorted radius of an undistorted one."""
        top, bottom = _polynomials(self)
        return r * np.polyval(top, r * r) / np.polyval(bottom, r * r)

    def _slope(self, r: np.ndarray) -> np.ndarray:
        """Derivative of `_radial`."""
        top, bottom = _polynomials(self)
        s = r * r
        n, d = np.polyval(top, s), np.polyval(bottom, s)
        return n / d + 2 * s * (np.polyval(np.polyder(top), s) * d - n * np.polyval(np.polyder(bottom), s)) / d**2

    def _bend(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distorted normalized coordinates of a perspective lens."""
        top, bottom = _polynomials(self)
        s = x * x + y * y
        factor = np.polyval(top, s) / np.polyval(bottom, s)
        p1, p2 = self.tangential
        return x * factor + 2 * p1 * x * y + p2 * (s + 2 * x * x), y * factor + 2 * p2 * x * y + p1 * (s + 2 * y * y)

    def _straighten(self, bent: np.ndarray) -> np.ndarray:
        """Inverse of `_radial` inside the domain, NaN outside: Newton steps kept inside a shrinking bracket."""
        low, high = np.zeros_like(bent), np.full_like(bent, _limit(self))
        if self.kind == "fisheye":
            high = np.minimum(high, np.pi)
        while np.isinf(high).any():  # a bracket for functions that rise forever
            high = np.where(np.isinf(high), np.maximum(2 * bent, 1.0), high)
            short = self._radial(high) < bent
            high = np.where(short, high * 2, high)
            if not short.any():
                break
        reachable = bent <= self._radial(high)
        r = np.minimum(bent, high)
        for _ in range(_NEWTON_STEPS):
            error = self._radial(r) - bent
            low, high = np.where(error <= 0, r, low), np.where(error >= 0, r, high)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = r - error / self._slope(r)
            r = np.where((step > low) & (step < high), step, (low + high) / 2)
            if (np.abs(error[reachable]) <= _TOLERANCE).all():
                break
        return np.where(reachable, r, np.nan)

    def _newton(self, u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Radial and tangential distortion removed together; NaN where the steps do not converge in the domain."""
        top, bottom = _polynomials(self)
        p1, p2 = self.tangential
        for _ in range(_NEWTON_STEPS):
            got_u, got_v = self._bend(x, y)
            error_u, error_v = got_u - u, got_v - v
            if not (np.hypot(error_u, error_v) > _TOLERANCE).any():
                break
            s = x * x + y * y
            n, d = np.polyval(top, s), np.polyval(bottom, s)
            factor = n / d
            slope = (np.polyval(np.polyder(top), s) * d - n * np.polyval(np.polyder(bottom), s)) / d**2
            xx = factor + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
            yy = factor + 2 * y * y * slope + 2 * p2 * x + 6 * p1 * y
            xy = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
            determinant = xx * yy - xy * xy
            x = x - (yy * error_u - xy * error_v) / determinant
            y = y - (xx * error_v - xy * error_u) / determinant
        got_u, got_v = self._bend(x, y)
        good = (np.hypot(got_u - u, got_v - v) < 1e-9) & (np.hypot(x, y) < _limit(self))
        return np.where(good, x, np.nan), np.where(good, y, np.nan)


@lru_cache(maxsize=4096)
def pinhole_view(lens: Lens, width: int, height: int) -> PinholeView:
    """The largest pinhole view of a distorted image without black borders, centered on the same principal point.

    The view has the size of the image; its focal lengths are the lens's times one factor.

    Raises:
        ValueError: the lens leaves no such view (the model is not valid around the principal point, or the principal
            point is outside the image).
    """
    if lens.is_pinhole:
        return PinholeView(lens.K, _fov(lens.K, width, height), (0.0, 0.0))
    if not (0.5 < lens.cx < width - 0.5 and 0.5 < lens.cy < height - 0.5):
        raise ValueError(
            f"pinhole_view: the principal point ({lens.cx:g}, {lens.cy:g}) is outside of the {width} x {height} image"
        )
    # the border of the source, as pixel offsets of an undistorted image with the lens's focal lengths
    border = lens.unproject(_border(width, height))
    rays = border[np.isfinite(border).all(axis=-1) & (border[:, 2] > 1e-6)]
    if (radius := lens.limit()) != np.inf and len(rays) < len(border):  # the domain ends inside the image
        angle = np.linspace(0, 2 * np.pi, 4 * _EDGE)
        tangent = np.tan(radius) if lens.kind == "fisheye" else radius
        if lens.kind == "perspective" or radius < np.pi / 2:
            edge = 0.999 * tangent * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
            rays = np.concatenate([rays, np.concatenate([edge, np.ones((len(edge), 1))], axis=-1)])
    x, y = rays[:, 0] / rays[:, 2] * lens.fx, rays[:, 1] / rays[:, 2] * lens.fy
    # how far out, in units of the image rectangle, each of these points is; the nearest one decides
    out = np.maximum(
        np.where(x > 0, x / (width - 0.5 - lens.cx), -x / (lens.cx - 0.5)),
        np.where(y > 0, y / (height - 0.5 - lens.cy), -y / (lens.cy - 0.5)),
    )
    zoom = 1 / float(out.min(initial=np.inf))
    if lens.kind == "fisheye":
        zoom = max(
            zoom, *(size / 2 / f / np.tan(MAX_FISHEYE_FOV_RAD / 2) for size, f in ((width, lens.fx), (height, lens.fy)))
        )
    if not 0 < zoom < 100:
        raise ValueError("pinhole_view: the distortion is not valid around the principal point; check its coefficients")
    K = lens.K
    K[0, 0] *= zoom
    K[1, 1] *= zoom
    fov = _fov(K, width, height)
    source = _source_fov(lens, width, height)
    return PinholeView(K, fov, (max(0.0, source[0] - fov[0]), max(0.0, source[1] - fov[1])))


def undistortion_maps(
    lens: Lens, K: Float[np.ndarray, "3 3"], width: int, height: int
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Source column and row for every pixel of a pinhole image with K, for `cv2.remap` (pixel centers at 0).

    Pixels that the lens does not see get -1e6, which is outside of every image.
    """
    u = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    v = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    x, y = np.broadcast_arrays(u[None, :], v[:, None])
    source = lens.project(np.stack([x, y, np.ones_like(x)], axis=-1)) - 0.5
    source = np.nan_to_num(source, nan=-1e6).astype(np.float32)
    return source[..., 0], source[..., 1]


def _trimmed(values: list[float]) -> tuple[float, ...]:
    while values and values[-1] == 0:
        values = values[:-1]
    return tuple(values)


def _polynomials(lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of the radial factor as polynomials of r^2, highest power first."""
    if lens.kind == "fisheye":
        return np.array([*lens.radial[::-1], 1.0]), np.ones(1)
    return np.array([*lens.radial[:3][::-1], 1.0]), np.array([*lens.radial[3:][::-1], 1.0])


@lru_cache(maxsize=4096)
def _limit(lens: Lens) -> float:
    """First radius where the radial function stops rising or its denominator vanishes."""
    top, bottom = _polynomials(lens)
    rise = np.polymul(np.polymul(np.array([2.0, 0.0]), np.polyder(top)), bottom)
    fall = np.polymul(np.polymul(np.array([2.0, 0.0]), np.polyder(bottom)), top)
    slope = np.polysub(np.polyadd(np.polymul(top, bottom), rise), fall)
    roots = np.concatenate([np.roots(slope), np.roots(bottom)])
    real = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 1e-12)]
    return float(np.sqrt(real.min())) if len(real) else float("inf")


def _border(width: int, height: int) -> np.ndarray:
    """Pixel centers along the border of an image."""
    u, v = np.linspace(0.5, width - 0.5, _EDGE), np.linspace(0.5, height - 0.5, _EDGE)
    sides = [(u, np.full(_EDGE, 0.5)), (u, np.full(_EDGE, height - 0.5))]
    sides += [(np.full(_EDGE, 0.5), v), (np.full(_EDGE, width - 0.5), v)]
    return np.concatenate([np.stack(side, axis=-1) for side in sides])


def _fov(K: np.ndarray, width: int, height: int) -> tuple[float, float]:
    """Field of view (vertical, horizontal) along the axes through the principal point."""
    return (
        float(np.arctan(K[1, 2] / K[1, 1]) + np.arctan((height - K[1, 2]) / K[1, 1])),
        float(np.arctan(K[0, 2] / K[0, 0]) + np.arctan((width - K[0, 2]) / K[0, 0])),
    )


def _source_fov(lens: Lens, width: int, height: int) -> tuple[float, float]:
    """Field of view (vertical, horizontal) of the distorted image along the axes through the principal point."""
    ends = np.array([[lens.cx, 0], [lens.cx, height], [0, lens.cy], [width, lens.cy]], dtype=np.float64)
    rays = lens.unproject(ends)
    edge = lens.limit() if lens.kind == "fisheye" else np.arctan(lens.limit())
    angle = np.nan_to_num(np.arccos(np.clip(rays[:, 2], -1, 1)), nan=min(edge, np.pi))
    return float(angle[0] + angle[1]), float(angle[2] + angle[3])
