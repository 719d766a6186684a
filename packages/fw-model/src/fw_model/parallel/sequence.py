"""Sequence parallelism: the tokens of one sample divided over processes, attention divided over heads (Ulysses,
arXiv 2309.14509).

Linear layers, norms and MLPs see the tokens of their process alone. Around an attention over all tokens, `to_heads`
exchanges tokens for heads and `to_tokens` reverts it. Lengths and heads need not be divisible by the number of
processes. Video tokens are divided evenly, geometry tokens by latent frames, so that attention within frames needs no
exchange.

Gradients: every process computes the same loss of the whole sample. Behind a `split`, gradients of parameters are
those of the loss times the number of processes, restricted to the tokens of the process; their mean over the
processes, as data parallelism takes it, is the gradient.

Axes: b batch, l tokens of this process, n tokens of all, h heads of all, g heads of this process, e head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceGroup:
    """The processes that divide a sample."""

    size: int
    """Number of processes."""
    rank: int
    """Number of this process among them, from 0."""
    process_group: Any = None
    """Their torch process group; None, for plans on the meta device, exchanges nothing."""

    def divide(self, count: int, unit: int = 1) -> "Share":
        """Division of `count` times `unit` tokens, in whole units; the lengths differ by one unit at most."""
        return Share(self, tuple(unit * n for n in even_lengths(count, self.size)))


class Share(NamedTuple):
    """The division of an axis over the processes of a group, in the order of their ranks."""

    group: SequenceGroup
    lengths: tuple[int, ...]

    @property
    def total(self) -> int:
        """Length of the whole axis."""
        return sum(self.lengths)

    @property
    def start(self) -> int:
        """Place of this process's part on the axis."""
        return sum(self.lengths[: self.group.rank])

    @property
    def length(self) -> int:
        """Length of this process's part."""
        return self.lengths[self.group.rank]


class Layout(NamedTuple):
    """How the axes of one forward pass are divided; None: not divided."""

    video: Share | None = None
    """Video tokens in the blocks."""
    bridge: Share | None = None
    """Video tokens where they enter the geometry branch: those of whole latent frames."""
    frames: Share | None = None
    """Latent frames in the geometry branch."""
    geometry: Share | None = None
    """Geometry tokens of these frames."""


WHOLE = Layout()
"""Nothing is divided."""


def make_layout(group: SequenceGroup | None, frames: int, rows: int, columns: int, special: int) -> Layout:
    """Division of a token grid; `special` tokens precede the patches of each frame in the geometry branch.

    Raises:
        ValueError: fewer latent frames than processes.
    """
    if group is None:
        return WHOLE
    if frames < group.size:
        raise ValueError(
            f"{frames} latent frames cannot be divided over {group.size} processes; use {frames} or fewer, or a longer "
            "clip."
        )
    patches = rows * columns
    return Layout(
        video=group.divide(frames * patches),
        bridge=group.divide(frames, patches),
        frames=group.divide(frames),
        geometry=group.divide(frames, special + patches),
    )


def even_lengths(count: int, parts: int) -> tuple[int, ...]:
    """`count` in `parts` whole parts that differ by one at most, larger ones first."""
    return tuple(count // parts + (part < count % parts) for part in range(parts))


def split(x: Tensor, share: Share | None, dim: int = 1) -> Tensor:
    """The part of this process of a tensor that every process has whole."""
    return x if share is None else x.narrow(dim, share.start, share.length)


def gather(x: Tensor, share: Share | None, dim: int = 1) -> Tensor:
    """The whole tensor, on every process, of the parts of all."""
    if share is None:
        return x
    x = x.transpose(0, dim)
    shapes = [(length, *x.shape[1:]) for length in share.lengths]
    return torch.cat(exchange([x] * share.group.size, shapes, share.group)).transpose(0, dim)


def move(x: Float[Tensor, "b l d"], old: Share | None, new: Share | None) -> Float[Tensor, "b k d"]:
    """Tokens in one division brought into another."""
    if old is None or new is None:
        return x
    rank, (batch, _, width) = old.group.rank, x.shape
    before, after = _bounds(old.lengths), _bounds(new.lengths)
    sent = [_overlap(before[rank], bounds) for bounds in after]
    received = [_overlap(bounds, after[rank]) for bounds in before]
    parts = [x[:, low - old.start : high - old.start] for low, high in sent]
    return torch.cat(exchange(parts, [(batch, high - low, width) for low, high in received], old.group), dim=1)


def to_heads(x: Float[Tensor, "b l h e"], share: Share | None) -> Float[Tensor, "b n g e"]:
    """All tokens of this process's heads, from this process's tokens of all heads."""
    if share is None:
        return x
    batch, _, heads, width = x.shape
    counts = even_lengths(heads, share.group.size)
    mine = counts[share.group.rank]
    shapes = [(batch, length, mine, width) for length in share.lengths]
    return torch.cat(exchange(x.split(counts, dim=2), shapes, share.group), dim=1)


def to_tokens(x: Float[Tensor, "b n g e"], share: Share | None, heads: int) -> Float[Tensor, "b l h e"]:
    """This process's tokens of all `heads`, from all tokens of this process's heads."""
    if share is None:
        return x
    batch, _, _, width = x.shape
    shapes = [(batch, share.length, count, width) for count in even_lengths(heads, share.group.size)]
    return torch.cat(exchange(x.split(share.lengths, dim=1), shapes, share.group), dim=2)


def exchange(parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], group: SequenceGroup) -> list[Tensor]:
    """Send part j to process j; return what every process sent, of the given shapes. Differentiable."""
    sent = [part.numel() for part in parts]
    received = [torch.Size(shape).numel() for shape in shapes]
    flat = _AllToAll.apply(torch.cat([part.reshape(-1) for part in parts]), sent, received, group)
    return [part.view(shape) for part, shape in zip(flat.split(received), shapes, strict=True)]


class _AllToAll(torch.autograd.Function):
    """all_to_all_single; the gradient goes back the way the values came."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], group: SequenceGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _all_to_all(x, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(grads[0].contiguous(), ctx.received, ctx.sent, ctx.group), None, None, None


def _all_to_all(x: Tensor, sent: list[int], received: list[int], group: SequenceGroup) -> Tensor:
    out = x.new_empty(sum(received))
    if not x.is_meta:
        dist.all_to_all_single(out, x, received, sent, group=group.process_group)
    return out


def _bounds(lengths: Sequence[int]) -> list[tuple[int, int]]:
    ends = list(accumulate(lengths))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    low = max(a[0], b[0])
    return low, max(low, min(a[1], b[1]))
