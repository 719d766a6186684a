"""Declarations of the modules: the initial weights of every preset stay what they are, and nothing is undeclared."""

import dataclasses
import hashlib

import pytest
import torch
from torch import nn

from fw_model.config import WorldConfig, preset
from fw_model.layers.declarations import Declares, declared_group, initialize
from fw_model.model.model import FantasyWorld

_NORMAL_NUMBERS = "e1275a785936ab2f"
"""Digest of 64 normal numbers of torch's generator; machines without AVX2 pair them differently."""
_DIGESTS = {
    "tiny": "c32dffda97a13ac1",
    "small_world": "9b2cfce8bb89bd88",
    "wan21_fun_1_3b": "a797e63b4fe22f62",
    "wan21_i2v_14b": "b55a8d2cc06a2212",
    "wan22_fun_a14b": "b3bf8b24dfe0fe5d",
    "transformer bridge": "c837e2302505f032",
}


def _digest(values: bytes) -> str:
    return hashlib.sha256(values).hexdigest()[:16]


def _reduced(name: str) -> WorldConfig:
    """A preset; the large ones with every part at a small size."""
    if name == "transformer bridge":
        fun = _reduced("wan21_fun_1_3b")
        geometry = dataclasses.replace(fun.geometry, bridge="transformer", layer_scale=0.3, gate_start=1.0)
        return dataclasses.replace(fun, geometry=geometry, video=dataclasses.replace(fun.video, gate_start=0.3))
    config = preset(name)
    if name in ("tiny", "small_world"):
        return config
    return dataclasses.replace(
        config,
        pcb_blocks=2,
        video=dataclasses.replace(
            config.video,
            dim=48,
            heads=2,
            ffn_dim=64,
            text_dim=12,
            text_len=7,
            blocks=5,
            clip_len=5,
            clip_dim=8 if config.video.clip_dim else None,
        ),
        geometry=dataclasses.replace(
            config.geometry,
            width=24,
            heads=2,
            dpt_taps=(2, 2, 1, 0),
            camera_trunk=1,
            camera_heads=2,
            dpt_features=8,
            dpt_channels=(8, 8, 12, 12),
            dpt_hidden=8,
        ),
        cross_branch=dataclasses.replace(config.cross_branch, dim=24, heads=2),
        camera=config.camera and dataclasses.replace(config.camera, adapter_blocks=3, feature_dim=16, downscale=2),
    )


@pytest.mark.parametrize("name", _DIGESTS)
def test_initial_weights_are_those_of_the_first_release(name):
    probe = torch.empty(64).normal_(generator=torch.Generator().manual_seed(0))
    if _digest(probe.numpy().tobytes()) != _NORMAL_NUMBERS:
        pytest.skip("this machine pairs torch's normal numbers differently")
    lines = []
    for key, parameter in FantasyWorld(_reduced(name), seed=5).named_parameters():
        lines.append(f'["{key}", "{_digest(parameter.detach().numpy().tobytes())}"]')
    assert _digest(("[" + ", ".join(lines) + "]").encode()) == _DIGESTS[name]


def test_undeclared_parameters_are_named():
    class Extra(nn.Module, Declares):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 2))

    with pytest.raises(ValueError, match=r"layers\.0\.weight"):
        initialize(Extra(), 0)
    with pytest.raises(ValueError, match=r"layers\.0\.weight"):
        declared_group(Extra(), "layers.0.weight")
