"""evaluation.json: settings, scores of each clip, and their summary, as pydantic models.

`fw-train compare` and other programs read this file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fw_train.config.schema import ConfigError
from fw_train.metrics.measures import MEASURES
from fw_train.metrics.statistics import Summary, summarize

FILE = "evaluation.json"
Plain = str | int | float | bool | None


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MeasuredClip(_Record):
    """The scores of one clip."""

    id: str
    source: str = Field(description="source video")
    group: str = Field(description="checksum of the source video: clips of one video are not independent")
    content: str = Field(description="checksum of the annotation, which the scores depend on")
    caption: str
    scores: dict[str, float | None]
    curves: dict[str, list[tuple[int, float | None]]]
    notes: list[str] = Field(description="reasons for undefined scores, and other remarks")


class SetDistance(_Record):
    """FVD: one number for all clips together."""

    value: float
    clips: int = Field(description="number of clips in each set, generated and real")
    features: int = Field(description="number of features; with as many clips or fewer the covariances lack full rank")

    @property
    def caution(self) -> str:
        """A warning if the FVD is based on few clips; empty if there are enough."""
        if self.clips > self.features:
            return ""
        return (
            f"FVD is based on {self.clips} clips, too few for a covariance of {self.features} features: it is far too "
            f"large. Compare it only with an FVD of as many clips. Published figures are based on 2,048."
        )


class Evaluation(_Record):
    """The content of evaluation.json."""

    format: Literal["fw-evaluation"] = "fw-evaluation"
    format_version: Literal[1] = 1
    name: str = Field(description="name in reports")
    dataset: str = Field(description="dataset with the ground truth")
    measured: dict[str, Plain] = Field(
        description="measurement settings, null = measure omitted; only equal ones can be compared"
    )
    made: dict[str, Plain] = Field(description="generation settings of the worlds")
    left_out: dict[str, int] = Field(description="reason -> number of clips that could not be measured")
    clips: list[MeasuredClip]
    summary: dict[str, Summary]
    fvd: SetDistance | None = Field(None, description="null = not measured")


def summarize_clips(clips: Sequence[MeasuredClip]) -> dict[str, Summary]:
    """Summaries of all measures that at least one clip has, in the order of `MEASURES`."""
    summary = {}
    for name in MEASURES:
        values = [(clip.scores[name], clip.group) for clip in clips if clip.scores.get(name) is not None]
        if values:
            summary[name] = summarize([float(v) for v, _ in values if v is not None], [group for _, group in values])
    return summary


def mean_curve(clips: Sequence[MeasuredClip], name: str) -> list[tuple[int, float]]:
    """Mean curve over the clips that have a value at each position; empty if none has."""
    found: dict[int, list[float]] = {}
    for clip in clips:
        for x, y in clip.curves.get(name, []):
            if y is not None:
                found.setdefault(x, []).append(y)
    return [(x, sum(values) / len(values)) for x, values in sorted(found.items())]


def order_of_clips(clips: Sequence[MeasuredClip]) -> list[MeasuredClip]:
    """Clips from best to worst, by their mean rank in the measures marked `ranked`."""
    places: dict[str, list[float]] = {clip.id: [] for clip in clips}
    for name, measure in MEASURES.items():
        if not measure.ranked:
            continue
        sign = -1 if measure.better == "higher" else 1
        known = [(sign * value, clip.id) for clip in clips if (value := clip.scores.get(name)) is not None]
        for place, (_, clip_id) in enumerate(sorted(known)):
            places[clip_id].append(place)
    return sorted(clips, key=lambda clip: sum(places[clip.id]) / max(1, len(places[clip.id])))


def read_evaluation(folder: Path) -> Evaluation:
    """Read an evaluation from its folder or its file.

    Raises:
        ConfigError: the file is missing or of another version.
    """
    path = folder / FILE if folder.is_dir() else folder
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except OSError:
        raise ConfigError(f"{folder} has no {FILE}; give a folder written by `fw-train evaluate`") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path} is not an evaluation of this version ({where}: {first['msg']})") from None
