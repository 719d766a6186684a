"""Records of a dataset on disk: a ClipRecord per clip, a Refusal per excluded item, one DatasetCard.

These are the files that other programs read, so they are pydantic models: `ClipRecord.model_json_schema()` is the
schema of a `{id}.json` member and of a manifest row.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT_NAME = "fw-dataset"
FORMAT_VERSION = 1
MEMBER_SUFFIXES = ("mp4", "depth.zst", "conf.zst", "mask.zst", "cameras.npz", "json")
DEPTH_SUFFIXES = ("depth.zst", "conf.zst")
"""The members that a clip with `has_depth` False lacks."""
MASK_SUFFIX = "mask.zst"
"""The member that a clip with `has_masks` False lacks."""
Grade = Literal["A", "B", "C", "D"]
Status = Literal["filtered", "refused", "failed"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Record):
    """Position of one file of a clip inside its shard."""

    offset: int = Field(ge=0, description="first byte of the file inside the tar")
    size: int = Field(ge=0, description="length in bytes")
    sha256: Sha256 = Field(description="checksum of the file")


class ClipRecord(_Record):
    """One clip: provenance, size, quality and place. A row of manifest.parquet."""

    id: str = Field(description="uuid5 of (source_sha256, start, end, config_hash): the same input gives the same id")
    source: str = Field(description="path of the video, relative to the raw directory, with forward slashes")
    source_sha256: Sha256 = Field(description="checksum of the video file")
    source_width: int = Field(gt=0, description="upright width of the source, square pixels")
    source_height: int = Field(gt=0, description="upright height of the source, square pixels")
    start_frame: int = Field(ge=0, description="index of the first frame among the decoded frames of the source")
    num_frames: int = Field(gt=0)
    source_frames: int = Field(
        default=0, description="frames of the source from the first to the last; 0 = num_frames, none was passed over"
    )
    start_time_s: float = Field(description="time stamp of the first frame in the source")
    fps: float = Field(gt=0, description="mean frame rate; cameras.npz has the time stamp of every frame")
    width: int = Field(gt=0, description="of every stored frame, depth and confidence")
    height: int = Field(gt=0, description="of every stored frame, depth and confidence")
    caption: str = Field(default="", description="from the text file beside the video, or a captioner; may be empty")
    units: Literal["scene", "metric"] = Field(description="of depth and translation; scene = up to one scale per clip")
    backend: str = Field(description="geometry backend")
    backend_version: str
    config_hash: str = Field(description="of every setting that changes the clip")
    scores: dict[str, float] = Field(default_factory=dict, description="quality figures; see DatasetCard.scores")
    grade: Grade
    grade_reasons: list[str] = Field(default_factory=list, description="what keeps it from the next better grade")
    motion_tags: list[str] = Field(default_factory=list, description="what the camera does, e.g. dolly-in, pan-left")
    notes: list[str] = Field(default_factory=list, description="what a user should know, e.g. a truncated source")
    has_depth: bool = Field(default=True, description="false: cameras only, neither depth.zst nor conf.zst")
    has_masks: bool = Field(default=False, description="true: mask.zst marks moving pixels and sky")
    shard: str = Field(default="", description="path of the tar, relative to the dataset; empty inside the tar itself")
    members: dict[str, Member] = Field(default_factory=dict, description="by suffix: mp4, depth.zst, ...")

    @property
    def content(self) -> tuple[str, list[tuple[str, str]]]:
        """The id, and the checksum of each file by suffix."""
        return self.id, sorted((suffix, member.sha256) for suffix, member in self.members.items())

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The files that this clip must have."""
        absent = (() if self.has_depth else DEPTH_SUFFIXES) + (() if self.has_masks else (MASK_SUFFIX,))
        return tuple(name for name in MEMBER_SUFFIXES if name not in absent)


