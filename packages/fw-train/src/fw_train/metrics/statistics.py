"""Means and medians over clips, with bootstrap intervals.

Clips of one video are not independent, so the bootstrap draws whole videos (groups) with replacement. A single group
has no interval.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

RESAMPLES = 2000
CONFIDENCE = 0.95


class Summary(BaseModel):
    """Summary of one measure over the clips that have it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    """Mean over clips."""
    mean_interval: tuple[float, float] | None
    """95 % bootstrap interval of the mean."""
    median: float
    """Median over clips."""
    median_interval: tuple[float, float] | None
    """95 % bootstrap interval of the median."""
    count: int
    """Number of clips with a value."""
    groups: int
    """Number of source videos of these clips."""


def summarize(
    values: Sequence[float] | Float[np.ndarray, "n"],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Summary:
    """Mean and median with percentile bootstrap intervals (Efron 1979), drawing groups with replacement.

    Args:
        values: one per clip, finite.
        groups: source video of each clip; if all differ, this is the plain bootstrap.
        resamples: number of bootstrap draws.
        seed: seed of the draws; the same values always give the same interval.

    Raises:
        ValueError: there are no values, values are not finite, or the number of groups differs.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0 or len(x) != len(groups) or not np.isfinite(x).all():
        raise ValueError(f"summarize: {len(x)} values and {len(groups)} groups; give finite values, one group each")
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    mean_interval = median_interval = None
    if len(names) > 1:
        means, medians = _resampled(x, index, len(names), resamples, seed)
        mean_interval, median_interval = _middle(means), _middle(medians)
    return Summary(
        mean=float(x.mean()),
        mean_interval=mean_interval,
        median=float(np.median(x)),
        median_interval=median_interval,
        count=len(x),
        groups=len(names),
    )


def summarize_trainings(
    values: Float[np.ndarray, "r n"], groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> Summary:
    """Mean over trainings and clips, with an interval over both: draws trainings and groups with replacement.

    Args:
        values: one row per training, one column per clip, finite.
        groups: source video of each clip.
        resamples: number of bootstrap draws.
        seed: seed of the draws.
    """
    x = np.asarray(values, dtype=np.float64)
    plain = summarize(x.mean(axis=0), groups, resamples=resamples, seed=seed)
    if len(x) < 2 or plain.groups < 2:
        return plain
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    weights = _draws(rng, plain.groups, resamples)[:, index]
    trainings = _draws(rng, len(x), resamples)
    means = np.einsum("dr,dn,rn->d", trainings, weights, x, optimize=True) / weights.sum(axis=1) / len(x)
    return plain.model_copy(update={"mean_interval": _middle(means), "median_interval": None})


def summarize_correlation(
    sums: Float[np.ndarray, "n 3"], groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> Summary | None:
    """Correlation from the sums of x y, x x and y y of each clip, with an interval over groups; None if undefined."""
    total = np.asarray(sums, dtype=np.float64).sum(axis=0)
    if not total[1] * total[2] > 0:
        return None
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    value = float(total[0] / np.sqrt(total[1] * total[2]))
    interval = None
    if len(names) > 1:
        drawn = _draws(np.random.default_rng(seed), len(names), resamples)[:, index] @ sums
        interval = _middle(drawn[:, 0] / np.sqrt(np.maximum(drawn[:, 1] * drawn[:, 2], 1e-300)))
    return Summary(
        mean=value, mean_interval=interval, median=value, median_interval=None, count=len(sums), groups=len(names)
    )


def _middle(draws: Float[np.ndarray, "r"]) -> tuple[float, float]:
    """The bounds of the central interval of the draws."""
    low, high = np.percentile(draws, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)))
    return float(low), float(high)


def _resampled(
    x: Float[np.ndarray, "n"], index: np.ndarray, groups: int, resamples: int, seed: int
) -> tuple[Float[np.ndarray, "r"], Float[np.ndarray, "r"]]:
    """Mean and median of each bootstrap draw; a group that is drawn k times counts k times."""
    weights = _draws(np.random.default_rng(seed), groups, resamples)[:, index]
    means = (weights * x).sum(axis=1) / weights.sum(axis=1)
    order = np.argsort(x)
    ordered, running = x[order], np.cumsum(weights[:, order], axis=1)
    total = running[:, -1:]
    lower = (running >= np.ceil(total / 2)).argmax(axis=1)
    upper = (running >= np.floor(total / 2) + 1).argmax(axis=1)
    return means, (ordered[lower] + ordered[upper]) / 2


def _draws(rng: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    """How often each of `count` items is drawn in each of `resamples` draws with replacement."""
    drawn = rng.integers(0, count, (resamples, count))
    times = np.zeros((resamples, count), np.int64)
    np.add.at(times, (np.arange(resamples)[:, None], drawn), 1)
    return times
