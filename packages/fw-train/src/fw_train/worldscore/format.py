"""The file formats of WorldScore (Duan et al. 2025), static subset: image list, camera paths, output layout.

The dataset folder of the benchmark contains static/static.json, a list of images. For each image its evaluation reads

    worldscore_output/static/STYLE/SCENE_TYPE/CATEGORY/NAME/
        frames/000.png ...      all frames: (frames - 1) per movement, plus the first
        camera_data.json        focal length and one camera per frame
        image_data.json         the entry of the list, with the number of frames and movements
        input_image.png         the input image of the model
        videos/output.mp4       for viewing

Axes: cameras are OpenCV camera-to-world inside. In camera_data.json the camera looks along -z (x right, y up), and the
world is that of PyTorch3D's first camera (x left, y up, z forward).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fw_geometry import OPENGL_FROM_OPENCV, interpolate_rigid, invert_poses
from fw_train.config.schema import ConfigError
from fw_train.evaluate.options import Style

OUTPUT = "worldscore_output"
FRAMES, VIDEO, CAMERAS, IMAGE, INPUT = (
    "frames",
    "videos/output.mp4",
    "camera_data.json",
    "image_data.json",
    "input_image.png",
)
STILL = "Everything in the scene remains completely motionless."
"""The sentence that ends every prompt of the static subset."""
_TURN = np.radians(30.0)
_WORLD = np.diag([-1.0, -1.0, 1.0, 1.0])


class BenchmarkImage(BaseModel):
    """One entry of static.json; other fields are kept and copied to image_data.json."""

    model_config = ConfigDict(frozen=True, extra="allow")

    image: str = Field(description="path relative to the dataset folder: .../CATEGORY/NAME.png")
    visual_movement: str
    visual_style: str
    scene_type: str
    style: str = Field(description="suffix of each prompt, such as a kind of photograph")
    camera_path: list[str] = Field(min_length=1, description="movements in order")
    prompt_list: list[str] = Field(description="one prompt for the image and one for each movement")

    @property
    def place(self) -> str:
        """Folder of the image's results, relative to the output root."""
        parts = self.image.split("/")
        category, name = parts[-2], parts[-1].split(".")[0]
        return f"{OUTPUT}/{self.visual_movement}/{self.visual_style}/{self.scene_type}/{category}/{name}"

    def prompts(self) -> list[str]:
        """One prompt per movement, in the wording of the benchmark."""
        scenes = [
            f"{text} {self.style}" if text.endswith(".") else f"{text}. {self.style}" for text in self.prompt_list
        ]
        return [
            f"Camera {movement.replace('_', ' ')}. {scene}. {STILL}"
            for movement, scene in zip(self.camera_path, scenes[1:], strict=True)
        ]

    def total_frames(self, frames: int) -> int:
        """Frames of the whole video: the last of the `frames` of a movement is the first of the next movement."""
        return len(self.camera_path) * (frames - 1) + 1


def read_images(dataset: Path, *, style: Style = "all", limit: int | None = None) -> list[BenchmarkImage]:
    """Read the image list of the static subset.

    Raises:
        ConfigError: the list is missing, an entry is invalid (the message names it), or no entry has this style.
    """
    path = dataset / "static" / "static.json"
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}; it must be 1 or more")
    try:
        entries = TypeAdapter(list[BenchmarkImage]).validate_json(path.read_bytes())
    except OSError:
        raise ConfigError(f"{dataset} is not a WorldScore dataset: it has no static/static.json") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where or 'the file'}: {first['msg']}") from None
    chosen = [p for p in entries if style in ("all", p.visual_style)][:limit]
    if not chosen:
        raise ConfigError(f"{path} has no image of style {style!r}; styles are {', '.join(get_args(Style))}")
    for index, entry in enumerate(chosen):
        where = f"{path}, image {index} ({entry.image})"
        if entry.visual_movement != "static":
            raise ConfigError(f"{where}: visual_movement is {entry.visual_movement!r}, not static")
        unknown = [movement for movement in entry.camera_path if movement not in MOVEMENTS]
        if unknown:
            raise ConfigError(f"{where}: unknown movement {unknown[0]!r}; use one of {', '.join(MOVEMENTS)}")
        if len(entry.prompt_list) != len(entry.camera_path) + 1:
            raise ConfigError(
                f"{where}: {len(entry.prompt_list)} prompts for {len(entry.camera_path)} movements; one for the "
                "image and one for each movement are needed"
            )
        if entry.image.count("/") < 1:
            raise ConfigError(f"{where}: the path has no category; it must be CATEGORY/NAME.png")
    return chosen


