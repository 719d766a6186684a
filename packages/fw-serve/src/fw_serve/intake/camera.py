"""Validation of untrusted camera paths: trajectory JSON or camera files.

Trajectory JSON has one of three forms: `{"preset": "orbit", ...}`, `{"keyframes": [...]}`, `{"poses_c2w": [...]}`. The
released camera JSON, nerfstudio's transforms.json and RealEstate10K text are supported too. Axes: OpenCV (x right,
y down, z forward), camera-to-world.
"""

import json
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fw_core.files import decode_text
from fw_geometry.camera import Trajectory, Units, intrinsics_from_fov
from fw_geometry.formats import CameraFileError, read_trajectory
from fw_geometry.formats.detect import KNOWN, detect_content
from fw_geometry.trajectories import DEFAULT_FOV_RAD, PRESETS, Easing, from_keyframes, look_at, make_trajectory
from fw_serve.intake.wording import plain_words

MAX_POSES = 1024
"""Maximum number of cameras."""

MAX_BYTES = 4_000_000
"""Maximum size of a camera file."""

MAX_LINES, MAX_LINE = 4 * MAX_POSES, 4_000
"""Maximum number of lines of a text file, comments included, and of characters in a line."""

Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Vector = Annotated[list[Finite], Field(min_length=3, max_length=3)]
Row = Annotated[list[Finite], Field(min_length=4, max_length=4)]
Matrix = Annotated[list[Row], Field(min_length=4, max_length=4)]
Intrinsics = Annotated[list[Vector], Field(min_length=3, max_length=3)]
FieldOfView = Annotated[float, Field(ge=1, le=170, description="Full vertical field of view in degrees.")]


class BadCameraError(ValueError):
    """An invalid camera path; the message is for its sender."""


class _Camera(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    """Version of this layout."""
    fov_deg: FieldOfView | None = None
    """Full vertical field of view in degrees; 50 if left out."""

    def fov_rad(self) -> float:
        """Full vertical field of view in radians."""
        return DEFAULT_FOV_RAD if self.fov_deg is None else math.radians(self.fov_deg)


class PresetCamera(_Camera):
    """A preset motion and its parameters."""

    preset: str
    """Name of the motion; `GET /v1/trajectories` describes each."""
    angle_deg: Finite | None = None
    """Total angle of a turning motion."""
    distance: Finite | None = None
    """Total distance of a moving motion, in mean distances of the scene."""
    amount: Finite = 1.0
    """Multiplies the motion; -1 reverses it."""
    easing: Easing = "linear"
    """Constant speed, or smooth acceleration."""

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"no preset {name[:60]!r}; choose one of {', '.join(PRESETS)}")
        return name

    def path(self, frames: int, width: int, height: int) -> Trajectory:
        """Camera path of `frames` cameras for frames of width x height."""
        return make_trajectory(
            self.preset,
            frames,
            width=width,
            height=height,
            fov_rad=self.fov_rad(),
            angle_rad=None if self.angle_deg is None else math.radians(self.angle_deg),
            distance=self.distance,
            amount=self.amount,
            easing=self.easing,
        )


