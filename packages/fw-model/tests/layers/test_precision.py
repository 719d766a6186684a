"""Precision: the heads stay in float32, and nothing computes float64 on a device that has none."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fw_core import devices
from fw_model.config import tiny
from fw_model.layers.float32 import Float32Module
from fw_model.model.model import FantasyWorld

DEVICE = "cuda"
"""A device that fake tensors can have on any machine."""


class RefuseFloat64(TorchDispatchMode):
    """Raise like mps when an operation gives float64 on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.device.type == DEVICE and value.dtype == torch.float64:
                raise TypeError(f"float64 on a device without it: {func}")
        return out


def forward_on_the_device() -> Any:
    """The outputs of a forward pass of `tiny` with fake tensors."""
    with torch.device("meta"):
        world = FantasyWorld(tiny())

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, device=DEVICE)

    with FakeTensorMode(), torch.no_grad():
        for module in world.modules():
            for name, value in module._parameters.items():
                module._parameters[name] = None if value is None else nn.Parameter(zeros(*value.shape))
            for name, value in module._buffers.items():
                module._buffers[name] = None if value is None else zeros(*value.shape)
        with RefuseFloat64():
            latents, y, context = zeros(1, 16, 2, 4, 6), zeros(1, 16, 2, 4, 6), zeros(1, 16, 64)
            return world(latents, zeros(1), context=context, y=y)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_float64_on_a_device_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", (DEVICE,))
    out = forward_on_the_device()
    assert out.geometry.depth.device.type == DEVICE
    assert tuple(out.geometry.depth.shape) == (1, 5, 32, 48)
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", ())
    with pytest.raises(TypeError, match="float64"):  # the check of this test finds it
        forward_on_the_device()


@torch.no_grad()
def test_heads_keep_float32_through_casts(micro: Any, make_world: Any, make_inputs: Any) -> None:
    world = make_world(micro)
    before = {name: value.clone() for name, value in world.named_parameters()}
    heads = [name for name, module in world.named_modules() if isinstance(module, Float32Module)]
    assert heads == ["geometry.camera_head", "geometry.depth_head", "geometry.point_head"]
    for cast in (world.bfloat16, world.half, lambda: world.to(torch.bfloat16)):
        cast()
        for name, value in world.named_parameters():
            if name.startswith(tuple(heads)):
                assert torch.equal(value, before[name])
            else:
                assert value.dtype in (torch.float16, torch.bfloat16)
    latents, timestep, inputs = make_inputs(micro)
    depth = world(latents, timestep, **inputs).geometry.depth[0, 0]
    assert depth.dtype == torch.float32
    assert len(depth.unique()) > 0.95 * depth.numel()  # logits in bfloat16 give some hundred values
    world.geometry.double()
    assert world.geometry.depth_head.conv3.weight.dtype == torch.float64


def test_training_under_autocast_keeps_depth_and_poses_exact(micro: Any, make_world: Any, make_inputs: Any) -> None:
    """The camera head and the last layer of the dense heads leave autocast, so that the losses see no steps."""
    world = make_world(micro)
    taken: dict[str, tuple[Any, Any]] = {}

    def keep(name: str) -> None:
        def hook(_module: nn.Module, given: Any, out: Any) -> None:
            taken[name] = given[0], out

        world.geometry.get_submodule(name).register_forward_hook(hook)

    for name in ("camera_head", "depth_head.conv3"):
        keep(name)
    latents, timestep, inputs = make_inputs(micro)
    with torch.autocast("cpu", torch.bfloat16):
        out = world(latents, timestep, **inputs).geometry
    depth = out.depth[0, 0]
    assert depth.dtype == torch.float32
    assert len(depth.unique()) > 0.95 * depth.numel()
    features, logits = taken["depth_head.conv3"]
    assert torch.equal(features, features.bfloat16().float())  # the layers before it run in bfloat16
    expected = torch.nn.functional.conv2d(
        features, world.geometry.depth_head.conv3.weight, world.geometry.depth_head.conv3.bias
    )
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    tokens, poses = taken.pop("camera_head")
    for made, exact in zip(poses, world.geometry.camera_head(tokens.detach().float()), strict=True):
        torch.testing.assert_close(made, exact, rtol=0, atol=0)
    out.depth.sum().backward()
    assert world.geometry.depth_head.conv3.weight.grad is not None
