"""Files of a result: those of `export_world`, and images and archives for the API.

Axes: F frames, H W pixels.
"""

import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from fw_model.export import export_world, write_depth_video
from fw_model.pipeline.result import World
from fw_serve.worker.points import write_points

THUMBNAIL_PIXELS = 512
"""Longest side of the thumbnail in pixels."""
SHEET_FRAMES = 16
"""Maximum number of frames on the sprite sheet."""
SHEET_FRAME_PIXELS = 256
"""Longest side of a frame on the sheet in pixels."""


def write_artifacts(world: World, folder: Path) -> None:
    """Write all variants of a result into `folder`: flat files, archives instead of folders."""
    export_world(world, folder)
    write_points(folder / "points.bin", world)
    # 1 / confidence, so that warm colors mean confident, as they mean near in the depth video
    write_depth_video(folder / "confidence.mp4", 1 / world.depth_confidence, world.fps)
    thumbnail = Image.fromarray(world.video[0])
    thumbnail.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    thumbnail.save(folder / "thumbnail.webp", quality=85)
    sprite_sheet(world.video).save(folder / "spritesheet.jpg", quality=85)
    _archive(folder / "gaussians", folder / "colmap.zip")
    _archive(folder / "depth", folder / "depth.zip")
    for name in ("images", "gaussians", "colmap", "depth"):
        shutil.rmtree(folder / name)


def sprite_sheet(video: np.ndarray) -> Image.Image:
    """Evenly spaced frames of a video [F, H, W, 3], row by row in a roughly square grid."""
    frames, height, width, _ = video.shape
    count = min(frames, SHEET_FRAMES)
    columns = math.ceil(math.sqrt(count))
    scale = min(1.0, SHEET_FRAME_PIXELS / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (columns * size[0], math.ceil(count / columns) * size[1]))
    for place, index in enumerate(np.linspace(0, frames - 1, count).round().astype(int)):
        frame = Image.fromarray(video[index]).resize(size, Image.Resampling.LANCZOS)
        sheet.paste(frame, (place % columns * size[0], place // columns * size[1]))
    return sheet


def _archive(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # PNG and COLMAP's numbers hardly shrink
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())