class Keyframe(BaseModel):
    """A camera at a time: a pose, or a position and a target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: Finite | None = None
    """Time in any unit, for all keyframes or for none."""
    pose_c2w: Matrix | None = None
    """4 x 4 camera-to-world."""
    position: Vector | None = None
    """Camera center, with `look_at`."""
    look_at: Vector | None = None
    """Target point."""

    @model_validator(mode="after")
    def _one_way(self) -> "Keyframe":
        placed = self.position is not None and self.look_at is not None
        if (self.pose_c2w is not None) == placed or (self.position is None) != (self.look_at is None):
            raise ValueError("give either pose_c2w, or position and look_at")
        return self

    def matrix(self) -> np.ndarray:
        """4 x 4 camera-to-world."""
        if self.pose_c2w is not None:
            return np.array(self.pose_c2w)
        return look_at(np.array(self.position), np.array(self.look_at))


class KeyframeCamera(_Camera):
    """A path through keyframes: shortest rotations, and straight lines between camera centers."""

    keyframes: Annotated[list[Keyframe], Field(min_length=1, max_length=256)]
    """In order of time."""
    easing: Easing = "linear"
    """Constant speed, or smooth acceleration."""
    units: Units = "scene"
    """metric for meters, scene for mean distances of the scene."""

    def path(self, frames: int, width: int, height: int) -> Trajectory:
        """Camera path of `frames` cameras for frames of width x height."""
        times = [key.time for key in self.keyframes if key.time is not None]
        if times and len(times) != len(self.keyframes):
            raise ValueError("give a time for all keyframes or for none")
        return from_keyframes(
            np.stack([key.matrix() for key in self.keyframes]),
            frames,
            width=width,
            height=height,
            fov_rad=self.fov_rad(),
            times=np.array(times) if times else None,
            easing=self.easing,
            units=self.units,
        )


class PosesCamera(_Camera):
    """One camera per frame."""

    poses_c2w: Annotated[list[Matrix], Field(min_length=1, max_length=MAX_POSES)]
    """4 x 4 camera-to-world each."""
    K: Intrinsics | None = None
    """3 x 3 intrinsics in pixels of `width` x `height`; instead of `fov_deg`."""
    width: Annotated[int, Field(ge=16, le=16384)] | None = None
    """Width of the images that K describes. Default: that of the clip."""
    height: Annotated[int, Field(ge=16, le=16384)] | None = None
    """Height of the images that K describes. Default: that of the clip."""
    units: Units = "scene"
    """metric for meters, scene for mean distances of the scene."""

    def path(self, _frames: int, width: int, height: int) -> Trajectory:
        """Camera path as given."""
        if self.K is not None and self.fov_deg is not None:
            raise ValueError("give K or fov_deg, not both")
        width, height = self.width or width, self.height or height
        K = intrinsics_from_fov(self.fov_rad(), width, height) if self.K is None else np.array(self.K)
        poses = np.array(self.poses_c2w)
        return Trajectory(
            pose_c2w=poses, K=np.repeat(K[None], len(poses), axis=0), width=width, height=height, units=self.units
        )


class StoredPath(BaseModel):
    """A camera path as stored for a worker: pose and intrinsics of every frame."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """Name of a preset, `keyframes`, `poses` or `file`."""
    width: int
    """Width of the images that K describes."""
    height: int
    """Height of the images that K describes."""
    units: Units
    """metric or scene."""
    K: list[list[list[float]]]
    """3 x 3 per frame."""
    pose_c2w: list[list[list[float]]]
    """4 x 4 per frame."""

    @classmethod
    def of(cls, kind: str, path: Trajectory) -> "StoredPath":
        """Store a path."""
        return cls(
            kind=kind,
            width=path.width,
            height=path.height,
            units=path.units,
            K=path.K.tolist(),
            pose_c2w=path.pose_c2w.tolist(),
        )

    def trajectory(self) -> Trajectory:
        """The stored path."""
        return Trajectory(
            pose_c2w=np.array(self.pose_c2w),
            K=np.array(self.K),
            width=self.width,
            height=self.height,
            units=self.units,
        )


CameraInput = PresetCamera | KeyframeCamera | PosesCamera
"""Forms of `camera_trajectory`."""

_KINDS: dict[str, tuple[str, type[PresetCamera] | type[KeyframeCamera] | type[PosesCamera]]] = {
    "preset": ("", PresetCamera),
    "keyframes": ("keyframes", KeyframeCamera),
    "poses_c2w": ("poses", PosesCamera),
}


def read_camera(
    source: str | bytes | dict[str, Any],
    *,
    num_frames: int | None,
    default_num_frames: int,
    width: int,
    height: int,
    fov_rad: float | None = None,
    notes: list[str] | None = None,
) -> StoredPath:
    """A camera path from a JSON text or object, or from the content of a file.

    Args:
        source: our JSON, the released camera JSON, a transforms.json, or RealEstate10K text.
        num_frames: requested number of frames; a path with one camera per frame must have at least that many.
        default_num_frames: number of frames if neither the request nor the path sets it.
        width: columns of the clip.
        height: rows of the clip.
        fov_rad: full vertical field of view of a JSON path that sets none; None is that of the presets.
        notes: list to which assumptions about a camera file are added.

    Returns:
        The path; for a path of one camera per frame, as long as it was given.

    Raises:
        BadCameraError: the path is invalid.
    """
    data = source if isinstance(source, dict) else _parsed(source)
    if isinstance(data, dict):
        for key, (kind, model) in _KINDS.items():
            if key in data:
                if fov_rad is not None and "fov_deg" not in data and "K" not in data:
                    data = {**data, "fov_deg": min(170.0, max(1.0, math.degrees(fov_rad)))}
                camera = _validated(model, data)
                path = _attempt(partial(camera.path, num_frames or default_num_frames, width, height))
                return StoredPath.of(kind or getattr(camera, "preset", ""), _long_enough(path, num_frames))
    return StoredPath.of("file", _long_enough(_attempt(lambda: _from_file(data, width, height, notes)), num_frames))


def presets() -> list[dict[str, Any]]:
    """Name, description and defaults of every preset."""
    return [
        {
            "preset": preset.name,
            "description": preset.description,
            "angle_deg": None if preset.angle_rad is None else round(math.degrees(preset.angle_rad), 6),
            "distance": preset.distance,
        }
        for preset in PRESETS.values()
    ]


Result = TypeVar("Result")


def _attempt(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except CameraFileError as error:
        raise BadCameraError(f"camera file, {error.place}: {error.problem}; {error.remedy}") from None
    except (ValueError, OverflowError, TypeError, KeyError, ArithmeticError) as error:
        raise BadCameraError(f"the camera path is invalid: {error}") from None


def _parsed(source: str | bytes) -> dict[str, Any] | str:
    if len(source) > MAX_BYTES:
        raise BadCameraError(f"the camera path is larger than {MAX_BYTES} bytes; the maximum is {MAX_POSES} cameras")
    try:
        text = source if isinstance(source, str) else decode_text(source)
    except UnicodeDecodeError:
        raise BadCameraError("the camera file is not text; send JSON or RealEstate10K text") from None
    if not text.lstrip().startswith("{"):
        if text.count("\n") > MAX_LINES or max(map(len, text.split("\n"))) > MAX_LINE:
            raise BadCameraError(
                f"the camera file has more than {MAX_LINES} lines, or more than {MAX_LINE} characters in one; the "
                f"maximum is {MAX_POSES} cameras"
            )
        return text
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadCameraError(f"the camera path is not JSON: {str(error)[:200]}") from None
    for name, size in [("the camera path", len(data)), *((n, len(v)) for n, v in data.items() if isinstance(v, list))]:
        if size > MAX_POSES:  # before anything looks at the entries
            raise BadCameraError(f"{name[:60]}: {size} entries; the maximum is {MAX_POSES}")
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _validated(
    model: type[PresetCamera] | type[KeyframeCamera] | type[PosesCamera], data: dict[str, Any]
) -> CameraInput:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        place, problem = plain_words(error)
        raise BadCameraError(f"{place}: {problem}" if place else problem) from None


def _from_file(data: dict[str, Any] | str, width: int, height: int, notes: list[str] | None) -> Trajectory:
    if not data:
        raise BadCameraError("the camera path is empty")
    if detect_content(data) is None:
        raise BadCameraError(
            f"the camera path has none of the keys {', '.join(_KINDS)} and is not a camera file: {KNOWN}"
        )
    with tempfile.TemporaryDirectory(prefix="fw-camera-") as folder:
        file = Path(folder) / "camera"
        file.write_text(json.dumps(data) if isinstance(data, dict) else data, encoding="utf-8")
        return read_trajectory(file, width=width, height=height, notes=notes)


def _long_enough(path: Trajectory, num_frames: int | None) -> Trajectory:
    if len(path) > MAX_POSES:
        raise BadCameraError(f"the camera path has {len(path)} cameras; the maximum is {MAX_POSES}")
    if num_frames is not None and len(path) < num_frames:
        raise BadCameraError(
            f"the camera path has {len(path)} cameras for {num_frames} frames; omit num_frames and seconds, or give "
            "keyframes, which are spread over the clip"
        )
    return path
