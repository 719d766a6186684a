"""evaluation.json: what was measured, on what, how it was made, and the summary over the clips.

This is the file that `fw-train compare` and other programs read, so it is a pydantic model.
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
    """One clip's numbers."""

    id: str
    source: str = Field(description="the video it comes from")
    group: str = Field(description="checksum of that video: clips of one video are not independent")
    content: str = Field(description="checksum of its annotation: other truth, other numbers")
    caption: str
    scores: dict[str, float | None]
    curves: dict[str, list[tuple[int, float | None]]]
    notes: list[str] = Field(description="why a score is not defined, and what else a reader should know")


class SetDistance(_Record):
    """FVD: a number of all clips together, which no clip has alone."""

    value: float
    clips: int = Field(description="in each of the two sets, generated and real")
    features: int = Field(description="of the network; with no more clips than these the covariances lack full rank")

    @property
    def caution(self) -> str:
        """What to say about a number that rests on few clips; nothing if there are enough."""
        if self.clips > self.features:
            return ""
        return (
            f"FVD rests on {self.clips} clips, too few for a covariance of {self.features} features: it is far too "
            f"large, and can only be put beside one over as many clips. Published figures rest on 2,048."
        )


class Evaluation(_Record):
    """One evaluation."""

    format: Literal["fw-evaluation"] = "fw-evaluation"
    format_version: Literal[1] = 1
    name: str = Field(description="how reports call it")
    dataset: str = Field(description="where the truth came from")
    measured: dict[str, Plain] = Field(
        description="settings of the measuring, null = measure left out; only equal ones can be compared"
    )
    made: dict[str, Plain] = Field(description="how the worlds were made")
    left_out: dict[str, int] = Field(description="reason -> clips that could not be measured")
    clips: list[MeasuredClip]
    summary: dict[str, Summary]
    fvd: SetDistance | None = Field(None, description="null = not measured")


def summarize_clips(clips: Sequence[MeasuredClip]) -> dict[str, Summary]:
    """The summary of every measure that at least one clip has, in the order of `MEASURES`."""
    summary = {}
    for name in MEASURES:
        values = [(clip.scores[name], clip.group) for clip in clips if clip.scores.get(name) is not None]
        if values:
            summary[name] = summarize([float(v) for v, _ in values if v is not None], [group for _, group in values])
    return summary


def mean_curve(clips: Sequence[MeasuredClip], name: str) -> list[tuple[int, float]]:
    """A curve averaged over the clips that have a value at each place; empty if none has."""
    found: dict[int, list[float]] = {}
    for clip in clips:
        for x, y in clip.curves.get(name, []):
            if y is not None:
                found.setdefault(x, []).append(y)
    return [(x, sum(values) / len(values)) for x, values in sorted(found.items())]


def order_of_clips(clips: Sequence[MeasuredClip]) -> list[MeasuredClip]:
    """From best to worst, by the mean place that a clip takes in the measures marked `ranked`."""
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
    """The evaluation in a folder (or the file itself).

    Raises:
        ConfigError: there is none, or it is not one of this version.
    """
    path = folder / FILE if folder.is_dir() else folder
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except OSError:
        raise ConfigError(f"{folder} holds no {FILE}; give a folder that `fw-train evaluate` wrote") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path} is no evaluation of this version ({where}: {first['msg']})") from None
