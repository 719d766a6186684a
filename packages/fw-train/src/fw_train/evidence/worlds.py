"""Generated worlds, kept as one file each, so that measures and images never generate a world twice.

Depth and points are stored in half precision, and every score is computed from the stored values. Confidences are not
stored. Axis legend: F frames, H W pixels; lengths in scene units.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fw_core.files import replacing
from fw_geometry import Trajectory
from fw_model.pipeline.result import World
from fw_train.evaluate.evaluation import Plain


def stored_world(
    path: Path, settings: Mapping[str, Plain], requested: Trajectory, generate: Callable[[], World]
) -> World:
    """Read a world of these settings from its file; if there is none, generate and write it first.

    Args:
        path: the file, .npz.
        settings: everything that determines the world; a file of other settings is replaced.
        requested: the camera path that the world was asked for.
        generate: makes the world.
    """
    world = _read(path, settings, requested)
    if world is not None:
        return world
    _write(path, settings, generate())
    world = _read(path, settings, requested)
    assert world is not None, "a file that was just written has its own settings"
    return world


def _write(path: Path, settings: Mapping[str, Plain], world: World) -> None:
    with replacing(path) as partial:
        np.savez_compressed(
            partial,
            settings=np.array(json.dumps(dict(settings), sort_keys=True)),
            video=world.video,
            depth=world.depth.astype(np.float16),
            points=world.points.astype(np.float16),
            K=world.trajectory.K,
            pose_c2w=world.trajectory.pose_c2w,
        )


def _read(path: Path, settings: Mapping[str, Plain], requested: Trajectory) -> World | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["settings"]) != json.dumps(dict(settings), sort_keys=True):
                return None
            depth = arrays["depth"].astype(np.float32)
            sure = np.full(depth.shape, 2, np.float32)
            return World(
                video=arrays["video"],
                depth=depth,
                depth_confidence=sure,
                points=arrays["points"].astype(np.float32),
                points_confidence=sure,
                trajectory=replace(requested, K=arrays["K"], pose_c2w=arrays["pose_c2w"]),
                requested=requested,
            )
    except (FileNotFoundError, KeyError, ValueError, zipfile.BadZipFile):
        return None
