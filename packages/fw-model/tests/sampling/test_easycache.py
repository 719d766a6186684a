"""Step reuse: the rule worked out by hand on scalars, what must never be skipped, and the sampling loop with it."""

from typing import Any

import pytest
import torch
from torch import nn

from fw_model.config import WorldConfig
from fw_model.model.conditioning import Conditioning
from fw_model.model.model import FantasyWorld, WorldOutput
from fw_model.sampling.denoise import denoise
from fw_model.sampling.easycache import EasyCache, Velocities
from fw_model.sampling.flow import FlowSchedule


def _v(positive: float, negative: float | None = None) -> Velocities:
    return Velocities(torch.tensor([positive]), None if negative is None else torch.tensor([negative]))


def test_the_rule_by_hand():
    """k = |v1 - v0| / |x1 - x0| = 2; each further step of 0.1 adds 2 * 0.1 / |v1| = 0.02 to the estimate."""
    cache = EasyCache(0.05, steps=10)
    assert cache.warm_up == 2
    for index, (x, v) in enumerate([(1.0, 8.0), (2.0, 10.0)]):
        assert cache.recall(torch.tensor([x]), index) is None
        cache.store(torch.tensor([x]), _v(v, -v))
    for index, x in ((2, 2.1), (3, 2.2)):  # 0.02, 0.04: below the threshold
        reused = cache.recall(torch.tensor([x]), index)
        assert reused is not None
        assert reused.positive.item() == pytest.approx(10 + x - 2)
        assert reused.negative is not None
        assert reused.negative.item() == pytest.approx(-10 + x - 2)
    assert cache.recall(torch.tensor([2.3]), 4) is None  # 0.06
    cache.store(torch.tensor([2.3]), _v(11.5, 0.0))  # k = 1.5 / 0.3 = 5 from the last computed step
    assert cache.recall(torch.tensor([2.4]), 5) is not None  # a new sum: 5 * 0.1 / 11.5 = 0.043
    assert cache.recall(torch.tensor([2.5]), 6) is None
    assert cache.reused == 3


def test_first_and_last_steps_are_computed():
    cache = EasyCache(9.0, steps=50)
    computed = []
    for index in range(50):
        x = torch.tensor([float(index)])
        if cache.recall(x, index) is None:
            computed.append(index)
            cache.store(x, _v(1.0))
    assert computed == [*range(10), 49]  # the answers do not change at all: everything else is reused
    assert cache.reused == 39


def test_nothing_is_reused_without_cause():
    never = EasyCache(0.0, steps=10)
    strange = EasyCache(0.05, steps=10)
    for index in range(10):
        x = torch.tensor([float(index)])
        assert never.recall(x, index) is None
        never.store(x, _v(1.0 + index))
        assert strange.recall(x, index) is None
        strange.store(x, _v(float("nan")))


def test_another_expert_begins_anew():
    cache = EasyCache(9.0, steps=20)
    for index in range(4):
        x = torch.tensor([float(index)])
        if cache.recall(x, index) is None:
            cache.store(x, _v(1.0))
    assert cache.recall(torch.tensor([4.0]), 4) is not None
    cache.forget()
    for index in (5, 6):  # two computed steps are needed for a rate
        x = torch.tensor([float(index)])
        assert cache.recall(x, index) is None
        cache.store(x, _v(1.0))
    assert cache.recall(torch.tensor([7.0]), 7) is not None


@pytest.mark.parametrize("threshold", [-0.1, 50.0, float("nan")])
def test_thresholds_that_are_none(threshold):
    with pytest.raises(ValueError, match="easycache"):
        EasyCache(threshold, steps=10)


PROMPT, EMPTY = (
    Conditioning(context=(), y=None, camera=None, control=None, pose_tokens=torch.full((1, 1, 1), value))
    for value in (1.0, 0.9)
)


class _Field(FantasyWorld):
    """A model without weights: the clean latent is a known function of the noisy one. It notes its calls."""

    def __init__(self, config: WorldConfig) -> None:
        nn.Module.__init__(self)
        self.config, self.calls = config, []

    def forward(self, latents, timestep, **inputs: Any) -> WorldOutput:
        self.calls.append((inputs["condition"] is PROMPT, inputs["predict_geometry"]))
        clean = torch.tanh(latents) * inputs["condition"].pose_tokens.view(1, 1, 1, 1, 1)
        return WorldOutput(velocity=(latents - clean) / (timestep / 1000).view(-1, 1, 1, 1, 1), geometry=None)


def _sample(field: _Field, **options: Any) -> Any:
    noise = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    *_, last = denoise([field], lambda _: (PROMPT, EMPTY), noise, FlowSchedule(steps=30), **options)
    return last


def test_the_loop_reuses_both_passes_and_stays_close(micro):
    exact_field, field = _Field(micro), _Field(micro)
    exact = _sample(exact_field)
    fast = _sample(field, easycache=0.1)
    assert exact.reused_steps == 0
    assert fast.reused_steps >= 8
    assert len(exact_field.calls) == 60
    assert len(field.calls) == 60 - 2 * fast.reused_steps
    assert [prompt for prompt, _ in field.calls] == [True, False] * (len(field.calls) // 2)
    assert [geometry for _, geometry in field.calls][-2:] == [True, False]  # the geometry is read in the last step
    error = float((fast.latents - exact.latents).norm() / exact.latents.norm())
    assert 0 < error < 0.02
    tighter = _sample(_Field(micro), easycache=0.02)
    assert tighter.reused_steps < fast.reused_steps
    assert float((tighter.latents - exact.latents).norm() / exact.latents.norm()) < error
    none = _sample(_Field(micro), easycache=0.0)
    assert torch.equal(none.latents, exact.latents)
