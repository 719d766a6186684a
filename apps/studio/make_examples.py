"""Make the example worlds of the studio and the image of the README: python apps/studio/make_examples.py

Generates a world with the included model from each of some example images, writes the files that the studio needs
into packages/fw-serve/src/fw_serve/studio/examples, and docs/images/worlds.jpg. Run it again when the included weights
change; commit the result.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fw_app.cloud_image import render_cloud
from fw_geometry import make_trajectory
from fw_model import World, WorldPipeline
from fw_model.checkpoints.shipped import SMALL_WORLD, example_image
from fw_model.export.depth import colorize
from fw_model.pipeline.settings import GenerationSettings
from fw_serve.worker.artifacts import write_artifacts
from fw_serve.worker.points import write_points

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "packages/fw-serve/src/fw_serve/studio/examples"
FILES = ("video.mp4", "depth.mp4", "confidence.mp4", "thumbnail.webp", "world.json")
MAX_POINTS = 40_000
"""Points of each example, 16 bytes each."""
WORLDS = (("room-1", "orbit"), ("room-2", "dolly"), ("room-4", "truck"))
"""Example image and camera preset of each world."""
CELL = (216, 144)
"""Width and height of a part of the README's image."""


def make(pipeline: WorldPipeline, name: str, preset: str, steps: int) -> np.ndarray:
    """Generate one example world and write its files; its row of the README's image, sRGB uint8 (144, 1512, 3)."""
    image, sampling = example_image(name), pipeline.sampling
    path = make_trajectory(preset, sampling.num_frames, width=sampling.width, height=sampling.height)
    settings = GenerationSettings(num_inference_steps=steps)
    world = pipeline(image.path, image.prompt, path, settings)
    target = FOLDER / name
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_artifacts(world, Path(folder))
        for file in FILES:
            shutil.copyfile(Path(folder) / file, target / file)
    write_points(target / "points.bin", world, max_points=MAX_POINTS)
    video = {
        "id": f"example:{name}", "object": "video", "model": "fantasy-world-" + pipeline.world.config.name,
        "status": "completed", "progress": 100, "created_at": 0, "completed_at": 0, "expires_at": None,
        "prompt": image.prompt, "seconds": f"{sampling.num_frames / sampling.fps:.4g}",
        "size": f"{sampling.width}x{sampling.height}", "remixed_from_video_id": None, "error": None,
        "num_frames": sampling.num_frames, "seed": 0, "camera": preset, "stage": None, "step": 0, "steps": steps,
        "eta_seconds": None, "queue_position": None, "attempts": 1, "image": image.path.name,
    }  # fmt: skip
    (target / "video.json").write_text(json.dumps(video, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {sum(file.stat().st_size for file in target.iterdir()) / 1000:.0f} kB", flush=True)
    return row(world, np.asarray(Image.open(image.path).convert("RGB")))


def row(world: World, image: np.ndarray) -> np.ndarray:
    """Input image, four generated frames, depth of the last one, the surer points and the requested path."""
    shown = np.linspace(0, len(world.video) - 1, 5).round().astype(int)[1:]
    parts = [image, *world.video[shown], colorize(world.depth)[-1]]
    parts = [cv2.resize(part, CELL, interpolation=cv2.INTER_AREA) for part in parts]
    sure = world.depth_confidence >= np.percentile(world.depth_confidence, 25)
    points, colors = world.points[sure].astype(float), world.video[sure]
    cloud = render_cloud(points, colors, world.requested, height=CELL[1], width=CELL[0])
    return np.concatenate([*parts, cloud], axis=1)


def main() -> int:
    """Make all example worlds."""
    parser = argparse.ArgumentParser(prog="python apps/studio/make_examples.py", description=__doc__)
    parser.add_argument("--checkpoint", default=SMALL_WORLD, help="model to use")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    pipeline = WorldPipeline.from_pretrained(options.checkpoint)
    rows = [make(pipeline, name, preset, options.steps) for name, preset in WORLDS]
    sheet = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(ROOT / "docs/images/worlds.jpg"), sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return 0


if __name__ == "__main__":
    sys.exit(main())
