"""From one image to a world on disk: video, depth, points and cameras of every frame.

    python examples/01_generate_world.py                                        # random weights, a drawn image
    python examples/01_generate_world.py --image photo.jpg --checkpoint runs/stage2/export

Without a checkpoint the tiny model has random weights: the frames are noise then, but every file is a real one.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image

from fw_geometry import make_trajectory
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.config import tiny
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.export import export_world
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World


def drawn_image() -> Image.Image:
    """A sky over a checkered floor, 4:3."""
    row, column = np.mgrid[0:192, 0:256]
    depth = 40 / np.maximum(row - 96, 1)
    tile = (np.floor(depth) + np.floor((column - 128) * depth / 40)) % 2
    floor = np.stack([90 + 120 * tile, 80 + 110 * tile, 70 + 90 * tile], axis=-1)
    sky = np.stack([120 + row / 2, 160 + row / 3, 220 + 0 * row], axis=-1)
    return Image.fromarray(np.where((row > 96)[..., None], floor, sky).clip(0, 255).astype(np.uint8))


def random_pipeline() -> WorldPipeline:
    """The tiny model with its autoencoder and text encoder: a fixed transform and hashed words."""
    world = FantasyWorld(tiny(), seed=0)
    return WorldPipeline(world, BlockDCT(), HashTextEncoder(text_len=16, text_dim=64))


def main() -> None:
    """Generate, follow the progress, export."""
    parser = argparse.ArgumentParser(description="One image to a world on disk.")
    parser.add_argument("--image", type=Path, help="the first frame; drawn if left out")
    parser.add_argument("--checkpoint", help="pipeline folder or hub id; random weights if left out")
    parser.add_argument("--out", type=Path, default=Path("world"))
    options = parser.parse_args()

    pipeline = WorldPipeline.from_pretrained(options.checkpoint) if options.checkpoint else random_pipeline()
    sampling = pipeline.sampling
    path = make_trajectory(
        "orbit", sampling.num_frames, width=sampling.width, height=sampling.height, angle_rad=math.radians(20)
    )
    world: World | None = None
    for progress in pipeline.generate(
        options.image or drawn_image(), "a wide floor", path, num_inference_steps=4, seed=1
    ):
        print(f"{progress.stage:8} {progress.step}/{progress.steps}  {progress.seconds:5.1f} s")
        world = progress.world
    assert world is not None, "the last report carries the world"

    print(f"video {world.video.shape}, depth {world.depth.min():.2f} to {world.depth.max():.2f} scene units")
    for written in export_world(world, options.out):
        print(written)


if __name__ == "__main__":
    main()
