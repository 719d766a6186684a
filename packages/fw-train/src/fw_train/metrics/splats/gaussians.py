"""Gaussians as trained tensors: initialization from points or at random, and export as the PLY of 3DGS viewers.

Axis legend: n Gaussians, F frames, H W pixels; OpenCV world axes; quaternions are (w, x, y, z).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fw_core.files import replacing
from fw_model.pipeline.result import World

SH_C0 = 0.28209479177387814
"""Value of the constant spherical harmonic, sqrt(1 / (4 pi))."""
_START_OPACITY = 0.5
_CHUNK = 1024
_PROPERTIES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussians:
    """Parameters before their activations, as a 3DGS PLY stores them."""

    centers: Float[Tensor, "n 3"]
    """World positions."""
    log_scales: Float[Tensor, "n 3"]
    """Natural logarithm of the standard deviations along the axes."""
    quaternions: Float[Tensor, "n 4"]
    """Rotations, not normalized."""
    opacity_logits: Float[Tensor, "n"]
    """Logit of the opacity."""
    colors: Float[Tensor, "n 3"]
    """RGB, 0 to 1; the same from every direction."""

    def tensors(self) -> list[Tensor]:
        """All parameters, in the order of the fields."""
        return [self.centers, self.log_scales, self.quaternions, self.opacity_logits, self.colors]


def from_points(
    points: Float[np.ndarray, "n 3"], colors: Float[np.ndarray, "n 3"], *, device: torch.device
) -> Gaussians:
    """Round Gaussians at points, as wide as the mean distance to their three nearest neighbors."""
    distance = _spacing(points)
    scale = np.log(np.maximum(distance, 1e-4 * max(float(np.abs(points).max()), 1e-6)))

    def tensor(values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return Gaussians(
        centers=tensor(points),
        log_scales=tensor(np.repeat(scale[:, None], 3, axis=1)),
        quaternions=tensor(np.tile([1.0, 0, 0, 0], (len(points), 1))),
        opacity_logits=tensor(np.full(len(points), np.log(_START_OPACITY / (1 - _START_OPACITY)))),
        colors=tensor(colors),
    )


def _spacing(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    """Mean distance of every point to its three nearest neighbors."""
    others = torch.from_numpy(points).float()
    nearest = [torch.cdist(part, others).topk(4, largest=False).values[:, 1:] for part in others.split(_CHUNK)]
    return torch.cat(nearest).mean(dim=1).double().numpy()


def from_geometry(world: World, frames: list[int], count: int, *, device: torch.device) -> Gaussians:
    """Gaussians at `count` points of the world's depth in some frames, with their colors."""
    points = world.points_from_depth()[frames].reshape(-1, 3).astype(np.float64)
    colors = world.video[frames].reshape(-1, 3) / 255
    some = np.random.default_rng(0).choice(len(points), min(count, len(points)), replace=False)
    return from_points(points[some], colors[some], device=device)


def at_random(world: World, frames: list[int], count: int, *, device: torch.device) -> Gaussians:
    """Gaussians without the world's geometry: on random rays of some frames, at random distances and in gray.

    Distances are uniform in 1 / z between 0.3 and 3 times the median depth, which sets the unit of length alone.
    """
    rng = np.random.default_rng(0)
    height, width = world.video.shape[1:3]
    frame = rng.choice(frames, count)
    pixel = np.stack([rng.uniform(0, width, count), rng.uniform(0, height, count), np.ones(count)], axis=-1)
    rays = np.einsum("nij,nj->ni", np.linalg.inv(world.trajectory.K[frame]), pixel)
    z = float(np.median(world.depth)) / rng.uniform(1 / 3, 1 / 0.3, count)
    poses = world.trajectory.pose_c2w[frame]
    points = np.einsum("nij,nj->ni", poses[:, :3, :3], rays * z[:, None]) + poses[:, :3, 3]
    return from_points(points, np.full((count, 3), 0.5), device=device)


def write_splat_ply(path: Path, gaussians: Gaussians) -> Path:
    """Write the binary PLY of 3DGS, which SuperSplat, gsplat's viewer and others open."""
    values = [tensor.detach().cpu().numpy() for tensor in gaussians.tensors()]
    centers, log_scales, quaternions, opacity, colors = values
    unit = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    harmonic = (colors - 0.5) / SH_C0
    rows = np.concatenate([centers, np.zeros_like(centers), harmonic, opacity[:, None], log_scales, unit], axis=1)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [*(f"property float {name}" for name in _PROPERTIES), "end_header", ""]
    with replacing(path) as partial:
        partial.write_bytes("\n".join(header).encode() + rows.astype("<f4").tobytes())
    return path
