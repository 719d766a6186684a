"""Compare evaluations with the first one, clip by clip, with bootstrap intervals over the pairs.

The evaluations must share clips and measurement settings; checkpoints and generation settings may differ.
"""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from fw_train.config.schema import ConfigError
from fw_train.evaluate.evaluation import Evaluation, Plain, SetDistance
from fw_train.metrics.measures import MEASURES
from fw_train.metrics.statistics import Summary, summarize


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Difference(_Record):
    """Difference of one measure between two evaluations, over the clips that have it in both."""

    measure: str
    first: Summary = Field(description="the first evaluation, over the shared clips")
    other: Summary = Field(description="the other evaluation, over the same clips")
    difference: Summary = Field(description="other minus first, clip by clip")

    @property
    def verdict(self) -> str:
        """better, worse, or "no difference shown" if the interval of the mean difference contains 0."""
        better = MEASURES[self.measure].better
        interval = self.difference.mean_interval
        if interval is None or interval[0] <= 0 <= interval[1] or better == "neither":
            return "no difference shown"
        return "better" if (self.difference.mean < 0) == (better == "lower") else "worse"


class Comparison(_Record):
    """Evaluations compared with the first one."""

    names: list[str]
    made: list[dict[str, Plain]]
    clips: int
    videos: int = Field(description="source videos that the clips come from")
    others: list[list[Difference]] = Field(description="for each evaluation after the first, one entry per measure")
    fvd: list[SetDistance | None] = Field(description="FVD of each evaluation; null = not measured")


def compare(runs: Sequence[Evaluation]) -> Comparison:
    """Compare evaluations with the first one.

    Raises:
        ConfigError: fewer than two evaluations, or clips, annotations or measurement settings differ.
    """
    if len(runs) < 2:
        raise ConfigError("compare needs two or more folders written by `fw-train evaluate`")
    first = runs[0]
    for run in runs[1:]:
        check_comparable(run.measured, {clip.id: clip.content for clip in run.clips}, first, name=run.name)
    return Comparison(
        names=[run.name for run in runs],
        made=[run.made for run in runs],
        clips=len(first.clips),
        videos=len({clip.group for clip in first.clips}),
        others=[_differences(first, run) for run in runs[1:]],
        fvd=[run.fvd for run in runs],
    )


def check_comparable(
    measured: Mapping[str, Plain], contents: Mapping[str, str], earlier: Evaluation, *, name: str = "this evaluation"
) -> None:
    """Check that an evaluation can be compared with an earlier one.

    Args:
        measured: its measurement settings; None for an omitted optional measure, which is not compared.
        contents: its clips: id -> checksum of the annotation.
        earlier: the earlier evaluation.
        name: name of the new evaluation in messages.

    Raises:
        ConfigError: measurement settings, clips or annotations differ.
    """
    before = earlier.measured
    shared = [key for key in measured if measured[key] is not None and before.get(key) is not None]
    changed = [key for key in shared if measured[key] != before[key]]
    if changed:
        values = "; ".join(f"{key}: {before[key]} and {measured[key]}" for key in changed)
        raise ConfigError(
            f"{earlier.name} and {name} have different measurement settings ({values}); use the same ones for both"
        )
    theirs = {clip.id: clip.content for clip in earlier.clips}
    if theirs.keys() != contents.keys():
        only = sorted(theirs.keys() ^ contents.keys())
        raise ConfigError(
            f"{earlier.name} and {name} measured different clips: {len(theirs)} and {len(contents)}, {len(only)} in "
            f"one of them only ({', '.join(only[:3])}{', ...' if len(only) > 3 else ''}); evaluate both on the same "
            "--data, --split and --clips"
        )
    changed_clips = sorted(clip for clip, content in contents.items() if theirs[clip] != content)
    if changed_clips:
        raise ConfigError(
            f"{len(changed_clips)} clips have different annotations in {earlier.name} and {name} (first: "
            f"{changed_clips[0]}); "
            "evaluate both on the same dataset"
        )


def _differences(first: Evaluation, other: Evaluation) -> list[Difference]:
    theirs = {clip.id: clip for clip in other.clips}
    found = []
    for name in MEASURES:
        pairs = [
            (a, b, clip.group)
            for clip in first.clips
            if (a := clip.scores.get(name)) is not None and (b := theirs[clip.id].scores.get(name)) is not None
        ]
        if not pairs:
            continue
        groups = [group for _, _, group in pairs]
        found.append(
            Difference(
                measure=name,
                first=summarize([a for a, _, _ in pairs], groups),
                other=summarize([b for _, b, _ in pairs], groups),
                difference=summarize([b - a for a, b, _ in pairs], groups),
            )
        )
    return found
