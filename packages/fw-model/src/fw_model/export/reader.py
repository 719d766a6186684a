"""Read a world folder, as `export_world` writes it.

Axis legend: F frames, H W pixels.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fw_geometry.camera import Trajectory
from fw_model.pipeline.result import Seam, World

ARRAYS = "geometry.npz"
"""Depth, points, confidences and cameras."""
SUMMARY = "world.json"
"""Settings and figures."""


def read_world(folder: str | Path) -> World:
    """Read the frames, geometry, cameras and settings of a world folder.

    Raises:
        ValueError: files are missing or unreadable, or differ in frames or size.
    """
    folder = Path(folder)
    try:
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            geometry = {name: arrays[name] for name in arrays.files}
        about = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        frames = [
            np.asarray(Image.open(path).convert("RGB")) for path in sorted((folder / "images").glob("frame_*.png"))
        ]
        depth = geometry["depth"]
        height, width = depth.shape[1:]
        paths = {
            kind: Trajectory(
                pose_c2w=geometry[f"{kind}pose_c2w"],
                K=geometry[f"{kind}K"],
                width=width,
                height=height,
                units=about["units"],
            )
            for kind in ("", "requested_")
        }
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{folder} is not a complete world ({error}); generate it again") from None
    shapes = {frame.shape for frame in frames}
    if len(frames) != len(depth) or shapes != {(height, width, 3)}:
        raise ValueError(
            f"{folder}: {len(frames)} images in images/ of sizes {sorted(shapes)}, but depth of {depth.shape}; "
            "generate it again"
        )
    if {len(path) for path in paths.values()} != {len(depth)} or geometry["points"].shape != (*depth.shape, 3):
        raise ValueError(f"{folder}: depth, points and cameras differ in frames or size; generate it again")
    return World(
        video=np.stack(frames),
        depth=depth,
        depth_confidence=geometry["depth_confidence"].astype(np.float32),
        points=geometry["points"],
        points_confidence=geometry["points_confidence"].astype(np.float32),
        trajectory=paths[""],
        requested=paths["requested_"],
        fps=about["fps"],
        settings=about["settings"],
        notes=tuple(about.get("notes", ())),
        seams=tuple(_seam(seam) for seam in about.get("seams", ())),
    )


def _seam(stored: Mapping[str, Any]) -> Seam:
    """A stored seam, without fields of a newer version."""
    known = {field.name for field in fields(Seam)}
    return Seam(**{name: value for name, value in stored.items() if name in known})


def read_shape(folder: str | Path) -> tuple[int, int, int]:
    """Frames, height and width of a world, from its world.json alone.

    Raises:
        ValueError: the file is missing or unreadable.
    """
    path = Path(folder) / SUMMARY
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return int(about["frames"]), int(about["height"]), int(about["width"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is unreadable ({error}); generate the world again") from None