@dataclass(frozen=True, kw_only=True)
class Movement:
    """The end of a movement relative to its start, in the unit of the benchmark."""

    right: float = 0.0
    """Translation of the camera center to the right."""
    forward: float = 0.0
    """Translation of the camera center forward."""
    turn: float = 0.0
    """Rotation to the right about the y axis of the camera, in radians."""
    orbit: bool = False
    """Rotate about the point one unit ahead instead, so the center moves on a circle to the other side."""

    def pose(self) -> Float[np.ndarray, "4 4"]:
        """Camera-to-world at the end, OpenCV axes; the start is the identity."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        pose = np.eye(4)
        pose[:3, :3] = [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]
        pose[:3, 3] = (self.right, 0, self.forward)
        if self.orbit:
            ahead = np.array([0.0, 0.0, 1.0])
            pose[:3, 3] = ahead - pose[:3, :3] @ ahead
        return pose


MOVEMENTS: dict[str, Movement] = {
    "push_in": Movement(forward=1.0),
    "pull_out": Movement(forward=-1.0),
    "move_left": Movement(right=-0.5),
    "move_right": Movement(right=0.5),
    "orbit_left": Movement(turn=_TURN, orbit=True),
    "orbit_right": Movement(turn=-_TURN, orbit=True),
    "pan_left": Movement(turn=-_TURN),
    "pan_right": Movement(turn=_TURN),
}
"""The movements of the static subset, left and right as seen from the camera; orbiting left looks to the right."""


def camera_path(movements: list[str], frames: int) -> Float[np.ndarray, "F 4 4"]:
    """Camera-to-world poses of a whole path, OpenCV axes, starting at the identity.

    Within a movement, rotations are interpolated spherically and world-to-camera translations linearly, both relative
    to the first camera, as the benchmark does for its reference path.

    Args:
        movements: names in `MOVEMENTS`.
        frames: frames per movement, including both ends.
    """
    ends = [np.eye(4)]
    for name in movements:
        ends.append(ends[-1] @ MOVEMENTS[name].pose())
    ends_w2c = invert_poses(np.stack(ends))
    steps = np.linspace(0, len(movements), len(movements) * (frames - 1) + 1)
    return invert_poses(interpolate_rigid(ends_w2c, np.arange(len(ends), dtype=np.float64), steps))


def camera_data(pose_c2w: Float[np.ndarray, "F 4 4"], frames: int, focal_px: float) -> dict[str, Any]:
    """The content of camera_data.json.

    Args:
        pose_c2w: all cameras, OpenCV axes.
        frames: frames per movement, including both ends.
        focal_px: focal length in pixels.
    """
    cameras = _WORLD @ pose_c2w @ OPENGL_FROM_OPENCV
    return {
        "focal_length": focal_px,
        "scale": 1,
        "cameras": cameras[:: frames - 1].tolist(),
        "cameras_interp": cameras.tolist(),
    }


def image_data(entry: BenchmarkImage, frames: int) -> dict[str, Any]:
    """The content of image_data.json."""
    scenes = len(entry.camera_path)
    return {
        **entry.model_dump(),
        "num_scenes": scenes,
        "total_frames": entry.total_frames(frames),
        "anchor_frame_idx": [index * (frames - 1) for index in range(scenes + 1)],
    }


def find_incomplete(folder: Path) -> str:
    """Why the benchmark would skip an image's folder; empty if the folder is complete."""
    if not folder.is_dir():
        return "not generated yet"
    for name in (IMAGE, CAMERAS, INPUT):
        if not (folder / name).is_file():
            return f"no {name}"
    try:
        total = int(json.loads((folder / IMAGE).read_text(encoding="utf-8"))["total_frames"])
        cameras = len(json.loads((folder / CAMERAS).read_text(encoding="utf-8"))["cameras_interp"])
    except (ValueError, KeyError, TypeError) as error:
        return f"{IMAGE} or {CAMERAS} is unreadable ({error})"
    found = len([path for path in (folder / FRAMES).glob("*") if path.suffix in (".png", ".jpg")])
    if found != total or cameras != total:
        return f"{found} frames and {cameras} cameras, expected {total} of each"
    return ""
