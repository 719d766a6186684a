"""Clips for the annotation bench: frames, and where there is ground truth, poses, focal length and depth.

RedKitchen (7-Scenes) has a depth camera that is not its color camera: poses and depth are moved to the color camera
(525 px, 27.5 mm to +x). Axis legend: f frames, h height, w width.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from fw_data.cli import main as fw_data
from fw_geometry.rigid import nearest_rotations

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
VIDEOS = ("house.mp4", "valley.mp4", "dog.mp4", "sintel_30s.mp4")
COLOR_FOCAL_PX, DEPTH_FOCAL_PX, BASELINE_M = 525.0, 585.0, 0.0275
INVALID_DEPTH_M = 65.0
RENDERED = ("--clips", "4", "--frames", "41", "--size", "640x480", "--seed", "11")
"""Two rooms and two courtyards."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One clip and what is known about it."""

    name: str
    source: Path | tuple[Path, ...]
    """A video, or the images of the frames."""
    pose_c2w: np.ndarray | None = None
    """(f, 4, 4) true poses; meters."""
    focal_px: float | None = None
    """True focal length in pixels of the source."""
    depth_m: Callable[[int], np.ndarray] | None = None
    """True z-depth of a frame (h, w) at the size of the source, 0 = none."""

    def images(self, frames: Iterable[int] | None = None) -> np.ndarray:
        """(f, h, w, 3) sRGB, uint8: these frames, or all."""
        if not isinstance(self.source, Path):
            paths = self.source if frames is None else [self.source[frame] for frame in frames]
            return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
        with av.open(str(self.source)) as container:
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return decoded if frames is None else decoded[list(frames)]

    @property
    def path_m(self) -> float:
        """Length of the true path."""
        assert self.pose_c2w is not None, "a recording with ground truth"
        return float(np.linalg.norm(np.diff(self.pose_c2w[:, :3, 3], axis=0), axis=1).sum())


def redkitchen(source: Path | None = None) -> Recording:
    """The 81 frames in ../shared/data."""
    folder = DATA / "redkitchen"
    return Recording(
        name="redkitchen.mp4, 81 frames",
        source=source or DATA / "raw" / "redkitchen.mp4",
        pose_c2w=_color_poses(sorted((folder / "pose").glob("*.txt"))),
        focal_px=COLOR_FOCAL_PX,
        depth_m=partial(_kitchen_depth, sorted((folder / "depth").glob("*.png"))),
    )


def seven_scenes(folder: Path, start: int, stop: int, step: int) -> Recording:
    """A stretch of RedKitchen seq-01 in the layout of 7-Scenes (frame-000000.color.jpg, .pose.txt, .depth.png)."""
    names = [f"frame-{index:06d}" for index in range(start, stop, step)]
    color = next(ending for ending in ("jpg", "png") if (folder / f"{names[0]}.color.{ending}").is_file())
    return Recording(
        name=f"RedKitchen {start} to {stop}, {len(names)} frames",
        source=tuple(folder / f"{name}.color.{color}" for name in names),
        pose_c2w=_color_poses([folder / f"{name}.pose.txt" for name in names]),
        focal_px=COLOR_FOCAL_PX,
        depth_m=partial(_kitchen_depth, [folder / f"{name}.depth.png" for name in names]),
    )


def kitti(folder: Path, frames: int) -> Recording:
    """The first frames of a KITTI odometry sequence: image_0, image_l or image_2, poses.txt, calib.txt (P0)."""
    listed = (sorted((folder / name).glob("*.png")) for name in ("image_l", "image_0", "image_2"))
    images = next(found for found in listed if found)
    rows = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)[:frames]
    pose = np.tile(np.eye(4), (len(rows), 1, 1))
    pose[:, :3] = rows
    first = (folder / "calib.txt").read_text().splitlines()[0].split()
    return Recording(
        name=f"KITTI {folder.name}, {len(rows)} frames",
        source=tuple(images[: len(rows)]),
        pose_c2w=pose,
        focal_px=float(first[1] if first[0].endswith(":") else first[0]),
    )


def rendered(folder: Path) -> list[Recording]:
    """Four clips with exact truth by `fw-data toy`, rendered once (five minutes)."""
    fw_data(["toy", str(folder), *RENDERED])
    found = []
    for path in sorted((folder / "truth").glob("*.npz")):
        with np.load(path) as truth:
            pose, K, depth_m = truth["pose_c2w"], truth["K"], truth["depth_m"]
        found.append(
            Recording(
                name=f"rendered {path.stem}, {len(pose)} frames",
                source=folder / "raw" / f"{path.stem}.mp4",
                pose_c2w=pose,
                focal_px=float(K[0, 0, 0]),
                depth_m=depth_m.__getitem__,
            )
        )
    return found


def _kitchen_depth(paths: list[Path], frame: int) -> np.ndarray:
    """(480, 640) z-depth in meters as the color camera of RedKitchen sees it, 0 = none."""
    depth = np.asarray(Image.open(paths[frame])).astype(np.float64) / 1000
    depth[depth > INVALID_DEPTH_M] = 0
    v, u = np.nonzero(depth)
    z = depth[v, u]
    x = (u + 0.5 - 320) * z / DEPTH_FOCAL_PX - BASELINE_M
    y = (v + 0.5 - 240) * z / DEPTH_FOCAL_PX
    columns = np.floor(COLOR_FOCAL_PX * x / z + 320).astype(int)
    rows = np.floor(COLOR_FOCAL_PX * y / z + 240).astype(int)
    far_first = np.argsort(-z)
    inside = (columns >= 0) & (columns < 640) & (rows >= 0) & (rows < 480)
    far_first = far_first[inside[far_first]]
    seen = np.zeros((480, 640))
    seen[rows[far_first], columns[far_first]] = z[far_first]
    return seen


def _color_poses(files: list[Path]) -> np.ndarray:
    """(f, 4, 4) camera-to-world of the color camera, meters."""
    poses = np.stack([np.loadtxt(path) for path in files])
    poses[:, :3, :3] = nearest_rotations(poses[:, :3, :3])
    offset = np.eye(4)
    offset[0, 3] = BASELINE_M
    return poses @ offset
