"""Measures of WorldScore outputs that need no network of the benchmark.

They follow the benchmark's camera controllability, 3D consistency and photometric consistency, but use the model's own
cameras and depth and OpenCV's optical flow. The values are ours: do not report them as WorldScore values.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fw_model.pipeline.result import World
from fw_train.metrics.consistency import HEADLINE_GAP, reprojection
from fw_train.metrics.flow import flow_error
from fw_train.metrics.measures import finite

FILE = "our_measures.json"
LABELS = {
    "camera_rotation_deg": "camera, mean rotation error, deg",
    "camera_direction_deg": "camera, mean error of the direction of travel, deg",
    "path_length": "camera, recovered over requested path length (1 is ideal)",
    "reprojection_depth": "3D consistency, median relative depth error after reprojection",
    "reprojection_color_ratio": "3D consistency, color error of reprojection over no motion",
    "reprojection_visible": "3D consistency, share of visible pixels",
    "flow_error": "photometric consistency, return error of optical flow, shares of the diagonal",
}
"""Meaning of each measure."""


def measure_movement(world: World) -> dict[str, float | None]:
    """The measures of one movement; None where one is not defined."""
    camera = world.camera_error()
    found = reprojection(world, min(HEADLINE_GAP, len(world.video) - 1))
    requested = world.requested.path_length()
    moves = finite(camera.translation_deg) is not None
    return {
        "camera_rotation_deg": camera.rotation_deg,
        "camera_direction_deg": finite(camera.translation_deg),
        "path_length": world.trajectory.path_length() / requested if moves else None,
        "reprojection_depth": found.depth,
        "reprojection_color_ratio": finite(found.photometric_ratio),
        "reprojection_visible": found.visible,
        "flow_error": flow_error(world.video),
    }


def write_measures(folder: Path, movements: Sequence[dict[str, float | None]]) -> None:
    """Write the measures of an image's movements, in order."""
    (folder / FILE).write_text(json.dumps({"movements": list(movements)}, indent=1) + "\n", encoding="utf-8")


def summary(folders: Sequence[Path]) -> list[str]:
    """One line per measure: its mean over all movements of the folders that have measures."""
    found = [
        movement
        for folder in folders
        if (folder / FILE).is_file()
        for movement in json.loads((folder / FILE).read_text(encoding="utf-8"))["movements"]
    ]
    lines = []
    for name, label in LABELS.items():
        values = [movement[name] for movement in found if movement[name] is not None]
        if values:
            lines.append(f"ours, not WorldScore: {label}: {fmean(values):.4g} ({len(values)} movements)")
    return lines
