"""How much sequence parallelism sends: bytes per block and per forward pass, from a configuration and a clip's size.

Only what goes to other processes is counted, and the mean over the processes is given, whose parts differ by a token or
a frame. A backward pass sends the same again; activation checkpointing sends the share of the blocks a third time.
"""

from dataclasses import dataclass

from fw_core.tables import markdown
from fw_model.config import PATCH, WorldConfig, preset
from fw_model.parallel.sequence import Layout, SequenceGroup, Share, even_lengths, make_layout


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Bytes that a process sends to the others, on average, in one forward pass of one sample."""

    video_block: float
    """Self-attention of a video block."""
    geometry_layer: float
    """Global attention of an IRG block; frame attention sends nothing."""
    cross_branch: float
    """Attention between the branches, of an IRG block."""
    bridge: float
    """Video tokens to the processes that hold their latent frames, once per pass."""
    velocity: float
    """Output of the video head to all processes, once per pass."""
    geometry: float
    """Features to the heads and their maps to all processes, in passes that predict geometry."""
    total: float
    """The pass with geometry."""


def volume(
    config: WorldConfig, num_frames: int, height: int, width: int, *, size: int, itemsize: int = 2, batch: int = 1
) -> Volume:
    """What a forward pass with geometry sends when `size` processes divide a sample.

    Args:
        config: the model.
        num_frames, height, width: the clip, in pixels.
        size: number of processes.
        itemsize: bytes of an activation (2: bfloat16); the maps of the heads are float32.
        batch: samples that are divided together.

    Raises:
        ValueError: fewer latent frames than processes.
    """
    video, geometry, cross, layers = config.video, config.geometry, config.cross_branch, config.irg_blocks
    grid = ((num_frames - 1) // 4 + 1, height // (8 * PATCH[1]), width // (8 * PATCH[2]))
    layout = make_layout(SequenceGroup(size=size, rank=0), *grid, geometry.num_special_tokens)
    unit = batch * itemsize / size

    def attention(share: Share | None, tensors: int, heads: int, dim: int) -> float:
        return tensors * unit * dim / heads * _to_others(_lengths(share), even_lengths(heads, size))

    def to_all(share: Share | None) -> int:
        return (size - 1) * sum(_lengths(share))

    reads = config.cross_branch.video_reads + config.cross_branch.geometry_reads
    block = attention(layout.video, 4, video.heads, video.dim)
    layer = attention(layout.geometry, 4, geometry.heads, geometry.width)
    between = 0.0
    if reads:  # queries and outputs, or keys and values, on either side
        between = attention(layout.video, 1 + reads, cross.heads, cross.dim)
        between += attention(layout.geometry, 1 + reads, cross.heads, cross.dim)
    bridge = unit * video.dim * _moved(layout)
    velocity = unit * video.out_dim * PATCH[0] * PATCH[1] * PATCH[2] * to_all(layout.video)
    taps = len({*geometry.dpt_taps, layers - 1})
    maps = 6 * 4 * batch / size * (size - 1) * num_frames * height * width  # depth, points, two confidences
    heads = unit * taps * 2 * geometry.width * to_all(layout.geometry) + maps
    total = video.blocks * block + layers * (layer + between) + bridge + velocity + heads
    return Volume(
        video_block=block,
        geometry_layer=layer,
        cross_branch=between,
        bridge=bridge,
        velocity=velocity,
        geometry=heads,
        total=total,
    )


def _to_others(tokens: tuple[int, ...], heads: tuple[int, ...]) -> int:
    """Pairs of token and head whose places are on different processes."""
    return sum(tokens) * sum(heads) - sum(t * h for t, h in zip(tokens, heads, strict=True))


def _moved(layout: Layout) -> int:
    """Video tokens that change their process on the way to the geometry branch."""
    old, new = _lengths(layout.video), _lengths(layout.bridge)
    stay, low, high = 0, 0, 0
    for a, b in zip(old, new, strict=True):
        stay += max(0, min(low + a, high + b) - max(low, high))
        low, high = low + a, high + b
    return sum(old) - stay


def _lengths(share: Share | None) -> tuple[int, ...]:
    assert share is not None, "a layout for several processes divides every axis"
    return share.lengths


def table() -> str:
    """Markdown table of docs/benchmarks/parallel.md: MB (10^6 bytes) per process, bfloat16, 81 frames."""
    rows = []
    for name in ("wan21_fun_1_3b", "wan21_i2v_14b"):
        for width, height in ((592, 336), (832, 480)):
            for size in (2, 4, 8):
                made = volume(preset(name), 81, height, width, size=size)
                parts = (made.video_block, made.geometry_layer, made.cross_branch, made.bridge, made.velocity)
                cells = [f"{part / 1e6:.1f}" for part in parts]
                whole = [f"{part / 1e9:.2f} GB" for part in (made.geometry, made.total)]
                rows.append((name, f"{width}x{height}", size, *cells, *whole))
    header = ("model", "clip", "processes", "video block", "geometry layer", "cross-branch", "bridge", "velocity")
    return markdown((*header, "geometry", "pass with geometry"), rows, align="llrrrrrrrr")


if __name__ == "__main__":
    print(table())
