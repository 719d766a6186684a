"""EasyCache: skip the network at steps where its answer is predicted to change little (arXiv 2507.02860).

Between two steps that were computed, the output's change per change of the input, ``k = |v - v'| / |x - x'|``, is taken
to stay constant; so ``k |x - x_before| / |v'|`` estimates the relative change that one more step brings. While the
sum of these estimates stays below a threshold the step is not computed: its velocity is ``x + delta``, with
``delta = v' - x'`` kept from the last computed step. No training and no fitted constants.

One decision holds for both passes of a guided step, taken on the conditional one, as in the authors' code for Wan. The
first steps are always computed, and so is the last, which reads the geometry.

Axes: ``*s`` is the shape of the latent, whatever it is.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from fw_model.sampling.choices import check_threshold

WARM_UP = 0.2
"""Share of the steps, from the first, that are always computed (the authors': 10 of 50)."""


class Velocities(NamedTuple):
    """Output of the network at one step."""

    positive: Float[Tensor, "*s"]
    """With the prompt."""
    negative: Float[Tensor, "*s"] | None
    """With the negative prompt; None without guidance."""


class EasyCache:
    """The memory of one generation; call ``recall`` before each step and ``store`` the output after it.

    Args:
        threshold: accumulated relative change up to which steps are skipped; the authors use 0.05 for Wan2.1. 0 skips
            nothing.
        steps: length of the schedule.
    """

    def __init__(self, threshold: float, steps: int) -> None:
        check_threshold(threshold)
        self.threshold, self.steps = threshold, steps
        self.warm_up = max(2, round(WARM_UP * steps))
        self.reused = 0
        self.forget()

    def forget(self) -> None:
        """Clear the memory when another expert takes over, whose outputs differ."""
        self._estimate = 0.0
        self._rate: float | None = None
        self._seen: Tensor | None = None  # input of the last step, computed or not
        self._input: Tensor | None = None  # of the last computed step
        self._output: Velocities | None = None

    def recall(self, latents: Float[Tensor, "*s"], index: int) -> Velocities | None:
        """The step's velocities if it may be skipped, else None: it must be computed, and stored."""
        before, self._seen = self._seen, latents
        if index < self.warm_up or index == self.steps - 1:
            self._estimate = 0.0
            return None
        if before is None or self._rate is None or self._input is None or self._output is None:
            return None
        self._estimate += self._rate * _distance(latents, before) / max(_size(self._output.positive), 1e-12)
        if not self._estimate < self.threshold:  # a NaN is no reason to skip
            self._estimate = 0.0
            return None
        self.reused += 1
        moved = latents - self._input
        positive, negative = self._output
        return Velocities(positive + moved, None if negative is None else negative + moved)

    def store(self, latents: Float[Tensor, "*s"], velocities: Velocities) -> None:
        """Remember a computed step."""
        if self._output is not None and self._input is not None:
            moved = _distance(latents, self._input)
            self._rate = _distance(velocities.positive, self._output.positive) / moved if moved > 0 else None
        self._input, self._output = latents, velocities


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


def _size(a: Tensor) -> float:
    return float(a.abs().mean())
