"""Dense prediction head (depth, or points): four taps, the deepest enlarged most, fused coarse to fine.

Axes: b batch, f latent frames, t output frames, l tokens of a frame, e feature width (2 x geometry width), c channels,
y x rows and columns of a stream, H W output pixels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fw_core.devices import float64_device
from fw_model.config import TOKEN_PIXELS, GeometryConfig
from fw_model.geometry.temporal import TemporalUpsampler, UpsamplerState
from fw_model.layers.declarations import EMBEDDING, KEEP_POWER, KEEP_POWER_ENLARGING, Declares, Fill, Layer
from fw_model.layers.float32 import ExactConv2d, Float32Module

_EPS = 1e-5
_POSITION_WEIGHT = 0.1
_POSITION_BASE = 100.0
_UNSURE = -3.0
CHUNK_FRAMES = 4
"""Default number of latent frames fused at a time; the result does not depend on it beyond rounding."""

States = tuple[UpsamplerState, ...]


class DensePrediction(NamedTuple):
    """A dense map and how sure the model is of it (1 + exp, so above 1)."""

    value: Float[Tensor, "b t H W o"]
    confidence: Float[Tensor, "b t H W"]


class DPTHead(Float32Module, Declares):
    """Depth (`exp`) or point (`inverse_log`) maps and confidences for every output frame; weights in float32."""

    group = "geometry"
    part = "dense heads"

    def __init__(
        self,
        config: GeometryConfig,
        *,
        out: int,
        activation: Literal["exp", "inverse_log"],
        rectified_skip: bool = True,
    ) -> None:
        super().__init__()
        width, features = 2 * config.width, config.dpt_features
        self.activation = activation
        self.chunk_frames: int | None = CHUNK_FRAMES
        self.checkpointing = False
        self.norm = nn.LayerNorm(width, eps=_EPS)
        resizes = (_enlarge(config.dpt_channels[0], 4), _enlarge(config.dpt_channels[1], 2), nn.Identity(), None)
        self.streams = nn.ModuleList(
            [
                _Stream(width, channels, features, resize or _shrink(channels))
                for channels, resize in zip(config.dpt_channels, resizes, strict=True)
            ]
        )
        self.fusions = nn.ModuleList([_Fusion(features, skip=i < 3, rectified=rectified_skip) for i in range(4)])
        self.conv1 = nn.Conv2d(features, features // 2, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(features // 2, config.dpt_hidden, kernel_size=3, padding=1)
        # in bfloat16 a frame would have some hundred distinct depths
        self.conv3 = ExactConv2d(config.dpt_hidden, out + 1, kernel_size=1)

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """New maps: everything one unit ahead (depth exp(0), points z expm1(log 2)), with hardly any confidence.

        A bias moves by one learning rate per step. Whatever it lacks, a network of this depth compensates for with
        features that are equal for every clip, and those drown the others.
        """

        def plain_scene(value: Tensor, _generator: torch.Generator, _fan_in: int) -> None:
            value.zero_()
            value[-1] = _UNSURE
            if len(value) > 3:
                value[2] = math.log(2.0)

        return {
            "": KEEP_POWER,
            "streams.0.resize": KEEP_POWER_ENLARGING,
            "streams.1.resize": KEEP_POWER_ENLARGING,
            "conv3": Layer(EMBEDDING.weight, plain_scene),
        }

    def forward(
        self,
        taps: tuple[Float[Tensor, "b f l e"], ...],
        rows: int,
        columns: int,
        output_frames: Sequence[int] | None = None,
    ) -> DensePrediction:
        """Turn the four taps' patch tokens (a grid of rows x columns) into maps, a few latent frames at a time.

        Args:
            taps: features of the tapped layers, the deepest first.
            rows: token rows.
            columns: token columns.
            output_frames: ascending output frames to predict; None: all. The up-sampling in time, which is cheap, runs
                on all frames; the fusion, which is not, on these alone.
        """
        frames = taps[0].shape[1]
        step = self.chunk_frames or frames
        states: States | None = None
        chunks: list[Tensor] = []
        for start in range(0, frames, step):
            part = tuple(tap[:, start : start + step] for tap in taps)
            wanted = None if output_frames is None else _inside_chunk(output_frames, start, start + part[0].shape[1])
            if self.checkpointing and torch.is_grad_enabled():
                result = checkpoint(self._chunk, part, states, rows, columns, wanted, use_reentrant=False)
                chunk, states = cast("tuple[Tensor, States]", result)
            else:
                chunk, states = self._chunk(part, states, rows, columns, wanted)
            chunks.append(chunk)
        return _activate(torch.cat(chunks, dim=1), self.activation)

    def _chunk(
        self, taps: tuple[Tensor, ...], states: States | None, rows: int, columns: int, wanted: list[int] | None
    ) -> tuple[Tensor, States]:
        aspect = columns / rows
        maps, after = [], []
        for i, (stream, tap) in enumerate(zip(self.streams, taps, strict=True)):
            grid = rearrange(self.norm(tap).to(tap.dtype), "b f (h w) e -> b f e h w", h=rows, w=columns)
            x, state = stream(grid, aspect, None if states is None else states[i])
            maps.append(x if wanted is None else x[:, wanted])
            after.append(state)
        if wanted == []:
            return taps[0].new_zeros(taps[0].shape[0], 0, *self._empty(rows, columns)), tuple(after)
        x = self._fuse(tuple(rearrange(m, "b t c y x -> (b t) c y x") for m in maps), rows, columns, aspect)
        return rearrange(x, "(b t) o H W -> b t H W o", b=taps[0].shape[0]), tuple(after)

    def _empty(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Height, width and channels of a map, for a chunk without wanted frames."""
        return TOKEN_PIXELS * rows, TOKEN_PIXELS * columns, self.conv3.out_channels

    def _fuse(self, maps: tuple[Tensor, ...], rows: int, columns: int, aspect: float) -> Tensor:
        x: Tensor | None = None
        for i in (3, 2, 1, 0):
            below = maps[i - 1].shape[-2:] if i else [2 * n for n in maps[0].shape[-2:]]
            x = self.fusions[i](maps[i] if x is None else x, None if x is None else maps[i], tuple(below))
        assert x is not None
        x = _resize(self.conv1(x), (TOKEN_PIXELS * rows, TOKEN_PIXELS * columns))
        x = x + _positions_like(x, aspect)
        return self.conv3(F.relu(self.conv2(x).to(self.conv3.weight.dtype)))


