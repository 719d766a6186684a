"""Samplers: from noise to a clean latent along a ``FlowSchedule``, given the velocity predicted at each step.

A sampler is made fresh for every run and stepped in order: ``latents = sampler.step(latents, velocity, index)``.
Scalars are worked out in float64 on the host, so a step costs a few multiply-adds on the device and no sync.

Axes: ``*s`` is the shape of the latent, whatever it is.
"""

import math
from importlib import import_module
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from fw_model.sampling.choices import SAMPLERS, check_sampler
from fw_model.sampling.flow import FlowSchedule, euler_step


class EulerSampler:
    """First-order sampler, the one of the FantasyWorld release. Holds no state between steps."""

    def __init__(self, schedule: FlowSchedule) -> None:
        self.sigmas = schedule.sigmas

    def step(self, latents: Float[Tensor, "*s"], velocity: Float[Tensor, "*s"], index: int) -> Float[Tensor, "*s"]:
        """Latents at ``sigmas[index + 1]`` from latents and velocity at ``sigmas[index]``."""
        return euler_step(latents, velocity, float(self.sigmas[index]), float(self.sigmas[index + 1]))


class UniPCSampler:
    """Second-order predictor-corrector (UniPC-B2, Zhao et al. 2023, data prediction), the official Wan default.

    With ``lambda = log((1 - sigma) / sigma)`` and ``h = lambda_next - lambda`` the predictor is
    ``x' = (sigma'/sigma) x + alpha' (1 - e^-h) (m + D/2)``, where m is the predicted clean latent and D its backward
    difference extrapolated over h; the corrector repeats the step once the next prediction is known, at no further
    network call. Steps must be taken in order, 0, 1, 2, ...; the last one is of first order.
    """

    def __init__(self, schedule: FlowSchedule) -> None:
        sigmas = schedule.sigmas.double()
        sigmas[0] = min(float(sigmas[0]), 1 - 1e-6)  # log-SNR of pure noise is -inf; same floor as diffusers
        self.sigmas = sigmas.float()
        self._levels = [_Level.at(float(s)) for s in self.sigmas]
        self._clean: list[Tensor] = []  # predicted clean latents of the last two steps
        self._previous: Tensor | None = None  # the (corrected) latents the last step started from
        self._order = 0
        self._index = 0

    def step(self, latents: Float[Tensor, "*s"], velocity: Float[Tensor, "*s"], index: int) -> Float[Tensor, "*s"]:
        """Latents at ``sigmas[index + 1]`` from latents and velocity at ``sigmas[index]``."""
        if index != self._index:
            raise ValueError(f"UniPC keeps history: expected step {self._index}, got {index}. Start a new sampler.")
        clean = latents - velocity * self._levels[index].sigma
        if self._previous is not None:
            latents = self._correct(self._previous, clean, index)
        self._clean = [*self._clean[-1:], clean]
        self._order = min(2, self._order + 1, len(self._levels) - 1 - index)
        self._previous = latents
        self._index += 1
        return self._predict(latents, index)

    def _predict(self, latents: Tensor, index: int) -> Tensor:
        """UniP: extrapolate the clean prediction from ``index`` to ``index + 1``."""
        here, there = self._levels[index], self._levels[index + 1]
        gain = -math.expm1(here.lam - there.lam)  # 1 - e^-h; h is infinite on the way to sigma = 0
        clean = self._clean[-1]
        if self._order == 2:
            ratio = (self._levels[index - 1].lam - here.lam) / (there.lam - here.lam)
            clean = clean + (0.5 / ratio) * (self._clean[-2] - clean)
        return (there.sigma / here.sigma) * latents + (there.alpha * gain) * clean

    def _correct(self, latents: Tensor, clean_now: Tensor, index: int) -> Tensor:
        """UniC: redo the step ``index - 1 -> index`` with the prediction made at ``index``."""
        here, there = self._levels[index - 1], self._levels[index]
        h = there.lam - here.lam
        gain = -math.expm1(-h)
        before = self._clean[-1]
        slope = clean_now - before
        if self._order == 1:
            correction = 0.5 * slope
        else:
            # two unknown weights from the two order conditions r1 + r2 = b1, ratio r1 + r2 = b2
            b1, b2 = _order_terms(h)
            ratio = (self._levels[index - 2].lam - here.lam) / h
            r1 = (b1 - b2) / (1 - ratio)
            r2 = b1 - r1
            correction = (r1 / ratio) * (self._clean[-2] - before) + r2 * slope
        return (there.sigma / here.sigma) * latents + (there.alpha * gain) * (before + correction)


@runtime_checkable
class Sampler(Protocol):
    """Takes the steps of one generation."""

    def step(self, latents: Float[Tensor, "*s"], velocity: Float[Tensor, "*s"], index: int) -> Float[Tensor, "*s"]:
        """Latents at ``sigmas[index + 1]`` from latents and velocity at ``sigmas[index]``."""
        ...


def make_sampler(name: str, schedule: FlowSchedule) -> Sampler:
    """A new sampler for one generation. ValueError unless ``name`` is one of ``SAMPLERS``."""
    check_sampler(name)
    module, _, kind = SAMPLERS[name].partition(":")
    return getattr(import_module(module), kind)(schedule)


# --- helpers ---


class _Level(NamedTuple):
    sigma: float
    alpha: float
    lam: float

    @staticmethod
    def at(sigma: float) -> "_Level":
        lam = math.inf if sigma == 0 else math.log((1 - sigma) / sigma)
        return _Level(sigma, 1 - sigma, lam)


def _order_terms(h: float) -> tuple[float, float]:
    """The right-hand sides b1, b2 of the order conditions of UniC with B(h) = e^-h - 1 (UniPC, eq. 12)."""
    z = -h
    bh = math.expm1(z)
    phi = bh / z - 1
    first = phi / bh
    second = (phi / z - 0.5) * 2 / bh
    return first, second
