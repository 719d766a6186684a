"""Make the example worlds that the studio shows before anybody has made one: python apps/studio/make_examples.py

Generates a world with the included model from each of some example images, and writes the files that the studio needs
into packages/fw-serve/src/fw_serve/studio/examples. Run it again when the included weights change; commit the result.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from fw_geometry import make_trajectory
from fw_model import WorldPipeline
from fw_model.checkpoints.shipped import SMALL_WORLD, example_image
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


def make(pipeline: WorldPipeline, name: str, preset: str, steps: int) -> None:
    """Generate one example world and write its files."""
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


def main() -> int:
    """Make all example worlds."""
    parser = argparse.ArgumentParser(prog="python apps/studio/make_examples.py", description=__doc__)
    parser.add_argument("--checkpoint", default=SMALL_WORLD, help="model to use")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    pipeline = WorldPipeline.from_pretrained(options.checkpoint)
    for name, preset in WORLDS:
        make(pipeline, name, preset, options.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
