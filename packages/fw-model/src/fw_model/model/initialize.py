"""Weights of a new model: a function of a seed and of each parameter's name, and of nothing else.

Gates, last adapter layers and the output head start at zero, so that a new world model equals its plain video backbone
and an independent geometry branch. The dense heads keep the power of their input from layer to layer: under PyTorch's
own choice, twenty convolutions deep, what differs between two clips is a 5000th of what their biases say.
"""

import hashlib
import math
import re
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

_EMBEDDING_STD = 0.02
_TOKEN_STD = 1e-6
_POSE_STD = 0.002

Rule = Callable[[Tensor, Generator], object]


@torch.no_grad()
def initialise(
    module: nn.Module, seed: int, *, layer_scale: float = 0.01, video_gate: float = 0.0, geometry_gate: float = 0.0
) -> None:
    """Fill every parameter of `module` in place; equal names, shapes and seeds give equal weights on every device.

    Args:
        module: what to fill.
        seed: the random weights are a function of it.
        layer_scale: start of every LayerScale factor.
        video_gate: added to the two residual gates of every video block.
        geometry_gate: added to the MLP gate of every geometry block.
    """
    gates = {_VIDEO_GATES: ((2, 5), video_gate), _GEOMETRY_GATES: ((5,), geometry_gate)}
    fan_in = {
        f"{name}.bias" if name else "bias": _fan_in(child.weight)
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d)
    }
    for name, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(_seed(seed, name))
        value = torch.empty(parameter.shape)
        if re.search(_LAYER_SCALE, name):
            value.fill_(layer_scale)
            parameter.copy_(value)
            continue
        for pattern, rule in _RULES:
            if re.search(pattern, name):
                rule(value, generator)
                break
        else:
            _default(value, generator, fan_in.get(name))
        for pattern, (rows, start) in gates.items():
            if re.search(pattern, name):
                value[:, list(rows)] += start
        parameter.copy_(value)


def _default(value: Tensor, generator: Generator, bias_fan_in: int | None) -> None:
    """PyTorch's own choice: uniform weights and biases, norms at the identity."""
    if value.ndim >= 2:
        nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=generator)
    elif bias_fan_in is not None:
        bound = 1 / math.sqrt(bias_fan_in)
        value.uniform_(-bound, bound, generator=generator)
    else:
        raise ValueError("a one-dimensional parameter without a rule; name it in fw_model.model.initialize")


def _zeros(value: Tensor, _: Generator) -> None:
    value.zero_()


def _ones(value: Tensor, _: Generator) -> None:
    value.fill_(1.0)


def _normal(std: float) -> Rule:
    return lambda value, generator: value.normal_(0.0, std, generator=generator)


def _table(value: Tensor, generator: Generator) -> None:
    value.normal_(0.0, value.shape[-1] ** -0.5, generator=generator)


def _xavier(value: Tensor, generator: Generator) -> None:
    nn.init.xavier_uniform_(value.flatten(1), generator=generator)


def _keep_power(value: Tensor, generator: Generator) -> None:
    value.normal_(0.0, _fan_in(value) ** -0.5, generator=generator)


def _keep_power_enlarging(value: Tensor, generator: Generator) -> None:
    """Of a transposed convolution whose stride is its kernel: every output sees one position of all inputs."""
    value.normal_(0.0, value.shape[0] ** -0.5, generator=generator)


def _control(value: Tensor, generator: Generator) -> None:
    """Rays are small beside latents of unit power: three times what keeps their power."""
    value.normal_(0.0, 3 * _fan_in(value) ** -0.5, generator=generator)


def _plain_scene(value: Tensor, _: Generator) -> None:
    """Of a dense head: everything one unit ahead (depth exp(0), points z expm1(log 2)), and hardly any confidence.

    A bias moves by a learning rate a step. What it lacks, a network of this depth makes up for by growing features that
    are the same for every clip, and those drown the others.
    """
    value.zero_()
    value[-1] = _UNSURE
    if len(value) > 3:
        value[2] = math.log(2.0)


def _plain_camera(value: Tensor, _: Generator) -> None:
    """Of the camera head, over its usual four refinements: no motion, and about 50 degrees of view."""
    value.zero_()
    value[6:] = 0.25


_UNSURE = -3.0
_VIDEO_GATES = r"^(pcb\.\d+|irg\.\d+\.video)\.modulation$"
_GEOMETRY_GATES = r"^irg\.\d+\.(frame|all_frames)\.modulation$"
_LAYER_SCALE = r"\.ls[12]\.gamma$"
_DENSE = r"(^|\.)(streams\.\d+|fusions\.\d+|conv[123])\."
_BRANCH = r"(^|\.)(attn|mlp|bridge|expand|embed_pose|pose_modulation|pose_branch)\."
_CAMERA = r"(pose_encoder\.(first\.2|second\.0|patch_embedding|fc\.[03])|camera_adapter\.\w+(\.\d)?)\."
_VIDEO = r"^(pcb\.\d+|irg\.\d+\.video)\.(self_attn|cross_attn|ffn)\."

_RULES: list[tuple[str, Rule]] = [
    (r"gamma_(video|geometry)$", _zeros),
    (r"camera_adapter\.to_shift\.2\.", _zeros),
    (r"^video\.head\.head\.", _zeros),
    (r"residuals\.\d+\.gamma$", _ones),
    (r"(^|\.)modulation$", _table),
    (r"tokens\.(camera|register)$", _normal(_TOKEN_STD)),
    (r"empty_pose$", _zeros),
    (r"(norm\w*|first\.[13]|second\.1|fc\.[14]|image_embedding\.[04])\.weight$", _ones),
    (r"(norm\w*|first\.[13]|second\.1|fc\.[14]|image_embedding\.[04])\.bias$", _zeros),
    (r"(^|\.)conv3\.weight$", _normal(_EMBEDDING_STD)),
    (r"(^|\.)conv3\.bias$", _plain_scene),
    (r"pose_branch\.fc2\.bias$", _plain_camera),
    (r"streams\.[01]\.resize\.weight$", _keep_power_enlarging),
    (_DENSE + r".*weight$", _keep_power),
    (_DENSE + r".*bias$", _zeros),
    (r"pose_branch\.fc2\.weight$", _normal(_POSE_STD)),
    (_BRANCH + r".*weight$", _xavier),
    (_BRANCH + r".*bias$", _zeros),
    (r"^video\.control_adapter\.conv\.weight$", _control),
    (r"^video\.control_adapter\..*weight$", _keep_power),
    (r"^video\.control_adapter\..*bias$", _zeros),
    (_CAMERA + r"weight$", _keep_power),
    (_CAMERA + r"bias$", _zeros),
    (r"coupling\..*weight$", _xavier),
    (r"coupling\..*bias$", _zeros),
    (_VIDEO + r".*weight$", _xavier),
    (_VIDEO + r".*bias$", _zeros),
    (r"^video\.patch_embedding\.weight$", _xavier),
    (r"^video\.(text_embedding|time)\..*weight$", _normal(_EMBEDDING_STD)),
    (r"^video\.(patch_embedding|text_embedding|time)\..*bias$", _zeros),
]


def _fan_in(weight: Tensor) -> int:
    return math.prod(weight.shape[1:])


def _seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
