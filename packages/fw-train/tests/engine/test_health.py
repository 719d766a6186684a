"""The two health figures: their values on known tensors, and the warnings."""

import dataclasses

import pytest
import torch

from fw_model.config import CameraConfig, preset
from fw_model.model.model import FantasyWorld
from fw_model.wan.camera_adapter import CameraAdapter
from fw_train.engine.health import ADAPTER_ACTIVE, CAMERA_TOKENS, HealthMonitor, token_difference, warnings


def test_token_difference_is_0_for_equal_frames_and_known_for_others() -> None:
    same = torch.randn(2, 1, 8).expand(-1, 4, -1)
    assert float(token_difference(same)) < 1e-6
    opposite = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    assert float(token_difference(opposite)) == pytest.approx(1.0)
    shifted = torch.tensor([[[3.0], [5.0]]])
    assert float(token_difference(shifted)) == pytest.approx(1 / 17**0.5)


def test_dead_adapters_are_seen_and_warned_about() -> None:
    adapter = CameraAdapter(8, 20)
    monitor = HealthMonitor(adapter)
    with torch.no_grad():
        adapter.to_shift[0].get_parameter("bias").fill_(-1e3)
        adapter(torch.randn(1, 5, 8), torch.randn(1, 5, 20))
    values = monitor.values()
    assert values.keys() == {ADAPTER_ACTIVE}
    assert float(values[ADAPTER_ACTIVE]) == 0.0
    assert monitor.values() == {}
    sentences = warnings({name: float(value) for name, value in values.items()})
    assert len(sentences) == 1
    assert ADAPTER_ACTIVE in sentences[0]
    assert warnings({ADAPTER_ACTIVE: 0.5, CAMERA_TOKENS: 0.5, "loss": 0.0}) == []


@pytest.mark.parametrize("time_index", ["none", "additive", "rotary"])
def test_a_time_index_separates_frames_that_look_the_same(time_index: str) -> None:
    """All latent frames equal: without an index their tokens after frame 0 are equal too, with one they are not."""
    config = preset("tiny")
    geometry = dataclasses.replace(config.geometry, time_index=time_index, layer_scale=0.3)
    model = FantasyWorld(dataclasses.replace(config, geometry=geometry), seed=1)
    monitor = HealthMonitor(model)
    features = torch.randn(1, 6, config.video.dim, generator=torch.Generator().manual_seed(0)).repeat(1, 4, 1)
    tokens = model.geometry.enter(features, 4, None)
    steps = model.geometry.steps(torch.tensor([500.0]), 4, 2, 3)
    frame = tokens
    with torch.no_grad():
        for layer in model.irg:
            frame, tokens = (out := layer(None, tokens, geometry_steps=steps)).frame, out.geometry
        model.geometry.camera_head(torch.cat([frame, tokens], -1)[:, :, 0])
    difference = float(monitor.values()[CAMERA_TOKENS])
    assert (difference > 1e-3) == (time_index != "none")


def test_the_adapters_of_our_presets_have_no_relu() -> None:
    assert preset("tiny").camera == CameraConfig(adapter_blocks=7, feature_dim=128, channels=128, activation="gelu")
    released = preset("wan21_i2v_14b").camera
    assert released is not None
    assert released.activation == "relu"
