"""GMFlow, optical flow by global matching of learned features (Xu et al., CVPR 2022), our own code.

The published network with two scales: 1/8 for matching everything with everything, 1/4 to refine it. Sections are those
of arXiv 2111.13680. Axis legend: b images, c channels, h height, w width, l places, k places of a window,
s windows; the flow is (x, y) in pixels.
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 128
LAYERS = 6
EXPANSION = 8
UPSAMPLE = 4
"""The finer scale is at a quarter of the size."""
RADIUS = 4
"""Half the window of the refinement, in pixels of the finer scale."""
MULTIPLE = 16
"""Sides of the images, per window of the finer scale."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GmFlow(nn.Module):
    """Two images to the flow between them. The order of the parts is that of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder()
        self.layers = nn.ModuleList(_Layer(shifted=bool(number % 2)) for number in range(LAYERS))
        self.spread = _Spread()
        self.upsampler = nn.Sequential(
            nn.Conv2d(2 + WIDTH, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * UPSAMPLE**2, 1)
        )

    def forward(
        self, first: Float[Tensor, "b 3 h w"], second: Float[Tensor, "b 3 h w"], windows: tuple[int, int] = (1, 2)
    ) -> Float[Tensor, "b 2 h w"]:
        """Flow from the first images to the second ones, RGB in [0, 1].

        `windows` is the number of attention windows along each side, at the coarse and the fine scale (`attn_splits`).
        The published (2, 8) is for images of 1 megapixel; at 320x256 it is wrong, and (1, 2) is right. Sides are
        multiples of 8 * windows[0] and of 4 * windows[1].
        """
        coarse, fine = self.encoder(torch.cat([first, second]))
        flow = self._match(coarse, windows[0])
        flow = F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True) * 2
        own, other = fine.chunk(2)
        own, other = self._attend(torch.cat([own, _warp(other, flow)]), windows[1]).chunk(2)
        flow = flow + _match_locally(own, other)
        return self._enlarge(self.spread.near(own, flow), own)

    def _match(self, features: Float[Tensor, "b2 c h w"], windows: int) -> Float[Tensor, "b 2 h w"]:
        """Flow by global matching; occluded positions take the flow of similar positions."""
        own, other = self._attend(features, windows).chunk(2)
        likeness = torch.einsum("bchw,bcl->bhwl", own, other.flatten(2)) / WIDTH**0.5
        grid = _grid(*own.shape[2:])
        place = likeness.softmax(dim=-1) @ grid.flatten(1).T
        return self.spread.everywhere(own, rearrange(place, "b h w xy -> b xy h w") - grid)

    def _attend(self, features: Float[Tensor, "b2 c h w"], windows: int) -> Float[Tensor, "b2 c h w"]:
        """Features of both images after six layers of attention to their own and to the other image (section 3.1)."""
        height, width = features.shape[2] // windows, features.shape[3] // windows
        place = _position(height, width).repeat(1, windows, windows)
        own = rearrange(features + place, "b c h w -> b h w c")
        for layer in self.layers:
            own = layer(own, own.roll(len(own) // 2, dims=0), windows)
        return rearrange(own, "b h w c -> b c h w")

    def _enlarge(
        self, flow: Float[Tensor, "b 2 h w"], features: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b 2 h4 w4"]:
        """Each fine pixel is a weighted mean of the nine coarse ones around it."""
        height = flow.shape[2]
        weight = self.upsampler(torch.cat([flow, features], dim=1))
        weight = rearrange(weight, "b (k y x) h w -> b 1 k y x (h w)", k=9, y=UPSAMPLE).softmax(dim=2)
        around = rearrange(F.unfold(UPSAMPLE * flow, 3, padding=1), "b (c k) l -> b c k 1 1 l", k=9)
        return rearrange((weight * around).sum(dim=2), "b c y x (h w) -> b c (h y) (w x)", h=height)


class _Encoder(nn.Module):
    """Features at 1/8 and 1/4 of the size, by one convolution with two strides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.blocks = nn.Sequential(
            _Residual(64, 64),
            _Residual(64, 64),
            _Residual(64, 96, 2),
            _Residual(96, 96),
            _Residual(96, 128),
            _Residual(128, 128),
        )
        self.conv2 = nn.Conv2d(128, WIDTH, 1)
        self.scales = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        start = F.relu(F.instance_norm(self.conv1((images - mean) / std)))
        features = self.conv2(self.blocks(start))
        weight = self.scales.weight
        return F.conv2d(features, weight, stride=2, padding=1), F.conv2d(features, weight, padding=1)


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(before, after, 1, stride=stride) if before != after else None

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        inner = F.relu(F.instance_norm(self.conv1(image)))
        inner = F.relu(F.instance_norm(self.conv2(inner)))
        return F.relu(inner + (image if self.skip is None else F.instance_norm(self.skip(image))))