class Refusal(_Record):
    """One video, stretch of a video or clip that is not in the dataset, and why. A line of refusals.jsonl."""

    status: Status = Field(description="filtered: not wanted; refused: not possible; failed: an error of ours")
    source: str = Field(description="path of the video, relative to the raw directory")
    start_frame: int | None = Field(default=None, description="first frame of the stretch; none = the whole video")
    num_frames: int | None = Field(default=None, description="of the source, from the first to the last")
    clip_id: str | None = Field(default=None, description="id the clip would have had")
    stage: str = Field(description="probe, shots, windows, duplicates, filters, geometry, store, worker")
    code: str = Field(description="short and stable, e.g. too-dark, no-parallax")
    reason: str = Field(description="what was seen")
    hint: str = Field(default="", description="what to do about it")
    scores: dict[str, float] = Field(default_factory=dict, description="what was measured before it was left out")
    attempts: int = Field(default=1, ge=1, description="failed: how often it was tried")


class ShardEntry(_Record):
    """One tar of the dataset."""

    path: str
    clips: int
    size: int
    sha256: Sha256


class DatasetCard(_Record):
    """dataset.json: what a reader must know before using the numbers."""

    format: Literal["fw-dataset"] = FORMAT_NAME
    format_version: int = FORMAT_VERSION
    config_hash: str
    config: dict[str, str | int | float | bool | None] = Field(description="every setting behind config_hash")
    versions: dict[str, str]
    counts: dict[str, int]
    codes: dict[str, int] = Field(default_factory=dict, description="what was left out, by outcome and code")
    grades: dict[str, int]
    grade_meanings: dict[str, str] = Field(default_factory=dict, description="what each grade is good for")
    grade_limits: dict[str, dict[str, tuple[float | None, float | None]]] = Field(
        default_factory=dict, description="least and largest value of a score that a grade allows; null = no limit"
    )
    units: list[str]
    conventions: dict[str, str]
    scores: dict[str, str] = Field(description="meaning of each score; a backend may add more")
    shards: list[ShardEntry]


CONVENTIONS = {
    "axes": "OpenCV camera axes: x right, y down, z forward.",
    "pose_c2w": "Camera-to-world, 4x4, float64; the first frame of each clip is the identity. World-to-camera is its "
    "inverse and is not stored.",
    "K": "3x3 in pixels of the stored frames; pixel (column i, row j) has its center at (i + 0.5, j + 0.5).",
    "depth": "z-depth (not distance along the ray), 0 = invalid; same height, width and frame count as the video.",
    "confidence": "trust in each depth pixel, 0 to 1 (8 bit).",
    "masks": "mask.zst, where the clip has one: 8 bits per pixel, bit 0 (1) moving, bit 1 (2) sky.",
    "units": "scene: depth and translation share one unknown scale per clip; metric: meters.",
    "points": "not stored: K, pose_c2w and depth give them (fw_data.Clip.points_world).",
    "time": "cameras.npz frame_index and time_s give, for each stored frame, its place in the source.",
}
SCORES = {
    "brightness": "mean luma of the clip, 0 to 255",
    "motion_px": "median optical flow between frames about a fifth of the clip apart, in pixels at 160 px long side",
    "sharpness": "variance of the Laplacian of luma over the variance of luma, at 256 px long side; median over frames",
    "overlay_fraction": "share of the image where strong edges stand still amid change: captions, logos",
    "sky_fraction": "share of the image that looks like open sky (smooth, bright, joined to the upper rim)",
    "contrast": "median over frames of the standard deviation of luma, 0 to 255",
    "posed_fraction": "fraction of frames whose pose is trusted",
    "coverage": "fraction of pixels with depth and confidence above 0.3",
    "reprojection_error": "median relative depth difference after reprojection into other frames",
    "reprojection_inliers": "fraction of reprojected pixels that agree within 5 %",
    "pose_jerk_deg": "largest distance of a camera from the path between its neighbors, as a visual angle",
    "fov_deg": "field of view along the longer side, median over frames",
    "dynamic_fraction": "share of pixels that move against the scene",
}