class _Stream(nn.Module):
    """One tap: projection, position, spatial resize, temporal up-sampling, and a convolution to the fusion width."""

    def __init__(self, width: int, channels: int, features: int, resize: nn.Module) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, channels, kernel_size=1)
        self.resize = resize
        self.upsample = TemporalUpsampler(channels)
        self.fuse_in = nn.Conv2d(channels, features, kernel_size=3, padding=1, bias=False)

    def forward(
        self, x: Float[Tensor, "b f e h w"], aspect: float, state: UpsamplerState | None
    ) -> tuple[Float[Tensor, "b t c y x"], UpsamplerState]:
        batch = x.shape[0]
        x = self.project(x.flatten(0, 1))
        x = self.resize(x + _positions_like(x, aspect))
        x, after = self.upsample(rearrange(x, "(b f) c y x -> b c f y x", b=batch), state)
        x = self.fuse_in(_images(x))
        return rearrange(x, "(b t) c y x -> b t c y x", b=batch), after


class _Fusion(nn.Module):
    """Add a finer map, refine, resize to the next finer grid."""

    def __init__(self, features: int, *, skip: bool, rectified: bool) -> None:
        super().__init__()
        self.skip_unit = _ResidualUnit(features, rectified) if skip else None
        self.unit = _ResidualUnit(features, rectified)
        self.out_conv = nn.Conv2d(features, features, kernel_size=1)

    def forward(
        self, x: Float[Tensor, "n c y x"], skip: Float[Tensor, "n c y x"] | None, size: tuple[int, int]
    ) -> Float[Tensor, "n c Y X"]:
        if self.skip_unit is not None and skip is not None:
            x = x + self.skip_unit(skip)
        return self.out_conv(_resize(self.unit(x), size))


class _ResidualUnit(nn.Module):
    """conv2(relu(conv1(relu(x)))) + x; with `rectified` the skip is relu(x) as well."""

    def __init__(self, features: int, rectified: bool) -> None:
        super().__init__()
        self.rectified = rectified
        self.conv1 = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(features, features, kernel_size=3, padding=1)

    def forward(self, x: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c y x"]:
        positive = F.relu(x)
        return self.conv2(F.relu(self.conv1(positive))) + (positive if self.rectified else x)


def _inside_chunk(output_frames: Sequence[int], start: int, stop: int) -> list[int]:
    """Places, among the output frames of latent frames start..stop - 1, of those that are wanted."""
    first, last = (1 + 4 * (latent - 1) if latent else 0 for latent in (start, stop))
    return [frame - first for frame in output_frames if first <= frame < last]


def _images(x: Float[Tensor, "b c t y x"]) -> Float[Tensor, "n c y x"]:
    """Frames as images with the channels innermost, the order in which convolutions are fastest."""
    return rearrange(rearrange(x, "b c t y x -> (b t) y x c"), "n y x c -> n c y x")


def position_grid(columns: int, rows: int, aspect: float, device: torch.device) -> Float[Tensor, "y x 2"]:
    """Centered (u, v) of a grid on the unit-diagonal image plane; `aspect` is width / height of the image."""
    diagonal = (aspect**2 + 1) ** 0.5
    u = _span(aspect / diagonal, columns, device)
    v = _span(1 / diagonal, rows, device)
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)


def position_embedding(grid: Float[Tensor, "y x 2"], channels: int) -> Float[Tensor, "y x c"]:
    """Sines and cosines of u, then of v, each `channels / 4` long, base 100; float32."""
    quarter, device = channels // 4, float64_device(grid.device)
    rate = _POSITION_BASE ** -(torch.arange(quarter, dtype=torch.float64, device=device) / quarter)
    angles = grid.to(device)[..., None].to(torch.float64) * rate
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2).float().to(grid.device)


def _span(half: float, count: int, device: torch.device) -> Tensor:
    edge = half * (count - 1) / count
    wide = torch.linspace(-edge, edge, count, dtype=torch.float64, device=float64_device(device))
    return wide.float().to(device)


def _positions_like(x: Tensor, aspect: float) -> Tensor:
    grid = position_grid(x.shape[-1], x.shape[-2], aspect, x.device)
    embedding = position_embedding(grid, x.shape[1]) * _POSITION_WEIGHT
    return embedding.permute(2, 0, 1).to(x.dtype)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _activate(logits: Float[Tensor, "b t H W o"], activation: str) -> DensePrediction:
    value, confidence = logits[..., :-1].float(), logits[..., -1].float()
    value = value.exp() if activation == "exp" else value.sign() * value.abs().expm1()
    return DensePrediction(value, 1 + confidence.exp())


def _enlarge(channels: int, factor: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, channels, kernel_size=factor, stride=factor)


def _shrink(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)