class _Layer(nn.Module):
    """Attention to the own image, then to the other one, then a small network."""

    def __init__(self, *, shifted: bool) -> None:
        super().__init__()
        self.own = _Attention(shifted=shifted)
        self.other = _Attention(shifted=shifted)
        self.mix = nn.Sequential(
            nn.Linear(2 * WIDTH, EXPANSION * WIDTH, bias=False),
            nn.GELU(),
            nn.Linear(EXPANSION * WIDTH, WIDTH, bias=False),
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(
        self, own: Float[Tensor, "b h w c"], other: Float[Tensor, "b h w c"], windows: int
    ) -> Float[Tensor, "b h w c"]:
        own = own + self.own(own, own, windows)
        message = self.other(own, other, windows)
        return own + self.norm(self.mix(torch.cat([own, message], dim=-1)))


class _Attention(nn.Module):
    """Single-head attention, within windows that every other layer shifts by half a window (Liu et al., ICCV 2021)."""

    def __init__(self, *, shifted: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.merge = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH)
        self.shifted = shifted

    def forward(
        self, own: Float[Tensor, "b h w c"], other: Float[Tensor, "b h w c"], windows: int
    ) -> Float[Tensor, "b h w c"]:
        height, width = own.shape[1] // windows, own.shape[2] // windows
        shift = (height // 2, width // 2) if self.shifted and windows > 1 else (0, 0)
        back = (-shift[0], -shift[1])

        def split(values: Tensor) -> Tensor:
            rolled = values.roll(back, dims=(1, 2))
            return rearrange(rolled, "b (p h) (q w) c -> b (p q) (h w) c", p=windows, q=windows)

        mask = _apart(height, width, windows, shift) if any(shift) else None
        seen = F.scaled_dot_product_attention(
            split(self.query(own)), split(self.key(other)), split(self.value(other)), attn_mask=mask
        )
        joined = rearrange(seen, "b (p q) (h w) c -> b (p h) (q w) c", p=windows, h=height)
        return self.norm(self.merge(joined.roll(shift, dims=(1, 2))))


class _Spread(nn.Module):
    """Flow of each place as a mean over places that look like it (section 3.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)

    def everywhere(
        self, features: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]
    ) -> Float[Tensor, "b 2 h w"]:
        """Over the whole image. The published network makes its keys from the queries, and was trained so."""
        query = self.query(rearrange(features, "b c h w -> b (h w) c"))
        values = rearrange(flow, "b c h w -> b (h w) c")
        seen = F.scaled_dot_product_attention(query, self.key(query), values)
        return rearrange(seen, "b (h w) c -> b c h w", h=flow.shape[2])

    def near(self, features: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 2 h w"]:
        """Over the 3x3 places around."""
        places = rearrange(features, "b c h w -> b (h w) c")
        key = rearrange(self.key(places), "b (h w) c -> b c h w", h=flow.shape[2])
        keys = rearrange(F.unfold(key, 3, padding=1), "b (c k) l -> b l k c", k=9)
        weight = (torch.einsum("blc,blkc->blk", self.query(places), keys) / WIDTH**0.5).softmax(dim=-1)
        values = rearrange(F.unfold(flow, 3, padding=1), "b (c k) l -> b l k c", k=9)
        return rearrange(torch.einsum("blk,blkc->blc", weight, values), "b (h w) c -> b c h w", h=flow.shape[2])


def _match_locally(own: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 h w"]:
    """Mean step, at most RADIUS pixels, to the places of the other image that look like each one."""
    height, width = own.shape[2:]
    side = 2 * RADIUS + 1
    steps = torch.arange(-RADIUS, RADIUS + 1, dtype=own.dtype)
    step = torch.stack(torch.meshgrid(steps, steps, indexing="xy")).flatten(1).T
    padded = F.pad(other, (RADIUS,) * 4)
    inside = F.pad(torch.ones(1, 1, height, width), (RADIUS,) * 4)
    scores = []
    for row in range(side):
        for column in range(side):
            window = (..., slice(row, row + height), slice(column, column + width))
            score = (own * padded[window]).sum(dim=1) / WIDTH**0.5
            scores.append(torch.where(inside[window][:, 0] > 0, score, -1e9))
    weight = torch.stack(scores, dim=-1).softmax(dim=-1)
    return rearrange(weight @ step, "b h w xy -> b xy h w")


def _apart(height: int, width: int, windows: int, shift: tuple[int, int]) -> Float[Tensor, "s l l"]:
    """-100 between places of one window that the shift brought together from opposite borders, 0 elsewhere."""

    def part(size: int, moved: int) -> Tensor:
        place = torch.arange(size * windows)
        return (place >= size * (windows - 1)).long() + (place >= size * windows - moved).long()

    number = part(height, shift[0])[:, None] * 3 + part(width, shift[1])
    number = rearrange(number, "(p h) (q w) -> (p q) (h w)", p=windows, q=windows)
    return torch.where(number[:, None] != number[:, :, None], -100.0, 0.0)


def _position(height: int, width: int) -> Float[Tensor, "c h w"]:
    """Sines and cosines of the position in a window, half the channels for each axis (Carion et al., ECCV 2020)."""
    half = WIDTH // 2
    rate = 10000 ** (2 * (torch.arange(half) // 2) / half)

    def along(size: int) -> Tensor:
        phase = (torch.arange(1, size + 1) / (size + 1e-6) * 2 * torch.pi)[:, None] / rate
        return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=2).flatten(1)

    down = repeat(along(height), "h c -> c h w", w=width)
    across = repeat(along(width), "w c -> c h w", h=height)
    return torch.cat([down, across])


def _grid(height: int, width: int) -> Float[Tensor, "2 h w"]:
    """Position (x, y) of every pixel, the first at 0."""
    return torch.stack(
        torch.meshgrid(
            torch.arange(width, dtype=torch.float32), torch.arange(height, dtype=torch.float32), indexing="xy"
        )
    )


def _warp(features: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """Features read where the flow leads; zero outside."""
    height, width = features.shape[2:]
    place = rearrange(_grid(height, width) + flow, "b xy h w -> b h w xy")
    return F.grid_sample(features, place * 2 / torch.tensor([width - 1, height - 1]) - 1, align_corners=True)
