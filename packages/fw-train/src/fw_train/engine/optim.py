"""AdamW, its learning rate, and the running average of weights, with every state a named tensor.

AdamW is spelled out here rather than taken from torch.optim, which imports the whole compiler (several seconds of every
start); a test holds the two equal. Of parameters that are sharded over ranks, each rank updates the piece it holds.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fw_model.wan.camera_adapter import CameraAdapter
from fw_train.config.schema import OptimConfig
from fw_train.engine.distributed import fill, piece

Parameters = Mapping[str, nn.Parameter]
EPSILON = 1e-8


class AdamW:
    """Loshchilov and Hutter 2019, algorithm 2; only `*.weight` of two or more axes (matrices, kernels) decays.

    A parameter without a gradient is left alone, its moments and its count of steps too.

    Args:
        parameters: trained parameters by name.
        config: moment decays and weight decay.
        shares: parameter name -> its learning rate as a share of the common one; 1 for all others.
    """

    def __init__(self, parameters: Parameters, config: OptimConfig, shares: Mapping[str, float] | None = None) -> None:
        self.parameters, self.config, self.shares = parameters, config, shares or {}
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.steps = dict.fromkeys(parameters, 0)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at learning rate `rate`."""
        beta1, beta2 = self.config.betas
        names = [name for name, p in self.parameters.items() if p.grad is not None]
        for name in names:
            self.steps[name] += 1
        rates = [rate * self.shares.get(name, 1.0) for name in names]
        weights = [piece(self.parameters[name]) for name in names]
        gradients = [piece(g) for name in names if (g := self.parameters[name].grad) is not None]
        first, second = [piece(self.first[name]) for name in names], [piece(self.second[name]) for name in names]
        torch._foreach_mul_(weights, [1 - r * self.decay(name) for r, name in zip(rates, names, strict=True)])
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        spread = torch._foreach_sqrt(second)
        torch._foreach_div_(spread, [math.sqrt(1 - beta2 ** self.steps[name]) for name in names])
        torch._foreach_add_(spread, EPSILON)
        updates = [-r / (1 - beta1 ** self.steps[name]) for r, name in zip(rates, names, strict=True)]
        torch._foreach_addcdiv_(weights, first, spread, updates)

    def decay(self, name: str) -> float:
        """Weight decay of a parameter."""
        matrix = self.parameters[name].ndim >= 2 and name.endswith("weight")
        return self.config.weight_decay if matrix else 0.0

    def tensors(self) -> dict[str, Tensor]:
        """The state by name: whole tensors, or sharded ones where the parameters are."""
        state = {f"{name}/first": value for name, value in self.first.items()}
        state |= {f"{name}/second": value for name, value in self.second.items()}
        return state | {f"{name}/steps": torch.tensor(count) for name, count in self.steps.items()}

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name in self.parameters:
            fill(self.first[name], saved[f"{name}/first"])
            fill(self.second[name], saved[f"{name}/second"])
            self.steps[name] = int(saved[f"{name}/steps"])


def rate_shares(module: nn.Module, config: OptimConfig) -> dict[str, float]:
    """Parameters of the camera adapters -> `optim.camera_adapter_lr`; empty if it is 1."""
    if config.camera_adapter_lr == 1.0:
        return {}
    adapters = [name for name, part in module.named_modules() if isinstance(part, CameraAdapter)]
    inside = tuple(f"{name}." for name in adapters)
    return {name: config.camera_adapter_lr for name, _ in module.named_parameters() if name.startswith(inside)}


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """Rate of the step that follows `step` finished ones: linear warm-up, then constant or a cosine to a tenth."""
    warm = min(1.0, (step + 1) / (config.warmup + 1))
    if config.schedule == "constant" or step < config.warmup:
        return config.lr * warm
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    return config.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress))))


class Average:
    """Exponential running average: `average <- d * average + (1 - d) * weights` after every step.

    d is `decay`, but after step n at most n / (n + 9), so that the weights a run began with are soon forgotten, also in
    a run not much longer than the average: with d = 0.998 from the start 45 % of them were left after 400 steps.
    """

    def __init__(self, parameters: Parameters, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Parameters, step: int) -> None:
        """Take in the weights after step `step`, counted from 1."""
        decay = min(self.decay, step / (step + 9))
        current = [piece(parameters[name]) for name in self.weights]
        torch._foreach_lerp_([piece(average) for average in self.weights.values()], current, 1 - decay)

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Put back an average from a checkpoint."""
        for name, average in self.weights.items():
            fill(average, saved[name])
