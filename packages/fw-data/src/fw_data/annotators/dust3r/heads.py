"""From tokens to a point and a confidence per pixel: the linear head and the DPT head, and the output mapping.

Names of the parameters are those of released DUSt3R checkpoints. Axis legend: b batch, n tokens (row-major), d width,
c channels, r c rows and columns of a feature grid, H W pixels.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

CHANNELS = 4
"""x, y, z and confidence."""

PointMap = tuple[Float[Tensor, "b H W 3"], Float[Tensor, "b H W"]]
"""Points in the first view's camera, and their confidence (1 = none, no upper end)."""


def map_output(raw: Float[Tensor, "b 4 H W"]) -> PointMap:
    """The numbers of a head as points and confidence: direction * expm1(length), and 1 + exp."""
    xyz, confidence = raw[:, :3].movedim(1, -1), raw[:, 3]
    length = xyz.norm(dim=-1, keepdim=True)
    return xyz / length.clamp(min=1e-8) * length.expm1(), 1 + confidence.exp()


class LinearHead(nn.Module):
    """One linear to all pixels of a patch (released as 224_linear and 512_linear)."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(dim, CHANNELS * patch * patch)

    def forward(self, tokens: Sequence[Float[Tensor, "b n _"]], grid: tuple[int, int]) -> Float[Tensor, "b 4 H W"]:
        """Raw output of one view from the last of its token lists."""
        return rearrange(
            self.proj(tokens[-1]), "b (r s) (c y x) -> b c (r y) (s x)", r=grid[0], y=self.patch, x=self.patch
        )


class DptHead(nn.Module):
    """Four token lists, resampled to four scales and fused from coarse to fine (Ranftl et al. 2021; 512_dpt)."""

    def __init__(
        self,
        *,
        encoder_dim: int,
        decoder_dim: int,
        decoder_depth: int,
        dims: tuple[int, int, int, int],
        features: int,
        last: int,
    ) -> None:
        super().__init__()
        self.dpt = _Dpt((encoder_dim, decoder_dim, decoder_dim, decoder_dim), dims, features, last)
        self.hooks = (0, decoder_depth // 2, 3 * decoder_depth // 4, decoder_depth)

    def forward(self, tokens: Sequence[Float[Tensor, "b n _"]], grid: tuple[int, int]) -> Float[Tensor, "b 4 H W"]:
        """Raw output of one view; `tokens` is the encoder's output and then that of every decoder block."""
        maps = [rearrange(tokens[hook], "b (r s) d -> b d r s", r=grid[0]) for hook in self.hooks]
        return self.dpt(maps)


class _Dpt(nn.Module):
    def __init__(self, inputs: tuple[int, ...], dims: tuple[int, ...], features: int, last: int) -> None:
        super().__init__()
        resample = (
            nn.ConvTranspose2d(dims[0], dims[0], 4, stride=4),
            nn.ConvTranspose2d(dims[1], dims[1], 2, stride=2),
            nn.Identity(),
            nn.Conv2d(dims[3], dims[3], 3, stride=2, padding=1),
        )
        self.act_postprocess = nn.ModuleList(
            nn.Sequential(nn.Conv2d(into, dim, 1), change)
            for into, dim, change in zip(inputs, dims, resample, strict=True)
        )
        self.scratch = _Scratch(dims, features)
        self.head = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1),
            _Double(),
            nn.Conv2d(features // 2, last, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(last, CHANNELS, 1),
        )

    def forward(self, maps: Sequence[Float[Tensor, "b _ r s"]]) -> Float[Tensor, "b 4 H W"]:
        levels = [change(features) for change, features in zip(self.act_postprocess, maps, strict=True)]
        return self.head(self.scratch(levels))


class _Scratch(nn.Module):
    """Brings all levels to one width and fuses them, deepest first."""

    def __init__(self, dims: tuple[int, ...], features: int) -> None:
        super().__init__()
        for level, dim in enumerate(dims, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(dim, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", _Fusion(features))

    def forward(self, levels: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c r s"]:
        fused: Tensor | None = None
        for level in (4, 3, 2, 1):
            skip = self.get_submodule(f"layer{level}_rn")(levels[level - 1])
            if fused is not None:
                fused = fused[..., : skip.shape[-2], : skip.shape[-1]]  # the deepest grid was rounded up
            fused = self.get_submodule(f"refinenet{level}")(skip, fused)
        assert fused is not None
        return fused


class _Fusion(nn.Module):
    """Adds a level to what comes from below and doubles the size. The deepest level's resConfUnit1 is never used."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.resConfUnit1 = _Residual(features)
        self.resConfUnit2 = _Residual(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, skip: Float[Tensor, "b c r s"], below: Float[Tensor, "b c r s"] | None) -> Tensor:
        x = skip if below is None else below + self.resConfUnit1(skip)
        return self.out_conv(_double(self.resConfUnit2(x)))


class _Residual(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c r s"]) -> Float[Tensor, "b c r s"]:
        return x + self.conv2(relu(self.conv1(relu(x))))


class _Double(nn.Module):
    def forward(self, x: Float[Tensor, "b c r s"]) -> Tensor:
        return _double(x)


def _double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def head_precision(tokens: Sequence[Tensor]) -> list[Tensor]:
    """Token lists in float32: the heads' exponentials need it."""
    return [part.to(torch.float32) for part in tokens]
