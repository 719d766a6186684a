"""Compiled blocks and offloading with random weights of the tiny preset; step reuse with a trained checkpoint."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.model_table import Row, paired
from fw_geometry import make_trajectory
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.config import tiny
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.settings import Sampling

FRAMES, HEIGHT, WIDTH, STEPS = 9, 64, 96, 20
REUSE_STEPS = 50


def measure(pairs: int) -> Iterator[Row]:
    """The rows that need no trained weights."""
    world = _alive(FantasyWorld(tiny()).eval())
    yield from _offload(world)
    yield _compiled(world, pairs)


def _alive(world: FantasyWorld) -> FantasyWorld:
    """Move heads, gates and adapters off zero, so that the velocity is not."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in world.parameters():
            spread = 0.2 if parameter.ndim < 2 else 0.5 * parameter[0].numel() ** -0.5
            parameter.add_(torch.randn(parameter.shape, generator=g) * spread)
    return world


def _pipe(world: FantasyWorld, **options: Any) -> WorldPipeline:
    return WorldPipeline(world, BlockDCT(), HashTextEncoder(), sampling=Sampling(num_inference_steps=STEPS), **options)


def _generate(pipe: WorldPipeline, **options: Any) -> Any:
    path = make_trajectory("dolly", FRAMES, width=WIDTH, height=HEIGHT)
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    *_, last = pipe.generate(image, "a red room", path, **options)
    return last.world


def step_reuse(checkpoint: Path, pairs: int) -> Iterator[Row]:
    """EasyCache with trained weights: what it saves, and what it changes in video and depth.

    Args:
        checkpoint: a pipeline folder, such as demo/runs/stage2/export.
        pairs: runs of each side.
    """
    pipe = WorldPipeline.from_pretrained(checkpoint)
    exact = _generate(pipe, num_inference_steps=REUSE_STEPS)
    for threshold in (0.02, 0.05, 0.1, 0.2):
        fast = _generate(pipe, num_inference_steps=REUSE_STEPS, easycache=threshold)
        reused = fast.settings["reused_steps"]
        ours, theirs = paired(
            lambda t=threshold: _generate(pipe, num_inference_steps=REUSE_STEPS, easycache=t),
            lambda: _generate(pipe, num_inference_steps=REUSE_STEPS),
            pairs=pairs,
        )
        error = float(np.abs(fast.video.astype(float) - exact.video).mean())
        depth = float(np.median(np.abs(fast.depth / exact.depth - 1)))
        yield Row(
            name=f"EasyCache at {threshold}, {checkpoint}: generation against every step computed",
            value=theirs.cpu_s / ours.cpu_s,
            unit="x",
            details=f"{reused} of {REUSE_STEPS} steps reused; video differs by {error:.2f} of 255 (mean), depth by "
            f"{depth:.2%} (median)",
        )


def _offload(world: FantasyWorld) -> Iterator[Row]:
    total = sum(t.numel() * t.element_size() for t in (*world.parameters(), *world.buffers()))
    exact = _generate(_pipe(world), num_inference_steps=2)
    for offload in ("model", "block"):
        pipe = _pipe(world, offload=offload)
        made = _generate(pipe, num_inference_steps=2)
        same = all(np.array_equal(getattr(made, key), getattr(exact, key)) for key in ("video", "depth", "points"))
        yield Row(
            name=f"offload={offload!r}, tiny: most bytes resident over the transformer's",
            value=pipe.placement.offloader.peak_bytes / total,
            unit="of 1",
            details=f"result bit-identical: {same}; {len(pipe.placement.offloader.log)} moves in 2 guided steps",
        )


def _compiled(world: FantasyWorld, pairs: int) -> Row:
    exact, pipe = _generate(_pipe(world), num_inference_steps=2), _pipe(world)
    other = _alive(FantasyWorld(tiny()).eval())
    other.compile_blocks()
    fast = _pipe(other)
    start = time.perf_counter()
    made = _generate(fast, num_inference_steps=2)
    first = time.perf_counter() - start
    ours, theirs = paired(
        lambda: _generate(fast, num_inference_steps=2), lambda: _generate(pipe, num_inference_steps=2), pairs=pairs
    )
    return Row(
        name="compiled blocks, tiny, 2 steps: generation against plain blocks",
        value=theirs.cpu_s / ours.cpu_s,
        unit="x",
        details=f"first call {first:.0f} s with compiling; depth differs by "
        f"{float(np.abs(made.depth / exact.depth - 1).max()):.1e}",
    )
