"""Rotary position embedding: 3-D over frames, rows and columns for video, 2-D over rows and columns for geometry.

Axes: b batch, l tokens, h heads, d head width, r = d/2 rotated pairs. Token order: frame, row, column, column fastest.
Angles are made in float64 and kept as float32 cosines and sines, in buffers that no cast of the model touches.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from fw_model.config import MAX_GRID
from fw_model.parallel.sequence import Share, split


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles, float32."""

    cos: Float[Tensor, "l r"]
    sin: Float[Tensor, "l r"]

    def part(self, share: Share | None) -> "Rotation":
        """Angles of the tokens of this process."""
        return Rotation(split(self.cos, share, dim=0), split(self.sin, share, dim=0))


class AxisTables(nn.Module):
    """Cosines and sines of position x rate for several axes; non-persistent, always float32.

    `parts[a]` is the number of channels of axis a, `rate(part)` gives its `part / 2` angular rates in float64.
    """

    def __init__(self, parts: tuple[int, ...], rate: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.parts = parts
        self._rate = rate
        for axis in range(len(parts)):
            cos, sin = self._table(axis)
            self.register_buffer(f"cos{axis}", cos, persistent=False)
            self.register_buffer(f"sin{axis}", sin, persistent=False)

    def forward(self, axis: int, positions: int) -> tuple[Float[Tensor, "n r"], Float[Tensor, "n r"]]:
        """Tables of positions 0..positions-1."""
        if positions > MAX_GRID:
            raise ValueError(f"A grid of {positions} along one axis exceeds the {MAX_GRID} positions that are tabled.")
        return self.get_buffer(f"cos{axis}")[:positions], self.get_buffer(f"sin{axis}")[:positions]

    def _table(self, axis: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(MAX_GRID, dtype=torch.float64, device="cpu")
        angles = torch.outer(positions, self._rate(self.parts[axis]))
        return angles.cos().float(), angles.sin().float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AxisTables":
        super()._apply(fn, recurse)
        for axis in range(
            len(self.parts)
        ):  # a cast or to_empty spoils the tables: rewrite them on their present device
            for name, table in zip(("cos", "sin"), self._table(axis), strict=True):
                device = self.get_buffer(f"{name}{axis}").device
                self._buffers[f"{name}{axis}"] = table.to("cpu" if device.type == "meta" else device)
        return self


class VideoRope(nn.Module):
    """3-D rotary embedding of Wan: adjacent channel pairs, base 10000, parts (time, row, column)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        third = 2 * (head_dim // 6)
        self.tables = AxisTables((head_dim - 2 * third, third, third), _video_rate)

    def forward(self, frames: int, rows: int, columns: int, num_special_tokens: int = 0) -> Rotation:
        """Angles of a token grid; `num_special_tokens` unrotated tokens precede the patches of each frame."""
        time, row, column = (self.tables(axis, n) for axis, n in enumerate((frames, rows, columns)))
        cos, sin = (_grid(time[i], row[i], column[i]) for i in (0, 1))
        if num_special_tokens:
            cos = torch.cat([cos.new_ones(frames, num_special_tokens, cos.shape[-1]), cos], dim=1)
            sin = torch.cat([sin.new_zeros(frames, num_special_tokens, sin.shape[-1]), sin], dim=1)
        return Rotation(cos.flatten(0, 1), sin.flatten(0, 1))


class PlaneRope(nn.Module):
    """2-D rotary embedding of the geometry layers: half-split rotation, base 100; first half rows, second half columns.

    Specials sit at (0, 0), the patch in row i and column j at (i + 1, j + 1); every frame has the same positions.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.tables = AxisTables((head_dim // 2,), _plane_rate)

    def forward(self, rows: int, columns: int, num_special_tokens: int) -> Rotation:
        """Angles of one frame, row half then column half."""
        positions = max(rows, columns) + 1
        cos, sin = self.tables(0, positions)
        grid = plane_positions(rows, columns, num_special_tokens, cos.device)
        return Rotation(cos[grid].flatten(1), sin[grid].flatten(1))


def plane_positions(
    rows: int, columns: int, num_special_tokens: int, device: torch.device | None = None
) -> Int[Tensor, "m 2"]:
    """Integer (row, column) positions of the m = num_special_tokens + rows * columns tokens of one frame."""
    row, column = torch.arange(1, rows + 1, device=device), torch.arange(1, columns + 1, device=device)
    patches = torch.cartesian_prod(row, column)
    return torch.cat([patches.new_zeros(num_special_tokens, 2), patches])


def turn_by_frame(rotation: Rotation, frames: int) -> Rotation:
    """Angles of a whole clip, turned further by latent frame times a rate that falls from pair to pair.

    Args:
        rotation: angles of all frames' tokens, frame by frame.
        frames: latent frames.
    """
    length, pairs = rotation.cos.shape
    rate = 10.0 ** -(torch.arange(pairs, dtype=torch.float64, device="cpu") / pairs)
    angle = torch.outer(torch.arange(frames, dtype=torch.float64, device="cpu"), rate).repeat_interleave(
        length // frames, dim=0
    )
    cos, sin = angle.cos().to(rotation.cos), angle.sin().to(rotation.sin)
    return Rotation(rotation.cos * cos - rotation.sin * sin, rotation.sin * cos + rotation.cos * sin)


def rotate_pairs(x: Float[Tensor, "b l h d"], rotation: Rotation) -> Float[Tensor, "b l h d"]:
    """Rotate adjacent channel pairs (2k, 2k+1) as complex numbers, in float32.

    One pass over memory; the compiler, which has no complex numbers, is given the same in real ones.
    """
    if torch.compiler.is_compiling():
        return rotate_pairs_real(x, rotation)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turned = pairs * torch.complex(rotation.cos, rotation.sin)[:, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def rotate_pairs_real(x: Float[Tensor, "b l h d"], rotation: Rotation) -> Float[Tensor, "b l h d"]:
    """`rotate_pairs` in real numbers."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotation.cos[:, None], rotation.sin[:, None]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def rotate_halves(x: Float[Tensor, "b l h d"], rotation: Rotation) -> Float[Tensor, "b l h d"]:
    """Rotate, inside each half of the head width, channel k with channel k + d/4, in float32."""
    first, second = x.float().unflatten(-1, (2, 2, -1)).unbind(-2)
    cos, sin = (part.unflatten(-1, (2, -1))[:, None] for part in rotation)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-2).flatten(-3).to(x.dtype)


def _grid(time: Tensor, row: Tensor, column: Tensor) -> Tensor:
    f, h, w = time.shape[0], row.shape[0], column.shape[0]
    parts = (
        repeat(time, "f r -> f (h w) r", h=h, w=w),
        repeat(row, "h r -> f (h w) r", f=f, w=w),
        repeat(column, "w r -> f (h w) r", f=f, h=h),
    )
    return torch.cat(parts, dim=-1)


def _video_rate(part: int) -> Tensor:
    return 10000.0 ** -(torch.arange(0, part, 2, dtype=torch.float64, device="cpu") / part)


def _plane_rate(part: int) -> Tensor:
    return 100.0 ** -(torch.arange(0, part, 2, dtype=torch.float64, device="cpu") / part)
