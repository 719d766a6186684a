"""What WorldScore (Duan et al. 2025) reads and writes, static subset: its picture list, its camera paths, its layout.

The benchmark's dataset folder holds static/static.json, a list of pictures; its evaluation reads, per picture,

    worldscore_output/static/STYLE/SCENE_TYPE/CATEGORY/NAME/
        frames/000.png ...      every frame, (frames - 1) a movement, plus the first
        camera_data.json        focal length and one camera per frame
        image_data.json         the list's entry, with the number of frames and of movements
        input_image.png         the picture as it was given to the model
        videos/output.mp4       to look at

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


class Picture(BaseModel):
    """One entry of static.json; fields that are not listed are kept and written out again."""

    model_config = ConfigDict(frozen=True, extra="allow")

    image: str = Field(description="path of the picture, relative to the dataset folder: .../CATEGORY/NAME.png")
    visual_movement: str
    visual_style: str
    scene_type: str
    style: str = Field(description="words that end each prompt, e.g. a kind of photograph")
    camera_path: list[str] = Field(min_length=1, description="movements in order")
    prompt_list: list[str] = Field(description="one prompt for the picture and one for each movement")

    @property
    def place(self) -> str:
        """Its folder below the output root."""
        parts = self.image.split("/")
        category, name = parts[-2], parts[-1].split(".")[0]
        return f"{OUTPUT}/{self.visual_movement}/{self.visual_style}/{self.scene_type}/{category}/{name}"

    def prompts(self) -> list[str]:
        """One prompt for each movement, worded as the benchmark words it."""
        scenes = [
            f"{text} {self.style}" if text.endswith(".") else f"{text}. {self.style}" for text in self.prompt_list
        ]
        return [
            f"Camera {movement.replace('_', ' ')}. {scene}. {STILL}"
            for movement, scene in zip(self.camera_path, scenes[1:], strict=True)
        ]

    def total_frames(self, frames: int) -> int:
        """Frames of the whole video at `frames` a movement: the last one of each is the first one of the next."""
        return len(self.camera_path) * (frames - 1) + 1


def read_pictures(dataset: Path, *, style: Style = "all", limit: int | None = None) -> list[Picture]:
    """The static subset's list.

    Raises:
        ConfigError: no such list, an entry that cannot be used (says which and why), or none left.
    """
    path = dataset / "static" / "static.json"
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}; take at least one picture")
    try:
        pictures = TypeAdapter(list[Picture]).validate_json(path.read_bytes())
    except OSError:
        raise ConfigError(f"{dataset} is no WorldScore dataset: there is no static/static.json in it") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where or 'the file'}: {first['msg']}") from None
    chosen = [p for p in pictures if style in ("all", p.visual_style)][:limit]
    if not chosen:
        raise ConfigError(f"{path} lists no picture of style {style!r}; styles are {', '.join(get_args(Style))}")
    for index, picture in enumerate(chosen):
        where = f"{path}, picture {index} ({picture.image})"
        if picture.visual_movement != "static":
            raise ConfigError(f"{where}: visual_movement is {picture.visual_movement!r}, not static")
        unknown = [movement for movement in picture.camera_path if movement not in MOVEMENTS]
        if unknown:
            raise ConfigError(f"{where}: there is no movement {unknown[0]!r}; known are {', '.join(MOVEMENTS)}")
        if len(picture.prompt_list) != len(picture.camera_path) + 1:
            raise ConfigError(
                f"{where}: {len(picture.prompt_list)} prompts for {len(picture.camera_path)} movements; one for the "
                "picture and one for each movement are needed"
            )
        if picture.image.count("/") < 1:
            raise ConfigError(f"{where}: the image's folder names its category; write CATEGORY/NAME.png")
    return chosen


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Where a movement ends, seen from where it begins, in the benchmark's unit."""

    right: float = 0.0
    """Camera center moves to the right."""
    forward: float = 0.0
    """Camera center moves forward."""
    turn: float = 0.0
    """The camera turns to the right about its own y axis, radians."""
    orbit: bool = False
    """The turn is about the point one unit ahead instead, so the center moves on a circle to the other side."""

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
"""The movements of the static subset. Left and right are the camera's; orbiting left looks to the right."""


def camera_path(movements: list[str], frames: int) -> Float[np.ndarray, "F 4 4"]:
    """Camera-to-world poses of a whole path, OpenCV axes, the first one the identity.

    Between the ends of a movement the rotation is interpolated on the sphere and the translation of the inverse
    (world-to-camera) pose linearly, both relative to the first camera: this is how the benchmark makes the path that
    it compares with.

    Args:
        movements: names of `MOVEMENTS`.
        frames: per movement, both ends included.
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
        pose_c2w: every camera, OpenCV axes.
        frames: per movement, both ends included.
        focal_px: focal length in pixels.
    """
    cameras = _WORLD @ pose_c2w @ OPENGL_FROM_OPENCV
    return {
        "focal_length": focal_px,
        "scale": 1,
        "cameras": cameras[:: frames - 1].tolist(),
        "cameras_interp": cameras.tolist(),
    }


def image_data(picture: Picture, frames: int) -> dict[str, Any]:
    """The content of image_data.json."""
    scenes = len(picture.camera_path)
    return {
        **picture.model_dump(),
        "num_scenes": scenes,
        "total_frames": picture.total_frames(frames),
        "anchor_frame_idx": [index * (frames - 1) for index in range(scenes + 1)],
    }


def what_is_missing(folder: Path) -> str:
    """Why the benchmark's evaluation would pass an image's folder over, or nothing if it is complete."""
    if not folder.is_dir():
        return "not generated yet"
    for name in (IMAGE, CAMERAS, INPUT):
        if not (folder / name).is_file():
            return f"no {name}"
    try:
        total = int(json.loads((folder / IMAGE).read_text(encoding="utf-8"))["total_frames"])
        cameras = len(json.loads((folder / CAMERAS).read_text(encoding="utf-8"))["cameras_interp"])
    except (ValueError, KeyError, TypeError) as error:
        return f"{IMAGE} or {CAMERAS} does not read ({error})"
    found = len([path for path in (folder / FRAMES).glob("*") if path.suffix in (".png", ".jpg")])
    if found != total or cameras != total:
        return f"{found} frames and {cameras} cameras, expected {total} of each"
    return ""
