"""Summaries of evidence results: means over clips, worlds, noise seeds and trainings, with bootstrap intervals.

Intervals draw worlds with all their clips and noise seeds, whose noise differs from world to world; those of
differences between several trainings draw trainings too.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fw_train.evidence.depth_maps import average_scene_error, correlation
from fw_train.evidence.scores import Scores
from fw_train.metrics.statistics import Summary, summarize, summarize_trainings

Maps = dict[str, dict[str, np.ndarray]]
"""Coarse log depth by kind (`truth`, `generated`, `level@SIGMA`) and clip."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The scores of one clip of one model."""

    model: str
    """Name of the model."""
    run: int
    """Number of the training under this name, from 0."""
    clip: str
    """Clip id."""
    group: str
    """World that the clip shows."""
    scores: Scores
    """Scores by name; None = not defined."""


class Table:
    """Summaries of the results by model and score."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = results
        self._values: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
        self._group: dict[str, str] = {}
        for result in results:
            self._group[result.clip] = result.group
            for name, value in result.scores.items():
                if value is not None:
                    of_clip = self._values.setdefault((result.model, name), {}).setdefault(result.clip, [])
                    of_clip.append((result.run, value))

    def restricted(self, clips: Collection[str]) -> "Table":
        """The same table of some clips only."""
        return Table([result for result in self._results if result.clip in clips])

    def names(self, model: str) -> list[str]:
        """Names of a model's scores."""
        return [score for one, score in self._values if one == model]

    def by_clip(self, model: str, score: str) -> dict[str, float]:
        """Mean over noise seeds and trainings, per clip."""
        return {
            clip: sum(value for _, value in found) / len(found)
            for clip, found in self._values.get((model, score), {}).items()
        }

    def summary(self, model: str, score: str) -> Summary | None:
        """Mean over clips with its interval; None if no clip has this score."""
        return self._summarized(self.by_clip(model, score))

    def difference(self, model: str, first: str, score: str) -> Summary | None:
        """Difference of `model` from `first`, clip by clip; None if they share no clip.

        If both have several trainings, they are paired by number, and the interval draws trainings too.
        """
        mine, theirs = self._by_run(model, score), self._by_run(first, score)
        runs = sorted(mine.keys() & theirs.keys()) if len(mine) == len(theirs) else []
        if len(runs) < 2:
            one, other = self.by_clip(model, score), self.by_clip(first, score)
            return self._summarized({clip: one[clip] - other[clip] for clip in one if clip in other})
        clips = [clip for clip in mine[runs[0]] if all(clip in side[run] for side in (mine, theirs) for run in runs)]
        if not clips:
            return None
        values = np.array([[mine[run][clip] - theirs[run][clip] for clip in clips] for run in runs])
        return summarize_trainings(values, [self._group[clip] for clip in clips])

    def of_runs(self, model: str, score: str) -> list[float]:
        """Mean over clips of each training under a name."""
        return [sum(clips.values()) / len(clips) for _, clips in sorted(self._by_run(model, score).items())]

    def _by_run(self, model: str, score: str) -> dict[int, dict[str, float]]:
        """Mean over noise seeds, by training and clip."""
        seeds: dict[int, dict[str, list[float]]] = {}
        for clip, found in self._values.get((model, score), {}).items():
            for run, value in found:
                seeds.setdefault(run, {}).setdefault(clip, []).append(value)
        return {run: {clip: sum(v) / len(v) for clip, v in clips.items()} for run, clips in seeds.items()}

    def _summarized(self, values: Mapping[str, float]) -> Summary | None:
        if not values:
            return None
        return summarize(list(values.values()), [self._group[clip] for clip in values])


class DepthMaps:
    """Measures of predicted depth over all worlds together.

    Args:
        maps: coarse log depth by kind and clip.
        groups: world of each clip.
    """

    def __init__(self, maps: Maps, groups: Mapping[str, str]) -> None:
        self._maps, self._groups = maps, groups

    def correlation(self, kind: str) -> Summary | None:
        """Correlation with the true depth without the average scene; None if it is not defined."""
        clips = [clip for clip in self._maps.get(kind, {}) if clip in self._maps.get("truth", {})]
        if not clips:
            return None
        predicted, true = ([self._maps[name][clip] for clip in clips] for name in (kind, "truth"))
        return correlation(predicted, true, [self._groups[clip] for clip in clips])

    def average_scene(self) -> Summary | None:
        """AbsRel of the average scene; None if it is not defined."""
        true = self._maps.get("truth", {})
        return average_scene_error(list(true.values()), [self._groups[clip] for clip in true]) if true else None
