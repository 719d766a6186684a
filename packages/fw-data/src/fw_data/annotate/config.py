"""Every setting that changes what an annotated clip is, and the fingerprint of them all.

Two runs with the same fingerprint on the same video give the same clip; the number of workers is not part of it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field

from fw_data.annotate.scan import ScanConfig
from fw_data.annotators.spec import BackendSpec
from fw_data.dataset.schema import FORMAT_VERSION
from fw_data.media.numbered import IMAGE_FPS
from fw_data.media.probe import MediaLimits
from fw_data.media.resize import recorded_size
from fw_data.quality.filters import FilterConfig
from fw_data.shots.cuts import CutMethod

PIPELINE_VERSION = 3
"""Goes up whenever the pipeline itself gives another result for the same settings."""


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """Settings of `fw-data annotate` apart from the geometry."""

    size: str = "auto"
    """auto, source or WIDTHxHEIGHT; see fw_data.media.resize.place."""
    max_frames: int = 81
    """Longest clip."""
    min_frames: int = 5
    """Shortest clip."""
    crf: int = 14
    """H.264 quality of the stored video; lower is better."""
    fps: float | None = None
    """Frames per second that are kept; None keeps every frame."""
    trim_s: float = 0.08
    """Taken off each end of a shot where a cut or transition was found, in seconds."""
    cuts: CutMethod = "adaptive"
    """Detector of hard cuts: adaptive (PySceneDetect) or transnetv2 (a network)."""
    image_fps: float = IMAGE_FPS
    """Frame rate of folders of images."""
    captioner: str = ""
    """MODULE:FUNCTION that captions clips without a caption; see fw_data.annotate.plugins.caption."""
    duplicate_bits: int = 6
    """Clips of which no frame differs in more bits of its 64-bit hash look the same; -1 keeps them all."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """Limits of the cheap filters."""
    limits: MediaLimits = field(default_factory=MediaLimits)
    """Largest source videos."""

    def __post_init__(self) -> None:
        recorded_size(self.size)
        if not 2 <= self.min_frames <= self.max_frames:
            raise ValueError(
                f"min-frames {self.min_frames} and frames {self.max_frames}: need 2 <= min-frames <= frames"
            )
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf {self.crf}: give a number from 0 (lossless) to 51")
        if self.fps is not None and not 0 < self.fps < 1000:
            raise ValueError(f"fps {self.fps}: give a rate such as 8 or 12.5, or leave it out to keep every frame")
        if not 0 < self.image_fps < 1000:
            raise ValueError(f"image-fps {self.image_fps}: give the rate of the images, such as 24")
        if self.trim_s < 0:
            raise ValueError(f"trim {self.trim_s}: give seconds, 0 or more")
        if not -1 <= self.duplicate_bits <= 32:
            raise ValueError(f"duplicate-bits {self.duplicate_bits}: give -1 (off) or 0 to 32 of 64 bits")

    @property
    def scan(self) -> ScanConfig:
        """Settings of the cuts."""
        return ScanConfig(
            max_frames=self.max_frames,
            min_frames=self.min_frames,
            fps=self.fps,
            trim_s=self.trim_s,
            cuts=self.cuts,
            image_fps=self.image_fps,
            size=self.size,
        )

    def flat(self, backend: BackendSpec) -> dict[str, str | int | float | bool | None]:
        """All settings as one flat table, for the dataset card."""
        table: dict[str, str | int | float | bool | None] = {
            "format_version": FORMAT_VERSION,
            "pipeline_version": PIPELINE_VERSION,
            "backend": backend.name,
            "backend_version": backend.version,
        }
        for name, value in asdict(self).items():
            if isinstance(value, dict):
                table |= {f"{name}.{key}": inner for key, inner in value.items()}
            elif name != "image_fps" or value != IMAGE_FPS:  # datasets from before the option have no such key
                table[name] = recorded_size(self.size) if name == "size" else value
        return table | {f"{backend.name}.{name}": value for name, value in backend.settings().items()}

    def fingerprint(self, backend: BackendSpec) -> str:
        """16 hex digits of the hash of `flat`."""
        text = json.dumps(self.flat(backend), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
