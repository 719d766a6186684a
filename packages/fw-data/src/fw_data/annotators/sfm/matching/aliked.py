"""ALIKED, a network that finds points and describes them by deformed sampling (Zhao et al., TIM 2023), our own code.

The size `n16`: descriptors of length 128 from 16 places around each point. Sections are those of arXiv 2304.03608.
Axis legend: b images, c channels, h height, w width, n points, k places of a kernel or around a point.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64, 128)
DESCRIPTOR = 128
PLACES = 16
"""Places sampled around a point."""
MULTIPLE = 32
"""Sides are padded to a multiple of this."""
RADIUS = 2
"""Half the window in which a point is the best one, pixels."""
TEMPERATURE = 0.1
"""Of the soft maximum that places a point between pixels."""


class Aliked(nn.Module):
    """Images to points with descriptors. The order of the parts is that of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        one, two, three, four = WIDTHS
        self.block1 = _Block(3, one)
        self.block2 = _ResidualBlock(one, two, deformable=False)
        self.block3 = _ResidualBlock(two, three, deformable=True)
        self.block4 = _ResidualBlock(three, four, deformable=True)
        self.levels = nn.ModuleList(nn.Conv2d(width, DESCRIPTOR // 4, 1, bias=False) for width in WIDTHS)
        self.score_head = nn.Sequential(
            nn.Conv2d(DESCRIPTOR, 8, 1, bias=False),
            nn.SELU(),
            nn.Conv2d(8, 4, 3, padding=1, bias=False),
            nn.SELU(),
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            nn.SELU(),
            nn.Conv2d(4, 1, 3, padding=1, bias=False),
        )
        self.descriptor_head = _DescriptorHead()

    def forward(
        self, image: Float[Tensor, "1 3 h w"], max_points: int
    ) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 128"], Float[Tensor, " n"]]:
        """Positions (x, y), the center of the first pixel at 0, unit descriptors, and scores, best first.

        The image is RGB in [0, 1].
        """
        features, scores = self.dense(image)
        points = detect(scores[0, 0], max_points)
        return points, self.descriptor_head(features[0], points), _sample(scores[0], points)[0]

    def dense(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 128 h w"], Float[Tensor, "b 1 h w"]]:
        """Unit features and a score in [0, 1] for every pixel (sections III-A and III-B)."""
        height, width = image.shape[2:]
        extra_h, extra_w = -height % MULTIPLE, -width % MULTIPLE
        left, top = extra_w // 2, extra_h // 2
        padded = F.pad(image, (left, extra_w - left, top, extra_h - top), mode="replicate")
        first = self.block1(padded)
        second = self.block2(F.avg_pool2d(first, 2))
        third = self.block3(F.avg_pool2d(second, 4))
        fourth = self.block4(F.avg_pool2d(third, 4))
        levels = [
            F.interpolate(F.selu(reduced(level)), padded.shape[2:], mode="bilinear", align_corners=True)
            for reduced, level in zip(self.levels, (first, second, third, fourth), strict=True)
        ]
        features = torch.cat(levels, dim=1)
        scores = torch.sigmoid(self.score_head(features))
        inside = (..., slice(top, top + height), slice(left, left + width))
        return F.normalize(features, dim=1)[inside], scores[inside]


class _Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        return F.selu(self.norm2(self.conv2(F.selu(self.norm1(self.conv1(image))))))


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, after: int, *, deformable: bool) -> None:
        super().__init__()
        conv = _DeformableConv if deformable else _conv3
        self.conv1 = conv(before, after)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = conv(after, after)
        self.norm2 = nn.BatchNorm2d(after)
        self.skip = nn.Conv2d(before, after, 1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        inner = F.selu(self.norm1(self.conv1(features)))
        return F.selu(self.norm2(self.conv2(inner)) + self.skip(features))


class _DeformableConv(nn.Module):
    """A 3x3 convolution whose nine places move by offsets that another convolution finds (Dai et al., ICCV 2017)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(before, 18, 3, padding=1)
        self.regular = nn.Conv2d(before, after, 3, padding=1, bias=False)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        limit = max(features.shape[2:]) / 4
        offset = self.offset(features).clamp(-limit, limit)
        return deformable_conv3(features, offset, self.regular.weight)


class _DescriptorHead(nn.Module):
    """The sparse deformable descriptor head (section III-C): features at 16 places that each point chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(PLACES, DESCRIPTOR, DESCRIPTOR))
        self.offset = nn.Sequential(
            nn.Conv2d(DESCRIPTOR, 2 * PLACES, 3), nn.SELU(), nn.Conv2d(2 * PLACES, 2 * PLACES, 1)
        )
        self.project = nn.Conv2d(DESCRIPTOR, DESCRIPTOR, 1, bias=False)

    def forward(self, features: Float[Tensor, "128 h w"], points: Float[Tensor, "n 2"]) -> Float[Tensor, "n 128"]:
        limit = max(features.shape[1:]) / 4
        offset = self.offset(_windows(features, points.long()))[..., 0, 0].clamp(-limit, limit)
        places = points[:, None] + rearrange(offset, "n (xy k) -> n k xy", xy=2)
        sampled = _sample(features, rearrange(places, "n k xy -> (n k) xy"))
        weight = self.project.weight[..., 0, 0]
        seen = F.selu(rearrange(weight @ sampled, "c (n k) -> n c k", k=PLACES))
        return F.normalize(torch.einsum("nck,kcd->nd", seen, self.mix), dim=1)


def detect(scores: Float[Tensor, "h w"], max_points: int) -> Float[Tensor, "n 2"]:
    """Positions (x, y) of the best peaks of a score map, best first, between pixels by a soft maximum around each."""
    height, width = scores.shape
    peaks = _suppress(scores[None])[0]
    peaks[:RADIUS], peaks[-RADIUS:], peaks[:, :RADIUS], peaks[:, -RADIUS:] = 0, 0, 0, 0
    best = torch.topk(peaks.flatten(), min(max_points, height * width))
    found = best.indices[best.values > 0]
    side = 2 * RADIUS + 1
    window = F.unfold(scores[None, None], side, padding=RADIUS)[0].T[found]
    weight = torch.softmax(window / TEMPERATURE, dim=1)
    steps = torch.arange(-RADIUS, RADIUS + 1, dtype=scores.dtype)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(-1, 2)
    return torch.stack([found % width, found // width], dim=1) + weight @ grid


def deformable_conv3(
    features: Float[Tensor, "b c h w"], offset: Float[Tensor, "b 18 h w"], weight: Float[Tensor, "c2 c 3 3"]
) -> Float[Tensor, "b c2 h w"]:
    """A 3x3 convolution, one pixel of zeros around it, that reads its nine places at (dy, dx) from where they lie."""
    height, width = features.shape[2:]
    moved = rearrange(offset, "b (k yx) h w -> b k h w yx", yx=2)
    steps = torch.arange(-1, 2, dtype=features.dtype)
    kernel = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).reshape(9, 1, 1, 2)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=features.dtype), torch.arange(width, dtype=features.dtype), indexing="ij"
    )
    place = moved + kernel + torch.stack([rows, columns], dim=-1)
    grid = place.flip(-1) * 2 / torch.tensor([width - 1, height - 1]).clamp_min(1) - 1
    sampled = F.grid_sample(features, rearrange(grid, "b k h w xy -> b (k h) w xy"), align_corners=True)
    sampled = rearrange(sampled, "b c (k h) w -> b (c k) (h w)", k=9)
    return rearrange(weight.flatten(1) @ sampled, "b c (h w) -> b c h w", h=height)


def _conv3(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, bias=False)


def _windows(features: Float[Tensor, "c h w"], points: Int64[Tensor, "n 2"]) -> Float[Tensor, "n c 3 3"]:
    """3x3 windows around points, moved inward at the border."""
    height, width = features.shape[1:]
    steps = torch.arange(3)
    columns = (points[:, 0] - 1).clamp(0, width - 4)[:, None, None] + steps
    rows = (points[:, 1] - 1).clamp(0, height - 4)[:, None, None] + steps[:, None]
    return rearrange(features[:, rows, columns], "c n y x -> n c y x")


def _sample(features: Float[Tensor, "c h w"], points: Float[Tensor, "n 2"]) -> Float[Tensor, "c n"]:
    """Bilinear values at (x, y), the center of the first pixel at 0; zero outside."""
    size = torch.tensor([features.shape[2] - 1, features.shape[1] - 1])
    return F.grid_sample(features[None], (points * 2 / size - 1)[None, None], align_corners=True)[0, :, 0]


def _suppress(scores: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Scores of the pixels that are the best of their window; 0 elsewhere. Two more rounds find peaks beside peaks."""

    def spread(values: Tensor) -> Tensor:
        return F.max_pool2d(values, 2 * RADIUS + 1, stride=1, padding=RADIUS)

    peak = scores == spread(scores)
    for _ in range(2):
        taken = spread(peak.float()) > 0
        rest = torch.where(taken, 0.0, scores)
        peak |= (rest == spread(rest)) & ~taken
    return torch.where(peak, scores, 0.0)
