"""Pixels, rays and points in torch: unproject, project and the Pluecker rays that carry the camera into the model.

Axis legend: OpenCV axes (x right, y down, z forward), camera-to-world poses. The center of pixel (column i, row j) is
(i + 0.5, j + 0.5). Depth is z-depth. Shapes: b batch, F video frames, f latent frames, h rows, w columns.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def pixel_grid(
    height: int, width: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "h w 2"]:
    """Pixel centers (h, w, 2) as (x, y): x = column + 0.5, y = row + 0.5."""
    y = torch.arange(height, dtype=dtype, device=device) + 0.5
    x = torch.arange(width, dtype=dtype, device=device) + 0.5
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1)


def unproject(
    depth: Float[Tensor, "*b h w"], K: Float[Tensor, "*k 3 3"], pose_c2w: Float[Tensor, "*p 4 4"] | None = None
) -> Float[Tensor, "*b h w 3"]:
    """Point map of a depth map: the 3D point that each pixel center sees.

    Args:
        depth: z-depth; 0 gives the camera center, so mask invalid pixels yourself.
        K: intrinsics in pixels, leading dims broadcast against those of depth.
        pose_c2w: if given, points are in the world frame, else in the camera frame.

    Returns:
        (..., h, w, 3) points in the unit of depth.
    """
    height, width = depth.shape[-2:]
    points = _camera_rays(K, height, width) * depth[..., None]
    if pose_c2w is not None:
        points = _transform(pose_c2w[..., None, None, :, :], points)
    return points


def project(
    points: Float[Tensor, "*b 3"], K: Float[Tensor, "*k 3 3"], pose_w2c: Float[Tensor, "*p 4 4"] | None = None
) -> tuple[Float[Tensor, "*c 2"], Float[Tensor, "*c"]]:
    """Pixel positions and z-depths of points; the inverse of `unproject`.

    Args:
        points: (..., 3) in the world frame, or in the camera frame if `pose_w2c` is None.
        K: (..., 3, 3) in pixels. Its leading dims line up with the FIRST dims of points: points (f, h, w, 3) go with K
            (f, 3, 3), and a single K (3, 3) goes with any points. Dims of size 1 broadcast.
        pose_w2c: world-to-camera, leading dims like K.

    Returns:
        uv: (..., 2) pixel position; a pixel is hit when its indices are floor(uv).
        depth: (...) z-depth. Where it is not positive the point is not in front of the camera and uv means nothing.
    """
    batch_dims = points.ndim - 1
    if pose_w2c is not None:
        points = _transform(_pad_dims(pose_w2c, batch_dims), points)
    z = points[..., 2]
    tiny = torch.finfo(points.dtype).tiny ** 0.5
    safe_z = torch.where(z.abs() < tiny, torch.full_like(z, tiny), z)
    K = _pad_dims(K, batch_dims)
    u = K[..., 0, 0] * points[..., 0] / safe_z + K[..., 0, 2]
    v = K[..., 1, 1] * points[..., 1] / safe_z + K[..., 1, 2]
    return torch.stack([u, v], dim=-1), z.expand_as(u)


def plucker_rays(
    K: Float[Tensor, "*b 3 3"], pose_c2w: Float[Tensor, "*b 4 4"], height: int, width: int
) -> Float[Tensor, "*b h w 6"]:
    """Pluecker coordinates (o x d, d) of the ray through each pixel center.

    Args:
        K: intrinsics in pixels of the height x width image.
        pose_c2w: camera-to-world; make the path relative to its first frame before you feed it to a model.
        height: rows.
        width: columns.

    Returns:
        (..., h, w, 6): moment o x d (o the camera center), then the unit direction d, both in the world frame
        (FantasyWorld 1.6, 2.6).
    """
    rays = torch.einsum("...ij,...hwj->...hwi", pose_c2w[..., :3, :3], _camera_rays(K, height, width))
    direction = rays / torch.linalg.vector_norm(rays, dim=-1, keepdim=True)
    origin = pose_c2w[..., None, None, :3, 3].expand_as(direction)
    return torch.cat([torch.linalg.cross(origin, direction, dim=-1), direction], dim=-1)


def plucker_rays_double_scaled(
    K: Float[Tensor, "*b 3 3"], pose_c2w: Float[Tensor, "*b 4 4"], height: int, width: int
) -> Float[Tensor, "*b h w 6"]:
    """The Pluecker rays that the released FantasyWorld weights were fed with: K in pixels is scaled by the size again.

    fx and cx are multiplied by width, fy and cy by height a second time, so that all rays of a frame point nearly the
    same way (close to the top-left corner). Use it with released checkpoints only; train new ones with `plucker_rays`.
    Arguments and result as there (FantasyWorld 2.6, "Pluecker quirk").
    """
    scale = torch.tensor([float(width), float(height), 1.0], dtype=K.dtype, device=K.device)
    return plucker_rays(K * scale[:, None], pose_c2w, height, width)


def pack_plucker(plucker: Float[Tensor, "b F h w 6"]) -> Float[Tensor, "b 24 f h w"]:
    """Pluecker maps of a clip folded to the latent frame rate, for the control adapter (golden rule 5.10).

    The first frame is repeated until there are 4 of it; then frames are grouped by 4:
    channel = pluecker_channel * 4 + sub_frame. F = 4 (f - 1) + 1 frames become f latent frames.

    Raises:
        ValueError: F is not 4 n + 1.
    """
    frames = plucker.shape[1]
    if frames % 4 != 1:
        raise ValueError(f"pack_plucker: {frames} frames; a clip has 4 n + 1 frames (1, 5, 9, ... 81)")
    padded = torch.cat([plucker[:, :1].expand(-1, 3, -1, -1, -1), plucker], dim=1)
    return rearrange(padded, "b (f s) h w c -> b (c s) f h w", s=4)


def _camera_rays(K: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w, 3) rays ((x - cx) / fx, (y - cy) / fy, 1) through the pixel centers, in the camera frame."""
    grid = pixel_grid(height, width, dtype=K.dtype, device=K.device)
    K = K[..., None, None, :, :]
    x = (grid[..., 0] - K[..., 0, 2]) / K[..., 0, 0]
    y = (grid[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def _transform(pose: Tensor, points: Tensor) -> Tensor:
    return torch.einsum("...ij,...j->...i", pose[..., :3, :3], points) + pose[..., :3, 3]


def _pad_dims(matrix: Tensor, batch_dims: int) -> Tensor:
    """Add dims of size 1 before the matrix dims, so that leading dims line up from the left."""
    missing = batch_dims - (matrix.ndim - 2)
    if missing < 0:
        raise ValueError(f"project: a matrix of shape {tuple(matrix.shape)} has more leading dims than the points")
    return matrix.reshape(*matrix.shape[:-2], *([1] * missing), *matrix.shape[-2:])
